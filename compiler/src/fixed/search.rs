//! Choosing the public numbers of an activation layer: fraction bits by an error model.
//!
//! Notation: Y is the integer linear output of a channel at its activation, t = Y / x' its scale, v = T(Y) with scale
//! τ = t / 2^f, S the scale of the integer result. For each channel
//!
//! - t is as large as weights of 255, the bound 2^(b−1) − 2^f and, for polynomials, the field allow, in the steps that sums with
//!   tensors of given scales prescribe ([`Scale`]);
//! - S = τ (ReLU, degree 1), τ² / (2^g·c2) (degree 2; negative where c2 is: the sign goes into the next layer's weights) or
//!   τ³ / (2^g·c3) (degree 3). All of it is undone in the next layer's weights.
//!
//! The error of the next layer's outputs, relative to their variance, is modelled as the sum of
//!
//! - this layer's weights, each rounded by an error of variance 1/12, times the variance of what they multiply (the mean is
//!   corrected in the bias);
//! - T and the way back, each a rounding of variance at most 1/6, times the slope of the activation;
//! - the next layer's weights, which need t' within 255 and within b' = 30.
//!
//! All channels of a kind share (b, f, g), and the three are chosen, kind by kind, so that this sum is smallest. More fraction
//! bits lessen the second part until the bound of the next layer leaves its weights fewer bits, which raises the third.

use super::form::{CUBIC_WIDTH, Form, SQUARE_WIDTH, Shape, cubic_scale, square_scale};
use safenet_core::model::{Kind, WEIGHT_LIMIT, limits};

/// Variance of a rounding that goes up with probability equal to the fraction: 1/6 for a uniform fraction.
const ROUNDING: f64 = 1.0 / 6.0;
/// Largest integer weight.
const WEIGHT: f64 = WEIGHT_LIMIT as f64;
/// Integer results stay below this, a quarter of what 32 bits with sign hold, over the range for which a channel is made.
const RING: f64 = (1u32 << 29) as f64;

/// What moves of integer results (all but constants) stays below this: T keeps 18 bits at most, so more of them would carry nothing.
const USEFUL: f64 = (1u32 << 20) as f64;

/// What t may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    /// Any positive number.
    Free,
    /// A power of two times a quantum, and no less than a given number: what else is added in has a scale of its own.
    Steps { quantum: f64, least: f64 },
    /// This number: nothing is rounded here.
    Fixed(f64),
}

/// One channel as the search sees it.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) form: Form,
    pub(crate) scale: Scale,
    /// Largest t for which what else reads the same linear output has room.
    pub(crate) limit: f64,
    /// Whether S must be positive: not all readers of the result are linear layers, in whose weights a sign disappears.
    pub(crate) positive: bool,
    /// Largest |integer weight| and |bias| per unit of t.
    pub(crate) weight: f64,
    pub(crate) bias: f64,
    /// Variance of Y caused by rounding the weights (with the sum over the averaged elements).
    pub(crate) noise: f64,
    /// For each linear output that enters: by how much rounding its weights and bias changes Y at most, and the largest t for
    /// which its weights fit without halving.
    pub(crate) roundings: Vec<(f64, f64)>,
    /// Variance of x' that comes from the layers before, in real numbers.
    pub(crate) carried: f64,
    /// What a variance of the result costs in the next layer, relative to that layer's variance.
    pub(crate) price: f64,
}

/// The next linear layer as the search sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Next {
    /// Per output and per channel of this layer: largest |weight|, per unit of the integer it multiplies.
    pub(crate) weight: Vec<Vec<f64>>,
    /// Per channel: variance of the next linear output per S² caused by rounding the next weights.
    pub(crate) energy: Vec<f64>,
    /// Per output: the largest t' (of the convolution itself) that 30 bits allow.
    pub(crate) limit: Vec<f64>,
    /// Per output: variance on the calibration samples.
    pub(crate) variance: Vec<f64>,
    /// Whether all outputs must have the same scale, a power of two.
    pub(crate) output: bool,
    /// Elements that are summed between the activation and the next layer.
    pub(crate) window: f64,
}

