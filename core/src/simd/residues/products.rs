//! Sums of products of residues, reduced once for many terms.
//!
//! A product of residues is below 2^62, so four fit in 64 bits; what they sum to is added to two words of 64 bits, its low and its high
//! half. Two multiplications in place of the six that a product with its reduction takes.

use super::modulus::Modulus;
use crate::simd::multiversion;
use alloc::vec::Vec;
use zeroize::optimization_barrier;

/// Coefficients whose sums are kept at hand while terms pass by: sixteen kilobytes of sums.
const BLOCK: usize = 512;

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
    assert!(terms.len() <= MAX_TERMS);
    let blocks = terms.iter().map(|t| [whole(t.x[0]), whole(t.x[1]), whole(t.w)]).collect::<Vec<_>>();
    let [a, b] = sums;
    assert!(blocks.iter().flatten().all(|x| x.len() * BLOCK == a.len()) && a.len() == b.len());
    add_blocks(q, a.as_chunks_mut().0, b.as_chunks_mut().0, &blocks);
}

fn whole(x: &[u32]) -> &[[u32; BLOCK]] {
    let (blocks, rest) = x.as_chunks();
    assert!(rest.is_empty());
    blocks
}

multiversion! {
    fn add_blocks(q: Modulus, a: &mut [[u32; BLOCK]], b: &mut [[u32; BLOCK]], terms: &[[&[[u32; BLOCK]]; 3]]) {
        let mut halves = [[[0u64; BLOCK]; 2]; 2];
        for (i, (a, b)) in a.iter_mut().zip(b).enumerate() {
            halves.as_flattened_mut().fill([0; BLOCK]);
            for terms in terms.chunks(4) {
                match *terms {
                    [s, t, u, v] => accumulate([s, t, u, v].map(|term| term.map(|x| &x[i])), &mut halves),
                    [s, t, u] => accumulate([s, t, u].map(|term| term.map(|x| &x[i])), &mut halves),
                    [s, t] => accumulate([s, t].map(|term| term.map(|x| &x[i])), &mut halves),
                    [s] => accumulate([s.map(|x| &x[i])], &mut halves),
                    _ => {}
                }
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
}

/// Adds up to four products to both polynomials' sums: [polynomial][low or high half].
#[inline(always)]
fn accumulate<const K: usize>(terms: [[&[u32; BLOCK]; 3]; K], halves: &mut [[[u64; BLOCK]; 2]; 2]) {
    const { assert!(K <= 4) };
    let [[low_a, high_a], [low_b, high_b]] = halves;
    for i in 0..BLOCK {
        let (mut a, mut b) = (0u64, 0u64);
        for [x, y, w] in terms {
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

/// sums + the sum of x·w over the terms for integers w, values in [0, q).
///
/// # Panics
/// As [`add_products`].
pub(crate) fn add_scaled(q: Modulus, sums: [&mut [u32]; 2], terms: &[Term<'_, i16>]) {
    assert!(terms.len() <= MAX_TERMS);
    let blocks = terms.iter().map(|t| ([whole(t.x[0]), whole(t.x[1])], t.w)).collect::<Vec<_>>();
    let [a, b] = sums;
    assert!(blocks.iter().all(|(x, _)| x.iter().all(|x| x.len() * BLOCK == a.len())) && a.len() == b.len());
    add_scaled_blocks(q, a.as_chunks_mut().0, b.as_chunks_mut().0, &blocks);
}

multiversion! {
    fn add_scaled_blocks(q: Modulus, a: &mut [[u32; BLOCK]], b: &mut [[u32; BLOCK]], terms: &[([&[[u32; BLOCK]]; 2], i16)]) {
        let mut totals = [[0i64; BLOCK]; 2];
        for (i, (a, b)) in a.iter_mut().zip(b).enumerate() {
            totals.fill([0; BLOCK]);
            for terms in terms.chunks(4) {
                match *terms {
                    [s, t, u, v] => scale([s, t, u, v].map(|(x, w)| (x.map(|x| &x[i]), w)), &mut totals),
                    [s, t, u] => scale([s, t, u].map(|(x, w)| (x.map(|x| &x[i]), w)), &mut totals),
                    [s, t] => scale([s, t].map(|(x, w)| (x.map(|x| &x[i]), w)), &mut totals),
                    [s] => scale([s].map(|(x, w)| (x.map(|x| &x[i]), w)), &mut totals),
                    _ => {}
                }
            }
            for (sums, totals) in [a, b].into_iter().zip(&totals) {
                for (sum, &total) in sums.iter_mut().zip(totals) {
                    // At most 2^12·2^31·2^15 = 2^58 in magnitude, which q·2^28 exceeds.
                    let positive = total.wrapping_add(i64::from(q.value()) << 28);
                    *sum = q.add(*sum, q.reduce_narrow(positive as u64));
                }
            }
        }
        totals.fill([0; BLOCK]);
        optimization_barrier(&totals);
    }
}

#[inline(always)]
fn scale<const K: usize>(terms: [([&[u32; BLOCK]; 2], i16); K], totals: &mut [[i64; BLOCK]; 2]) {
    let [a, b] = totals;
    for i in 0..BLOCK {
        for ([x, y], w) in terms {
            // Residues are below 2^31: as signed words they are themselves.
            a[i] += i64::from(x[i] as i32) * i64::from(w);
            b[i] += i64::from(y[i] as i32) * i64::from(w);
        }
    }
}
