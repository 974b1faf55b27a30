//! From modulus q to a power of two q', and decryption there.

use super::keys::SecretKey;
use super::modulus::{Factor, Modulus};
use super::params::RingParams;
use super::poly::{Coefficients, Poly};
use crate::error::Result;
use crate::prg::{SecretVec, Wiped};
use crate::simd::residues::{fractions, pointwise};
use crate::wire::bits::{BitReader, BitWriter, packed_bytes};
use alloc::vec::Vec;
use core::ops::Range;
use zeroize::Zeroizing;

/// Bytes of a ciphertext modulo 2^bits with `sent` coefficients of c0.
pub(super) fn switched_bytes(params: &RingParams, bits: u32, sent: usize) -> usize {
    // A multiple of eight coefficients: the first half ends with a byte.
    packed_bytes(params.degree, bits) + packed_bytes(sent, bits - params.dropped_bits)
}

/// round(x·q'/q) mod q' for every coefficient x of a range and q' = 2^bits, at most 2^47.
///
/// x/q modulo 1 is the sum over the primes of y_i/q_i with y_i = x_i·(q/q_i)^-1 mod q_i, here in units of 2^-64. With R_i =
/// floor(2^96/q_i) = high·2^32 + low, y_i·2^64/q_i is taken as y_i·high + floor(y_i·low/2^32): too small by less than y_i/2^32
/// for R_i's rounding (at most 1/2, as y_i < 2^31) plus 1 for the last floor. Over at most four primes the fraction is too
/// small by less than 6·2^-64, so the result is within 1/2 + 6·q'/2^64 < 1/2 + 2^-14 of x·q'/q.
pub(super) fn round_to_switched(x: &Poly<Coefficients>, bits: u32, range: &Range<usize>) -> Wiped<u64> {
    let params = x.params;
    let mut fractions = Wiped::zeros(range.len());
    for ((prime, part), crt) in x.parts().zip(params.crt) {
        let (high, low) = crt.fraction;
        // The sum wraps at 1, as it should.
        fractions::add(prime.modulus, &mut fractions, &part[range.clone()], crt.cofactor, high, low);
    }
    let drop = 64 - bits;
    for fraction in fractions.iter_mut() {
        *fraction = fraction.wrapping_add(1 << (drop - 1)) >> drop;
    }
    fractions
}

/// A ciphertext (c0, c1) switched to q' = 2^bits; of c0 the coefficients among which are those that will be sent.
pub(super) struct Rounded {
    bits: u32,
    /// Without the ring's dropped bits, from number `first` on.
    c0: Wiped<u64>,
    first: usize,
    c1: Wiped<u64>,
    dropped_bits: u32,
}

impl Rounded {
    pub(super) fn new(c0: &Poly<Coefficients>, c1: &Poly<Coefficients>, bits: u32, sent: &Range<usize>) -> Self {
        let dropped_bits = c1.params.dropped_bits;
        Self {
            bits,
            c0: round_to_switched(c0, bits - dropped_bits, sent),
            first: sent.start,
            c1: round_to_switched(c1, bits, &(0..c1.params.degree)),
            dropped_bits,
        }
    }

    /// Writes all of c1, and c0 at the positions asked for.
    pub(super) fn write(&self, sent: impl Iterator<Item = usize>) -> Vec<u8> {
        let width = self.bits - self.dropped_bits;
        let mut chosen = Zeroizing::new(Vec::with_capacity(self.c0.len()));
        // Where iterators are nested, they are faster from inside: `for_each`, not `collect`.
        sent.for_each(|position| chosen.push(self.c0[position - self.first]));
        let bytes = packed_bytes(self.c1.len(), self.bits) + packed_bytes(chosen.len(), width);
        let mut out = BitWriter::with_capacity(bytes);
        out.put_all(&self.c1, self.bits);
        out.put_all(&chosen, width);
        out.finish()
    }
}

/// Writes (c0, c1) switched to q' = 2^bits, of c0 the coefficients asked for, all within `range`.
pub(super) fn write(
    c0: &Poly<Coefficients>,
    c1: &Poly<Coefficients>,
    bits: u32,
    range: &Range<usize>,
    sent: impl Iterator<Item = usize>,
) -> Vec<u8> {
    Rounded::new(c0, c1, bits, range).write(sent)
}

