//! The transform with AVX-512 IFMA: eight coefficients per vector, each in 64 bits of which the multiplier reads 52.
//!
//! A product by a constant w after Shoup, with beta = 2^52: for y in [0, 2^52), h = floor(y·floor(w·beta/q)/beta), and w·y - h·q is in [0, q +
//! q·y/beta), which is in [0, 2q). It takes three multiplications, one for h and two for the difference modulo beta. With 21 bits above the
//! prime, values need no reduction on the way: sums grow, and the next multiplication takes whatever they have become.
//! Bits from 52 up are of no meaning throughout, since the multiplier ignores them and sums do not carry down.
//!
//! Three stages at a time are done in registers, on eight vectors. Before the last three the eight vectors are transposed, so that
//! these stages too work between vectors.

use super::roots::{FIRST_OCTET, wide_quotient};
use super::transform::Transform;
use core::arch::x86_64::*;
use core::hint::black_box;

/// Whether transforms of this degree are implemented.
pub(super) const fn serves(degree: usize) -> bool {
    degree == 4096 || degree == 8192
}

/// A constant factor w and floor(w·2^52/q), the same or another one in each lane.
#[derive(Clone, Copy)]
struct Root {
    value: __m512i,
    quotient: __m512i,
}

/// The roots of three stages: one for the first, two for the second, four for the third.
type Roots = [Root; 7];

/// Constants of a prime in every lane.
#[derive(Clone, Copy)]
struct Prime {
    q: __m512i,
    /// -q modulo 2^52.
    minus: __m512i,
}

impl Prime {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(t: &Transform) -> Self {
        let q = t.modulus.value() as i64;
        Self { q: _mm512_set1_epi64(q), minus: _mm512_set1_epi64((1 << 52) - q) }
    }

    /// x + w·y, w·y as its representative in [0, 2q).
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn add_product(self, x: __m512i, y: __m512i, w: Root) -> __m512i {
        let h = _mm512_madd52hi_epu64(_mm512_setzero_si512(), y, w.quotient);
        _mm512_madd52lo_epu64(_mm512_madd52lo_epu64(x, y, w.value), h, self.minus)
    }

