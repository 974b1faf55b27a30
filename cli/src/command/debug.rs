//! `safenet debug`: where private, integer and real values part.

use crate::net;
use crate::table::Table;
use crate::{command, files, images};
use anyhow::{Context, Result, bail, ensure};
use safenet_core::model::{Architecture, ModelFile, Output};
use safenet_core::session::{Client, ClientModel, Options, Server, ServerModel, Session, Status};
use safenet_core::threads::Threads;
use safenet_reference::{Reference, Trace};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// A layer's real values are taken for lost below this signal-to-noise ratio.
const LOST_DB: f64 = 10.0;
/// Bytes moved by one call of a session.
const PIECE: usize = 1 << 20;

/// Show the first layer at which private, integer and real values part
///
/// Runs both parties in this process and puts their words together: nothing is private here. For every layer:
/// whether each value is an allowed rounding of what was computed from the layer's real inputs (the protocol at work, exactly);
/// how far values are from the integer reference with every rounding to the nearest, in units of the last place; and, with
/// --network, the signal-to-noise ratio against the trained network in real numbers.
///
/// The exit status is 0 if all values of all layers are allowed ones.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  safenet debug mnist-relu.safenet digits/00-7.pgm
  safenet debug mnist-relu.safenet digits/00-7.pgm --network mnist-relu.onnx
  safenet debug net.safenet samples.npz --limit 20 --json")]
pub(crate) struct Args {
    /// The server's model file
    model: PathBuf,
    /// The inputs: .pgm, .ppm, .f32 or .npz files, or directories of them
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// The trained network from which the model was compiled
    #[cfg(feature = "compile")]
    #[arg(long, value_name = "NET.onnx")]
    network: Option<PathBuf>,
    /// Inputs to look at, of those given
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Threads that compute, for both parties
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = command::thread_count())]
    threads: usize,
    #[command(flatten)]
    memory: command::WeightMemory,
    /// Print no layers, only what was found of each input
    #[arg(long)]
    summary: bool,
    /// Print one JSON object per input
    #[arg(long)]
    json: bool,
}

/// What was found at one node.
#[derive(Serialize)]
struct Layer {
    name: String,
    kind: &'static str,
    shape: String,
    /// The first value that is no allowed result for the node's inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    /// Largest distance from the integer reference, in units of the last place.
    distance_ulp: u64,
    /// Signal-to-noise ratio against real numbers of the private values.
    #[serde(skip_serializing_if = "Option::is_none")]
    snr_db: Option<f64>,
}

