//! Arithmetic on residues one by one, compiled for each instruction set.

use super::modulus::Modulus;
use crate::simd::multiversion;

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

    /// The residues of signed words.
    pub(crate) fn residues(q: Modulus, out: &mut [u32], x: &[i16]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = q.residue(i32::from(x));
        }
    }
}
