//! Activations of degree one where a linear layer or a maximum reads what is not known.
//!
//! The client encrypts the mask of what a linear layer reads, so it must know that mask before the server's answer to an
//! earlier layer. Between two linear layers there is thus an activation or a maximum; where the network has none, one that
//! changes nothing.

use crate::error::Result;
use crate::network::{Function, Layer, Network, Op, Tensor};

pub(super) fn insert(network: &mut Network) -> Result<()> {
    let mut index = 0;
    while index < network.layers.len() {
        let known = network.known();
        let layer = &network.layers[index];
        let needs = matches!(layer.op, Op::Linear(_) | Op::Max);
        if let Some(&input) = layer.inputs.iter().find(|&&input| needs && !known[input]) {
            // From the last to the first, so that earlier places stay what they are.
            for tensor in places(network, &known, input).into_iter().rev() {
                insert_after(network, tensor);
                index += 1;
            }
            // The layer may have another input.
            continue;
        }
        index += 1;
    }
    Ok(())
}

/// Where identities make a tensor known: behind linear layers, sums and averages, whose outputs are no larger than what they
/// read, but before what only moves elements, so that others who read the same are served too.
fn places(network: &Network, known: &[bool], tensor: Tensor) -> Vec<Tensor> {
    let (mut places, mut open) = (Vec::new(), vec![tensor]);
    while let Some(tensor) = open.pop() {
        match network.producer(tensor) {
            Some(layer) if matches!(layer.op, Op::Window(_) | Op::Flatten | Op::Concat) => {
                open.extend(layer.inputs.iter().filter(|input| !known[**input]));
            }
            _ => places.push(tensor),
        }
    }
    places.sort_unstable();
    places.dedup();
    places
}

/// Puts an identity behind a tensor. Activations go on reading the tensor itself: they rescale on their own.
fn insert_after(network: &mut Network, tensor: Tensor) {
    let Some(layer) = network.producer(tensor) else {
        return;
    };
    let (name, shape) = (format!("{}.rescale", layer.name), layer.shape);
    let op = Op::Activation(vec![Function::IDENTITY; shape.channels as usize]);
    let identity = network.insert(tensor, Layer { name, inputs: vec![tensor], op, shape });
    for layer in &mut network.layers[identity..] {
        if !matches!(layer.op, Op::Activation(_)) {
            layer.inputs.iter_mut().filter(|input| **input == tensor).for_each(|input| *input = identity);
        }
    }
}
