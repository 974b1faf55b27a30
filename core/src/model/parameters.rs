//! The server's secret parameters: what the client must never learn.

use super::{Architecture, Kind, Op, malformed};
use crate::error::{Error, Result};
use alloc::{format, vec::Vec};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Largest absolute value of a weight: 9 bits, signed.
pub const WEIGHT_LIMIT: i16 = 255;

/// The secret integers of a network, one entry per node. Wiped when dropped; not printable.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Parameters {
    /// What each node needs.
    pub nodes: Vec<NodeSecret>,
    /// What was measured when the model was made.
    pub calibration: Calibration,
    /// What integers stand for, node by node and channel by channel: the integer for a real value of 1, negative where a sign
    /// was folded into the next layers' weights. For finding faults; the protocol makes no use of it. Empty if not known, and
    /// for nodes of which it is not known.
    pub scales: Vec<Vec<f32>>,
}

/// How exact a model's answers are on the samples with which it was made. For reports; the protocol makes no use of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
pub struct Calibration {
    /// Samples on which the rest was measured; 0 if nothing was.
    pub samples: u32,
    /// Widest interval of an output that the protocol's roundings allow, in units of the last place: how far apart two private
    /// inferences on the same input may be.
    pub rounding_ulp: u32,
    /// Median distance of the two largest outputs, in the same units.
    pub gap_ulp: u32,
    /// Farthest that roundings drawn at random moved an output, against rounding to the nearest, in the same units.
    pub drawn_ulp: u32,
}

/// The secret integers of one node.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub enum NodeSecret {
    /// Pooling, reshaping and maxima have none.
    None,
    /// What a sum adds to each channel, in the scale of its output.
    Sum(Vec<i32>),
    /// A convolution's integers.
    Convolution {
        /// Weights \[out\]\[in / groups\]\[kernel row\]\[kernel column\], each at most 255 in absolute value. Those of outputs that no
        /// one reads and of inputs that are constant are there like all others.
        weights: Vec<i16>,
        /// One bias per output channel, in the scale of the linear output.
        bias: Vec<i32>,
    },
    /// An activation layer's integers, one entry per channel.
    Activation(Vec<ChannelSecret>),
}

/// The secret integers of one channel's activation.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
pub struct ChannelSecret {
    /// γ, or the constant of a degree-0 channel, in the scale of the channel's output. 0 for ReLU.
    pub offset: i32,
    /// λ of v³ + λ·v, in the scale of v². 0 for the other kinds.
    pub lambda: i64,
    /// Whether a square with a secret sign is subtracted.
    pub negative: bool,
}

impl Parameters {
    /// Checks that the parameters are those of the architecture.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedModel`](crate::error::ErrorKind::MalformedModel), naming the node, what it needs and what is there.
    pub fn check(&self, architecture: &Architecture) -> Result<()> {
        let shapes = architecture.shapes()?;
        if self.nodes.len() != architecture.nodes.len() {
            return Err(malformed(format!(
                "parameters: expected {} nodes, got {}",
                architecture.nodes.len(),
                self.nodes.len()
            )));
        }
        let known =
            self.scales.iter().zip(&shapes[1..]).all(|(s, shape)| [0, shape.channels as usize].contains(&s.len()));
        if !known || ![0, self.nodes.len()].contains(&self.scales.len()) {
            return Err(malformed("scales: expected none, or one for each channel of each node, got another number"));
        }
        for (index, (node, secret)) in architecture.nodes.iter().zip(&self.nodes).enumerate() {
            let place = |e: Error| e.context(format!("parameters of node {index} ({})", node.name));
            match (&node.op, secret) {
                (Op::Convolution(conv), NodeSecret::Convolution { weights, bias }) => {
                    let inputs = u128::from(shapes[node.inputs[0] as usize].channels / conv.groups);
                    let kernel = u128::from(conv.kernel[0]) * u128::from(conv.kernel[1]);
                    // The kernel fits the padded input, whose sides the shapes bound: no product overflows.
                    let expected = u128::from(conv.out_channels) * inputs * kernel;
                    if expected != weights.len() as u128 || bias.len() != conv.out_channels as usize {
                        return Err(place(malformed(format!(
                            "expected {expected} weights and {} biases, got {} and {}",
                            conv.out_channels,
                            weights.len(),
                            bias.len()
                        ))));
                    }
                    if weights.iter().any(|w| w.unsigned_abs() > WEIGHT_LIMIT as u16) {
                        return Err(place(malformed(format!(
                            "expected weights of at most {WEIGHT_LIMIT}, got a larger one"
                        ))));
                    }
                }
                (Op::Activation(activation), NodeSecret::Activation(channels)) => {
                    if channels.len() != activation.channels.len() {
                        return Err(place(malformed(format!(
                            "expected {} channels, got {}",
                            activation.channels.len(),
                            channels.len()
                        ))));
                    }
                    for (c, (public, secret)) in activation.channels.iter().zip(channels).enumerate() {
                        secret.check(public.kind).map_err(|e| place(e.context(format!("channel {c}"))))?;
                    }
                }
                (Op::Sum(_), NodeSecret::Sum(constants)) => {
                    let channels = shapes[index + 1].channels as usize;
                    if constants.len() != channels {
                        return Err(place(malformed(format!(
                            "expected {channels} constants, got {}",
                            constants.len()
                        ))));
                    }
                }
                (
                    Op::SumPool(_) | Op::Window(_) | Op::Channels(_) | Op::Concat | Op::Flatten | Op::Max(_),
                    NodeSecret::None,
                ) => {}
                _ => return Err(place(malformed("expected parameters of the node's kind, got those of another"))),
            }
        }
        Ok(())
    }
}

impl ChannelSecret {
    fn check(&self, kind: Kind) -> Result<()> {
        let secret_sign = matches!(kind, Kind::Square { secret_sign: true });
        let may_offset = kind != Kind::Relu;
        if (self.lambda != 0 && kind != Kind::Cubic)
            || (self.negative && !secret_sign)
            || (self.offset != 0 && !may_offset)
        {
            return Err(malformed(format!("expected no other secrets than a {} channel has, got some", kind.name())));
        }
        // λ stands for an element of F_p, p just below 2^36.
        if self.lambda.unsigned_abs() >= 1 << 34 {
            return Err(malformed("expected |λ| below 2^34, got more"));
        }
        Ok(())
    }
}
