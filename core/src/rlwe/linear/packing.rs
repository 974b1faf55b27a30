//! Which coefficient holds what: convolutions as products of polynomials, after Cheetah (Huang et al., USENIX Security 2022).
//!
//! A request ciphertext holds M input channels, an answer L output channels, M·L·P <= N. Here P = Hp·Wp is the size of
//! the padded image, reduced to the rows and columns that some window touches. Coefficients:
//!
//! - input channel m, pixel (i, j): a(m, i, j) = m·P + i·Wp + j;
//! - weight of output l and input m at (kh, kw): l·M·P + c - a(m, kh, kw), where c = (M-1)·P + (Kh-1)·Wp + (Kw-1);
//! - output l, window with top left pixel (i, j): l·M·P + c + i·Wp + j.
//!
//! **Why no wrong term lands on an output.** The product of the weight of (l', m', kh, kw) and the input a = a(m, i', j') lies at
//! l'·M·P + c - a(m', kh, kw) + a, less N (and negated) if that is N or more.
//!
//! *Not wrapped:* it meets output (l, i, j) if a = a(m', kh + i, kw + j) + (l - l')·M·P. The window is inside the image, so
//! kh + i < Hp and kw + j < Wp, and both a's are in [0, M·P): l = l', and as m·P + i·Wp + j is a mixed-radix number its digits agree: m = m',
//! i' = kh + i, j' = kw + j. These are exactly the terms of the convolution.
//!
//! *Wrapped:* positions before wrapping are at most (L-1)·M·P + c + (M·P - 1) < N + c, so after it below c, and
//! every output is at c or above. *Highest output:* i + Kh - 1 < Hp and j + Kw - 1 < Wp put it at or below L·M·P - 1 < N.

use crate::error::{Error, ErrorKind, Result};
use crate::rlwe::keys::sealed_bytes;
use crate::rlwe::params::LINEAR;
use crate::rlwe::switch::switched_bytes;
use core::ops::Range;

/// Largest size in any direction, and largest number of values of an input, an output or a kernel, that is accepted.
const MAX_COUNT: usize = 1 << 30;

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
    /// Rows of the kernel.
    pub kernel_height: usize,
    /// Columns of the kernel.
    pub kernel_width: usize,
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
}

/// How a convolution lies in ciphertexts: M input channels per request, L output channels per answer. Public.
///
/// Both parties derive it from the same [`ConvShape`] (and, where it is not the default, the same M and L).
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

/// One direction of the image: its windows, and the pixels that some window touches, counted without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Axis {
    length: usize,
    pad: usize,
    kernel: usize,
    stride: usize,
    /// Number of windows.
    windows: usize,
}

impl Axis {
    fn new(what: &str, length: usize, pads: [usize; 2], kernel: usize, stride: usize) -> Result<Self> {
        let padded = length.saturating_add(pads[0]).saturating_add(pads[1]);
        if length == 0 || kernel == 0 || stride == 0 || kernel > padded || padded.max(stride) > MAX_COUNT {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                alloc::format!(
                    "{what} of a convolution: expected an image, a stride and a kernel of 1 to {MAX_COUNT}, the kernel within the \
                     padded image, got image {length} padded to {padded}, kernel {kernel}, stride {stride}"
                ),
            ));
        }
        Ok(Self { length, pad: pads[0], kernel, stride, windows: (padded - kernel) / stride + 1 })
    }

    /// Distance of windows among the touched pixels: where strides jump over pixels, these are left out.
    fn step(&self) -> usize {
        self.stride.min(self.kernel)
    }

    /// Number of touched pixels.
    fn touched(&self) -> usize {
        (self.windows - 1) * self.step() + self.kernel
    }

    /// The pixel of the image that touched pixel `i` is, or none where it is padding.
    fn pixel(&self, i: usize) -> Option<usize> {
        let padded = if self.stride > self.kernel { i / self.kernel * self.stride + i % self.kernel } else { i };
        padded.checked_sub(self.pad).filter(|&x| x < self.length)
    }
}

