//! From real numbers to the integers of the model file.
//!
//! Two passes over the layers. The first follows the values: what each tensor's errors and worst cases are, and at each
//! activation, what the bits and scales of its channels shall be ([`search`]). With the scales of all linear outputs known
//! ([`classes`]), the second writes the nodes down and rounds the weights.

mod activation;
mod classes;
pub(crate) mod form;
mod linear;
mod next;
mod search;
mod settle;
mod tensor;
mod tournament;
mod uses;

pub(crate) use settle::settle;

use crate::engine::Statistics;
use crate::error::{Error, Result};
use crate::network::{Linear, Network, Op};
use activation::{Decision, decide, write_activation};
use classes::{Class, Classes, Member, common_multiple};
use form::Form;
use linear::{Analysis, coverage};
use safenet_core::model::{
    Architecture, Calibration, Max, ModelFile, Node, NodeSecret, Op as FixedOp, Output, Parameters, Shape, Sum, limits,
};
use tensor::TensorState;
use uses::{Uses, uses};

/// What the fixed-point form needs to be told.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) input_fraction_bits: u8,
    /// Smallest and largest input.
    pub(crate) input_range: [f64; 2],
    pub(crate) margin: f64,
    pub(crate) relu_width: u8,
    pub(crate) output_width: u8,
    /// Whether the client learns the class alone.
    pub(crate) class_output: bool,
}

/// The model with what is known about how it was made.
pub(crate) struct Fixed {
    pub(crate) model: ModelFile,
    /// Per layer of the network; the architecture's first nodes are these, in order.
    pub(crate) notes: Vec<Note>,
    /// No score is farther from that of the network in real numbers, for inputs that keep all values within what they are on
    /// the samples.
    pub(crate) error_bound: f64,
}

/// What is known of a node beyond its integers.
#[derive(Default)]
pub(crate) struct Note {
    /// Per channel: the integer for a real value of 1. Negative for squares whose sign was folded.
    pub(crate) scale: Vec<f64>,
    /// Per channel: predicted variance of the error, in real numbers.
    pub(crate) noise: Vec<f64>,
    /// Of an activation, per channel: the form, and the scale of its linear output.
    pub(crate) forms: Vec<Form>,
    pub(crate) linear_scale: Vec<f64>,
}

/// The graph with what is looked up all the time.
struct Context<'a> {
    network: &'a Network,
    statistics: &'a [Vec<Statistics>],
    settings: &'a Settings,
    /// Per tensor: the layers that read it, and whether its scale is that of an activation's result or the input.
    reading: Vec<Vec<usize>>,
    known: Vec<bool>,
    uses: Vec<Uses>,
}

/// Computes the fixed-point form of a network that is [`settle`]d. `statistics` are those of its tensors.
pub(crate) fn fix(network: &Network, statistics: &[Vec<Statistics>], settings: &Settings) -> Result<Fixed> {
    let settings = &Settings { output_width: output_width(network, settings)?, ..*settings };
    let (reading, known) = (network.readers(), network.known());
    let mut classes = Classes::new(network, &known);
    let uses = uses(network, &known);
    let context = Context { network, statistics, settings, reading, known, uses };
    let mut tensors = vec![TensorState::input(network, settings)];
    let mut decisions: Vec<Option<Decision>> = Vec::with_capacity(network.layers.len());
    for (index, layer) in network.layers.iter().enumerate() {
        let mut decision = None;
        let state = match &layer.op {
            Op::Linear(linear) => TensorState::linear(&context.analysis(linear, index, &tensors)),
            Op::Activation(functions) => {
                let (decided, state) = decide(&context, index, functions, &tensors, &mut classes)?;
                decision = Some(decided);
                state
            }
            _ => TensorState::local(&context, index, &tensors)?,
        };
        tensors.push(state);
        decisions.push(decision);
    }
    write(&context, tensors, &decisions, &classes)
}

impl<'a> Context<'a> {
    fn analysis(&self, linear: &'a Linear, index: usize, tensors: &'a [TensorState]) -> Analysis<'a> {
        let input = self.network.layers[index].inputs[0];
        Analysis::new(linear, &tensors[input], &self.statistics[input])
    }

    fn fault(&self, index: usize, message: impl std::fmt::Display) -> Error {
        Error::Network(format!("{}: {message}", self.network.layers[index].name))
    }
}

/// Bits of the scores: as wished, or what leaves room for class indices.
fn output_width(network: &Network, settings: &Settings) -> Result<u8> {
    let classes = network.layers.last().map_or(0, |layer| layer.shape.channels);
    if !settings.class_output {
        return Ok(settings.output_width);
    }
    let most = tournament::most_width(classes);
    match most {
        Some(most) => Ok(settings.output_width.min(most)),
        None => Err(Error::Network(format!("expected scores of 2 to 65536 classes to compare, got {classes}"))),
    }
}

/// Smallest range to be taken seriously: channels that hardly move on the samples tell nothing of theirs, and get a thousandth of
/// the layer's largest.
fn least(channels: &[Statistics]) -> f64 {
    let largest = channels.iter().map(|s| s.low.abs().max(s.high.abs())).fold(0.0, f64::max);
    1e-3 * if largest > 1e-6 { largest } else { 1.0 }
}

