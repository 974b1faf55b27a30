//! Sums of products of words by weights of 16 bits, modulo 2^32.
//!
//! Processors multiply 16-bit numbers in pairs, adding both products to a 32-bit word, far faster than 32-bit numbers. So a
//! word is *split*: x = low + 2^16 · high with low in [-2^15, 2^15), and modulo 2^32 only the low 16 bits of high matter.
//! Then w · x = w · low + 2^16 · (w · high), where both sums of w · low and of w · high are taken modulo 2^32.
//! All weights of 16 bits are right: even 2 · 2^15 · 2^15 is, modulo 2^32.

#[cfg(target_arch = "x86_64")]
use super::super::Level;
use super::super::{level, multiversion};
use alloc::vec::Vec;

/// Words that a strip of [`tile`] has.
pub(crate) const STRIP: usize = 32;

multiversion! {
    /// Splits pairs of words: `low[i]` holds the lower parts of `first[i]` and `second[i]` as two 16-bit numbers, the first's in
    /// the low half, and `high[i]` the upper parts.
    pub(crate) fn split_pairs(first: &[u32], second: &[u32], low: &mut [u32], high: &mut [u32]) {
        for (((&a, &b), low), high) in first.iter().zip(second).zip(low).zip(high) {
            *low = a & 0xffff | b << 16;
            *high = a.wrapping_add(0x8000) >> 16 | b.wrapping_add(0x8000) & 0xffff_0000;
        }
    }

    /// Adds a multiple of words to others.
    pub(crate) fn add_multiple(words: &[u32], multiplier: u32, sums: &mut [u32]) {
        for (sum, &word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(word.wrapping_mul(multiplier));
        }
    }

    /// Splits words into parts of their own.
    pub(crate) fn split(words: &[u32], low: &mut [i16], high: &mut [i16]) {
        for ((&word, low), high) in words.iter().zip(low).zip(high) {
            *low = word as i16;
            *high = (word.wrapping_add(0x8000) >> 16) as i16;
        }
    }
}

/// Two weights as [`tile`] takes them, for a pair of [`split_pairs`].
pub(crate) fn weight_pair(first: i16, second: i16) -> u32 {
    u32::from(first as u16) | u32::from(second as u16) << 16
}

/// For O outputs, the sums of products at [`STRIP`] neighbouring positions.
///
/// `planes` has a pair of planes of `stride` words, low and high, for each pair of channels. Output o at position i is the
/// sum, over pairs k and taps t, of the weights `weights[k · taps + t][o]` times the words at `start + offsets[t] + i` of
/// planes k.
pub(crate) fn tile<const O: usize>(
    planes: &[u32],
    stride: usize,
    start: usize,
    offsets: &[usize],
    weights: &[[u32; O]],
) -> [[u32; STRIP]; O] {
    let pairs = planes.chunks_exact(2 * stride).zip(weights.chunks_exact(offsets.len()));
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if x86::has_vnni() => {
            // SAFETY: the processor has AVX-512 F by the level, and VNNI.
            unsafe { x86::tile_vnni(pairs, stride, start, offsets) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 => {
            // SAFETY: the processor has AVX2 by the level.
            unsafe { x86::tile_avx2(pairs, stride, start, offsets) }
        }
        _ => tile_portable(pairs, stride, start, offsets),
    }
}

/// Scratch for one tap of a pair of planes: its lower words at 8 positions, then its upper words.
pub(crate) type Column = [u32; 16];

/// Columns that fit the nearest cache beside the weights of a tile.
pub(crate) const COLUMNS: usize = 320;

/// Fewest tiles that are worth gathering columns.
pub(crate) const LEAST_TILES: usize = 3;

/// What [`tile`] computes, for several tiles at the same positions.
///
/// `columns` is scratch: at least one for each tap, and best [`COLUMNS`].
pub(crate) fn tiles<const O: usize>(
    planes: &[u32],
    stride: usize,
    (start, offsets): (usize, &[usize]),
    weights: &[Vec<[u32; O]>],
    columns: &mut [Column],
    sums: &mut [[[u32; STRIP]; O]],
) {
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 if weights.len() >= LEAST_TILES => {
            let pairs = (columns.len() / offsets.len()).max(1);
            // SAFETY: the processor has AVX2 by the level.
            unsafe {
                x86::tiles_avx2(planes.chunks(2 * stride * pairs), stride, (start, offsets), weights, columns, sums)
            }
        }
        _ => {
            // For those above alone.
            let _ = columns;
            for (weights, sums) in weights.iter().zip(sums) {
                *sums = tile(planes, stride, start, offsets, weights);
            }
        }
    }
}

