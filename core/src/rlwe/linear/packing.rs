//! Which coefficient holds what: convolutions as products of polynomials, after Cheetah (Huang et al., USENIX Security 2022).
//!
//! The windows are cut into tiles of equally many rows and columns of windows; a tile is a small image of the pixels that its windows
//! touch, padding included, and its product with the weights does not depend on which tile it is. A channel is one plane, or several where
//! strides are taken apart ([`super::axis`]): with strides of 2, say, the pixels of even rows and columns, of even rows and odd columns,
//! and so on, each with its own weights, as if each were an input channel of a convolution without stride.
//!
//! A request ciphertext holds M input planes of a tile, an answer L output channels of a tile, M·L·P <= N. Here P = Hp·Wp is what a
//! plane of a tile takes:
//!
//! - cut into several tiles, a row takes the pixels and the zeros of padding from its first window to its last;
//! - in a single tile, a row takes its W pixels and then zeros, as many as the larger of the left and the right padding. So the
//!   zeros behind a row are also those before the next, which packs more than whole padded images would;
//! - a plane takes rows by the same rules, with the padding above and below.
//!
//! With the kernel spanning Kh·Kw places, coefficients are:
//!
//! - input plane m, pixel (y, x): a(m, y, x) = m·P + y·Wp + x;
//! - weight of output l and plane m, (y, x) behind the window's first place: l·M·P + c - a(m, y, x), c = (M-1)·P + (Kh-1)·Wp + (Kw-1);
//! - output l, window with top left place (i, j), which is negative in the padding: l·M·P + c + i·Wp + j.
//!
//! Of channels in different groups there is no weight, and where all pairs of a request's and an answer's channels are so, no polynomial.
//!
//! **Why no wrong term lands on an output.** Say the first window begins u places above and v left of place (0, 0), u < Kh and v < Kw. What it
//! begins on is padding in all planes; the last u rows of a plane are zeros too, and the last v places of each row. The product of the
//! weight of (l', m', p, q) and the input at a, 0 <= a < M·P, lies at l'·M·P + c - a(m', p, q) + a, less N (and negated) if that is N or more.
//!
//! *Not wrapped:* it meets output (l, i, j) if a = f + (l - l')·M·P, where f = a(m', y, x) with y = p + i and x = q + j, so -u <= y < Hp and
//! -v <= x < Wp. If neither is negative, f is in [0, M·P) as a is: l = l', and as a mixed-radix number a has the digits (m', y, x): the terms of the
//! convolution, zero in the padding. If x < 0, the last digit of a is Wp + x >= Wp - v; if x >= 0 and y < 0, the middle
//! digit of a is Hp + y >= Hp - u: at such a the input is zero, as it should be.
//!
//! *Wrapped:* then a = f + (l - l')·M·P + N >= f + M·P, so f is negative and a is among the last u·Wp + v places below M·P. These
//! are zeros: the last u rows of the last plane, or the last v places of the row before them.
//!
//! *Range of outputs:* u < Kh and v < Kw put them at l·M·P + (M-1)·P or above, and i + Kh - 1 < Hp, j + Kw - 1 < Wp below (l+1)·M·P.
//!
//! Between several tiles no zeros are shared: u = 0 (v = 0), and places of padding count as pixels that are zero.

use super::axis::{Axis, MAX_COUNT, even, even_parts, part, part_sizes};
use super::request;
use crate::error::{Error, ErrorKind, Result};
use crate::rlwe::params::LINEAR;
use crate::rlwe::poly::element_bytes;
use crate::rlwe::switch::switched_bytes;
use alloc::vec::Vec;
use core::ops::Range;

