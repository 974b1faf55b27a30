//! How far apart the protocol's roundings may drive two answers to the same input, whatever the input.
//!
//! For each channel of each tensor, an upper bound of the width of the interval that the integer reference gives any of its
//! elements:
//!
//! - linear layers: Σ |w| · (width of the input);
//! - truncation by f bits: width / 2^f rounded up, and one more for the rounding itself;
//! - ReLU and degree 1: no more; a square: times 2|v|; a cube: times 3v² + |λ|; the way back by g bits: as truncation.

use anyhow::Result;
use safenet_core::model::{Activation, Channel, ChannelSecret, Kind, ModelFile, NodeSecret, Op, Shape};
use safenet_reference::{Tensor, Trace};

/// The widest interval of an output, over all inputs of the model's range; `range` is the evaluation of that whole range.
pub(super) fn bound(file: &ModelFile, range: &Trace) -> Result<i64> {
    let shapes = file.architecture.shapes()?;
    let secrets = file.parameters.as_ref().map_or(&[][..], |parameters| &parameters.nodes);
    let mut widths: Vec<Vec<i64>> = vec![vec![0; shapes[0].channels as usize]];
    for (index, (node, secret)) in file.architecture.nodes.iter().zip(secrets).enumerate() {
        let source = node.input as usize;
        let (input, shape) = (&widths[source], shapes[source]);
        let mut output = match (&node.op, secret) {
            (Op::Convolution(conv), NodeSecret::Convolution { weights, .. }) => {
                convolution(weights, conv.out_channels, input)
            }
            (Op::SumPool(pool), _) => {
                let window = i64::from(pool.kernel[0]) * i64::from(pool.kernel[1]);
                input.iter().map(|width| width.saturating_mul(window)).collect()
            }
            (Op::Flatten, _) => input.iter().flat_map(|&width| std::iter::repeat_n(width, shape.plane())).collect(),
            (Op::Activation(activation), NodeSecret::Activation(secrets)) => {
                activations(activation, secrets, input, &largest(&range.tensors[source], shape))
            }
            _ => vec![],
        };
        // No interval is wider than what the whole input range reaches.
        let reached = reached(&range.tensors[index + 1], shapes[index + 1]);
        output.iter_mut().zip(reached).for_each(|(width, reached)| *width = (*width).min(reached));
        widths.push(output);
    }
    Ok(widths.last().and_then(|output| output.iter().copied().max()).unwrap_or(0))
}

/// Weights are [out][in][taps].
fn convolution(weights: &[i16], outputs: u32, input: &[i64]) -> Vec<i64> {
    let fan_in = weights.len() / outputs as usize;
    let width = |row: &[i16]| {
        let channels = row.chunks_exact(fan_in / input.len()).zip(input);
        channels.fold(0i64, |sum, (taps, &width)| {
            let norm: i64 = taps.iter().map(|w| i64::from(w.unsigned_abs())).sum();
            sum.saturating_add(norm.saturating_mul(width))
        })
    };
    weights.chunks_exact(fan_in).map(width).collect()
}

fn activations(activation: &Activation, secrets: &[ChannelSecret], input: &[i64], largest: &[i64]) -> Vec<i64> {
    let channels = activation.channels.iter().zip(secrets).zip(input.iter().zip(largest));
    channels.map(|((channel, secret), (&width, &largest))| activated(channel, secret, width, largest)).collect()
}

/// `largest` is the largest |y| of the channel's linear output.
fn activated(channel: &Channel, secret: &ChannelSecret, width: i64, largest: i64) -> i64 {
    let v_width = dropped(width, channel.shift);
    // |v| is at most |y| / 2^f rounded up, and v has w bits.
    let v = dropped(largest, channel.shift).min(1 << channel.width().saturating_sub(1));
    match channel.kind {
        Kind::Zero => 0,
        Kind::Relu | Kind::Linear => v_width,
        Kind::Square { .. } => dropped(v_width.saturating_mul(2 * v), channel.back_shift),
        Kind::Cubic => {
            let slope = (3 * v * v).saturating_add(secret.lambda.saturating_abs());
            dropped(v_width.saturating_mul(slope), channel.back_shift)
        }
    }
}

/// Width after dropping some bits at random up or down.
fn dropped(width: i64, bits: u8) -> i64 {
    if bits == 0 { width } else { (width >> bits) + i64::from(width & ((1 << bits) - 1) != 0) + 1 }
}

/// Of each channel, the largest absolute value in its intervals.
fn largest(tensor: &Tensor, shape: Shape) -> Vec<i64> {
    per_channel(tensor, shape, |low, high| low.abs().max(high.abs()))
}

/// Of each channel, the width of its widest interval.
fn reached(tensor: &Tensor, shape: Shape) -> Vec<i64> {
    per_channel(tensor, shape, |low, high| high - low)
}

fn per_channel(tensor: &Tensor, shape: Shape, value: impl Fn(i64, i64) -> i64) -> Vec<i64> {
    let planes = tensor.low.chunks_exact(shape.plane()).zip(tensor.high.chunks_exact(shape.plane()));
    let most = |(low, high): (&[i64], &[i64])| low.iter().zip(high).map(|(&l, &h)| value(l, h)).max().unwrap_or(0);
    planes.map(most).collect()
}
