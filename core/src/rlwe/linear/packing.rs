//! Which coefficient holds what: convolutions as products of polynomials, after Cheetah (Huang et al., USENIX Security 2022).
//!
//! A request ciphertext holds M input channels, an answer L output channels, M·L·P <= N. Here P = Hp·Wp is what a channel takes: a row
//! takes its W pixels and then zeros, as many as the larger of the left and the right padding; a channel takes its H rows and
//! then rows of zeros, as many as the larger of the upper and the lower padding. So the zeros behind a row are also those before the next,
//! which packs more than whole padded images would. Only pixels that some window touches are counted. Coefficients:
//!
//! - input channel m, pixel (y, x): a(m, y, x) = m·P + y·Wp + x;
//! - weight of output l and input m at (kh, kw): l·M·P + c - a(m, kh, kw), where c = (M-1)·P + (Kh-1)·Wp + (Kw-1);
//! - output l, window with top left pixel (i, j), which is negative in the padding: l·M·P + c + i·Wp + j.
//!
//! **Why no wrong term lands on an output.** Say the padding above and left is (u, v), u < Kh and v < Kw. The product of the weight of
//! (l', m', kh, kw) and the input at a, 0 <= a < M·P, lies at l'·M·P + c - a(m', kh, kw) + a, less N (and negated) if that is N or more.
//!
//! *Not wrapped:* it meets output (l, i, j) if a = f + (l - l')·M·P, where f = a(m', y, x) with y = kh + i and x = kw + j, so -u <= y < Hp and
//! -v <= x < Wp. If neither is negative, f is in [0, M·P) as a is: l = l', and as a mixed-radix number a has the digits (m', y, x): the terms of the
//! convolution, zero in the padding. If x < 0, the last digit of a is Wp + x >= Wp - v; if x >= 0 and y < 0, the middle
//! digit of a is Hp + y >= Hp - u: at such a the input is zero, as it should be.
//!
//! *Wrapped:* then a = f + (l - l')·M·P + N >= f + M·P, so f is negative and a is among the last u·Wp + v places below M·P. These
//! are zeros: behind the last row of pixels or behind its pixels.
//!
//! *Range of outputs:* u < Kh and v < Kw put them at l·M·P + (M-1)·P or above, and i + Kh - 1 < Hp, j + Kw - 1 < Wp below (l+1)·M·P.
//!
//! Where a stride exceeds the kernel, the pixels between windows are left out and the padded pixels that are left are counted
//! like pixels, with u = 0 (v = 0); so too where the padding is as large as the kernel.

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
/// Both parties derive it from the same [`ConvShape`] and the same limit on L.
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

/// One direction of the image: its windows, and the places that a row (or a channel) takes.
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

    /// Distance of windows in places: where strides jump over pixels, these are left out.
    fn step(&self) -> usize {
        self.stride.min(self.kernel)
    }

    /// Padded pixels up to the last that a window touches, less those left out.
    fn touched(&self) -> usize {
        (self.windows - 1) * self.step() + self.kernel
    }

    /// Places that the first window lies before the first pixel: the padding before, if it can share its zeros with the padding behind.
    fn lead(&self) -> usize {
        if self.stride <= self.kernel && self.pad < self.kernel { self.pad } else { 0 }
    }

    /// Places taken: pixels, then zeros; not fewer than the kernel has, so that no two weights share a coefficient.
    fn places(&self) -> usize {
        match self.lead() {
            0 => self.touched(),
            lead => {
                let end = self.touched() - lead;
                end.max(end.min(self.length) + lead).max(self.kernel)
            }
        }
    }

    /// The pixel of the image at place `i`, or none where there is a zero.
    fn pixel(&self, i: usize) -> Option<usize> {
        let padded = match self.stride > self.kernel {
            true => i / self.kernel * self.stride + i % self.kernel,
            false => i + self.lead(),
        };
        // A place behind the last window holds a zero, whether or not the image goes on.
        let inside = i + self.lead() < self.touched();
        padded.checked_sub(self.pad).filter(|&x| inside && x < self.length)
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
        let (height, width) = (rows.places(), columns.places());
        let size = height.saturating_mul(width);
        if size > n {
            return Err(Error::new(
                ErrorKind::UnsupportedModel,
                alloc::format!(
                    "convolution: one channel with its padding must fit the {n} coefficients of a ciphertext (images are not \
                     cut into tiles in this version), got {height} x {width} = {size}"
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
        self.rows.places() * self.columns.places()
    }

    /// a(m, y, x).
    fn place(&self, m: usize, i: usize, j: usize) -> usize {
        m * self.channel_size() + i * self.columns.places() + j
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
            let pixels = (0..packing.rows.places()).filter_map(move |i| packing.rows.pixel(i).map(|y| (i, y)));
            pixels.flat_map(move |(i, y)| {
                let row = (0..packing.columns.places()).filter_map(move |j| packing.columns.pixel(j).map(|x| (j, x)));
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
            // base is at least place(0, Kh - 1, Kw - 1), and the leads are below the kernel's sides.
            let lead = packing.place(0, packing.rows.lead(), packing.columns.lead());
            let base = l * packing.inputs * packing.channel_size() + packing.base() - lead;
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
