//! Bringing the chain into the order that the protocol needs: affine layers folded away, and an activation layer after
//! every linear layer.
//!
//! Afterwards the chain reads
//! `(Average | Flatten)* Linear Average* Activation` once or more, and the last activation, all of whose channels are
//! linear, gives the scores.

use crate::error::{Error, Result};
use crate::network::{Function, Layer, Linear, Network, Op};
use safenet_core::model::Shape;

/// Name of the last layer.
pub(crate) const OUTPUT: &str = "output";
/// Largest absolute weight or bias after folding; beyond it, ranges cannot be computed with.
const LARGEST: f64 = 1e30;

/// Brings a network into the protocol's order.
pub(crate) fn normalise(network: &mut Network) -> Result<()> {
    fold_affine(network)?;
    activations_before_flatten(network);
    alternate(network)?;
    for layer in &network.layers {
        let wild = |x: &&f64| !x.is_finite() || x.abs() > LARGEST;
        if let Op::Linear(linear) = &layer.op
            && let Some(x) = linear.weights.iter().chain(&linear.bias).find(wild)
        {
            return Err(at(layer, &format!("expected weights of at most {LARGEST:e} after folding, got {x}")));
        }
    }
    Ok(())
}

fn at(layer: &Layer, message: &str) -> Error {
    Error::Network(format!("{}: {message}", layer.name))
}

/// Folds each affine layer into the linear layer before it, or else into the one after it.
fn fold_affine(network: &mut Network) -> Result<()> {
    // Backwards first, in the chain's order, so that a row of affine layers folds one after the other.
    let mut index = 0;
    while index < network.layers.len() {
        if matches!(network.layers[index].op, Op::Affine { .. }) && fold_back(&mut network.layers, index) {
            network.layers.remove(index);
        } else {
            index += 1;
        }
    }
    // What is left has no linear layer before it; from the last to the first, each into the one after it.
    for index in (0..network.layers.len()).rev() {
        if matches!(network.layers[index].op, Op::Affine { .. }) {
            fold_forward(&mut network.layers, index)?;
            network.layers.remove(index);
        }
    }
    Ok(())
}

/// An affine layer after a linear one: w' = scale · w, b' = scale · b + shift. Averages between the two do not matter, their
/// weights sum to 1.
fn fold_back(layers: &mut [Layer], index: usize) -> bool {
    let (before, rest) = layers.split_at_mut(index);
    let Op::Affine { scale, shift } = &rest[0].op else { return false };
    for layer in before.iter_mut().rev() {
        match &mut layer.op {
            Op::Average(_) => {}
            Op::Linear(linear) => {
                for ((row, b), (s, h)) in linear.rows_mut().zip(scale.iter().zip(shift)) {
                    row.iter_mut().for_each(|w| *w *= s);
                    *b = *b * s + h;
                }
                return true;
            }
            _ => return false,
        }
    }
    false
}

/// An affine layer before a linear one: w' = w · scale, b' = b + Σ w · shift. With padding this holds only where nothing is
/// shifted: the padding's zeros come after the shift.
fn fold_forward(layers: &mut [Layer], index: usize) -> Result<()> {
    let (before, after) = layers.split_at_mut(index + 1);
    let layer = &before[index];
    let Op::Affine { scale, shift } = &layer.op else { return Ok(()) };
    let (mut scale, mut shift) = (scale.clone(), shift.clone());
    let mut shape = layer.shape;
    for next in after {
        match &mut next.op {
            Op::Average(_) => {}
            Op::Flatten => {
                let spread = |x: &[f64]| x.iter().flat_map(|&x| std::iter::repeat_n(x, shape.plane())).collect();
                (scale, shift) = (spread(&scale), spread(&shift));
            }
            Op::Linear(linear) => {
                if linear.conv.padding != [0; 4] && shift.iter().any(|&h| h != 0.0) {
                    return Err(at(
                        layer,
                        &format!(
                            "expected to fold its shift into the layer after it, but {} pads with zeros; put the \
                             normalisation after a linear layer, or normalise the input before it enters the network",
                            next.name
                        ),
                    ));
                }
                let taps = linear.taps();
                for (row, b) in linear.rows_mut() {
                    for (weights, (s, h)) in row.chunks_exact_mut(taps).zip(scale.iter().zip(&shift)) {
                        *b += weights.iter().sum::<f64>() * h;
                        weights.iter_mut().for_each(|w| *w *= s);
                    }
                }
                return Ok(());
            }
            Op::Affine { .. } | Op::Activation(_) => break,
        }
        shape = next.shape;
    }
    Err(at(layer, "expected a linear layer (Conv, Gemm, MatMul) next to it to fold it into, got none"))
}

