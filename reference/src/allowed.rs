//! Checking one node's output against the input that it really had.

use crate::Reference;
use crate::evaluate::{self, HELD};
use crate::rounding::{Interval, activated, nearest, rounded};
use crate::trace::Overflow;
use safenet_core::model::{Activation, Op};
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
    /// The node reads another number of tensors.
    Inputs {
        /// Index of the node.
        node: usize,
        /// Inputs expected.
        expected: usize,
        /// Inputs given.
        got: usize,
    },
    /// An input or the output has another number of elements than the node's.
    Length {
        /// Index of the node.
        node: usize,
        /// "input 0", "input 1" and so on, or "output".
        which: String,
        /// Elements expected.
        expected: usize,
        /// Elements given.
        got: usize,
    },
    /// An input element that no tensor can hold: of a convolution, one outside Z_2^32; of others, one beyond what a
    /// convolution can reach.
    Input {
        /// Index of the node.
        node: usize,
        /// Which of its inputs.
        input: usize,
        /// Index of the element.
        element: usize,
        /// The value given.
        value: i64,
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
            Self::Inputs { node, expected, got } => write!(f, "node {node}: expected {expected} inputs, got {got}"),
            Self::Input { node, input, element, value } => {
                write!(f, "node {node}: input {input}, element {element}: expected a value within reach, got {value}")
            }
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

pub(crate) fn check(reference: &Reference, index: usize, inputs: &[&[i64]], output: &[i64]) -> Option<Violation> {
    let nodes = &reference.architecture.nodes;
    let Some(node) = nodes.get(index) else {
        return Some(Violation::NoSuchNode { node: index, count: nodes.len() });
    };
    if let Some(violation) = check_shapes(reference, index, inputs, output) {
        return Some(violation);
    }
    let plane = reference.shapes[index + 1].plane();
    let wrong = |element: usize, range: Interval| {
        let (name, channel, at) = reference.place(index, element);
        let Interval { low, high } = range;
        Violation::Value { node: index, name, channel, element: at, value: output[element], low, high }
    };
    if let Op::Activation(activation) = &node.op {
        return check_activation(reference, index, activation, inputs[0], output, wrong);
    }
    let (expected, overflow) =
        evaluate::values(reference, index, inputs, |y, channel, secret| rounded(y, channel, secret, nearest));
    let unread = &reference.unread[index + 1];
    let wanted = |e: usize| !unread[e / plane] || matches!(node.op, Op::Max(_));
    if let Some((element, excess)) = overflow {
        return Some(Violation::Overflow(reference.overflow(index, element, excess)));
    }
    let e = (0..output.len()).find(|&e| wanted(e) && output[e] != expected[e])?;
    Some(wrong(e, Interval::new(expected[e], expected[e])))
}

fn check_shapes(reference: &Reference, index: usize, inputs: &[&[i64]], output: &[i64]) -> Option<Violation> {
    let node = &reference.architecture.nodes[index];
    if inputs.len() != node.inputs.len() {
        return Some(Violation::Inputs { node: index, expected: node.inputs.len(), got: inputs.len() });
    }
    let shape = |tensor: usize| reference.shapes[tensor].elements();
    let given = inputs.iter().zip(&node.inputs).enumerate();
    let mut lengths: Vec<_> =
        given.map(|(i, (input, &tensor))| (format!("input {i}"), shape(tensor as usize), input.len())).collect();
    lengths.push(("output".into(), shape(index + 1), output.len()));
    if let Some((which, expected, got)) = lengths.into_iter().find(|(_, expected, got)| expected != got) {
        return Some(Violation::Length { node: index, which, expected, got });
    }
    // Within these, nothing below leaves 64 bits.
    let reach = if matches!(node.op, Op::Convolution(_)) { -HELD..HELD } else { -(1 << 61)..(1 << 61) + 1 };
    inputs.iter().enumerate().find_map(|(i, input)| {
        let element = input.iter().position(|x| !reach.contains(x))?;
        Some(Violation::Input { node: index, input: i, element, value: input[element] })
    })
}

fn check_activation(
    reference: &Reference,
    index: usize,
    activation: &Activation,
    input: &[i64],
    output: &[i64],
    wrong: impl Fn(usize, Interval) -> Violation,
) -> Option<Violation> {
    let secrets = reference.secrets(index);
    let plane = reference.shapes[index + 1].plane();
    (0..output.len()).find_map(|e| {
        let (channel, secret) = (&activation.channels[e / plane], &secrets[e / plane]);
        // The two roundings of T differ by one, so what they allow after a square or a cube need not be an interval: each
        // is tried by itself.
        let y = input[e];
        let (whole, excess) = activated(Interval::new(y, y), channel, secret);
        if let Some(excess) = excess {
            return Some(Violation::Overflow(reference.overflow(index, e, excess)));
        }
        let (floor, unit) = ((y >> channel.shift) << channel.shift, 1i64 << channel.shift);
        let roundings = if floor == y { vec![y] } else { vec![floor, floor + unit] };
        let fits = roundings.iter().any(|&y| activated(Interval::new(y, y), channel, secret).0.holds(output[e]));
        (!fits).then(|| wrong(e, whole))
    })
}
