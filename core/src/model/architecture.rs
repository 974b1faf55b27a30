//! The public architecture: a list of nodes in the order of computation, with every number that shapes a message.

use crate::error::{Error, ErrorKind, Result};
use alloc::{format, string::String, vec, vec::Vec};
use serde::{Deserialize, Serialize};

/// What an architecture may ask for at most; a file that asks for more is refused before anything is allocated for it.
pub mod limits {
    /// Nodes of a network.
    pub const NODES: usize = 4096;
    /// Channels of a tensor.
    pub const CHANNELS: usize = 1 << 16;
    /// Elements of a tensor.
    pub const ELEMENTS: usize = 1 << 26;
    /// Channels of all tensors together.
    pub const ALL_CHANNELS: u64 = 1 << 20;
    /// Elements of all tensors together.
    pub const ALL_ELEMENTS: u64 = 1 << 28;
    /// Additions of a pooling layer: output elements times window.
    pub const POOL_ADDITIONS: u64 = 1 << 32;
    /// Bits of a truncated value at a ReLU: five digits of five bits, and the sign (`docs/protocol.md`, ReLU).
    pub const RELU_WIDTH: u8 = 26;
    /// Bits of a channel's bound: |y| < 2^(b-1) - 2^f with b at most this.
    pub const BOUND_BITS: u8 = 30;
    /// Bits by which a polynomial channel is shifted on its way back from the field.
    pub const BACK_SHIFT: u8 = 20;
    /// Bytes of the network's name.
    pub const NAME: usize = 256;
}

/// A tensor's shape, channel-major: element (c, i, j) is at index (c · height + i) · width + j.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Channels; of a flat vector, its length.
    pub channels: u32,
    /// Rows; 1 for a flat vector.
    pub height: u32,
    /// Columns; 1 for a flat vector.
    pub width: u32,
}

impl Shape {
    /// Elements of one channel.
    pub fn plane(&self) -> usize {
        self.height as usize * self.width as usize
    }

    /// Elements of the tensor.
    pub fn elements(&self) -> usize {
        self.channels as usize * self.plane()
    }

    fn checked(self) -> Result<Self> {
        let elements = u128::from(self.channels) * u128::from(self.height) * u128::from(self.width);
        if elements == 0 || elements > limits::ELEMENTS as u128 || self.channels as usize > limits::CHANNELS {
            return Err(malformed(format!(
                "shape: expected 1 to {} elements in 1 to {} channels, got {self}",
                limits::ELEMENTS,
                limits::CHANNELS
            )));
        }
        Ok(self)
    }
}

impl core::fmt::Display for Shape {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// Names a tensor: 0 is the network's input, i + 1 is the output of node i.
pub type TensorId = u32;

/// One step of the computation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What it is called in reports; the name it had in the network it came from.
    pub name: String,
    /// The tensor it reads: the input or the output of an earlier node.
    pub input: TensorId,
    /// What it computes.
    pub op: Op,
}

/// What a node computes on integers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// y = W · x + bias in Z_2^32; a dense layer is a 1x1 convolution of a flat vector.
    Convolution(Convolution),
    /// Sums over windows, without padding; an average pool whose window has 2^j elements adds j fraction bits. Sums of
    /// activations must fit 32 bits with sign: nothing checks that on the way, and a larger one comes back as another.
    SumPool(Pool),
    /// The same elements as a flat vector of C·H·W channels of one element.
    Flatten,
    /// Truncation and activation, channel by channel. Results must fit 32 bits with sign, as sums must.
    Activation(Activation),
}

/// Shape of a convolution (cross-correlation, as in neural networks) with zero padding.
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
}

/// An activation layer: what becomes of each channel of a linear output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// Fraction bits of the layer's output. Of the last layer they say what the answer's integers stand for; of those before
    /// they are nominal, for reports: each channel has a scale of its own, which is folded into the next layer's weights.
    pub fraction_bits: u8,
    /// One entry per channel.
    pub channels: Vec<Channel>,
}

