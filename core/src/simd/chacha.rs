//! ChaCha: key streams, and functions of 128 secret bits.
//!
//! Key streams come sixteen blocks at a time with AVX-512 and eight with AVX2, a block per lane. (The crate `chacha20` does four with AVX2, a row per vector,
//! which waits for its own results half of the time.) Single blocks are made for processors of 32 bits whose instructions rotate one operand of a sum.

use zeroize::Zeroize;

/// Bytes of sixteen blocks.
pub(crate) const BATCH: usize = 1024;

/// The words of a block before its rounds: constants, key, counter and nonce (RFC 8439, with a block counter of 64 bits).
pub(crate) type State = [u32; 16];

/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The state of a key and a block's number, the nonce zero.
pub(crate) fn state(key: &[u8; 32], counter: u64) -> State {
    let mut state = [0; 16];
    state[..4].copy_from_slice(&CONSTANTS);
    for (word, bytes) in state[4..12].iter_mut().zip(key.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    [state[12], state[13]] = [counter as u32, (counter >> 32) as u32];
    state
}

/// Fills `out` with the blocks from that of `start` on, of twice `DOUBLE` rounds, or does nothing and says so where the processor has not what it takes.
pub(crate) fn fill<const DOUBLE: usize>(start: &State, out: &mut [[u8; BATCH]]) -> bool {
    #[cfg(target_arch = "x86_64")]
    match super::level() {
        super::Level::Avx512 => {
            // SAFETY: the processor has what the level stands for.
            unsafe { avx512::fill::<DOUBLE>(start, out) };
            return true;
        }
        super::Level::Avx2 => {
            // SAFETY: as above.
            unsafe { avx2::fill::<DOUBLE>(start, out.as_flattened_mut().as_chunks_mut().0) };
            return true;
        }
        super::Level::Base => {}
    }
    let _ = (start, out);
    false
}

/// Bytes of eight blocks.
const EIGHT: usize = BATCH / 2;

/// The same for eight blocks.
fn fill_eight<const DOUBLE: usize>(start: &State, out: &mut [u8; EIGHT]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if super::level() >= super::Level::Avx2 {
        // SAFETY: the processor has what the level stands for.
        unsafe { avx2::fill::<DOUBLE>(start, core::slice::from_mut(out)) };
        return true;
    }
    let _ = (start, out);
    false
}

/// Double rounds of functions whose inputs are related: ChaCha20.
const HASH: usize = 10;

/// Double rounds of streams under a key of their own: ChaCha12.
const STREAM: usize = 6;

/// What functions of 128 secret bits are bound to: public words at places 8 to 11, 14 and 15 of the state, with the secret at 4 to 7 and a number at 12 and 13. So the
/// function is ChaCha under the key (secret, four words), its counter the number and its nonce (two words); no two inputs give the same state.
#[derive(Clone, Copy)]
pub(crate) struct Binding([u32; 6]);

impl Binding {
    /// The first 24 bytes of a digest.
    pub(crate) fn new(digest: &[u8; 32]) -> Self {
        let mut words = [0; 6];
        words.iter_mut().zip(digest.as_chunks().0).for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
        Self(words)
    }

    #[inline(always)]
    fn state(&self, secret: u128, number: u64) -> State {
        let [c0, c1, c2, c3] = CONSTANTS;
        let [b0, b1, b2, b3, b4, b5] = self.0;
        let [s0, s1, s2, s3] = split(secret);
        [c0, c1, c2, c3, s0, s1, s2, s3, b0, b1, b2, b3, number as u32, (number >> 32) as u32, b4, b5]
    }

    /// Replaces each of `values` by the first 16 bytes of its block of ChaCha20. The first 2^`same` have the number `first`, as many then the
    /// next one, and so on.
    pub(crate) fn hash(&self, first: u64, same: u32, values: &mut [u128]) {
        let mut done = 0;
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            let (lanes, _) = values.as_chunks_mut();
            hash_side_by_side(self, first, same, lanes);
            done = lanes.len() * LANES;
        }
        let mut left = &mut values[done..];
        // Lanes may have ended within a number's values.
        let (mut number, mut room) = (first + (done as u64 >> same), (1 << same) - done % (1 << same));
        while !left.is_empty() {
            let (now, later) = left.split_at_mut(room.min(left.len()));
            for value in now {
                let mut x = self.state(*value, number);
                four_rounds(&mut x, HASH / 2);
                let [a, b, c, d] = CONSTANTS;
                // (A loop over words would become one.)
                *value = join([x[0].wrapping_add(a), x[1].wrapping_add(b), x[2].wrapping_add(c), x[3].wrapping_add(d)]);
            }
            (left, number, room) = (later, number + 1, 1 << same);
        }
    }

    /// The first 32 bytes of a block of ChaCha20.
    pub(crate) fn pair(&self, secret: u128, number: u64) -> [u128; 2] {
        let [a, b, c, d, e, f, g, h, ..] = block::<HASH>(&self.state(secret, number));
        [join([a, b, c, d]), join([e, f, g, h])]
    }

    /// Pieces of 16 bytes of a stream of ChaCha12, from number `first` on: four of them are a block.
    pub(crate) fn stream(&self, secret: u128, first: u64, mut out: &mut [[u8; 16]]) {
        let (mut number, mut begun) = (first / 4, (first % 4) as usize);
        while !out.is_empty() {
            let start = self.state(secret, number);
            let batches = if begun == 0 { out.as_flattened_mut().as_chunks_mut().0 } else { &mut [] };
            let count = batches.len();
            let taken = if count > 0 && fill::<STREAM>(&start, batches) {
                number += 16 * count as u64;
                count * PIECES
            } else {
                // Two blocks on their own take as long as eight side by side.
                let mut blocks = [0; EIGHT];
                if begun + out.len() > 8 && fill_eight::<STREAM>(&start, &mut blocks) {
                    number += 8;
                    let taken = copy(&blocks.as_chunks().0[begun..], out);
                    blocks[..].zeroize();
                    taken
                } else {
                    number += 1;
                    copy(&bytes(&block::<STREAM>(&start))[begun..], out)
                }
            };
            (out, begun) = (&mut out[taken..], 0);
        }
    }
}