/// Writes the nodes down, now that all scales are decided.
fn write(
    context: &Context<'_>,
    mut tensors: Vec<TensorState>,
    decisions: &[Option<Decision>],
    classes: &Classes,
) -> Result<Fixed> {
    let Context { network, settings, .. } = *context;
    let (mut nodes, mut secrets, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for (index, layer) in network.layers.iter().enumerate() {
        let mut note = Note::default();
        let (before, after) = tensors.split_at_mut(index + 1);
        let state = &mut after[0];
        let (op, secret) = match &layer.op {
            Op::Linear(linear) => {
                let analysis = context.analysis(linear, index, before);
                state.scale = linear_scales(context, index, &analysis, classes, before);
                (FixedOp::Convolution(linear.conv), round(context, index, &analysis, &state.scale, decisions)?)
            }
            Op::Activation(_) => {
                let decision =
                    decisions[index].as_ref().ok_or_else(|| context.fault(index, "expected numbers for it"))?;
                note.forms.clone_from(&decision.forms);
                note.linear_scale = decision.choices.iter().map(|c| c.linear).collect();
                write_activation(decision, &layer.name)?
            }
            Op::Sum { negative, constant } => {
                if !context.known[index + 1] {
                    state.scale = class_scales(index + 1, layer.shape, classes, before);
                }
                let shift = |c: usize| shift_of(context, index, c, decisions);
                let constant: Vec<f64> = constant.iter().enumerate().map(|(c, k)| k + shift(c)).collect();
                let (multipliers, constants) = sum(context, index, negative, &constant, before, state)?;
                (FixedOp::Sum(Sum { multipliers }), NodeSecret::Sum(constants))
            }
            other => {
                if !context.known[index + 1] {
                    state.scale = TensorState::local_scales(context, index, before);
                }
                let op = match other {
                    Op::Average(pool) => FixedOp::SumPool(*pool),
                    Op::Window(window) => FixedOp::Window(*window),
                    Op::Channels(channels) => FixedOp::Channels(*channels),
                    Op::Concat => FixedOp::Concat,
                    Op::Flatten => FixedOp::Flatten,
                    Op::Max => FixedOp::Max(Max { width: max_width(context, index, before)? }),
                    _ => return Err(context.fault(index, "expected it to be expressed by simpler layers")),
                };
                (op, NodeSecret::None)
            }
        };
        note.scale.clone_from(&state.scale);
        note.noise.clone_from(&state.noise);
        nodes.push(Node { name: layer.name.clone(), inputs: layer.inputs.iter().map(|&t| t as u32).collect(), op });
        secrets.push(secret);
        notes.push(note);
    }
    let input_scale = f64::from(1u32 << settings.input_fraction_bits);
    let mut model = ModelFile {
        architecture: Architecture {
            name: network.name.clone(),
            input: network.input,
            input_fraction_bits: settings.input_fraction_bits,
            input_range: settings.input_range.map(|x| (x * input_scale).round() as i32),
            nodes,
            output: Output::Scores,
        },
        parameters: Some(Parameters { nodes: secrets, calibration: Calibration::default(), scales: vec![] }),
    };
    if settings.class_output {
        tournament::append(&mut model)?;
    }
    if let Some(parameters) = &model.parameters {
        parameters.check(&model.architecture)?;
    }
    let error_bound = tensors.last().map_or(0.0, |scores| scores.error.iter().copied().fold(0.0, f64::max));
    Ok(Fixed { model, notes, error_bound })
}

/// The scale of a class: decided by an activation; where all that reads it is constant, one that what is added allows.
fn class_scale(class: &Class, tensors: &[TensorState]) -> Option<f64> {
    let addends = class.addends.iter().filter(|a| tensors[a.tensor].constant[a.channel].is_none());
    class.scale.or_else(|| common_multiple(addends.map(|a| tensors[a.tensor].scale[a.channel] * a.ratio)))
}

/// The scales of a tensor's channels as their classes have them; 1 where nothing asks for one.
fn class_scales(tensor: usize, shape: Shape, classes: &Classes, tensors: &[TensorState]) -> Vec<f64> {
    let scale = |c| match classes.member(tensor, c) {
        Member::Free { class, ratio } => class_scale(classes.class(class), tensors).map_or(1.0, |scale| scale * ratio),
        Member::Given { .. } => 1.0,
    };
    (0..shape.channels as usize).map(scale).collect()
}

/// The scales of a linear layer's outputs: those of their classes, but for outputs whose weights would not fit 9 bits. These
/// are halved until they do; the sum that follows multiplies them back.
fn linear_scales(
    context: &Context<'_>,
    index: usize,
    analysis: &Analysis<'_>,
    classes: &Classes,
    tensors: &[TensorState],
) -> Vec<f64> {
    let limit = f64::from(safenet_core::model::WEIGHT_LIMIT);
    let outputs = 0..analysis.linear.bias.len();
    outputs
        .map(|o| {
            let by_weight = limit / analysis.largest_weight(o).max(1e-30);
            let Member::Free { class, ratio } = classes.member(index + 1, o) else { return by_weight };
            match (class_scale(classes.class(class), tensors), classes.class(class).addends.is_empty()) {
                // Read by no activation, or by constant ones alone: any scale will do that fits.
                (None, _) => by_weight.min(1.0),
                (Some(scale), true) => scale * ratio,
                (Some(scale), false) if context.uses[index + 1].summed => {
                    let halvings = (scale * ratio / by_weight).log2().ceil().clamp(0.0, 30.0);
                    scale * ratio / halvings.exp2()
                }
                (Some(scale), false) => scale * ratio,
            }
        })
        .collect()
}

/// Weights and biases as integers.
fn round(
    context: &Context<'_>,
    index: usize,
    analysis: &Analysis<'_>,
    scales: &[f64],
    decisions: &[Option<Decision>],
) -> Result<NodeSecret> {
    let layer = &context.network.layers[index];
    let linear = analysis.linear;
    let coverage = coverage(&linear.conv, context.network.shape(layer.inputs[0]), layer.shape);
    // The activation whose factors and shifts fold in here.
    let folding = decisions.iter().flatten().find(|d| d.folds_into == Some(index));
    let mut weights = Vec::with_capacity(linear.weights.len());
    let mut bias = Vec::with_capacity(scales.len());
    for (o, &scale) in scales.iter().enumerate() {
        let fold = folding.map_or((1.0, 0.0), |d| (d.forms[o].factor, d.forms[o].shift));
        bias.push(analysis.round(&layer.name, o, fold, scale, &coverage, &mut weights)?);
    }
    Ok(NodeSecret::Convolution { weights, bias })
}

/// What the form of an activation that alone reads the sum adds to its input, where that does not fold into weights.
fn shift_of(context: &Context<'_>, sum: usize, channel: usize, decisions: &[Option<Decision>]) -> f64 {
    let reader = match context.reading[sum + 1][..] {
        [reader] => decisions[reader].as_ref(),
        _ => None,
    };
    reader.filter(|d| d.folds_into.is_none()).map_or(0.0, |d| d.forms[channel].shift)
}

/// Multipliers and constants of a sum whose scale is decided.
fn sum(
    context: &Context<'_>,
    index: usize,
    negative: &[bool],
    constant: &[f64],
    before: &[TensorState],
    state: &TensorState,
) -> Result<(Vec<Vec<i32>>, Vec<i32>)> {
    let layer = &context.network.layers[index];
    let mut totals: Vec<f64> = constant.iter().zip(&state.scale).map(|(k, scale)| k * scale).collect();
    let mut multipliers = Vec::with_capacity(layer.inputs.len());
    for (&input, &negative) in layer.inputs.iter().zip(negative) {
        let sign = if negative { -1.0 } else { 1.0 };
        let term = &before[input];
        let mut own = Vec::with_capacity(state.scale.len());
        for (c, total) in totals.iter_mut().enumerate() {
            // A constant enters as what it stands for, whatever its scale.
            if let Some(integer) = term.constant[c] {
                *total += sign * integer / term.scale[c] * state.scale[c];
                own.push(0);
                continue;
            }
            let quotient = state.scale[c] / term.scale[c];
            if !(0.5..f64::from(1u32 << 30)).contains(&quotient)
                || (quotient - quotient.round()).abs() > 1e-6 * quotient
            {
                return Err(context.fault(
                    index,
                    format!(
                        "channel {c}: expected terms whose scales are multiples of each other, got {:e} and {:e}",
                        term.scale[c], state.scale[c]
                    ),
                ));
            }
            own.push(sign as i32 * quotient.round() as i32);
        }
        multipliers.push(own);
    }
    let mut constants = Vec::with_capacity(totals.len());
    for (c, total) in totals.iter().enumerate() {
        if total.is_nan() || total.abs() > f64::from(1u32 << 30) {
            return Err(context.fault(index, format!("channel {c}: expected a constant within 30 bits, got {total:e}")));
        }
        constants.push(total.round() as i32);
    }
    Ok((multipliers, constants))
}

/// The bits that all differences of two tensors fit.
fn max_width(context: &Context<'_>, index: usize, before: &[TensorState]) -> Result<u8> {
    let inputs = &context.network.layers[index].inputs;
    let (a, b) = (&before[inputs[0]], &before[inputs[1]]);
    let mut largest = 0.0f64;
    for (c, (x, y)) in a.integers.iter().zip(&b.integers).enumerate() {
        if (a.scale[c] - b.scale[c]).abs() > 1e-9 * a.scale[c].abs() || a.scale[c] < 0.0 {
            return Err(context.fault(index, format!("channel {c}: expected two tensors of one scale to compare")));
        }
        largest = largest.max(x[1] - y[0]).max(y[1] - x[0]);
    }
    let width = (2..=limits::RELU_WIDTH).find(|&w| largest < f64::from(1u32 << (w - 1)));
    width.ok_or_else(|| {
        context.fault(
            index,
            format!("expected values whose differences fit {} bits to compare, got {largest:e}", limits::RELU_WIDTH),
        )
    })
}
