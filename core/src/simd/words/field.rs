//! Arithmetic in F_p on many elements at once: what polynomial channels compute during inference.
//!
//! The definitions are those of [`crate::field`]; here no product has more than 64 bits and no reduction takes the upper half
//! of one, so that vectors of 64-bit lanes, which multiply 32-bit numbers, do it all. Factors are split into halves of
//! 18 bits, and products reduced by 2^36 = 2^20 - 1 (mod p). Constant time: no branch depends on a value.
//!
//! All slices of a call have one length. Elements are below p.

use super::super::multiversion;
use crate::field::{P, P_BITS};

const _: () = assert!(P == (1 << 36) - (1 << 20) + 1);

/// Bits of a factor's lower half.
const HALF_BITS: u32 = P_BITS / 2;
/// Where an encoding is cut in two words.
const WORD_BITS: u32 = 32;
/// floor(p / 4) + 1: the first value that is not below p/4.
const QUARTER: u64 = P / 4 + 1;
/// floor(p / 2) + 1: the first value that is not below p/2.
const HALF: u64 = P / 2 + 1;

/// The low `bits` bits of x.
#[inline(always)]
fn low(x: u64, bits: u32) -> u64 {
    x & ((1 << bits) - 1)
}

/// x mod p for x < 2p.
#[inline(always)]
fn reduce_once(x: u64) -> u64 {
    debug_assert!(x < 2 * P);
    let d = x.wrapping_sub(P);
    d.wrapping_add(P & (d >> 63).wrapping_neg())
}

/// A number below 2^36 + x / 2^16 that is x modulo p.
#[inline(always)]
fn fold(x: u64) -> u64 {
    let high = x >> P_BITS;
    (high << 20) - high + low(x, P_BITS)
}

/// a + b mod p.
#[inline(always)]
fn add(a: u64, b: u64) -> u64 {
    reduce_once(a + b)
}

/// a - b mod p.
#[inline(always)]
fn sub(a: u64, b: u64) -> u64 {
    reduce_once(a + P - b)
}

/// a · b + c mod p, for c < 2^37.
#[inline(always)]
fn mul_add(a: u64, b: u64, c: u64) -> u64 {
    debug_assert!(a < P && b < P && c < 1 << 37);
    let [a_0, b_0] = [a, b].map(|x| low(x, HALF_BITS));
    // Both below 2^18; the mask tells the compiler that 32 bits hold them.
    let [a_1, b_1] = [a, b].map(|x| low(x >> HALF_BITS, WORD_BITS));
    // Each product is below 2^36.
    let middle = a_0 * b_1 + a_1 * b_0;
    let high = a_1 * b_1 + (middle >> HALF_BITS);
    // Below 3 · 2^36 + 2^37, and high · 2^36 = high · 2^20 - high: the sum stays below 2^57.
    let rest = (low(middle, HALF_BITS) << HALF_BITS) + a_0 * b_0 + c;
    // Folded once below 2^42, twice below 2^36 + 2^26 < 2p.
    reduce_once(fold(fold((high << 20) - high + rest)))
}

/// An element from the wire. A value of [p, 2^36) is no honest party's; it is taken modulo p, which keeps the arithmetic in
/// range and costs only the sender's own correctness.
#[inline(always)]
fn decoded(low: u32, high: u32) -> u64 {
    reduce_once(u64::from(low) | u64::from(high) << WORD_BITS)
}

/// The words of an encoding.
#[inline(always)]
fn words(encoding: u64) -> (u32, u32) {
    (encoding as u32, (encoding >> WORD_BITS) as u32)
}

/// 1 if x < bound, else 0; both below 2^63.
#[inline(always)]
fn below(x: u64, bound: u64) -> u64 {
    x.wrapping_sub(bound) >> 63
}

/// The element of a signed integer above -p and below p, which comes modulo 2^64.
#[inline(always)]
fn from_near(x: u64) -> u64 {
    x.wrapping_add(P & ((x as i64) >> 63) as u64)
}

