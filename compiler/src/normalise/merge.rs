//! A linear layer of a sum as one linear layer of the sum's terms.
//!
//! W · Σ (dᵢ · xᵢ) = [W·d₁ | W·d₂ | ...] · (x₁, x₂, ...): where the terms are themselves linear layers, channel by channel,
//! of tensors that are known, a homomorphic layer and an activation layer between the two disappear. This is what becomes of
//! LeakyRelu, PRelu and HardSwish before a convolution. A plain sum of known tensors stays: as one tensor it takes fewer
//! ciphertexts than its terms.

use super::{Before, sums};
use crate::error::Result;
use crate::network::{Linear, Network, Op, Tensor};
use crate::shape::checked;
use safenet_core::model::limits;

/// Most weights of a layer that this makes.
const WEIGHTS: usize = 1 << 27;

pub(super) fn fold(network: &mut Network) -> Result<()> {
    let mut index = 0;
    while index < network.layers.len() {
        if let Some(merge) = find(network, index) {
            index = apply(network, index, merge);
        }
        index += 1;
    }
    Ok(())
}

struct Merge {
    /// What the layer will read, and what each channel of it is multiplied by.
    terms: Vec<(Tensor, Vec<f64>)>,
    /// What the sum adds to each channel.
    constant: Vec<f64>,
    /// Whether the sum is flattened before the layer reads it.
    flattened: bool,
}

fn find(network: &Network, index: usize) -> Option<Merge> {
    let Op::Linear(linear) = &network.layers[index].op else {
        return None;
    };
    if linear.conv.groups != 1 {
        return None;
    }
    let readers = network.readers();
    let alone = |tensor: Tensor| readers[tensor].len() == 1;
    let mut sum = network.layers[index].inputs[0];
    let mut flattened = false;
    if let Some(layer) = network.producer(sum).filter(|layer| matches!(layer.op, Op::Flatten) && alone(sum)) {
        (sum, flattened) = (layer.inputs[0], true);
    }
    let layer = network.producer(sum).filter(|_| alone(sum))?;
    let Op::Sum { negative, constant } = &layer.op else {
        return None;
    };
    let known = network.known();
    let mut merge = Merge { terms: Vec::new(), constant: constant.clone(), flattened };
    let mut scaled = false;
    for (&term, &negative) in layer.inputs.iter().zip(negative) {
        let sign = if negative { -1.0 } else { 1.0 };
        match network.producer(term).map(|maker| (&maker.op, maker)) {
            // What it reads need not be known yet: rescaling comes next, and serves others that read it.
            Some((Op::Linear(inner), maker)) if inner.is_depthwise() && alone(term) => {
                merge.add(maker.inputs[0], inner.weights.iter().map(|w| sign * w));
                merge.constant.iter_mut().zip(&inner.bias).for_each(|(constant, b)| *constant += sign * b);
                scaled = true;
            }
            _ if known[term] => merge.add(term, std::iter::repeat_n(sign, layer.shape.channels as usize)),
            _ => return None,
        }
    }
    let weights = linear.weights.len().checked_mul(merge.terms.len())?;
    let exact = linear.conv.padding == [0; 4] || merge.constant.iter().all(|&c| c == 0.0);
    let gains = scaled || sums::has_unaligned(network, sum - 1);
    let channels = layer.shape.channels as usize * merge.terms.len() * if flattened { layer.shape.plane() } else { 1 };
    (exact && gains && weights <= WEIGHTS && channels <= limits::CHANNELS).then_some(merge)
}

impl Merge {
    fn add(&mut self, tensor: Tensor, factors: impl Iterator<Item = f64>) {
        match self.terms.iter_mut().find(|(other, _)| *other == tensor) {
            Some((_, sum)) => sum.iter_mut().zip(factors).for_each(|(sum, factor)| *sum += factor),
            None => self.terms.push((tensor, factors.collect())),
        }
    }
}

/// Makes it so, and says where the layer is now.
fn apply(network: &mut Network, index: usize, merge: Merge) -> usize {
    let Merge { terms, constant, flattened } = merge;
    let name = network.layers[index].name.clone();
    let shape = network.shape(terms[0].0);
    let spread = if flattened { shape.plane() } else { 1 };
    let mut before = Before { network, index };
    let mut inputs = Vec::with_capacity(terms.len());
    for (tensor, _) in &terms {
        let tensor = match checked(shape.elements() as u64, 1, 1) {
            Ok(flat) if flattened => before.push(format!("{name}.flat"), Op::Flatten, vec![*tensor], flat),
            _ => *tensor,
        };
        inputs.push(tensor);
    }
    if let [first, _, ..] = inputs[..] {
        let one = before.network.shape(first);
        let all = safenet_core::model::Shape { channels: one.channels * inputs.len() as u32, ..one };
        inputs = vec![before.push(format!("{name}.terms"), Op::Concat, inputs, all)];
    }
    let index = before.index;
    let layer = &mut network.layers[index];
    layer.inputs = inputs;
    if let Op::Linear(linear) = &mut layer.op {
        widen(linear, &terms, &constant, spread);
    }
    index
}

/// Gives a layer the weights for each term in turn. Factors and constants are per channel before flattening, of `spread`
/// elements.
fn widen(linear: &mut Linear, terms: &[(Tensor, Vec<f64>)], constant: &[f64], spread: usize) {
    let taps = linear.taps();
    let inputs = constant.len() * spread;
    let mut weights = Vec::with_capacity(linear.weights.len() * terms.len());
    for (row, bias) in linear.weights.chunks_exact(inputs * taps).zip(&mut linear.bias) {
        for (c, weights) in row.chunks_exact(taps).enumerate() {
            *bias += weights.iter().sum::<f64>() * constant[c / spread];
        }
        for (_, factors) in terms {
            for (c, taps) in row.chunks_exact(taps).enumerate() {
                weights.extend(taps.iter().map(|w| w * factors[c / spread]));
            }
        }
    }
    linear.weights = weights;
}