/// A convolution of live channels. Public.
///
/// A dense layer over channels of height times width values is a convolution whose kernel is the whole image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Input channels that are not of degree 0.
    pub in_channels: usize,
    /// Rows of the image before padding.
    pub in_height: usize,
    /// Columns of the image before padding.
    pub in_width: usize,
    /// Output channels that are not of degree 0.
    pub out_channels: usize,
    /// Groups that the channels are cut into, evenly; outputs of a group have weights for its inputs alone. 1 for a dense
    /// convolution, the number of channels for a depthwise one.
    pub groups: usize,
    /// Rows of the kernel.
    pub kernel_height: usize,
    /// Columns of the kernel.
    pub kernel_width: usize,
    /// Rows of the image from one row of the kernel to the next; 1 without dilation.
    pub dilation_height: usize,
    /// Columns of the image from one column of the kernel to the next; 1 without dilation.
    pub dilation_width: usize,
    /// Rows from one window to the next.
    pub stride_height: usize,
    /// Columns from one window to the next.
    pub stride_width: usize,
    /// Rows of zeros above the image.
    pub pad_top: usize,
    /// Columns of zeros left of the image.
    pub pad_left: usize,
    /// Rows of zeros below the image.
    pub pad_bottom: usize,
    /// Columns of zeros right of the image.
    pub pad_right: usize,
    /// k: only the low k bits of an output matter. [`MIN_WORD_BITS`] to 32.
    pub word_bits: u32,
}

/// The narrowest words that answers bring: of narrower ones some more bits than needed are sent.
pub const MIN_WORD_BITS: u32 = 16;

/// Answers that are computed together, if there are as few tiles. Requests of large layers (96 KiB each) do not stay in the second-level cache
/// from one answer to the next, so that more answers at a time are less memory to read.
const TOGETHER: usize = 4;

/// How a convolution lies in ciphertexts: tiles, M input planes per request, L output channels per answer. Public.
///
/// Both parties derive it from the same [`ConvShape`] and the same limit on L. Requests and answers are numbered by their
/// planes or channels first: number k·T + t holds the k-th M planes (L channels) of tile t of T.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearPacking {
    shape: ConvShape,
    rows: Axis,
    columns: Axis,
    /// M.
    inputs: usize,
    /// L.
    outputs: usize,
}

/// Neighbouring coefficients of a request that hold inputs of one row of a plane.
#[derive(Clone, Debug)]
pub(in crate::rlwe) struct InputRun {
    /// The coefficients.
    pub(in crate::rlwe) places: Range<usize>,
    /// The number of the first one's input, channel by channel over the whole input.
    pub(in crate::rlwe) input: usize,
    /// What inputs' numbers differ by from one place to the next.
    pub(in crate::rlwe) step: usize,
    /// Their channel.
    pub(in crate::rlwe) channel: usize,
    /// Whether an earlier request holds them, too.
    pub(in crate::rlwe) repeated: bool,
}

impl InputRun {
    /// Whether the request brings the mask's words: see [`super::encrypt_request`].
    pub(super) fn is_fresh(&self, fresh: &[bool]) -> bool {
        !self.repeated && fresh.get(self.channel).copied().unwrap_or(false)
    }

    /// The numbers of the inputs.
    pub(in crate::rlwe) fn inputs(&self) -> impl Iterator<Item = usize> + use<> {
        let Self { input, step, .. } = *self;
        (0..self.places.len()).map(move |i| input + i * step)
    }
}

/// Coefficients of an answer at even distances that are outputs of one row.
#[derive(Clone, Debug)]
pub(super) struct OutputRun {
    /// The first coefficient.
    pub(super) place: usize,
    /// What places differ by from one output to the next.
    pub(super) step: usize,
    /// The numbers of the outputs, channel by channel over the whole output.
    pub(super) outputs: Range<usize>,
}

impl OutputRun {
    /// The coefficients.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let Self { place, step, .. } = *self;
        (0..self.outputs.len()).map(move |i| place + i * step)
    }
}

/// What a packing of a given shape may choose.
#[derive(Clone, Copy, Debug)]
pub(in crate::rlwe) struct Layout {
    /// Windows of a tile, rows and columns; all there are, if fewer.
    pub(in crate::rlwe) tile: [usize; 2],
    /// Whether strides are taken apart, of rows and of columns.
    pub(in crate::rlwe) apart: [bool; 2],
    /// M.
    pub(in crate::rlwe) inputs: usize,
    /// L.
    pub(in crate::rlwe) outputs: usize,
}

impl LinearPacking {
    /// The packing that takes the fewest bytes of requests and answers, and among those the fewest products.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the shape is none; [`ErrorKind::UnsupportedModel`] if a window does not fit a ciphertext.
    pub fn choose(shape: &ConvShape) -> Result<Self> {
        Self::choose_quieter(shape, usize::MAX)
    }

