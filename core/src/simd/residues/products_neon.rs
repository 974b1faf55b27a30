//! Sums of products with NEON: two products of words at a time, the lower and the upper halves of vectors of four.

use super::modulus::Modulus;
use super::products::{BLOCK, Pair, Parts, Sum};
use core::arch::aarch64::*;
use zeroize::optimization_barrier;

/// Vectors of a block.
const VECTORS: usize = BLOCK / 4;

/// Four words of 64 bits.
type Wide = [uint64x2_t; 2];

/// As [`super::products::add_products`].
#[target_feature(enable = "neon")]
pub(super) fn add_products(q: Modulus, pairs: &[Pair<'_>], sums: &mut [Sum<'_, Parts<'_>>]) {
    let reduce = Reduce::new(q);
    // Of each polynomial the low and the high half.
    let mut halves = [[[zero(); 2]; 2]; VECTORS];
    for i in 0..pairs.first().map_or(0, |pair| pair[0].len() / BLOCK) {
        for Sum { sums, factors } in &mut *sums {
            halves.fill([[zero(); 2]; 2]);
            let ((pairs, pairs_left), (fours, left)) = (pairs.as_chunks::<4>(), factors.as_chunks::<4>());
            for (pairs, factors) in pairs.iter().zip(fours) {
                accumulate(pairs, factors, i, &mut halves);
            }
            for (&pair, &factor) in pairs_left.iter().zip(left) {
                accumulate(&[pair], &[factor], i, &mut halves);
            }
            for (half, sum) in sums.iter_mut().enumerate() {
                for (x, halves) in sum[BLOCK * i..].as_chunks_mut::<4>().0.iter_mut().zip(&halves) {
                    let [low, high] = halves[half];
                    store(x, reduce.add(load(x), reduce.halves(low, high)));
                }
            }
        }
    }
    halves.fill([[zero(); 2]; 2]);
    optimization_barrier(&halves);
}

/// Adds up to four products to both polynomials' sums.
#[inline]
#[target_feature(enable = "neon")]
fn accumulate<const K: usize>(
    pairs: &[Pair<'_>; K],
    factors: &[Parts<'_>; K],
    i: usize,
    halves: &mut [[[Wide; 2]; 2]; VECTORS],
) {
    const { assert!(K <= 4) };
    let blocks: [_; K] =
        core::array::from_fn(|k| [&pairs[k][0], &pairs[k][1], &factors[k]].map(|x| x.block(i).as_chunks::<4>().0));
    for (i, halves) in halves.iter_mut().enumerate() {
        // 4·(2^31 - 2^16)^2 < 2^64.
        let mut products = [zero(); 2];
        for [x, y, w] in blocks {
            let w = load(&w[i]);
            for (product, x) in products.iter_mut().zip([x, y]) {
                let x = load(&x[i]);
                product[0] = vmlal_u32(product[0], vget_low_u32(x), vget_low_u32(w));
                product[1] = vmlal_high_u32(product[1], x, w);
            }
        }
        for ([low, high], product) in halves.iter_mut().zip(products) {
            for j in 0..2 {
                low[j] = vaddw_u32(low[j], vmovn_u64(product[j]));
                high[j] = vsraq_n_u64::<32>(high[j], product[j]);
            }
        }
    }
}

/// As [`super::products::add_scaled`].
#[target_feature(enable = "neon")]
pub(super) fn add_scaled(q: Modulus, pairs: &[Pair<'_>], sums: &mut [Sum<'_, i16>]) {
    let reduce = Reduce::new(q);
    // Totals are at most 2^12·2^31·2^15 = 2^58 in magnitude, which q·2^28 exceeds.
    let start = [vdupq_n_s64(i64::from(q.value()) << 28); 2];
    let mut totals = [[start; 2]; VECTORS];
    for i in 0..pairs.first().map_or(0, |pair| pair[0].len() / BLOCK) {
        for Sum { sums, factors } in &mut *sums {
            totals.fill([start; 2]);
            for (pair, &factor) in pairs.iter().zip(factors.iter()) {
                let w = vdupq_n_s32(factor.into());
                let [x, y] = pair.each_ref().map(|x| x.block(i).as_chunks::<4>().0);
                for (totals, x) in totals.iter_mut().zip(x.iter().zip(y)) {
                    for (total, x) in totals.iter_mut().zip([x.0, x.1]) {
                        // Residues are below 2^31: as signed words they are themselves.
                        let x = vreinterpretq_s32_u32(load(x));
                        total[0] = vmlal_s32(total[0], vget_low_s32(x), vget_low_s32(w));
                        total[1] = vmlal_high_s32(total[1], x, w);
                    }
                }
            }
            for (half, sum) in sums.iter_mut().enumerate() {
                for (x, totals) in sum[BLOCK * i..].as_chunks_mut::<4>().0.iter_mut().zip(&totals) {
                    let [a, b] = totals[half];
                    let total = [vreinterpretq_u64_s64(a), vreinterpretq_u64_s64(b)];
                    store(x, reduce.add(load(x), reduce.narrow(total)));
                }
            }
        }
    }
    totals.fill([start; 2]);
    optimization_barrier(&totals);
}

/// Constants of a prime in every lane.
struct Reduce {
    q: uint32x4_t,
    inverse: uint32x4_t,
    two_64: uint32x4_t,
    two_96: uint32x4_t,
}

impl Reduce {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new(q: Modulus) -> Self {
        let [_, two_64, two_96] = q.limbs();
        let [q, inverse, two_64, two_96] = [q.value(), q.inverse(), two_64, two_96].map(|x| vdupq_n_u32(x));
        Self { q, inverse, two_64, two_96 }
    }

    /// x·2^-32 modulo q in (0, 2q), for x in [0, q·2^32).
    #[inline]
    #[target_feature(enable = "neon")]
    fn montgomery(&self, x: Wide) -> uint32x4_t {
        let words = |x: Wide| x.map(|x| vreinterpretq_u32_u64(x));
        let ([a, b], m) = (words(x), vmulq_u32(low(x), self.inverse));
        let [c, d] = words(multiply(m, self.q));
        vsubq_u32(vaddq_u32(vuzp2q_u32(a, b), self.q), vuzp2q_u32(c, d))
    }

    /// low + high·2^32 modulo q in (0, 2q), for both below 2^62.
    #[inline]
    #[target_feature(enable = "neon")]
    fn halves(&self, low: Wide, [a, b]: Wide) -> uint32x4_t {
        // (low·2^-32 + high)·2^-32·2^96·2^-32; the last product is below 2q·q < q·2^32.
        let low = self.montgomery(low);
        let sum = self.montgomery([vaddw_u32(a, vget_low_u32(low)), vaddw_high_u32(b, low)]);
        self.montgomery(multiply(sum, self.two_96))
    }

    /// x modulo q in (0, 2q), for x in [0, q·2^32).
    #[inline]
    #[target_feature(enable = "neon")]
    fn narrow(&self, x: Wide) -> uint32x4_t {
        self.montgomery(multiply(self.montgomery(x), self.two_64))
    }

    /// x + y modulo q for x in [0, q) and y in (0, 2q).
    #[inline]
    #[target_feature(enable = "neon")]
    fn add(&self, x: uint32x4_t, y: uint32x4_t) -> uint32x4_t {
        self.once(vaddq_u32(x, self.once(y)))
    }

    /// x mod q for x in [0, 2q): if x is less, x - q wraps to more.
    #[inline]
    #[target_feature(enable = "neon")]
    fn once(&self, x: uint32x4_t) -> uint32x4_t {
        vminq_u32(x, vsubq_u32(x, self.q))
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply(x: uint32x4_t, y: uint32x4_t) -> Wide {
    [vmull_u32(vget_low_u32(x), vget_low_u32(y)), vmull_high_u32(x, y)]
}

/// The low words.
#[inline]
#[target_feature(enable = "neon")]
fn low([a, b]: Wide) -> uint32x4_t {
    vuzp1q_u32(vreinterpretq_u32_u64(a), vreinterpretq_u32_u64(b))
}

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> Wide {
    [vdupq_n_u64(0); 2]
}

#[inline]
#[target_feature(enable = "neon")]
fn load(x: &[u32; 4]) -> uint32x4_t {
    // SAFETY: the array is 16 bytes long; any alignment will do.
    unsafe { vld1q_u32(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store(x: &mut [u32; 4], v: uint32x4_t) {
    // SAFETY: as above.
    unsafe { vst1q_u32(x.as_mut_ptr(), v) }
}