/// The public numbers of the channels of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bits {
    pub(crate) bound: u8,
    pub(crate) shift: u8,
    pub(crate) back: u8,
}

/// What the search decided for a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) bits: Bits,
    /// t.
    pub(crate) linear: f64,
    /// S.
    pub(crate) result: f64,
    /// Variance of the result, in real numbers, that this layer adds.
    pub(crate) noise: f64,
}

impl Candidate {
    /// Largest error of the result that a choice makes of inputs as on the samples, with x' off by `carried` already.
    pub(crate) fn error(&self, choice: &Choice, carried: f64) -> f64 {
        let (t, size) = (choice.linear.max(1e-300), choice.result.abs().max(1e-300));
        let unit = f64::from(1u32 << choice.bits.shift);
        let halved = |limit: f64| (t / limit).log2().ceil().max(0.0).exp2();
        let weights = self.roundings.iter().map(|(error, limit)| error * halved(*limit)).sum::<f64>();
        // T changes v by less than one; a sum before it has a rounded constant.
        let x = carried + (weights + 1.0 + if choice.bits.shift > 0 { unit } else { 0.0 }) / t;
        let (tau, seen) = (t / unit, self.form.seen);
        // Changed polynomials are off by at most 2.7 times their root mean square over the range of the samples.
        let polynomial = 2.5 / size + 2.7 * self.form.change;
        match self.form.shape {
            Shape::Relu => x,
            Shape::Linear { leading, .. } => leading.abs() * x + 0.5 / size,
            Shape::Square { leading, .. } => leading.abs() * (2.0 * seen + x) * x + polynomial,
            Shape::Cubic { leading, linear, .. } => {
                let slope = 3.0 * seen * seen + linear.abs() + (3.0 * seen + x) * x;
                let lambda = 0.5 * (seen + x) / (tau * tau);
                leading.abs() * (slope * x + lambda) + polynomial
            }
            Shape::Zero { .. } => 0.5 / size,
        }
    }

    /// What |x'| may reach: the form's bound, and six standard deviations of the error that comes with it.
    fn reach(&self) -> f64 {
        self.form.bound.max(1e-12) + 6.0 * self.carried.sqrt()
    }

    /// What |Y| may reach for a scale t: besides, six standard deviations of what this layer's weights add.
    fn linear_reach(&self, t: f64) -> f64 {
        t * self.reach() + self.linear_slack()
    }

    /// At most an eighth of the largest bound: more comes only from layers that are idle on the samples.
    fn linear_slack(&self) -> f64 {
        (6.0 * self.noise.sqrt() + 1.0).min(f64::from(1u32 << 26))
    }
}

/// Scales of the next layer's convolution for given scales of this layer's results.
fn next_scales(next: &Next, results: &[f64]) -> Vec<f64> {
    let scales = next.weight.iter().zip(&next.limit).map(|(weights, &limit)| {
        let largest = weights.iter().zip(results).map(|(w, s)| w / s.abs()).fold(0.0, f64::max);
        (WEIGHT / largest).min(limit)
    });
    if next.output {
        let smallest = scales.fold(f64::INFINITY, f64::min);
        vec![smallest.log2().floor().exp2(); next.limit.len()]
    } else {
        scales.collect()
    }
}

/// Relative error of the next layer's outputs that its own weights cause.
fn next_cost(next: &Next, results: &[f64]) -> f64 {
    let each: Vec<f64> = next.energy.iter().zip(results).map(|(e, s)| if *e > 0.0 { e * s * s } else { 0.0 }).collect();
    // Of the channels that an output reads: in a convolution in groups, not all.
    let energy = |weights: &[f64]| weights.iter().zip(&each).map(|(&w, e)| if w > 0.0 { *e } else { 0.0 }).sum::<f64>();
    let outputs = next.weight.iter().zip(next_scales(next, results)).zip(&next.variance);
    outputs.map(|((weights, t), v)| energy(weights) / (t * t * v)).sum()
}

fn kind_index(shape: &Shape) -> usize {
    match shape {
        Shape::Relu => 0,
        Shape::Cubic { .. } => 1,
        Shape::Square { .. } => 2,
        Shape::Linear { .. } => 3,
        Shape::Zero { .. } => 4,
    }
}

