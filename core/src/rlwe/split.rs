//! Residues modulo q in two digits: z = e(rho) + delta, where e(r) = round(q·r/2^32) encodes the word r ([`super::encode`]).
//!
//! The encodings cut 0..q into 2^32 intervals [e(r), e(r + 1)), each of floor(q/2^32) or one more integers, so that each z lies
//! in exactly one: rho is the word whose interval it is, delta how far it lies behind the interval's start. For uniform z, rho is
//! uniform whatever delta is (but for the last delta of the longer intervals, one in 2^61).
//!
//! All in 64-bit words: with y_i = z_i·(q/q_i)^-1 mod q_i, z is the sum of y_i·(q/q_i) less a multiple k of q, and z/q that of the
//! y_i/q_i less k. The latter are computed as multiples of 2^-64, too small by less than 6 of them, and so rho is at first right
//! or one too small, and delta below 2^61 + 2^32. That makes its low 64 bits all of it.

use super::params::{LINEAR, PRIMES, product_mod};
use crate::prg::Wiped;
use crate::simd::residues::fractions;

/// Bits of delta: q/2^32 is 2^61 less about 2^48.
pub(super) const REST_BITS: u32 = 61;

/// q's low 64 bits, and the bits of q from 32 up (61 of them) and below.
const Q: u64 = product(3, usize::MAX);
const Q_HIGH: u64 = (product_wide() >> 32) as u64;
const Q_LOW: u64 = product_mod(3, 1 << 32);

/// q/q_i, below 2^62.
const COFACTORS: [u64; 3] = [product(3, 0), product(3, 1), product(3, 2)];

/// The product of the first `count` primes but number `without`, modulo 2^64.
const fn product(count: usize, without: usize) -> u64 {
    let mut product = 1u64;
    let mut i = 0;
    while i < count {
        if i != without {
            product = product.wrapping_mul(PRIMES[i] as u64);
        }
        i += 1;
    }
    product
}

const fn product_wide() -> u128 {
    PRIMES[0] as u128 * PRIMES[1] as u128 * PRIMES[2] as u128
}

/// e(r) modulo 2^64, for r up to 2^32 (which gives q).
#[inline(always)]
pub(super) fn encoding(r: u64) -> u64 {
    fractions::encoding(r, [Q_HIGH, Q_LOW])
}

/// rho and delta of every coefficient.
pub(super) struct Split {
    pub(super) words: Wiped<u32>,
    pub(super) rests: Wiped<u64>,
}

/// Takes the coefficients of an element of [`LINEAR`]'s ring apart, given prime by prime.
pub(super) struct Splitter {
    fractions: Wiped<u64>,
    rests: Wiped<u64>,
}

impl Splitter {
    pub(super) fn new() -> Self {
        let [fractions, rests] = [0; 2].map(|_| Wiped::zeros(LINEAR.degree));
        Self { fractions, rests }
    }

    /// Adds the coefficients modulo the prime of a number; each prime comes once.
    pub(super) fn add(&mut self, index: usize, part: &[u32]) {
        let (prime, crt) = (&LINEAR.primes[index], &LINEAR.crt[index]);
        let (high, low) = crt.fraction;
        let sums = [&mut self.fractions[..], &mut self.rests];
        fractions::add_with_rests(prime.modulus, sums, part, crt.cofactor, high, low, [COFACTORS[index], Q]);
    }

    pub(super) fn finish(self) -> Split {
        let Self { fractions, mut rests } = self;
        let mut words = Wiped::zeros(LINEAR.degree);
        fractions::digits(&mut words, &mut rests, &fractions, [Q_HIGH, Q_LOW]);
        Split { words, rests }
    }
}

#[cfg(test)]
mod tests {
    use super::super::poly::Poly;
    use super::*;
    use crate::simd::at_each_level;
    use proptest::prelude::*;

    fn modulus() -> u128 {
        product_wide()
    }

    fn exact_encoding(r: u128) -> u128 {
        // q·r is below 2^126.
        (modulus() * r + (1 << 31)) >> 32
    }

    fn check(z: u128) {
        let mut poly = Poly::zero(&LINEAR);
        poly.add_at(0, |_, q| (z % u128::from(q.value())) as u32);
        at_each_level(|level| {
            let mut splitter = Splitter::new();
            (0..3).for_each(|index| splitter.add(index, poly.part(index)));
            let split = splitter.finish();
            let (word, rest) = (u128::from(split.words[0]), u128::from(split.rests[0]));
            assert_eq!(exact_encoding(word) + rest, z, "{level:?}");
            assert!(z < exact_encoding(word + 1) && rest < (1 << REST_BITS) - (1 << 40), "{level:?}");
        });
    }

    proptest! {
        #[test]
        fn both_digits_are_exact(z: u128, word: u32, near in -40i32..40) {
            check(z % modulus());
            let near = (exact_encoding(word.into()) as i128 + i128::from(near)).rem_euclid(modulus() as i128);
            check(near as u128);
        }

        #[test]
        fn encodings_are_those_of_words(r: u32) {
            prop_assert_eq!(encoding(r.into()), exact_encoding(r.into()) as u64);
        }
    }

    #[test]
    fn ends_of_all_intervals() {
        assert_eq!(encoding(1 << 32), Q);
        for word in [0u128, 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1, 1 << 32] {
            for offset in -3i128..=3 {
                check((exact_encoding(word) as i128 + offset).rem_euclid(modulus() as i128) as u128);
            }
        }
    }
}
