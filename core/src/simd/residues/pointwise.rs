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

    /// sum + low + mid·2^32 + top·2^63 - 2^bits, for mid below 2^31 and top below 2^29.
    pub(crate) fn add_limbs(q: Modulus, sum: &mut [u32], low: &[u32], mid: &[u32], top: &[u32], bits: u32) {
        let less = q.value() - q.pow_vartime(2, u64::from(bits) + 32);
        for (((sum, &low), &mid), &top) in sum.iter_mut().zip(low).zip(mid).zip(top) {
            *sum = q.add(*sum, q.reduce_limbs([low, mid, top], less.into()));
        }
    }

    /// 1 - rest + [`encoded_word`] of m, for rests below 2^61.
    pub(crate) fn sealed(q: Modulus, out: &mut [u32], m: &[u32], rests: &[u64], scale: u32) {
        // Of -(rest + v·2^-32 - 1): v is at least -2^31, and 4q above 2^32 + 2^31.
        let less = 4 * i64::from(q.value()) - (1 << 32);
        for ((out, &m), &rest) in out.iter_mut().zip(m).zip(rests) {
            let v = i64::from(scale.wrapping_mul(m) as i32);
            *out = q.sub(0, q.reduce_limbs([rest as u32, (rest >> 32) as u32, 0], (less + v) as u64));
        }
    }

    /// The residues of signed values, |x| <= 2^61.
    pub(crate) fn residues_wide(q: Modulus, out: &mut [u32], x: &[i64]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = q.residue_wide(x);
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
