//! Sums of products of residues, reduced once for many terms.
//!
//! A product of residues is below 2^62, so four fit in 64 bits; what they sum to is added to two words of 64 bits, its low and its high
//! half. Two multiplications in place of the six that a product with its reduction takes.

use super::modulus::Modulus;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
use super::products_neon;
#[cfg(target_arch = "x86_64")]
use super::products_x86;
use crate::simd;
use alloc::vec::Vec;
use core::array::{from_fn, from_ref};
use zeroize::optimization_barrier;

/// Coefficients whose sums are kept at hand while terms pass by: their sums take sixteen kilobytes.
pub(crate) const BLOCK: usize = 512;

/// Most terms of a sum: their halves stay below 2^48, and signed sums below 2^58.
const MAX_TERMS: usize = 1 << 12;

/// Two polynomials.
pub(crate) type Pair<'a> = [Parts<'a>; 2];

/// A sum of products, of both polynomials of pairs, and the factor of each pair.
pub(crate) struct Sum<'a, W> {
    pub(crate) sums: [&'a mut [u32]; 2],
    pub(crate) factors: Vec<W>,
}

/// A polynomial's residues, in parts of 512 that lie so many parts apart.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) words: &'a [u32],
    pub(crate) step: usize,
}

impl<'a> Parts<'a> {
    /// Residues that lie together.
    pub(crate) fn together(words: &'a [u32]) -> Self {
        Self { words, step: 1 }
    }

    /// How many residues there are.
    pub(super) fn len(&self) -> usize {
        self.words.len().div_ceil(self.step * BLOCK) * BLOCK
    }

    /// The residues of a part.
    pub(super) fn block(&self, i: usize) -> &'a [u32; BLOCK] {
        &self.words.as_chunks().0[self.step * i]
    }
}