/// The activation of one channel and the public numbers of its fixed-point arithmetic.
///
/// With y the channel's linear output, T(y) is floor(y / 2^shift) or one more (`docs/protocol.md`, truncation).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Channel {
    /// Which function.
    pub kind: Kind,
    /// b: the linear output satisfies |y| < 2^(b-1) - 2^shift. 0 for [`Kind::Zero`].
    pub bound_bits: u8,
    /// f: bits that truncation drops. 0 for [`Kind::Zero`].
    pub shift: u8,
    /// g: bits dropped on a polynomial's way back from the field. 0 for the other kinds.
    pub back_shift: u8,
}

impl Channel {
    /// w = b - f: bits of the truncated value, two's complement.
    pub fn width(&self) -> u8 {
        self.bound_bits - self.shift
    }
}

/// The function that a channel applies to v = T(y).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// max(v, 0), exactly.
    Relu,
    /// (v³ + λ·v) / 2^g + γ, with λ and γ the server's secrets.
    Cubic,
    /// ±v² / 2^g + γ, with the sign and γ the server's secrets.
    Square {
        /// Whether the sign is applied by the protocol; else it is known to be + (folded into the next layer's weights).
        secret_sign: bool,
    },
    /// v.
    Linear,
    /// The server's secret constant; no linear output is computed for the channel.
    Zero,
}

impl Kind {
    /// The name that reports use.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Cubic => "cubic",
            Self::Square { .. } => "square",
            Self::Linear => "linear",
            Self::Zero => "zero",
        }
    }
}

/// The public architecture of a network. Both parties hold it; its hash is the model's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Architecture {
    /// What the network is called.
    pub name: String,
    /// Shape of the input.
    pub input: Shape,
    /// Fraction bits of the input: the client encodes a real x as round(x · 2^bits).
    pub input_fraction_bits: u8,
    /// Smallest and largest encoded input value for which the bounds of the channels were made.
    pub input_range: [i32; 2],
    /// The nodes, each reading an earlier tensor. The last is an activation layer; its output is the network's.
    pub nodes: Vec<Node>,
}

impl Architecture {
    /// Shape of every tensor, by [`TensorId`], after checking everything that the protocol relies on.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedModel`] for what makes no sense, [`ErrorKind::UnsupportedModel`] for what this version does
    /// not do; both name the node.
    pub fn shapes(&self) -> Result<Vec<Shape>> {
        if self.name.len() > limits::NAME {
            return Err(malformed(format!("name: expected at most {} bytes, got {}", limits::NAME, self.name.len())));
        }
        if self.nodes.is_empty() || self.nodes.len() > limits::NODES {
            return Err(malformed(format!("nodes: expected 1 to {}, got {}", limits::NODES, self.nodes.len())));
        }
        if self.input_fraction_bits > 24 {
            return Err(malformed(format!(
                "input fraction bits: expected at most 24, got {}",
                self.input_fraction_bits
            )));
        }
        let mut shapes = vec![self.input.checked().map_err(|e| e.context("input"))?];
        let (mut channels, mut elements) = (u64::from(self.input.channels), self.input.elements() as u64);
        // Whether a tensor's mask is free: the client's choice, not a linear function's masked output.
        let mut free = vec![true];
        for (index, node) in self.nodes.iter().enumerate() {
            let place = |e: Error| e.context(format!("node {index} ({})", node.name));
            if node.name.len() > limits::NAME {
                return Err(malformed(format!("node {index}: name: expected at most {} bytes", limits::NAME)));
            }
            if node.input as usize > index {
                return Err(place(malformed(format!("input: expected tensor 0 to {index}, got {}", node.input))));
            }
            let input = shapes[node.input as usize];
            let input_free = free[node.input as usize];
            let (shape, output_free) = match &node.op {
                Op::Convolution(conv) if input_free => (conv.output(input).map_err(place)?, false),
                Op::Convolution(_) => {
                    return Err(place(malformed("expected an activation layer between two linear layers, got none")));
                }
                Op::SumPool(pool) => (pool.output(input).map_err(place)?, input_free),
                Op::Flatten => {
                    let flat = u32::try_from(input.elements())
                        .map_err(|_| place(malformed("too many elements to flatten")))?;
                    (Shape { channels: flat, height: 1, width: 1 }, input_free)
                }
                Op::Activation(activation) => {
                    activation.check(input).map_err(place)?;
                    (input, true)
                }
            };
            shapes.push(shape.checked().map_err(place)?);
            channels += u64::from(shape.channels);
            elements += shape.elements() as u64;
            if channels > limits::ALL_CHANNELS || elements > limits::ALL_ELEMENTS {
                return Err(place(malformed(format!(
                    "expected at most {} channels and {} elements in all tensors together, got more",
                    limits::ALL_CHANNELS,
                    limits::ALL_ELEMENTS
                ))));
            }
            free.push(output_free);
        }
        match self.nodes.last() {
            Some(Node { op: Op::Activation(last), .. }) => {
                // Without truncation the answer would be the raw product, which tells more about the weights than scores do.
                match last.channels.iter().position(|c| c.kind == Kind::Linear && c.shift == 0) {
                    None => Ok(shapes),
                    Some(c) => Err(Error::new(
                        ErrorKind::UnsupportedModel,
                        format!("last node: channel {c} (linear): expected a shift of at least 1, got 0"),
                    )),
                }
            }
            _ => Err(malformed(
                "last node: expected an activation layer (linear channels for plain scores), got another kind",
            )),
        }
    }

