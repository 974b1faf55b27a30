//! How far apart the protocol's roundings may drive two answers to the same input, whatever the input.
//!
//! For each channel of each tensor, an upper bound of the width of the interval that [`Reference::run`] gives any of its
//! elements:
//!
//! - linear layers and sums: Σ |w| · (width of the input);
//! - truncation by f bits: width / 2^f rounded up, and one more for the rounding itself;
//! - ReLU and degree 1: no more; a square: times 2|v|; a cube: times 3v² + |λ|; the way back by g bits: as truncation;
//! - maxima: the wider of the two.

use crate::Reference;
use crate::bounds::ChannelBounds;
use crate::local::pool_gains;
use safenet_core::model::{Channel, ChannelSecret, Convolution, Kind, Op};

/// The widest interval of an output, over all inputs of the model's range. `bounds` are the reference's.
pub(crate) fn worst(reference: &Reference, bounds: &[Vec<ChannelBounds>]) -> i64 {
    let mut widths: Vec<Vec<i64>> = vec![vec![0; reference.shapes[0].channels as usize]];
    let [low, high] = reference.architecture.input_range.map(i64::from);
    for (index, node) in reference.architecture.nodes.iter().enumerate() {
        let inputs: Vec<&[i64]> = node.inputs.iter().map(|&input| &widths[input as usize][..]).collect();
        let (shape, output) = (reference.shapes[node.inputs[0] as usize], reference.shapes[index + 1]);
        let first = inputs[0];
        let mut own: Vec<i64> = match &node.op {
            Op::Convolution(conv) => convolution(conv, reference.weights(index).0, first),
            Op::SumPool(pool) => {
                let [_, gain] = pool_gains(pool, shape, output);
                let gain = i64::try_from(gain).unwrap_or(i64::MAX);
                first.iter().map(|width| width.saturating_mul(gain)).collect()
            }
            Op::Window(_) => first.to_vec(),
            Op::Channels(channels) => first[channels.range()].to_vec(),
            Op::Concat => inputs.concat(),
            Op::Flatten => first.iter().flat_map(|&width| std::iter::repeat_n(width, shape.plane())).collect(),
            Op::Sum(sum) => {
                let term = |c: usize, (multipliers, width): (&Vec<i32>, &&[i64])| {
                    i64::from(multipliers[c]).abs().saturating_mul(width[c])
                };
                let total = |c| sum.multipliers.iter().zip(&inputs).map(|x| term(c, x)).fold(0, i64::saturating_add);
                (0..first.len()).map(total).collect()
            }
            Op::Activation(activation) => {
                let source = node.inputs[0] as usize;
                let largest = |c: usize| match source.checked_sub(1) {
                    Some(node) => bounds[node][c].low.abs().max(bounds[node][c].high.abs()),
                    None => low.abs().max(high.abs()),
                };
                let channels = activation.channels.iter().zip(reference.secrets(index)).enumerate();
                channels.map(|(c, (channel, secret))| activated(channel, secret, first[c], largest(c))).collect()
            }
            Op::Max(_) => first.iter().zip(inputs[1]).map(|(&a, &b)| a.max(b)).collect(),
        };
        // No interval is wider than what the whole input range reaches.
        own.iter_mut().zip(&bounds[index]).for_each(|(width, b)| *width = (*width).min(b.high - b.low));
        widths.push(own);
    }
    widths.last().and_then(|output| output.iter().copied().max()).unwrap_or(0)
}

fn convolution(conv: &Convolution, weights: &[i16], input: &[i64]) -> Vec<i64> {
    let (taps, groups) = (conv.taps(), conv.groups as usize);
    let (inputs, outputs) = (input.len() / groups, conv.out_channels as usize / groups);
    let width = |(o, row): (usize, &[i16])| {
        let channels = row.chunks_exact(taps).zip(&input[o / outputs * inputs..]);
        channels.fold(0i64, |sum, (taps, &width)| {
            let norm: i64 = taps.iter().map(|w| i64::from(w.unsigned_abs())).sum();
            sum.saturating_add(norm.saturating_mul(width))
        })
    };
    weights.chunks_exact(inputs * taps).enumerate().map(width).collect()
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
