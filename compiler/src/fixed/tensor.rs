//! What the first pass knows of a tensor, channel by channel.

use super::classes::common_multiple;
use super::linear::Analysis;
use super::{Context, Settings};
use crate::error::Result;
use crate::network::{Network, Op};

/// The channels of a tensor.
#[derive(Clone, Default)]
pub(super) struct TensorState {
    /// The integer for a real value of 1. Of linear outputs and what is made of them, known in the second pass alone; 1 before.
    pub(super) scale: Vec<f64>,
    /// Variance of the error, in real numbers; of linear outputs, without what the rounding of their own weights adds.
    pub(super) noise: Vec<f64>,
    /// Largest error for inputs as on the samples, in real numbers; of linear outputs, without what the rounding of their own
    /// weights adds.
    pub(super) error: Vec<f64>,
    /// The integer of a constant channel; its scale times its value is that only up to rounding.
    pub(super) constant: Vec<Option<f64>>,
    /// What values are possible if the bounds so far hold.
    pub(super) worst: Vec<[f64; 2]>,
    /// What integers are possible if the bounds so far hold. Of linear outputs and what is made of them, unknown: anything.
    pub(super) integers: Vec<[f64; 2]>,
}

/// Anything.
const UNKNOWN: [f64; 2] = [f64::NEG_INFINITY, f64::INFINITY];

impl TensorState {
    pub(super) fn input(network: &Network, settings: &Settings) -> Self {
        let channels = network.input.channels as usize;
        let scale = f64::from(1u32 << settings.input_fraction_bits);
        Self {
            scale: vec![scale; channels],
            noise: vec![1.0 / (12.0 * scale * scale); channels],
            error: vec![0.5 / scale; channels],
            constant: vec![None; channels],
            worst: vec![settings.input_range; channels],
            integers: vec![settings.input_range.map(|x| (x * scale).round()); channels],
        }
    }

    pub(super) fn linear(analysis: &Analysis<'_>) -> Self {
        let outputs = 0..analysis.linear.bias.len();
        Self {
            scale: vec![1.0; outputs.len()],
            noise: outputs.clone().map(|o| analysis.carried(o)).collect(),
            error: outputs.clone().map(|o| analysis.carried_error(o)).collect(),
            constant: vec![None; outputs.len()],
            worst: outputs.clone().map(|o| analysis.worst_case(o)).collect(),
            integers: vec![UNKNOWN; outputs.len()],
        }
    }

    /// Of a local operator, or a maximum.
    pub(super) fn local(context: &Context<'_>, index: usize, tensors: &[Self]) -> Result<Self> {
        let layer = &context.network.layers[index];
        let first = &tensors[layer.inputs[0]];
        let known = context.known[index + 1];
        let mut state = match &layer.op {
            Op::Average(pool) => {
                let factor = pool.factor(context.network.shape(layer.inputs[0]), layer.shape) as f64;
                let counted = pool.padding != [0; 4] && !pool.inside_only;
                let mut state = first.clone();
                // The noise stays as it is: what rounded weights cause is alike in neighbouring elements.
                state.integers.iter_mut().for_each(|range| *range = range.map(|x| x * factor));
                if counted {
                    state.worst.iter_mut().chain(&mut state.integers).for_each(with_zero);
                    state.constant.fill(None);
                }
                state.constant.iter_mut().flatten().for_each(|c| *c *= factor);
                state
            }
            Op::Window(window) => {
                let mut state = first.clone();
                let outside = |axis: usize, size: u32| window.places(axis, size).any(|place| place.is_none());
                let shape = context.network.shape(layer.inputs[0]);
                if outside(0, shape.height) || outside(1, shape.width) {
                    state.worst.iter_mut().chain(&mut state.integers).for_each(with_zero);
                    state.constant.fill(None);
                }
                state
            }
            Op::Channels(channels) => first.gather(channels.range().map(|c| (first, c))),
            Op::Concat => {
                let each = layer.inputs.iter().map(|&t| &tensors[t]);
                first.gather(each.flat_map(|t| (0..t.scale.len()).map(move |c| (t, c))))
            }
            Op::Flatten => {
                let plane = context.network.shape(layer.inputs[0]).plane();
                first.gather((0..first.scale.len()).flat_map(|c| std::iter::repeat_n((first, c), plane)))
            }
            Op::Max => {
                let mut state = first.clone();
                let other = &tensors[layer.inputs[1]];
                let larger = |range: &mut [f64; 2], other: &[f64; 2]| {
                    *range = [range[0].max(other[0]), range[1].max(other[1])];
                };
                state.worst.iter_mut().zip(&other.worst).for_each(|(range, other)| larger(range, other));
                state.integers.iter_mut().zip(&other.integers).for_each(|(range, other)| larger(range, other));
                state.noise.iter_mut().zip(&other.noise).for_each(|(noise, other)| *noise = noise.max(*other));
                state.error.iter_mut().zip(&other.error).for_each(|(error, other)| *error = error.max(*other));
                state.constant.fill(None);
                state
            }
            Op::Sum { negative, constant } => Self::sum(context, index, negative, constant, tensors)?,
            _ => return Err(context.fault(index, "expected it to be expressed by simpler layers")),
        };
        if known && !matches!(layer.op, Op::Sum { .. }) {
            state.scale = Self::local_scales(context, index, tensors);
        }
        Ok(state)
    }

