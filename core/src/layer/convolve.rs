//! Convolution of plain words.

use super::planes::Planes;
use crate::model::{Convolution, Shape};
use crate::prg::SecretVec;
use crate::simd::words::products::{COLUMNS, Column, LEAST_TILES, STRIP, dot, split, tile, tiles, weight_pair};
use crate::threads::Threads;
use alloc::{vec, vec::Vec};

/// Output channels that a tile computes together.
const TILE: usize = 4;
/// Positions whose words a block of tiles reads, so that they stay in the cache while all output channels pass.
const BLOCK: usize = 64 * STRIP;
/// Taps of a pair of channels, over all pairs, that make up for writing to all outputs' large planes in turn.
const MANY_TAPS: usize = 128;
/// Fewest positions of an output plane that are worth strips.
const LEAST_PLANE: usize = 12;
/// Fewest products of a layer that are worth several threads: what one does in a tenth of a millisecond. Few in tests.
const LEAST_PRODUCTS: usize = if cfg!(test) { 1 << 8 } else { 1 << 22 };

/// An output channel: its weights, and the plane that its sums are added to.
struct Output<'a> {
    filter: &'a [i16],
    sums: &'a mut [u32],
}

/// Adds W · x to `out`: x of shape `input`, weights [out][in / groups][kernel row][kernel column], `out` of shape `output`.
///
/// Output channels for which `skip` is true are left as they are. Wrapping arithmetic; zero padding.
pub(crate) fn convolve(
    threads: &Threads,
    conv: &Convolution,
    (input, x): (Shape, &[u32]),
    weights: &[i16],
    skip: &[bool],
    (output, out): (Shape, &mut [u32]),
) {
    let groups = conv.groups as usize;
    // Channels of a group: those that each output channel reads, and those that read the same.
    let (inputs, outputs) = (input.channels as usize / groups, output.channels as usize / groups);
    let filter = inputs * conv.kernel[0] as usize * conv.kernel[1] as usize;
    let images = x.chunks_exact(inputs * input.plane());
    let filters = weights.chunks_exact(outputs * filter);
    let sums = out.chunks_exact_mut(outputs * output.plane());
    let planes = Planes::new(conv, input, output);
    let live = skip.iter().filter(|skip| !**skip).count();
    let alone = Threads::default();
    let threads = if live * filter * output.plane() < LEAST_PRODUCTS { &alone } else { threads };
    let pieces = images.zip(filters).zip(sums).zip(skip.chunks_exact(outputs));
    threads.map(pieces, |(((image, filters), sums), skip)| {
        let filters = filters.chunks_exact(filter);
        let sums = sums.chunks_exact_mut(output.plane());
        let live = filters.zip(sums).zip(skip).filter(|(_, skip)| !**skip);
        let mut live: Vec<Output<'_>> = live.map(|((filter, sums), _)| Output { filter, sums }).collect();
        if live.is_empty() {
            return;
        }
        if output.plane() < LEAST_PLANE {
            one_by_one(threads, conv, (input, image), (output, &mut live));
        } else if live.len() < TILE {
            in_strips::<1>(threads, &planes, &planes.split(threads, input, image), (output, &mut live));
        } else {
            in_strips::<TILE>(threads, &planes, &planes.split(threads, input, image), (output, &mut live));
        }
    });
}

