//! How exact and how safe a compiled model is, measured with the integer reference.

use crate::compile::Options;
use crate::engine::{FloatNetwork, Statistics};
use crate::error::Result;
use crate::fixed::form::Shape as Form;
use crate::fixed::{Fixed, Note};
use crate::network::{Layer, Network, Op};
use crate::samples::Samples;
use safenet_core::model::{
    Activation, Calibration, Channel, Kind, ModelFile, NodeSecret, Op as FixedOp, Output as FixedOutput,
};
use safenet_reference::{ChannelBounds, Reference, Trace};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Changes of a polynomial beyond this part of its range are worth a warning.
const NOTABLE_CHANGE: f64 = 0.01;

/// What became of a network.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the model.
    pub name: String,
    /// Shape of the input.
    pub input: String,
    /// Fraction bits of the input.
    pub input_fraction_bits: u8,
    /// Input values for which the model is made.
    pub input_range: [f64; 2],
    /// By how much calibrated ranges were widened.
    pub margin: f64,
    /// Calibration samples.
    pub samples: usize,
    /// The layers, one per node of the architecture.
    pub layers: Vec<LayerReport>,
    /// The scores on the samples.
    pub output: OutputReport,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// One layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// Name in the ONNX file, or what the compiler added.
    pub name: String,
    /// What it computes.
    pub operation: &'static str,
    /// Shape of its output.
    pub shape: String,
    /// Of a linear layer: its weights.
    pub linear: Option<LinearReport>,
    /// Of an activation layer: its numbers.
    pub activation: Option<ActivationReport>,
}

/// The weights of a linear layer.
#[derive(Clone, Debug, Serialize)]
pub struct LinearReport {
    /// Outputs x inputs x kernel.
    pub kernel: String,
    /// Bits of the largest weight, with its sign.
    pub weight_bits: u32,
    /// Largest l1 norm of an output's weights.
    pub l1_norm: f64,
    /// Largest l2 norm of an output's weights: what the ciphertexts' noise grows by.
    pub l2_norm: f64,
}

/// The fixed-point numbers of an activation layer.
#[derive(Clone, Debug, Serialize)]
pub struct ActivationReport {
    /// The groups of channels with equal public numbers.
    pub kinds: Vec<KindCount>,
    /// Fraction bits of the result; nominal, except for the output layer.
    pub fraction_bits: u8,
    /// Channels whose bound no input within the input range and no choice of roundings can exceed, if the layers before keep
    /// theirs. Where this is so for all channels of all layers, no overflow is possible.
    pub proven: usize,
    /// How far the calibrated ranges of the other channels may be widened before the first leaves its bound; infinite (`null`
    /// in JSON) if there are none.
    pub headroom: f64,
    /// Signal-to-noise ratio of the integer reference against the network in real numbers, in decibels; constant channels are
    /// left out.
    pub snr_db: f64,
    /// The ratio that the error model predicts.
    pub predicted_snr_db: f64,
    /// Root mean square of the results, in units of the last place.
    pub rms: f64,
    /// Largest difference, in units of the last place, between two results that the protocol's roundings allow.
    pub spread: i64,
}

/// Channels with equal public numbers.
#[derive(Clone, Debug, Serialize)]
pub struct KindCount {
    /// Which function.
    pub kind: &'static str,
    /// How many channels.
    pub channels: usize,
    /// b.
    pub bound_bits: u8,
    /// f.
    pub shift: u8,
    /// w = b − f.
    pub width: u8,
    /// g.
    pub back_shift: u8,
}