/// What was found on one input.
#[derive(Serialize)]
struct Report {
    input: String,
    layers: Vec<Layer>,
    /// The integer reference leaves the bounds for which the model was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    overflow: Option<String>,
    answer: Vec<i32>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let file = files::server_model(&args.model)?;
    let reference = Reference::new(&file).with_context(|| args.model.display().to_string())?;
    let scales = file.parameters.as_ref().map_or_else(Vec::new, |parameters| parameters.scales.clone());
    let real = RealNetwork::new(args, &file)?;
    let threads = Threads::new(args.threads)?;
    let client = ClientModel::new(file.architecture.clone())?.with_threads(threads.clone());
    drop(file);
    let server = command::server_model(&args.model, args.memory.weight_memory, threads)?;
    let mut samples = images::load_all(&args.inputs, client.architecture().input)?;
    samples.truncate(args.limit as usize);
    let (mut good, mut out) = (true, io::stdout().lock());
    for sample in &samples {
        let input = reference.quantise(&sample.values).with_context(|| sample.name.clone())?;
        let (answer, mut tensors) = private(&client, &server, &input)?;
        let trace = reference.run_nominal(&input)?;
        for ((values, nominal), &bits) in tensors.iter_mut().zip(&trace.tensors).zip(client.word_bits()) {
            complete(values, &nominal.nominal, bits);
        }
        let real = real.trace(&sample.values)?;
        let layers = layers(&reference, &tensors, &trace, real.as_deref(), &scales);
        check_answer(client.architecture(), &answer, &tensors)?;
        good &= layers.iter().all(|layer| layer.fault.is_none());
        let overflow = trace.overflow.as_ref().map(ToString::to_string);
        let report = Report { input: sample.name.clone(), layers, overflow, answer };
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
        } else {
            print(&mut out, &report, args.summary)?;
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The trained network in real numbers, layer by layer as the compiler sees it, if there is one to compare with.
struct RealNetwork {
    #[cfg(feature = "compile")]
    network: Option<safenet_compiler::FloatNetwork>,
}

#[cfg(feature = "compile")]
impl RealNetwork {
    fn new(args: &Args, file: &ModelFile) -> Result<Self> {
        let Some(path) = &args.network else { return Ok(Self { network: None }) };
        let place = || path.display().to_string();
        let (network, names) = safenet_compiler::float_network(&files::model_bytes(path)?).with_context(place)?;
        let known = file.parameters.as_ref().is_some_and(|parameters| !parameters.scales.is_empty());
        ensure!(known, "{}: expected a model file that tells its scales; compile it again", args.model.display());
        let nodes = file.architecture.nodes.iter().map(|node| &node.name);
        if !names.iter().eq(nodes.take(names.len())) {
            bail!("{}: expected the network from which the model was compiled, got another", place());
        }
        Ok(Self { network: Some(network) })
    }

    /// The output of every layer.
    fn trace(&self, values: &[f32]) -> Result<Option<Vec<Vec<f32>>>> {
        Ok(self.network.as_ref().map(|network| network.trace(values)).transpose()?)
    }
}

#[cfg(not(feature = "compile"))]
impl RealNetwork {
    fn new(_: &Args, _: &ModelFile) -> Result<Self> {
        Ok(Self {})
    }

    fn trace(&self, _: &[f32]) -> Result<Option<Vec<Vec<f32>>>> {
        Ok(None)
    }
}

/// Makes integers of values of which only the low bits are known: those that lie nearest to the reference's.
fn complete(values: &mut [i64], nominal: &[i64], bits: u32) {
    for (value, nominal) in values.iter_mut().zip(nominal) {
        let apart = value.wrapping_sub(*nominal) << (64 - bits) >> (64 - bits);
        *value = nominal + apart;
    }
}

/// One inference with both parties in this process: the answer, and every tensor's values as far as their words go.
fn private(model: &ClientModel, server: &ServerModel, input: &[i32]) -> Result<(Vec<i32>, Vec<Vec<i64>>)> {
    let mut client = Client::new(model, Options::default(), net::seed()?);
    let mut server = Server::new(server, Options::default(), net::seed()?);
    client.trace();
    server.trace();
    client.prepare(1)?;
    exchange(&mut client, &mut server)?;
    let Some(&bundle) = client.bundles().first() else { bail!("expected a prepared inference, got none") };
    client.infer(bundle, input)?;
    exchange(&mut client, &mut server)?;
    let answer = client.output().context("expected an output, got none")?.to_vec();
    let (masked, masks) = (server.masked(), client.masks());
    ensure!(masked.len() == masks.len(), "expected as many masks as masked tensors");
    Ok((answer, model.unmask(&masks, &masked)))
}

/// Moves bytes between both parties until the client has what it asked for.
fn exchange(client: &mut Client, server: &mut Server) -> Result<()> {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    loop {
        let status = turn(client, &mut down, &mut up)?;
        turn(server, &mut up, &mut down)?;
        if status == Status::Idle && up.is_empty() && down.is_empty() {
            return Ok(());
        }
    }
}

fn turn(session: &mut impl Session, input: &mut Vec<u8>, output: &mut Vec<u8>) -> Result<Status> {
    let start = output.len();
    output.resize(start + PIECE, 0);
    let progress = session.advance(input, &mut output[start..])?;
    output.truncate(start + progress.produced);
    input.drain(..progress.consumed);
    Ok(progress.status)
}

fn check_answer(architecture: &Architecture, answer: &[i32], tensors: &[Vec<i64>]) -> Result<()> {
    let last = tensors.last().map_or(&[][..], Vec::as_slice);
    let told = |&value: &i64| match architecture.output {
        Output::Scores => value,
        Output::Class { index_bits } => value & ((1 << index_bits) - 1),
    };
    ensure!(
        answer.iter().map(|&v| i64::from(v)).eq(last.iter().map(told)),
        "expected the last layer's values as answer"
    );
    Ok(())
}

fn layers(
    reference: &Reference,
    tensors: &[Vec<i64>],
    trace: &Trace,
    real: Option<&[Vec<f32>]>,
    scales: &[Vec<f32>],
) -> Vec<Layer> {
    let shapes = reference.shapes();
    let nodes = reference.architecture().nodes.iter().enumerate();
    nodes
        .map(|(index, node)| {
            let inputs: Vec<&[i64]> = node.inputs.iter().map(|&t| &tensors[t as usize][..]).collect();
            let (values, shape) = (&tensors[index + 1], shapes[index + 1]);
            let fault = reference.allowed(index, &inputs, values).map(|violation| violation.to_string());
            let distances = values.iter().zip(&trace.tensors[index + 1].nominal).map(|(a, b)| a.abs_diff(*b));
            let real = real.and_then(|layers| layers.get(index));
            let snr_db = real.zip(scales.get(index)).map(|(real, scales)| snr(values, real, scales, shape.plane()));
            Layer {
                name: node.name.clone(),
                kind: command::kind(&node.op, shapes[node.inputs[0] as usize]),
                shape: shape.to_string(),
                fault,
                distance_ulp: distances.max().unwrap_or(0),
                snr_db: snr_db.flatten(),
            }
        })
        .collect()
}

/// Signal-to-noise ratio in decibels; none where nothing is compared.
fn snr(values: &[i64], real: &[f32], scales: &[f32], plane: usize) -> Option<f64> {
    let (mut signal, mut noise) = (0.0, 0.0);
    for ((value, real), scale) in
        values.iter().zip(real).zip(scales.iter().flat_map(|s| std::iter::repeat_n(*s, plane)))
    {
        let real = f64::from(*real);
        signal += real * real;
        noise += (*value as f64 / f64::from(scale) - real).powi(2);
    }
    (signal > 0.0 && noise > 0.0 && noise.is_finite()).then(|| 10.0 * (signal / noise).log10())
}

fn print(out: &mut impl Write, report: &Report, summary: bool) -> Result<()> {
    writeln!(out, "{}", report.input)?;
    let with_real = report.layers.iter().any(|layer| layer.snr_db.is_some());
    let mut titles = vec!["<layer", "<kind", "shape", "<private values", "off reference, ulp"];
    titles.extend(with_real.then_some("SNR, dB"));
    let mut table = Table::new(&titles);
    for layer in &report.layers {
        let allowed = if layer.fault.is_none() { "allowed" } else { "NOT ALLOWED" };
        let row = [
            layer.name.clone(),
            layer.kind.into(),
            layer.shape.clone(),
            allowed.into(),
            layer.distance_ulp.to_string(),
        ];
        let snr = layer.snr_db.map_or_else(|| "-".to_owned(), |snr| format!("{snr:.1}"));
        table.row(row.into_iter().chain(with_real.then_some(snr)));
    }
    if !summary {
        writeln!(out, "{table}")?;
    }
    match report.layers.iter().find_map(|layer| layer.fault.as_ref()) {
        Some(fault) => writeln!(out, "private against integer: the first value that is not allowed: {fault}")?,
        None => writeln!(out, "private against integer: every value of every layer is an allowed rounding")?,
    }
    if let Some(overflow) = &report.overflow {
        writeln!(out, "integer: {overflow}; the input is outside what the model was compiled for")?;
    }
    if with_real {
        match report.layers.iter().find(|layer| layer.snr_db.is_some_and(|snr| snr < LOST_DB)) {
            Some(layer) => writeln!(
                out,
                "integer against real: the first layer below {LOST_DB} dB is {}; compile with other samples, a wider ReLU or more \
                 input bits",
                layer.name
            )?,
            None => writeln!(out, "integer against real: no layer below {LOST_DB} dB")?,
        }
    }
    Ok(())
}