/// To each sum, what it is of the pairs times its factors, values in [0, q).
///
/// All sums take the same pairs, so that these come from memory once: part by part, all sums of a part together.
///
/// # Panics
/// If lengths differ or are no multiples of 512, or there are more pairs than [`MAX_TERMS`], or not as many factors.
pub(crate) fn add_products(q: Modulus, pairs: &[Pair<'_>], sums: &mut [Sum<'_, Parts<'_>>]) {
    check(pairs, sums);
    assert!(sums.iter().all(|sum| sum.factors.iter().all(|w| w.len() == sum.sums[0].len())));
    match simd::level() {
        // SAFETY: the processor has what the level stands for.
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx512 => unsafe { products_x86::avx512::add_products(q, pairs, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx2 => unsafe { products_x86::avx2::add_products(q, pairs, sums) },
        // SAFETY: the target has NEON.
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        _ => unsafe { products_neon::add_products(q, pairs, sums) },
        #[cfg(not(all(target_arch = "aarch64", target_feature = "neon")))]
        _ => add_products_portable(q, pairs, sums),
    }
}

/// As [`add_products`], for integers.
///
/// # Panics
/// As [`add_products`].
pub(crate) fn add_scaled(q: Modulus, pairs: &[Pair<'_>], sums: &mut [Sum<'_, i16>]) {
    check(pairs, sums);
    match simd::level() {
        // SAFETY: as in `add_products`.
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx512 => unsafe { products_x86::avx512::add_scaled(q, pairs, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx2 => unsafe { products_x86::avx2::add_scaled(q, pairs, sums) },
        // SAFETY: as above.
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        _ => unsafe { products_neon::add_scaled(q, pairs, sums) },
        #[cfg(not(all(target_arch = "aarch64", target_feature = "neon")))]
        _ => add_scaled_portable(q, pairs, sums),
    }
}

fn check<W>(pairs: &[Pair<'_>], sums: &[Sum<'_, W>]) {
    let length = BLOCK * blocks(pairs);
    assert!(pairs.len() <= MAX_TERMS);
    assert!(pairs.iter().flatten().all(|x| x.len() == length));
    for Sum { sums, factors } in sums {
        assert!(factors.len() == pairs.len() && (pairs.is_empty() || sums.iter().all(|sum| sum.len() == length)));
    }
}

#[cfg_attr(
    all(target_arch = "aarch64", target_feature = "neon"),
    allow(dead_code, reason = "what the form with vectors is defined by")
)]
fn add_products_portable(q: Modulus, pairs: &[Pair<'_>], sums: &mut [Sum<'_, Parts<'_>>]) {
    let mut halves = [[[0u64; BLOCK]; 2]; 2];
    for i in 0..blocks(pairs) {
        for Sum { sums, factors } in &mut *sums {
            halves.as_flattened_mut().fill([0; BLOCK]);
            let ((pairs, pairs_left), (fours, left)) = (pairs.as_chunks::<4>(), factors.as_chunks::<4>());
            for (pairs, factors) in pairs.iter().zip(fours) {
                accumulate(pairs, factors, i, &mut halves);
            }
            for (pair, factor) in pairs_left.iter().zip(left) {
                accumulate(from_ref(pair), from_ref(factor), i, &mut halves);
            }
            for (sum, [low, high]) in sums.iter_mut().zip(&halves) {
                for ((sum, &low), &high) in sum[BLOCK * i..].iter_mut().zip(low).zip(high) {
                    *sum = q.add(*sum, q.reduce_halves(low, high));
                }
            }
        }
    }
    halves.as_flattened_mut().fill([0; BLOCK]);
    optimization_barrier(&halves);
}

/// Number of parts.
fn blocks(pairs: &[Pair<'_>]) -> usize {
    pairs.first().map_or(0, |pair| pair[0].len() / BLOCK)
}

/// Adds up to four products to both polynomials' sums: [polynomial][low or high half].
#[inline(always)]
fn accumulate<const K: usize>(
    pairs: &[Pair<'_>; K],
    factors: &[Parts<'_>; K],
    i: usize,
    halves: &mut [[[u64; BLOCK]; 2]; 2],
) {
    const { assert!(K <= 4) };
    let [[low_a, high_a], [low_b, high_b]] = halves;
    let blocks: [_; K] = from_fn(|k| [pairs[k][0].block(i), pairs[k][1].block(i), factors[k].block(i)]);
    for i in 0..BLOCK {
        let (mut a, mut b) = (0u64, 0u64);
        for [x, y, w] in blocks {
            // 4·(2^31 - 2^16)^2 < 2^64.
            let w = u64::from(w[i]);
            a += u64::from(x[i]) * w;
            b += u64::from(y[i]) * w;
        }
        low_a[i] += a & 0xffff_ffff;
        high_a[i] += a >> 32;
        low_b[i] += b & 0xffff_ffff;
        high_b[i] += b >> 32;
    }
}

#[cfg_attr(
    all(target_arch = "aarch64", target_feature = "neon"),
    allow(dead_code, reason = "what the form with vectors is defined by")
)]
fn add_scaled_portable(q: Modulus, pairs: &[Pair<'_>], sums: &mut [Sum<'_, i16>]) {
    let mut totals = [[0i64; BLOCK]; 2];
    for i in 0..blocks(pairs) {
        for Sum { sums, factors } in &mut *sums {
            totals.fill([0; BLOCK]);
            for (pair, &w) in pairs.iter().zip(factors.iter()) {
                for (totals, x) in totals.iter_mut().zip(pair) {
                    for (total, &x) in totals.iter_mut().zip(x.block(i)) {
                        // Residues are below 2^31: as signed words they are themselves.
                        *total += i64::from(x as i32) * i64::from(w);
                    }
                }
            }
            for (sum, totals) in sums.iter_mut().zip(&totals) {
                for (sum, &total) in sum[BLOCK * i..].iter_mut().zip(totals) {
                    // At most 2^12·2^31·2^15 = 2^58 in magnitude, which q·2^28 exceeds.
                    let positive = total + (i64::from(q.value()) << 28);
                    *sum = q.add(*sum, q.reduce_narrow(positive as u64));
                }
            }
        }
    }
    totals.fill([0; BLOCK]);
    optimization_barrier(&totals);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prg::{Prg, Seed};
    use crate::rlwe::params::PRIMES;
    use crate::simd::at_each_level;
    use alloc::vec;

    fn add(q: u32, sums: &mut [u32], x: &[u32], w: impl Fn(usize) -> i64) {
        for (i, (sum, &x)) in sums.iter_mut().zip(x).enumerate() {
            let product = i128::from(x) * i128::from(w(i)) + i128::from(*sum);
            *sum = product.rem_euclid(i128::from(q)) as u32;
        }
    }

    /// Sums of 0 to 13 terms, and of extremes: residues q - 1 and weights of both signs.
    #[test]
    fn sums_of_products_agree_with_division_at_each_level() {
        let mut prg = Prg::new(&Seed::from_bytes([8; 32]));
        for (prime, count, extreme) in [(0, 0, false), (1, 3, false), (2, 13, false), (3, 4, true), (0, 130, true)] {
            let q = PRIMES[prime];
            let mut draw = || -> Vec<u32> {
                (0..2 * BLOCK).map(|_| if extreme { q - 1 } else { prg.below(u64::from(q)) as u32 }).collect()
            };
            let polynomials: Vec<[Vec<u32>; 3]> = (0..count).map(|_| [draw(), draw(), draw()]).collect();
            let weights: Vec<i16> = (0..count)
                .map(|i| {
                    if extreme { [i16::MIN, i16::MAX][usize::from(count > 4)] } else { (i as i32 * 977 - 5000) as i16 }
                })
                .collect();
            let start = [vec![q - 1; 2 * BLOCK], draw()];
            let (mut products, mut scaled) = (start.clone(), start.clone());
            for ([x, y, w], &weight) in polynomials.iter().zip(&weights) {
                for (half, x) in [x, y].into_iter().enumerate() {
                    add(q, &mut products[half], x, |i| i64::from(w[i]));
                    add(q, &mut scaled[half], x, |_| i64::from(weight));
                }
            }
            // Two sums of the same pairs, the other one with factors in reverse.
            let mut reversed = start.clone();
            for ([x, y, _], [_, _, w]) in polynomials.iter().zip(polynomials.iter().rev()) {
                for (sum, x) in reversed.iter_mut().zip([x, y]) {
                    add(q, sum, x, |i| i64::from(w[i]));
                }
            }
            let pairs: Vec<Pair<'_>> =
                polynomials.iter().map(|[x, y, _]| [Parts::together(x), Parts::together(y)]).collect();
            at_each_level(|level| {
                let ([mut a, mut b], [mut c, mut d]) = (start.clone(), start.clone());
                let factors = polynomials.iter().map(|[_, _, w]| Parts::together(w)).collect();
                // The others' parts lie between each other.
                let mixed: Vec<u32> = (0..2)
                    .flat_map(|i| polynomials.iter().rev().flat_map(move |p| Parts::together(&p[2]).block(i)))
                    .copied()
                    .collect();
                let part = |i: usize| Parts { words: &mixed[BLOCK * i..BLOCK * (i + count + 1)], step: count };
                let other = Sum { sums: [&mut c, &mut d], factors: (0..count).map(part).collect() };
                add_products(Modulus::new(q), &pairs, &mut [Sum { sums: [&mut a, &mut b], factors }, other]);
                assert!([&a, &b] == [&products[0], &products[1]], "{level:?}, {count} products");
                assert!([&c, &d] == [&reversed[0], &reversed[1]], "{level:?}, {count} products");
                let mut three = [start.clone(), start.clone(), start.clone()];
                let factors = [weights.clone(), vec![0; count], weights.clone()];
                let sums = three.iter_mut().zip(factors).map(|([a, b], factors)| Sum { sums: [a, b], factors });
                add_scaled(Modulus::new(q), &pairs, &mut sums.collect::<Vec<_>>());
                assert!(three == [scaled.clone(), start.clone(), scaled.clone()], "{level:?}, {count} integers");
            });
        }
    }
}
