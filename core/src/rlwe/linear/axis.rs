//! One direction of a convolution: windows, the tiles they are cut into, and the places that a tile's row (or column) of a plane takes.
//!
//! A plane holds every J-th pixel, J = 1 or the stride. With J the stride S, a window moves by one place, and the weights k of
//! the kernel, spread by the dilation D, fall into classes by k·D modulo J, each with a plane of its own. So a strided convolution
//! is one of more channels and without stride, whose outputs lie densely.

use crate::error::{Error, ErrorKind, Result};
use core::ops::Range;

/// Largest size in any direction, and largest number of values of an input, an output or a kernel, that is accepted.
pub(super) const MAX_COUNT: usize = 1 << 30;

/// The height or the width. All tiles take equally many places; the last may hold fewer windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Axis {
    /// Pixels of the image.
    pub(super) length: usize,
    /// Zeros before the first pixel.
    pad: usize,
    /// Weights of the kernel.
    pub(super) kernel: usize,
    /// Pixels from one weight of the kernel to the next.
    dilation: usize,
    /// Pixels from one window to the next.
    stride: usize,
    /// Number of windows.
    pub(super) windows: usize,
    /// J, which divides the stride.
    sampling: usize,
    /// Windows of a tile.
    pub(super) tile: usize,
}

