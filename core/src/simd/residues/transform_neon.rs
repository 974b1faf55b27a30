//! The transform with NEON: four coefficients per vector, as signed words in [-q, q).
//!
//! A product by a constant w is reduced after Barrett with a rounded quotient (Becker, Hwang, Kannwischer, Yang and Yang, "Neon NTT", TCHES 2022):
//! with w centred and w' = round(w·2^31/q), h = round(y·w'/2^31) is one instruction, and w·y - h·q two more. As w' is within 1/2 of w·2^31/q and h
//! within 1/2 of y·w'/2^31, |w·y - h·q| <= q/2 + |y|·q/2^32, which is below q for all |y| <= q < 2^31.
//!
//! Four stages at a time are done in registers, on sixteen vectors. The last four are those of sixteen neighbours: two between four vectors, and
//! two more after these are transposed. A transform of 8192 is a stage and two transforms of 4096, each of which stays in the first-level cache.

use super::roots::SignedFactor;
use super::transform::Transform;
use core::arch::aarch64::*;

/// Whether transforms of this degree are implemented.
pub(super) const fn serves(degree: usize) -> bool {
    degree == HALF || degree == 2 * HALF
}

/// Coefficients that are transformed in three passes of four stages.
const HALF: usize = 4096;

/// A centred constant factor w, the same or another one in each lane, and round(w·2^31/q).
#[derive(Clone, Copy)]
struct Root {
    value: int32x4_t,
    quotient: int32x4_t,
}

/// The roots of four stages from number 1 on: one for the first, two for the second, and so on.
type Roots = [Root; 16];

/// The prime in every lane.
#[derive(Clone, Copy)]
struct Prime(int32x4_t);

impl Prime {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new(t: &Transform) -> Self {
        Self(vdupq_n_s32(t.modulus.value() as i32))
    }

    /// w·y modulo q in (-q, q), for any y.
    #[inline]
    #[target_feature(enable = "neon")]
    fn mul(self, y: int32x4_t, w: Root) -> int32x4_t {
        vmlsq_s32(vmulq_s32(y, w.value), vqrdmulhq_s32(y, w.quotient), self.0)
    }

    /// x mod q for x in [-q, q): as an unsigned word a negative x is above 2^31 and above x + q.
    #[inline]
    #[target_feature(enable = "neon")]
    fn reduce(self, x: int32x4_t) -> int32x4_t {
        min(x, vaddq_s32(x, self.0))
    }

    /// (x + w·y, x - w·y): from [-q, q) to [-q, q).
    #[inline]
    #[target_feature(enable = "neon")]
    fn forward<const N: usize>(self, v: &mut [int32x4_t; N], i: usize, j: usize, w: Root) {
        let (x, wy) = (self.reduce(v[i]), self.mul(v[j], w));
        // In [-q, 0), by the argument of `reduce`.
        let wy = max(wy, vsubq_s32(wy, self.0));
        v[i] = vaddq_s32(x, wy);
        v[j] = vsubq_s32(vsubq_s32(x, self.0), wy);
    }

    /// Four stages on sixteen vectors.
    #[inline]
    #[target_feature(enable = "neon")]
    fn forward16(self, v: &mut [int32x4_t; 16], w: &Roots) {
        for i in 0..8 {
            self.forward(v, i, i + 8, w[1]);
        }
        for i in 0..4 {
            self.forward(v, i, i + 4, w[2]);
            self.forward(v, i + 8, i + 12, w[3]);
        }
        for i in 0..4 {
            self.forward(v, 4 * i, 4 * i + 2, w[4 + i]);
            self.forward(v, 4 * i + 1, 4 * i + 3, w[4 + i]);
        }
        for i in 0..8 {
            self.forward(v, 2 * i, 2 * i + 1, w[8 + i]);
        }
    }

