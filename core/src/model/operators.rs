//! What a node may compute, and the shape of what it gives.

use super::limits;
use super::{Activation, Shape, malformed};
use crate::error::{Error, ErrorKind, Result};
use alloc::{format, vec::Vec};
use serde::{Deserialize, Serialize};

/// What a node computes on integers.
///
/// All but convolutions, activations and maxima are *local*: both parties apply the same linear map to what they hold.
/// Results of local operators must fit 32 bits with sign where an activation follows; nothing checks that on the way, and
/// a larger one comes back as another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// y = W · x + bias in Z_2^32; a dense layer is a 1x1 convolution of a flat vector. One input.
    Convolution(Convolution),
    /// Sums over windows. One input.
    SumPool(Pool),
    /// Every so many pixels of an image. One input.
    Window(Window),
    /// Some consecutive channels. One input.
    Channels(Channels),
    /// The channels of several tensors one after another. One input or more, of the same height and width.
    Concat,
    /// The same elements as a flat vector of C·H·W channels of one element. One input.
    Flatten,
    /// A sum of multiples of its inputs, and a secret constant per channel. One input or more, of the same shape.
    Sum(Sum),
    /// Truncation and activation, channel by channel. Results must fit 32 bits with sign. One input.
    Activation(Activation),
    /// The larger of two tensors of the same shape, element by element. Two inputs.
    Max(Max),
}

/// Shape of a convolution (cross-correlation, as in neural networks) with zero padding.
///
/// Weights are laid out as \[out\]\[in / groups\]\[kernel row\]\[kernel column\]; output channel o reads the input channels of
/// group floor(o · groups / out).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Convolution {
    /// Output channels.
    pub out_channels: u32,
    /// Kernel (height, width).
    pub kernel: [u32; 2],
    /// Stride (vertical, horizontal).
    pub stride: [u32; 2],
    /// Zero padding (top, left, bottom, right).
    pub padding: [u32; 4],
    /// Distance of kernel elements (vertical, horizontal); 1 for an ordinary kernel.
    pub dilation: [u32; 2],
    /// Groups of channels that do not mix: divides the input's and the output's channels. 1 for an ordinary convolution.
    pub groups: u32,
    /// Most output channels that share a ciphertext. Their noise adds up, so the compiler lowers this where a layer's
    /// weights would exceed the noise budget ([`crate::session::fit_noise`]); `u32::MAX` leaves the choice to the packing.
    pub packed_outputs: u32,
}

/// Shape of a pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Window (height, width).
    pub kernel: [u32; 2],
    /// Stride (vertical, horizontal).
    pub stride: [u32; 2],
    /// Zero padding (top, left, bottom, right), each less than the window.
    pub padding: [u32; 4],
    /// Whether windows that reach into the padding are weighted as averages of what is inside are: a window with n of its
    /// elements inside is multiplied by F/n, for F the least common multiple of all n ([`Pool::factor`]).
    pub inside_only: bool,
}

/// Every so many pixels: element (i, j) of the output is (offset + i · stride, offset + j · stride) of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Place in the input of the first output (row, column); may lie outside.
    pub offset: [i32; 2],
    /// Distance of outputs (vertical, horizontal).
    pub stride: [u32; 2],
    /// Size of the output (height, width).
    pub size: [u32; 2],
    /// What is outside the input.
    pub edge: Edge,
}

/// What a place outside an image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edge {
    /// 0.
    Zero,
    /// What the nearest place inside holds.
    Nearest,
}

/// Some consecutive channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channels {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// A sum of public multiples, channel by channel; the secret constants are in the parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// For every input, what each of its channels is multiplied by.
    pub multipliers: Vec<Vec<i32>>,
}

/// The larger of two tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Max {
    /// w: differences of the two inputs are at least -2^(w-1) and below 2^(w-1).
    pub width: u8,
}