    /// As [`Self::choose`], with at most `outputs` output channels per answer.
    ///
    /// The noise of an answer grows with all the weights in it, so fewer channels per answer is the way to less noise.
    ///
    /// # Errors
    /// As [`Self::choose`].
    pub fn choose_quieter(shape: &ConvShape, outputs: usize) -> Result<Self> {
        let n = LINEAR.degree();
        // The least that can be asked for: a window at a time.
        let mut best = Self::new(shape, Layout { tile: [1, 1], apart: [true, true], inputs: 1, outputs: 1 })?;
        let mut bytes = best.bytes();
        let axes = (best.rows.samplings())
            .flat_map(|i| best.columns.samplings().map(move |j| (best.rows.sampled(i), best.columns.sampled(j))));
        let axes = axes.collect::<Vec<_>>();
        // From large tiles to small: fewest tiles win ties. A row has at least as many places as a tile has windows in it.
        for (rows, columns) in axes {
            for height in even_parts(rows.windows, n).rev() {
                let rows = rows.cut(height);
                for width in even_parts(columns.windows, n / rows.places()).rev() {
                    let columns = columns.cut(width);
                    let room = n / rows.places().saturating_mul(columns.places());
                    let tiles = rows.tiles() as u64 * columns.tiles() as u64;
                    if room == 0
                        || tiles * (request::bytes(0) + switched_bytes(&LINEAR, best.answer_bits(), 1)) as u64 > bytes
                    {
                        continue;
                    }
                    let tiled = Self { rows, columns, ..best };
                    for inputs in even_parts(tiled.in_planes(), room) {
                        let outputs = even(shape.out_channels, (room / inputs).min(outputs).max(1));
                        let candidate = Self { inputs, outputs, ..tiled };
                        let cost = candidate.bytes();
                        if cost < bytes || cost == bytes && candidate.products() < best.products() {
                            (best, bytes) = (candidate, cost);
                        }
                    }
                }
            }
        }
        Ok(best)
    }