    /// The output's fraction bits: a score is the integer answer divided by 2^bits.
    pub fn output_fraction_bits(&self) -> u8 {
        match self.nodes.last() {
            Some(Node { op: Op::Activation(activation), .. }) => activation.fraction_bits,
            _ => 0,
        }
    }

    /// For every tensor, which channels carry a public zero mask: degree-0 channels and what is made of them alone.
    ///
    /// The client's mask of such a channel is 0 and the server holds its plain constant, so nothing is encrypted for it.
    /// `shapes` is the result of [`Self::shapes`].
    pub fn constant_channels(&self, shapes: &[Shape]) -> Vec<Vec<bool>> {
        let mut constant = vec![vec![false; self.input.channels as usize]];
        for (node, shape) in self.nodes.iter().zip(&shapes[1..]) {
            let input = &constant[node.input as usize];
            constant.push(match &node.op {
                Op::Convolution(_) => vec![false; shape.channels as usize],
                Op::SumPool(_) => input.clone(),
                Op::Flatten => {
                    let plane = shapes[node.input as usize].plane();
                    input.iter().flat_map(|&c| core::iter::repeat_n(c, plane)).collect()
                }
                Op::Activation(activation) => activation.channels.iter().map(|c| c.kind == Kind::Zero).collect(),
            });
        }
        constant
    }

    /// For the convolution at node `index`, which of its output channels no one reads: all its readers are activation
    /// layers in which the channel is of degree 0. Nothing is computed for them.
    pub fn unread_outputs(&self, index: usize, shapes: &[Shape]) -> Vec<bool> {
        let tensor = index as TensorId + 1;
        let mut unread = vec![true; shapes[index + 1].channels as usize];
        for node in self.nodes.iter().filter(|n| n.input == tensor) {
            for (c, slot) in unread.iter_mut().enumerate() {
                *slot &= matches!(&node.op, Op::Activation(a) if a.channels[c].kind == Kind::Zero);
            }
        }
        unread
    }
}

impl Convolution {
    fn output(&self, input: Shape) -> Result<Shape> {
        let [top, left, bottom, right] = self.padding;
        let rows = u64::from(input.height) + u64::from(top) + u64::from(bottom);
        let columns = u64::from(input.width) + u64::from(left) + u64::from(right);
        Ok(Shape {
            channels: self.out_channels,
            height: windows(rows, self.kernel[0], self.stride[0])?,
            width: windows(columns, self.kernel[1], self.stride[1])?,
        })
    }
}