impl Op {
    /// Whether both parties compute it by themselves, from what they hold of its inputs.
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::Convolution(_) | Self::Activation(_) | Self::Max(_))
    }

    /// Additions that a local operator takes for an output of a shape.
    pub(super) fn additions(&self, output: Shape) -> u128 {
        match self {
            Self::SumPool(pool) => pool.additions(output),
            Self::Sum(sum) => sum.multipliers.len() as u128 * output.elements() as u128,
            _ => 0,
        }
    }

    /// The shape of the output, after checking the operator against its inputs.
    pub(crate) fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let many = matches!(self, Self::Concat | Self::Sum(_));
        let expected = if matches!(self, Self::Max(_)) { 2 } else { 1 };
        if inputs.len() < expected || (!many && inputs.len() > expected) {
            let least = if many { "at least " } else { "" };
            return Err(malformed(format!("inputs: expected {least}{expected}, got {}", inputs.len())));
        }
        let first = inputs[0];
        let same = |what: fn(&Shape) -> [u32; 3]| match inputs.iter().find(|s| what(s) != what(&first)) {
            None => Ok(()),
            Some(other) => Err(malformed(format!("inputs: expected shapes that agree, got {first} and {other}"))),
        };
        match self {
            Self::Convolution(conv) => conv.output(first),
            Self::SumPool(pool) => pool.output(first),
            Self::Window(window) => window.output(first),
            Self::Channels(channels) => channels.output(first),
            Self::Concat => {
                same(|s| [0, s.height, s.width])?;
                let channels = inputs.iter().map(|s| u64::from(s.channels)).sum::<u64>();
                let channels = u32::try_from(channels).map_err(|_| malformed("too many channels to concatenate"))?;
                Ok(Shape { channels, ..first })
            }
            Self::Flatten => {
                let flat = u32::try_from(first.elements()).map_err(|_| malformed("too many elements to flatten"))?;
                Ok(Shape { channels: flat, height: 1, width: 1 })
            }
            Self::Sum(sum) => {
                same(|s| [s.channels, s.height, s.width])?;
                sum.check(inputs)?;
                Ok(first)
            }
            Self::Activation(activation) => {
                activation.check(first)?;
                Ok(first)
            }
            Self::Max(max) => {
                same(|s| [s.channels, s.height, s.width])?;
                max.check()?;
                Ok(first)
            }
        }
    }
}

impl Convolution {
    fn output(&self, input: Shape) -> Result<Shape> {
        if self.groups == 0
            || !input.channels.is_multiple_of(self.groups)
            || !self.out_channels.is_multiple_of(self.groups)
        {
            return Err(malformed(format!(
                "groups: expected a number that divides {} input and {} output channels, got {}",
                input.channels, self.out_channels, self.groups
            )));
        }
        let axis = |size: u32, i: usize| {
            let size = u64::from(size) + u64::from(self.padding[i]) + u64::from(self.padding[i + 2]);
            windows(size, reach(self.kernel[i], self.dilation[i])?, self.stride[i])
        };
        Ok(Shape { channels: self.out_channels, height: axis(input.height, 0)?, width: axis(input.width, 1)? })
    }

    /// An ordinary convolution: stride and dilation 1, no padding, one group.
    pub fn new(out_channels: u32, kernel: [u32; 2]) -> Self {
        Self {
            out_channels,
            kernel,
            stride: [1; 2],
            padding: [0; 4],
            dilation: [1; 2],
            groups: 1,
            packed_outputs: u32::MAX,
        }
    }

    /// Kernel elements.
    pub fn taps(&self) -> usize {
        self.kernel[0] as usize * self.kernel[1] as usize
    }
}

