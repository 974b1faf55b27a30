//! Bringing a network into the protocol's terms: a few kinds of layers, in an order that the protocol can follow.
//!
//! Afterwards
//! - there are no affine, piecewise and pooling-by-maximum layers;
//! - every linear layer and every maximum reads a *known* tensor ([`Network::known`]);
//! - the terms of every sum can be brought to one scale ([`sums`]);
//! - the last layer is the identity, named [`OUTPUT`](crate::network::OUTPUT).

mod affine;
mod maxima;
mod merge;
mod padding;
mod piecewise;
mod rescale;
mod sums;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::network::{Layer, Network, Op, Tensor};
use safenet_core::model::{Shape, limits};

/// Largest absolute weight or bias after folding; beyond it, ranges cannot be computed with.
const LARGEST: f64 = 1e30;

/// Brings a network into the protocol's terms.
pub(crate) fn normalise(network: &mut Network) -> Result<()> {
    let passes: [fn(&mut Network) -> Result<()>; 9] = [
        piecewise::expand,
        padding::fold,
        affine::fold,
        maxima::expand,
        sums::join,
        merge::fold,
        rescale::insert,
        sums::align,
        rescale::insert,
    ];
    for pass in passes {
        pass(network)?;
        sweep(network);
        check_size(network)?;
    }
    check_weights(network)
}

/// Removes the layers that the last one does not depend on.
fn sweep(network: &mut Network) {
    let mut needed = vec![false; network.layers.len() + 1];
    needed[network.layers.len()] = true;
    for (index, layer) in network.layers.iter().enumerate().rev() {
        if needed[index + 1] {
            layer.inputs.iter().for_each(|&input| needed[input] = true);
        }
    }
    // The input has its place whether it is read or not.
    needed[0] = true;
    let mut place = vec![0; needed.len()];
    for tensor in 1..needed.len() {
        place[tensor] = place[tensor - 1] + usize::from(needed[tensor]);
    }
    let mut index = 0;
    network.layers.retain(|_| {
        index += 1;
        needed[index]
    });
    for input in network.layers.iter_mut().flat_map(|layer| &mut layer.inputs) {
        *input = place[*input];
    }
}

fn check_size(network: &Network) -> Result<()> {
    if network.layers.len() > limits::NODES {
        return Err(Error::Network(format!("expected at most {} layers, got {}", limits::NODES, network.layers.len())));
    }
    let shapes = || network.layers.iter().map(|layer| layer.shape);
    let channels: u64 = shapes().map(|s| u64::from(s.channels)).sum();
    let elements: u64 = shapes().map(|s| s.elements() as u64).sum();
    if channels > limits::ALL_CHANNELS || elements > limits::ALL_ELEMENTS {
        return Err(Error::Network(format!(
            "expected at most {} channels and {} elements in all layers together, got {channels} and {elements}",
            limits::ALL_CHANNELS,
            limits::ALL_ELEMENTS
        )));
    }
    Ok(())
}

fn check_weights(network: &Network) -> Result<()> {
    for layer in &network.layers {
        let numbers: Vec<&f64> = match &layer.op {
            Op::Linear(linear) => linear.weights.iter().chain(&linear.bias).collect(),
            Op::Sum { constant, .. } => constant.iter().collect(),
            _ => continue,
        };
        if let Some(x) = numbers.into_iter().find(|x| x.is_nan() || x.abs() > LARGEST) {
            return Err(Error::Network(format!(
                "{}: expected weights of at most {LARGEST:e} after folding, got {x}",
                layer.name
            )));
        }
    }
    Ok(())
}

/// Puts layers before one layer of a network.
struct Before<'a> {
    network: &'a mut Network,
    /// Where that layer is now.
    index: usize,
}

impl Before<'_> {
    fn push(&mut self, name: String, op: Op, inputs: Vec<Tensor>, shape: Shape) -> Tensor {
        let tensor = self.network.insert(self.index, Layer { name, inputs, op, shape });
        self.index += 1;
        tensor
    }
}

/// Whether what is beyond an image's edge appears in a local layer's output as zeros.
fn shows_zeros(op: &Op, input: Shape) -> bool {
    match op {
        Op::Average(pool) => !pool.inside_only && pool.padding != [0; 4],
        Op::Window(window) => {
            window.edge == safenet_core::model::Edge::Zero
                && (0..2)
                    .any(|axis| window.places(axis, [input.height, input.width][axis]).any(|place| place.is_none()))
        }
        _ => false,
    }
}
