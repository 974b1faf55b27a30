//! The public architecture: a list of nodes in the order of computation, with every number that shapes a message.

use super::limits;
use super::operators::check_additions;
use super::{Kind, Op, Shape, malformed};
use crate::error::{Error, ErrorKind, Result};
use alloc::{format, string::String, vec, vec::Vec};
use serde::{Deserialize, Serialize};

/// Names a tensor: 0 is the network's input, i + 1 is the output of node i.
pub type TensorId = u32;

/// One step of the computation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What it is called in reports; the name it had in the network it came from.
    pub name: String,
    /// The tensors it reads: the network's input or outputs of earlier nodes.
    pub inputs: Vec<TensorId>,
    /// What it computes.
    pub op: Op,
}

/// What the client learns of the last node's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// All of it.
    Scores,
    /// The lowest bits of each element alone, as an unsigned number: with class indices there, the winners of a tournament
    /// of maxima, and nothing of their scores.
    Class {
        /// Bits of an index, 1 to 16.
        index_bits: u8,
    },
}

impl Output {
    /// Bits that the server sends of each element.
    pub fn bits(self) -> u8 {
        match self {
            Self::Scores => 32,
            Self::Class { index_bits } => index_bits,
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
    /// The nodes, each reading earlier tensors. The last one's output is the network's: of an activation layer for
    /// scores, of a maximum for classes.
    pub nodes: Vec<Node>,
    /// What the client learns.
    pub output: Output,
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
        let (mut read, mut additions) = (0, 0);
        // Whether the client knows a tensor's mask before any answer of the server: convolutions take no others.
        let mut known = vec![true];
        for (index, node) in self.nodes.iter().enumerate() {
            let place = |e: Error| e.context(format!("node {index} ({})", node.name));
            if node.name.len() > limits::NAME {
                return Err(malformed(format!("node {index}: name: expected at most {} bytes", limits::NAME)));
            }
            if node.inputs.len() > limits::NODE_INPUTS {
                return Err(place(malformed(format!(
                    "inputs: expected at most {}, got {}",
                    limits::NODE_INPUTS,
                    node.inputs.len()
                ))));
            }
            if let Some(later) = node.inputs.iter().find(|&&input| input as usize > index) {
                return Err(place(malformed(format!("input: expected tensor 0 to {index}, got {later}"))));
            }
            let all_known = node.inputs.iter().all(|&input| known[input as usize]);
            if matches!(node.op, Op::Convolution(_)) && !all_known {
                return Err(place(malformed("expected an activation layer between two linear layers, got none")));
            }
            let inputs: Vec<Shape> = node.inputs.iter().map(|&input| shapes[input as usize]).collect();
            let shape = node.op.output(&inputs).and_then(Shape::checked).map_err(place)?;
            additions += node.op.additions(shape);
            check_additions(additions).map_err(place)?;
            if matches!(node.op, Op::Convolution(_)) {
                read += u64::from(inputs[0].channels);
            }
            if read > limits::ALL_READ_CHANNELS {
                return Err(place(malformed(format!(
                    "expected at most {} channels that convolutions read in all, got more",
                    limits::ALL_READ_CHANNELS
                ))));
            }
            shapes.push(shape);
            known.push(if node.op.is_local() { all_known } else { !matches!(node.op, Op::Convolution(_)) });
            channels += u64::from(shape.channels);
            elements += shape.elements() as u64;
            if channels > limits::ALL_CHANNELS || elements > limits::ALL_ELEMENTS {
                return Err(place(malformed(format!(
                    "expected at most {} channels and {} elements in all tensors together, got more",
                    limits::ALL_CHANNELS,
                    limits::ALL_ELEMENTS
                ))));
            }
        }
        self.check_output()?;
        Ok(shapes)
    }

    fn check_output(&self) -> Result<()> {
        match (self.nodes.last().map(|node| &node.op), self.output) {
            (Some(Op::Activation(last)), Output::Scores) => {
                // Without truncation the answer would be the raw product, which tells more about the weights than scores do.
                match last.channels.iter().position(|c| c.kind == Kind::Linear && c.shift == 0) {
                    None => Ok(()),
                    Some(c) => Err(Error::new(
                        ErrorKind::UnsupportedModel,
                        format!("last node: channel {c} (linear): expected a shift of at least 1, got 0"),
                    )),
                }
            }
            (_, Output::Scores) => Err(malformed(
                "last node: expected an activation layer (linear channels for plain scores), got another kind",
            )),
            (Some(Op::Max(_)), Output::Class { index_bits: 1..=16 }) => Ok(()),
            (_, Output::Class { index_bits }) => Err(malformed(format!(
                "output: expected class indices of 1 to 16 bits in a maximum, got {index_bits} bits or another kind of node"
            ))),
        }
    }

    /// The output's fraction bits: a score is the integer answer divided by 2^bits. 0 for classes.
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
            let inputs = || node.inputs.iter().map(|&input| &constant[input as usize][..]);
            let first = inputs().next().unwrap_or_default();
            constant.push(match &node.op {
                Op::Convolution(_) | Op::Max(_) => vec![false; shape.channels as usize],
                Op::SumPool(_) | Op::Window(_) => first.to_vec(),
                Op::Channels(channels) => first[channels.range()].to_vec(),
                Op::Concat => inputs().flatten().copied().collect(),
                Op::Flatten => {
                    let plane = shapes[node.inputs[0] as usize].plane();
                    first.iter().flat_map(|&c| core::iter::repeat_n(c, plane)).collect()
                }
                Op::Sum(_) => (0..shape.channels as usize).map(|c| inputs().all(|input| input[c])).collect(),
                Op::Activation(activation) => activation.channels.iter().map(|c| c.kind == Kind::Zero).collect(),
            });
        }
        constant
    }

    /// For every tensor, which channels no one reads: what is made of them ends in activations of degree 0 alone. Nothing
    /// is computed for such channels of a convolution's output.
    ///
    /// `shapes` is the result of [`Self::shapes`].
    pub fn unread_channels(&self, shapes: &[Shape]) -> Vec<Vec<bool>> {
        let mut unread: Vec<Vec<bool>> = shapes.iter().map(|s| vec![true; s.channels as usize]).collect();
        if let Some(last) = unread.last_mut() {
            last.fill(false);
        }
        for (index, node) in self.nodes.iter().enumerate().rev() {
            let (before, after) = unread.split_at_mut(index + 1);
            let own = &after[0][..];
            let mut start = 0;
            for &input in &node.inputs {
                let read = &mut before[input as usize];
                let plane = shapes[input as usize].plane();
                match &node.op {
                    Op::Convolution(_) => read.fill(false),
                    Op::Activation(a) => {
                        let zero = |c: usize| a.channels[c].kind == Kind::Zero;
                        read.iter_mut().enumerate().for_each(|(c, unread)| *unread &= zero(c));
                    }
                    Op::Max(_) => read.fill(false),
                    Op::Channels(channels) => and(&mut read[channels.range()], own),
                    Op::Concat => {
                        let end = start + read.len();
                        and(read, &own[start..end]);
                        start = end;
                    }
                    Op::Flatten => {
                        for (unread, elements) in read.iter_mut().zip(own.chunks_exact(plane)) {
                            *unread &= elements.iter().all(|&u| u);
                        }
                    }
                    Op::SumPool(_) | Op::Window(_) | Op::Sum(_) => and(read, own),
                }
            }
        }
        unread
    }

    /// For every tensor, the index of the last node that reads it; none for the output and for what no one reads.
    pub fn last_readers(&self) -> Vec<Option<usize>> {
        let mut last = vec![None; self.nodes.len() + 1];
        for (index, node) in self.nodes.iter().enumerate() {
            for &input in &node.inputs {
                last[input as usize] = Some(index);
            }
        }
        last
    }
}

fn and(slots: &mut [bool], others: &[bool]) {
    slots.iter_mut().zip(others).for_each(|(slot, &other)| *slot &= other);
}