impl Pool {
    fn output(&self, input: Shape) -> Result<Shape> {
        let axis = |size: u32, i: usize| {
            let [before, after] = [self.padding[i], self.padding[i + 2]].map(u64::from);
            if before.max(after) >= u64::from(self.kernel[i]) {
                return Err(malformed(format!(
                    "pool: expected padding below the window's {}, got {before} and {after}",
                    self.kernel[i]
                )));
            }
            windows(u64::from(size) + before + after, u64::from(self.kernel[i]), self.stride[i])
        };
        let shape = Shape { channels: input.channels, height: axis(input.height, 0)?, width: axis(input.width, 1)? };
        // Before lists of windows are made.
        check_additions(self.additions(shape))?;
        if self.factors(input, shape).is_none() {
            return Err(Error::new(
                ErrorKind::UnsupportedModel,
                format!(
                    "pool: expected windows whose numbers of elements inside the image have a common multiple of at most {}, \
                     got a window of {} x {}",
                    limits::POOL_FACTOR,
                    self.kernel[0],
                    self.kernel[1]
                ),
            ));
        }
        Ok(shape)
    }

    /// Additions for an output of a shape.
    fn additions(&self, output: Shape) -> u128 {
        u128::from(output.channels)
            * (u128::from(output.height) * u128::from(output.width))
            * (u128::from(self.kernel[0]) * u128::from(self.kernel[1]))
    }

    /// Windows without padding.
    pub fn new(kernel: [u32; 2], stride: [u32; 2]) -> Self {
        Self { kernel, stride, padding: [0; 4], inside_only: false }
    }

    /// What an average is multiplied by in the output: the elements of a window, or F if windows are weighted.
    ///
    /// `input` is the input's shape and `output` that of the output.
    pub fn factor(&self, input: Shape, output: Shape) -> u64 {
        match self.factors(input, output) {
            Some([rows, columns]) if self.inside_only => u64::from(rows.0) * u64::from(columns.0),
            _ => u64::from(self.kernel[0]) * u64::from(self.kernel[1]),
        }
    }

    /// What the sum of each output's window is multiplied by, as a factor for its row and one for its column.
    ///
    /// `input` is the input's shape and `output` that of the output; all ones unless windows are weighted.
    pub fn weights(&self, input: Shape, output: Shape) -> [Vec<u32>; 2] {
        match self.factors(input, output) {
            Some(axes) if self.inside_only => axes.map(|(multiple, counts)| {
                // Counts are at least 1 and divide their common multiple.
                counts.iter().map(|&count| multiple / count.max(1)).collect()
            }),
            _ => [output.height, output.width].map(|size| alloc::vec![1; size as usize]),
        }
    }