/// Pieces of a batch.
const PIECES: usize = BATCH / 16;

/// Copies as many pieces as there are and room for; their number.
#[inline(always)]
fn copy(pieces: &[[u8; 16]], out: &mut [[u8; 16]]) -> usize {
    let count = pieces.len().min(out.len());
    out[..count].copy_from_slice(&pieces[..count]);
    count
}

#[inline(always)]
fn split(value: u128) -> [u32; 4] {
    [value as u32, (value >> 32) as u32, (value >> 64) as u32, (value >> 96) as u32]
}

#[inline(always)]
fn join([a, b, c, d]: [u32; 4]) -> u128 {
    u128::from(a) | u128::from(b) << 32 | u128::from(c) << 64 | u128::from(d) << 96
}

#[inline(always)]
fn bytes(block: &State) -> [[u8; 16]; 4] {
    let mut out = [[0; 16]; 4];
    let places = out.as_flattened_mut().as_chunks_mut().0;
    places.iter_mut().zip(block).for_each(|(place, word)| *place = word.to_le_bytes());
    out
}

/// A quarter round on words of which b and d lag behind by rotations: their values are b rotated to the left by $rb, and d by $rd. Each step then is one
/// instruction where an operand may be rotated. b lags by 19 more afterwards, and d by 24.
#[cfg(not(thumb2))]
macro_rules! quarter_round {
    ($x:ident, $a:literal, $b:literal, $c:literal, $d:literal, $rb:expr, $rd:expr) => {
        $x[$a] = $x[$a].wrapping_add($x[$b].rotate_left($rb % 32));
        $x[$d] ^= $x[$a].rotate_right($rd % 32);
        $x[$c] = $x[$c].wrapping_add($x[$d].rotate_left(($rd + 16) % 32));
        $x[$b] ^= $x[$c].rotate_right($rb % 32);
        $x[$a] = $x[$a].wrapping_add($x[$b].rotate_left(($rb + 12) % 32));
        $x[$d] ^= $x[$a].rotate_right(($rd + 16) % 32);
        $x[$c] = $x[$c].wrapping_add($x[$d].rotate_left(($rd + 24) % 32));
        $x[$b] ^= $x[$c].rotate_right(($rb + 12) % 32);
    };
}

