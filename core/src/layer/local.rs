//! Local operators: the linear maps that both parties apply to what they hold.

use crate::model::{Op, Pool, Shape, Sum, Window};
use crate::prg::SecretVec;
use crate::simd::words::products::add_multiple;
use alloc::{vec, vec::Vec};
use core::ops::Range;

/// Applies a local operator to tensors of a shape each; none if the operator is not local.
///
/// Secret constants of a sum are not added: they are the server's.
pub(crate) fn local(op: &Op, inputs: &[(Shape, &[u32])], output: Shape) -> Option<SecretVec<u32>> {
    let (shape, x) = *inputs.first()?;
    match op {
        Op::SumPool(pool) => Some(sum_pool(pool, (shape, x), output)),
        Op::Window(window) => Some(pick(window, (shape, x), output)),
        Op::Channels(channels) => {
            let range = channels.range();
            Some(x[range.start * shape.plane()..range.end * shape.plane()].to_vec().into())
        }
        Op::Concat => {
            let mut out = SecretVec::new(Vec::with_capacity(output.elements()));
            inputs.iter().for_each(|(_, x)| out.extend_from_slice(x));
            Some(out)
        }
        Op::Flatten => Some(x.to_vec().into()),
        Op::Sum(weights) => Some(sum(weights, inputs, output)),
        Op::Convolution(_) | Op::Activation(_) | Op::Max(_) => None,
    }
}

fn sum_pool(pool: &Pool, (input, x): (Shape, &[u32]), output: Shape) -> SecretVec<u32> {
    let [row_weights, column_weights] = pool.weights(input, output);
    let columns = input.width as usize;
    // What of a window lies inside the image, along an axis.
    let inside = |i: usize, axis: usize, size: u32| {
        let first = i * pool.stride[axis] as usize;
        let end = (first + pool.kernel[axis] as usize).saturating_sub(pool.padding[axis] as usize);
        first.saturating_sub(pool.padding[axis] as usize)..end.min(size as usize)
    };
    let windows: Vec<Range<usize>> = (0..output.width as usize).map(|j| inside(j, 1, input.width)).collect();
    let neighbours = neighbours(&windows);
    let mut out: SecretVec<u32> = vec![0; output.elements()].into();
    for (image, plane) in x.chunks_exact(input.plane()).zip(out.chunks_exact_mut(output.plane())) {
        for (i, line) in plane.chunks_exact_mut(output.width as usize).enumerate() {
            for row in inside(i, 0, input.height) {
                add_windows(&image[row * columns..][..columns], &windows, neighbours.clone(), line);
            }
            for (target, &weight) in line.iter_mut().zip(&column_weights) {
                *target = target.wrapping_mul(weight).wrapping_mul(row_weights[i]);
            }
        }
    }
    out
}

/// The longest run of windows after those that the border cuts short, all of one size and at one distance, if there are several.
fn neighbours(windows: &[Range<usize>]) -> Range<usize> {
    let size = windows.iter().map(Range::len).max().unwrap_or(0);
    let first = windows.iter().position(|window| window.len() == size).unwrap_or(0);
    let step = |i: usize| windows[i + 1].start.wrapping_sub(windows[i].start);
    let alike = |&i: &usize| windows[i + 1].len() == size && step(i) == step(first) && step(i) > 0;
    first..first + 1 + (first..windows.len().saturating_sub(1)).take_while(alike).count()
}

/// Adds to each sum the words of its window.
fn add_windows(words: &[u32], windows: &[Range<usize>], neighbours: Range<usize>, sums: &mut [u32]) {
    let alike = &windows[neighbours.clone()];
    let [first, second, ..] = alike else {
        return add_each(words, windows, sums);
    };
    add_each(words, &windows[..neighbours.start], &mut sums[..neighbours.start]);
    add_each(words, &windows[neighbours.end..], &mut sums[neighbours.end..]);
    // One word of each window after another, so that neighbours are summed up side by side.
    let (stride, sums) = (second.start - first.start, &mut sums[neighbours]);
    for word in first.clone() {
        match stride {
            1 => add_multiple(&words[word..], 1, sums),
            _ => {
                for (sum, &word) in sums.iter_mut().zip(words[word..].iter().step_by(stride)) {
                    *sum = sum.wrapping_add(word);
                }
            }
        }
    }
}

/// Adds to each sum the words of its window, one window after another.
fn add_each(words: &[u32], windows: &[Range<usize>], sums: &mut [u32]) {
    for (sum, window) in sums.iter_mut().zip(windows) {
        *sum = words[window.clone()].iter().fold(*sum, |sum, &word| sum.wrapping_add(word));
    }
}

