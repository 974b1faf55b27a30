//! From real numbers to the integers of the model file.

pub(crate) mod form;
mod search;

use crate::error::{Error, Result};
use crate::evaluate::Statistics;
use crate::network::{Function, Layer, Linear, Network, Op};
use form::{Form, Range, Shape as FormShape, form};
use safenet_core::model::{
    Activation, Architecture, Calibration, Channel, ChannelSecret, Convolution, ModelFile, Node, NodeSecret,
    Op as FixedOp, Parameters, Pool, Shape, WEIGHT_LIMIT,
};
use search::{Candidate, Choice, Next, choose, choose_output, kind};

/// What the fixed-point form needs to be told.
pub(crate) struct Settings {
    pub(crate) input_fraction_bits: u8,
    /// Smallest and largest input.
    pub(crate) input_range: [f64; 2],
    pub(crate) margin: f64,
    pub(crate) relu_width: u8,
    pub(crate) output_width: u8,
}

/// The model with what is known about how it was made.
pub(crate) struct Fixed {
    pub(crate) model: ModelFile,
    /// Per layer of the network (and node of the architecture).
    pub(crate) notes: Vec<Note>,
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

/// The state of the tensor between two layers, per channel.
#[derive(Clone)]
struct Tensor {
    shape: Shape,
    scale: Vec<f64>,
    noise: Vec<f64>,
    /// The integer of a constant channel; its scale times its value is that only up to rounding.
    constant: Vec<Option<f64>>,
    /// What values are possible if the bounds so far hold.
    worst: Vec<[f64; 2]>,
}

/// Linear outputs on their way to their activation.
struct Pending {
    choices: Vec<Choice>,
    forms: Vec<Form>,
    fraction_bits: u8,
}

/// Where a layer's activation is, and the linear layer after that.
struct Ahead {
    activation: usize,
    next: Option<usize>,
    /// Elements that are averaged between the linear layer and its activation.
    window: f64,
}

fn ahead(network: &Network, index: usize) -> Result<Ahead> {
    let mut window = 1.0;
    let mut activation = index + 1;
    while let Some(Layer { op: Op::Average(pool), .. }) = network.layers.get(activation) {
        window *= area(pool);
        activation += 1;
    }
    match network.layers.get(activation) {
        Some(Layer { op: Op::Activation(_), .. }) => {}
        _ => return Err(Error::Network(format!("{}: expected an activation after it", network.layers[index].name))),
    }
    let next = (activation + 1..network.layers.len()).find(|&i| matches!(network.layers[i].op, Op::Linear(_)));
    Ok(Ahead { activation, next, window })
}

fn area(pool: &Pool) -> f64 {
    f64::from(pool.kernel[0]) * f64::from(pool.kernel[1])
}

/// Computes the fixed-point form. `statistics` are those of [`measure`](crate::evaluate::measure).
pub(crate) fn fix(network: &Network, statistics: &[Vec<Statistics>], settings: &Settings) -> Result<Fixed> {
    let input_scale = f64::from(1u32 << settings.input_fraction_bits);
    let channels = network.input.channels as usize;
    let mut x = Tensor {
        shape: network.input,
        scale: vec![input_scale; channels],
        noise: vec![1.0 / (12.0 * input_scale * input_scale); channels],
        constant: vec![None; channels],
        worst: vec![settings.input_range; channels],
    };
    let (mut nodes, mut secrets, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut pending: Option<Pending> = None;
    for (index, layer) in network.layers.iter().enumerate() {
        let (op, secret, mut note) = match &layer.op {
            Op::Linear(linear) => {
                let ahead = ahead(network, index)?;
                let (decided, secret, y) = linear_layer(network, statistics, settings, index, linear, &ahead, &x)?;
                pending = Some(decided);
                x = y;
                (FixedOp::Convolution(linear.conv), secret, Note::default())
            }
            Op::Average(pool) => {
                let window = area(pool);
                x.scale.iter_mut().for_each(|s| *s *= window);
                // The noise stays as it is: what rounded weights cause is alike in neighbouring elements.
                x.constant.iter_mut().flatten().for_each(|c| *c *= window);
                (FixedOp::SumPool(*pool), NodeSecret::None, Note::default())
            }
            Op::Flatten => {
                let plane = x.shape.plane();
                x.scale = spread(&x.scale, plane);
                x.noise = spread(&x.noise, plane);
                x.constant = spread(&x.constant, plane);
                x.worst = spread(&x.worst, plane);
                (FixedOp::Flatten, NodeSecret::None, Note::default())
            }
            Op::Activation(functions) => {
                let decided = pending.take().ok_or_else(|| {
                    Error::Network(format!("{}: expected a linear layer before the activation", layer.name))
                })?;
                let (op, secret, note) = activation_layer(layer, functions, &decided, &mut x)?;
                (FixedOp::Activation(op), secret, note)
            }
            Op::Affine { .. } => {
                return Err(Error::Network(format!("{}: expected it to be folded", layer.name)));
            }
        };
        x.shape = layer.shape;
        note.scale.clone_from(&x.scale);
        note.noise.clone_from(&x.noise);
        nodes.push(Node { name: layer.name.clone(), input: index as u32, op });
        secrets.push(secret);
        notes.push(note);
    }
    let architecture = Architecture {
        name: network.name.clone(),
        input: network.input,
        input_fraction_bits: settings.input_fraction_bits,
        input_range: settings.input_range.map(|x| (x * input_scale).round() as i32),
        nodes,
    };
    let parameters = Parameters { nodes: secrets, calibration: Calibration::default() };
    parameters.check(&architecture)?;
    Ok(Fixed { model: ModelFile { architecture, parameters: Some(parameters) }, notes })
}

fn spread<T: Copy>(channels: &[T], plane: usize) -> Vec<T> {
    channels.iter().flat_map(|&c| std::iter::repeat_n(c, plane)).collect()
}

/// Smallest and largest value of a linear output over the intervals of its inputs.
fn worst_case(linear: &Linear, output: usize, inputs: &[[f64; 2]]) -> [f64; 2] {
    let padded = linear.conv.padding != [0; 4];
    let mut range = [linear.bias[output]; 2];
    for (weights, &[low, high]) in linear.row(output).chunks_exact(linear.taps()).zip(inputs) {
        // Where the kernel reaches into the padding, the input is 0.
        let (low, high) = if padded { (low.min(0.0), high.max(0.0)) } else { (low, high) };
        for &w in weights {
            range[0] += (w * low).min(w * high);
            range[1] += (w * low).max(w * high);
        }
    }
    range
}

/// Smallest range to be taken seriously: channels that hardly move on the samples tell nothing of theirs, and get a thousandth of
/// the layer's largest.
fn least(channels: &[Statistics]) -> f64 {
    let largest = channels.iter().map(|s| s.low.abs().max(s.high.abs())).fold(0.0, f64::max);
    1e-3 * if largest > 1e-6 { largest } else { 1.0 }
}

/// Variance of each linear output that comes from errors of the inputs, as if these were independent.
fn carried_noise(linear: &Linear, x: &Tensor) -> Vec<f64> {
    let row = |o| linear.row(o).chunks_exact(linear.taps()).zip(&x.noise);
    let sum = |o| row(o).map(|(w, n)| w.iter().map(|w| w * w).sum::<f64>() * n).sum();
    (0..linear.bias.len()).map(sum).collect()
}

/// What the error of a weight is multiplied by, in the mean square: the bias takes up the mean, but not at the borders, where
/// padding leaves out a part of it.
fn moment(linear: &Linear, input: &Statistics) -> f64 {
    if linear.conv.padding == [0; 4] { input.variance() } else { input.mean_square() }
}

/// Decides on the scales of a linear layer and its activation, and rounds its weights.
fn linear_layer(
    network: &Network,
    statistics: &[Vec<Statistics>],
    settings: &Settings,
    index: usize,
    linear: &Linear,
    ahead: &Ahead,
    x: &Tensor,
) -> Result<(Pending, NodeSecret, Tensor)> {
    let name = &network.layers[index].name;
    let Op::Activation(functions) = &network.layers[ahead.activation].op else {
        return Err(Error::Network(format!("{name}: expected an activation after it")));
    };
    let input = &statistics[index];
    let taps = linear.taps();
    let energy: f64 = input.iter().zip(&x.scale).map(|(i, s)| moment(linear, i) * s * s).sum();
    // Of the weights, and of the bias.
    let rounding = (energy * taps as f64 + 1.0) / 12.0;
    let next = next_layer(network, statistics, settings, ahead)?;
    let outputs = linear.bias.len();
    let least = least(&statistics[ahead.activation]);
    let carried = carried_noise(linear, x);
    let (mut candidates, mut worst) = (Vec::with_capacity(outputs), Vec::with_capacity(outputs));
    for (o, function) in functions.iter().enumerate() {
        let possible = worst_case(linear, o, &x.worst);
        worst.push(possible);
        let seen = &statistics[ahead.activation][o];
        let form = form(function, &Range::new(seen, possible, settings.margin, least));
        let finite = [form.bound, form.result, form.slope, form.shift].iter().all(|v| v.is_finite());
        if !finite {
            return Err(Error::Network(format!(
                "{}, channel {o}: expected coefficients of which a normal form can be computed, got {function:?}",
                network.layers[ahead.activation].name
            )));
        }
        let weights = linear.row(o).chunks_exact(taps).zip(&x.scale);
        let largest = weights.flat_map(|(w, s)| w.iter().map(move |w| (w * form.factor / s).abs())).fold(0.0, f64::max);
        let bias = linear.bias[o] * form.factor + form.shift;
        let price = next.as_ref().map_or(1.0, |(_, prices)| prices[o]);
        candidates.push(Candidate {
            form,
            weight: (largest / ahead.window).max(1e-30),
            bias: (bias.abs() / ahead.window).max(1e-30),
            noise: rounding * ahead.window * ahead.window,
            carried: carried[o] * form.factor * form.factor,
            price,
        });
    }
    let (fraction_bits, choices) = match &next {
        Some((next, _)) => {
            let choices = choose(&candidates, next, settings.relu_width).map_err(|c| {
                let form = &candidates[c].form;
                Error::Network(format!(
                    "{}, channel {c}: expected a range and coefficients that fit the protocol's numbers, got {:?} with values \
                     up to {:e} and results up to {:e}",
                    network.layers[ahead.activation].name, form.shape, form.bound, form.result
                ))
            })?;
            // Nominal: what the median channel has. The exact scales are in the next layer's weights.
            let mut bits: Vec<f64> = choices.iter().map(|c| c.result.abs().log2()).collect();
            bits.sort_by(f64::total_cmp);
            (bits.get(bits.len() / 2).map_or(0.0, |b| b.round().clamp(0.0, 24.0)) as u8, choices)
        }
        None => choose_output(&candidates, settings.output_width),
    };
    let (weights, bias) = round_weights(&network.layers[index], linear, ahead, x, input, &candidates, &choices)?;
    let noise = candidates.iter().map(|c| c.carried).collect();
    let scale = choices.iter().map(|c| c.linear / ahead.window).collect();
    let shape = network.layers[index].shape;
    let forms = candidates.into_iter().map(|c| c.form).collect();
    let pending = Pending { choices, forms, fraction_bits };
    Ok((
        pending,
        NodeSecret::Convolution { weights, bias },
        Tensor { shape, scale, noise, constant: vec![None; outputs], worst },
    ))
}

/// For each tap of a kernel, the part of the output places at which it reads the input and not its padding.
fn coverage(conv: &Convolution, input: Shape, output: Shape) -> Vec<f64> {
    let axis = |i: usize, size: u32, places: u32| {
        let inside = move |tap: u32, place: u32| {
            let at = i64::from(place) * i64::from(conv.stride[i]) + i64::from(tap) - i64::from(conv.padding[i]);
            (0..i64::from(size)).contains(&at)
        };
        let part = move |tap| (0..places).filter(|&p| inside(tap, p)).count() as f64 / f64::from(places);
        (0..conv.kernel[i]).map(part).collect::<Vec<f64>>()
    };
    let (rows, columns) = (axis(0, input.height, output.height), axis(1, input.width, output.width));
    rows.iter().flat_map(|r| columns.iter().map(move |c| r * c)).collect()
}

/// Rounds weights and biases to integers; the bias takes up the mean of what the weights' rounding changes.
fn round_weights(
    layer: &Layer,
    linear: &Linear,
    ahead: &Ahead,
    x: &Tensor,
    input: &[Statistics],
    candidates: &[Candidate],
    choices: &[Choice],
) -> Result<(Vec<i16>, Vec<i32>)> {
    let taps = linear.taps();
    let coverage = coverage(&linear.conv, x.shape, layer.shape);
    let name = &layer.name;
    let mut weights = Vec::with_capacity(linear.weights.len());
    let mut biases = Vec::with_capacity(linear.bias.len());
    for (o, (candidate, choice)) in candidates.iter().zip(choices).enumerate() {
        let form = &candidate.form;
        let scale = choice.linear / ahead.window;
        let mut bias = (linear.bias[o] * form.factor + form.shift) * scale;
        for (((row, s), seen), constant) in linear.row(o).chunks_exact(taps).zip(&x.scale).zip(input).zip(&x.constant) {
            let mean = constant.unwrap_or(seen.mean() * s);
            for (w, inside) in row.iter().zip(&coverage) {
                let exact = w * form.factor * scale / s;
                let rounded = exact.round();
                if rounded.is_nan() || rounded.abs() > f64::from(WEIGHT_LIMIT) {
                    return Err(Error::Network(format!(
                        "{name}, output {o}: expected weights of at most {WEIGHT_LIMIT} in the least scale that the scores \
                         need, got {exact:e}; scale the network's scores down"
                    )));
                }
                weights.push(rounded as i16);
                bias += inside * (exact * seen.mean() * s - rounded * mean);
            }
        }
        let bias = bias.round();
        if bias.is_nan() || bias.abs() > f64::from(i32::MAX) {
            return Err(Error::Network(format!("{name}, output {o}: expected a bias within 32 bits, got {bias:e}")));
        }
        biases.push(bias as i32);
    }
    Ok((weights, biases))
}

/// What the search needs of the linear layer after the activation, and what an error of each channel costs there.
fn next_layer(
    network: &Network,
    statistics: &[Vec<Statistics>],
    settings: &Settings,
    ahead: &Ahead,
) -> Result<Option<(Next, Vec<f64>)>> {
    let Some(index) = ahead.next else { return Ok(None) };
    let Op::Linear(linear) = &network.layers[index].op else { return Ok(None) };
    let between = &network.layers[ahead.activation + 1..index];
    let window: f64 = between.iter().map(|l| if let Op::Average(pool) = &l.op { area(pool) } else { 1.0 }).product();
    let channels = network.layers[ahead.activation].shape.channels as usize;
    let inputs = statistics[index].len();
    // Elements of one channel that flattening made inputs of their own.
    let plane = inputs / channels;
    let after = self::ahead(network, index)?;
    let outputs = &statistics[after.activation];
    let least = least(outputs);
    let output_variance = |o: usize| statistics[index + 1][o].variance();
    let count = linear.bias.len();
    let mean = (0..count).map(output_variance).sum::<f64>() / count as f64;
    let variance: Vec<f64> = (0..count).map(|o| output_variance(o).max(1e-4 * mean).max(1e-30)).collect();
    let Op::Activation(functions) = &network.layers[after.activation].op else { return Ok(None) };
    let used = |o: usize| !matches!(functions[o], Function::Polynomial { degree: 0, .. });
    let taps = linear.taps();
    let mut next = Next {
        weight: Vec::new(),
        energy: vec![0.0; channels],
        limit: Vec::new(),
        variance: Vec::new(),
        output: after.next.is_none(),
        window,
    };
    let mut prices = vec![0.0; channels];
    for o in (0..count).filter(|&o| used(o)) {
        let mut largest = vec![0.0f64; channels];
        for (i, weights) in linear.row(o).chunks_exact(taps).enumerate() {
            let c = i / plane;
            largest[c] = weights.iter().fold(largest[c], |a, w| a.max(w.abs()));
            prices[c] += weights.iter().map(|w| w * w).sum::<f64>() / variance[o];
        }
        largest.iter_mut().for_each(|w| *w /= window);
        next.weight.push(largest);
        let reach = settings.margin * outputs[o].low.abs().max(outputs[o].high.abs()).max(least);
        next.limit.push(f64::from(1u32 << 29) / (reach * after.window));
        next.variance.push(variance[o]);
    }
    let Op::Activation(own) = &network.layers[ahead.activation].op else { return Ok(None) };
    for (i, seen) in statistics[index].iter().enumerate() {
        if !matches!(own[i / plane], Function::Polynomial { degree: 0, .. }) {
            next.energy[i / plane] += window * window * moment(linear, seen) * taps as f64 / 12.0;
        }
    }
    // Channels that the next layer makes nothing of are still computed, so they too need bits that fit.
    let highest = prices.iter().copied().fold(0.0, f64::max);
    let lowest = if highest > 0.0 { 1e-9 * highest } else { 1.0 };
    prices.iter_mut().for_each(|p| *p = p.max(lowest));
    Ok(Some((next, prices)))
}

/// Writes down an activation layer, and what its results are.
fn activation_layer(
    layer: &Layer,
    functions: &[Function],
    decided: &Pending,
    x: &mut Tensor,
) -> Result<(Activation, NodeSecret, Note)> {
    let (mut channels, mut secrets) = (Vec::new(), Vec::new());
    let linear_scale = decided.choices.iter().map(|c| c.linear).collect();
    for (c, (choice, form)) in decided.choices.iter().zip(&decided.forms).enumerate() {
        let kind = kind(&form.shape);
        let mut secret = ChannelSecret::default();
        let (constant, linear) = match form.shape {
            FormShape::Relu | FormShape::Linear => (0.0, 0.0),
            FormShape::Square { constant, .. } | FormShape::Zero { constant } => (constant, 0.0),
            FormShape::Cubic { constant, linear, .. } => {
                (constant, linear * (choice.linear / f64::from(1u32 << choice.bits.shift)).powi(2))
            }
        };
        let offset = (constant * choice.result).round();
        for (what, value, bits) in [("constant", offset, 30), ("linear coefficient", linear, 34)] {
            if value.is_nan() || value.abs() >= (1u64 << bits) as f64 {
                return Err(Error::Network(format!(
                    "{}, channel {c}: expected a {what} within {bits} bits, got {value:e}",
                    layer.name
                )));
            }
        }
        secret.offset = offset as i32;
        secret.lambda = linear.round() as i64;
        secrets.push(secret);
        let bits = choice.bits;
        channels.push(Channel { kind, bound_bits: bits.bound, shift: bits.shift, back_shift: bits.back });
        x.constant[c] = matches!(form.shape, FormShape::Zero { .. }).then_some(offset);
        x.scale[c] = choice.result;
        x.noise[c] = form.slope * x.noise[c] + choice.noise;
        // Beyond what was calibrated, values are possible up to the bound in bits.
        let bits_reach = f64::from((1u32 << bits.bound) >> 1) / choice.linear.max(1e-300);
        x.worst[c] = results(form, bits_reach, functions[c], x.worst[c]);
    }
    let note = Note { forms: decided.forms.clone(), linear_scale, ..Note::default() };
    let activation = Activation { fraction_bits: decided.fraction_bits, channels };
    Ok((activation, NodeSecret::Activation(secrets), note))
}

/// What results are possible if the channel's bound holds.
fn results(form: &Form, bound: f64, function: Function, worst: [f64; 2]) -> [f64; 2] {
    let ends = |low: f64, high: f64| {
        let [low, high] = [low.max(-bound), high.min(bound)];
        if low <= high { [low, high] } else { [0.0, 0.0] }
    };
    match form.shape {
        FormShape::Relu => {
            let [low, high] = ends(worst[0], worst[1]);
            [low.max(0.0), high.max(0.0)]
        }
        FormShape::Linear => {
            let [low, high] = function.range(worst[0], worst[1]);
            ends(low, high)
        }
        FormShape::Square { .. } | FormShape::Cubic { .. } => {
            let [low, high] = ends(worst[0] + form.shift, worst[1] + form.shift);
            let own = match form.shape {
                FormShape::Square { leading, constant } => [constant, 0.0, leading, 0.0],
                FormShape::Cubic { leading, linear, constant } => [constant, leading * linear, 0.0, leading],
                _ => [0.0; 4],
            };
            Function::Polynomial { degree: 3, c: own }.range(low, high)
        }
        FormShape::Zero { constant } => [constant, constant],
    }
}
