//! `safenet verify`: checks the results of private inferences against the integer reference.

use crate::files;
use crate::images::{Library, Sample};
use crate::record::{self, Record, median};
use anyhow::{Context, Result, ensure};
use safenet_reference::Reference;
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Largest file of results or labels that is read.
const RESULTS_BYTES: u64 = 1 << 30;

/// Check results of private inferences against the integer reference
///
/// Every output must be one that some choice of the protocol's roundings gives for its input. The last line sums up; the
/// exit status is 0 only if all results match.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  safenet infer localhost:7878 --model mnist-relu.public digits/*.pgm --json > results.json
  safenet verify mnist-relu.safenet --results results.json --plan relu --labels digits/labels.txt")]
pub(crate) struct Args {
    /// The server's model file
    model: PathBuf,
    /// Results, as `safenet infer --json` prints them
    #[arg(long, value_name = "FILE")]
    results: PathBuf,
    /// Name of the plan, for the last line
    #[arg(long, value_name = "NAME")]
    plan: String,
    /// Lines `FILE LABEL`; else the label is what stands after the last dash of a name like 07-9.pgm
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Where the images are, if not where the results say
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let model = files::server_model(&args.model)?;
    let reference = Reference::new(&model).with_context(|| args.model.display().to_string())?;
    let records = records(&args.results)?;
    let labels = args.labels.as_deref().map(labels).transpose()?;
    let mut out = io::stdout().lock();
    let mut library = Library::new(args.images.clone(), model.architecture.input);
    let (mut matching, mut labelled, mut right) = (0, 0, 0);
    for record in &records {
        let sample = library.get(&record.image)?;
        let faults = faults(&reference, sample, record)?;
        matching += usize::from(faults.is_empty());
        for fault in &faults {
            writeln!(out, "{}: {fault}", record.image)?;
        }
        let label = match &labels {
            Some(labels) => {
                Path::new(&record.image).file_name().and_then(|n| n.to_str()).and_then(|n| labels.get(n)).copied()
            }
            None => sample.label,
        };
        if let Some(label) = label {
            labelled += 1;
            right += usize::from(record.class as u64 == label);
        } else {
            writeln!(out, "{}: no label", record.image)?;
        }
    }
    let of = |value: fn(&Record) -> f64| median(records.iter().map(value));
    // What has no label counts as wrong, unless nothing has one.
    let accuracy = if labelled == 0 { "unknown".to_owned() } else { format!("{right}/{}", records.len()) };
    writeln!(
        out,
        "demo {}: {matching}/{} private results match the integer reference, accuracy {accuracy}, \
         prepare_ms={:.1} online_ms={:.1} prepare_bytes={:.0} online_bytes={:.0} rounds={:.0}",
        args.plan,
        records.len(),
        of(|r| r.prepare_ms),
        of(|r| r.online_ms),
        of(|r| r.prepare_bytes as f64),
        of(|r| r.online_bytes as f64),
        of(|r| r.rounds_prepare as f64 + r.rounds_online as f64),
    )?;
    Ok(if matching == records.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that is wrong with a result.
fn faults(reference: &Reference, sample: &Sample, record: &Record) -> Result<Vec<String>> {
    let input = reference.quantise(&sample.values).with_context(|| sample.name.clone())?;
    let trace = reference.run(&input)?;
    let expected = trace.output();
    let mut faults = vec![];
    if let Some(overflow) = &trace.overflow {
        faults.push(format!("the input is outside what the model was compiled for: {overflow}"));
    }
    if record.outputs.len() != expected.nominal.len() {
        faults.push(format!("expected {} outputs, got {}", expected.nominal.len(), record.outputs.len()));
        return Ok(faults);
    }
    for (index, (&value, (&low, &high))) in
        record.outputs.iter().zip(expected.low.iter().zip(&expected.high)).enumerate()
    {
        if !(low..=high).contains(&i64::from(value)) {
            faults.push(format!("output {index}: expected {low} to {high}, got {value}"));
        }
    }
    let largest = record::class(&record.outputs, reference.architecture().output);
    if record.class != largest {
        faults.push(format!("class: expected {largest}, the index of the largest output, got {}", record.class));
    }
    Ok(faults)
}

fn records(path: &Path) -> Result<Vec<Record>> {
    let text = String::from_utf8(files::read(path, RESULTS_BYTES)?)
        .with_context(|| format!("{}: expected text", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(number, line)| {
        serde_json::from_str(line)
            .with_context(|| format!("{}, line {}: expected a result", path.display(), number + 1))
    };
    let records = lines.map(parse).collect::<Result<Vec<Record>>>()?;
    ensure!(!records.is_empty(), "{}: expected results, one JSON object per line, got none", path.display());
    Ok(records)
}

/// Labels by file name.
fn labels(path: &Path) -> Result<HashMap<String, u64>> {
    let text = String::from_utf8(files::read(path, RESULTS_BYTES)?)
        .with_context(|| format!("{}: expected text", path.display()))?;
    let mut labels = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let label = words.next().and_then(|word| word.parse().ok());
        let label = label.with_context(|| format!("{}, line {}: expected FILE LABEL", path.display(), number + 1))?;
        labels.insert(name.to_owned(), label);
    }
    Ok(labels)
}