impl LinearPacking {
    /// The packing that takes the fewest bytes of requests and answers, and among those the fewest products.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the shape is none; [`ErrorKind::UnsupportedModel`] if a channel does not fit a ciphertext.
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
        let widest = Self::new(shape, 1, 1)?;
        let room = LINEAR.degree() / widest.channel_size();
        let mut best = widest;
        for inputs in 1..=room.min(shape.in_channels) {
            let most = (room / inputs).min(shape.out_channels).min(outputs).max(1);
            // The fewest channels per answer that keep the number of answers.
            let even = shape.out_channels.div_ceil(shape.out_channels.div_ceil(most));
            let candidate = Self { inputs, outputs: even, ..widest };
            if candidate.cost() < best.cost() {
                best = candidate;
            }
        }
        Ok(best)
    }

    /// The packing of `inputs` input channels per request and `outputs` output channels per answer.
    ///
    /// # Errors
    /// As [`Self::choose`], and [`ErrorKind::InvalidArgument`] if so many do not fit a ciphertext.
    pub fn new(shape: &ConvShape, inputs: usize, outputs: usize) -> Result<Self> {
        let rows = Axis::new(
            "height",
            shape.in_height,
            [shape.pad_top, shape.pad_bottom],
            shape.kernel_height,
            shape.stride_height,
        )?;
        let columns = Axis::new(
            "width",
            shape.in_width,
            [shape.pad_left, shape.pad_right],
            shape.kernel_width,
            shape.stride_width,
        )?;
        let packing = Self { shape: *shape, rows, columns, inputs, outputs };
        let n = LINEAR.degree();
        let (height, width) = (rows.touched(), columns.touched());
        let size = height.saturating_mul(width);
        if size > n {
            return Err(Error::new(
                ErrorKind::UnsupportedModel,
                alloc::format!(
                    "convolution: one padded channel must fit the {n} coefficients of a ciphertext (images are not cut into \
                     tiles in this version), got {height} x {width} = {size}"
                ),
            ));
        }
        let kernel = rows.kernel * columns.kernel;
        let counts = [
            shape.in_channels.checked_mul(rows.length).and_then(|x| x.checked_mul(columns.length)),
            shape.out_channels.checked_mul(rows.windows).and_then(|x| x.checked_mul(columns.windows)),
            shape.in_channels.checked_mul(shape.out_channels).and_then(|x| x.checked_mul(kernel)),
        ];
        if counts.iter().any(|&count| !count.is_some_and(|count| (1..=MAX_COUNT).contains(&count))) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                alloc::format!(
                    "convolution: expected 1 to {MAX_COUNT} inputs, outputs and weights, got {} channels to {}",
                    shape.in_channels,
                    shape.out_channels
                ),
            ));
        }
        let fits = inputs.checked_mul(outputs).is_some_and(|channels| (1..=n / size).contains(&channels));
        if !fits || inputs > shape.in_channels || outputs > shape.out_channels {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                alloc::format!(
                    "packing: expected at least 1 input and 1 output channel, at most {} and {}, product at most {}, got {inputs} and {outputs}",
                    shape.in_channels,
                    shape.out_channels,
                    n / size
                ),
            ));
        }
        Ok(packing)
    }

    /// Bytes, then products.
    fn cost(&self) -> (u64, u64) {
        let (requests, responses) = (self.request_ciphertexts() as u64, self.response_ciphertexts() as u64);
        let request = sealed_bytes(&LINEAR) as u64;
        // All answers but the last are equally long.
        let full = switched_bytes(&LINEAR, self.outputs * self.windows()) as u64;
        let last = self.response_bytes(self.response_ciphertexts() - 1) as u64;
        (requests * request + (responses - 1) * full + last, requests * responses)
    }

    /// The convolution.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// M: input channels per request ciphertext.
    pub fn inputs_per_request(&self) -> usize {
        self.inputs
    }

    /// L: output channels per answer.
    pub fn outputs_per_response(&self) -> usize {
        self.outputs
    }

    /// Number of values of the input: channels times height times width.
    pub fn inputs(&self) -> usize {
        self.shape.in_channels * self.rows.length * self.columns.length
    }

    /// Number of values of the output: channels times height times width.
    pub fn outputs(&self) -> usize {
        self.shape.out_channels * self.windows()
    }

    /// Rows and columns of the output.
    pub fn output_size(&self) -> (usize, usize) {
        (self.rows.windows, self.columns.windows)
    }

    /// Number of weights: output channels times input channels times kernel.
    pub fn weights(&self) -> usize {
        self.shape.out_channels * self.shape.in_channels * self.rows.kernel * self.columns.kernel
    }

    /// Number of request ciphertexts.
    pub fn request_ciphertexts(&self) -> usize {
        self.shape.in_channels.div_ceil(self.inputs)
    }

    /// Bytes of each request ciphertext.
    pub fn request_bytes(&self) -> usize {
        sealed_bytes(&LINEAR)
    }

    /// Number of answers.
    pub fn response_ciphertexts(&self) -> usize {
        self.shape.out_channels.div_ceil(self.outputs)
    }

    /// Bytes of answer `index`; zero if there is none.
    pub fn response_bytes(&self, index: usize) -> usize {
        match self.response_outputs(index).len() {
            0 => 0,
            sent => switched_bytes(&LINEAR, sent),
        }
    }

    /// The outputs, counted channel by channel, that answer `index` brings; empty if there is none.
    pub fn response_outputs(&self, index: usize) -> Range<usize> {
        let channels = part(self.shape.out_channels, self.outputs, index);
        channels.start * self.windows()..channels.end * self.windows()
    }

    /// Number of windows: outputs of a channel.
    fn windows(&self) -> usize {
        self.rows.windows * self.columns.windows
    }

    /// P.
    fn channel_size(&self) -> usize {
        self.rows.touched() * self.columns.touched()
    }

    /// a(m, i, j).
    fn place(&self, m: usize, i: usize, j: usize) -> usize {
        m * self.channel_size() + i * self.columns.touched() + j
    }

    /// c.
    fn base(&self) -> usize {
        self.place(self.inputs - 1, self.rows.kernel - 1, self.columns.kernel - 1)
    }

    /// Where request `index` holds inputs: pairs of a coefficient and the number of the input there. All others hold zero.
    pub(in crate::rlwe) fn input_places(&self, index: usize) -> impl Iterator<Item = (usize, usize)> {
        let packing = *self;
        let channels = part(self.shape.in_channels, self.inputs, index);
        channels.enumerate().flat_map(move |(m, channel)| {
            let pixels = (0..packing.rows.touched()).filter_map(move |i| packing.rows.pixel(i).map(|y| (i, y)));
            pixels.flat_map(move |(i, y)| {
                let row = (0..packing.columns.touched()).filter_map(move |j| packing.columns.pixel(j).map(|x| (j, x)));
                row.map(move |(j, x)| {
                    let input = (channel * packing.rows.length + y) * packing.columns.length + x;
                    (packing.place(m, i, j), input)
                })
            })
        })
    }

    /// Where the polynomial of `request` and `response` holds weights: pairs of a coefficient and the number of the weight there.
    pub(in crate::rlwe) fn weight_places(
        &self,
        request: usize,
        response: usize,
    ) -> impl Iterator<Item = (usize, usize)> {
        let packing = *self;
        let kernel = (self.rows.kernel, self.columns.kernel);
        let inputs = part(self.shape.in_channels, self.inputs, request);
        let outputs = part(self.shape.out_channels, self.outputs, response);
        outputs.enumerate().flat_map(move |(l, out_channel)| {
            inputs.clone().enumerate().flat_map(move |(m, in_channel)| {
                let first = (out_channel * packing.shape.in_channels + in_channel) * kernel.0 * kernel.1;
                let top = l * packing.inputs * packing.channel_size() + packing.base();
                (0..kernel.0).flat_map(move |i| {
                    (0..kernel.1).map(move |j| (top - packing.place(m, i, j), first + i * kernel.1 + j))
                })
            })
        })
    }

    /// The coefficients of answer `index` that are its outputs, in their order.
    pub(in crate::rlwe) fn output_places(&self, index: usize) -> impl Iterator<Item = usize> {
        let packing = *self;
        let channels = part(self.shape.out_channels, self.outputs, index).len();
        (0..channels).flat_map(move |l| {
            let base = l * packing.inputs * packing.channel_size() + packing.base();
            (0..packing.rows.windows).flat_map(move |i| {
                (0..packing.columns.windows)
                    .map(move |j| base + packing.place(0, i * packing.rows.step(), j * packing.columns.step()))
            })
        })
    }
}

/// The part `index` of 0..total cut into parts of `size`; empty beyond the last.
fn part(total: usize, size: usize, index: usize) -> Range<usize> {
    let start = index.saturating_mul(size).min(total);
    start..start.saturating_add(size).min(total)
}
