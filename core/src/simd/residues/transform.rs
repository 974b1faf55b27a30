//! The negacyclic number-theoretic transform over one prime: its portable form, and the choice among all.
//!
//! Cooley-Tukey butterflies forward and Gentleman-Sande back, the powers of psi merged in (Longa and Naehrig, CANS 2016),
//! products by constants after Shoup and lazy ranges after Harvey (J. Symb. Comp. 2014).
//!
//! One table of psi^rev(i) serves every N up to [`MAX_DEGREE`] (a shorter transform uses its beginning) and both
//! directions: in the inverse, psi^-rev(m + i) = -psi^rev(2m - 1 - i), for m a power of two and i < m.

#[cfg(compact_roots)]
use super::compact;
use super::modulus::{Factor, Modulus};
use super::roots::MAX_DEGREE;
#[cfg(test)]
use super::roots::primitive_root;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
use super::transform_neon;
#[cfg(target_arch = "x86_64")]
use super::{transform_avx2, transform_ifma};
#[cfg(target_arch = "x86_64")]
use crate::simd::{self, Level};

/// What a transform takes its roots from. In little memory, where no vectors read them, they are made as they are used ([`super::compact`]).
#[cfg(not(compact_roots))]
pub(crate) type Table = super::roots::Roots;
#[cfg(compact_roots)]
pub(crate) type Table = compact::Factors;

/// The transform of a degree N over a prime q. Public.
///
/// Of a polynomial a of degree below N it is the values a(psi^(2·rev(i) + 1)), i = 0..N, psi a primitive 2N-th root of unity modulo q
/// and rev reversing log2 N bits; multiplication modulo X^N + 1 is then multiplication of values.
#[derive(Debug)]
pub(crate) struct Transform {
    pub(crate) modulus: Modulus,
    pub(super) degree: usize,
    pub(super) roots: &'static Table,
    /// N^-1 mod q.
    pub(super) degree_inverse: Factor,
}

/// Blocks of this length are transformed to the end one after the other: loops of fixed length.
#[cfg(not(compact_roots))]
const TAIL: usize = 8;

impl Transform {
    pub(crate) const fn new(modulus: Modulus, roots: &'static Table, degree: usize) -> Self {
        assert!(degree.is_power_of_two() && degree >= 16 && degree <= MAX_DEGREE);
        let degree_inverse = modulus.factor(modulus.invert_vartime(degree as u32));
        Self { modulus, degree, roots, degree_inverse }
    }

    /// psi.
    #[cfg(test)]
    pub(crate) fn root(&self) -> u32 {
        self.modulus.pow_vartime(primitive_root(self.modulus), (MAX_DEGREE / self.degree) as u64)
    }

    /// Coefficients to values, in place: N residues in [0, q) to N residues in [0, q).
    ///
    /// # Panics
    /// If `a` does not hold N residues.
    pub(crate) fn forward(&self, a: &mut [u32]) {
        assert_eq!(a.len(), self.degree);
        #[cfg(target_arch = "x86_64")]
        match simd::level() {
            Level::Avx512 if simd::has_ifma() && transform_ifma::serves(self.degree) => {
                // SAFETY: the processor has AVX-512 with the instructions that were just asked for.
                return unsafe { transform_ifma::forward(self, a) };
            }
            Level::Avx512 | Level::Avx2 if transform_avx2::serves(self.degree) => {
                // SAFETY: the processor has AVX2, which the level stands for.
                return unsafe { transform_avx2::forward(self, a) };
            }
            _ => {}
        }
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        if transform_neon::serves(self.degree) {
            // SAFETY: the target has NEON, as was just asked for.
            return unsafe { transform_neon::forward(self, a) };
        }
        #[cfg(compact_roots)]
        compact::forward(self.modulus, self.roots, a);
        #[cfg(not(compact_roots))]
        self.forward_portable(a);
    }

    /// Values to coefficients, in place: the inverse of [`Self::forward`].
    ///
    /// # Panics
    /// If `a` does not hold N residues.
    pub(crate) fn inverse(&self, a: &mut [u32]) {
        assert_eq!(a.len(), self.degree);
        #[cfg(target_arch = "x86_64")]
        match simd::level() {
            Level::Avx512 if simd::has_ifma() && transform_ifma::serves(self.degree) => {
                // SAFETY: as in `forward`.
                return unsafe { transform_ifma::inverse(self, a) };
            }
            Level::Avx512 | Level::Avx2 if transform_avx2::serves(self.degree) => {
                // SAFETY: as in `forward`.
                return unsafe { transform_avx2::inverse(self, a) };
            }
            _ => {}
        }
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        if transform_neon::serves(self.degree) {
            // SAFETY: the target has NEON, as was just asked for.
            return unsafe { transform_neon::inverse(self, a) };
        }
        #[cfg(compact_roots)]
        compact::inverse(self.modulus, self.roots, self.degree_inverse.value, a);
        #[cfg(not(compact_roots))]
        self.inverse_portable(a);
    }