    /// (x + y, (y - x)·w): from [0, q) to [0, q).
    #[inline]
    #[target_feature(enable = "neon")]
    fn inverse<const N: usize>(self, v: &mut [int32x4_t; N], i: usize, j: usize, w: Root) {
        let (sum, difference) = (vaddq_s32(v[i], v[j]), vsubq_s32(v[j], v[i]));
        // As unsigned words: the sum is below 2q, and if it is below q, it less q wraps to more.
        v[i] = min(sum, vsubq_s32(sum, self.0));
        v[j] = self.reduce(self.mul(difference, w));
    }

    /// The last three of four stages back. Roots of a stage come in reverse: see [`super::transform`].
    #[inline]
    #[target_feature(enable = "neon")]
    fn inverse_inner(self, v: &mut [int32x4_t; 16], w: &Roots) {
        for i in 0..8 {
            self.inverse(v, 2 * i, 2 * i + 1, w[15 - i]);
        }
        for i in 0..4 {
            self.inverse(v, 4 * i, 4 * i + 2, w[7 - i]);
            self.inverse(v, 4 * i + 1, 4 * i + 3, w[7 - i]);
        }
        for i in 0..4 {
            self.inverse(v, i, i + 4, w[3]);
            self.inverse(v, i + 8, i + 12, w[2]);
        }
    }

    /// The same and the first.
    #[inline]
    #[target_feature(enable = "neon")]
    fn inverse16(self, v: &mut [int32x4_t; 16], w: &Roots) {
        self.inverse_inner(v, w);
        for i in 0..8 {
            self.inverse(v, i, i + 8, w[1]);
        }
    }

    /// The last stage together with the division by N, `scale`; `last` is the root over N: from [0, q) to [0, q).
    #[inline]
    #[target_feature(enable = "neon")]
    fn inverse_last(self, v: &mut [int32x4_t; 16], i: usize, j: usize, scale: Root, last: Root) {
        let (x, y) = (v[i], v[j]);
        // x - q + y is in [-q, q), as a factor must be.
        v[i] = self.reduce(self.mul(vaddq_s32(vsubq_s32(x, self.0), y), scale));
        v[j] = self.reduce(self.mul(vsubq_s32(y, x), last));
    }
}

/// Coefficients to values, in place.
#[target_feature(enable = "neon")]
pub(super) fn forward(t: &Transform, a: &mut [u32]) {
    let prime = Prime::new(t);
    let a = a.as_chunks_mut::<4>().0;
    if a.len() == HALF / 4 {
        return forward_half(t, a, 1);
    }
    let root = broadcast_one(t, 1);
    let (low, high) = a.split_at_mut(HALF / 4);
    for (x, y) in low.iter_mut().zip(high.iter_mut()) {
        let mut v = [load(x), load(y)];
        prime.forward(&mut v, 0, 1, root);
        store(x, v[0]);
        store(y, v[1]);
    }
    forward_half(t, low, 2);
    forward_half(t, high, 3);
}

/// All stages below `node` on 4096 residues, from [-q, q) to [0, q).
#[target_feature(enable = "neon")]
fn forward_half(t: &Transform, a: &mut [[u32; 4]], node: usize) {
    let prime = Prime::new(t);
    forward_columns(prime, a, &broadcast(t, node));
    for (block, node) in a.chunks_exact_mut(64).zip(16 * node..) {
        forward_columns(prime, block, &broadcast(t, node));
        for (vectors, node) in block.as_chunks_mut::<4>().0.iter_mut().zip(16 * node..) {
            let mut v = vectors.each_ref().map(|x| load(x));
            let w = [broadcast_one(t, node), broadcast_one(t, 2 * node), broadcast_one(t, 2 * node + 1)];
            prime.forward(&mut v, 0, 2, w[0]);
            prime.forward(&mut v, 1, 3, w[0]);
            prime.forward(&mut v, 0, 1, w[1]);
            prime.forward(&mut v, 2, 3, w[2]);
            let mut v = transpose(v);
            let (w, [even, odd]) = (lanes(t, 4 * node), pairs(t, 8 * node));
            prime.forward(&mut v, 0, 2, w);
            prime.forward(&mut v, 1, 3, w);
            prime.forward(&mut v, 0, 1, even);
            prime.forward(&mut v, 2, 3, odd);
            for (x, v) in vectors.iter_mut().zip(transpose(v)) {
                store(x, prime.reduce(v));
            }
        }
    }
}

