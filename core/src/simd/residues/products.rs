//! Sums of products of residues, reduced once for many terms.
//!
//! A product of residues is below 2^62, so four fit in 64 bits; what they sum to is added to two words of 64 bits, its low and its high
//! half. Two multiplications in place of the six that a product with its reduction takes.

use super::modulus::Modulus;
#[cfg(target_arch = "x86_64")]
use super::products_x86;
use crate::simd::{self, Level};
use core::array::{from_fn, from_ref};
use zeroize::optimization_barrier;

/// Coefficients whose sums are kept at hand while terms pass by: their sums take sixteen kilobytes.
pub(super) const BLOCK: usize = 512;

/// Most terms of a sum: their halves stay below 2^48, and signed sums below 2^58.
const MAX_TERMS: usize = 1 << 12;

/// Two polynomials' residues and what both are multiplied by.
pub(crate) struct Term<'a, W> {
    pub(crate) x: [&'a [u32]; 2],
    pub(crate) w: W,
}

/// sums + the sum of x·w over the terms, values in [0, q).
///
/// # Panics
/// If lengths differ or are no multiples of 512, or there are more than [`MAX_TERMS`].
pub(crate) fn add_products(q: Modulus, sums: [&mut [u32]; 2], terms: &[Term<'_, &[u32]>]) {
    check(&sums, terms);
    assert!(terms.iter().all(|term| term.w.len() == sums[0].len()));
    match simd::level() {
        // SAFETY: the processor has what the level stands for.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { products_x86::avx512::add_products(q, sums, terms) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { products_x86::avx2::add_products(q, sums, terms) },
        _ => add_products_portable(q, sums, terms),
    }
}

/// sums + the sum of x·w over the terms for integers w, values in [0, q).
///
/// # Panics
/// As [`add_products`].
pub(crate) fn add_scaled(q: Modulus, sums: [&mut [u32]; 2], terms: &[Term<'_, i16>]) {
    check(&sums, terms);
    match simd::level() {
        // SAFETY: as in `add_products`.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { products_x86::avx512::add_scaled(q, sums, terms) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { products_x86::avx2::add_scaled(q, sums, terms) },
        _ => add_scaled_portable(q, sums, terms),
    }
}

fn check<W>(sums: &[&mut [u32]; 2], terms: &[Term<'_, W>]) {
    let length = sums[0].len();
    assert!(terms.len() <= MAX_TERMS && length.is_multiple_of(BLOCK) && sums[1].len() == length);
    assert!(terms.iter().flat_map(|term| term.x).all(|x| x.len() == length));
}

fn add_products_portable(q: Modulus, [a, b]: [&mut [u32]; 2], terms: &[Term<'_, &[u32]>]) {
    let mut halves = [[[0u64; BLOCK]; 2]; 2];
    for (i, (a, b)) in a.as_chunks_mut::<BLOCK>().0.iter_mut().zip(b.as_chunks_mut().0).enumerate() {
        halves.as_flattened_mut().fill([0; BLOCK]);
        let (fours, rest) = terms.as_chunks::<4>();
        for terms in fours {
            accumulate(terms, i, &mut halves);
        }
        for term in rest {
            accumulate(from_ref(term), i, &mut halves);
        }
        for (sums, [low, high]) in [a, b].into_iter().zip(&halves) {
            for ((sum, &low), &high) in sums.iter_mut().zip(low).zip(high) {
                *sum = q.add(*sum, q.reduce_halves(low, high));
            }
        }
    }
    halves.as_flattened_mut().fill([0; BLOCK]);
    optimization_barrier(&halves);
}

/// Adds up to four products to both polynomials' sums: [polynomial][low or high half].
#[inline(always)]
fn accumulate<const K: usize>(terms: &[Term<'_, &[u32]>; K], block: usize, halves: &mut [[[u64; BLOCK]; 2]; 2]) {
    const { assert!(K <= 4) };
    let [[low_a, high_a], [low_b, high_b]] = halves;
    let blocks: [_; K] = from_fn(|k| {
        let Term { x: [x, y], w } = &terms[k];
        [x, y, w].map(|x| &x.as_chunks::<BLOCK>().0[block])
    });
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

fn add_scaled_portable(q: Modulus, [a, b]: [&mut [u32]; 2], terms: &[Term<'_, i16>]) {
    let mut totals = [[0i64; BLOCK]; 2];
    for (i, (a, b)) in a.as_chunks_mut::<BLOCK>().0.iter_mut().zip(b.as_chunks_mut().0).enumerate() {
        totals.fill([0; BLOCK]);
        for term in terms {
            for (totals, x) in totals.iter_mut().zip(term.x) {
                for (total, &x) in totals.iter_mut().zip(&x.as_chunks::<BLOCK>().0[i]) {
                    // Residues are below 2^31: as signed words they are themselves.
                    *total += i64::from(x as i32) * i64::from(term.w);
                }
            }
        }
        for (sums, totals) in [a, b].into_iter().zip(&totals) {
            for (sum, &total) in sums.iter_mut().zip(totals) {
                // At most 2^12·2^31·2^15 = 2^58 in magnitude, which q·2^28 exceeds.
                let positive = total + (i64::from(q.value()) << 28);
                *sum = q.add(*sum, q.reduce_narrow(positive as u64));
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
    use alloc::vec::Vec;

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
                .map(|i| if extreme { [i16::MIN, i16::MAX][usize::from(count > 4)] } else { (i * 977 - 5000) as i16 })
                .collect();
            let start = [vec![q - 1; 2 * BLOCK], draw()];
            let (mut products, mut scaled) = (start.clone(), start.clone());
            for ([x, y, w], &weight) in polynomials.iter().zip(&weights) {
                for (half, x) in [x, y].into_iter().enumerate() {
                    add(q, &mut products[half], x, |i| i64::from(w[i]));
                    add(q, &mut scaled[half], x, |_| i64::from(weight));
                }
            }
            at_each_level(|level| {
                let [mut a, mut b] = start.clone();
                let terms: Vec<_> = polynomials.iter().map(|[x, y, w]| Term { x: [x, y], w: &w[..] }).collect();
                add_products(Modulus::new(q), [&mut a, &mut b], &terms);
                assert!([&a, &b] == [&products[0], &products[1]], "{level:?}, {count} products");
                let [mut a, mut b] = start.clone();
                let terms: Vec<_> =
                    polynomials.iter().zip(&weights).map(|([x, y, _], &w)| Term { x: [x, y], w }).collect();
                add_scaled(Modulus::new(q), [&mut a, &mut b], &terms);
                assert!([&a, &b] == [&scaled[0], &scaled[1]], "{level:?}, {count} integers");
            });
        }
    }
}