/// The scores on the calibration samples.
#[derive(Clone, Debug, Serialize)]
pub struct OutputReport {
    /// On how many samples the integer reference was compared with the network in real numbers.
    pub compared: usize,
    /// Part of them on which both give the same class.
    pub agreement: f64,
    /// How often each is right, where the samples have labels.
    pub accuracy: Option<Accuracy>,
    /// Overflows of the reference on these samples; 0 for a model that works.
    pub overflows: usize,
    /// Root mean square difference of the scores.
    pub rms_error: f64,
    /// Largest difference of a score.
    pub max_error: f64,
    /// What the fixed-point form guarantees: on inputs that keep all values within their ranges on the samples, no score differs
    /// by more. It grows with every layer's weights, so that it tells little of deep networks. Infinite for other samples.
    pub error_bound: f64,
    /// Median difference of the best and the second best score, in real numbers.
    pub median_gap: f64,
    /// On how many samples the intervals were computed.
    pub intervals: usize,
    /// Median over the samples of the worst half width of a score's interval: how far the roundings may move a score.
    pub median_half_width: f64,
    /// Largest half width of a score's interval.
    pub max_half_width: f64,
    /// Part of these whose class no choice of roundings can change.
    pub certain: f64,
    /// On how many of the samples roundings were drawn at random, as the protocol draws them.
    pub drawn: usize,
    /// Root mean square difference of a score that they make, against rounding to the nearest.
    pub drawn_rms: f64,
    /// Largest difference of a score that they make.
    pub drawn_max: f64,
}

impl OutputReport {
    /// What the model file keeps of this, in units of the last place of an output with `fraction_bits`.
    pub(crate) fn in_units(&self, fraction_bits: u8) -> Calibration {
        // Casts of reals saturate.
        let units = |score: f64| (score * f64::from(1u32 << fraction_bits)).round() as u32;
        Calibration {
            samples: self.intervals as u32,
            rounding_ulp: units(2.0 * self.max_half_width),
            gap_ulp: units(self.median_gap),
            drawn_ulp: units(self.drawn_max),
        }
    }
}

/// Part of the labelled samples whose class is found.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Accuracy {
    /// By the network in real numbers.
    pub float: f64,
    /// By the integer reference.
    pub integer: f64,
}