multiversion! {
    /// Exchanges elements where the lowest bit of `flips` is set.
    pub(crate) fn exchange(flips: &[u32], first: &mut [u64], second: &mut [u64]) {
        for ((first, second), &flip) in first.iter_mut().zip(second).zip(flips) {
            let differ = u64::from(flip & 1).wrapping_neg() & (*first ^ *second);
            (*first, *second) = (*first ^ differ, *second ^ differ);
        }
    }

    /// The client's message of a truncation into F_p for one choice: its share C plus [top(m) and choice] · 2^(32-f) - (m >> f),
    /// encoded, XOR the pad.
    pub(crate) fn truncated(
        masks: &[u32], shares: &[u64], pads: &[u64], shift_and_choice: (u32, u32), low: &mut [u32], high: &mut [u32],
    ) {
            let (shift, choice) = shift_and_choice;
        let elements = masks.iter().zip(shares).zip(pads);
        for ((low, high), ((&mask, &share), &pad)) in low.iter_mut().zip(high).zip(elements) {
            let wrap = u64::from((mask >> 31) & choice) << (32 - shift);
            let part = wrap.wrapping_sub(u64::from(mask >> shift));
            (*low, *high) = words(add(from_near(part), share) ^ pad);
        }
    }

    /// The server's shares from the chosen messages: what they hold plus (Y' >> f) - 2^(b-1-f), with Y' = masked + 2^(b-1).
    pub(crate) fn received(
        masked: &[u32], pads: &[u64], bits_and_shift: (u32, u32), low: &[u32], high: &[u32], shares: &mut [u64],
    ) {
            let (bound_bits, shift) = bits_and_shift;
        let elements = masked.iter().zip(pads).zip(low.iter().zip(high));
        for (share, ((&masked, &pad), (&low, &high))) in shares.iter_mut().zip(elements) {
            let offset = masked.wrapping_add(1 << (bound_bits - 1));
            let part = u64::from(offset >> shift).wrapping_sub(1 << (bound_bits - 1 - shift));
            let (pad_low, pad_high) = words(pad);
            *share = add(decoded(low ^ pad_low, high ^ pad_high), from_near(part));
        }
    }

    /// Takes the second of two encodings where the word masked + 2^(b-1) is below 2^31: the server's choice in a truncation.
    pub(crate) fn choose(masked: &[u32], bound_bits: u32, first: &mut [u32], second: &[u32]) {
        for ((first, &second), &masked) in first.iter_mut().zip(second).zip(masked) {
            let top = (masked.wrapping_add(1 << (bound_bits - 1)) as i32 >> 31) as u32;
            *first ^= !top & (*first ^ second);
        }
    }

    /// The server's part of a square, (S + C)² = S² - 2S · C + C²: encodings of -2S - u, and S² + w in place of S.
    pub(crate) fn square(shares: &mut [u64], u: &[u64], w: &[u64], low: &mut [u32], high: &mut [u32]) {
        let elements = shares.iter_mut().zip(u.iter().zip(w));
        for ((low, high), (share, (&u, &w))) in low.iter_mut().zip(high).zip(elements) {
            (*low, *high) = words(sub(0, add(reduce_once(2 * *share), u)));
            *share = mul_add(*share, *share, w);
        }
    }

    /// The multipliers of C in the cubic (S + C)³ + λ(S + C): encodings of -(3S² + λ) - u.
    pub(crate) fn cubic_linear(shares: &[u64], lambdas: &[u64], u: &[u64], low: &mut [u32], high: &mut [u32]) {
        let elements = shares.iter().zip(lambdas).zip(u);
        for ((low, high), ((&share, &lambda), &u)) in low.iter_mut().zip(high).zip(elements) {
            let sum = mul_add(reduce_once(2 * share), share, mul_add(share, share, lambda));
            (*low, *high) = words(sub(0, add(sum, u)));
        }
    }

    /// The multipliers of C² in the cubic (S + C)³ + λ(S + C): encodings of 3S - u.
    pub(crate) fn cubic_quadratic(shares: &[u64], u: &[u64], low: &mut [u32], high: &mut [u32]) {
        for ((low, high), (&share, &u)) in low.iter_mut().zip(high).zip(shares.iter().zip(u)) {
            (*low, *high) = words(sub(add(reduce_once(2 * share), share), u));
        }
    }

    /// The server's share of a cubic: S³ + λS + w + w' in place of S.
    pub(crate) fn cubic(shares: &mut [u64], lambdas: &[u64], w: &[u64], w_2: &[u64]) {
        for ((share, &lambda), (&w, &w_2)) in shares.iter_mut().zip(lambdas).zip(w.iter().zip(w_2)) {
            *share = mul_add(*share, mul_add(*share, *share, lambda), w + w_2);
        }
    }

    /// The client's share of a square: (d + C) · C + w, plus a constant, with d encoded.
    pub(crate) fn client_square(
        low: &[u32], high: &[u32], shares: &[u64], w: &[u64], constant: u64, z: &mut [u64],
    ) {
        let elements = low.iter().zip(high).zip(shares.iter().zip(w));
        for (z, ((&low, &high), (&c, &w))) in z.iter_mut().zip(elements) {
            *z = mul_add(add(decoded(low, high), c), c, w + constant);
        }
    }

    /// The part of the client's share of a cubic that is linear in C: d · C + w, plus a constant, with d encoded.
    pub(crate) fn client_linear(
        low: &[u32], high: &[u32], shares: &[u64], w: &[u64], constant: u64, z: &mut [u64],
    ) {
        let elements = low.iter().zip(high).zip(shares.iter().zip(w));
        for (z, ((&low, &high), (&c, &w))) in z.iter_mut().zip(elements) {
            *z = mul_add(decoded(low, high), c, w + constant);
        }
    }

    /// Adds the rest of the client's share of a cubic: (d - C) · C² + w, with d encoded.
    pub(crate) fn add_client_cubic(low: &[u32], high: &[u32], shares: &[u64], w: &[u64], z: &mut [u64]) {
        let elements = low.iter().zip(high).zip(shares.iter().zip(w));
        for (z, ((&low, &high), (&c, &w))) in z.iter_mut().zip(elements) {
            *z = mul_add(sub(decoded(low, high), c), mul_add(c, c, 0), *z + w);
        }
    }

    /// The client's messages of the way back for one of the server's choices: (z >> g), less p >> g where the shares' sum
    /// wraps, negated if bit 1 of the choice is set, plus the output's mask, XOR the pad.
    ///
    /// It wraps exactly unless zS < p/4 (the choice's bit 0) and zC < p/2.
    pub(crate) fn back_messages(z: &[u64], outputs: &[u32], pads: &[u32], shift_and_choice: (u32, u32), messages: &mut [u32]) {
            let (g, choice) = shift_and_choice;
        let sign = (choice >> 1 & 1).wrapping_neg();
        for (message, ((&z, &output), &pad)) in messages.iter_mut().zip(z.iter().zip(outputs).zip(pads)) {
            let wraps = (1 ^ (u64::from(choice & 1) & below(z, HALF))).wrapping_neg();
            let back = (z >> g).wrapping_sub(wraps & (P >> g)) as u32;
            *message = (back ^ sign).wrapping_sub(sign).wrapping_add(output) ^ pad;
        }
    }

    /// The server's choices on the way back: [zS < p/4], and above it the sign.
    pub(crate) fn back_choices(shares: &[u64], signs: &[u32], choices: &mut [u32]) {
        for (choice, (&share, &sign)) in choices.iter_mut().zip(shares.iter().zip(signs)) {
            *choice = below(share, QUARTER) as u32 | sign << 1;
        }
    }

    /// XORs the messages of an entry into the results whose choice it is; choices and entries are below 2^31.
    pub(crate) fn take_entry(choices: &[u32], entry: u32, messages: &[u32], results: &mut [u32]) {
        for (result, (&choice, &message)) in results.iter_mut().zip(choices.iter().zip(messages)) {
            *result ^= message & ((choice ^ entry).wrapping_sub(1) as i32 >> 31) as u32;
        }
    }

    /// Adds the server's part of the way back, (zS >> g) - offset, negated where the sign is 1, to the client's.
    pub(crate) fn add_back(shares: &[u64], signs: &[u32], shift_and_offset: (u32, u32), words: &mut [u32]) {
            let (g, offset) = shift_and_offset;
        for (word, (&share, &sign)) in words.iter_mut().zip(shares.iter().zip(signs)) {
            let (own, sign) = (((share >> g) as u32).wrapping_sub(offset), sign.wrapping_neg());
            *word = word.wrapping_add((own ^ sign).wrapping_sub(sign));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::at_each_level;
    use super::*;
    use crate::field;
    use crate::prg::{Prg, Seed};
    use alloc::{vec, vec::Vec};

    /// Elements of each call: several vectors and a part of one.
    const COUNT: usize = 203;

    /// Elements of F_p, the extremes among them, in another order for each seed.
    fn elements(seed: u8) -> Vec<u64> {
        let mut prg = Prg::new(&Seed::from_bytes([seed; 32]));
        let edges = [0, 1, P - 1, P - 2, HALF, HALF - 1, QUARTER, QUARTER - 1, 1 << 18, (1 << 18) - 1, (1 << 35) - 1];
        (0..COUNT)
            .map(|_| if prg.below(2) == 0 { edges[prg.below(edges.len() as u64) as usize] } else { prg.below(P) })
            .collect()
    }

    /// Words, the extremes among them.
    fn random_words(seed: u8) -> Vec<u32> {
        let mut prg = Prg::new(&Seed::from_bytes([seed; 32]));
        let edges = [0, 1, u32::MAX, 1 << 31, (1 << 31) - 1];
        (0..COUNT)
            .map(|_| if prg.below(2) == 0 { edges[prg.below(edges.len() as u64) as usize] } else { prg.next_u32() })
            .collect()
    }

    fn pads(seed: u8) -> Vec<u64> {
        elements(seed).into_iter().map(|x| x.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - P_BITS)).collect()
    }

    /// Encodings as they may come from the wire: some are not below p.
    fn encodings(seed: u8) -> [Vec<u32>; 2] {
        let all = elements(seed).into_iter().enumerate();
        let all = all.map(|(i, x)| words(if i % 5 == 0 { (1 << P_BITS) - 1 - x % ((1 << P_BITS) - P) } else { x }));
        let (low, high) = all.unzip();
        [low, high]
    }

    fn decode(low: u32, high: u32) -> u64 {
        (u64::from(low) | u64::from(high) << 32) % P
    }

    #[test]
    fn products_agree_with_wide_integers() {
        for seed in 0..200 {
            for ((a, b), c) in elements(seed).into_iter().zip(elements(seed ^ 91)).zip(elements(seed ^ 29)) {
                assert_eq!(mul_add(a, b, 2 * c), field::add(field::mul(a, b), field::add(c, c)), "{a} · {b} + 2 · {c}");
            }
        }
        let wide = |a: u64, b: u64, c: u64| ((u128::from(a) * u128::from(b) + u128::from(c)) % u128::from(P)) as u64;
        for (a, b) in [(P - 1, P - 1), (P - 1, 1), ((1 << 18) - 1, P - 1), (P - (1 << 18), P - (1 << 18))] {
            assert_eq!(mul_add(a, b, (1 << 37) - 1), wide(a, b, (1 << 37) - 1));
        }
    }

    #[test]
    fn truncations_agree_with_their_definition() {
        for (bound_bits, shift) in [(30, 29), (30, 0), (20, 6), (2, 0), (9, 7)] {
            let (masked, pads, shares) = (random_words(1), pads(2), elements(3));
            let ([low, high], [low_2, high_2]) = (encodings(4), encodings(5));
            at_each_level(|level| {
                for choice in 0..2 {
                    let (mut low, mut high) = (vec![9; COUNT], vec![9; COUNT]);
                    truncated(&masked, &shares, &pads, (shift, choice), &mut low, &mut high);
                    for i in 0..COUNT {
                        let wrap = i64::from((masked[i] >> 31) & choice) << (32 - shift);
                        let part = field::from_near(wrap - i64::from(masked[i] >> shift));
                        assert_eq!(words(field::add(part, shares[i]) ^ pads[i]), (low[i], high[i]), "{level:?}");
                    }
                }
                let (mut chosen_low, mut chosen_high, mut out) = (low.clone(), high.clone(), vec![9; COUNT]);
                choose(&masked, bound_bits, &mut chosen_low, &low_2);
                choose(&masked, bound_bits, &mut chosen_high, &high_2);
                received(&masked, &pads, (bound_bits, shift), &chosen_low, &chosen_high, &mut out);
                for i in 0..COUNT {
                    let offset = masked[i].wrapping_add(1 << (bound_bits - 1));
                    let (low, high) = if offset >> 31 == 0 { (low_2[i], high_2[i]) } else { (low[i], high[i]) };
                    let chosen = (u64::from(low) | u64::from(high) << 32) ^ pads[i];
                    let part = i64::from(offset >> shift) - (1 << (bound_bits - 1 - shift));
                    assert_eq!(out[i], field::add(chosen % P, field::from_near(part)), "{level:?}");
                }
            });
        }
    }

    #[test]
    fn polynomials_agree_with_their_definition() {
        use field::{add, mul, sub};
        for seed in 0..20 {
            let [s, lambda, u, w, w_2] = [1, 2, 3, 4, 5].map(|n| elements(n + 6 * seed));
            let ([low, high], constant) = (encodings(6 * seed), (1 << 33) + (1 << 20) - 1);
            at_each_level(|level| {
                let (mut sent_low, mut sent_high) = (vec![9; COUNT], vec![9; COUNT]);
                let check = |low: &[u32], high: &[u32], expected: &dyn Fn(usize) -> u64| {
                    (0..COUNT).for_each(|i| assert_eq!((low[i], high[i]), words(expected(i)), "{level:?}"));
                };
                let mut own = s.clone();
                square(&mut own, &u, &w, &mut sent_low, &mut sent_high);
                check(&sent_low, &sent_high, &|i| sub(sub(0, add(s[i], s[i])), u[i]));
                (0..COUNT).for_each(|i| assert_eq!(own[i], add(mul(s[i], s[i]), w[i]), "{level:?}"));
                let triple = |x| add(add(x, x), x);
                cubic_linear(&s, &lambda, &u, &mut sent_low, &mut sent_high);
                check(&sent_low, &sent_high, &|i| sub(sub(0, add(triple(mul(s[i], s[i])), lambda[i])), u[i]));
                cubic_quadratic(&s, &u, &mut sent_low, &mut sent_high);
                check(&sent_low, &sent_high, &|i| sub(triple(s[i]), u[i]));
                let mut own = s.clone();
                cubic(&mut own, &lambda, &w, &w_2);
                for i in 0..COUNT {
                    let value = mul(s[i], add(mul(s[i], s[i]), lambda[i]));
                    assert_eq!(own[i], add(value, add(w[i], w_2[i])), "{level:?}");
                }
                let mut z = vec![9; COUNT];
                client_square(&low, &high, &s, &w, constant, &mut z);
                for i in 0..COUNT {
                    let value = mul(add(decode(low[i], high[i]), s[i]), s[i]);
                    assert_eq!(z[i], add(value, add(w[i], constant)), "{level:?}");
                }
                client_linear(&low, &high, &s, &w, constant, &mut z);
                add_client_cubic(&high.iter().map(|x| x << 28).collect::<Vec<_>>(), &high, &s, &w_2, &mut z);
                for i in 0..COUNT {
                    let linear = add(mul(decode(low[i], high[i]), s[i]), add(w[i], constant));
                    let factor = sub(decode(high[i] << 28, high[i]), s[i]);
                    assert_eq!(z[i], add(linear, add(mul(factor, mul(s[i], s[i])), w_2[i])), "{level:?}");
                }
            });
        }
    }

    #[test]
    fn ways_back_agree_with_their_definition() {
        for (seed, g) in [(1, 0), (2, 1), (3, 10), (4, 20)] {
            let (z, outputs, pads) = (elements(seed), random_words(seed), random_words(seed + 10));
            let signs: Vec<u32> = pads.iter().map(|pad| pad >> 7 & 1).collect();
            at_each_level(|level| {
                let (mut message, mut choices) = (vec![9; COUNT], vec![9; COUNT]);
                for choice in 0..4 {
                    back_messages(&z, &outputs, &pads, (g, choice), &mut message);
                    for i in 0..COUNT {
                        let wraps = choice & 1 == 0 || z[i] > P / 2;
                        let back = (z[i] >> g) as i64 - if wraps { (P >> g) as i64 } else { 0 };
                        let signed = if choice >> 1 == 1 { -back } else { back };
                        assert_eq!(message[i], (signed as u32).wrapping_add(outputs[i]) ^ pads[i], "{level:?}");
                    }
                }
                back_choices(&z, &signs, &mut choices);
                let chosen = |i: usize| u32::from(z[i] <= P / 4) | signs[i] << 1;
                assert!((0..COUNT).all(|i| choices[i] == chosen(i)), "{level:?}");
                let mut results = outputs.clone();
                (0..4).for_each(|entry| take_entry(&choices, entry, &vec![entry + 5; COUNT], &mut results));
                assert!((0..COUNT).all(|i| results[i] == outputs[i] ^ (chosen(i) + 5)), "{level:?}");
                let mut results = outputs.clone();
                add_back(&z, &signs, (g, 12_345), &mut results);
                for i in 0..COUNT {
                    let own = (z[i] >> g) as i64 - 12_345;
                    let signed = if signs[i] == 1 { -own } else { own };
                    assert_eq!(results[i], outputs[i].wrapping_add(signed as u32), "{level:?}");
                }
                let (mut first, mut second) = (z.clone(), vec![7; COUNT]);
                exchange(&pads, &mut first, &mut second);
                for i in 0..COUNT {
                    assert_eq!(
                        [first[i], second[i]],
                        if pads[i] & 1 == 1 { [7, z[i]] } else { [z[i], 7] },
                        "{level:?}"
                    );
                }
            });
        }
    }
}
