//! Activations: the decision on their bits and scales, and how they are written down.

use super::classes::{Classes, Member, common_multiple};
use super::form::{Form, Range, Shape as FormShape, form};
use super::linear::Analysis;
use super::next::next_layers;
use super::search::{Candidate, Choice, Next, Scale, Widths, choose, choose_output, kind};
use super::settle::folds_into;
use super::tensor::TensorState;
use super::uses::Uses;
use super::{Context, least};
use crate::error::{Error, Result};
use crate::network::{Function, Op, Tensor};
use safenet_core::model::{Activation, Channel, ChannelSecret, Kind, NodeSecret, Op as FixedOp};
use std::collections::BTreeMap;

/// Widths of truncated values that are compared by maxima: one bit less than a ReLU takes in three round trips, for their
/// differences.
const COMPARED_WIDTH: u8 = 15;
/// Largest width of a linear channel: more bits would be noise.
const LINEAR_WIDTH: u8 = 18;

/// What was decided for an activation.
pub(super) struct Decision {
    pub(super) choices: Vec<Choice>,
    pub(super) forms: Vec<Form>,
    pub(super) fraction_bits: u8,
    /// The linear layer that takes up factors and shifts of the forms.
    pub(super) folds_into: Option<usize>,
    positive: bool,
}

/// Decides on the bits and scales of an activation's channels.
pub(super) fn decide(
    context: &Context<'_>,
    index: usize,
    functions: &[Function],
    tensors: &[TensorState],
    classes: &mut Classes,
) -> Result<(Decision, TensorState)> {
    let settings = context.settings;
    let input = context.network.layers[index].inputs[0];
    let seen = &context.statistics[input];
    let least = least(seen);
    let last = index + 1 == context.network.layers.len();
    let folds_into = folds_into(context.network, &context.reading, index);
    let Uses { linear, aligned, compared, .. } = context.uses[index + 1];
    let positive = !last && !linear;
    let (next, prices) = next_layers(context.network, &context.reading, context.statistics, settings, index);
    let mut candidates = Vec::with_capacity(functions.len());
    for (c, function) in functions.iter().enumerate() {
        let form = form(
            function,
            &Range::new(&seen[c], tensors[input].worst[c], settings.margin, least),
            folds_into.is_some(),
        );
        if ![form.bound, form.result, form.slope, form.shift].iter().all(|v| v.is_finite()) {
            return Err(context.fault(
                index,
                format!("channel {c}: expected coefficients of which a normal form can be computed, got {function:?}"),
            ));
        }
        let price = prices.get(c).copied().unwrap_or(1.0);
        let mut candidate = Candidate {
            carried: tensors[input].noise[c] * form.factor * form.factor,
            form,
            scale: Scale::Free,
            limit: f64::INFINITY,
            positive,
            weight: 1e-30,
            bias: 1e-30,
            noise: 0.0,
            roundings: Vec::new(),
            price,
        };
        constrain(context, (index, c), &mut candidate, aligned, tensors, classes)?;
        candidates.push(candidate);
    }
    let (fraction_bits, choices) = if last {
        choose_output(&candidates, settings.output_width)
    } else {
        let widths = Widths {
            relu: if compared { settings.relu_width.min(COMPARED_WIDTH + 1) } else { settings.relu_width },
            linear: if compared { COMPARED_WIDTH } else { LINEAR_WIDTH },
        };
        let mut choices = search(context, index, &candidates, &next, widths)?;
        if join(&mut candidates, &choices, input, classes) {
            choices = search(context, index, &candidates, &next, widths)?;
        }
        // Nominal: what the median channel has. The exact scales are in the next layer's weights.
        let mut bits: Vec<f64> = choices.iter().map(|c| c.result.abs().log2()).collect();
        bits.sort_by(f64::total_cmp);
        (bits.get(bits.len() / 2).map_or(0.0, |b| b.round().clamp(0.0, 24.0)) as u8, choices)
    };
    for (c, choice) in choices.iter().enumerate().filter(|(c, _)| !is_constant(&candidates[*c].form)) {
        if let Member::Free { class, ratio } = classes.member(input, c) {
            classes.decide(class, choice.linear / ratio);
        }
    }
    let carried = candidates.iter().zip(&tensors[input].error).map(|(c, error)| error * c.form.factor.abs());
    let errors = candidates.iter().zip(&choices).zip(carried).map(|((c, choice), carried)| c.error(choice, carried));
    let errors = errors.collect();
    let forms: Vec<Form> = candidates.into_iter().map(|c| c.form).collect();
    let state = TensorState { error: errors, ..results(&choices, &forms, &tensors[input]) };
    Ok((Decision { choices, forms, fraction_bits, folds_into, positive }, state))
}