fn pick(window: &Window, (input, x): (Shape, &[u32]), output: Shape) -> SecretVec<u32> {
    let columns: Vec<Option<usize>> = window.places(1, input.width).collect();
    // The first places in a row that neighbours in the image fill.
    let first = columns.iter().position(Option::is_some).unwrap_or(columns.len());
    let start = columns.get(first).copied().flatten().unwrap_or(0);
    let count = columns[first..].iter().zip(start..).take_while(|&(column, next)| *column == Some(next)).count();
    let mut out = SecretVec::new(Vec::with_capacity(output.elements()));
    for image in x.chunks_exact(input.plane()) {
        for row in window.places(0, input.height) {
            let Some(row) = row else {
                out.extend(core::iter::repeat_n(0, columns.len()));
                continue;
            };
            let line = &image[row * input.width as usize..][..input.width as usize];
            out.extend(core::iter::repeat_n(0, first));
            out.extend_from_slice(&line[start..start + count]);
            out.extend(columns[first + count..].iter().map(|column| column.map_or(0, |column| line[column])));
        }
    }
    out
}

fn sum(weights: &Sum, inputs: &[(Shape, &[u32])], output: Shape) -> SecretVec<u32> {
    let mut out: SecretVec<u32> = vec![0; output.elements()].into();
    for (multipliers, (_, x)) in weights.multipliers.iter().zip(inputs) {
        let planes = out.chunks_exact_mut(output.plane()).zip(x.chunks_exact(output.plane()));
        for ((plane, x), &multiplier) in planes.zip(multipliers) {
            add_multiple(x, multiplier as u32, plane);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Channels, Edge};

    fn shape(channels: u32, height: u32, width: u32) -> Shape {
        Shape { channels, height, width }
    }

    fn apply(op: &Op, inputs: &[(Shape, &[u32])]) -> (Shape, alloc::vec::Vec<u32>) {
        let shapes: alloc::vec::Vec<Shape> = inputs.iter().map(|(shape, _)| *shape).collect();
        let output = op.output(&shapes).unwrap();
        let result = local(op, inputs, output).unwrap();
        assert_eq!(result.len(), output.elements());
        (output, result.to_vec())
    }

    #[test]
    fn windows_sum_up() {
        let x: alloc::vec::Vec<u32> = (0..12).collect();
        let pool = Pool { kernel: [2, 2], stride: [1, 2], padding: [0; 4], inside_only: false };
        let (output, sums) = apply(&Op::SumPool(pool), &[(shape(1, 3, 4), &x)]);
        assert_eq!((output, &sums[..]), (shape(1, 2, 2), &[10, 18, 26, 34][..]));
    }

    #[test]
    fn windows_that_reach_into_the_padding_are_weighted() {
        let ones = [1u32; 2 * 9];
        let pool = Pool { kernel: [3, 3], stride: [1, 1], padding: [1; 4], inside_only: false };
        let (_, sums) = apply(&Op::SumPool(pool), &[(shape(2, 3, 3), &ones)]);
        assert_eq!(sums[..9], [4, 6, 4, 6, 9, 6, 4, 6, 4]);
        let pool = Pool { inside_only: true, ..pool };
        let (output, sums) = apply(&Op::SumPool(pool), &[(shape(2, 3, 3), &ones)]);
        // Two or three of three elements along each axis: an average of ones is 36 everywhere.
        assert_eq!(sums, [36; 18]);
        assert_eq!(pool.factor(shape(2, 3, 3), output), 36);
    }

    #[test]
    fn pixels_are_picked_and_edges_filled() {
        let x: alloc::vec::Vec<u32> = (1..=6).collect();
        let window = |edge| Op::Window(Window { offset: [-1, 1], stride: [1, 2], size: [3, 2], edge });
        let (output, zero) = apply(&window(Edge::Zero), &[(shape(1, 2, 3), &x)]);
        assert_eq!((output, &zero[..]), (shape(1, 3, 2), &[0, 0, 2, 0, 5, 0][..]));
        let (_, nearest) = apply(&window(Edge::Nearest), &[(shape(1, 2, 3), &x)]);
        assert_eq!(nearest, [2, 3, 2, 3, 5, 6]);
    }

    #[test]
    fn channels_are_taken_and_put_together() {
        let (a, b) = ([1u32, 2, 3, 4], [5u32, 6]);
        let (output, all) = apply(&Op::Concat, &[(shape(2, 1, 2), &a), (shape(1, 1, 2), &b)]);
        assert_eq!((output, &all[..]), (shape(3, 1, 2), &[1, 2, 3, 4, 5, 6][..]));
        let (_, some) = apply(&Op::Channels(Channels { first: 1, count: 2 }), &[(output, &all)]);
        assert_eq!(some, [3, 4, 5, 6]);
        assert_eq!(apply(&Op::Flatten, &[(output, &all)]), (shape(6, 1, 1), all));
    }

    #[test]
    fn multiples_are_summed_up() {
        let (a, b) = ([1u32, 2, 3, 4], [10u32, 20, 30, u32::MAX]);
        let sum = Op::Sum(Sum { multipliers: vec![vec![1, 8], vec![-1, 3]] });
        let (_, sums) = apply(&sum, &[(shape(2, 1, 2), &a), (shape(2, 1, 2), &b)]);
        assert_eq!(sums, [1u32.wrapping_sub(10), 2u32.wrapping_sub(20), 24 + 90, 32 - 3]);
    }
}
