//! What follows an activation: the linear layers that read its results, and what an error there costs.

use super::linear::moment;
use super::search::Next;
use super::{Settings, least};
use crate::engine::Statistics;
use crate::network::{Function, Network, Op, Tensor};

/// Of the outputs of the linear layers that follow, at most this many enter the search, spread evenly: their weights are alike.
const OUTPUTS: usize = 64;

/// Tensors looked at on the way to linear layers.
const STEPS: usize = 256;

/// For each channel of a tensor, the activation's channel that it is made of and what the scale is multiplied by on the way.
type Origins = Vec<Option<(usize, f64)>>;

/// A linear layer that reads an activation's results, perhaps by way of local operators.
struct Reader {
    layer: usize,
    inputs: Origins,
}

/// The linear layers that read the results of `layer`.
fn readers(network: &Network, reading: &[Vec<usize>], layer: usize) -> Vec<Reader> {
    let channels = network.layers[layer].shape.channels as usize;
    let mut found = Vec::new();
    let mut waiting: Vec<(Tensor, Origins)> = vec![(layer + 1, (0..channels).map(|c| Some((c, 1.0))).collect())];
    // Branches may meet again and again: what is found by then tells enough.
    let mut steps = 0;
    while let Some((tensor, map)) = waiting.pop().filter(|_| steps < STEPS) {
        steps += 1;
        for &index in &reading[tensor] {
            let reader = &network.layers[index];
            let shape = network.shape(tensor);
            let next = match &reader.op {
                Op::Linear(_) => {
                    found.push(Reader { layer: index, inputs: map.clone() });
                    continue;
                }
                Op::Average(pool) => {
                    let factor = pool.factor(shape, reader.shape) as f64;
                    map.iter().map(|m| m.map(|(c, f)| (c, f * factor))).collect()
                }
                Op::Channels(channels) => map[channels.range()].to_vec(),
                Op::Concat => {
                    let each = reader.inputs.iter().flat_map(|&t| {
                        let own = t == tensor;
                        let count = network.shape(t).channels as usize;
                        (0..count).map(move |c| if own { Some(c) } else { None })
                    });
                    each.map(|c| map[c?]).collect()
                }
                Op::Flatten => map.iter().flat_map(|&m| std::iter::repeat_n(m, shape.plane())).collect(),
                Op::Window(_) | Op::Max => map.clone(),
                // A sum brings in others' errors, and an activation its own.
                _ => continue,
            };
            waiting.push((index + 1, next));
        }
    }
    found
}

/// What the search needs of the linear layers after activation `layer`, and what an error of each of its channels costs there.
/// `reading` tells for each tensor the layers that read it.
pub(super) fn next_layers(
    network: &Network,
    reading: &[Vec<usize>],
    statistics: &[Vec<Statistics>],
    settings: &Settings,
    layer: usize,
) -> (Next, Vec<f64>) {
    let Op::Activation(own) = &network.layers[layer].op else { return (Next::default(), Vec::new()) };
    let channels = own.len();
    let mut next = Next { energy: vec![0.0; channels], window: 1.0, ..Next::default() };
    let mut prices = vec![0.0; channels];
    let constant = |c: usize| matches!(own[c], Function::Polynomial { degree: 0, .. });
    let all = readers(network, reading, layer);
    for Reader { layer: index, inputs } in &all {
        let Op::Linear(linear) = &network.layers[*index].op else { continue };
        let (input, output) = (&statistics[network.layers[*index].inputs[0]], &statistics[index + 1]);
        let count = linear.bias.len();
        let per_group = input.len() / linear.conv.groups as usize;
        let outputs_per_group = count / linear.conv.groups as usize;
        let taps = linear.taps();
        let least = least(output);
        let mean = output.iter().map(Statistics::variance).sum::<f64>() / count as f64;
        let scores = network.layers.len() == index + 2;
        next.output |= scores;
        let step = if scores { 1 } else { count.div_ceil(OUTPUTS) };
        for o in (0..count).step_by(step) {
            let variance = output[o].variance().max(1e-4 * mean).max(1e-30);
            let mut largest = vec![0.0f64; channels];
            let first = o / outputs_per_group * per_group;
            for (weights, place) in linear.row(o).chunks_exact(taps).zip(&inputs[first..first + per_group]) {
                if let Some((c, factor)) = *place {
                    largest[c] = weights.iter().fold(largest[c], |a, w| a.max(w.abs() / factor));
                    prices[c] += step as f64 * weights.iter().map(|w| w * w).sum::<f64>() / variance;
                }
            }
            if largest.iter().all(|&w| w == 0.0) {
                continue;
            }
            next.weight.push(largest);
            let reach = settings.margin * output[o].low.abs().max(output[o].high.abs()).max(least);
            next.limit.push(f64::from(1u32 << 29) / reach);
            next.variance.push(variance / step as f64);
        }
        for (seen, place) in input.iter().zip(inputs) {
            if let Some((c, factor)) = place.filter(|(c, _)| !constant(*c)) {
                next.energy[c] += factor * factor * moment(linear, seen) * taps as f64 / 12.0;
                next.window = next.window.max(factor);
            }
        }
    }
    // Channels that the next layers make nothing of are still computed, so they too need bits that fit.
    let highest = prices.iter().copied().fold(0.0, f64::max);
    let lowest = if highest > 0.0 { 1e-9 * highest } else { 1.0 };
    prices.iter_mut().for_each(|p| *p = p.max(lowest));
    (next, prices)
}