    /// For rows and columns: the least common multiple of the numbers of elements inside, and these numbers. None if one of
    /// the multiples is out of bounds.
    fn factors(&self, input: Shape, output: Shape) -> Option<[(u32, Vec<u32>); 2]> {
        let axis = |i: usize, size: u32, places: u32| {
            if !self.inside_only {
                return Some((1, Vec::new()));
            }
            let (size, before) = (i64::from(size), i64::from(self.padding[i]));
            let (mut multiple, mut counts) = (1u64, Vec::with_capacity(places as usize));
            for place in 0..i64::from(places) {
                let first = place * i64::from(self.stride[i]) - before;
                let inside = (first + i64::from(self.kernel[i])).min(size) - first.max(0);
                // Padding on each side is below the window, so that it holds at least one element.
                let inside = u64::try_from(inside).ok().filter(|&n| n > 0)?;
                multiple = multiple / gcd(multiple, inside) * inside;
                if multiple > limits::POOL_FACTOR {
                    return None;
                }
                counts.push(inside as u32);
            }
            Some((multiple as u32, counts))
        };
        Some([axis(0, input.height, output.height)?, axis(1, input.width, output.width)?])
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Window {
    fn output(&self, input: Shape) -> Result<Shape> {
        let reach = |i: usize| i64::from(self.offset[i]).abs() + i64::from(self.size[i]) * i64::from(self.stride[i]);
        if self.stride.contains(&0) || reach(0).max(reach(1)) > limits::ELEMENTS as i64 {
            return Err(malformed(format!(
                "window: expected strides of at least 1 and places within {}, got offset {} and {}, stride {} and {}, size {} and {}",
                limits::ELEMENTS,
                self.offset[0],
                self.offset[1],
                self.stride[0],
                self.stride[1],
                self.size[0],
                self.size[1]
            )));
        }
        Ok(Shape { channels: input.channels, height: self.size[0], width: self.size[1] })
    }

    /// For each output place along an axis (0: rows, 1: columns) of `size` places, the input's place; none for a zero.
    pub fn places(&self, axis: usize, size: u32) -> impl Iterator<Item = Option<usize>> + use<> {
        let (offset, stride, edge) = (i64::from(self.offset[axis]), i64::from(self.stride[axis]), self.edge);
        let last = i64::from(size) - 1;
        (0..i64::from(self.size[axis])).map(move |i| {
            let place = offset + i * stride;
            match edge {
                Edge::Nearest => Some(place.clamp(0, last) as usize),
                Edge::Zero => (0..=last).contains(&place).then_some(place as usize),
            }
        })
    }
}

impl Channels {
    fn output(&self, input: Shape) -> Result<Shape> {
        let end = u64::from(self.first) + u64::from(self.count);
        if end > u64::from(input.channels) {
            return Err(malformed(format!(
                "channels: expected some of {}, got {} to {end}",
                input.channels, self.first
            )));
        }
        Ok(Shape { channels: self.count, ..input })
    }

    /// The channels as a range.
    pub fn range(&self) -> core::ops::Range<usize> {
        self.first as usize..self.first as usize + self.count as usize
    }
}

impl Sum {
    fn check(&self, inputs: &[Shape]) -> Result<()> {
        if self.multipliers.len() != inputs.len() {
            return Err(malformed(format!(
                "sum: expected multipliers for {} inputs, got {}",
                inputs.len(),
                self.multipliers.len()
            )));
        }
        for (multipliers, shape) in self.multipliers.iter().zip(inputs) {
            if multipliers.len() != shape.channels as usize {
                return Err(malformed(format!(
                    "sum: expected {} multipliers per input, got {}",
                    shape.channels,
                    multipliers.len()
                )));
            }
        }
        Ok(())
    }
}

impl Max {
    fn check(self) -> Result<()> {
        if (2..=limits::RELU_WIDTH).contains(&self.width) {
            return Ok(());
        }
        Err(malformed(format!("max: expected a width of 2 to {} bits, got {}", limits::RELU_WIDTH, self.width)))
    }
}

/// Checks the additions of some nodes together.
pub(super) fn check_additions(additions: u128) -> Result<()> {
    if additions <= u128::from(limits::ADDITIONS) {
        return Ok(());
    }
    Err(malformed(format!(
        "expected at most {} additions of sums and poolings together, got {} or more",
        limits::ADDITIONS,
        u64::try_from(additions).unwrap_or(u64::MAX)
    )))
}

/// Places from a kernel's first element to its last.
fn reach(kernel: u32, dilation: u32) -> Result<u64> {
    match (kernel, dilation) {
        (1.., 1..) => Ok((u64::from(kernel) - 1) * u64::from(dilation) + 1),
        _ => Err(malformed(format!(
            "kernel: expected a size and a dilation of at least 1, got size {kernel}, dilation {dilation}"
        ))),
    }
}

/// How many windows of `kernel` at distance `stride` fit `size`.
fn windows(size: u64, kernel: u64, stride: u32) -> Result<u32> {
    if kernel == 0 || stride == 0 || kernel > size || size > limits::ELEMENTS as u64 {
        return Err(malformed(format!(
            "window: expected a stride of at least 1 and a kernel of 1 to the padded size, got kernel {kernel}, stride {stride}, padded size {size}"
        )));
    }
    Ok(((size - kernel) / u64::from(stride) + 1) as u32)
}
