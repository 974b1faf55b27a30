//! Which bounds cannot be exceeded: interval arithmetic per channel over the whole input range, layer by layer.

use crate::Reference;
use crate::linear::taps;
use crate::rounding::{Interval, activated, linear_limit};
use safenet_core::model::{Channel, ChannelSecret, Kind, Op};

/// What one channel of a node's output may hold for any input within the input range and any choice of roundings, provided
/// that no bound of the layers before is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelBounds {
    /// Smallest value, or less.
    pub low: i64,
    /// Largest value, or more.
    pub high: i64,
    /// Of an activation: whether the channel's own bound holds for all of this. True for other nodes.
    pub holds: bool,
}

/// Sums beyond this are no longer told apart; far outside every bound.
const FAR: i128 = 1 << 60;

pub(crate) fn bounds(reference: &Reference) -> Vec<Vec<ChannelBounds>> {
    let architecture = &reference.architecture;
    let [low, high] = architecture.input_range.map(i64::from);
    let holding = |low: i64, high: i64| ChannelBounds { low, high, holds: true };
    let mut tensors = vec![vec![holding(low, high); architecture.input.channels as usize]];
    for (index, node) in architecture.nodes.iter().enumerate() {
        let x = &tensors[node.input as usize];
        let y = match &node.op {
            Op::Convolution(conv) => {
                let (weights, bias) = reference.weights(index);
                let padded = conv.padding != [0; 4];
                let row = x.len() * taps(conv);
                let output = |(weights, &bias): (&[i16], &i32)| {
                    let (mut low, mut high) = (i128::from(bias), i128::from(bias));
                    for (weights, x) in weights.chunks_exact(taps(conv)).zip(x) {
                        // Where the kernel reaches into the padding, the input is 0.
                        let (l, h) = if padded { (x.low.min(0), x.high.max(0)) } else { (x.low, x.high) };
                        for &w in weights {
                            let (a, b) = (i128::from(w) * i128::from(l), i128::from(w) * i128::from(h));
                            low += a.min(b);
                            high += a.max(b);
                        }
                    }
                    holding(low.clamp(-FAR, FAR) as i64, high.clamp(-FAR, FAR) as i64)
                };
                weights.chunks_exact(row).zip(bias).map(output).collect()
            }
            Op::SumPool(pool) => {
                let window = i128::from(pool.kernel[0]) * i128::from(pool.kernel[1]);
                let times = |x: i64| (i128::from(x) * window).clamp(-FAR, FAR) as i64;
                x.iter().map(|x| holding(times(x.low), times(x.high))).collect()
            }
            Op::Flatten => {
                let plane = reference.shapes[node.input as usize].plane();
                x.iter().flat_map(|&x| std::iter::repeat_n(x, plane)).collect()
            }
            Op::Activation(activation) => {
                let one = |((channel, secret), x): ((&Channel, &ChannelSecret), &ChannelBounds)| {
                    let (_, excess) = activated(Interval::new(x.low, x.high), channel, secret);
                    // What follows may take the bound for granted.
                    let most = if channel.kind == Kind::Zero { 0 } else { linear_limit(channel) - 1 };
                    let within = Interval::new(x.low.clamp(-most, most), x.high.clamp(-most, most));
                    let (range, _) = activated(within, channel, secret);
                    ChannelBounds { low: range.low, high: range.high, holds: excess.is_none() }
                };
                activation.channels.iter().zip(reference.secrets(index)).zip(x).map(one).collect()
            }
        };
        tensors.push(y);
    }
    tensors.remove(0);
    tensors
}
