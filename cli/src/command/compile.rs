//! `safenet compile`: from a trained network to the server's model file and its public part.

use crate::files;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use safenet_compiler::{Compiled, Options, Samples, compile};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Largest file of calibration samples that is read.
const SAMPLES_BYTES: u64 = 4 << 30;

/// Compile a trained network (ONNX) for private inference
///
/// Writes the server's file OUT, which holds the weights, and beside it the public part (the same name with .public), which
/// clients need. Prints what became of each layer, how exact the result is on the calibration samples, and which bounds
/// hold for every input.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  safenet compile mnist-relu.onnx --calibration mnist-calibration.npz -o mnist-relu.safenet
  safenet compile net.onnx --calibration samples.npz -o net.safenet --margin 4 --report net.json")]
pub(crate) struct Args {
    /// The trained network
    #[arg(value_name = "MODEL.onnx")]
    network: PathBuf,
    /// Typical inputs, by which ranges are measured: NumPy archive with an array `image` (N, C, H, W), or a single array
    #[arg(long, value_name = "DATA.npz")]
    calibration: PathBuf,
    /// The server's model file to write
    #[arg(short, long, value_name = "OUT.safenet")]
    output: PathBuf,
    /// By how much measured ranges are widened
    #[arg(long, value_name = "FACTOR", default_value_t = Options::default().margin)]
    margin: f64,
    /// Name of the model [default: that of the network]
    #[arg(long)]
    name: Option<String>,
    /// Smallest and largest input value [default: those of the calibration samples, widened to whole numbers]
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"], allow_negative_numbers = true)]
    input_range: Option<Vec<f32>>,
    /// Fraction bits of the input
    #[arg(long, value_name = "BITS", default_value_t = Options::default().input_fraction_bits)]
    input_bits: u8,
    /// Largest width of a value at a ReLU: narrower is cheaper and coarser
    #[arg(long, value_name = "BITS", default_value_t = Options::default().relu_width)]
    relu_width: u8,
    /// Bits of the scores
    #[arg(long, value_name = "BITS", default_value_t = Options::default().output_width)]
    output_width: u8,
    /// Let the client learn the class with the largest score alone, by secure comparison
    #[arg(long)]
    class_output: bool,
    /// Write the report as JSON, too
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let public = args.output.with_extension("public");
    if public == args.output {
        bail!("{}: expected a name for the server's file that does not end in .public", public.display());
    }
    let network = files::model_bytes(&args.network)?;
    let samples = Samples::from_npz(&files::read(&args.calibration, SAMPLES_BYTES)?)
        .with_context(|| args.calibration.display().to_string())?;

    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    let compiled = compile(&network, &samples, &options(args), &mut |step| bar.set_message(step.to_owned()));
    bar.finish_and_clear();
    let Compiled { model, report, .. } = compiled.with_context(|| args.network.display().to_string())?;

    files::write_secret(&args.output, &model.server_bytes()?)?;
    files::write(&public, &model.public_bytes()?)?;
    if let Some(path) = &args.report {
        files::write(path, serde_json::to_string_pretty(&report)?.as_bytes())?;
    }
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        writeln!(out, "{}", report.to_string().trim_end())?;
        writeln!(out, "wrote {} (the server's: it holds the weights) and {}", args.output.display(), public.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn options(args: &Args) -> Options {
    Options {
        name: args.name.clone(),
        input_fraction_bits: args.input_bits,
        input_range: args.input_range.as_deref().and_then(|range| <[f32; 2]>::try_from(range).ok()),
        margin: args.margin,
        relu_width: args.relu_width,
        output_width: args.output_width,
        class_output: args.class_output,
        ..Options::default()
    }
}
