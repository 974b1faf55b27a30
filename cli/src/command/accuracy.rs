//! `safenet accuracy`: how often the integer reference is right.

use crate::images::Sample;
use crate::{command, files, images, record};
use anyhow::{Context, Result, ensure};
use safenet_reference::Reference;
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

/// Accuracy of a compiled network in the clear, in the protocol's own arithmetic
///
/// Each rounding goes to the nearest integer; the protocol rounds at random, up or down. An input that exceeds the ranges
/// for which the model was compiled counts by what the reference makes of it, and is counted as an overflow.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  safenet accuracy mnist-relu.safenet mnist-test.npz
  safenet accuracy mnist-relu.safenet mnist-test.npz --json")]
pub(crate) struct Args {
    /// The server's model file
    model: PathBuf,
    /// NumPy archive with the arrays `image` (N, C, H, W) and `label` (N)
    data: PathBuf,
    /// Threads that compute, each with inputs of its own [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = command::thread_count())]
    threads: Option<usize>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// How some inputs went.
#[derive(Default)]
struct Tally {
    right: usize,
    overflows: usize,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let model = files::server_model(&args.model)?;
    let reference = Reference::new(&model).with_context(|| args.model.display().to_string())?;
    let samples = images::load(&args.data, model.architecture.input)?;
    ensure!(
        samples.iter().all(|s| s.label.is_some()),
        "{}: expected an array `label` with a label of at least 0 for each input",
        args.data.display()
    );
    let bar = command::progress(samples.len() as u64, "inputs");
    let threads = args.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
    let tally = |samples: &[Sample]| {
        let mut tally = Tally::default();
        for sample in samples {
            let input = reference.quantise(&sample.values).with_context(|| sample.name.clone())?;
            let (answer, overflow) = reference.run_nominal_output(&input)?;
            tally.right += usize::from(Some(record::class(&answer, model.architecture.output) as u64) == sample.label);
            tally.overflows += usize::from(overflow.is_some());
            bar.inc(1);
        }
        anyhow::Ok(tally)
    };
    let tallies = thread::scope(|scope| {
        let tally = &tally;
        let chunks = samples.chunks(samples.len().div_ceil(threads).max(1));
        let workers: Vec<_> = chunks.map(|chunk| scope.spawn(move || tally(chunk))).collect();
        let joined = workers.into_iter().map(|w| w.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread failed"))));
        joined.collect::<Result<Vec<Tally>>>()
    })?;
    bar.finish_and_clear();
    let right: usize = tallies.iter().map(|t| t.right).sum();
    let overflows: usize = tallies.iter().map(|t| t.overflows).sum();
    let (total, rate) = (samples.len(), right as f64 / samples.len() as f64);
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({"accuracy": rate, "right": right, "total": total, "overflows": overflows}))?;
    } else {
        writeln!(out, "accuracy {right}/{total} ({:.2} %), {overflows} inputs overflow", 100.0 * rate)?;
    }
    Ok(ExitCode::SUCCESS)
}
