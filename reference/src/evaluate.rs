//! One node at a time: on values, and on intervals of values.

use crate::Reference;
use crate::local;
use crate::rounding::{Excess, Interval, activated, rounded};
use crate::trace::Overflow;
use safenet_core::model::{Activation, Channel, ChannelSecret, Max, Op};

/// Values from here on are outside Z_2^32 and reported as overflows; they are held at its ends, so that sums of them still
/// fit 64 bits.
pub(crate) const HELD: i64 = 1 << 31;

/// An element, and what is wrong with it.
pub(crate) type Found = Option<(usize, Excess)>;

/// A node's output for some values of its inputs, with `activate` for each element of an activation, and the first value
/// outside the model's bounds.
pub(crate) fn values(
    reference: &Reference,
    index: usize,
    inputs: &[&[i64]],
    mut activate: impl FnMut(i64, &Channel, &ChannelSecret) -> i64,
) -> (Vec<i64>, Found) {
    let (mut y, mut found) = match &reference.architecture.nodes[index].op {
        Op::Activation(activation) => {
            let (x, secrets) = (inputs[0], reference.secrets(index));
            let mut y = Vec::with_capacity(x.len());
            let mut found = None;
            each(activation, secrets, reference.shapes[index + 1].plane(), |e, channel, secret| {
                y.push(activate(x[e], channel, secret));
                if found.is_none() {
                    found = activated(Interval::new(x[e], x[e]), channel, secret).1.map(|excess| (e, excess));
                }
            });
            (y, found)
        }
        Op::Max(max) => {
            let (a, b) = (inputs[0], inputs[1]);
            let found = first_too_wide(*max, a.iter().zip(b).map(|(&a, &b)| Interval::new(a - b, a - b)));
            (a.iter().zip(b).map(|(&a, &b)| a.max(b)).collect(), found)
        }
        _ => (linear(reference, index, inputs, inputs), None),
    };
    if is_held(&reference.architecture.nodes[index].op) {
        found = found.or(hold(reference, index, &mut y));
    }
    (y, found)
}

/// The interval of each element of a node's output over independent intervals of its inputs, and the first that reaches
/// outside the model's bounds.
pub(crate) fn intervals(
    reference: &Reference,
    index: usize,
    lows: &[&[i64]],
    highs: &[&[i64]],
) -> (Vec<i64>, Vec<i64>, Found) {
    let op = &reference.architecture.nodes[index].op;
    let (mut low, mut high, mut found) = match op {
        Op::Convolution(conv) => {
            let (low, high) = reference.kernel(index, conv).apply_interval(lows[0], highs[0]);
            (low, high, None)
        }
        Op::Activation(activation) => {
            let (mut low, mut high) = (Vec::with_capacity(lows[0].len()), Vec::with_capacity(lows[0].len()));
            let mut found = None;
            each(activation, reference.secrets(index), reference.shapes[index + 1].plane(), |e, channel, secret| {
                let (range, excess) = activated(Interval::new(lows[0][e], highs[0][e]), channel, secret);
                found = found.or(excess.map(|excess| (e, excess)));
                low.push(range.low);
                high.push(range.high);
            });
            (low, high, found)
        }
        Op::Max(max) => {
            let a = lows[0].iter().zip(highs[0]);
            let b = lows[1].iter().zip(highs[1]);
            let differences = a.zip(b).map(|((a, a_high), (b, b_high))| Interval::new(a - b_high, a_high - b));
            let found = first_too_wide(*max, differences);
            let larger = |ends: &[&[i64]]| ends[0].iter().zip(ends[1]).map(|(&a, &b)| a.max(b)).collect();
            (larger(lows), larger(highs), found)
        }
        _ => (linear(reference, index, lows, highs), linear(reference, index, highs, lows), None),
    };
    if is_held(op) {
        // Both ends, whatever the first shows.
        let ends = [hold(reference, index, &mut low), hold(reference, index, &mut high)];
        found = found.or(ends[0]).or(ends[1]);
    }
    (low, high, found)
}

