//! The transform with AVX2: eight coefficients per vector, products by constants as in the portable form.
//!
//! Three stages at a time are done in registers, on eight vectors. Before the last three the eight vectors are transposed, so that
//! these stages too work between vectors.

use super::modulus::Factor;
use super::roots::FIRST_OCTET;
use super::transform::Transform;
use core::arch::x86_64::*;

/// Whether transforms of this degree are implemented.
pub(super) const fn serves(degree: usize) -> bool {
    degree == 4096 || degree == 8192
}

/// A constant factor w, the same or another one in each lane, and floor(w·2^32/q) of the even and of the odd lanes.
#[derive(Clone, Copy)]
struct Root {
    value: __m256i,
    even: __m256i,
    odd: __m256i,
}

/// The roots of three stages: one for the first, two for the second, four for the third. Where each serves one block only, they come from the
/// table as they are needed: there are too few registers to hold them.
trait Roots: Fn(usize) -> Root {}

impl<F: Fn(usize) -> Root> Roots for F {}

/// The prime in every lane.
#[derive(Clone, Copy)]
struct Prime(__m256i);

impl Prime {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(t: &Transform) -> Self {
        Self(_mm256_set1_epi32(t.modulus.value() as i32))
    }

    /// x mod q for x in [0, 2q): if x is less, x - q wraps to more.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn reduce_once(self, x: __m256i) -> __m256i {
        _mm256_min_epu32(x, _mm256_sub_epi32(x, self.0))
    }

    /// w·y mod q for any y.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn mul(self, y: __m256i, w: Root) -> __m256i {
        let even = _mm256_srli_epi64::<32>(_mm256_mul_epu32(y, w.even));
        let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(y), w.odd);
        let high = _mm256_blend_epi32::<0b1010_1010>(even, odd);
        self.reduce_once(_mm256_sub_epi32(_mm256_mullo_epi32(y, w.value), _mm256_mullo_epi32(high, self.0)))
    }

    /// (x + w·y, x - w·y): from [0, 2q) to [0, 2q).
    #[inline]
    #[target_feature(enable = "avx2")]
    fn forward(self, v: &mut [__m256i; 8], i: usize, j: usize, w: Root) {
        let x = self.reduce_once(v[i]);
        let wy = self.mul(v[j], w);
        v[i] = _mm256_add_epi32(x, wy);
        v[j] = _mm256_sub_epi32(_mm256_add_epi32(x, self.0), wy);
    }

    /// Three stages on eight vectors.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn forward8(self, v: &mut [__m256i; 8], w: impl Roots) {
        for i in 0..4 {
            self.forward(v, i, i + 4, w(0));
        }
        for i in 0..2 {
            self.forward(v, i, i + 2, w(1));
            self.forward(v, i + 4, i + 6, w(2));
        }
        for i in 0..4 {
            self.forward(v, 2 * i, 2 * i + 1, w(3 + i));
        }
    }

    /// (x + y, (y - x)·w): from [0, q) to [0, q).
    #[inline]
    #[target_feature(enable = "avx2")]
    fn inverse(self, v: &mut [__m256i; 8], i: usize, j: usize, w: Root) {
        let (x, y) = (v[i], v[j]);
        v[i] = self.reduce_once(_mm256_add_epi32(x, y));
        v[j] = self.mul(_mm256_sub_epi32(_mm256_add_epi32(y, self.0), x), w);
    }

    /// The last two of three stages back, then the first.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn inverse8(self, v: &mut [__m256i; 8], w: impl Roots) {
        self.inverse4(v, &w);
        for i in 0..4 {
            self.inverse(v, i, i + 4, w(0));
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn inverse4(self, v: &mut [__m256i; 8], w: &impl Roots) {
        for i in 0..4 {
            self.inverse(v, 2 * i, 2 * i + 1, w(6 - i));
        }
        for i in 0..2 {
            self.inverse(v, i, i + 2, w(2));
            self.inverse(v, i + 4, i + 6, w(1));
        }
    }
}

