//! Scale-invariant encoding: a plaintext m modulo t stands in a ciphertext as round(q·m/t).
//!
//! With v the centred representative of q·m modulo t, round(q·m/t) = (q·m - v)/t, and modulo each prime q_i of q
//! that is -v·t^-1: no number longer than 64 bits is needed.

use super::modulus::{Factor, Modulus};
use super::params::{LINEAR, PRIMES, SLOT_PRIME, SLOTS, product_mod};
use super::slots::field;
#[cfg(test)]
use crate::simd::residues::pointwise::encoded_word;

/// q modulo 2^32 in the ring of linear layers.
pub(super) const WORD_SCALE: u32 = product_mod(3, 1 << 32) as u32;

/// q modulo p in the ring of slots.
const FIELD_SCALE: field::Factor = field::factor(product_mod(4, SLOT_PRIME));

/// p^-1 modulo each prime.
static FIELD_INVERSES: [Factor; 4] = [field_inverse(0), field_inverse(1), field_inverse(2), field_inverse(3)];

const fn field_inverse(index: usize) -> Factor {
    let q = Modulus::new(PRIMES[index]);
    q.factor(q.invert_vartime((SLOT_PRIME % PRIMES[index] as u64) as u32))
}

/// An encoded word of Z_2^32: its residue modulo any prime of [`LINEAR`].
#[cfg(test)]
#[derive(Clone, Copy)]
pub(super) struct Word(u32);

#[cfg(test)]
impl Word {
    pub(super) fn new(m: u32) -> Self {
        Self(m)
    }

    pub(super) fn residue(self, _prime: usize, q: Modulus) -> u32 {
        // A Montgomery reduction divides by 2^32 = t.
        encoded_word(q, self.0, WORD_SCALE)
    }
}

/// The word of `bits` bits that `v` modulo q' = 2^(bits + 9) decrypts to: round(2^bits·v/q') mod 2^bits.
#[inline]
pub(super) fn decode_word(v: u64, bits: u32) -> u32 {
    let drop = LINEAR.switched_bits - 32;
    ((v + (1 << (drop - 1))) >> drop) as u32 & (u32::MAX >> (32 - bits))
}

/// An encoded element of F_p: its residue modulo any prime of [`SLOTS`].
#[derive(Clone, Copy)]
pub(super) struct Element(i64);

impl Element {
    /// `m` in [0, p).
    #[inline]
    pub(super) fn new(m: u64) -> Self {
        Self::of_scaled(Self::scaled(m))
    }

    /// q·m mod p, of which the encoding is a function.
    #[inline]
    pub(super) fn scaled(m: u64) -> u64 {
        field::mul(m, FIELD_SCALE)
    }

    /// From [`Self::scaled`].
    #[inline]
    pub(super) fn of_scaled(scaled: u64) -> Self {
        Self(field::centred(scaled))
    }

    #[inline]
    pub(super) fn residue(self, prime: usize, q: Modulus) -> u32 {
        q.mul(q.residue_wide(-self.0), FIELD_INVERSES[prime])
    }
}

/// The element of F_p that `v` modulo q' = 2^47 decrypts to: round(p·v/q') mod p.
#[inline]
pub(super) fn decode_element(v: u64) -> u64 {
    let bits = SLOTS.switched_bits;
    let m = ((u128::from(v) * u128::from(SLOT_PRIME) + (1 << (bits - 1))) >> bits) as u64;
    // m is in [0, p].
    field::reduce_once(m)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prg::{Prg, Seed};
    use alloc::vec::Vec;

    /// round(q·m/t) for m < t <= 2^36 by long division; t·result = q·m - v with |v| <= t/2 whichever way ties go.
    fn check(t: u128, count: usize, m: u128, residue: impl Fn(usize, Modulus) -> u32) {
        let primes = &PRIMES[..count];
        let q: u128 = primes.iter().map(|&p| u128::from(p)).product();
        // q·m/t = (q/t)·m + (q mod t)·m/t.
        let (whole, rest) = ((q / t) * m, (q % t) * m);
        let accepted = [whole + (rest + t / 2) / t, whole + (rest + t.div_ceil(2) - 1) / t];
        let residues: Vec<u128> =
            primes.iter().enumerate().map(|(i, &p)| u128::from(residue(i, Modulus::new(p)))).collect();
        let matches = |x: u128| primes.iter().zip(&residues).all(|(&p, &r)| x % u128::from(p) == r);
        assert!(accepted.into_iter().any(matches), "{m}");
    }

    #[test]
    fn encodings_are_the_rounded_quotients() {
        let mut prg = Prg::new(&Seed::from_bytes([5; 32]));
        let extremes = [0, 1, 2, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, u32::MAX - 1, u32::MAX];
        let random: Vec<u32> = (0..2000).map(|_| prg.next_u32()).collect();
        for m in extremes.into_iter().chain(random) {
            check(1 << 32, 3, u128::from(m), |i, q| Word::new(m).residue(i, q));
        }
        let p = SLOT_PRIME;
        let extremes = [0, 1, 2, p / 2 - 1, p / 2, p / 2 + 1, p - 2, p - 1];
        let random: Vec<u64> = (0..2000).map(|_| prg.below(p)).collect();
        for m in extremes.into_iter().chain(random) {
            check(u128::from(p), 4, u128::from(m), |i, q| Element::new(m).residue(i, q));
        }
    }

    #[test]
    fn decoding_rounds_to_the_nearest_and_wraps() {
        let step = 1u64 << (LINEAR.switched_bits - 32);
        for m in [0u32, 1, 1 << 31, u32::MAX] {
            let centre = u64::from(m) * step;
            assert_eq!(decode_word(centre, 32), m);
            assert_eq!(decode_word(centre + step / 2 - 1, 32), m);
            assert_eq!(decode_word(centre + step / 2, 32), m.wrapping_add(1));
            let narrow = m >> 9;
            assert_eq!(decode_word(u64::from(narrow) * step + step / 2 - 1, 23), narrow);
            assert_eq!(decode_word(u64::from(narrow) * step + step / 2, 23), (narrow + 1) & 0x7f_ffff);
        }
        let scale = |m: u64| (u128::from(m) << SLOTS.switched_bits) / u128::from(SLOT_PRIME);
        for m in [0, 1, SLOT_PRIME / 2, SLOT_PRIME - 2, SLOT_PRIME - 1] {
            for offset in [0, 1, 1020] {
                assert_eq!(decode_element(scale(m) as u64 + offset), m);
            }
        }
        assert_eq!(decode_element((1 << SLOTS.switched_bits) - 1), 0);
    }
}
