//! `safenet reference`: the network in the clear, with the protocol's arithmetic.

use crate::{files, images, record};
use anyhow::{Context, Result};
use safenet_reference::Reference;
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Run a network in the clear, in the protocol's own arithmetic
///
/// Prints each score with the lowest and the highest value that the protocol's random roundings may give.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  safenet reference mnist-relu.safenet digits/00-7.pgm
  safenet reference mnist-relu.safenet digits --json")]
pub(crate) struct Args {
    /// The server's model file
    model: PathBuf,
    /// The inputs: .pgm, .ppm, .f32 or .npz files, or directories of them
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Print one JSON object per input
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let model = files::server_model(&args.model)?;
    let reference = Reference::new(&model).with_context(|| args.model.display().to_string())?;
    let mut out = io::stdout().lock();
    for sample in images::load_all(&args.images, model.architecture.input)? {
        let input = reference.quantise(&sample.values).with_context(|| sample.name.clone())?;
        let trace = reference.run(&input)?;
        let output = trace.output();
        let nominal = trace.nominal_answer();
        let class = record::class(&nominal, model.architecture.output);
        let scores = reference.scores(&nominal);
        let overflow = trace.overflow.as_ref().map(ToString::to_string);
        let possible = trace.possible_overflow.as_ref().map(ToString::to_string);
        if args.json {
            let line = json!({
                "image": sample.name, "class": class, "outputs": nominal, "scores": scores,
                "low": output.low, "high": output.high, "overflow": overflow, "possible_overflow": possible,
            });
            writeln!(out, "{line}")?;
            continue;
        }
        writeln!(out, "{}: class {class}", sample.name)?;
        for (index, score) in scores.iter().enumerate() {
            let (low, value, high) = (output.low[index], nominal[index], output.high[index]);
            writeln!(out, "  {index:>4}  {score:>10.4}  integer {value}, {low} to {high}")?;
        }
        match (overflow, possible) {
            (Some(overflow), _) => writeln!(out, "  outside what the model was compiled for: {overflow}")?,
            (None, Some(possible)) => writeln!(out, "  some choice of roundings may overflow: {possible}")?,
            (None, None) => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}