/// Coefficients to values, in place.
#[target_feature(enable = "avx2")]
pub(super) fn forward(t: &Transform, a: &mut [u32]) {
    let prime = Prime::new(t);
    let a = a.as_chunks_mut::<8>().0;
    // Vectors of a part of the polynomial; eight of them, or sixteen, are to be transformed one by one.
    let part = a.len() / 8;
    forward_columns(prime, a, &broadcast(t, 1));
    for (b, part) in a.chunks_exact_mut(part).enumerate() {
        if part.len() == 64 {
            forward_columns(prime, part, &broadcast(t, 8 + b));
        } else {
            let root = broadcast_one(t, 8 + b);
            let (low, high) = part.split_at_mut(64);
            for (x, y) in low.iter_mut().zip(high.iter_mut()) {
                let mut v = [_mm256_setzero_si256(); 8];
                (v[0], v[1]) = (load(x), load(y));
                prime.forward(&mut v, 0, 1, root);
                store(x, v[0]);
                store(y, v[1]);
            }
            forward_columns(prime, low, &broadcast(t, 16 + 2 * b));
            forward_columns(prime, high, &broadcast(t, 17 + 2 * b));
        }
    }
    for (c, block) in a.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let mut v = block.each_ref().map(|x| load(x));
        prime.forward8(&mut v, |i| below(t, part + c, i));
        let mut v = transpose(v);
        prime.forward8(&mut v, |i| octet(t, part + c, i));
        for (x, v) in block.iter_mut().zip(transpose(v)) {
            store(x, prime.reduce_once(v));
        }
    }
}

/// Values to coefficients, in place.
#[target_feature(enable = "avx2")]
pub(super) fn inverse(t: &Transform, a: &mut [u32]) {
    let prime = Prime::new(t);
    let a = a.as_chunks_mut::<8>().0;
    let part = a.len() / 8;
    // The roots of block i of m stand, negated, at 2m - 1 - i: lanes hold the blocks in reverse.
    for (c, block) in a.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let node = 2 * part - 1 - c;
        let [a, b, c, d, e, f, g, h] = block.each_ref().map(|x| load(x));
        let mut v = transpose([h, g, f, e, d, c, b, a]);
        prime.inverse8(&mut v, |i| octet(t, node, i));
        let [a, b, c, d, e, f, g, h] = transpose(v);
        let mut v = [h, g, f, e, d, c, b, a];
        prime.inverse8(&mut v, |i| below(t, node, i));
        for (x, v) in block.iter_mut().zip(v) {
            store(x, v);
        }
    }
    for (b, part) in a.chunks_exact_mut(part).enumerate() {
        if part.len() == 64 {
            inverse_columns(prime, part, &broadcast(t, 15 - b));
        } else {
            let (low, high) = part.split_at_mut(64);
            inverse_columns(prime, low, &broadcast(t, 31 - 2 * b));
            inverse_columns(prime, high, &broadcast(t, 30 - 2 * b));
            let root = broadcast_one(t, 15 - b);
            for (x, y) in low.iter_mut().zip(high.iter_mut()) {
                let mut v = [_mm256_setzero_si256(); 8];
                (v[0], v[1]) = (load(x), load(y));
                prime.inverse(&mut v, 0, 1, root);
                store(x, v[0]);
                store(y, v[1]);
            }
        }
    }
    // The last stage together with the division by N.
    let roots = broadcast(t, 1);
    let scale = constant(t.degree_inverse);
    let last = constant(t.modulus.factor(t.modulus.mul(t.roots.values[1], t.degree_inverse)));
    for c in 0..part {
        let mut v: [__m256i; 8] = core::array::from_fn(|r| load(&a[r * part + c]));
        prime.inverse4(&mut v, &|i: usize| roots[i]);
        for i in 0..4 {
            let (x, y) = (v[i], v[i + 4]);
            v[i] = prime.mul(_mm256_add_epi32(x, y), scale);
            v[i + 4] = prime.mul(_mm256_sub_epi32(_mm256_add_epi32(y, prime.0), x), last);
        }
        for (r, v) in v.into_iter().enumerate() {
            store(&mut a[r * part + c], v);
        }
    }
}