    /// (x + w·y, x - w·y). The second is at least x - 2q.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn forward(self, v: &mut [__m512i], i: usize, j: usize, w: Root) {
        let sum = self.add_product(v[i], v[j], w);
        v[j] = _mm512_sub_epi64(_mm512_add_epi64(v[i], v[i]), sum);
        v[i] = sum;
    }

    /// Three stages on eight vectors: from [0, b) to [0, b + 12q).
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn forward8(self, v: &mut [__m512i; 8], w: &Roots) {
        // Each stage takes up to 2q from the left side of a pair. Factors must not be negative, so a value gets as
        // much before as it may lose until it is a factor: in three, two, one or no stages.
        let twice = _mm512_add_epi64(self.q, self.q);
        let four = _mm512_add_epi64(twice, twice);
        v[0] = _mm512_add_epi64(v[0], _mm512_add_epi64(four, twice));
        v[1] = _mm512_add_epi64(v[1], four);
        v[2] = _mm512_add_epi64(v[2], twice);
        v[3] = _mm512_add_epi64(v[3], twice);
        for i in 0..4 {
            self.forward(v, i, i + 4, w[0]);
        }
        for i in 0..2 {
            self.forward(v, i, i + 2, w[1]);
            self.forward(v, i + 4, i + 6, w[2]);
        }
        for i in 0..4 {
            self.forward(v, 2 * i, 2 * i + 1, w[3 + i]);
        }
    }

    /// (x + y, (y - x)·w), the first in [0, 2b), the second in [0, 2q), for x and y in [0, b), b a multiple of q and at most 2^51.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn inverse(self, v: &mut [__m512i], i: usize, j: usize, b: __m512i, w: Root) {
        let difference = _mm512_sub_epi64(_mm512_add_epi64(v[j], b), v[i]);
        v[i] = _mm512_add_epi64(v[i], v[j]);
        v[j] = self.add_product(_mm512_setzero_si512(), difference, w);
    }

    /// Three stages on eight vectors: from [0, b) to [0, 8b), b = 2^bits·q.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn inverse8<const BITS: u32>(self, v: &mut [__m512i; 8], w: &Roots) {
        self.inverse4::<BITS>(v, w);
        let b = _mm512_add_epi64(self.shifted::<BITS>(), self.shifted::<BITS>());
        let b = _mm512_add_epi64(b, b);
        for i in 0..4 {
            self.inverse(v, i, i + 4, b, w[0]);
        }
    }

    /// The first two of these stages: to [0, 4b).
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn inverse4<const BITS: u32>(self, v: &mut [__m512i; 8], w: &Roots) {
        let b = self.shifted::<BITS>();
        for i in 0..4 {
            self.inverse(v, 2 * i, 2 * i + 1, b, w[6 - i]);
        }
        let b = _mm512_add_epi64(b, b);
        for i in 0..2 {
            self.inverse(v, i, i + 2, b, w[2]);
            self.inverse(v, i + 4, i + 6, b, w[1]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn shifted<const BITS: u32>(self) -> __m512i {
        _mm512_slli_epi64::<BITS>(self.q)
    }

    /// x mod q for sixteen values of 32 bits in [0, 2q).
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn reduce_once(self, x: __m512i) -> __m512i {
        let q = _mm512_or_si512(self.q, _mm512_slli_epi64::<32>(self.q));
        _mm512_min_epu32(x, _mm512_sub_epi32(x, q))
    }
}

/// Coefficients to values, in place.
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn forward(t: &Transform, a: &mut [u32]) {
    match t.degree {
        4096 => forward_of::<512>(t, a),
        _ => forward_of::<1024>(t, a),
    }
}

/// Values to coefficients, in place.
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn inverse(t: &Transform, a: &mut [u32]) {
    match t.degree {
        4096 => inverse_of::<512>(t, a),
        _ => inverse_of::<1024>(t, a),
    }
}

/// N = 8·V.
#[target_feature(enable = "avx512f,avx512ifma")]
fn forward_of<const V: usize>(t: &Transform, a: &mut [u32]) {
    let prime = Prime::new(t);
    let mut wide = [[0u64; 8]; V];
    let columns = V / 8;
    let roots = broadcast(t, 1);
    let input = a.as_chunks::<8>().0;
    for c in 0..columns {
        let mut v: [__m512i; 8] = core::array::from_fn(|r| widen(&input[r * columns + c]));
        prime.forward8(&mut v, &roots);
        for (r, v) in v.into_iter().enumerate() {
            store(&mut wide[r * columns + c], v);
        }
    }
    // Below 13q.
    for (b, block) in wide.chunks_exact_mut(columns).enumerate() {
        match block.as_chunks_mut::<64>().0 {
            [block] => forward_columns(prime, block, &broadcast(t, 8 + b)),
            blocks => {
                let root = broadcast_one(t, 8 + b);
                let twice = _mm512_add_epi64(prime.q, prime.q);
                let [low, high] = blocks else { unreachable!() };
                for (x, y) in low.iter_mut().zip(high.iter_mut()) {
                    let mut v = [_mm512_add_epi64(load(x), twice), load(y)];
                    prime.forward(&mut v, 0, 1, root);
                    store(x, v[0]);
                    store(y, v[1]);
                }
                // Below 17q.
                forward_columns(prime, low, &broadcast(t, 16 + 2 * b));
                forward_columns(prime, high, &broadcast(t, 17 + 2 * b));
            }
        }
    }
    // Below 29q, and at the end below 53q < 2^37.
    let output = a.as_chunks_mut::<16>().0.as_chunks_mut::<4>().0;
    for (c, (block, out)) in wide.as_chunks::<8>().0.iter().zip(output).enumerate() {
        let mut v = block.each_ref().map(|x| load(x));
        prime.forward8(&mut v, &broadcast(t, columns + c));
        let mut v = transpose(v);
        prime.forward8(&mut v, &octet(t, columns + c));
        store_reduced(t, prime, v, out);
    }
    wide.fill([0; 8]);
    black_box(&mut wide);
}

/// Three stages on 512 values, at distances of 256, 128 and 64.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn forward_columns(prime: Prime, block: &mut [[u64; 8]; 64], roots: &Roots) {
    for c in 0..8 {
        let mut v: [__m512i; 8] = core::array::from_fn(|r| load(&block[8 * r + c]));
        prime.forward8(&mut v, roots);
        for (r, v) in v.into_iter().enumerate() {
            store(&mut block[8 * r + c], v);
        }
    }
}

/// Sixty-four values below 2^40, the i-th of lane j being the (8j + i)-th, reduced to [0, q) and put in order.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn store_reduced(t: &Transform, prime: Prime, v: [__m512i; 8], out: &mut [[u32; 16]; 4]) {
    let barrett = _mm512_set1_epi64((1 << 52) / i64::from(t.modulus.value()));
    // x·floor(2^52/q)/2^52 is at most x/q, and above x/q - x/2^52 - 1: the remainder is in [0, 2q), as it is below q + q·x/2^52.
    let v = v.map(|x| {
        let h = _mm512_madd52hi_epu64(_mm512_setzero_si512(), x, barrett);
        _mm512_madd52lo_epu64(x, h, prime.minus)
    });
    // Pairs of neighbours, then two perfect shuffles for the order of pairs.
    let pair = |i: usize| _mm512_mask_blend_epi32(0xaaaa, v[2 * i], _mm512_slli_epi64::<32>(v[2 * i + 1]));
    let [a, b, c, d] = [pair(0), pair(1), pair(2), pair(3)];
    let ([a, c], [b, d]) = (shuffle(a, c), shuffle(b, d));
    let ([a, b], [c, d]) = (shuffle(a, b), shuffle(c, d));
    for (out, x) in out.iter_mut().zip([a, b, c, d]) {
        store_words(out, prime.reduce_once(x));
    }
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn inverse_of<const V: usize>(t: &Transform, a: &mut [u32]) {
    let prime = Prime::new(t);
    let mut wide = [[0u64; 8]; V];
    let columns = V / 8;
    // The roots of block i of m stand, negated, at 2m - 1 - i.
    let input = a.as_chunks::<16>().0.as_chunks::<4>().0;
    for (c, (block, input)) in wide.as_chunks_mut::<8>().0.iter_mut().zip(input).enumerate() {
        let node = 2 * columns - 1 - c;
        let mut v = load_reversed(input);
        prime.inverse8::<0>(&mut v, &octet(t, node));
        let mut v = transpose_back(v);
        prime.inverse8::<3>(&mut v, &broadcast(t, node));
        for (out, x) in block.iter_mut().zip(v) {
            store(out, x);
        }
    }
    for (b, block) in wide.chunks_exact_mut(columns).enumerate() {
        match block.as_chunks_mut::<64>().0 {
            [block] => inverse_columns(prime, block, &broadcast(t, 15 - b)),
            blocks => {
                let [low, high] = blocks else { unreachable!() };
                inverse_columns(prime, low, &broadcast(t, 31 - 2 * b));
                inverse_columns(prime, high, &broadcast(t, 30 - 2 * b));
                let root = broadcast_one(t, 15 - b);
                for (x, y) in low.iter_mut().zip(high.iter_mut()) {
                    let mut v = [load(x), load(y)];
                    prime.inverse(&mut v, 0, 1, prime.shifted::<9>(), root);
                    store(x, v[0]);
                    store(y, v[1]);
                }
            }
        }
    }
    // Below 2^10·q; the last stage, from below 2^12·q, together with the division by N.
    let roots = broadcast(t, 1);
    let q = u64::from(t.modulus.value());
    let scale = t.degree_inverse.value;
    let last = (u64::from(scale) * u64::from(t.roots.values[1]) % q) as u32;
    let [scale, last] = [scale, last].map(|w| Root {
        value: _mm512_set1_epi64(i64::from(w)),
        quotient: _mm512_set1_epi64(wide_quotient(t.modulus, w) as i64),
    });
    let zero = _mm512_setzero_si512();
    let output = a.as_chunks_mut::<16>().0;
    for c in 0..columns / 2 {
        let [even, odd] = [0, 1].map(|side| {
            let mut v: [__m512i; 8] = core::array::from_fn(|r| load(&wide[r * columns + 2 * c + side]));
            prime.inverse4::<10>(&mut v, &roots);
            for i in 0..4 {
                let difference = _mm512_sub_epi64(_mm512_add_epi64(v[i + 4], prime.shifted::<12>()), v[i]);
                v[i] = prime.add_product(zero, _mm512_add_epi64(v[i], v[i + 4]), scale);
                v[i + 4] = prime.add_product(zero, difference, last);
            }
            v
        });
        for r in 0..8 {
            let x = _mm512_permutex2var_epi32(even[r], low_words(), odd[r]);
            store_words(&mut output[r * columns / 2 + c], prime.reduce_once(x));
        }
    }
    wide.fill([0; 8]);
    black_box(&mut wide);
}

/// Three stages on 512 values, at distances of 64, 128 and 256.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn inverse_columns(prime: Prime, block: &mut [[u64; 8]; 64], roots: &Roots) {
    for c in 0..8 {
        let mut v: [__m512i; 8] = core::array::from_fn(|r| load(&block[8 * r + c]));
        prime.inverse8::<6>(&mut v, roots);
        for (r, v) in v.into_iter().enumerate() {
            store(&mut block[8 * r + c], v);
        }
    }
}