/// Does four rounds on the words, `count` times.
#[cfg(not(thumb2))]
#[inline(always)]
fn four_rounds(x: &mut State, count: usize) {
    for _ in 0..count {
        quarter_round!(x, 0, 4, 8, 12, 0, 0);
        quarter_round!(x, 1, 5, 9, 13, 0, 0);
        quarter_round!(x, 2, 6, 10, 14, 0, 0);
        quarter_round!(x, 3, 7, 11, 15, 0, 0);
        quarter_round!(x, 0, 5, 10, 15, 19, 24);
        quarter_round!(x, 1, 6, 11, 12, 19, 24);
        quarter_round!(x, 2, 7, 8, 13, 19, 24);
        quarter_round!(x, 3, 4, 9, 14, 19, 24);
        quarter_round!(x, 0, 4, 8, 12, 38, 48);
        quarter_round!(x, 1, 5, 9, 13, 38, 48);
        quarter_round!(x, 2, 6, 10, 14, 38, 48);
        quarter_round!(x, 3, 7, 11, 15, 38, 48);
        quarter_round!(x, 0, 5, 10, 15, 57, 72);
        quarter_round!(x, 1, 6, 11, 12, 57, 72);
        quarter_round!(x, 2, 7, 8, 13, 57, 72);
        quarter_round!(x, 3, 4, 9, 14, 57, 72);
        // Four rounds turn d by three times 32, and b by 76.
        for b in &mut x[4..8] {
            *b = b.rotate_left(76 % 32);
        }
    }
}

#[cfg(thumb2)]
#[inline(always)]
fn four_rounds(x: &mut State, count: usize) {
    debug_assert!(count > 0);
    // SAFETY: the words are this function's to change, and no caller asks for no rounds.
    unsafe { super::chacha_arm::four_rounds(x, count as u32) };
}

/// A block: twice `DOUBLE` rounds, an even number of double rounds, and the sum with what was before them.
#[inline(always)]
fn block<const DOUBLE: usize>(start: &State) -> State {
    const { assert!(DOUBLE > 0 && DOUBLE.is_multiple_of(2)) };
    let mut x = *start;
    four_rounds(&mut x, DOUBLE / 2);
    core::array::from_fn(|i| x[i].wrapping_add(start[i]))
}

/// Blocks side by side, a block per lane.
const LANES: usize = 8;

#[inline(always)]
fn lanes(f: impl Fn(usize) -> u32) -> [u32; LANES] {
    core::array::from_fn(f)
}

#[inline(always)]
fn quarter_rounds(x: &mut [[u32; LANES]; 16], [a, b, c, d]: [usize; 4]) {
    x[a] = lanes(|i| x[a][i].wrapping_add(x[b][i]));
    x[d] = lanes(|i| (x[d][i] ^ x[a][i]).rotate_left(16));
    x[c] = lanes(|i| x[c][i].wrapping_add(x[d][i]));
    x[b] = lanes(|i| (x[b][i] ^ x[c][i]).rotate_left(12));
    x[a] = lanes(|i| x[a][i].wrapping_add(x[b][i]));
    x[d] = lanes(|i| (x[d][i] ^ x[a][i]).rotate_left(8));
    x[c] = lanes(|i| x[c][i].wrapping_add(x[d][i]));
    x[b] = lanes(|i| (x[b][i] ^ x[c][i]).rotate_left(7));
}

/// [`Binding::hash`] of as many as there are lanes at a time.
fn hash_side_by_side(binding: &Binding, first: u64, same: u32, values: &mut [[u128; LANES]]) {
    #[cfg(target_arch = "x86_64")]
    if super::level() >= super::Level::Avx2 {
        // SAFETY: the processor has what the level stands for.
        return unsafe { avx2::hash(binding, first, same, values) };
    }
    hash_lanes(binding, first, same, values);
}