/// Coefficients of a piece in which a ciphertext is taken; all of a half, where memory is not scarce.
pub(super) const PIECE: usize = if cfg!(feature = "small") { 512 } else { usize::MAX >> 1 };

/// Bytes of the pieces in which [`Opening`] takes a ciphertext modulo 2^bits with `sent` coefficients of c0. Multiples of eight
/// coefficients but for the last: whole bytes.
pub(super) fn pieces(params: &RingParams, bits: u32, sent: usize) -> impl Iterator<Item = usize> + Clone + use<> {
    let halves = [(params.degree, bits), (sent, bits - params.dropped_bits)];
    let runs = |(count, width): (usize, u32)| {
        (0..count).step_by(PIECE).map(move |start| packed_bytes((count - start).min(PIECE), width))
    };
    halves.into_iter().flat_map(runs)
}

/// A ciphertext modulo q' as it is sent, being decrypted: all N coefficients of c1 come first, then those of c0 at the positions asked
/// for, those without the ring's dropped bits.
///
/// c1, centred, is at most q'/2 and s ternary, so |c1·s| <= N·q'/2: 2^52 in the ring of linear layers and 2^59 in that
/// of the slots, which the first two primes, with product above 2^61.9, represent.
pub(super) struct Opening<'a> {
    key: &'a SecretKey,
    bits: u32,
    /// The residues of c1, later c1·s, modulo the first prime and then modulo the second; or both side by side, or the values that
    /// they stand for: see [`Self::lift_all`].
    words: Wiped<u64>,
    /// Coefficients of c1 that have come.
    taken: usize,
    pair: CrtPair,
}

impl<'a> Opening<'a> {
    pub(super) fn new(key: &'a SecretKey, bits: u32) -> Self {
        let pair = CrtPair::new(key.params().primes[0].modulus, key.params().primes[1].modulus);
        Self { key, bits, words: Wiped::zeros(key.params().degree), taken: 0, pair }
    }

    fn residues(&mut self) -> [&mut [u32]; 2] {
        let n = self.words.len();
        let (first, second) = bytemuck::cast_slice_mut::<u64, u32>(&mut self.words).split_at_mut(n);
        [first, second]
    }

    /// Takes the next of [`pieces`]: of c1 nothing comes back, of c0 its coefficients. `count` says how many these are.
    ///
    /// # Errors
    /// [`crate::ErrorKind::MalformedMessage`] if the piece has another length, or filling bits are not zero.
    pub(super) fn absorb(&mut self, piece: &[u8], count: usize) -> Result<Option<Wiped<u64>>> {
        let params = self.key.params();
        let (width, start) = (self.bits, self.taken);
        let mut reader = BitReader::new(piece);
        if start == params.degree {
            let mut c0 = Wiped::zeros(count);
            reader.take_all(width - params.dropped_bits, &mut c0, |x| x << params.dropped_bits);
            reader.finish()?;
            return Ok(Some(c0));
        }
        let run = start..params.degree.min(start + PIECE);
        let mut wide = Wiped::zeros(run.len());
        reader.take_all(width, &mut wide, |x| ((x << (64 - width)) as i64) >> (64 - width));
        reader.finish()?;
        for (residues, prime) in self.residues().into_iter().zip(params.primes) {
            pointwise::residues_wide(prime.modulus, &mut residues[run.clone()], &wide);
        }
        self.taken = run.end;
        if self.taken == params.degree {
            self.multiply();
        }
        Ok(None)
    }

    /// c1·s.
    fn multiply(&mut self) {
        let key = self.key;
        for (product, (prime, s)) in self.residues().into_iter().zip(key.parts()) {
            prime.forward(product);
            #[allow(clippy::needless_borrow, reason = "in little memory it is no reference")]
            pointwise::multiply(prime.modulus, product, &s);
            prime.inverse(product);
        }
    }

    /// c0 + c1·s modulo q' of coefficients of c0, at these positions.
    pub(super) fn values(&mut self, c0: &[u64], positions: impl Iterator<Item = usize>) -> SecretVec<u64> {
        let keep = u64::MAX >> (64 - self.bits);
        let (mut out, mut own) = (Zeroizing::new(Vec::with_capacity(c0.len())), c0.iter());
        let n = self.words.len();
        let (low, high) = bytemuck::cast_slice::<u64, u32>(&self.words).split_at(n);
        // Where iterators are nested, they are faster from inside: `for_each`, not `collect`.
        positions.for_each(|i| {
            out.extend(own.next().map(|c0| c0.wrapping_add(self.pair.lift(low[i], high[i]) as u64) & keep));
        });
        out
    }