/// The search, with a text for what fits no bits.
fn search(
    context: &Context<'_>,
    index: usize,
    candidates: &[Candidate],
    next: &Next,
    widths: Widths,
) -> Result<Vec<Choice>> {
    choose(candidates, next, widths).map_err(|c| {
        let Candidate { form, scale, .. } = &candidates[c];
        context.fault(
            index,
            format!(
                "channel {c}: expected a range and coefficients that fit the protocol's numbers, got {:?} with values up to {:e}, \
                 results up to {:e} and a scale {scale:?}",
                form.shape, form.bound, form.result
            ),
        )
    })
}

/// Fixes the scales of channels that share a class, as the elements of a flattened channel do, to the least that was chosen
/// for one of them; whether there are such channels. What was chosen for the others has room for less.
fn join(candidates: &mut [Candidate], choices: &[Choice], input: Tensor, classes: &Classes) -> bool {
    let mut least: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
    let members: Vec<Option<(usize, f64)>> = (0..candidates.len())
        .map(|c| match classes.member(input, c) {
            Member::Free { class, ratio } if !is_constant(&candidates[c].form) => Some((class, ratio)),
            _ => None,
        })
        .collect();
    for (&(class, ratio), choice) in members.iter().zip(choices).filter_map(|(m, choice)| Some((m.as_ref()?, choice))) {
        let entry = least.entry(class).or_insert((f64::INFINITY, 0));
        *entry = (entry.0.min(choice.linear / ratio), entry.1 + 1);
    }
    let mut shared = false;
    for (candidate, member) in candidates.iter_mut().zip(&members) {
        if let Some((class, ratio)) = member
            && let Some(&(scale, 2..)) = least.get(class)
        {
            candidate.scale = Scale::Fixed(scale * ratio);
            shared = true;
        }
    }
    shared
}

fn is_constant(form: &Form) -> bool {
    matches!(form.shape, FormShape::Zero { .. })
}

/// What the layers before an activation's channel leave of its scale's freedom, and what their roundings add.
fn constrain(
    context: &Context<'_>,
    (index, c): (usize, usize),
    candidate: &mut Candidate,
    aligned: bool,
    tensors: &[TensorState],
    classes: &Classes,
) -> Result<()> {
    let input = context.network.layers[index].inputs[0];
    let (class, ratio) = match classes.member(input, c) {
        Member::Given { tensor, channel, ratio } => {
            candidate.scale = Scale::Fixed(tensors[tensor].scale[channel] * ratio);
            return Ok(());
        }
        Member::Free { class, ratio } => (classes.class(class), ratio),
    };
    let form = &candidate.form;
    for source in &class.sources {
        let Op::Linear(linear) = &context.network.layers[source.layer].op else { continue };
        let analysis: Analysis<'_> = context.analysis(linear, source.layer, tensors);
        let part = source.ratio / ratio;
        let weight = analysis.largest_weight(source.output) * form.factor.abs();
        let bias = (linear.bias[source.output] * form.factor + form.shift).abs();
        candidate.weight = candidate.weight.max(weight * part);
        candidate.bias = candidate.bias.max(bias * part);
        candidate.noise += analysis.rounding(source.output) / (part * part);
        candidate.roundings.push((analysis.rounding_error(source.output) / part, 255.0 / (weight * part).max(1e-30)));
    }
    let addends = class.addends.iter().filter(|a| tensors[a.tensor].constant[a.channel].is_none());
    let scales: Vec<f64> = addends.map(|a| tensors[a.tensor].scale[a.channel] * a.ratio * ratio).collect();
    candidate.scale = if let Some(scale) = class.scale {
        Scale::Fixed(scale * ratio)
    } else if scales.is_empty() {
        if aligned { Scale::Steps { quantum: 1.0, least: 0.0 } } else { Scale::Free }
    } else {
        let base = common_multiple(scales.into_iter()).ok_or_else(|| {
            context.fault(index, format!("channel {c}: expected terms whose scales are multiples of each other"))
        })?;
        if class.sources.is_empty() { Scale::Fixed(base) } else { Scale::Steps { quantum: base, least: base } }
    };
    // What else reads the same outputs, with its own margin.
    for &(layer, channel, other) in class.readers.iter().filter(|(layer, channel, _)| (*layer, *channel) != (index, c))
    {
        let seen = &context.statistics[context.network.layers[layer].inputs[0]];
        let reach = context.settings.margin * seen[channel].low.abs().max(seen[channel].high.abs()).max(least(seen));
        candidate.limit = candidate.limit.min(f64::from(1u32 << 28) / reach * (ratio / other));
    }
    Ok(())
}