/// The public kind of a form; `positive` as in [`Candidate`].
pub(crate) fn kind(shape: &Shape, positive: bool) -> Kind {
    match shape {
        Shape::Relu => Kind::Relu,
        Shape::Cubic { .. } => Kind::Cubic,
        // Without it, the sign goes into the next layers' weights.
        Shape::Square { .. } => Kind::Square { secret_sign: positive },
        Shape::Linear { .. } => Kind::Linear,
        Shape::Zero { .. } => Kind::Zero,
    }
}

/// What given bits mean for a channel: t, S, and the variance of the result.
struct Fit {
    linear: f64,
    result: f64,
    noise: f64,
}

/// The best that given bits allow for one channel; `None` if they do not fit it.
fn fit(channel: &Candidate, width: u8, shift: u8, back: u8, window: f64, shrink: f64) -> Option<Fit> {
    let form = &channel.form;
    let unit = f64::from(1u32 << shift);
    let bound = channel.reach();
    let half = f64::from(1u32 << (width + shift - 1));
    let mut room = (half - unit - channel.linear_slack()) / bound;
    if !matches!(channel.scale, Scale::Fixed(_)) {
        room = room.min(channel.limit);
    }
    match form.shape {
        Shape::Square { .. } => room = room.min(square_scale(bound) * unit),
        Shape::Cubic { linear, .. } => room = room.min(cubic_scale(linear, bound) * unit),
        _ => {}
    }
    let by_weights = (WEIGHT / channel.weight).min(f64::from(1u32 << 30) / channel.bias);
    let t = match channel.scale {
        Scale::Free => {
            let shrink = match form.shape {
                Shape::Square { .. } => shrink.sqrt(),
                Shape::Cubic { .. } => shrink.cbrt(),
                _ => shrink,
            };
            room.min(by_weights) * shrink * (1.0 - 1e-6)
        }
        Scale::Steps { quantum, least } => {
            let steps = (room.min(by_weights) * (1.0 - 1e-6) / quantum).log2().floor();
            // Below the least scale, the weights make do with fewer bits.
            (quantum * steps.exp2()).max(least)
        }
        Scale::Fixed(t) => t,
    };
    if t > room {
        return None;
    }
    let tau = t / unit;
    let step = f64::from(1u32 << back);
    let (result, offset, leading) = match form.shape {
        Shape::Square { leading, constant } => (tau * tau / (step * leading), constant, leading),
        Shape::Cubic { leading, constant, .. } => (tau * tau * tau / (step * leading), constant, leading),
        Shape::Linear { leading, constant } => (tau / leading, constant, leading),
        _ => (tau, 0.0, 1.0),
    };
    let size = result.abs();
    let square = matches!(form.shape, Shape::Square { .. });
    let result = if channel.positive && square { size } else { result };
    // The part before the offset and the whole result fit the ring, also when a window of results is summed.
    let before = (form.result + offset.abs()) * size;
    if !(t > 0.0
        && size > 0.0
        && size.is_finite()
        && leading != 0.0
        && (result > 0.0 || !channel.positive)
        && before < RING
        && form.moving() * size < USEFUL
        && form.result * size * window < RING)
    {
        return None;
    }
    let truncation = if shift > 0 { ROUNDING * (unit / t).powi(2) } else { 0.0 };
    let linear_noise = channel.noise / (t * t) + truncation;
    // The way back, and the offset.
    let back_noise =
        (if back > 0 { ROUNDING } else { 0.0 } + if offset != 0.0 { 1.0 / 12.0 } else { 0.0 }) / (size * size);
    let noise = form.slope * linear_noise + back_noise + form.change * form.change;
    Some(Fit { linear: t, result, noise })
}

/// Largest widths of truncated values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Widths {
    pub(crate) relu: u8,
    pub(crate) linear: u8,
}

