//! The ChaCha20 key stream, sixteen blocks at a time with AVX-512 and eight with AVX2, a block per lane. Elsewhere the crate `chacha20` does it
//! all; with AVX2 it does four, a row per vector, which waits for its own results half of the time.

/// Bytes of sixteen blocks.
pub(crate) const BATCH: usize = 1024;

/// Fills `out` with the blocks of a key from number `counter` on, the nonce zero (RFC 8439 with a block counter of 64 bits), or does nothing
/// and says so where the processor has not what it takes.
pub(crate) fn fill(key: &[u8; 32], counter: u64, out: &mut [[u8; BATCH]]) -> bool {
    #[cfg(target_arch = "x86_64")]
    match super::level() {
        super::Level::Avx512 => {
            // SAFETY: the processor has what the level stands for.
            unsafe { avx512::fill(key, counter, out) };
            return true;
        }
        super::Level::Avx2 => {
            // SAFETY: as above.
            unsafe { avx2::fill(key, counter, out) };
            return true;
        }
        super::Level::Base => {}
    }
    let _ = (key, counter, out);
    false
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::BATCH;
    use core::arch::x86_64::*;

    /// Word i of sixteen blocks, a block per lane.
    type State = [__m512i; 16];

    #[target_feature(enable = "avx512f")]
    pub(super) fn fill(key: &[u8; 32], counter: u64, out: &mut [[u8; BATCH]]) {
        let constants = b"expand 32-byte k".as_chunks::<4>().0.iter();
        let mut start = [_mm512_setzero_si512(); 16];
        for (x, word) in start.iter_mut().zip(constants.chain(key.as_chunks::<4>().0)) {
            *x = _mm512_set1_epi32(i32::from_le_bytes(*word));
        }
        for (out, batch) in out.iter_mut().zip(0..) {
            (start[12], start[13]) = counters(counter + 16 * batch);
            let mut x = start;
            for _ in 0..10 {
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
    use super::BATCH;
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
    pub(super) fn fill(key: &[u8; 32], counter: u64, out: &mut [[u8; BATCH]]) {
        // Rotations by whole bytes are shuffles.
        let by_16 = _mm256_broadcastsi128_si256(_mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
        let by_8 = _mm256_broadcastsi128_si256(_mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14));
        let constants = b"expand 32-byte k".as_chunks::<4>().0.iter();
        // Word i of eight blocks, a block per lane.
        let mut start = [_mm256_setzero_si256(); 16];
        for (x, word) in start.iter_mut().zip(constants.chain(key.as_chunks::<4>().0)) {
            *x = _mm256_set1_epi32(i32::from_le_bytes(*word));
        }
        for (out, part) in out.as_flattened_mut().as_chunks_mut::<{ BATCH / 2 }>().0.iter_mut().zip(0..) {
            (start[12], start[13]) = counters(counter + 8 * part);
            let mut x = start;
            for _ in 0..10 {
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

    /// The low and the high words of eight consecutive numbers.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn counters(first: u64) -> (__m256i, __m256i) {
        let words = |word: fn(u64) -> u32| {
            let [a, b, c, d, e, f, g, h] = core::array::from_fn(|i| word(first + i as u64) as i32);
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