/// Values to coefficients, in place.
#[target_feature(enable = "neon")]
pub(super) fn inverse(t: &Transform, a: &mut [u32]) {
    let prime = Prime::new(t);
    let q = t.modulus;
    let a = a.as_chunks_mut::<4>().0;
    let scale = constant(SignedFactor::new(q, t.degree_inverse.value));
    let last = constant(SignedFactor::new(q, q.mul(t.roots.values[1], t.degree_inverse)));
    if a.len() == HALF / 4 {
        inverse_half(t, a, 1);
        let roots = broadcast(t, 1);
        for c in 0..64 {
            let mut v: [int32x4_t; 16] = core::array::from_fn(|r| load(&a[64 * r + c]));
            prime.inverse_inner(&mut v, &roots);
            for i in 0..8 {
                prime.inverse_last(&mut v, i, i + 8, scale, last);
            }
            for (r, v) in v.into_iter().enumerate() {
                store(&mut a[64 * r + c], v);
            }
        }
        return;
    }
    let (low, high) = a.split_at_mut(HALF / 4);
    for (half, node) in [(&mut *low, 3), (&mut *high, 2)] {
        inverse_half(t, half, node);
        inverse_columns(prime, half, &broadcast(t, node));
    }
    for (x, y) in low.iter_mut().zip(high.iter_mut()) {
        let mut v = [prime.0; 16];
        (v[0], v[1]) = (load(x), load(y));
        prime.inverse_last(&mut v, 0, 1, scale, last);
        store(x, v[0]);
        store(y, v[1]);
    }
}

/// The stages of 4096 residues but for the last four. The roots of block i of m stand, negated, at 2m - 1 - i; `node` is where those of the whole do.
#[target_feature(enable = "neon")]
fn inverse_half(t: &Transform, a: &mut [[u32; 4]], node: usize) {
    let prime = Prime::new(t);
    for (b, block) in a.chunks_exact_mut(64).enumerate() {
        let node = 16 * node + 15 - b;
        for (c, vectors) in block.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let node = 16 * node + 15 - c;
            // Lanes hold the blocks of four in reverse, as their roots lie.
            let [a, b, c, d] = vectors.each_ref().map(|x| load(x));
            let mut v = transpose([d, c, b, a]);
            let (w, [even, odd]) = (lanes(t, 4 * node), pairs(t, 8 * node));
            prime.inverse(&mut v, 0, 1, odd);
            prime.inverse(&mut v, 2, 3, even);
            prime.inverse(&mut v, 0, 2, w);
            prime.inverse(&mut v, 1, 3, w);
            let [d, c, b, a] = transpose(v);
            let mut v = [a, b, c, d];
            let w = [broadcast_one(t, node), broadcast_one(t, 2 * node), broadcast_one(t, 2 * node + 1)];
            prime.inverse(&mut v, 0, 1, w[2]);
            prime.inverse(&mut v, 2, 3, w[1]);
            prime.inverse(&mut v, 0, 2, w[0]);
            prime.inverse(&mut v, 1, 3, w[0]);
            for (x, v) in vectors.iter_mut().zip(v) {
                store(x, v);
            }
        }
        inverse_columns(prime, block, &broadcast(t, node));
    }
}

/// Four stages, at distances of 1/2, 1/4, 1/8 and 1/16 of the length.
#[inline]
#[target_feature(enable = "neon")]
fn forward_columns(prime: Prime, block: &mut [[u32; 4]], roots: &Roots) {
    let columns = block.len() / 16;
    for c in 0..columns {
        let mut v: [int32x4_t; 16] = core::array::from_fn(|r| load(&block[r * columns + c]));
        prime.forward16(&mut v, roots);
        for (r, v) in v.into_iter().enumerate() {
            store(&mut block[r * columns + c], v);
        }
    }
}