/// Moves activations before the flattening that precedes them, where all elements of a channel have the same one.
fn activations_before_flatten(network: &mut Network) {
    let mut index = 0;
    while index + 1 < network.layers.len() {
        let shape = if index == 0 { network.input } else { network.layers[index - 1].shape };
        if let (Op::Flatten, Op::Activation(functions)) = (&network.layers[index].op, &network.layers[index + 1].op)
            && functions.chunks_exact(shape.plane()).all(|channel| channel.iter().all(|f| *f == channel[0]))
        {
            let functions = functions.iter().step_by(shape.plane()).copied().collect();
            network.layers.swap(index, index + 1);
            network.layers[index].op = Op::Activation(functions);
            network.layers[index].shape = shape;
            // What is before may be another flattening.
            index = index.saturating_sub(1);
        } else {
            index += 1;
        }
    }
}

/// Puts an activation of linear channels where two linear layers meet, an identity convolution before an activation that no
/// linear layer precedes, and the output layer at the end.
fn alternate(network: &mut Network) -> Result<()> {
    let mut chain = Chain { input: network.input, layers: Vec::new(), open: None };
    for layer in std::mem::take(&mut network.layers) {
        match &layer.op {
            Op::Linear(_) => {
                chain.close();
                chain.layers.push(layer);
                chain.open = Some(chain.layers.len());
            }
            Op::Average(_) => {
                chain.layers.push(layer);
                if chain.open.is_some() {
                    chain.open = Some(chain.layers.len());
                }
            }
            Op::Flatten | Op::Affine { .. } => chain.layers.push(layer),
            Op::Activation(_) => {
                if chain.open != Some(chain.layers.len()) {
                    chain.close();
                    chain.identity(&layer.name)?;
                }
                chain.layers.push(layer);
                chain.open = None;
            }
        }
    }
    // Flattening does not move an element, so the scores need none.
    while matches!(chain.layers.last(), Some(Layer { op: Op::Flatten, .. })) {
        chain.layers.pop();
    }
    if chain.open.is_none() {
        chain.identity(OUTPUT)?;
    }
    let shape = chain.shape();
    let functions = vec![Function::IDENTITY; shape.channels as usize];
    chain.layers.push(Layer { name: OUTPUT.into(), op: Op::Activation(functions), shape });
    network.layers = chain.layers;
    Ok(())
}

struct Chain {
    input: Shape,
    layers: Vec<Layer>,
    /// Where the activation belongs of a linear layer that has none yet: after it and its averages.
    open: Option<usize>,
}

impl Chain {
    fn shape(&self) -> Shape {
        self.layers.last().map_or(self.input, |l| l.shape)
    }

    /// Gives a linear layer without an activation one of linear channels: truncation alone.
    fn close(&mut self) {
        if let Some(at) = self.open.take() {
            let before = &self.layers[at - 1];
            let (shape, name) = (before.shape, format!("{}.rescale", before.name));
            let functions = vec![Function::IDENTITY; shape.channels as usize];
            self.layers.insert(at, Layer { name, op: Op::Activation(functions), shape });
        }
    }

    /// Gives an activation that has no linear layer of its own one that changes nothing.
    fn identity(&mut self, name: &str) -> Result<()> {
        let shape = self.shape();
        let linear = Linear::diagonal(shape.channels, [1, 1], [1, 1], [0; 4], 1.0).ok_or_else(|| {
            Error::Network(format!(
                "{name}: expected a linear layer before it; one would have to be added, and {} channels are too many for that",
                shape.channels
            ))
        })?;
        self.layers.push(Layer { name: format!("{name}.identity"), op: Op::Linear(linear), shape });
        self.open = Some(self.layers.len());
        Ok(())
    }
}