/// The roots below a block of a stage, its own first: the entries `node`, 2·`node` and the next, 4·`node` and the three next.
#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(t: &Transform, node: usize) -> Roots {
    core::array::from_fn(|i| {
        let stage = (i + 1).ilog2();
        broadcast_one(t, (node << stage) + i + 1 - (1 << stage))
    })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast_one(t: &Transform, index: usize) -> Root {
    let roots = &t.roots.vectors;
    Root {
        value: _mm512_set1_epi64(roots.wide_values[index] as i64),
        quotient: _mm512_set1_epi64(roots.wide_quotients[index] as i64),
    }
}

/// The roots below the eight blocks below a block, a lane for each.
#[inline]
#[target_feature(enable = "avx512f")]
fn octet(t: &Transform, node: usize) -> Roots {
    let roots = &t.roots.vectors;
    let (values, quotients) = (&roots.values[node - FIRST_OCTET], &roots.octet_wide_quotients[node - FIRST_OCTET]);
    core::array::from_fn(|i| Root { value: widen(&values[i]), quotient: load(&quotients[i]) })
}

/// Lane by lane alternating: (a0, b0, a1, b1, ..., a3, b3), (a4, b4, ...).
#[inline]
#[target_feature(enable = "avx512f")]
fn shuffle(a: __m512i, b: __m512i) -> [__m512i; 2] {
    let low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    let high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    [_mm512_permutex2var_epi64(a, low, b), _mm512_permutex2var_epi64(a, high, b)]
}

