//! Images laid out for convolution: padded once, with strides taken apart, so that a window's taps lie at fixed distances.

use crate::model::{Convolution, Shape};
use crate::prg::SecretVec;
use crate::simd::words::products::{STRIP, split_pairs};
use crate::threads::Threads;
use alloc::{collections::BTreeSet, vec, vec::Vec};

/// Where the words of a channel lie: one plane for each class of padded pixels modulo the strides that the kernel touches,
/// row by row, all of one width. Output (i, j) is *position* p = i · width + j, and tap t of its window lies at
/// `offsets[t]` + p. The last positions of a row belong to no output where the width is larger than the output's.
pub(super) struct Planes {
    pub(super) width: usize,
    /// From the first output to the last.
    pub(super) positions: usize,
    /// By kernel row and column.
    pub(super) offsets: Vec<usize>,
    /// Words of a channel: all that strips of positions read.
    pub(super) stride: usize,
    rows: Vec<Line>,
    columns: Vec<Line>,
    height: usize,
}

/// Pixels of one class along an axis: pixel k lies at `first` + k · `step` - `padding` in the image.
struct Line {
    first: usize,
    step: usize,
    padding: usize,
}

impl Line {
    /// The pixels below `count` that lie inside an image of `size`.
    fn inside(&self, size: usize, count: usize) -> core::ops::Range<usize> {
        let start = self.padding.saturating_sub(self.first).div_ceil(self.step);
        let end = (size + self.padding).saturating_sub(self.first).div_ceil(self.step).min(count);
        start.min(end)..end
    }

    fn place(&self, k: usize) -> usize {
        self.first + k * self.step - self.padding
    }
}

/// An axis: its classes, and for each of the kernel's taps the class and the place in it.
fn axis(conv: &Convolution, axis: usize) -> (Vec<Line>, Vec<(usize, usize)>) {
    let [kernel, stride, dilation, padding] =
        [conv.kernel[axis], conv.stride[axis], conv.dilation[axis], conv.padding[axis]].map(|n| n as usize);
    let classes: BTreeSet<usize> = (0..kernel).map(|k| k * dilation % stride).collect();
    let classes: Vec<usize> = classes.into_iter().collect();
    let place = |k: usize| (classes.binary_search(&(k * dilation % stride)).unwrap_or(0), k * dilation / stride);
    let taps = (0..kernel).map(place).collect();
    (classes.iter().map(|&first| Line { first, step: stride, padding }).collect(), taps)
}

impl Planes {
    pub(super) fn new(conv: &Convolution, input: Shape, output: Shape) -> Self {
        debug_assert!(input.plane() > 0);
        let (rows, row_taps) = axis(conv, 0);
        let (columns, column_taps) = axis(conv, 1);
        let reach = |taps: &[(usize, usize)]| taps.iter().map(|&(_, place)| place).max().unwrap_or(0);
        let width = output.width as usize + reach(&column_taps);
        let height = output.height as usize + reach(&row_taps);
        let offset = |(row_class, row): (usize, usize), (column_class, column): (usize, usize)| {
            (row_class * columns.len() + column_class) * width * height + row * width + column
        };
        let offsets: Vec<usize> = row_taps
            .iter()
            .flat_map(|&a| column_taps.iter().map(move |&b| (a, b)))
            .map(|(a, b)| offset(a, b))
            .collect();
        let positions = (output.height as usize - 1) * width + output.width as usize;
        let read = offsets.iter().max().map_or(0, |last| last + positions.next_multiple_of(STRIP));
        let stride = read.max(rows.len() * columns.len() * width * height);
        Self { width, positions, offsets, stride, rows, columns, height }
    }

    /// The words of all channels: for each pair of channels, their planes' lower parts, then their upper parts. The second
    /// of the last pair is zero if the number of channels is odd.
    pub(super) fn split(&self, threads: &Threads, input: Shape, image: &[u32]) -> SecretVec<u32> {
        let channels: Vec<&[u32]> = image.chunks_exact(input.plane()).collect();
        let mut words: SecretVec<u32> = vec![0; channels.len().div_ceil(2) * 2 * self.stride].into();
        let share = threads.share(channels.len().div_ceil(2));
        let runs = channels.chunks(2 * share).zip(words.chunks_mut(2 * self.stride * share));
        threads.map(runs, |(channels, words)| self.split_run(input, channels, words));
        words
    }

    /// [`Self::split`] of some of the channels, from an even one on.
    fn split_run(&self, input: Shape, channels: &[&[u32]], words: &mut [u32]) {
        let mut lines: [SecretVec<u32>; 2] = core::array::from_fn(|_| vec![0; self.width].into());
        for (pair, words) in channels.chunks(2).zip(words.chunks_exact_mut(2 * self.stride)) {
            let (low, high) = words.split_at_mut(self.stride);
            let planes = self.rows.iter().flat_map(|row| self.columns.iter().map(move |column| (row, column)));
            let size = self.width * self.height;
            let targets = low.chunks_exact_mut(size).zip(high.chunks_exact_mut(size));
            for ((row, column), (low, high)) in planes.zip(targets) {
                let inside = column.inside(input.width as usize, self.width);
                if inside.is_empty() {
                    continue;
                }
                for k in row.inside(input.height as usize, self.height) {
                    let start = row.place(k) * input.width as usize + column.place(inside.start);
                    for (line, channel) in lines.iter_mut().zip(pair) {
                        let pixels = &channel[start..(row.place(k) + 1) * input.width as usize];
                        let line = &mut line[inside.clone()];
                        match column.step {
                            1 => line.copy_from_slice(&pixels[..line.len()]),
                            step => line.iter_mut().zip(pixels.iter().step_by(step)).for_each(|(to, &from)| *to = from),
                        }
                    }
                    if pair.len() == 1 {
                        lines[1].fill(0);
                    }
                    let target = k * self.width + inside.start..k * self.width + inside.end;
                    let [first, second] = [0, 1].map(|i| &lines[i][inside.clone()]);
                    split_pairs(first, second, &mut low[target.clone()], &mut high[target]);
                }
            }
        }
    }
}