/// All bits to try for a kind: (width, shift, back shift).
fn all_bits(kind: usize, widths: Widths) -> Vec<(u8, u8, u8)> {
    let polynomial = |width: u8| {
        let shifts = 0..=limits::BOUND_BITS - width;
        shifts.flat_map(move |f| (0..=limits::BACK_SHIFT).map(move |g| (width, f, g))).collect()
    };
    let plain = |widths: std::ops::RangeInclusive<u8>| {
        widths.flat_map(|w| (0..=limits::BOUND_BITS - w).map(move |f| (w, f, 0))).collect()
    };
    match kind {
        0 => plain(4..=widths.relu),
        1 => polynomial(CUBIC_WIDTH),
        2 => polynomial(SQUARE_WIDTH),
        _ => plain(4..=widths.linear),
    }
}

/// One way to choose the bits of a kind, with what it means for each of its channels.
struct Way {
    shift: u8,
    back: u8,
    fits: Vec<Fit>,
    cost: f64,
}

/// Chooses the bits of every kind and the scales of every channel. The error is the channel for which nothing fits.
pub(crate) fn choose(channels: &[Candidate], next: &Next, widths: Widths) -> Result<Vec<Choice>, usize> {
    // A common factor matters only where the next layer's scale is a power of two.
    let factors: &[f64] =
        if next.output { &[1.0, 0.93, 0.87, 0.81, 0.76, 0.71, 0.66, 0.62, 0.57, 0.54] } else { &[1.0] };
    let mut best: Option<(f64, Vec<Choice>)> = None;
    for &factor in factors {
        let (cost, choices) = choose_with(channels, next, widths, factor)?;
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, choices));
        }
    }
    best.map(|(_, choices)| choices).ok_or(0)
}

fn choose_with(channels: &[Candidate], next: &Next, widths: Widths, shrink: f64) -> Result<(f64, Vec<Choice>), usize> {
    let members: Vec<Vec<usize>> =
        (0..4).map(|k| (0..channels.len()).filter(|&c| kind_index(&channels[c].form.shape) == k).collect()).collect();
    let mut ways: Vec<Vec<Way>> = Vec::new();
    for (kind, members) in members.iter().enumerate() {
        let mut list = Vec::new();
        for (width, shift, back) in all_bits(kind, widths) {
            let fits: Option<Vec<_>> =
                members.iter().map(|&c| fit(&channels[c], width, shift, back, next.window, shrink)).collect();
            if let Some(fits) = fits {
                let cost = members.iter().zip(&fits).map(|(&c, fit)| channels[c].price * fit.noise).sum();
                list.push(Way { shift, back, fits, cost });
            }
        }
        if list.is_empty() {
            // Name a channel that no bits fit, or any if they only fail together.
            let alone = |c: usize| {
                all_bits(kind, widths)
                    .iter()
                    .all(|&(w, f, g)| fit(&channels[c], w, f, g, next.window, shrink).is_none())
            };
            return Err(members.iter().copied().find(|&c| alone(c)).unwrap_or(members[0]));
        }
        ways.push(list);
    }
    // Constant channels have no scale of their own yet: infinite, so that they limit no weight of the next layer.
    let mut results = vec![f64::INFINITY; channels.len()];
    let mut chosen = [0usize; 4];
    let set = |results: &mut Vec<f64>, kind: usize, way: &Way| {
        for (&c, fit) in members[kind].iter().zip(&way.fits) {
            results[c] = fit.result;
        }
    };
    for kind in 0..4 {
        let least = (0..ways[kind].len()).min_by(|&a, &b| ways[kind][a].cost.total_cmp(&ways[kind][b].cost));
        chosen[kind] = least.unwrap_or(0);
        set(&mut results, kind, &ways[kind][chosen[kind]]);
    }
    // Each kind in turn, given the others; three rounds settle it.
    let mut total = f64::INFINITY;
    for _ in 0..3 {
        for kind in (0..4).filter(|&k| !members[k].is_empty()) {
            let mut least = f64::INFINITY;
            for (index, way) in ways[kind].iter().enumerate() {
                // The kind's own part alone is already a lower bound.
                if way.cost >= least {
                    continue;
                }
                set(&mut results, kind, way);
                let cost = way.cost + next_cost(next, &results);
                if cost < least {
                    (least, chosen[kind]) = (cost, index);
                }
            }
            set(&mut results, kind, &ways[kind][chosen[kind]]);
            let others: f64 = (0..4).filter(|&k| k != kind).map(|k| ways[k][chosen[k]].cost).sum();
            total = least + others;
        }
    }
    let nothing = Bits { bound: 0, shift: 0, back: 0 };
    let mut choices = vec![Choice { bits: nothing, linear: 0.0, result: 1.0, noise: 0.0 }; channels.len()];
    for kind in 0..4 {
        let way = &ways[kind][chosen[kind]];
        // The least bound that holds for all of the kind's channels.
        let reach = members[kind]
            .iter()
            .zip(&way.fits)
            .map(|(&c, fit)| channels[c].linear_reach(fit.linear))
            .fold(0.0, f64::max);
        let unit = f64::from(1u32 << way.shift);
        let bound = (way.shift + 2..=limits::BOUND_BITS)
            .find(|&b| reach < f64::from(1u32 << (b - 1)) - unit)
            .unwrap_or(limits::BOUND_BITS);
        for (&c, &Fit { linear, result, noise }) in members[kind].iter().zip(&way.fits) {
            choices[c] = Choice { bits: Bits { bound, shift: way.shift, back: way.back }, linear, result, noise };
        }
    }
    constant_channels(channels, next, &results, &mut choices);
    Ok((total, choices))
}