/// The outputs of large planes, in strips of positions, O of them together. Each thread takes some of the outputs.
fn in_strips<const O: usize>(
    threads: &Threads,
    planes: &Planes,
    words: &[u32],
    (shape, live): (Shape, &mut [Output<'_>]),
) {
    let share = O * threads.share(live.len().div_ceil(O));
    threads.map(live.chunks_mut(share), |live| block_by_block::<O>(planes, words, (shape, live)));
}

/// All outputs at one block of positions after another, or at one strip after another.
fn block_by_block<const O: usize>(planes: &Planes, words: &[u32], (shape, live): (Shape, &mut [Output<'_>])) {
    let taps = planes.offsets.len();
    let packed: Vec<Vec<[u32; O]>> = live.chunks(O).map(|tile| pack(tile, taps)).collect();
    let many = packed.first().is_some_and(|weights| weights.len() >= MANY_TAPS);
    if packed.len() >= LEAST_TILES && (many || planes.positions <= BLOCK) {
        return strip_by_strip(planes, words, &packed, (shape, live));
    }
    for start in (0..planes.positions).step_by(BLOCK) {
        let block = start..planes.positions.min(start + BLOCK);
        for (outputs, weights) in live.chunks_mut(O).zip(&packed) {
            for start in block.clone().step_by(STRIP) {
                let sums = tile(words, planes.stride, start, &planes.offsets, weights);
                add_strips(planes.width, start..block.end.min(start + STRIP), &sums, (shape, &mut *outputs));
            }
        }
    }
}

/// All outputs at one strip after another, whose words stay in the nearest cache meanwhile.
fn strip_by_strip<const O: usize>(
    planes: &Planes,
    words: &[u32],
    packed: &[Vec<[u32; O]>],
    (shape, live): (Shape, &mut [Output<'_>]),
) {
    let taps = planes.offsets.len();
    let mut columns: SecretVec<Column> = vec![[0; 16]; taps.max(COLUMNS)].into();
    let mut sums: SecretVec<[[u32; STRIP]; O]> = vec![[[0; STRIP]; O]; packed.len()].into();
    for start in (0..planes.positions).step_by(STRIP) {
        tiles(words, planes.stride, (start, &planes.offsets), packed, &mut columns, &mut sums);
        let end = planes.positions.min(start + STRIP);
        for (tile, sums) in live.chunks_mut(O).zip(sums.iter()) {
            add_strips(planes.width, start..end, sums, (shape, tile));
        }
    }
}

/// The filters of up to O outputs as [`tile`] takes them; those that are missing are zero.
fn pack<const O: usize>(live: &[Output<'_>], taps: usize) -> Vec<[u32; O]> {
    let pairs = live.first().map_or(0, |output| output.filter.len().div_ceil(2 * taps));
    let mut packed = vec![[0; O]; pairs * taps];
    for (o, output) in live.iter().enumerate() {
        for (pair, packed) in output.filter.chunks(2 * taps).zip(packed.chunks_exact_mut(taps)) {
            let (first, second) = pair.split_at(taps);
            for (t, (packed, &first)) in packed.iter_mut().zip(first).enumerate() {
                packed[o] = weight_pair(first, second.get(t).copied().unwrap_or(0));
            }
        }
    }
    packed
}

/// Adds the sums of up to O outputs at the positions of a strip, of which there are `width` in a row.
fn add_strips<const O: usize>(
    width: usize,
    strip: core::ops::Range<usize>,
    sums: &[[u32; STRIP]; O],
    (shape, live): (Shape, &mut [Output<'_>]),
) {
    let columns = shape.width as usize;
    // Row by row; at a row's end there are places that belong to no output.
    let mut place = strip.start;
    while place < strip.end {
        let (row, column) = (place / width, place % width);
        let next = strip.end.min((row + 1) * width);
        let count = columns.saturating_sub(column).min(next - place);
        for (output, sums) in live.iter_mut().zip(sums) {
            let out = &mut output.sums[row * columns + column.min(columns)..][..count];
            for (out, &sum) in out.iter_mut().zip(&sums[place - strip.start..]) {
                *out = out.wrapping_add(sum);
            }
        }
        place = next;
    }
}

/// The outputs of small planes, each the scalar product of its filter and its window.
fn one_by_one(
    threads: &Threads,
    conv: &Convolution,
    (input, image): (Shape, &[u32]),
    (shape, live): (Shape, &mut [Output<'_>]),
) {
    let [kernel_rows, kernel_columns] = conv.kernel.map(|k| k as usize);
    let (rows, columns) = (input.height as usize, input.width as usize);
    let size = image.len() / input.plane() * kernel_rows * kernel_columns;
    let mut window: SecretVec<u32> = vec![0; size].into();
    let mut low: SecretVec<i16> = vec![0; size].into();
    let mut high: SecretVec<i16> = vec![0; size].into();
    // Where tap k of window i lies along an axis, if inside.
    let place = |i: usize, k: usize, axis: usize, size: usize| {
        let padded = i * conv.stride[axis] as usize + k * conv.dilation[axis] as usize;
        padded.checked_sub(conv.padding[axis] as usize).filter(|&place| place < size)
    };
    for position in 0..shape.plane() {
        let (i, j) = (position / shape.width as usize, position % shape.width as usize);
        if size == image.len() && shape.plane() == 1 && conv.padding == [0; 4] {
            window.copy_from_slice(image);
        } else {
            let channels = image.chunks_exact(input.plane());
            for (channel, window) in channels.zip(window.chunks_exact_mut(kernel_rows * kernel_columns)) {
                for (a, line) in window.chunks_exact_mut(kernel_columns).enumerate() {
                    let row = place(i, a, 0, rows);
                    for (b, word) in line.iter_mut().enumerate() {
                        *word = match (row, place(j, b, 1, columns)) {
                            (Some(row), Some(column)) => channel[row * columns + column],
                            _ => 0,
                        };
                    }
                }
            }
        }
        split(&window, &mut low, &mut high);
        threads.map(live.chunks_mut(threads.share(live.len())), |live| {
            for Output { filter, sums } in live {
                sums[position] = sums[position].wrapping_add(dot(filter, &low, &high));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Op;
    use crate::simd::at_each_level;
    use alloc::{vec, vec::Vec};
    use proptest::prelude::*;

    /// The textbook sum, one output at a time.
    fn plain(conv: &Convolution, input: Shape, x: &[u32], weights: &[i16], output: Shape) -> Vec<u32> {
        let [kr, kc] = conv.kernel;
        let (inputs, outputs) = (input.channels / conv.groups, output.channels / conv.groups);
        let mut out = Vec::new();
        for o in 0..output.channels {
            for i in 0..output.height {
                for j in 0..output.width {
                    let mut sum = 0u32;
                    for g in 0..inputs {
                        let c = o / outputs * inputs + g;
                        for a in 0..kr {
                            for b in 0..kc {
                                let row =
                                    i64::from(i * conv.stride[0] + a * conv.dilation[0]) - i64::from(conv.padding[0]);
                                let column =
                                    i64::from(j * conv.stride[1] + b * conv.dilation[1]) - i64::from(conv.padding[1]);
                                if (0..i64::from(input.height)).contains(&row)
                                    && (0..i64::from(input.width)).contains(&column)
                                {
                                    let v = x[((c * input.height + row as u32) * input.width + column as u32) as usize];
                                    let w = weights[(((o * inputs + g) * kr + a) * kc + b) as usize];
                                    sum = sum.wrapping_add(v.wrapping_mul(i32::from(w) as u32));
                                }
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
        out
    }

    fn threads(count: usize) -> Threads {
        Threads::new(if cfg!(feature = "parallel") { count } else { 1 }).unwrap()
    }

    proptest! {
        #[test]
        fn convolution_is_the_textbook_sum(
            (c, h, w) in (1u32..4, 1u32..12, 1u32..12),
            (o, kr, kc) in (1u32..10, 1u32..6, 1u32..6),
            stride in [1u32..4, 1u32..4],
            padding in [0u32..4, 0u32..4, 0u32..4, 0u32..4],
            dilation in [1u32..3, 1u32..3],
            groups in 1u32..4,
            seed in any::<u32>(),
            count in 1usize..4,
        ) {
            let (c, o) = (c * groups, o * groups);
            let input = Shape { channels: c, height: h, width: w };
            let conv =
                Convolution { out_channels: o, kernel: [kr, kc], stride, padding, dilation, groups, packed_outputs: u32::MAX };
            let output = Op::Convolution(conv).output(&[input]);
            prop_assume!(output.is_ok());
            let output = output.unwrap();
            let value = |i: usize| (seed ^ i as u32).wrapping_mul(0x9e37_79b9).rotate_left(13);
            let x: Vec<u32> = (0..input.elements()).map(value).collect();
            let weights: Vec<i16> = (0..(o * c / groups * kr * kc) as usize).map(|i| (value(i + 999) % 511) as i16 - 255).collect();
            let expected = plain(&conv, input, &x, &weights, output);
            let threads = threads(count);
            at_each_level(|level| {
                let skip: Vec<bool> = (0..o).map(|c| seed >> (c % 32) & 3 == 0).collect();
                let mut out = vec![7; output.elements()];
                convolve(&threads, &conv, (input, &x), &weights, &skip, (output, &mut out));
                let planes = out.chunks_exact(output.plane()).zip(expected.chunks_exact(output.plane())).zip(&skip);
                for ((out, expected), skip) in planes {
                    for (&out, &expected) in out.iter().zip(expected) {
                        assert_eq!(out.wrapping_sub(7), if *skip { 0 } else { expected }, "{level:?}");
                    }
                }
            });
        }
    }

    /// Blocks and strips that end inside a row, and one that ends a plane.
    #[test]
    fn large_planes_are_convolved_in_blocks() {
        for (channels, height, width, kernel, stride) in [(3, 50, 67, 3, 1), (2, 33, 64, 1, 1), (5, 97, 53, 5, 2)] {
            let input = Shape { channels, height, width };
            let conv =
                Convolution { padding: [kernel / 2; 4], stride: [stride; 2], ..Convolution::new(6, [kernel; 2]) };
            let output = Op::Convolution(conv).output(&[input]).unwrap();
            let value = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9).rotate_left(7);
            let x: Vec<u32> = (0..input.elements()).map(value).collect();
            let weights: Vec<i16> =
                (0..(6 * channels * kernel * kernel) as usize).map(|i| (value(i) % 511) as i16 - 255).collect();
            let mut out = vec![0; output.elements()];
            convolve(&threads(2), &conv, (input, &x), &weights, &[false; 6], (output, &mut out));
            assert_eq!(out, plain(&conv, input, &x, &weights, output));
        }
    }

    /// Prints how fast usual shapes go.
    #[test]
    #[ignore = "a measurement: cargo test --release -- --ignored --nocapture speed"]
    fn speed_of_convolution() {
        extern crate std;
        use std::{println, time::Instant};
        for (name, channels, size, outputs, kernel, stride, groups) in [
            ("3x3", 64, 32, 64, 3, 1, 1),
            ("3x3", 64, 8, 64, 3, 1, 1),
            ("3x3", 16, 32, 16, 3, 1, 1),
            ("3x3 of 3", 3, 224, 64, 3, 1, 1),
            ("3x3 stride 2", 64, 32, 128, 3, 2, 1),
            ("1x1", 64, 32, 64, 1, 1, 1),
            ("1x1 stride 2", 64, 32, 128, 1, 2, 1),
            ("depthwise", 64, 32, 64, 3, 1, 64),
            ("dense", 1024, 1, 1024, 1, 1, 1),
            ("3x3 of 2x2", 512, 2, 512, 3, 1, 1),
        ] {
            let input = Shape { channels, height: size, width: size };
            let mut conv = Convolution::new(outputs, [kernel; 2]);
            (conv.padding, conv.stride, conv.groups) = ([kernel / 2; 4], [stride; 2], groups);
            let output = Op::Convolution(conv).output(&[input]).unwrap();
            let x: Vec<u32> = (0..input.elements() as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
            let filters = (outputs * channels / groups * kernel * kernel) as usize;
            let weights: Vec<i16> = (0..filters).map(|i| (i % 511) as i16 - 255).collect();
            let (mut out, skip) = (vec![0; output.elements()], vec![false; outputs as usize]);
            let products = (filters * output.plane()) as f64;
            at_each_level(|level| {
                let mut best = f64::MAX;
                for _ in 0..15 {
                    let start = Instant::now();
                    convolve(&Threads::default(), &conv, (input, &x), &weights, &skip, (output, &mut out));
                    best = best.min(start.elapsed().as_secs_f64());
                }
                let (ms, rate) = (best * 1e3, products / best / 1e9);
                println!(
                    "{name:13} {channels:4} -> {outputs:4} at {size:3}, {level:?}: {ms:8.3} ms, {rate:5.1} products/ns"
                );
            });
        }
    }
}