/// The words at a position of a pair of planes: low, then high.
#[inline(always)]
fn strip<const N: usize>(planes: &[u32], stride: usize, start: usize) -> (&[u32; N], &[u32; N]) {
    let (low, high) = planes.split_at(stride);
    match (low[start..].first_chunk(), high[start..].first_chunk()) {
        (Some(low), Some(high)) => (low, high),
        _ => outside(),
    }
}

#[cold]
#[allow(clippy::panic)] // a mistake of the calling code, whose planes have public sizes
fn outside() -> ! {
    panic!("strip: expected it inside the plane")
}

/// The definition of [`tile`]: words put together again, and multiplied as they are.
fn tile_portable<'a, const O: usize>(
    pairs: impl Iterator<Item = (&'a [u32], &'a [[u32; O]])>,
    stride: usize,
    start: usize,
    offsets: &[usize],
) -> [[u32; STRIP]; O] {
    let mut sums = [[0u32; STRIP]; O];
    for (planes, weights) in pairs {
        for (&offset, weights) in offsets.iter().zip(weights) {
            let (low, high) = strip::<STRIP>(planes, stride, start + offset);
            let first: [u32; STRIP] = core::array::from_fn(|i| (low[i] as i16 as u32).wrapping_add(high[i] << 16));
            let second: [u32; STRIP] =
                core::array::from_fn(|i| ((low[i] as i32 >> 16) as u32).wrapping_add(high[i] & 0xffff_0000));
            for (sums, &pair) in sums.iter_mut().zip(weights) {
                let [a, b] = [pair as i16 as u32, (pair as i32 >> 16) as u32];
                for i in 0..STRIP {
                    sums[i] = sums[i].wrapping_add(a.wrapping_mul(first[i])).wrapping_add(b.wrapping_mul(second[i]));
                }
            }
        }
    }
    sums
}

/// The sum of the products of weights and words, which come [`split`]. All of one length.
pub(crate) fn dot(weights: &[i16], low: &[i16], high: &[i16]) -> u32 {
    match level() {
        // SAFETY: the processor has AVX2 by the level.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 => unsafe { x86::dot_avx2(weights, low, high) },
        _ => dot_portable(weights, low, high),
    }
}

