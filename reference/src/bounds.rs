//! Which bounds cannot be exceeded: interval arithmetic per channel over the whole input range, node by node.

use crate::Reference;
use crate::evaluate::{HELD, is_held, outside_ring, too_wide};
use crate::local::pool_gains;
use crate::rounding::{Interval, activated, linear_limit};
use safenet_core::model::{Channel, ChannelSecret, Convolution, Edge, Kind, Max, Op, Sum, Window};

/// What one channel of a node's output may hold for any input within the input range and any choice of roundings, provided
/// that no bound of the nodes before is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelBounds {
    /// Smallest value, or less.
    pub low: i64,
    /// Largest value, or more.
    pub high: i64,
    /// Whether the node's own bound holds for all of this: of an activation the channel's bound, of a maximum its width, and
    /// of these, of pools and of sums that results are values of Z_2^32. True for other nodes.
    pub holds: bool,
}

/// Sums beyond this are no longer told apart; far outside every bound.
const FAR: i128 = 1 << 60;

impl ChannelBounds {
    fn new(low: i128, high: i128) -> Self {
        Self { low: low.clamp(-FAR, FAR) as i64, high: high.clamp(-FAR, FAR) as i64, holds: true }
    }

    /// Over multiples by each number from `least` to `most`.
    fn times(self, least: i128, most: i128) -> Self {
        let products = [least, most].map(|m| [i128::from(self.low) * m, i128::from(self.high) * m]);
        Self::new(products[0][0].min(products[1][0]), products[0][1].max(products[1][1]))
    }

    fn with_zero(self) -> Self {
        Self { low: self.low.min(0), high: self.high.max(0), ..self }
    }
}

/// constant + Σ w·x over the intervals of x.
fn weighted(constant: i32, terms: impl Iterator<Item = (i64, ChannelBounds)>) -> ChannelBounds {
    let (mut low, mut high) = (i128::from(constant), i128::from(constant));
    for (w, x) in terms {
        let (a, b) = (i128::from(w) * i128::from(x.low), i128::from(w) * i128::from(x.high));
        low += a.min(b);
        high += a.max(b);
    }
    ChannelBounds::new(low, high)
}

pub(crate) fn bounds(reference: &Reference) -> Vec<Vec<ChannelBounds>> {
    let architecture = &reference.architecture;
    let [low, high] = architecture.input_range.map(i128::from);
    let mut tensors = vec![vec![ChannelBounds::new(low, high); architecture.input.channels as usize]];
    for (index, node) in architecture.nodes.iter().enumerate() {
        let inputs: Vec<&[ChannelBounds]> = node.inputs.iter().map(|&input| &tensors[input as usize][..]).collect();
        let (shape, output) = (reference.shapes[node.inputs[0] as usize], reference.shapes[index + 1]);
        let x = inputs[0];
        let mut y: Vec<ChannelBounds> = match &node.op {
            Op::Convolution(conv) => {
                let (weights, bias) = reference.weights(index);
                convolution(conv, weights, bias, x)
            }
            Op::SumPool(pool) => {
                let [least, most] = pool_gains(pool, shape, output);
                x.iter().map(|x| x.times(least, most)).collect()
            }
            Op::Window(window) => {
                let inside = seen(window, [shape.height, shape.width]);
                x.iter().map(|&x| inside.apply(x)).collect()
            }
            Op::Channels(channels) => x[channels.range()].to_vec(),
            Op::Concat => inputs.concat(),
            Op::Flatten => x.iter().flat_map(|&x| std::iter::repeat_n(x, shape.plane())).collect(),
            Op::Sum(sum) => sums(sum, reference.constants(index), &inputs),
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
            Op::Max(max) => x.iter().zip(inputs[1]).map(|(&a, &b)| larger(*max, a, b)).collect(),
        };
        if is_held(&node.op) {
            for y in &mut y {
                y.holds &= outside_ring(y.low).or(outside_ring(y.high)).is_none();
                (y.low, y.high) = (y.low.clamp(-HELD, HELD - 1), y.high.clamp(-HELD, HELD - 1));
            }
        }
        tensors.push(y);
    }
    tensors.remove(0);
    tensors
}

fn convolution(conv: &Convolution, weights: &[i16], bias: &[i32], x: &[ChannelBounds]) -> Vec<ChannelBounds> {
    let (taps, groups) = (conv.taps(), conv.groups as usize);
    let (inputs, outputs) = (x.len() / groups, bias.len() / groups);
    let padded = conv.padding != [0; 4];
    let output = |(o, (weights, &bias)): (usize, (&[i16], &i32))| {
        let group = &x[o / outputs * inputs..][..inputs];
        // Where the kernel reaches into the padding, the input is 0.
        let each = group.iter().map(|&x| if padded { x.with_zero() } else { x });
        let repeated = each.flat_map(|x| std::iter::repeat_n(x, taps));
        weighted(bias, weights.iter().map(|&w| i64::from(w)).zip(repeated))
    };
    weights.chunks_exact(inputs * taps).zip(bias).enumerate().map(output).collect()
}

fn sums(sum: &Sum, constants: &[i32], inputs: &[&[ChannelBounds]]) -> Vec<ChannelBounds> {
    let one = |(c, &constant): (usize, &i32)| {
        let terms = sum.multipliers.iter().zip(inputs).map(|(m, x)| (i64::from(m[c]), x[c]));
        weighted(constant, terms)
    };
    constants.iter().enumerate().map(one).collect()
}

/// What a window shows of an image.
enum Seen {
    Inside,
    Outside,
    Both,
}

impl Seen {
    fn apply(&self, x: ChannelBounds) -> ChannelBounds {
        match self {
            Self::Inside => ChannelBounds { holds: true, ..x },
            Self::Outside => ChannelBounds::new(0, 0),
            Self::Both => ChannelBounds { holds: true, ..x.with_zero() },
        }
    }
}

fn seen(window: &Window, size: [u32; 2]) -> Seen {
    let axes = [0, 1].map(|axis| window.places(axis, size[axis]).collect::<Vec<_>>());
    let any = axes.iter().all(|places| places.iter().any(Option::is_some));
    let all = window.edge == Edge::Nearest || axes.iter().all(|places| places.iter().all(Option::is_some));
    match (all, any) {
        (true, _) => Seen::Inside,
        (false, true) => Seen::Both,
        (false, false) => Seen::Outside,
    }
}

fn larger(max: Max, a: ChannelBounds, b: ChannelBounds) -> ChannelBounds {
    let holds = too_wide(max, Interval::new(a.low - b.high, a.high - b.low)).is_none();
    // What follows may take the width for granted: a <= b + 2^(w-1) - 1, b <= a + 2^(w-1).
    let reach = 1i64 << (max.width - 1);
    let high = a.high.min(b.high + reach - 1).max(b.high.min(a.high + reach));
    let low = a.low.max(b.low);
    // No value keeps the width where the intervals lie further apart than it reaches.
    ChannelBounds { low, high: high.max(low), holds }
}
