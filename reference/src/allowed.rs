//! Checking one node's output against the input that it really had.

use crate::Reference;
use crate::linear::{Kernel, sum_pool};
use crate::rounding::{Interval, activated};
use crate::trace::Overflow;
use safenet_core::model::Op;
use std::fmt;

/// Why a node's output is not an allowed result for its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// There is no such node.
    NoSuchNode {
        /// The index asked for.
        node: usize,
        /// How many nodes there are.
        count: usize,
    },
    /// The input or the output has another number of elements than the node's.
    Length {
        /// Index of the node.
        node: usize,
        /// "input" or "output".
        which: &'static str,
        /// Elements expected.
        expected: usize,
        /// Elements given.
        got: usize,
    },
    /// The input is outside the bounds for which the model was made, so no output is right.
    Overflow(Overflow),
    /// A value that the node's roundings cannot give.
    Value {
        /// Index of the node.
        node: usize,
        /// Its name.
        name: String,
        /// The channel.
        channel: u32,
        /// The element within the channel.
        element: u32,
        /// The value given.
        value: i64,
        /// Smallest value allowed.
        low: i64,
        /// Largest value allowed.
        high: i64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchNode { node, count } => write!(f, "node {node}: expected an index below {count}"),
            Self::Length { node, which, expected, got } => {
                write!(f, "node {node}: {which}: expected {expected} elements, got {got}")
            }
            Self::Overflow(overflow) => overflow.fmt(f),
            Self::Value { node, name, channel, element, value, low, high } => write!(
                f,
                "node {node} ({name}), channel {channel}, element {element}: expected {low} to {high}, got {value}"
            ),
        }
    }
}

pub(crate) fn check(reference: &Reference, index: usize, input: &[i64], output: &[i64]) -> Option<Violation> {
    let nodes = &reference.architecture.nodes;
    let Some(node) = nodes.get(index) else {
        return Some(Violation::NoSuchNode { node: index, count: nodes.len() });
    };
    let (in_shape, out_shape) = (reference.shapes[node.input as usize], reference.shapes[index + 1]);
    for (which, expected, got) in
        [("input", in_shape.elements(), input.len()), ("output", out_shape.elements(), output.len())]
    {
        if expected != got {
            return Some(Violation::Length { node: index, which, expected, got });
        }
    }
    let wrong = |element: usize, range: Interval| {
        let (name, channel, at) = reference.place(index, element);
        let Interval { low, high } = range;
        Violation::Value { node: index, name, channel, element: at, value: output[element], low, high }
    };
    let exactly = |expected: &[i64], skip: &[bool]| {
        let plane = out_shape.plane();
        let wanted = |e: usize| !skip.get(e / plane).copied().unwrap_or(false);
        let e = (0..output.len()).find(|&e| wanted(e) && output[e] != expected[e])?;
        Some(wrong(e, Interval::new(expected[e], expected[e])))
    };
    match &node.op {
        Op::Convolution(conv) => {
            let (weights, bias) = reference.weights(index);
            let unread = &reference.unread[index];
            let kernel = Kernel { conv, input: in_shape, output: out_shape, weights, bias, unread };
            exactly(&kernel.apply(input), unread)
        }
        Op::SumPool(pool) => exactly(&sum_pool(pool, in_shape, out_shape, input), &[]),
        Op::Flatten => exactly(input, &[]),
        Op::Activation(activation) => {
            let secrets = reference.secrets(index);
            let plane = out_shape.plane();
            (0..output.len()).find_map(|e| {
                let (channel, secret) = (&activation.channels[e / plane], &secrets[e / plane]);
                // The two roundings of T differ by one, so what they allow after a square or a cube need not be an
                // interval: each is tried by itself.
                let y = input[e];
                let (whole, excess) = activated(Interval::new(y, y), channel, secret);
                if let Some(excess) = excess {
                    return Some(Violation::Overflow(reference.overflow(index, e, excess)));
                }
                let (floor, unit) = ((y >> channel.shift) << channel.shift, 1i64 << channel.shift);
                let roundings = if floor == y { vec![y] } else { vec![floor, floor + unit] };
                let fits =
                    roundings.iter().any(|&y| activated(Interval::new(y, y), channel, secret).0.holds(output[e]));
                (!fits).then(|| wrong(e, whole))
            })
        }
    }
}
