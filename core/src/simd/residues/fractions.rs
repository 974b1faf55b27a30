//! From residues modulo several primes to the value as a fraction of q: what a change of modulus and the split into digits rest on.
//!
//! x/q modulo 1 is the sum of y_i/q_i with y_i = x_i·(q/q_i)^-1 mod q_i. In units of 2^-64, y_i/q_i is taken as y_i·high +
//! floor(y_i·low/2^32), high·2^32 + low = floor(2^96/q_i).

use super::modulus::{Factor, Modulus};
use crate::simd::multiversion;

/// y and its fraction of q_i. All products are of words, as vectors have them.
#[inline(always)]
fn fraction(q: Modulus, x: u32, cofactor: Factor, high: u64, low: u32) -> (u64, u64) {
    let y = u64::from(q.mul(x, cofactor));
    // high is below 2^34 and y below 2^31, so y·high is below 2^64: the sum of two products, of high's upper two bits and its low word.
    let product = ((y * (high >> 32)) << 32).wrapping_add(y * (high & 0xffff_ffff));
    (y, product.wrapping_add((y * u64::from(low)) >> 32))
}

/// round(q·r/2^32) modulo 2^64 for r up to 2^32 and q = high·2^32 + low, low below 2^32.
#[inline(always)]
pub(crate) fn encoding(r: u64, [high, low]: [u64; 2]) -> u64 {
    // low·r < 2^64 - 2^32.
    high.wrapping_mul(r).wrapping_add((low * r + (1 << 31)) >> 32)
}

multiversion! {
    /// sum + x_i's fraction, modulo 1.
    pub(crate) fn add(q: Modulus, sum: &mut [u64], x: &[u32], cofactor: Factor, high: u64, low: u32) {
        for (sum, &x) in sum.iter_mut().zip(x) {
            *sum = sum.wrapping_add(fraction(q, x, cofactor, high, low).1);
        }
    }

    /// As [`add`], and to the other sum y_i·(q/q_i) less q where the first wraps, all modulo 2^64.
    pub(crate) fn add_with_rests(
        q: Modulus, sums: [&mut [u64]; 2], x: &[u32], cofactor: Factor, high: u64, low: u32, weights: [u64; 2],
    ) {
        let ([sums, rests], [quotient, whole]) = (sums, weights);
        for ((sum, rest), &x) in sums.iter_mut().zip(rests).zip(x) {
            let (y, fraction) = fraction(q, x, cofactor, high, low);
            let next = sum.wrapping_add(fraction);
            let carry = u64::from(next < *sum);
            *rest = rest.wrapping_add(y.wrapping_mul(quotient)).wrapping_sub(whole & carry.wrapping_neg());
            *sum = next;
        }
    }

    /// Of values, given modulo 2^64 in `rests` and as fractions of q that are too small by less than 6·2^-64, the word whose
    /// [`encoding`] is the last that is not above, and in place of the value what it is above.
    pub(crate) fn digits(words: &mut [u32], rests: &mut [u64], fractions: &[u64], q: [u64; 2]) {
        for ((word, rest), &fraction) in words.iter_mut().zip(rests).zip(fractions) {
            let low = fraction >> 32;
            let start = encoding(low, q);
            let length = encoding(low + 1, q).wrapping_sub(start);
            let behind = rest.wrapping_sub(start);
            // Both are below 2^62: the difference's sign is its top bit.
            let next = (behind.wrapping_sub(length) >> 63) ^ 1;
            *word = (low + next) as u32;
            *rest = behind.wrapping_sub(length & next.wrapping_neg());
        }
    }
}