    /// Makes all coefficients of c1·s words, in the same memory.
    pub(super) fn lift_all(&mut self) {
        interleave(bytemuck::cast_slice_mut(&mut self.words));
        for word in self.words.iter_mut() {
            let [low, high] = bytemuck::cast::<u64, [u32; 2]>(*word);
            *word = self.pair.lift(low, high) as u64;
        }
    }

    /// What [`Self::lift_all`] made.
    pub(super) fn lifted(&mut self) -> &mut [u64] {
        &mut self.words
    }
}

/// Brings the i-th word of the second half of so many, a power of two, behind the i-th of the first, for all i, in place.
fn interleave(words: &mut [u32]) {
    let half = words.len() / 2;
    if half < 2 {
        return;
    }
    // The second and the third quarter change places: then it is done for either half.
    let (first, second) = words.split_at_mut(half);
    first[half / 2..].swap_with_slice(&mut second[..half / 2]);
    interleave(first);
    interleave(second);
}

/// The Chinese remainder map from two primes to centred integers.
struct CrtPair {
    first: Modulus,
    second: Modulus,
    /// first^-1 modulo second.
    inverse: Factor,
}

impl CrtPair {
    fn new(first: Modulus, second: Modulus) -> Self {
        let inverse = second.factor(second.invert_vartime(first.value() % second.value()));
        Self { first, second, inverse }
    }

    /// The x of least magnitude that is `a` modulo the first prime and `b` modulo the second.
    #[inline]
    fn lift(&self, a: u32, b: u32) -> i64 {
        let (p, q) = (u64::from(self.first.value()), u64::from(self.second.value()));
        // a is below the first prime, which is below twice the second.
        let digit = self.second.mul(self.second.sub(b, self.second.reduce_once(a)), self.inverse);
        let x = (u64::from(a) + p * u64::from(digit)) as i64;
        // x is in [0, p·q), below 2^62; the mask is all ones where x exceeds half of it.
        let above = ((p * q / 2) as i64 - x) >> 63;
        x - ((p * q) as i64 & above)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rlwe::params::{LINEAR, SLOTS};
    use proptest::prelude::*;

    fn from_integer(params: &'static RingParams, x: u128) -> Poly<Coefficients> {
        let mut poly = Poly::zero(params);
        poly.add_at(0, |_, q| (x % u128::from(q.value())) as u32);
        poly
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn switching_rounds_as_stated(x: u128, ring in 0usize..2, less in 0u32..20) {
            let params = [&LINEAR, &SLOTS][ring];
            let q = params.primes.iter().map(|p| u128::from(p.value())).product::<u128>();
            let x = x % q;
            let bits = params.switched_bits - less;
            let y = u128::from(round_to_switched(&from_integer(params, x), bits, &(0..8))[0]);
            // |y - x·q'/q| <= 1/2 + 2^-14 modulo q', times q/2^20 to stay within 128 bits: x·q' in two steps.
            let (mut quotient, mut rest) = (0u128, x);
            for _ in 0..bits {
                rest *= 2;
                quotient = 2 * quotient + u128::from(rest >= q);
                rest -= q * u128::from(rest >= q);
            }
            // x·q' = quotient·q + rest.
            let up = (quotient + 1) % (1 << bits);
            let slack = q >> 14;
            prop_assert!((y == quotient && rest <= q / 2 + slack) || (y == up && rest >= q / 2 - slack));
        }

        #[test]
        fn words_of_both_halves_alternate(log in 0usize..8) {
            let half = 1u32 << log;
            let mut words: Vec<u32> = (0..2 * half).collect();
            interleave(&mut words);
            prop_assert!(words.chunks(2).zip(0..).all(|(pair, i)| pair == [i, half + i]));
        }

        #[test]
        fn lifting_inverts_reduction(x in -(1i64 << 60)..1i64 << 60) {
            let [first, second] = [LINEAR.primes[0].modulus, LINEAR.primes[1].modulus];
            let pair = CrtPair::new(first, second);
            prop_assert_eq!(pair.lift(first.residue_wide(x), second.residue_wide(x)), x);
        }
    }
}
