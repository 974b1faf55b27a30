//! Arithmetic on residues one by one, compiled for each instruction set.

use super::modulus::{Factor, Modulus};
use crate::simd::multiversion;

/// -v·2^-32 mod q, v the centred representative of m·scale modulo 2^32.
#[inline(always)]
pub(crate) fn encoded_word(q: Modulus, m: u32, scale: u32) -> u32 {
    let v = i64::from(scale.wrapping_mul(m) as i32);
    // v is below 2^31 and 2q above, so the argument is in [0, 2^33).
    q.montgomery((2 * i64::from(q.value()) - v) as u64)
}

multiversion! {
    /// x·2^32 mod q.
    pub(crate) fn to_montgomery(q: Modulus, x: &mut [u32]) {
        for x in x {
            *x = q.to_montgomery(*x);
        }
    }

    /// sum + x·y·2^-32.
    pub(crate) fn add_product(q: Modulus, sum: &mut [u32], x: &[u32], y: &[u32]) {
        for ((sum, &x), &y) in sum.iter_mut().zip(x).zip(y) {
            *sum = q.add(*sum, q.montgomery_mul(x, y));
        }
    }

    /// sum - x·y·2^-32.
    pub(crate) fn sub_product(q: Modulus, sum: &mut [u32], x: &[u32], y: &[u32]) {
        for ((sum, &x), &y) in sum.iter_mut().zip(x).zip(y) {
            *sum = q.sub(*sum, q.montgomery_mul(x, y));
        }
    }

    /// x·y·2^-32, in place of x.
    pub(crate) fn multiply(q: Modulus, x: &mut [u32], y: &[u32]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x = q.montgomery_mul(*x, y);
        }
    }

    /// sum + small.
    pub(crate) fn add_small(q: Modulus, sum: &mut [u32], small: &[i8]) {
        for (sum, &small) in sum.iter_mut().zip(small) {
            *sum = q.add(*sum, q.residue(i32::from(small)));
        }
    }

    /// sum + [`encoded_word`] of m.
    pub(crate) fn add_words(q: Modulus, sum: &mut [u32], m: &[u32], scale: u32) {
        for (sum, &m) in sum.iter_mut().zip(m) {
            *sum = q.add(*sum, encoded_word(q, m, scale));
        }
    }

    /// sum + low + high·2^32, for |high| < 2^54.
    pub(crate) fn add_halves(q: Modulus, sum: &mut [u32], low: &[u32], high: &[i64]) {
        for ((sum, &low), &high) in sum.iter_mut().zip(low).zip(high) {
            // q·2^24 exceeds 2^54.
            let positive = high.wrapping_add(i64::from(q.value()) << 24) as u64;
            *sum = q.add(*sum, q.reduce_halves(u64::from(low), positive));
        }
    }

    /// The residues of signed values, |x| <= 2^61.
    pub(crate) fn residues_wide(q: Modulus, out: &mut [u32], x: &[i64]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = q.residue_wide(x);
        }
    }

    /// sum + x, |x| <= 2^61.
    pub(crate) fn add_wide(q: Modulus, sum: &mut [u32], x: &[i64]) {
        for (sum, &x) in sum.iter_mut().zip(x) {
            *sum = q.add(*sum, q.residue_wide(x));
        }
    }

    /// x·w mod q.
    pub(crate) fn scale(q: Modulus, x: &mut [u32], w: Factor) {
        for x in x {
            *x = q.mul(*x, w);
        }
    }

    /// The residues of signed words.
    pub(crate) fn residues(q: Modulus, out: &mut [u32], x: &[i16]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = q.residue(i32::from(x));
        }
    }
}