/// The portable form.
fn hash_lanes(binding: &Binding, first: u64, same: u32, values: &mut [[u128; LANES]]) {
    for (values, before) in values.iter_mut().zip((0..).step_by(LANES)) {
        let number = |i: usize| first + ((before + i as u64) >> same);
        let start = binding.state(0, 0);
        let mut x = start.map(|word| [word; LANES]);
        for w in 0..4 {
            x[4 + w] = lanes(|i| (values[i] >> (32 * w)) as u32);
        }
        x[12] = lanes(|i| number(i) as u32);
        x[13] = lanes(|i| (number(i) >> 32) as u32);
        for _ in 0..HASH {
            for columns in [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]] {
                quarter_rounds(&mut x, columns);
            }
            for diagonals in [[0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]] {
                quarter_rounds(&mut x, diagonals);
            }
        }
        for (i, value) in values.iter_mut().enumerate() {
            *value = join(core::array::from_fn(|w| x[w][i].wrapping_add(start[w])));
        }
    }
}

/// The counter of a state.
#[cfg(target_arch = "x86_64")]
fn counter(state: &State) -> u64 {
    u64::from(state[12]) | u64::from(state[13]) << 32
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::BATCH;
    use core::arch::x86_64::*;

    /// Word i of sixteen blocks, a block per lane.
    type State = [__m512i; 16];

    #[target_feature(enable = "avx512f")]
    pub(super) fn fill<const DOUBLE: usize>(first: &super::State, out: &mut [[u8; BATCH]]) {
        let counter = super::counter(first);
        let mut start = [_mm512_setzero_si512(); 16];
        for (x, word) in start.iter_mut().zip(first) {
            *x = _mm512_set1_epi32(*word as i32);
        }
        for (out, batch) in out.iter_mut().zip(0..) {
            (start[12], start[13]) = counters(counter + 16 * batch);
            let mut x = start;
            for _ in 0..DOUBLE {
                for [a, b, c, d] in [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]] {
                    quarter_round(&mut x, a, b, c, d);
                }
                for [a, b, c, d] in [[0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]] {
                    quarter_round(&mut x, a, b, c, d);
                }
            }
            for (x, start) in x.iter_mut().zip(&start) {
                *x = _mm512_add_epi32(*x, *start);
            }
            for (block, x) in out.as_chunks_mut::<64>().0.iter_mut().zip(transpose(x)) {
                // SAFETY: a block is 64 bytes long; any alignment will do.
                unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), x) };
            }
        }
    }

    /// The low and the high words of sixteen consecutive numbers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn counters(first: u64) -> (__m512i, __m512i) {
        let low = _mm512_add_epi32(
            _mm512_set1_epi32(first as i32),
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        );
        let wrapped = _mm512_cmplt_epu32_mask(low, _mm512_set1_epi32(first as i32));
        let high = _mm512_set1_epi32((first >> 32) as i32);
        (low, _mm512_mask_add_epi32(high, wrapped, high, _mm512_set1_epi32(1)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn quarter_round(x: &mut State, a: usize, b: usize, c: usize, d: usize) {
        x[a] = _mm512_add_epi32(x[a], x[b]);
        x[d] = _mm512_rol_epi32::<16>(_mm512_xor_si512(x[d], x[a]));
        x[c] = _mm512_add_epi32(x[c], x[d]);
        x[b] = _mm512_rol_epi32::<12>(_mm512_xor_si512(x[b], x[c]));
        x[a] = _mm512_add_epi32(x[a], x[b]);
        x[d] = _mm512_rol_epi32::<8>(_mm512_xor_si512(x[d], x[a]));
        x[c] = _mm512_add_epi32(x[c], x[d]);
        x[b] = _mm512_rol_epi32::<7>(_mm512_xor_si512(x[b], x[c]));
    }

    /// Lane j of vector i to lane i of vector j.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transpose(x: State) -> State {
        let mut out = [_mm512_setzero_si512(); 16];
        // Within quarters of vectors: four vectors, of words 4i to 4i + 3, hold them of block 4q + j in quarter q of vector j.
        let mut parts = [[_mm512_setzero_si512(); 4]; 4];
        for (part, x) in parts.iter_mut().zip(x.as_chunks::<4>().0) {
            let (a, b) = (_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
            let (c, d) = (_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
            *part = [
                _mm512_unpacklo_epi64(a, c),
                _mm512_unpackhi_epi64(a, c),
                _mm512_unpacklo_epi64(b, d),
                _mm512_unpackhi_epi64(b, d),
            ];
        }
        for j in 0..4 {
            let [a, b, c, d] = [parts[0][j], parts[1][j], parts[2][j], parts[3][j]];
            let (low, high) =
                (_mm512_shuffle_i32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b));
            let (l, h) = (_mm512_shuffle_i32x4::<0b01_00_01_00>(c, d), _mm512_shuffle_i32x4::<0b11_10_11_10>(c, d));
            out[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low, l);
            out[j + 4] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low, l);
            out[j + 8] = _mm512_shuffle_i32x4::<0b10_00_10_00>(high, h);
            out[j + 12] = _mm512_shuffle_i32x4::<0b11_01_11_01>(high, h);
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Binding, EIGHT, HASH, LANES};
    use core::arch::x86_64::*;

    /// Four independent quarter rounds, step by step side by side. A macro, since the sixteen vectors must stay in registers.
    macro_rules! quarter_rounds {
        ($x:ident, $by_16:ident, $by_8:ident, $([$a:literal, $b:literal, $c:literal, $d:literal]),*) => {
            $($x[$a] = _mm256_add_epi32($x[$a], $x[$b]);)*
            $($x[$d] = _mm256_shuffle_epi8(_mm256_xor_si256($x[$d], $x[$a]), $by_16);)*
            $($x[$c] = _mm256_add_epi32($x[$c], $x[$d]);)*
            $($x[$b] = rotate::<12, 20>(_mm256_xor_si256($x[$b], $x[$c]));)*
            $($x[$a] = _mm256_add_epi32($x[$a], $x[$b]);)*
            $($x[$d] = _mm256_shuffle_epi8(_mm256_xor_si256($x[$d], $x[$a]), $by_8);)*
            $($x[$c] = _mm256_add_epi32($x[$c], $x[$d]);)*
            $($x[$b] = rotate::<7, 25>(_mm256_xor_si256($x[$b], $x[$c]));)*
        };
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn fill<const DOUBLE: usize>(first: &super::State, out: &mut [[u8; EIGHT]]) {
        let counter = super::counter(first);
        // Rotations by whole bytes are shuffles.
        let by_16 = _mm256_broadcastsi128_si256(_mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
        let by_8 = _mm256_broadcastsi128_si256(_mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14));
        // Word i of eight blocks, a block per lane.
        let mut start = [_mm256_setzero_si256(); 16];
        for (x, word) in start.iter_mut().zip(first) {
            *x = _mm256_set1_epi32(*word as i32);
        }
        for (out, part) in out.iter_mut().zip(0..) {
            (start[12], start[13]) = numbers(|i| counter + 8 * part + i as u64);
            let mut x = start;
            for _ in 0..DOUBLE {
                quarter_rounds!(x, by_16, by_8, [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]);
                quarter_rounds!(x, by_16, by_8, [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]);
            }
            for (x, start) in x.iter_mut().zip(&start) {
                *x = _mm256_add_epi32(*x, *start);
            }
            let (low, high) = x.split_at(8);
            for (block, halves) in
                out.as_chunks_mut::<64>().0.iter_mut().zip(transpose(low).into_iter().zip(transpose(high)))
            {
                let (low, high) = block.split_at_mut(32);
                // SAFETY: both are 32 bytes long; any alignment will do.
                unsafe {
                    _mm256_storeu_si256(low.as_mut_ptr().cast(), halves.0);
                    _mm256_storeu_si256(high.as_mut_ptr().cast(), halves.1);
                }
            }
        }
    }

    /// [`Binding::hash`] of eight at a time.
    #[target_feature(enable = "avx2")]
    pub(super) fn hash(binding: &Binding, first: u64, same: u32, values: &mut [[u128; LANES]]) {
        let by_16 = _mm256_broadcastsi128_si256(_mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
        let by_8 = _mm256_broadcastsi128_si256(_mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14));
        let mut start = [_mm256_setzero_si256(); 16];
        for (x, word) in start.iter_mut().zip(binding.state(0, 0)) {
            *x = _mm256_set1_epi32(word as i32);
        }
        for (values, before) in values.iter_mut().zip((0..).step_by(LANES)) {
            let mut x = start;
            let halves: *mut __m256i = values.as_mut_ptr().cast();
            // SAFETY: four vectors are eight values of 16 bytes; any alignment will do. (No map: closures are not compiled for the
            // instructions.)
            let pairs = unsafe {
                [
                    _mm256_loadu_si256(halves),
                    _mm256_loadu_si256(halves.add(1)),
                    _mm256_loadu_si256(halves.add(2)),
                    _mm256_loadu_si256(halves.add(3)),
                ]
            };
            [x[4], x[5], x[6], x[7]] = transpose_quarters(pairs);
            (x[12], x[13]) = numbers(|i| first + ((before + ORDER[i]) >> same));
            for _ in 0..HASH {
                quarter_rounds!(x, by_16, by_8, [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]);
                quarter_rounds!(x, by_16, by_8, [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]);
            }
            let sums = [
                _mm256_add_epi32(x[0], start[0]),
                _mm256_add_epi32(x[1], start[1]),
                _mm256_add_epi32(x[2], start[2]),
                _mm256_add_epi32(x[3], start[3]),
            ];
            let pairs = transpose_quarters(sums);
            // SAFETY: as above.
            unsafe {
                _mm256_storeu_si256(halves, pairs[0]);
                _mm256_storeu_si256(halves.add(1), pairs[1]);
                _mm256_storeu_si256(halves.add(2), pairs[2]);
                _mm256_storeu_si256(halves.add(3), pairs[3]);
            }
        }
    }

    /// Which value is in which lane after [`transpose_quarters`] of values two by two.
    const ORDER: [u64; LANES] = [0, 2, 4, 6, 1, 3, 5, 7];

    /// In either half of the vectors, word j of vector i to word i of vector j. Its own inverse.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn transpose_quarters(x: [__m256i; 4]) -> [__m256i; 4] {
        let (a, b) = (_mm256_unpacklo_epi32(x[0], x[1]), _mm256_unpackhi_epi32(x[0], x[1]));
        let (c, d) = (_mm256_unpacklo_epi32(x[2], x[3]), _mm256_unpackhi_epi32(x[2], x[3]));
        [
            _mm256_unpacklo_epi64(a, c),
            _mm256_unpackhi_epi64(a, c),
            _mm256_unpacklo_epi64(b, d),
            _mm256_unpackhi_epi64(b, d),
        ]
    }

    /// The low and the high words of eight numbers.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn numbers(number: impl Fn(usize) -> u64) -> (__m256i, __m256i) {
        let words = |word: fn(u64) -> u32| {
            let [a, b, c, d, e, f, g, h] = core::array::from_fn(|i| word(number(i)) as i32);
            _mm256_setr_epi32(a, b, c, d, e, f, g, h)
        };
        (words(|x| x as u32), words(|x| (x >> 32) as u32))
    }

    /// Rotates words to the left; the second shift is 32 less the first.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn rotate<const LEFT: i32, const RIGHT: i32>(x: __m256i) -> __m256i {
        _mm256_or_si256(_mm256_slli_epi32::<LEFT>(x), _mm256_srli_epi32::<RIGHT>(x))
    }

    /// Lane j of vector i to lane i of vector j, of eight vectors.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn transpose(x: &[__m256i]) -> [__m256i; 8] {
        let mut parts = [[_mm256_setzero_si256(); 4]; 2];
        for (part, x) in parts.iter_mut().zip(x.as_chunks::<4>().0) {
            let (a, b) = (_mm256_unpacklo_epi32(x[0], x[1]), _mm256_unpackhi_epi32(x[0], x[1]));
            let (c, d) = (_mm256_unpacklo_epi32(x[2], x[3]), _mm256_unpackhi_epi32(x[2], x[3]));
            *part = [
                _mm256_unpacklo_epi64(a, c),
                _mm256_unpackhi_epi64(a, c),
                _mm256_unpacklo_epi64(b, d),
                _mm256_unpackhi_epi64(b, d),
            ];
        }
        let [low, high] = parts;
        core::array::from_fn(|i| match i {
            0..4 => _mm256_permute2x128_si256::<0x20>(low[i], high[i]),
            _ => _mm256_permute2x128_si256::<0x31>(low[i - 4], high[i - 4]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::at_each_level;
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    /// The rounds as RFC 8439 (section 2.1) writes them.
    fn reference(start: &State, rounds: usize) -> State {
        let mut x = *start;
        let mut quarter = |[a, b, c, d]: [usize; 4]| {
            for (a, b, d, by) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
                x[a] = x[a].wrapping_add(x[b]);
                x[d] = (x[d] ^ x[a]).rotate_left(by);
            }
        };
        for round in 0..rounds {
            for i in 0..4 {
                let place = |row: usize| 4 * row + (i + row * (round % 2)) % 4;
                quarter([place(0), place(1), place(2), place(3)]);
            }
        }
        core::array::from_fn(|i| x[i].wrapping_add(start[i]))
    }

    #[test]
    fn a_block_is_that_of_rfc_8439() {
        // Section 2.3.2: key 00 01 .. 1f, nonce 00:00:00:09:00:00:00:4a:00:00:00:00, counter 1.
        let mut start = state(&core::array::from_fn(|i| i as u8), 1 | 0x0900_0000 << 32);
        start[14] = 0x4a00_0000;
        let expected = [0xe4e7_f110, 0x1559_3bd1, 0x1fdd_0f50, 0xc471_20a3];
        assert_eq!(block::<10>(&start)[..4], expected);
        assert_eq!(reference(&start, 20)[..4], expected);
        assert_eq!(block::<6>(&start), reference(&start, 12));
    }

    #[test]
    fn functions_are_parts_of_blocks_at_each_level() {
        let binding = Binding::new(&core::array::from_fn(|i| 3 * i as u8));
        let secret = |n: u64| u128::from(n).wrapping_mul(0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978);
        let words = |block: State| block.as_chunks().0.iter().map(|w| join(*w)).collect::<Vec<u128>>();
        for first in [0, 1, 7, (1 << 32) - 3, (1 << 34) - 6] {
            for count in [0, 1, 3, 8, 9, 31, 63, 64, 67, 140] {
                let hashed: Vec<u128> =
                    (first..).take(count).map(|n| words(reference(&binding.state(secret(n), n), 20))[0]).collect();
                let stream = |n: u64| words(reference(&binding.state(secret(5), n / 4), 12))[n as usize % 4];
                let streamed: Vec<u128> = (first..).take(count).map(stream).collect();
                at_each_level(|level| {
                    let mut values: Vec<u128> = (first..).take(count).map(secret).collect();
                    binding.hash(first, 0, &mut values);
                    assert!(values == hashed, "{level:?}, {count} from {first}");
                    let mut values: Vec<u128> = (first..).take(count).map(secret).collect();
                    binding.hash(first, 2, &mut values);
                    let number = |i: usize| first + i as u64 / 4;
                    let expected = (first..).zip(0..).map(|(n, i)| reference(&binding.state(secret(n), number(i)), 20));
                    assert!(
                        expected.map(|block| words(block)[0]).take(count).eq(values),
                        "{level:?}, {count} from {first}"
                    );
                    let mut pieces = vec![[0; 16]; count];
                    binding.stream(secret(5), first, &mut pieces);
                    let pieces: Vec<u128> = pieces.into_iter().map(u128::from_le_bytes).collect();
                    assert!(pieces == streamed, "{level:?}, {count} from {first}");
                });
            }
            assert_eq!(binding.pair(secret(9), first)[..], words(reference(&binding.state(secret(9), first), 20))[..2]);
        }
    }

    #[test]
    fn every_word_of_the_binding_counts() {
        let binding = Binding::new(&[0; 32]);
        for i in 0..24 {
            let mut digest = [0; 32];
            digest[i] = 1;
            assert_ne!(Binding::new(&digest).pair(1, 2), binding.pair(1, 2));
        }
        assert_ne!(binding.pair(1, 2), binding.pair(2, 1));
    }
}
