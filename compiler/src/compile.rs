//! From the file to the model: the steps in their order.

use crate::engine::{self, FloatNetwork};
use crate::error::{Error, Result};
use crate::fixed::{self, Settings};
use crate::report::{self, OutputReport, Report};
use crate::samples::Samples;
use crate::{normalise, onnx};
use safenet_core::model::{ModelFile, Shape, limits};

/// Largest width of a truncated value at a ReLU that is compiled to. The protocol takes wider ones at the price of a
/// further round trip per layer, for precision that weights of 9 bits cannot use.
const WIDEST_RELU: u8 = 16;

/// How to compile.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the model; the graph's name if `None`.
    pub name: Option<String>,
    /// Fraction bits of the input, 0 to 16.
    pub input_fraction_bits: u8,
    /// Smallest and largest input; if `None`, that of the samples, widened outwards to whole numbers.
    pub input_range: Option<[f32; 2]>,
    /// By how much calibrated ranges are widened, at least 1.
    pub margin: f64,
    /// Largest width of a truncated value at a ReLU, 6 to 16. Narrower is cheaper and coarser.
    pub relu_width: u8,
    /// Bits of the scores, 6 to 24.
    pub output_width: u8,
    /// Whether the client learns the class with the largest score alone, by secure comparison.
    pub class_output: bool,
    /// On how many of the samples the integer model is compared with the network, at most; fewer for large networks.
    pub compared_samples: usize,
    /// On how many of these the intervals of the protocol's roundings are computed.
    pub interval_samples: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: None,
            input_fraction_bits: 8,
            input_range: None,
            margin: 2.0,
            relu_width: WIDEST_RELU,
            output_width: 16,
            class_output: false,
            compared_samples: 256,
            interval_samples: 64,
        }
    }
}

/// What compiling gives.
pub struct Compiled {
    /// The model: the server's file and its public part.
    pub model: ModelFile,
    /// How it was made and how exact it is.
    pub report: Report,
    /// The trained network in real numbers, for comparison.
    pub float: FloatNetwork,
}

impl Compiled {
    /// Compares the integer model with the network in real numbers on other samples: the first `compared` of them, and the
    /// intervals of the protocol's roundings on the first `intervals`.
    ///
    /// # Errors
    /// [`Error::Samples`] if the samples have another shape, [`Error::Model`] if they leave the model's input range.
    pub fn compare(&self, samples: &Samples, compared: usize, intervals: usize) -> Result<OutputReport> {
        same_shape(self.float.input_shape(), samples)?;
        report::compare(&self.float, &self.model, samples, compared, intervals)
    }
}

fn same_shape(expected: Shape, samples: &Samples) -> Result<()> {
    if expected != samples.shape() {
        return Err(Error::Samples(format!(
            "expected samples of the network's input shape {expected}, got {}",
            samples.shape()
        )));
    }
    Ok(())
}

/// Compiles a trained network.
///
/// `progress` is told what is being done, a line at a time.
///
/// # Errors
/// [`Error::Onnx`] for a damaged or contradictory file, [`Error::Unsupported`] with every node that cannot be translated,
/// [`Error::Network`] for what cannot be put into fixed-point form, [`Error::Samples`] for samples of another shape or outside
/// the input range, [`Error::Options`] for options outside their limits.
pub fn compile(
    onnx: &[u8],
    calibration: &Samples,
    options: &Options,
    progress: &mut dyn FnMut(&str),
) -> Result<Compiled> {
    check(options)?;
    progress("reading the network");
    let mut network = onnx::read(onnx)?;
    if let Some(name) = &options.name {
        if name.len() > limits::NAME {
            return Err(Error::Options(format!("name: expected at most {} bytes, got {}", limits::NAME, name.len())));
        }
        network.name.clone_from(name);
    }
    normalise::normalise(&mut network)?;
    fixed::settle(&mut network);
    same_shape(network.input, calibration)?;
    let mut settings = settings(calibration, options)?;
    settings.class_output |= network.class_output;
    let float = FloatNetwork::new(&network)?;
    let statistics = engine::measure(&float, calibration, &mut |done, total| {
        progress(&format!("measuring ranges: {done} of {total} samples"));
    })?;
    if let Some(layer) = statistics.iter().position(|s| s.iter().any(|c| !c.is_finite())) {
        let name = layer.checked_sub(1).map_or("input", |i| network.layers[i].name.as_str());
        return Err(Error::Network(format!(
            "{name}: expected finite values on the samples, got an overflow of 32-bit reals"
        )));
    }
    progress("choosing fixed-point numbers");
    let mut fixed = fixed::fix(&network, &statistics, &settings)?;
    safenet_core::session::fit_noise(&mut fixed.model)?;
    let scales = fixed.notes.iter().map(|note| note.scale.iter().map(|&s| s as f32).collect());
    let scales: Vec<Vec<f32>> = scales.collect();
    let report = report::judge(&network, &float, &fixed, &statistics, calibration, options, progress)?;
    let mut model = fixed.model;
    if let Some(parameters) = &mut model.parameters {
        // The nodes that compare classes have none.
        parameters.scales = scales;
        parameters.scales.resize(parameters.nodes.len(), Vec::new());
        parameters.calibration = report.output.in_units(model.architecture.output_fraction_bits());
    }
    Ok(Compiled { model, report, float })
}

/// The trained network in real numbers, layer by layer as the compiler sees it after folding, and the layers' names: those of
/// the first nodes of a model that is compiled from the same file.
///
/// # Errors
/// As [`compile`].
pub fn float_network(onnx: &[u8]) -> Result<(FloatNetwork, Vec<String>)> {
    let mut network = onnx::read(onnx)?;
    normalise::normalise(&mut network)?;
    fixed::settle(&mut network);
    let names = network.layers.iter().map(|layer| layer.name.clone()).collect();
    Ok((FloatNetwork::new(&network)?, names))
}

fn check(options: &Options) -> Result<()> {
    let within = |what: &str, value: u8, low: u8, high: u8| {
        if (low..=high).contains(&value) {
            return Ok(());
        }
        Err(Error::Options(format!("{what}: expected {low} to {high}, got {value}")))
    };
    within("input fraction bits", options.input_fraction_bits, 0, 16)?;
    within("ReLU width", options.relu_width, 6, WIDEST_RELU)?;
    within("output width", options.output_width, 6, 24)?;
    if !(1.0..=1024.0).contains(&options.margin) {
        return Err(Error::Options(format!("margin: expected 1 to 1024, got {}", options.margin)));
    }
    Ok(())
}

fn settings(samples: &Samples, options: &Options) -> Result<Settings> {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for &x in samples.iter().flatten() {
        (low, high) = (low.min(x.into()), high.max(x.into()));
    }
    let input_range = match options.input_range {
        None => [low.floor(), high.ceil()],
        Some(range) => {
            let [least, most] = range.map(f64::from);
            if !(least <= most && least <= low && high <= most) {
                return Err(Error::Samples(format!(
                    "expected values within the given input range {least} to {most}, got {low} to {high}"
                )));
            }
            [least, most]
        }
    };
    let largest = f64::from(1u32 << 24) / f64::from(1u32 << options.input_fraction_bits);
    if input_range.iter().any(|x| x.abs() > largest) {
        return Err(Error::Samples(format!(
            "expected inputs of at most {largest} with {} fraction bits, got {low} to {high}; normalise the input",
            options.input_fraction_bits
        )));
    }
    Ok(Settings {
        input_fraction_bits: options.input_fraction_bits,
        input_range,
        margin: options.margin,
        relu_width: options.relu_width,
        output_width: options.output_width,
        class_output: options.class_output,
    })
}