impl Axis {
    /// A direction in a single tile and planes of all pixels.
    pub(super) fn new(
        what: &str,
        length: usize,
        pads: [usize; 2],
        kernel: usize,
        dilation: usize,
        stride: usize,
    ) -> Result<Self> {
        let padded = length.saturating_add(pads[0]).saturating_add(pads[1]);
        let span = kernel.saturating_sub(1).saturating_mul(dilation).saturating_add(1);
        let least = length.min(kernel).min(dilation).min(stride);
        if least == 0 || span > padded || padded.max(stride).max(dilation) > MAX_COUNT {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                alloc::format!(
                    "{what} of a convolution: expected an image, a stride, a dilation and a kernel of 1 to {MAX_COUNT}, the kernel \
                     within the padded image, got image {length} padded to {padded}, kernel {kernel} spread by {dilation}, \
                     stride {stride}"
                ),
            ));
        }
        let windows = (padded - span) / stride + 1;
        Ok(Self { length, pad: pads[0], kernel, dilation, stride, windows, sampling: 1, tile: windows })
    }

    /// The same direction, its planes of every `sampling`-th pixel.
    pub(super) fn sampled(self, sampling: usize) -> Self {
        Self { sampling, ..self }
    }

    /// J = 1, and J the stride where that is another.
    pub(super) fn samplings(&self) -> impl Iterator<Item = usize> + use<> {
        [1, self.stride].into_iter().take(if self.stride == 1 { 1 } else { 2 })
    }

    /// The same direction cut into tiles of `tile` windows, from 1 to the number of windows.
    pub(super) fn cut(self, tile: usize) -> Self {
        Self { tile, ..self }
    }

    /// Number of tiles.
    pub(super) fn tiles(&self) -> usize {
        self.windows.div_ceil(self.tile)
    }

    /// The windows in a tile.
    pub(super) fn windows_of(&self, tile: usize) -> Range<usize> {
        part(self.windows, self.tile, tile)
    }

    /// After how many weights their classes repeat.
    fn period(&self) -> usize {
        self.sampling / gcd(self.sampling, self.dilation)
    }

    /// Number of planes: classes that weights fall into.
    pub(super) fn planes(&self) -> usize {
        self.period().min(self.kernel)
    }

    /// The weights of a plane, each with its place behind its window's first.
    pub(super) fn taps(self, plane: usize) -> impl Iterator<Item = (usize, usize)> {
        (plane..self.kernel).step_by(self.period()).map(move |k| (k, k * self.dilation / self.sampling))
    }

    /// Places from the first to the last weight of the kernel.
    pub(super) fn span(&self) -> usize {
        (self.kernel - 1) * self.dilation / self.sampling + 1
    }

    /// Distance of windows in places.
    pub(super) fn step(&self) -> usize {
        self.stride / self.sampling
    }

    /// Places of padding and pixels up to the last that one of `windows` windows, at least one, touches.
    fn touched(&self, windows: usize) -> usize {
        (windows - 1) * self.step() + self.span()
    }

    /// Places that the first window lies before place 0: those that are padding in all planes, if it can share its zeros with the padding
    /// behind. Less than the span.
    pub(super) fn lead(&self) -> usize {
        if self.tile < self.windows {
            return 0;
        }
        // A bound on k·D modulo J over all k.
        let last = (self.sampling - gcd(self.sampling, self.dilation)).min((self.kernel - 1) * self.dilation);
        self.pad.saturating_sub(last).div_ceil(self.sampling).min(self.span() - 1)
    }

    /// Places taken: pixels, then as many zeros as the lead; not fewer than the kernel spans, so that no two weights share a coefficient.
    pub(super) fn places(&self) -> usize {
        let lead = self.lead();
        let end = self.touched(self.tile) - lead;
        // Where the image ends, in the plane that holds the first pixel of each J. The lead is within the padding.
        let image = (self.pad + self.length).div_ceil(self.sampling) - lead;
        end.max(end.min(image) + lead).max(self.span())
    }

    /// How many of a tile's first places lie in the tile before, too, whatever the plane: windows of both touch them.
    pub(super) fn repeated(&self, tile: usize) -> usize {
        // The tile before begins `tile` windows earlier and ends where its last window does.
        if tile > 0 { self.span().saturating_sub(self.step()) } else { 0 }
    }

    /// The places of a plane in a tile that hold pixels of the image, and the pixel of the first; from one place to the next it is J pixels.
    /// All other places hold zero.
    pub(super) fn pixels(&self, tile: usize, plane: usize) -> (Range<usize>, usize) {
        let (windows, lead, sampling, pad) = (self.windows_of(tile), self.lead(), self.sampling, self.pad);
        // A place behind the last window holds a zero, whether or not the image goes on.
        let touched = if windows.is_empty() { 0 } else { self.touched(windows.len()).saturating_sub(lead) };
        // What place 0 holds, counted from the start of the padding.
        let start = windows.start * self.stride + lead * sampling + plane * self.dilation % sampling;
        let before = |end: usize| end.saturating_sub(start).div_ceil(sampling);
        let places = before(pad)..before(pad + self.length).min(touched).min(self.places());
        let first = (start + places.start * sampling).saturating_sub(pad);
        (places, first)
    }

    /// J.
    pub(super) fn sampling(&self) -> usize {
        self.sampling
    }
}

/// Greatest common divisor of positive integers (Euclid).
fn gcd(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        _ => gcd(b, a % b),
    }
}

/// The part `index` of 0..total cut into parts of `size`; empty beyond the last.
pub(super) fn part(total: usize, size: usize, index: usize) -> Range<usize> {
    let start = index.saturating_mul(size).min(total);
    start..start.saturating_add(size).min(total)
}

/// The least size of parts that cut `total` into as many parts as parts of `most` do, `most` at least 1.
pub(super) fn even(total: usize, most: usize) -> usize {
    total.div_ceil(total.div_ceil(most))
}

/// The sizes up to `most` of even parts of `total`: for each number of parts the least size.
pub(super) fn even_parts(total: usize, most: usize) -> impl DoubleEndedIterator<Item = usize> {
    (1..=most.min(total)).filter(move |&size| even(total, size) == size)
}

/// How often each size occurs among the parts of 0..total: those of `size`, and the rest, if any.
pub(super) fn part_sizes(total: usize, size: usize) -> impl Iterator<Item = (u64, usize)> + Clone {
    let rest = (1, total % size);
    [((total / size) as u64, size), rest].into_iter().filter(|&(count, size)| count > 0 && size > 0)
}