/// The definition of [`dot`].
fn dot_portable(weights: &[i16], low: &[i16], high: &[i16]) -> u32 {
    let products = weights.iter().zip(low).zip(high).map(|((&w, &low), &high)| {
        let word = (low as u32).wrapping_add((high as u32) << 16);
        (w as u32).wrapping_mul(word)
    });
    products.fold(0, u32::wrapping_add)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Column, STRIP, dot_portable, strip};
    use alloc::vec::Vec;
    use core::arch::x86_64::*;
    use core::sync::atomic::{AtomicU8, Ordering};

    /// Whether there is VNNI: 0 before it was found out, then 1 for no and 2 for yes. `cpufeatures` does not know it.
    static VNNI: AtomicU8 = AtomicU8::new(0);

    /// Whether the processor has AVX-512 VNNI, given that it has AVX-512 (and so leaf 7 of CPUID).
    #[inline]
    pub(super) fn has_vnni() -> bool {
        match VNNI.load(Ordering::Relaxed) {
            0 => {
                let found = __cpuid_count(7, 0).ecx >> 11 & 1 == 1;
                VNNI.store(1 + u8::from(found), Ordering::Relaxed);
                found
            }
            known => known == 2,
        }
    }

    /// Both vectors of a strip at once, so that 4 outputs keep 16 sums under way: as many as hide the latency.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn tile_vnni<'a, const O: usize>(
        pairs: impl Iterator<Item = (&'a [u32], &'a [[u32; O]])>,
        stride: usize,
        start: usize,
        offsets: &[usize],
    ) -> [[u32; STRIP]; O] {
        let mut lows = [[_mm512_setzero_si512(); 2]; O];
        let mut highs = lows;
        for (planes, weights) in pairs {
            for (&offset, weights) in offsets.iter().zip(weights) {
                let (low, high) = strip::<STRIP>(planes, stride, start + offset);
                for o in 0..O {
                    let weight = _mm512_set1_epi32(weights[o] as i32);
                    for half in 0..2 {
                        // SAFETY: both arrays have twice 16 words.
                        let (low, high) = unsafe {
                            let at = 16 * half;
                            (
                                _mm512_loadu_si512(low.as_ptr().add(at).cast()),
                                _mm512_loadu_si512(high.as_ptr().add(at).cast()),
                            )
                        };
                        lows[o][half] = _mm512_dpwssd_epi32(lows[o][half], low, weight);
                        highs[o][half] = _mm512_dpwssd_epi32(highs[o][half], high, weight);
                    }
                }
            }
        }
        let mut sums = [[0; STRIP]; O];
        for o in 0..O {
            for half in 0..2 {
                let sum = _mm512_add_epi32(lows[o][half], _mm512_slli_epi32::<16>(highs[o][half]));
                // SAFETY: the array has twice 16 words.
                unsafe { _mm512_storeu_si512(sums[o].as_mut_ptr().add(16 * half).cast(), sum) };
            }
        }
        sums
    }

    /// A strip in four passes of 8 words, as many as 16 registers take.
    #[target_feature(enable = "avx2")]
    pub(super) fn tile_avx2<'a, const O: usize>(
        pairs: impl Iterator<Item = (&'a [u32], &'a [[u32; O]])> + Clone,
        stride: usize,
        start: usize,
        offsets: &[usize],
    ) -> [[u32; STRIP]; O] {
        let mut sums = [[0; STRIP]; O];
        for pass in (0..STRIP).step_by(8) {
            let mut lows = [_mm256_setzero_si256(); O];
            let mut highs = lows;
            for (planes, weights) in pairs.clone() {
                for (&offset, weights) in offsets.iter().zip(weights) {
                    let (low, high) = strip::<8>(planes, stride, start + offset + pass);
                    // SAFETY: both arrays have 8 words.
                    let (low, high) =
                        unsafe { (_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())) };
                    for o in 0..O {
                        let weight = _mm256_set1_epi32(weights[o] as i32);
                        lows[o] = _mm256_add_epi32(lows[o], _mm256_madd_epi16(low, weight));
                        highs[o] = _mm256_add_epi32(highs[o], _mm256_madd_epi16(high, weight));
                    }
                }
            }
            for o in 0..O {
                let sum = _mm256_add_epi32(lows[o], _mm256_slli_epi32::<16>(highs[o]));
                // SAFETY: pass + 8 is at most STRIP.
                unsafe { _mm256_storeu_si256(sums[o].as_mut_ptr().add(pass).cast(), sum) };
            }
        }
        sums
    }

    /// Tiles of 8 words one after another. All of them read the same words, which lie wide apart in the planes and across
    /// cache lines; so these are first gathered, for as many pairs of planes as the nearest cache holds.
    #[target_feature(enable = "avx2")]
    pub(super) fn tiles_avx2<'a, const O: usize>(
        parts: impl Iterator<Item = &'a [u32]> + Clone,
        stride: usize,
        (start, offsets): (usize, &[usize]),
        weights: &[Vec<[u32; O]>],
        columns: &mut [Column],
        sums: &mut [[[u32; STRIP]; O]],
    ) {
        sums.fill([[0; STRIP]; O]);
        for pass in (0..STRIP).step_by(8) {
            let mut done = 0;
            for planes in parts.clone() {
                let taps =
                    planes.chunks_exact(2 * stride).flat_map(|pair| offsets.iter().map(move |offset| (pair, offset)));
                let mut count = 0;
                for (column, (pair, offset)) in columns.iter_mut().zip(taps) {
                    let (low, high) = strip::<8>(pair, stride, start + offset + pass);
                    column[..8].copy_from_slice(low);
                    column[8..].copy_from_slice(high);
                    count += 1;
                }
                for (weights, sums) in weights.iter().zip(&mut *sums) {
                    let strips = products_avx2(&columns[..count], &weights[done..done + count]);
                    for (sums, strip) in sums.iter_mut().zip(strips) {
                        // SAFETY: pass + 8 is at most STRIP.
                        unsafe {
                            let at = sums.as_mut_ptr().add(pass).cast();
                            _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), strip));
                        }
                    }
                }
                done += count;
            }
        }
    }

    /// The sums of products of columns and weights, at 8 positions for each output.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn products_avx2<const O: usize>(columns: &[Column], weights: &[[u32; O]]) -> [__m256i; O] {
        let mut lows = [_mm256_setzero_si256(); O];
        let mut highs = lows;
        for (column, weights) in columns.iter().zip(weights) {
            // SAFETY: a column has twice 8 words.
            let (low, high) = unsafe {
                (_mm256_loadu_si256(column.as_ptr().cast()), _mm256_loadu_si256(column.as_ptr().add(8).cast()))
            };
            for o in 0..O {
                let weight = _mm256_set1_epi32(weights[o] as i32);
                lows[o] = _mm256_add_epi32(lows[o], _mm256_madd_epi16(low, weight));
                highs[o] = _mm256_add_epi32(highs[o], _mm256_madd_epi16(high, weight));
            }
        }
        for (low, high) in lows.iter_mut().zip(highs) {
            *low = _mm256_add_epi32(*low, _mm256_slli_epi32::<16>(high));
        }
        lows
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn dot_avx2(weights: &[i16], low: &[i16], high: &[i16]) -> u32 {
        let mut lows = [_mm256_setzero_si256(); 2];
        let mut highs = lows;
        let [w, l, h] = [weights, low, high].map(|x| x.as_chunks::<32>());
        for ((w, l), h) in w.0.iter().zip(l.0).zip(h.0) {
            for half in 0..2 {
                // SAFETY: the arrays have twice 16 numbers.
                let [w, l, h] = [w, l, h].map(|x| unsafe { _mm256_loadu_si256(x.as_ptr().add(16 * half).cast()) });
                lows[half] = _mm256_add_epi32(lows[half], _mm256_madd_epi16(l, w));
                highs[half] = _mm256_add_epi32(highs[half], _mm256_madd_epi16(h, w));
            }
        }
        let [low, high] = [lows, highs].map(|[a, b]| _mm256_add_epi32(a, b));
        let mut lanes = [0u32; 8];
        // SAFETY: the array has 8 words.
        unsafe {
            _mm256_storeu_si256(lanes.as_mut_ptr().cast(), _mm256_add_epi32(low, _mm256_slli_epi32::<16>(high)));
        }
        lanes.iter().fold(dot_portable(w.1, l.1, h.1), |sum, &lane| sum.wrapping_add(lane))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::at_each_level;
    use super::*;
    use alloc::{vec, vec::Vec};
    use proptest::prelude::*;

    /// Words and weights, of which some are extremes.
    fn word() -> impl Strategy<Value = u32> {
        prop_oneof![any::<u32>(), prop::sample::select(vec![0, 1, 0x7fff, 0x8000, 0xffff, 1 << 31, u32::MAX])]
    }

    fn weight() -> impl Strategy<Value = i16> {
        prop_oneof![any::<i16>(), prop::sample::select(vec![0, 1, -1, 255, -255, i16::MIN, i16::MAX])]
    }

    proptest! {
        #[test]
        fn dot_is_the_sum_of_products(pairs in prop::collection::vec((word(), weight()), 0..150)) {
            let (words, weights): (Vec<u32>, Vec<i16>) = pairs.iter().copied().unzip();
            let expected = pairs.iter().fold(0u32, |sum, &(x, w)| sum.wrapping_add(x.wrapping_mul(w as u32)));
            at_each_level(|level| {
                let (mut low, mut high) = (vec![0; words.len()], vec![0; words.len()]);
                split(&words, &mut low, &mut high);
                assert_eq!(dot(&weights, &low, &high), expected, "{level:?}");
            });
        }

        #[test]
        fn tiles_are_sums_of_products(
            words in prop::collection::vec(word(), 4 * 60),
            weights in prop::collection::vec([weight(), weight(), weight()], 4 * 3),
            start in 0usize..20,
        ) {
            let offsets = [7, 0, 4];
            let expected = |o: usize, i: usize| {
                (0..4).flat_map(|c| offsets.iter().enumerate().map(move |(t, &offset)| (c, t, offset)))
                    .fold(0u32, |sum, (c, t, offset)| {
                        let word = words[c * 60 + start + offset + i];
                        sum.wrapping_add(word.wrapping_mul(weights[c * 3 + t][o] as u32))
                    })
            };
            let pairs: Vec<[u32; 3]> = (0..6)
                .map(|k| core::array::from_fn(|o| weight_pair(weights[k / 3 * 6 + k % 3][o], weights[k / 3 * 6 + 3 + k % 3][o])))
                .collect();
            at_each_level(|level| {
                let mut planes = vec![0; 4 * 60];
                for k in 0..2 {
                    let (low, high) = planes[120 * k..120 * (k + 1)].split_at_mut(60);
                    split_pairs(&words[120 * k..][..60], &words[120 * k + 60..][..60], low, high);
                }
                let sums = tile(&planes, 60, start, &offsets, &pairs);
                for (o, strip) in sums.iter().enumerate() {
                    for (i, &sum) in strip.iter().enumerate() {
                        assert_eq!(sum, expected(o, i), "{level:?}: output {o}, position {i}");
                    }
                }
                for (count, columns) in [(1, 3), (4, 3), (4, 5), (5, 6), (5, COLUMNS)] {
                    let (mut columns, mut all) = (vec![[9; 16]; columns], vec![[[9; STRIP]; 3]; count]);
                    tiles(&planes, 60, (start, &offsets), &vec![pairs.clone(); count], &mut columns, &mut all);
                    assert!(all.iter().all(|tile| *tile == sums), "{level:?}");
                }
            });
        }
    }
}