/// Scales of constant channels: as small as the next layer's weights of 255 allow, because the error of a weight is multiplied
/// by the constant's integer. Integers of more than 20 bits would gain nothing, of less than 8 bits would limit the next
/// layer's scale.
fn constant_channels(channels: &[Candidate], next: &Next, results: &[f64], choices: &mut [Choice]) {
    let scales = next_scales(next, results);
    for (c, channel) in channels.iter().enumerate() {
        let Shape::Zero { constant } = channel.form.shape else { continue };
        let needed = next.weight.iter().zip(&scales).map(|(weights, t)| weights[c] * t / WEIGHT);
        let needed = needed.filter(|s| s.is_finite()).fold(0.0, f64::max) * (1.0 + 1e-6);
        let largest = f64::from(1u32 << 20) / next.window / constant.abs().max(1e-12);
        choices[c].result = needed.clamp(largest / 4096.0, largest);
    }
}

/// Bits and scales of the output layer: the same scale 2^F · 2^f for all channels, F as large as `width` bits allow and f
/// at least 1: an untruncated answer would tell more of the weights than scores do.
///
/// Returns (F, choices).
pub(crate) fn choose_output(channels: &[Candidate], width: u8) -> (u8, Vec<Choice>) {
    let largest = channels.iter().map(Candidate::reach).fold(0.0, f64::max);
    let room = |c: &Candidate| (f64::from(1u32 << 29) - f64::from(1u32 << 13) - c.linear_slack()) / c.reach();
    let by_weight = channels
        .iter()
        .map(|c| (WEIGHT / c.weight).min(f64::from(1u32 << 30) / c.bias).min(room(c)))
        .fold(f64::INFINITY, f64::min);
    let scale_bits = by_weight.min(f64::from(1u32 << 30)).log2().floor().max(0.0) as u8;
    let value_bits = ((f64::from(1u32 << (width - 1)) - 2.0) / largest).log2().floor().clamp(0.0, 24.0) as u8;
    let fraction = scale_bits.saturating_sub(1).min(value_bits);
    let shift = scale_bits - fraction;
    let (linear, unit) = (f64::from(1u32 << scale_bits), f64::from(1u32 << shift));
    let reach = channels.iter().map(|c| c.linear_reach(linear)).fold(0.0, f64::max);
    let bound = (shift + 2..=limits::BOUND_BITS).find(|&b| reach < f64::from(1u32 << (b - 1)) - unit);
    let bound = bound.unwrap_or(limits::BOUND_BITS);
    let choices = channels.iter().map(|channel| {
        let truncation = if shift > 0 { ROUNDING * (unit / linear).powi(2) } else { 0.0 };
        let noise = channel.noise / (linear * linear) + truncation;
        let bits = Bits { bound, shift, back: 0 };
        Choice { bits, linear, result: f64::from(1u32 << fraction), noise }
    });
    (fraction, choices.collect())
}