/// The inverse of [`shuffle`].
#[inline]
#[target_feature(enable = "avx512f")]
fn unshuffle(a: __m512i, b: __m512i) -> [__m512i; 2] {
    let even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    let odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
    [_mm512_permutex2var_epi64(a, even, b), _mm512_permutex2var_epi64(a, odd, b)]
}

/// Lane j of vector i to lane i of vector j.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(v: [__m512i; 8]) -> [__m512i; 8] {
    // Each round makes the highest bit of the vector's number the lowest of the lane's, and the lane's highest takes its place.
    let round = |v: [__m512i; 8]| {
        let [p, q, r, s] = [shuffle(v[0], v[4]), shuffle(v[1], v[5]), shuffle(v[2], v[6]), shuffle(v[3], v[7])];
        [p[0], p[1], q[0], q[1], r[0], r[1], s[0], s[1]]
    };
    round(round(round(v)))
}

/// Sixty-four values in order, the (8·(7 - j) + i)-th to lane j of vector i.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_reversed(input: &[[u32; 16]; 4]) -> [__m512i; 8] {
    let [a, b, c, d] = input.each_ref().map(|x| load_words(x));
    // As `unshuffle`, halves exchanged.
    let even = _mm512_setr_epi64(4, 6, 0, 2, 12, 14, 8, 10);
    let odd = _mm512_setr_epi64(5, 7, 1, 3, 13, 15, 9, 11);
    let first = |a, b| [_mm512_permutex2var_epi64(a, even, b), _mm512_permutex2var_epi64(a, odd, b)];
    let ([a, c], [b, d]) = (first(b, a), first(d, c));
    let ([a, b], [c, d]) = (unshuffle(b, a), unshuffle(d, c));
    let low = _mm512_set1_epi64(0xffff_ffff);
    let [a, b, c, d] = [a, c, b, d].map(|x| [_mm512_and_si512(x, low), _mm512_srli_epi64::<32>(x)]);
    [a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]]
}

/// Lane j of vector i to lane i of vector 7 - j.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_back(v: [__m512i; 8]) -> [__m512i; 8] {
    let v = transpose(v);
    [v[7], v[6], v[5], v[4], v[3], v[2], v[1], v[0]]
}

/// The low words of the lanes of two vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn low_words() -> __m512i {
    _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[u64; 8]) -> __m512i {
    // SAFETY: the array is 64 bytes long; any alignment will do.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(x: &mut [u64; 8], v: __m512i) {
    // SAFETY: as above.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_words(x: &[u32; 16]) -> __m512i {
    // SAFETY: as above.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_words(x: &mut [u32; 16], v: __m512i) {
    // SAFETY: as above.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen(x: &[u32; 8]) -> __m512i {
    // SAFETY: the array is 32 bytes long; any alignment will do.
    _mm512_cvtepu32_epi64(unsafe { _mm256_loadu_si256(x.as_ptr().cast()) })
}