fn argmax<T: PartialOrd + Copy>(scores: &[T]) -> usize {
    let mut best = 0;
    for (i, s) in scores.iter().enumerate() {
        if *s > scores[best] {
            best = i;
        }
    }
    best
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn decibels(signal: f64, noise: f64) -> f64 {
    10.0 * (signal.max(1e-300) / noise.max(1e-300)).log10().clamp(-30.0, 30.0)
}

/// Sums over samples of one activation layer.
#[derive(Clone, Default)]
struct Sums {
    signal: f64,
    noise: f64,
    squares: f64,
    count: f64,
    spread: i64,
}

/// Multiplications of one evaluation of a network.
fn multiplications(network: &Network) -> u64 {
    let each = |layer: &Layer| match &layer.op {
        Op::Linear(linear) => linear.weights.len() as u64 * layer.shape.plane() as u64,
        _ => 0,
    };
    network.layers.iter().map(each).sum()
}

/// Multiplications that the comparison with nominal values may take, and that with intervals: some ten seconds each.
const COMPARED_WORK: u64 = 20_000_000_000;
const INTERVAL_WORK: u64 = 2_000_000_000;
/// Samples on which roundings are drawn at random.
const DRAWN_SAMPLES: usize = 16;

/// Compares the scores of a model with those of its network.
pub(crate) fn compare(
    float: &FloatNetwork,
    model: &ModelFile,
    samples: &Samples,
    compared: usize,
    intervals: usize,
) -> Result<OutputReport> {
    let reference = Reference::new(model)?;
    let mut scores = Scores::default();
    for (n, sample) in samples.iter().take(compared).enumerate() {
        let input = reference.quantise(sample)?;
        let trace = if n < intervals { reference.run(&input)? } else { reference.run_nominal(&input)? };
        let exact = float.run(sample).unwrap_or_default();
        scores.add(&trace, float.shapes().len() - 1, &exact, &reference, samples.labels().map(|l| l[n]), n < intervals);
    }
    Ok(scores.report())
}

pub(crate) fn judge(
    network: &Network,
    float: &FloatNetwork,
    fixed: &Fixed,
    statistics: &[Vec<Statistics>],
    samples: &Samples,
    options: &Options,
    progress: &mut dyn FnMut(&str),
) -> Result<Report> {
    let reference = Reference::new(&fixed.model)?;
    let architecture = &fixed.model.architecture;
    let bounds = reference.bounds();
    let mut sums = vec![Sums::default(); network.layers.len()];
    let mut scores = Scores::default();
    let work = multiplications(network).max(1);
    let compared = samples.count().min(options.compared_samples).min((COMPARED_WORK / work).max(2) as usize);
    let intervals = options.interval_samples.min((INTERVAL_WORK / work).max(1) as usize);
    for (n, sample) in samples.iter().take(compared).enumerate() {
        progress(&format!("comparing: {n} of {compared} samples"));
        let exact = float.trace(sample)?;
        let input = reference.quantise(sample)?;
        let with_intervals = n < intervals && !scores.hopeless;
        let trace = if with_intervals { reference.run(&input)? } else { reference.run_nominal(&input)? };
        for (index, note) in fixed.notes.iter().enumerate() {
            if !note.forms.is_empty() {
                sums[index].add(&trace, &exact[index], index, note, network.layers[index].shape.plane());
            }
        }
        let label = samples.labels().map(|l| l[n]);
        let last = exact.last().map_or(&[][..], Vec::as_slice);
        scores.add(&trace, network.layers.len(), last, &reference, label, with_intervals);
        if n < intervals.min(DRAWN_SAMPLES) {
            scores.drawn.add(&reference, &input, &trace.output().nominal, n as u64)?;
        }
    }
    let mut layers = Vec::with_capacity(network.layers.len());
    let mut warnings = network.notes.clone();
    for (index, layer) in network.layers.iter().enumerate() {
        let (operation, linear, activation) = match &architecture.nodes[index].op {
            FixedOp::Convolution(conv) => {
                let inputs = network.shape(layer.inputs[0]).channels / conv.groups;
                let kernel = format!("{}x{inputs}x{}x{}", conv.out_channels, conv.kernel[0], conv.kernel[1]);
                ("linear", linear_report(fixed, index, kernel), None)
            }
            FixedOp::SumPool(_) => ("average", None, None),
            FixedOp::Window(_) => ("window", None, None),
            FixedOp::Channels(_) => ("channels", None, None),
            FixedOp::Concat => ("concat", None, None),
            FixedOp::Flatten => ("flatten", None, None),
            FixedOp::Sum(_) => ("sum", None, None),
            FixedOp::Max(_) => ("maximum", None, None),
            FixedOp::Activation(activation) => {
                let note = &fixed.notes[index];
                warnings.extend(changes(network, index, note));
                let predicted: f64 = note.noise.iter().sum();
                let channels = statistics[index + 1].iter().zip(&note.forms);
                let counted = channels.filter(|(_, form)| !matches!(form.shape, Form::Zero { .. }));
                let signal: f64 = counted.map(|(seen, _)| seen.mean_square()).sum();
                let sums = &sums[index];
                let report = ActivationReport {
                    kinds: kinds(activation),
                    fraction_bits: activation.fraction_bits,
                    proven: bounds[index].iter().filter(|b| b.holds).count(),
                    headroom: headroom(activation, note, &statistics[layer.inputs[0]], &bounds[index]),
                    snr_db: decibels(sums.signal, sums.noise),
                    predicted_snr_db: decibels(signal, predicted),
                    rms: (sums.squares / sums.count.max(1.0)).sqrt(),
                    spread: sums.spread,
                };
                ("activation", None, Some(report))
            }
        };
        let (name, shape) = (layer.name.clone(), layer.shape.to_string());
        layers.push(LayerReport { name, operation, shape, linear, activation });
    }
    let output = OutputReport { error_bound: fixed.error_bound, ..scores.report() };
    if output.overflows > 0 {
        warnings.push(format!(
            "{} of {} samples overflow a bound: their answers are wrong; compile with a larger margin",
            output.overflows, output.compared
        ));
    }
    let scale = f64::from(1u32 << architecture.input_fraction_bits);
    Ok(Report {
        name: architecture.name.clone(),
        input: network.input.to_string(),
        input_fraction_bits: architecture.input_fraction_bits,
        input_range: architecture.input_range.map(|x| f64::from(x) / scale),
        margin: options.margin,
        samples: samples.count(),
        layers,
        output,
        warnings,
    })
}

impl Sums {
    fn add(&mut self, trace: &Trace, exact: &[f32], index: usize, note: &Note, plane: usize) {
        let tensor = &trace.tensors[index + 1];
        for (e, (&x, &v)) in exact.iter().zip(&tensor.nominal).enumerate() {
            // A constant's rounding is no noise: the next layer's bias takes it up.
            if matches!(note.forms[e / plane].shape, Form::Zero { .. }) {
                continue;
            }
            let (x, v) = (f64::from(x), v as f64);
            self.signal += x * x;
            self.noise += (v / note.scale[e / plane] - x).powi(2);
            self.squares += v * v;
        }
        self.count += exact.len() as f64;
        self.spread = self.spread.max(tensor.max_spread());
    }
}

fn linear_report(fixed: &Fixed, index: usize, kernel: String) -> Option<LinearReport> {
    let parameters = fixed.model.parameters.as_ref()?;
    let NodeSecret::Convolution { weights, bias } = &parameters.nodes[index] else { return None };
    let (mut l1, mut l2, mut largest) = (0.0f64, 0.0f64, 0u16);
    for row in weights.chunks_exact((weights.len() / bias.len().max(1)).max(1)) {
        let size = |w: &i16| f64::from(w.unsigned_abs());
        l1 = l1.max(row.iter().map(size).sum());
        l2 = l2.max(row.iter().map(|w| size(w) * size(w)).sum::<f64>().sqrt());
        largest = row.iter().fold(largest, |a, w| a.max(w.unsigned_abs()));
    }
    Some(LinearReport { kernel, weight_bits: 17 - largest.leading_zeros(), l1_norm: l1, l2_norm: l2 })
}

fn kinds(activation: &Activation) -> Vec<KindCount> {
    let mut groups: BTreeMap<Channel, usize> = BTreeMap::new();
    for channel in &activation.channels {
        *groups.entry(*channel).or_default() += 1;
    }
    let count = |(c, channels): (Channel, usize)| KindCount {
        kind: c.kind.name(),
        channels,
        bound_bits: c.bound_bits,
        shift: c.shift,
        width: c.width(),
        back_shift: c.back_shift,
    };
    groups.into_iter().map(count).collect()
}

/// How far the calibrated ranges of the channels without a proof may be widened, about their middle for polynomials and about
/// 0 for the others, before they leave the range for which the channel is made.
fn headroom(activation: &Activation, note: &Note, seen: &[Statistics], bounds: &[ChannelBounds]) -> f64 {
    let mut least = f64::INFINITY;
    for (c, channel) in activation.channels.iter().enumerate().filter(|(c, _)| !bounds[*c].holds) {
        let (form, scale) = (&note.forms[c], note.linear_scale[c]);
        let ratio = match channel.kind {
            Kind::Square { .. } | Kind::Cubic => {
                let (middle, radius) = ((seen[c].low + seen[c].high) / 2.0, (seen[c].high - seen[c].low) / 2.0);
                (form.bound - (middle + form.shift).abs()) / radius
            }
            _ => ((1i64 << (channel.bound_bits - 1)) - (1i64 << channel.shift)) as f64 / (form.seen * scale),
        };
        least = least.min(ratio);
    }
    least
}

/// Polynomials that were changed notably to fit the protocol's forms.
fn changes(network: &Network, index: usize, note: &Note) -> Vec<String> {
    let Op::Activation(functions) = &network.layers[index].op else { return Vec::new() };
    let notable = note.forms.iter().enumerate().filter(|(_, f)| f.change > NOTABLE_CHANGE * f.result);
    notable
        .map(|(c, form)| {
            format!(
                "{}, channel {c}: the leading coefficient of {:?} is too small for its form; it was enlarged, which changes the \
                 result by {:.1e} (root mean square) of up to {:.1e}; plan this channel with a lower degree",
                network.layers[index].name, functions[c], form.change, form.result
            )
        })
        .collect()
}

/// What is collected of the scores, sample by sample.
#[derive(Default)]
struct Scores {
    compared: usize,
    same: usize,
    labelled: usize,
    right: [usize; 2],
    overflows: usize,
    squares: f64,
    count: usize,
    largest: f64,
    gaps: Vec<f64>,
    half_widths: Vec<f64>,
    certain: usize,
    /// An interval was wider than all scores: worst cases say nothing of so deep a network.
    hopeless: bool,
    drawn: Drawn,
}

/// Differences made by roundings that are drawn at random.
#[derive(Default)]
struct Drawn {
    samples: usize,
    squares: f64,
    count: usize,
    largest: f64,
}

impl Drawn {
    /// One evaluation with random roundings, against one with rounding to the nearest.
    fn add(&mut self, reference: &Reference, input: &[i32], nominal: &[i64], seed: u64) -> Result<()> {
        if !matches!(reference.architecture().output, FixedOutput::Scores) {
            return Ok(());
        }
        // SplitMix64 (Steele, Lea, Flood 2014): nothing secret depends on it.
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let unit = 1.0 / f64::from(1u32 << reference.architecture().output_fraction_bits());
        let (answer, _) = reference.run_sampled(input, &mut random)?;
        for (&drawn, &nearest) in answer.iter().zip(nominal) {
            let difference = (f64::from(drawn) - nearest as f64).abs() * unit;
            self.squares += difference * difference;
            self.largest = self.largest.max(difference);
        }
        self.count += answer.len();
        self.samples += 1;
        Ok(())
    }
}

impl Scores {
    /// `tensor` holds the scores.
    fn add(
        &mut self,
        trace: &Trace,
        tensor: usize,
        exact: &[f32],
        reference: &Reference,
        label: Option<i64>,
        with_intervals: bool,
    ) {
        let FixedOp::Activation(scores) = &reference.architecture().nodes[tensor - 1].op else { return };
        let unit = 1.0 / f64::from(1u32 << scores.fraction_bits);
        let output = &trace.tensors[tensor];
        let (by_float, by_integer) = (argmax(exact), argmax(&output.nominal));
        self.compared += 1;
        self.same += usize::from(by_float == by_integer);
        self.overflows += usize::from(trace.overflow.is_some());
        if let Some(label) = label {
            self.labelled += 1;
            self.right[0] += usize::from(by_float as i64 == label);
            self.right[1] += usize::from(by_integer as i64 == label);
        }
        for (&x, &v) in exact.iter().zip(&output.nominal) {
            let error = (v as f64 * unit - f64::from(x)).abs();
            self.squares += error * error;
            self.largest = self.largest.max(error);
        }
        self.count += exact.len();
        let others = |i: usize| (0..exact.len()).filter(move |&j| j != i);
        let second = others(by_float).map(|j| f64::from(exact[j])).fold(f64::NEG_INFINITY, f64::max);
        if let Some(&first) = exact.get(by_float).filter(|_| second.is_finite()) {
            self.gaps.push(f64::from(first) - second);
        }
        if with_intervals {
            let half_width = output.max_spread() as f64 / 2.0 * unit;
            let reach = exact.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            self.hopeless |= half_width > 2.0 * f64::from(reach);
            self.half_widths.push(half_width);
            let sure = others(by_integer).all(|j| output.high[j] < output.low[by_integer]);
            self.certain += usize::from(sure);
        }
    }

    fn report(self) -> OutputReport {
        let part = |n: usize, of: usize| n as f64 / of.max(1) as f64;
        let intervals = self.half_widths.len();
        OutputReport {
            compared: self.compared,
            agreement: part(self.same, self.compared),
            accuracy: (self.labelled > 0).then(|| Accuracy {
                float: part(self.right[0], self.labelled),
                integer: part(self.right[1], self.labelled),
            }),
            overflows: self.overflows,
            rms_error: (self.squares / self.count.max(1) as f64).sqrt(),
            max_error: self.largest,
            error_bound: f64::INFINITY,
            median_gap: median(self.gaps),
            intervals,
            max_half_width: self.half_widths.iter().copied().fold(0.0, f64::max),
            median_half_width: median(self.half_widths),
            certain: part(self.certain, intervals),
            drawn: self.drawn.samples,
            drawn_rms: (self.drawn.squares / self.drawn.count.max(1) as f64).sqrt(),
            drawn_max: self.drawn.largest,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: input {} from {} to {}, {} fraction bits; {} samples, margin {}",
            self.name,
            self.input,
            self.input_range[0],
            self.input_range[1],
            self.input_fraction_bits,
            self.samples,
            self.margin
        )?;
        for layer in &self.layers {
            write!(f, "  {:<24} {:<10} {:<12}", layer.name, layer.operation, layer.shape)?;
            if let Some(l) = &layer.linear {
                write!(f, " {}, {} bits, l1 {:.0}, l2 {:.0}", l.kernel, l.weight_bits, l.l1_norm, l.l2_norm)?;
            }
            if let Some(a) = &layer.activation {
                let channels: usize = a.kinds.iter().map(|k| k.channels).sum();
                write!(
                    f,
                    " SNR {:.1} dB (predicted {:.1}), rms {:.0}, spread {}, bounds proven for {} of {channels}, headroom {:.2}",
                    a.snr_db, a.predicted_snr_db, a.rms, a.spread, a.proven, a.headroom
                )?;
                for k in &a.kinds {
                    write!(
                        f,
                        "\n      {:>5} {:<7} b {:>2}  f {:>2}  w {:>2}  g {:>2}",
                        k.channels, k.kind, k.bound_bits, k.shift, k.width, k.back_shift
                    )?;
                }
            }
            writeln!(f)?;
        }
        write!(f, "{}", self.output)?;
        for warning in &self.warnings {
            writeln!(f, "  warning: {warning}")?;
        }
        Ok(())
    }
}

impl fmt::Display for OutputReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = self;
        writeln!(
            f,
            "  scores on {} samples: {:.1}% same class, rms error {:.2e}, largest {:.2e}{}, overflows {}",
            o.compared,
            100.0 * o.agreement,
            o.rms_error,
            o.max_error,
            if o.error_bound.is_finite() { format!(" (bound {:.2e})", o.error_bound) } else { String::new() },
            o.overflows
        )?;
        if let Some(a) = &o.accuracy {
            writeln!(f, "  accuracy: float {:.2}%, integer {:.2}%", 100.0 * a.float, 100.0 * a.integer)?;
        }
        if o.drawn > 0 {
            writeln!(
                f,
                "  roundings drawn at random, on {} samples: a score moves by {:.2e} (root mean square), at most {:.2e}",
                o.drawn, o.drawn_rms, o.drawn_max
            )?;
        }
        writeln!(
            f,
            "  roundings at their worst, on {} samples: half width of a score median {:.2e}, largest {:.2e}; median gap of the two best scores \
             {:.2e}; {:.1}% certain",
            o.intervals,
            o.median_half_width,
            o.max_half_width,
            o.median_gap,
            100.0 * o.certain
        )
    }
}