impl Pool {
    fn output(&self, input: Shape) -> Result<Shape> {
        let shape = Shape {
            channels: input.channels,
            height: windows(u64::from(input.height), self.kernel[0], self.stride[0])?,
            width: windows(u64::from(input.width), self.kernel[1], self.stride[1])?,
        };
        // The window fits the input, whose elements are few enough for this product.
        let additions = shape.elements() as u64 * u64::from(self.kernel[0]) * u64::from(self.kernel[1]);
        if additions > limits::POOL_ADDITIONS {
            return Err(malformed(format!(
                "pool: expected at most {} additions, got {additions}",
                limits::POOL_ADDITIONS
            )));
        }
        Ok(shape)
    }
}

/// How many windows of `kernel` at distance `stride` fit `size`.
fn windows(size: u64, kernel: u32, stride: u32) -> Result<u32> {
    if kernel == 0 || stride == 0 || u64::from(kernel) > size || size > limits::ELEMENTS as u64 {
        return Err(malformed(format!(
            "window: expected a stride of at least 1 and a kernel of 1 to the padded size, got kernel {kernel}, stride {stride}, padded size {size}"
        )));
    }
    Ok(((size - u64::from(kernel)) / u64::from(stride) + 1) as u32)
}

impl Activation {
    fn check(&self, input: Shape) -> Result<()> {
        if self.channels.len() != input.channels as usize {
            return Err(malformed(format!(
                "channels: expected {} activations, got {}",
                input.channels,
                self.channels.len()
            )));
        }
        if self.fraction_bits > 24 {
            return Err(malformed(format!("fraction bits: expected at most 24, got {}", self.fraction_bits)));
        }
        for (index, channel) in self.channels.iter().enumerate() {
            channel.check().map_err(|e| e.context(format!("channel {index} ({})", channel.kind.name())))?;
        }
        Ok(())
    }
}

impl Channel {
    fn check(&self) -> Result<()> {
        let Self { kind, bound_bits: b, shift: f, back_shift: g } = *self;
        if kind == Kind::Zero {
            return match (b, f, g) {
                (0, 0, 0) => Ok(()),
                _ => Err(malformed(format!("expected bound, shift and back shift 0, got {b}, {f}, {g}"))),
            };
        }
        if !(2..=limits::BOUND_BITS).contains(&b) || f > b - 2 {
            return Err(malformed(format!(
                "expected a bound of 2 to {} bits and a shift at least 2 below it, got bound {b}, shift {f}",
                limits::BOUND_BITS
            )));
        }
        let width = b - f;
        match kind {
            Kind::Relu if width > limits::RELU_WIDTH => Err(Error::new(
                ErrorKind::UnsupportedModel,
                format!(
                    "expected a truncated width of at most {} bits, got {width} (bound {b}, shift {f})",
                    limits::RELU_WIDTH
                ),
            )),
            Kind::Square { .. } | Kind::Cubic if g > limits::BACK_SHIFT => {
                Err(malformed(format!("expected a back shift of at most {}, got {g}", limits::BACK_SHIFT)))
            }
            // A square needs v² + 2^g < p/4 (just below 2^34), a cubic |v³ + λ·v| + 2^g <= 2^33 - 2^18. What of that range a channel
            // really reaches depends on its secrets and is the compiler's to check; these widths can never be of use.
            Kind::Square { .. } if width > 18 => Err(Error::new(
                ErrorKind::UnsupportedModel,
                format!("expected a truncated width of at most 18 bits for a square, got {width}"),
            )),
            Kind::Cubic if width > 13 => Err(Error::new(
                ErrorKind::UnsupportedModel,
                format!("expected a truncated width of at most 13 bits for a cubic, got {width}"),
            )),
            Kind::Relu | Kind::Linear | Kind::Zero if g != 0 => {
                Err(malformed(format!("expected a back shift of 0, got {g}")))
            }
            _ => Ok(()),
        }
    }
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::MalformedModel, message)
}