/// Three stages, at distances of 1/2, 1/4 and 1/8 of the length.
#[inline]
#[target_feature(enable = "avx2")]
fn forward_columns(prime: Prime, block: &mut [[u32; 8]], roots: &[Root; 7]) {
    let columns = block.len() / 8;
    for c in 0..columns {
        let mut v: [__m256i; 8] = core::array::from_fn(|r| load(&block[r * columns + c]));
        prime.forward8(&mut v, |i| roots[i]);
        for (r, v) in v.into_iter().enumerate() {
            store(&mut block[r * columns + c], v);
        }
    }
}

/// Three stages, at distances of 1/8, 1/4 and 1/2 of the length.
#[inline]
#[target_feature(enable = "avx2")]
fn inverse_columns(prime: Prime, block: &mut [[u32; 8]], roots: &[Root; 7]) {
    let columns = block.len() / 8;
    for c in 0..columns {
        let mut v: [__m256i; 8] = core::array::from_fn(|r| load(&block[r * columns + c]));
        prime.inverse8(&mut v, |i| roots[i]);
        for (r, v) in v.into_iter().enumerate() {
            store(&mut block[r * columns + c], v);
        }
    }
}

/// The roots below a block of a stage, its own first: the entries `node`, 2·`node` and the next, 4·`node` and the three next.
#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(t: &Transform, node: usize) -> [Root; 7] {
    core::array::from_fn(|i| below(t, node, i))
}

/// Number `i` of them.
#[inline]
#[target_feature(enable = "avx2")]
fn below(t: &Transform, node: usize, i: usize) -> Root {
    let stage = (i + 1).ilog2();
    broadcast_one(t, (node << stage) + i + 1 - (1 << stage))
}

#[inline]
#[target_feature(enable = "avx2")]
fn broadcast_one(t: &Transform, index: usize) -> Root {
    constant(t.roots.factor(index))
}

#[inline]
#[target_feature(enable = "avx2")]
fn constant(w: Factor) -> Root {
    let quotient = _mm256_set1_epi32(w.quotient as i32);
    Root { value: _mm256_set1_epi32(w.value as i32), even: quotient, odd: quotient }
}

/// Number `i` of the roots below the eight blocks below a block, a lane for each.
#[inline]
#[target_feature(enable = "avx2")]
fn octet(t: &Transform, node: usize, i: usize) -> Root {
    let roots = &t.roots.vectors;
    let even = load(&roots.quotients[node - FIRST_OCTET][i]);
    Root { value: load(&roots.values[node - FIRST_OCTET][i]), even, odd: _mm256_srli_epi64::<32>(even) }
}

/// Lane j of vector i to lane i of vector j.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(v: [__m256i; 8]) -> [__m256i; 8] {
    let words = |a, b| [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)];
    let pairs = |a, b| [_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)];
    // Four vectors: in each half of them, lane j of vector i to lane i of vector j.
    let quarter = |a, b, c, d| {
        let ([a, b], [c, d]) = (words(a, b), words(c, d));
        let ([a, b], [c, d]) = (pairs(a, c), pairs(b, d));
        [a, b, c, d]
    };
    let low = quarter(v[0], v[1], v[2], v[3]);
    let high = quarter(v[4], v[5], v[6], v[7]);
    core::array::from_fn(|i| match i {
        0..4 => _mm256_permute2x128_si256::<0x20>(low[i], high[i]),
        _ => _mm256_permute2x128_si256::<0x31>(low[i - 4], high[i - 4]),
    })
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[u32; 8]) -> __m256i {
    // SAFETY: the array is 32 bytes long; any alignment will do.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(x: &mut [u32; 8], v: __m256i) {
    // SAFETY: as above.
    unsafe { _mm256_storeu_si256(x.as_mut_ptr().cast(), v) }
}