/// Four stages, at distances of 1/16, 1/8, 1/4 and 1/2 of the length.
#[inline]
#[target_feature(enable = "neon")]
fn inverse_columns(prime: Prime, block: &mut [[u32; 4]], roots: &Roots) {
    let columns = block.len() / 16;
    for c in 0..columns {
        let mut v: [int32x4_t; 16] = core::array::from_fn(|r| load(&block[r * columns + c]));
        prime.inverse16(&mut v, roots);
        for (r, v) in v.into_iter().enumerate() {
            store(&mut block[r * columns + c], v);
        }
    }
}

/// The roots below a block of a stage, its own at place 1: the entries `node`, 2·`node` and the next, 4·`node` and the three next, and so on.
#[inline]
#[target_feature(enable = "neon")]
fn broadcast(t: &Transform, node: usize) -> Roots {
    core::array::from_fn(|i| {
        let stage = i.max(1).ilog2();
        broadcast_one(t, (node << stage) + i.max(1) - (1 << stage))
    })
}

#[inline]
#[target_feature(enable = "neon")]
fn broadcast_one(t: &Transform, index: usize) -> Root {
    let roots = &t.roots.signed;
    constant(SignedFactor { value: roots.values[index], quotient: roots.quotients[index] })
}

#[inline]
#[target_feature(enable = "neon")]
fn constant(w: SignedFactor) -> Root {
    Root { value: vdupq_n_s32(w.value), quotient: vdupq_n_s32(w.quotient) }
}

/// Four entries from a multiple of four on, a lane for each.
#[inline]
#[target_feature(enable = "neon")]
fn lanes(t: &Transform, index: usize) -> Root {
    let roots = &t.roots.signed;
    let four = |x: &[i32]| {
        let x = &x[index..index + 4];
        // SAFETY: the slice has four words; any alignment will do.
        unsafe { vld1q_s32(x.as_ptr()) }
    };
    Root { value: four(&roots.values), quotient: four(&roots.quotients) }
}

/// Eight entries: those of even and those of odd places.
#[inline]
#[target_feature(enable = "neon")]
fn pairs(t: &Transform, index: usize) -> [Root; 2] {
    let (a, b) = (lanes(t, index), lanes(t, index + 4));
    [
        Root { value: vuzp1q_s32(a.value, b.value), quotient: vuzp1q_s32(a.quotient, b.quotient) },
        Root { value: vuzp2q_s32(a.value, b.value), quotient: vuzp2q_s32(a.quotient, b.quotient) },
    ]
}

/// Lane j of vector i to lane i of vector j.
#[inline]
#[target_feature(enable = "neon")]
fn transpose([a, b, c, d]: [int32x4_t; 4]) -> [int32x4_t; 4] {
    let wide = |x| vreinterpretq_s64_s32(x);
    let words = |x| vreinterpretq_s32_s64(x);
    let (p, q) = (wide(vtrn1q_s32(a, b)), wide(vtrn2q_s32(a, b)));
    let (r, s) = (wide(vtrn1q_s32(c, d)), wide(vtrn2q_s32(c, d)));
    [words(vtrn1q_s64(p, r)), words(vtrn1q_s64(q, s)), words(vtrn2q_s64(p, r)), words(vtrn2q_s64(q, s))]
}

/// The lesser of words as unsigned ones.
#[inline]
#[target_feature(enable = "neon")]
fn min(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    vreinterpretq_s32_u32(vminq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)))
}

/// The greater of words as unsigned ones.
#[inline]
#[target_feature(enable = "neon")]
fn max(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    vreinterpretq_s32_u32(vmaxq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)))
}

#[inline]
#[target_feature(enable = "neon")]
fn load(x: &[u32; 4]) -> int32x4_t {
    // SAFETY: the array is 16 bytes long; any alignment will do.
    unsafe { vreinterpretq_s32_u32(vld1q_u32(x.as_ptr())) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store(x: &mut [u32; 4], v: int32x4_t) {
    // SAFETY: as above.
    unsafe { vst1q_u32(x.as_mut_ptr(), vreinterpretq_u32_s32(v)) }
}