    /// The scales of a local operator's channels, or a maximum's, from those of its inputs; not of a sum.
    pub(super) fn local_scales(context: &Context<'_>, index: usize, tensors: &[Self]) -> Vec<f64> {
        let layer = &context.network.layers[index];
        let first = &tensors[layer.inputs[0]].scale;
        let shape = context.network.shape(layer.inputs[0]);
        match &layer.op {
            Op::Average(pool) => {
                let factor = pool.factor(shape, layer.shape) as f64;
                first.iter().map(|s| s * factor).collect()
            }
            Op::Channels(channels) => first[channels.range()].to_vec(),
            Op::Concat => layer.inputs.iter().flat_map(|&t| tensors[t].scale.clone()).collect(),
            Op::Flatten => first.iter().flat_map(|&s| std::iter::repeat_n(s, shape.plane())).collect(),
            _ => first.clone(),
        }
    }

    fn gather<'a>(&self, channels: impl Iterator<Item = (&'a Self, usize)>) -> Self {
        let mut out = Self::default();
        for (tensor, c) in channels {
            out.scale.push(tensor.scale[c]);
            out.noise.push(tensor.noise[c]);
            out.error.push(tensor.error[c]);
            out.constant.push(tensor.constant[c]);
            out.worst.push(tensor.worst[c]);
            out.integers.push(tensor.integers[c]);
        }
        out
    }

    fn sum(context: &Context<'_>, index: usize, negative: &[bool], constant: &[f64], tensors: &[Self]) -> Result<Self> {
        let layer = &context.network.layers[index];
        let known = context.known[index + 1];
        let mut out = Self::default();
        for (c, &own) in constant.iter().enumerate() {
            let terms = || layer.inputs.iter().map(|&t| &tensors[t]).zip(negative);
            let mut worst = [own; 2];
            for (term, &negative) in terms() {
                let [low, high] = term.worst[c];
                let [low, high] = if negative { [-high, -low] } else { [low, high] };
                worst = [worst[0] + low, worst[1] + high];
            }
            // Constants enter as what they stand for, whatever their scale.
            let moving = terms().filter(|(term, _)| term.constant[c].is_none()).map(|(term, _)| term.scale[c]);
            let all_constant = moving.clone().next().is_none();
            let scale = match known {
                true if all_constant => terms().map(|(term, _)| term.scale[c]).fold(1.0, f64::max),
                true => common_multiple(moving).ok_or_else(|| {
                    context
                        .fault(index, format!("channel {c}: expected terms whose scales are multiples of each other"))
                })?,
                false => 1.0,
            };
            let mut integers = if known { [own * scale; 2] } else { UNKNOWN };
            for (term, &negative) in terms().filter(|_| known) {
                let factor = scale / term.scale[c] * if negative { -1.0 } else { 1.0 };
                let [low, high] = term.integers[c].map(|x| x * factor);
                integers = [integers[0] + low.min(high) - 0.5, integers[1] + low.max(high) + 0.5];
            }
            let integer = || {
                let each = terms().map(|(term, &negative)| {
                    let value = term.constant[c].unwrap_or_default() * (scale / term.scale[c]);
                    if negative { -value } else { value }
                });
                (each.sum::<f64>() + own * scale).round()
            };
            out.scale.push(scale);
            out.noise.push(terms().map(|(term, _)| term.noise[c]).sum());
            // The constant's rounding; where the scale is not known yet, the activation counts it.
            let own = if known { 0.5 / scale.abs() } else { 0.0 };
            out.error.push(own + terms().map(|(term, _)| term.error[c]).sum::<f64>());
            out.constant.push((all_constant && known).then(integer));
            out.worst.push(worst);
            out.integers.push(integers);
        }
        Ok(out)
    }
}

fn with_zero(range: &mut [f64; 2]) {
    *range = [range[0].min(0.0), range[1].max(0.0)];
}
