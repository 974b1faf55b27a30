//! Sums whose terms can be brought to one scale.
//!
//! In fixed point every channel has a scale of its own, and what a sum adds must have the same. A term is *free* if it comes
//! from a linear layer that nothing else reads: its weights take any scale. Of the other, *fixed*, terms several can agree
//! only if each is *alignable*: if it goes back to the network's input or to activations whose scale can be chosen, since
//! what they read is free to have one too. A sum with several fixed terms of which some are not alignable gets linear layers
//! that change nothing in front of those.

use super::Before;
use crate::error::Result;
use crate::network::{Function, Linear, Network, Op, Tensor};

/// Makes one sum of sums that nothing else reads.
pub(super) fn join(network: &mut Network) -> Result<()> {
    for index in 0..network.layers.len() {
        while let Some(at) = inner(network, index) {
            let tensor = network.layers[index].inputs[at];
            let Some(Op::Sum { negative: signs, constant: constants }) = network.producer(tensor).map(|l| l.op.clone())
            else {
                break;
            };
            let terms = network.layers[tensor - 1].inputs.clone();
            let layer = &mut network.layers[index];
            layer.inputs.splice(at..=at, terms);
            if let Op::Sum { negative, constant } = &mut layer.op {
                let sign = negative[at];
                negative.splice(at..=at, signs.into_iter().map(|negative| negative ^ sign));
                let factor = if sign { -1.0 } else { 1.0 };
                constant.iter_mut().zip(constants).for_each(|(constant, more)| *constant += factor * more);
            }
        }
    }
    Ok(())
}

/// Which term of a sum is a sum that only it reads.
fn inner(network: &Network, index: usize) -> Option<usize> {
    let layer = &network.layers[index];
    if !matches!(layer.op, Op::Sum { .. }) {
        return None;
    }
    layer.inputs.iter().position(|&tensor| {
        let reads = |layer: &crate::network::Layer| layer.inputs.iter().filter(|input| **input == tensor).count();
        let sum = network.producer(tensor).filter(|maker| matches!(maker.op, Op::Sum { .. }));
        sum.is_some_and(|sum| {
            sum.inputs.len() + layer.inputs.len() <= safenet_core::model::limits::NODE_INPUTS
                && network.layers.iter().map(reads).sum::<usize>() == 1
        })
    })
}

/// Puts linear layers that change nothing in front of terms that cannot be aligned.
pub(super) fn align(network: &mut Network) -> Result<()> {
    let mut index = 0;
    while index < network.layers.len() {
        if matches!(network.layers[index].op, Op::Sum { .. }) {
            let scales = Scales::new(network);
            let known = network.known();
            let terms = scales.unaligned(&network.layers[index].inputs);
            let inputs = network.layers[index].inputs.clone();
            let mut before = Before { network, index };
            for (number, at) in terms.into_iter().enumerate() {
                let tensor = inputs[at];
                let layer = &before.network.layers[before.index];
                let (name, shape) = (format!("{}.align{number}", layer.name), layer.shape);
                let count = shape.channels as usize;
                // What is not known yet needs no linear layer: an activation's scale can be chosen too.
                let op = if scales.open[tensor] && !known[tensor] {
                    Op::Activation(vec![Function::IDENTITY; count])
                } else {
                    Op::Linear(Linear::depthwise(vec![1.0; count], vec![0.0; count]))
                };
                let aligned = before.push(name, op, vec![tensor], shape);
                let index = before.index;
                before.network.layers[index].inputs[at] = aligned;
            }
            index = before.index;
        }
        index += 1;
    }
    Ok(())
}

/// Whether a sum has terms that cannot be aligned.
pub(super) fn has_unaligned(network: &Network, index: usize) -> bool {
    !Scales::new(network).unaligned(&network.layers[index].inputs).is_empty()
}

/// What is known of the scales of a network's tensors.
struct Scales {
    readers: Vec<Vec<usize>>,
    /// Comes from linear layers alone, by paths that nothing else reads.
    linear: Vec<bool>,
    alignable: Vec<bool>,
    /// Leaves an activation that reads it the choice of its scale.
    open: Vec<bool>,
}

impl Scales {
    fn new(network: &Network) -> Self {
        let readers = network.readers();
        let mut scales = Self { readers, linear: vec![false], alignable: vec![true], open: vec![true] };
        for layer in &network.layers {
            let all = |of: &[bool]| layer.inputs.iter().all(|&input| of[input]);
            let moves = layer.op.is_local() && !matches!(layer.op, Op::Sum { .. });
            let linear = match layer.op {
                Op::Linear(_) => true,
                _ => moves && layer.inputs.iter().all(|&input| scales.free(input)),
            };
            let (alignable, open) = match &layer.op {
                Op::Linear(_) => (false, true),
                Op::Activation(functions) => {
                    let input = layer.inputs[0];
                    let folds = matches!(network.producer(input).map(|l| &l.op), Some(Op::Linear(_)));
                    let folds = folds && scales.free(input);
                    let alignable = functions.iter().all(|f| keeps_scale(f, folds)) && all(&scales.open);
                    (alignable, alignable)
                }
                // A shift: one term has no other to agree with.
                Op::Sum { .. } if layer.inputs.len() == 1 => (all(&scales.alignable), all(&scales.open)),
                Op::Sum { .. } => {
                    let fixed = layer.inputs.iter().filter(|&&input| !scales.free(input));
                    (all(&scales.alignable), fixed.into_iter().all(|&input| scales.alignable[input]))
                }
                Op::Max => (all(&scales.alignable), all(&scales.alignable)),
                _ => (all(&scales.alignable), all(&scales.open)),
            };
            scales.linear.push(linear);
            scales.alignable.push(alignable);
            scales.open.push(open);
        }
        scales
    }

    /// The terms of a sum that cannot be aligned with its other fixed terms, by their places.
    fn unaligned(&self, inputs: &[Tensor]) -> Vec<usize> {
        let fixed: Vec<usize> = (0..inputs.len()).filter(|&at| !self.free(inputs[at])).collect();
        // One alone has nothing to agree with.
        if fixed.len() < 2 {
            return Vec::new();
        }
        fixed.into_iter().filter(|&at| !self.alignable[inputs[at]]).collect()
    }

    fn free(&self, tensor: Tensor) -> bool {
        self.linear[tensor] && self.readers[tensor].len() == 1
    }
}

/// Whether a function's scale is the scale of what it reads. A slope divides it, but where it `folds` into the weights of a
/// linear layer that the function alone reads.
fn keeps_scale(function: &Function, folds: bool) -> bool {
    match function {
        Function::Relu | Function::Polynomial { degree: 0, .. } => true,
        Function::Polynomial { degree: 1, c } => folds || c[1] == 1.0,
        Function::Polynomial { .. } => false,
    }
}