/// A linear node, with each multiplier of a sum taking the input that its sign calls for.
fn linear(reference: &Reference, index: usize, positive: &[&[i64]], negative: &[&[i64]]) -> Vec<i64> {
    let node = &reference.architecture.nodes[index];
    let (input, output) = (reference.shapes[node.inputs[0] as usize], reference.shapes[index + 1]);
    match &node.op {
        Op::Convolution(conv) => reference.kernel(index, conv).apply(positive[0]),
        Op::SumPool(pool) => local::sum_pool(pool, input, output, positive[0]),
        Op::Sum(sum) => local::sum(sum, reference.constants(index), output.plane(), positive, negative),
        op => local::moved(op, positive, input, &0).unwrap_or_default(),
    }
}

/// Calls back with each element of an activation, its channel and the channel's secret.
fn each(
    activation: &Activation,
    secrets: &[ChannelSecret],
    plane: usize,
    mut element: impl FnMut(usize, &Channel, &ChannelSecret),
) {
    for (c, (channel, secret)) in activation.channels.iter().zip(secrets).enumerate() {
        (c * plane..(c + 1) * plane).for_each(|e| element(e, channel, secret));
    }
}

/// The first difference that leaves a maximum's width.
fn first_too_wide(max: Max, differences: impl Iterator<Item = Interval>) -> Found {
    differences.enumerate().find_map(|(e, difference)| Some((e, too_wide(max, difference)?)))
}

/// What is wrong with differences within an interval at a maximum.
pub(crate) fn too_wide(max: Max, difference: Interval) -> Option<Excess> {
    let limit = 1i64 << (max.width - 1);
    let value = if difference.high >= limit { difference.high } else { difference.low };
    let what = "-2^(w-1) <= a - b < 2^(w-1)";
    (!(-limit..limit).contains(&value)).then(|| Excess { what, value: value.into(), limit: limit.into() })
}

/// What is wrong with a value that must be one of Z_2^32.
pub(crate) fn outside_ring(value: i64) -> Option<Excess> {
    let what = "a value of the ring Z_2^32";
    (!(-HELD..HELD).contains(&value)).then(|| Excess { what, value: value.into(), limit: HELD.into() })
}

/// Whether an operator's results must be values of Z_2^32. A convolution's need not, for its activation has a tighter bound;
/// and what only moves elements has nothing to add.
pub(crate) fn is_held(op: &Op) -> bool {
    matches!(op, Op::Activation(_) | Op::SumPool(_) | Op::Sum(_) | Op::Max(_))
}

/// Holds values outside Z_2^32 at its ends, and reports the first of them that someone reads.
fn hold(reference: &Reference, index: usize, values: &mut [i64]) -> Found {
    let mut found = None;
    let plane = reference.shapes[index + 1].plane();
    for (e, value) in values.iter_mut().enumerate().filter(|(_, value)| !(-HELD..HELD).contains(*value)) {
        if found.is_none() && !reference.unread[index + 1][e / plane] {
            found = outside_ring(*value).map(|excess| (e, excess));
        }
        *value = (*value).clamp(-HELD, HELD - 1);
    }
    found
}

/// The network's output with each rounding chosen by `round`, and the first value outside the model's bounds. Tensors are
/// dropped after their last reader.
pub(crate) fn output(
    reference: &Reference,
    input: Vec<i64>,
    mut round: impl FnMut(i64, u8) -> i64,
) -> (Vec<i64>, Option<Overflow>) {
    let last_readers = reference.architecture.last_readers();
    let (mut tensors, mut overflow) = (vec![input], None);
    for (index, node) in reference.architecture.nodes.iter().enumerate() {
        let inputs: Vec<&[i64]> = node.inputs.iter().map(|&tensor| &tensors[tensor as usize][..]).collect();
        let activate = |y, channel: &Channel, secret: &ChannelSecret| rounded(y, channel, secret, &mut round);
        let (y, found) = values(reference, index, &inputs, activate);
        overflow = overflow.or_else(|| found.map(|(element, excess)| reference.overflow(index, element, excess)));
        for &tensor in node.inputs.iter().filter(|&&tensor| last_readers[tensor as usize] == Some(index)) {
            tensors[tensor as usize] = Vec::new();
        }
        tensors.push(y);
    }
    (tensors.pop().unwrap_or_default(), overflow)
}
