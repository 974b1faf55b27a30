//! The public numbers of activation layers.

use super::limits;
use super::{Shape, malformed};
use crate::error::{Error, ErrorKind, Result};
use alloc::{format, vec::Vec};
use serde::{Deserialize, Serialize};

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
    /// v + γ, with γ the server's secret.
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

impl Activation {
    pub(super) fn check(&self, input: Shape) -> Result<()> {
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