/// The state of an activation's results, but for their errors.
fn results(choices: &[Choice], forms: &[Form], input: &TensorState) -> TensorState {
    let mut out = TensorState::default();
    for (c, (choice, form)) in choices.iter().zip(forms).enumerate() {
        let offset = (constant(form) * choice.result).round();
        // Beyond what was calibrated, values are possible up to the bound in bits.
        let reach = f64::from((1u32 << choice.bits.bound) >> 1) / choice.linear.max(1e-300);
        let worst = possible(form, reach, input.worst[c]);
        let width = choice.bits.bound - choice.bits.shift;
        let top = f64::from((1u32 << width) >> 1) - 1.0;
        let integers = match form.shape {
            FormShape::Relu => [0.0, top],
            FormShape::Linear { .. } => [offset - top, offset + top],
            FormShape::Zero { .. } => [offset; 2],
            _ => {
                let ends = worst.map(|x| x * choice.result);
                [ends[0].min(ends[1]) - 2.0, ends[0].max(ends[1]) + 2.0]
            }
        };
        out.scale.push(choice.result);
        out.noise.push(form.slope * input.noise[c] * form.factor * form.factor + choice.noise);
        out.constant.push(is_constant(form).then_some(offset));
        out.worst.push(worst);
        out.integers.push(integers);
    }
    out
}

/// What is added to a channel's result, in real numbers.
fn constant(form: &Form) -> f64 {
    match form.shape {
        FormShape::Relu => 0.0,
        FormShape::Linear { constant, .. }
        | FormShape::Square { constant, .. }
        | FormShape::Cubic { constant, .. }
        | FormShape::Zero { constant } => constant,
    }
}

/// Writes down an activation layer.
pub(super) fn write_activation(decision: &Decision, name: &str) -> Result<(FixedOp, NodeSecret)> {
    let (mut channels, mut secrets) = (Vec::new(), Vec::new());
    for (c, (choice, form)) in decision.choices.iter().zip(&decision.forms).enumerate() {
        let kind = kind(&form.shape, decision.positive);
        let linear = match form.shape {
            FormShape::Cubic { linear, .. } => linear * (choice.linear / f64::from(1u32 << choice.bits.shift)).powi(2),
            _ => 0.0,
        };
        let offset = (constant(form) * choice.result).round();
        for (what, value, bits) in [("constant", offset, 30), ("linear coefficient", linear, 34)] {
            if value.is_nan() || value.abs() >= (1u64 << bits) as f64 {
                return Err(Error::Network(format!(
                    "{name}, channel {c}: expected a {what} within {bits} bits, got {value:e}"
                )));
            }
        }
        let negative = match (kind, form.shape) {
            (Kind::Square { secret_sign: true }, FormShape::Square { leading, .. }) => leading < 0.0,
            _ => false,
        };
        secrets.push(ChannelSecret { offset: offset as i32, lambda: linear.round() as i64, negative });
        let bits = choice.bits;
        channels.push(Channel { kind, bound_bits: bits.bound, shift: bits.shift, back_shift: bits.back });
    }
    let activation = Activation { fraction_bits: decision.fraction_bits, channels };
    Ok((FixedOp::Activation(activation), NodeSecret::Activation(secrets)))
}

/// What results are possible if the channel's bound holds.
fn possible(form: &Form, bound: f64, worst: [f64; 2]) -> [f64; 2] {
    let ends = |low: f64, high: f64| {
        let [low, high] = [low.max(-bound), high.min(bound)];
        if low <= high { [low, high] } else { [0.0, 0.0] }
    };
    let inner = |low: f64, high: f64| {
        let x = [form.factor * low + form.shift, form.factor * high + form.shift];
        ends(x[0].min(x[1]), x[0].max(x[1]))
    };
    match form.shape {
        FormShape::Relu => inner(worst[0], worst[1]).map(|x| x.max(0.0)),
        FormShape::Linear { leading, constant } => {
            let ends = inner(worst[0], worst[1]).map(|x| leading * x + constant);
            [ends[0].min(ends[1]), ends[0].max(ends[1])]
        }
        FormShape::Square { leading, constant } => {
            let [low, high] = inner(worst[0], worst[1]);
            Function::Polynomial { degree: 2, c: [constant, 0.0, leading, 0.0] }.range(low, high)
        }
        FormShape::Cubic { leading, linear, constant } => {
            let [low, high] = inner(worst[0], worst[1]);
            Function::Polynomial { degree: 3, c: [constant, leading * linear, 0.0, leading] }.range(low, high)
        }
        FormShape::Zero { constant } => [constant, constant],
    }
}