    #[cfg(not(compact_roots))]
    fn forward_portable(&self, a: &mut [u32]) {
        let (q, roots) = (self.modulus, self.roots);
        let (mut blocks, mut half) = (1, self.degree / 2);
        // Between stages values are in [0, 2q).
        while half >= TAIL {
            let factors = roots.values[blocks..2 * blocks].iter().zip(&roots.quotients[blocks..2 * blocks]);
            for (block, (&value, &quotient)) in a.chunks_exact_mut(2 * half).zip(factors) {
                let w = Factor { value, quotient };
                let (low, high) = block.split_at_mut(half);
                for (x, y) in low.iter_mut().zip(high) {
                    (*x, *y) = forward_butterfly(q, *x, *y, w);
                }
            }
            blocks *= 2;
            half /= 2;
        }
        for (i, tile) in a.as_chunks_mut::<TAIL>().0.iter_mut().enumerate() {
            let (mut inner, mut half) = (1, TAIL / 2);
            while half >= 1 {
                for j in 0..inner {
                    let w = roots.factor((blocks + i) * inner + j);
                    for k in 2 * j * half..(2 * j + 1) * half {
                        (tile[k], tile[k + half]) = forward_butterfly(q, tile[k], tile[k + half], w);
                    }
                }
                inner *= 2;
                half /= 2;
            }
            *tile = tile.map(|x| q.reduce_once(x));
        }
    }

    #[cfg(not(compact_roots))]
    fn inverse_portable(&self, a: &mut [u32]) {
        let (q, roots) = (self.modulus, self.roots);
        let (mut blocks, mut half) = (self.degree / (2 * TAIL), TAIL);
        // Between stages values are in [0, q).
        for (i, tile) in a.as_chunks_mut::<TAIL>().0.iter_mut().enumerate() {
            let (mut inner, mut half) = (TAIL / 2, 1);
            while inner >= 1 {
                // Entry m + i of the inverse roots stands, negated, at 2m - 1 - i.
                let last = (4 * blocks - 1 - i) * inner + inner - 1;
                for j in 0..inner {
                    let w = roots.factor(last - j);
                    for k in 2 * j * half..(2 * j + 1) * half {
                        (tile[k], tile[k + half]) = inverse_butterfly(q, tile[k], tile[k + half], w);
                    }
                }
                inner /= 2;
                half *= 2;
            }
        }
        while blocks >= 1 {
            let factors = roots.values[blocks..2 * blocks].iter().zip(&roots.quotients[blocks..2 * blocks]).rev();
            for (block, (&value, &quotient)) in a.chunks_exact_mut(2 * half).zip(factors) {
                let w = Factor { value, quotient };
                let (low, high) = block.split_at_mut(half);
                for (x, y) in low.iter_mut().zip(high) {
                    (*x, *y) = inverse_butterfly(q, *x, *y, w);
                }
            }
            blocks /= 2;
            half *= 2;
        }
        for x in a {
            *x = q.mul(*x, self.degree_inverse);
        }
    }
}

/// (x + w·y, x - w·y): from [0, 2q) to [0, 2q).
#[cfg(not(compact_roots))]
#[inline(always)]
fn forward_butterfly(q: Modulus, x: u32, y: u32, w: Factor) -> (u32, u32) {
    let x = q.reduce_once(x);
    let wy = q.mul(y, w);
    (x + wy, x + q.value() - wy)
}

/// (x + y, (y - x)·w): from [0, q) to [0, q). The root -w stands in the table as w, hence y - x.
#[cfg(not(compact_roots))]
#[inline(always)]
fn inverse_butterfly(q: Modulus, x: u32, y: u32, w: Factor) -> (u32, u32) {
    // y + q - x is in (0, 2q), and a product by a constant takes any factor below 2^32.
    (q.add(x, y), q.mul(y + q.value() - x, w))
}

#[cfg(all(test, not(compact_roots)))]
mod tests {
    use crate::prg::{Prg, Seed};
    use crate::rlwe::params::{LINEAR, SLOTS};
    use crate::simd::at_each_level;
    use alloc::vec;
    use alloc::vec::Vec;

    /// Whatever runs agrees with the portable form, on random residues and on extremes.
    #[test]
    fn all_forms_transform_alike() {
        let mut prg = Prg::new(&Seed::from_bytes([6; 32]));
        for t in [&LINEAR, &SLOTS].into_iter().flat_map(|ring| ring.primes()).map(|prime| prime.transform()) {
            let q = t.modulus.value();
            let random: Vec<u32> = (0..t.degree).map(|_| prg.below(u64::from(q)) as u32).collect();
            let steps = |length: usize| (0..t.degree).map(|i| [0, q - 1][(i / length) % 2]).collect::<Vec<_>>();
            let around = |middle: u32| (0..t.degree as u32).map(|i| middle + i % 5 - 2).collect::<Vec<_>>();
            let inputs =
                [vec![0; t.degree], vec![q - 1; t.degree], random, steps(1), steps(4), steps(64), around(q / 2)];
            for a in inputs {
                let (mut values, mut coefficients) = (a.clone(), a.clone());
                t.forward_portable(&mut values);
                t.inverse_portable(&mut coefficients);
                at_each_level(|level| {
                    let (mut x, mut y) = (a.clone(), a.clone());
                    t.forward(&mut x);
                    t.inverse(&mut y);
                    assert!(x == values, "{level:?}, {q}: forward");
                    assert!(y == coefficients, "{level:?}, {q}: inverse");
                });
            }
        }
    }
}