    /// The packing of a layout.
    ///
    /// # Errors
    /// As [`Self::choose`], and [`ErrorKind::InvalidArgument`] if so many planes and channels do not fit a ciphertext.
    pub(in crate::rlwe) fn new(shape: &ConvShape, layout: Layout) -> Result<Self> {
        let Layout { tile, apart, inputs, outputs } = layout;
        let rows = Axis::new(
            "height",
            shape.in_height,
            [shape.pad_top, shape.pad_bottom],
            shape.kernel_height,
            shape.dilation_height,
            shape.stride_height,
        )?;
        let columns = Axis::new(
            "width",
            shape.in_width,
            [shape.pad_left, shape.pad_right],
            shape.kernel_width,
            shape.dilation_width,
            shape.stride_width,
        )?;
        if !(MIN_WORD_BITS..=32).contains(&shape.word_bits) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                alloc::format!("word bits: expected {MIN_WORD_BITS} to 32, got {}", shape.word_bits),
            ));
        }
        let divides = |channels: usize| channels.checked_rem(shape.groups) == Some(0);
        if !divides(shape.in_channels) || !divides(shape.out_channels) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                alloc::format!(
                    "groups of a convolution: expected a divisor of {} input and {} output channels, got {}",
                    shape.in_channels,
                    shape.out_channels,
                    shape.groups
                ),
            ));
        }
        let product = |factors: [usize; 3]| factors.into_iter().try_fold(1, usize::checked_mul);
        let counts = [
            product([shape.in_channels, rows.length, columns.length]),
            product([shape.in_channels, rows.kernel, columns.kernel])
                .and_then(|planes| product([planes, rows.windows, columns.windows])),
            product([shape.out_channels, rows.windows, columns.windows]),
            product([shape.in_channels, shape.out_channels / shape.groups, rows.kernel.saturating_mul(columns.kernel)]),
        ];
        if counts.iter().any(|&count| !count.is_some_and(|count| (1..=MAX_COUNT).contains(&count))) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                alloc::format!(
                    "convolution: expected 1 to {MAX_COUNT} inputs, outputs, weights and products of an output channel, got \
                     {} channels to {}",
                    shape.in_channels,
                    shape.out_channels
                ),
            ));
        }
        let sampling = |axis: &Axis, apart| if apart { axis.samplings().last().unwrap_or(1) } else { 1 };
        let (rows, columns) = (rows.sampled(sampling(&rows, apart[0])), columns.sampled(sampling(&columns, apart[1])));
        let n = LINEAR.degree();
        let window = rows.span().saturating_mul(columns.span());
        if window > n {
            return Err(Error::new(
                ErrorKind::UnsupportedModel,
                alloc::format!(
                    "convolution: expected a window of at most the {n} coefficients of a ciphertext, got {} x {} = {window}",
                    rows.span(),
                    columns.span()
                ),
            ));
        }
        let (rows, columns) = (rows.cut(tile[0].min(rows.windows)), columns.cut(tile[1].min(columns.windows)));
        let packing = Self { shape: *shape, rows, columns, inputs, outputs };
        let fits = tile.into_iter().all(|windows| windows > 0)
            && inputs
                .checked_mul(outputs)
                .and_then(|channels| product([channels, rows.places(), columns.places()]))
                .is_some_and(|places| (1..=n).contains(&places));
        if !fits || inputs > packing.in_planes() || outputs > shape.out_channels {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                alloc::format!(
                    "packing: expected at least 1 window and 1 to {} input planes and 1 to {} output channels, all in {n} \
                     coefficients, got {} x {} windows, {inputs} and {outputs}",
                    packing.in_planes(),
                    shape.out_channels,
                    tile[0],
                    tile[1]
                ),
            ));
        }
        Ok(packing)
    }

    /// Bytes of all requests and answers, at most 2^30 of each. Fresh inputs take fewer, the same for every packing.
    fn bytes(&self) -> u64 {
        let mut bytes = self.request_ciphertexts() as u64 * request::bytes(0) as u64;
        for (channel_parts, channels) in part_sizes(self.shape.out_channels, self.outputs) {
            for (row_parts, rows) in part_sizes(self.rows.windows, self.rows.tile) {
                for (column_parts, columns) in part_sizes(self.columns.windows, self.columns.tile) {
                    let answer = switched_bytes(&LINEAR, self.answer_bits(), channels * rows * columns) as u64;
                    bytes += channel_parts * row_parts * column_parts * answer;
                }
            }
        }
        bytes
    }

    /// log2 of q' of the answers.
    pub(super) fn answer_bits(&self) -> u32 {
        LINEAR.switched_bits - self.unused_bits()
    }

    /// 32 - k: upper bits of an output that no one needs. In answers, outputs are times 2 to the power of these.
    pub(super) fn unused_bits(&self) -> u32 {
        32 - self.shape.word_bits
    }

    /// Products of a request and a polynomial.
    fn products(&self) -> u64 {
        self.weight_polynomials() * self.tiles() as u64
    }

    /// The convolution.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// M: input planes, which are channels unless strides are taken apart, per request ciphertext.
    pub fn inputs_per_request(&self) -> usize {
        self.inputs
    }

    /// L: output channels per answer.
    pub fn outputs_per_response(&self) -> usize {
        self.outputs
    }

    /// T: tiles that the windows are cut into.
    pub fn tiles(&self) -> usize {
        self.rows.tiles() * self.columns.tiles()
    }

    /// Number of values of the input: channels times height times width.
    pub fn inputs(&self) -> usize {
        self.shape.in_channels * self.rows.length * self.columns.length
    }

    /// Number of values of the output: channels times height times width.
    pub fn outputs(&self) -> usize {
        self.shape.out_channels * self.rows.windows * self.columns.windows
    }

    /// Number of weights: output channels times input channels of a group times kernel.
    pub fn weights(&self) -> usize {
        self.shape.out_channels * self.group_inputs() * self.rows.kernel * self.columns.kernel
    }

    /// Number of request ciphertexts.
    pub fn request_ciphertexts(&self) -> usize {
        self.in_planes().div_ceil(self.inputs) * self.tiles()
    }

    /// Bytes of request `index`. `fresh` tells of each input channel whether the requests bring its mask's words
    /// ([`super::encrypt_request`]); an empty slice stands for none.
    pub fn request_bytes(&self, index: usize, fresh: &[bool]) -> usize {
        let brought = match fresh.contains(&true) {
            true => self.input_runs(index).filter(|run| run.is_fresh(fresh)).map(|run| run.places.len()).sum(),
            false => 0,
        };
        request::bytes(brought)
    }

    /// Bytes that a [`super::LinearResponder`] keeps of each request, and of each answer in the making: both halves, expanded.
    pub fn ciphertext_memory(&self) -> usize {
        2 * element_bytes(&LINEAR)
    }

    /// Most answers that a [`super::LinearResponder`] has in the making at a time: those of all tiles of some output channels.
    pub fn answers_together(&self) -> usize {
        self.tiles() * (TOGETHER / self.tiles()).clamp(1, self.output_parts())
    }

    /// Number of answers.
    pub fn response_ciphertexts(&self) -> usize {
        self.output_parts() * self.tiles()
    }

    /// Bytes of answer `index`; zero if there is none.
    pub fn response_bytes(&self, index: usize) -> usize {
        match self.response_outputs_count(index) {
            0 => 0,
            sent => switched_bytes(&LINEAR, self.answer_bits(), sent),
        }
    }

    /// How many outputs answer `index` brings; zero if there is no such answer.
    pub fn response_outputs_count(&self, index: usize) -> usize {
        let (channels, rows, columns) = self.response_part(index);
        channels.len() * rows.len() * columns.len()
    }

    /// The outputs that answer `index` brings, in its order, numbered channel by channel over the whole output; none if there is no such answer.
    pub fn response_outputs(&self, index: usize) -> impl Iterator<Item = usize> + use<> {
        self.output_runs(index).flat_map(|run| run.outputs)
    }

    /// Polynomials of weights: pairs of a request's planes and an answer's channels that share a group.
    pub fn weight_polynomials(&self) -> u64 {
        if self.shape.groups == 1 {
            return self.output_parts() as u64 * self.in_planes().div_ceil(self.inputs) as u64;
        }
        (0..self.output_parts()).map(|part| self.input_parts(part).len() as u64).sum()
    }

    /// Bytes of the weights kept as [`super::Keep::Transformed`].
    pub fn transformed_bytes(&self) -> u64 {
        match self.is_scalar() {
            true => self.weights() as u64 * size_of::<i16>() as u64,
            false => self.weight_polynomials() * element_bytes(&LINEAR) as u64,
        }
    }

    /// Whether each polynomial of weights is a constant: one weight, at coefficient 0.
    pub(super) fn is_scalar(&self) -> bool {
        self.inputs * self.outputs * self.rows.span() * self.columns.span() == 1
    }

    /// How many parts of L channels the output channels are cut into.
    pub(super) fn output_parts(&self) -> usize {
        self.shape.out_channels.div_ceil(self.outputs)
    }

    /// The parts of M input planes that share a group with the output channels of `part`.
    pub(super) fn input_parts(&self, part: usize) -> Range<usize> {
        let outputs = self.output_channels(part);
        match outputs.is_empty() {
            true => 0..0,
            false => {
                let (first, last) = (self.group_of(outputs.start), self.group_of(outputs.end - 1));
                let planes = self.group_inputs() * self.channel_planes();
                first * planes / self.inputs..((last + 1) * planes).div_ceil(self.inputs)
            }
        }
    }

    /// The output channels of `part`; none beyond the last.
    fn output_channels(&self, index: usize) -> Range<usize> {
        part(self.shape.out_channels, self.outputs, index)
    }

    /// Planes of an input channel.
    fn channel_planes(&self) -> usize {
        self.rows.planes() * self.columns.planes()
    }

    /// Planes of all input channels, channel by channel.
    fn in_planes(&self) -> usize {
        self.shape.in_channels * self.channel_planes()
    }

    /// Of a plane's number, the channel, and of its place in the channel the numbers of row and column.
    fn split_plane(&self, plane: usize) -> (usize, usize, usize) {
        let (channel, rest) = (plane / self.channel_planes(), plane % self.channel_planes());
        (channel, rest / self.columns.planes(), rest % self.columns.planes())
    }

    /// Input channels of a group.
    fn group_inputs(&self) -> usize {
        self.shape.in_channels / self.shape.groups
    }

    /// The group of an output channel.
    fn group_of(&self, out_channel: usize) -> usize {
        out_channel / (self.shape.out_channels / self.shape.groups)
    }

    /// Of a request's or an answer's number, the part of the planes or channels, and of its tile the numbers of row and column.
    fn split(&self, index: usize) -> (usize, usize, usize) {
        let (part, tile) = (index / self.tiles(), index % self.tiles());
        (part, tile / self.columns.tiles(), tile % self.columns.tiles())
    }

    /// The channels and the rows and columns of windows of answer `index`; no channels if there is none.
    fn response_part(&self, index: usize) -> (Range<usize>, Range<usize>, Range<usize>) {
        let (part, row, column) = self.split(index);
        (self.output_channels(part), self.rows.windows_of(row), self.columns.windows_of(column))
    }

    /// P.
    fn plane_size(&self) -> usize {
        self.rows.places() * self.columns.places()
    }

    /// a(m, y, x).
    fn place(&self, m: usize, i: usize, j: usize) -> usize {
        m * self.plane_size() + i * self.columns.places() + j
    }

    /// c.
    fn base(&self) -> usize {
        self.place(self.inputs - 1, self.rows.span() - 1, self.columns.span() - 1)
    }

    /// Where request `index` holds inputs. All other coefficients hold zero.
    pub(in crate::rlwe) fn input_runs(&self, index: usize) -> impl Iterator<Item = InputRun> + use<> {
        let packing = *self;
        let Self { rows, columns, .. } = packing;
        let (planes, row_tile, column_tile) = self.split(index);
        let (width, size) = (columns.places(), self.plane_size());
        part(self.in_planes(), self.inputs, planes).enumerate().flat_map(move |(m, plane)| {
            let (channel, row_plane, column_plane) = packing.split_plane(plane);
            let (of_column, first_row) = rows.pixels(row_tile, row_plane);
            let (of_row, first_column) = columns.pixels(column_tile, column_plane);
            of_column.enumerate().flat_map(move |(count, i)| {
                let y = first_row + count * rows.sampling();
                let (place, input) = (m * size + i * width, (channel * rows.length + y) * columns.length);
                // Where the tile before ends, or the row if it is in the tile before as a whole.
                let Range { start, end } = of_row;
                let middle = if i < rows.repeated(row_tile) { end } else { columns.repeated(column_tile) };
                let middle = middle.clamp(start, end.max(start));
                let runs = [(start..middle, true), (middle..end, false)].into_iter();
                runs.filter(|(run, _)| !run.is_empty()).map(move |(run, repeated)| InputRun {
                    input: input + first_column + (run.start - start) * columns.sampling(),
                    places: place + run.start..place + run.end,
                    step: columns.sampling(),
                    channel,
                    repeated,
                })
            })
        })
    }

    /// The definition of [`Self::fill_weights`]: where the polynomial of parts of the input planes and the output channels holds weights: pairs of a coefficient and the number of the weight
    /// there.
    #[cfg(test)]
    pub(in crate::rlwe) fn weight_places(
        &self,
        input_part: usize,
        output_part: usize,
    ) -> impl Iterator<Item = (usize, usize)> + use<> {
        let packing = *self;
        let Self { rows, columns, .. } = packing;
        let inputs = part(self.in_planes(), self.inputs, input_part);
        self.output_channels(output_part).enumerate().flat_map(move |(l, out_channel)| {
            let group_inputs = packing.group_inputs();
            let first_channel = packing.group_of(out_channel) * group_inputs;
            let planes =
                [first_channel, first_channel + group_inputs].map(|channel| channel * packing.channel_planes());
            let (start, top) = (inputs.start, l * packing.inputs * packing.plane_size() + packing.base());
            (inputs.start.max(planes[0])..inputs.end.min(planes[1])).flat_map(move |plane| {
                let (channel, row_plane, column_plane) = packing.split_plane(plane);
                let kernel = (out_channel * group_inputs + channel - first_channel) * rows.kernel;
                rows.taps(row_plane).flat_map(move |(kh, y)| {
                    columns.taps(column_plane).map(move |(kw, x)| {
                        (top - packing.place(plane - start, y, x), (kernel + kh) * columns.kernel + kw)
                    })
                })
            })
        })
    }

    /// Of each plane of a channel, in their order, its weights: how far before the coefficient of the plane's first place, and the number
    /// in the kernel.
    pub(super) fn taps(&self) -> Vec<Vec<(usize, usize)>> {
        let width = self.columns.places();
        let planes = (0..self.channel_planes()).map(|plane| {
            let (_, row_plane, column_plane) = self.split_plane(plane);
            let row = |(kh, y)| {
                self.columns.taps(column_plane).map(move |(kw, x)| (y * width + x, kh * self.columns.kernel + kw))
            };
            self.rows.taps(row_plane).flat_map(row).collect()
        });
        planes.collect()
    }

    /// Writes the coefficients of the polynomial of parts of the input planes and the output channels, zero where it holds no weight.
    ///
    /// `taps` is what [`Self::taps`] gives, for all polynomials of the packing.
    pub(super) fn fill_weights(
        &self,
        taps: &[Vec<(usize, usize)>],
        [input_part, output_part]: [usize; 2],
        weights: &[i16],
        out: &mut [i16],
    ) {
        out.fill(0);
        let inputs = part(self.in_planes(), self.inputs, input_part);
        let (size, kernel) = (self.plane_size(), self.rows.kernel * self.columns.kernel);
        let (group, planes) = (self.group_inputs(), self.group_inputs() * taps.len());
        for (l, out_channel) in self.output_channels(output_part).enumerate() {
            // Planes of the channel's group that are in this part.
            let first = self.group_of(out_channel) * planes;
            let range = inputs.start.max(first)..inputs.end.min(first + planes);
            if range.is_empty() {
                continue;
            }
            let mut of_channel = (range.start - first) % taps.len();
            let mut number = (out_channel * group + (range.start - first) / taps.len()) * kernel;
            let top = l * self.inputs * size + self.base() - (range.start - inputs.start) * size;
            for (i, _) in range.enumerate() {
                for (before, tap) in &taps[of_channel] {
                    out[top - i * size - before] = weights[number + tap];
                }
                of_channel += 1;
                if of_channel == taps.len() {
                    (of_channel, number) = (0, number + kernel);
                }
            }
        }
    }

    /// The coefficients of answer `index` that are its outputs, in their order.
    pub(in crate::rlwe) fn output_places(&self, index: usize) -> impl Iterator<Item = usize> + use<> {
        self.output_runs(index).flat_map(|run| run.places())
    }

    /// From the coefficient of the first output of answer `index` to that of the last: they lie in order.
    pub(super) fn output_range(&self, index: usize) -> Range<usize> {
        let first = self.output_runs(index).next().map_or(0, |run| run.place);
        let end = self.output_runs(index).last().and_then(|run| run.places().last()).map_or(first, |last| last + 1);
        first..end
    }

    /// Where answer `index` holds its outputs, in their order.
    pub(super) fn output_runs(&self, index: usize) -> impl Iterator<Item = OutputRun> + use<> {
        let packing = *self;
        let (channels, rows, columns) = self.response_part(index);
        // The base is at least place(0, Kh - 1, Kw - 1), and the leads are below the kernel's spans.
        let base = packing.base() - packing.place(0, packing.rows.lead(), packing.columns.lead());
        let channel_step = packing.inputs * packing.plane_size();
        // A window that is the only one takes no step, and may have one too long for a machine's words.
        let row_step = packing.rows.step().saturating_mul(packing.columns.places());
        channels.enumerate().flat_map(move |(l, channel)| {
            let columns = columns.clone();
            rows.clone().enumerate().map(move |(count, i)| {
                let first = (channel * packing.rows.windows + i) * packing.columns.windows;
                OutputRun {
                    place: base + l * channel_step + count * row_step,
                    step: packing.columns.step(),
                    outputs: first + columns.start..first + columns.end,
                }
            })
        })
    }
}
