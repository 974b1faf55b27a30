//! Last changes to the graph before its numbers are chosen, so that every activation finds what its form needs.

use super::uses::uses;
use crate::network::{Function, Layer, Linear, Network, OUTPUT, Op, Tensor};

/// Whether the linear outputs that an activation reads are read by it alone, so that a factor and a shift of its channels fold
/// into the weights: the linear layer's index.
pub(super) fn folds_into(network: &Network, reading: &[Vec<usize>], activation: usize) -> Option<usize> {
    let mut tensor = network.layers[activation].inputs[0];
    loop {
        let layer = tensor.checked_sub(1).filter(|_| reading[tensor].len() == 1)?;
        match &network.layers[layer].op {
            Op::Linear(_) => return Some(layer),
            // Averages of a multiple are multiples of averages; of a shift too, where nothing is padded.
            Op::Average(pool) if pool.padding == [0; 4] || pool.inside_only => tensor = network.layers[layer].inputs[0],
            _ => return None,
        }
    }
}

/// Makes sure that
///
/// - the scores come from a linear layer that nothing else reads, so that they can have one scale;
/// - a polynomial of degree 2 or 3 whose shift does not fold into weights finds a sum that takes it up;
/// - a polynomial of odd degree with a negative leading coefficient is read by linear layers alone, in whose weights the sign
///   disappears.
pub(crate) fn settle(network: &mut Network) {
    if let Some(last) = network.layers.len().checked_sub(1)
        && folds_into(network, &network.readers(), last).is_none()
    {
        let input = network.layers[last].inputs[0];
        if !network.known()[input] {
            insert(network, last, input, "rescale", identity);
        }
        let last = network.layers.len() - 1;
        let input = network.layers[last].inputs[0];
        insert(network, last, input, "scores", diagonal);
    }
    let mut index = 0;
    while index < network.layers.len() {
        let reading = network.readers();
        let layer = &network.layers[index];
        if let Op::Activation(functions) = &layer.op
            && layer.name != OUTPUT
            && folds_into(network, &reading, index).is_none()
        {
            let input = layer.inputs[0];
            let degree = |f: &Function| match f {
                Function::Relu => 0,
                Function::Polynomial { degree, .. } => *degree,
            };
            let shifted = functions.iter().any(|f| degree(f) >= 2);
            let negative = |f: &Function| matches!(f, Function::Polynomial { degree, c } if *degree & 1 == 1 && c[*degree as usize] < 0.0);
            let turned = functions.iter().any(negative) && !uses(network, &network.known())[index + 1].linear;
            let summed = matches!(input.checked_sub(1).map(|i| &network.layers[i].op), Some(Op::Sum { .. }));
            if shifted && !(summed && reading[input].len() == 1) {
                insert(network, index, input, "shift", |channels| Op::Sum {
                    negative: vec![false],
                    constant: vec![0.0; channels],
                });
                index += 1;
            }
            if turned {
                let readers = network.readers()[index + 1].clone();
                insert_after(network, index, &readers, "signs", diagonal);
                let readers = network.readers()[index + 2].clone();
                insert_after(network, index + 1, &readers, "rescale", identity);
            }
        }
        index += 1;
    }
}

fn diagonal(channels: usize) -> Op {
    Op::Linear(Linear::depthwise(vec![1.0; channels], vec![0.0; channels]))
}

fn identity(channels: usize) -> Op {
    Op::Activation(vec![Function::IDENTITY; channels])
}

/// Inserts a layer that keeps the shape between tensor `input` and layer `reader`.
fn insert(network: &mut Network, reader: usize, input: usize, what: &str, op: impl Fn(usize) -> Op) {
    let shape = network.shape(input);
    let name = format!("{}.{what}", network.layers[reader].name);
    let op = op(shape.channels as usize);
    let tensor = network.insert(reader, Layer { name, inputs: vec![input], op, shape });
    replace(&mut network.layers[reader + 1], input, tensor);
}

/// Inserts a layer that keeps the shape right after `layer`, for `readers` of its output.
fn insert_after(network: &mut Network, layer: usize, readers: &[usize], what: &str, op: impl Fn(usize) -> Op) {
    let Layer { shape, .. } = network.layers[layer];
    let name = format!("{}.{what}", network.layers[layer].name);
    let op = op(shape.channels as usize);
    let tensor = network.insert(layer + 1, Layer { name, inputs: vec![layer + 1], op, shape });
    readers.iter().for_each(|&reader| replace(&mut network.layers[reader + 1], layer + 1, tensor));
}

fn replace(layer: &mut Layer, input: Tensor, by: Tensor) {
    layer.inputs.iter_mut().filter(|slot| **slot == input).for_each(|slot| *slot = by);
}
