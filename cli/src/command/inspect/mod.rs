//! `safenet inspect`: what a model is, what it costs, and how sure its arithmetic is.

use crate::command;
use crate::table::{self, Table};
use crate::{files, images};
use anyhow::{Context, Result, bail};
use safenet_core::model::{Activation, Architecture, Calibration, Channel, Kind, ModelFile, Op};
use safenet_core::ot::Extension;
use safenet_core::ot::softspoken::Depth;
use safenet_core::session::{Build, ClientModel, Forecast, Options, Phase, Place, Portions, ServerModel, Traffic};
use safenet_core::threads::Threads;
use safenet_reference::{Overflow, Reference};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Show a model: its layers, their arithmetic, and what an inference will cost
///
/// Works on the server's file and on the public part. Columns: the tensor that a layer makes and its fraction bits; the
/// bits b of its bound and those that truncation drops, over its channels; how many channels have which activation; bytes
/// up (client to server) and down of both phases.
///
/// Of the server's file also: the noise of each linear layer's encryption, in bits, against the bits that flooding hides;
/// and the rounding interval of the output, in units of its last place: how far apart two private inferences on the same
/// input may be. With --images it is the widest over these inputs; without, the widest
/// over the compiler's samples, and a range that holds the outputs of every input.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  safenet inspect mnist-relu.public
  safenet inspect mnist-relu.safenet --images digits
  safenet inspect mnist-relu.safenet --json")]
pub(crate) struct Args {
    /// The server's model file, or its public part
    file: PathBuf,
    /// Inputs for which to derive the rounding interval: .pgm, .ppm, .f32, .npz files, or directories of them
    #[arg(long, value_name = "IMAGE", num_args = 1..)]
    images: Vec<PathBuf>,
    #[command(flatten)]
    choices: command::Choices,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Rounding intervals from here on say nothing: outputs have some 16 bits.
const USELESS_ULP: u32 = 1 << 16;
const USELESS_INTERVAL: i64 = USELESS_ULP as i64;

/// Both directions of both phases.
#[derive(Clone, Copy, Default, Serialize)]
struct Bytes {
    prepare_bytes_up: u64,
    prepare_bytes_down: u64,
    online_bytes_up: u64,
    online_bytes_down: u64,
}

#[derive(Serialize)]
struct Layer {
    name: String,
    kind: &'static str,
    shape: [u32; 3],
    /// Of an activation's output; a linear output has those of what follows it and the shift.
    #[serde(skip_serializing_if = "Option::is_none")]
    fraction_bits: Option<u8>,
    /// Smallest and largest over the channels that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    bound_bits: Option<[u8; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shift: Option<[u8; 2]>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    channels: BTreeMap<&'static str, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    noise_bits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    noise_budget_bits: Option<u32>,
    #[serde(flatten)]
    bytes: Bytes,
}

#[derive(Serialize)]
struct Report {
    model: String,
    model_id: String,
    file: &'static str,
    input: [u32; 3],
    input_fraction_bits: u8,
    input_range: [f64; 2],
    output_fraction_bits: u8,
    /// Whether the client learns the class with the largest score alone.
    class_output: bool,
    activations: usize,
    layers: Vec<Layer>,
    shared: Bytes,
    total: Bytes,
    rounds_prepare: u64,
    rounds_online: u64,
    memory: MemoryReport,
    /// A client with the library's feature `small`.
    small_client: Vec<SmallClient>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rounding: Option<Rounding>,
}

/// Bytes that both parties hold.
#[derive(Serialize)]
struct MemoryReport {
    client_prepared_inference: u64,
    server_prepared_inference: u64,
    server_while_preparing: u64,
    server_transformed_weights: u64,
}

/// What a client built for little memory takes, with the least that it can work on at a time or with what fits a limit.
#[derive(Serialize)]
struct SmallClient {
    /// Whether inferences are carried out in a stream; else one is prepared as a whole.
    stream: bool,
    /// Most of the heap.
    bytes: u64,
    ot_extension: u8,
    /// Elements whose random OTs are extended together, and of a part in a stream.
    chunk: u32,
    part: u32,
    /// Of one inference.
    traffic_bytes: u64,
    rounds: u64,
}

impl SmallClient {
    fn new(model: &ClientModel, options: &Options, stream: bool) -> Self {
        let (forecast, memory) = match stream {
            true => (model.forecast_stream(options), model.memory_of_stream(options, Build::Small)),
            false => (model.forecast(options), model.memory_ahead(options, Build::Small)),
        };
        Self {
            stream,
            bytes: memory.peak,
            ot_extension: options.extension.code(),
            chunk: options.portions.chunk,
            part: options.portions.part,
            traffic_bytes: forecast.traffic.iter().map(|(_, traffic)| traffic.sent + traffic.received).sum(),
            rounds: forecast.prepare_rounds + forecast.infer_rounds,
        }
    }

    /// With the least memory; or, within a limit, with what a client would choose.
    fn all(model: &ClientModel, options: &Options) -> Result<Vec<Self>> {
        let unit = Portions { chunk: Portions::UNIT, part: Portions::UNIT };
        let least = Options { extension: Extension::SoftSpoken(Depth::Two), portions: unit, ..*options };
        let Some(limit) = options.memory else {
            return Ok([true, false].map(|stream| Self::new(model, &least, stream)).into());
        };
        let fitted = model.fit(options, Build::Small)?;
        let ahead = Self::new(model, &fitted, false);
        let chosen = [Self::new(model, &fitted, true)].into_iter().chain((ahead.bytes <= limit).then_some(ahead));
        Ok(chosen.collect())
    }
}

/// What the reference says of the output.
#[derive(Serialize)]
struct Rounding {
    /// Inputs looked at; 0 for the whole input range at once.
    inputs: usize,
    /// The widest interval of an output.
    interval_ulp: i64,
    /// What the compiler measured, if the whole input range is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration: Option<Calibration>,
    /// The first bound that is exceeded or cannot be proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    overflow: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    possible_overflow: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let place = || args.file.display().to_string();
    let file = files::model(&args.file)?;
    let secret = file.parameters.is_some();
    if !secret && !args.images.is_empty() {
        bail!("{}: --images: expected the server's model file, got the public part", place());
    }
    let rounding = if secret { Some(rounding(&file, &args.images).with_context(place)?) } else { None };
    let model = ClientModel::new(file.architecture.clone()).with_context(place)?;
    // Nothing is multiplied here: no weights need to be transformed.
    let noise = match secret {
        true => ServerModel::load(file, 0, Threads::default(), &mut |_, _| {}).with_context(place)?.noise_bits(),
        false => vec![],
    };
    let forecast = model.forecast(&args.choices.fixed()?);
    let small = SmallClient::all(&model, &args.choices.fixed()?).with_context(place)?;
    let report = report(model.architecture(), &forecast, &noise, (small, rounding))?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        print(&mut out, &report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn rounding(file: &ModelFile, paths: &[PathBuf]) -> Result<Rounding> {
    let reference = Reference::new(file)?;
    let samples = images::load_all(paths, file.architecture.input)?;
    let mut rounding =
        Rounding { inputs: samples.len(), interval_ulp: 0, calibration: None, overflow: None, possible_overflow: None };
    for sample in &samples {
        let input = reference.quantise(&sample.values).with_context(|| sample.name.clone())?;
        let trace = reference.run(&input)?;
        let named = |overflow: &Overflow| format!("{}: {overflow}", sample.name);
        rounding.interval_ulp = rounding.interval_ulp.max(trace.output().max_spread());
        rounding.overflow = rounding.overflow.take().or(trace.overflow.as_ref().map(named));
        rounding.possible_overflow = rounding.possible_overflow.take().or(trace.possible_overflow.as_ref().map(named));
    }
    if samples.is_empty() {
        let [low, high] = file.architecture.input_range.map(|end| vec![end; file.architecture.input.elements()]);
        let trace = reference.run_range(&low, &high)?;
        rounding.interval_ulp = reference.worst_spread();
        rounding.calibration = file.parameters.as_ref().map(|p| p.calibration).filter(|made| made.samples > 0);
        rounding.possible_overflow = trace.possible_overflow.as_ref().map(ToString::to_string);
    }
    Ok(rounding)
}

fn report(
    architecture: &Architecture,
    forecast: &Forecast,
    noise: &[Option<(u32, u32)>],
    (small_client, rounding): (Vec<SmallClient>, Option<Rounding>),
) -> Result<Report> {
    let shapes = architecture.shapes()?;
    let traffic: BTreeMap<Place, Traffic> = forecast.traffic.iter().copied().collect();
    let bytes = |node| {
        let at = |phase| traffic.get(&Place { phase, node }).copied().unwrap_or_default();
        let (prepare, online) = (at(Phase::Prepare), at(Phase::Infer));
        Bytes {
            prepare_bytes_up: prepare.sent,
            prepare_bytes_down: prepare.received,
            online_bytes_up: online.sent,
            online_bytes_down: online.received,
        }
    };
    let mut layers = vec![];
    for (index, node) in architecture.nodes.iter().enumerate() {
        let shape = shapes[index + 1];
        let activation = if let Op::Activation(activation) = &node.op { Some(activation) } else { None };
        let (noise_bits, noise_budget_bits) = noise.get(index).copied().flatten().unzip();
        layers.push(Layer {
            name: node.name.clone(),
            kind: command::kind(&node.op, shapes[node.inputs[0] as usize]),
            shape: [shape.channels, shape.height, shape.width],
            fraction_bits: activation.map(|a| a.fraction_bits),
            bound_bits: activation.and_then(|a| range(a, |c| c.bound_bits)),
            shift: activation.and_then(|a| range(a, |c| c.shift)),
            channels: activation.map(kinds).unwrap_or_default(),
            noise_bits,
            noise_budget_bits,
            bytes: bytes(Some(index as u32)),
        });
    }
    let shared = bytes(None);
    let total = layers.iter().map(|l| l.bytes).fold(shared, |a, b| Bytes {
        prepare_bytes_up: a.prepare_bytes_up + b.prepare_bytes_up,
        prepare_bytes_down: a.prepare_bytes_down + b.prepare_bytes_down,
        online_bytes_up: a.online_bytes_up + b.online_bytes_up,
        online_bytes_down: a.online_bytes_down + b.online_bytes_down,
    });
    let activations =
        architecture.nodes.iter().zip(&shapes[1..]).filter(|(n, _)| matches!(n.op, Op::Activation(_) | Op::Max(_)));
    let scale = f64::from(1u32 << architecture.input_fraction_bits);
    Ok(Report {
        model: architecture.name.clone(),
        model_id: files::id(architecture)?,
        file: if noise.is_empty() { "public part" } else { "server's file" },
        input: [architecture.input.channels, architecture.input.height, architecture.input.width],
        input_fraction_bits: architecture.input_fraction_bits,
        input_range: architecture.input_range.map(|end| f64::from(end) / scale),
        output_fraction_bits: architecture.output_fraction_bits(),
        class_output: architecture.output != safenet_core::model::Output::Scores,
        activations: activations.map(|(_, shape)| shape.elements()).sum(),
        layers,
        shared,
        total,
        rounds_prepare: forecast.prepare_rounds,
        rounds_online: forecast.infer_rounds,
        memory: MemoryReport {
            client_prepared_inference: forecast.memory.client_bundle,
            server_prepared_inference: forecast.memory.server_bundle,
            server_while_preparing: forecast.memory.server_prepare,
            server_transformed_weights: forecast.memory.weights,
        },
        small_client,
        rounding,
    })
}

/// Smallest and largest of a number over the channels that have it.
fn range(activation: &Activation, number: impl Fn(&Channel) -> u8) -> Option<[u8; 2]> {
    let live = || activation.channels.iter().filter(|c| c.kind != Kind::Zero).map(&number);
    Some([live().min()?, live().max()?])
}

fn kinds(activation: &Activation) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for channel in &activation.channels {
        *kinds.entry(channel.kind.name()).or_default() += 1;
    }
    kinds
}

fn print(out: &mut impl Write, report: &Report) -> Result<()> {
    let [low, high] = report.input_range;
    let shape = |[c, h, w]: [u32; 3]| format!("{c}x{h}x{w}");
    writeln!(out, "model  {} ({})", report.model, report.file)?;
    writeln!(out, "id     {}", report.model_id)?;
    writeln!(
        out,
        "input  {}, {low} to {high}, {} fraction bits; output {}; {} activations\n",
        shape(report.input),
        report.input_fraction_bits,
        if report.class_output {
            "the class alone".to_owned()
        } else {
            format!("{} fraction bits", report.output_fraction_bits)
        },
        report.activations,
    )?;
    let mut titles = vec!["<layer", "<kind", "shape", "fraction", "bound", "shift", "<channels"];
    let noise = report.layers.iter().any(|l| l.noise_bits.is_some());
    if noise {
        titles.push("noise bits");
    }
    titles.extend(["prepare up", "down", "online up", "down"]);
    let mut table = Table::new(&titles);
    let mut row = |head: [String; 7], noise_bits: String, bytes: &Bytes| {
        let size = |n: u64| if n == 0 { "-".to_owned() } else { table::bytes(n) };
        let sizes = [bytes.prepare_bytes_up, bytes.prepare_bytes_down, bytes.online_bytes_up, bytes.online_bytes_down];
        table.row(head.into_iter().chain(noise.then_some(noise_bits)).chain(sizes.map(size)));
    };
    for layer in &report.layers {
        let range = |range: Option<[u8; 2]>| match range {
            None => String::new(),
            Some([low, high]) if low == high => low.to_string(),
            Some([low, high]) => format!("{low}-{high}"),
        };
        let channels: Vec<String> = layer.channels.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let noise = layer.noise_bits.zip(layer.noise_budget_bits).map(|(bits, budget)| format!("{bits} of {budget}"));
        let head = [
            layer.name.clone(),
            layer.kind.to_owned(),
            shape(layer.shape),
            layer.fraction_bits.map(|f| f.to_string()).unwrap_or_default(),
            range(layer.bound_bits),
            range(layer.shift),
            channels.join(", "),
        ];
        row(head, noise.unwrap_or_default(), &layer.bytes);
    }
    let named = |name: &str| {
        let mut head = <[String; 7]>::default();
        head[0] = name.to_owned();
        head
    };
    row(named("(whole network)"), String::new(), &report.shared);
    row(named("total"), String::new(), &report.total);
    writeln!(out, "{table}")?;
    writeln!(
        out,
        "one inference: prepare {}, {}; online {}, {}",
        table::bytes(report.total.prepare_bytes_up + report.total.prepare_bytes_down),
        table::count(report.rounds_prepare, "round trip"),
        table::bytes(report.total.online_bytes_up + report.total.online_bytes_down),
        table::count(report.rounds_online, "round trip"),
    )?;
    let memory = &report.memory;
    writeln!(
        out,
        "memory: a prepared inference takes {} at the client, {} at the server; preparing it, up to {} more at the server, for \
         ciphertexts; all weights transformed {} (--weight-memory of serve limits it)",
        table::bytes(memory.client_prepared_inference),
        table::bytes(memory.server_prepared_inference),
        table::bytes(memory.server_while_preparing),
        table::bytes(memory.server_transformed_weights),
    )?;
    for client in &report.small_client {
        writeln!(
            out,
            "{} {} of the heap on a microcontroller, {}: OT extension {}, {} elements at a time{}; {}, {}",
            if client.stream { "client: at most" } else { "        at most" },
            table::bytes(client.bytes),
            if client.stream { "in a stream" } else { "with an inference prepared" },
            client.ot_extension,
            client.chunk,
            if client.stream { format!(" in parts of {}", client.part) } else { String::new() },
            table::bytes(client.traffic_bytes),
            table::count(client.rounds, "round trip"),
        )?;
    }
    if let Some(rounding) = &report.rounding {
        let ulp = rounding.interval_ulp;
        match rounding.inputs {
            0 => {
                if let Some(made) = &rounding.calibration {
                    writeln!(
                        out,
                        "roundings: drawn at random, they moved an output by at most {} units of the last place; the two best outputs are {} apart (median)",
                        made.drawn_ulp, made.gap_ulp
                    )?;
                    if made.rounding_ulp < USELESS_ULP {
                        writeln!(
                            out,
                            "        rounding interval of the output: at most {} on {} calibration samples",
                            made.rounding_ulp, made.samples
                        )?;
                    }
                }
                match ulp {
                    0..USELESS_INTERVAL => writeln!(out, "        at most {ulp} for every input that there could be")?,
                    _ => writeln!(out, "        (worst cases of so deep a network say nothing)")?,
                }
            }
            n => writeln!(
                out,
                "rounding interval of the output: at most {ulp} units of the last place, over {}",
                table::count(n as u64, "input")
            )?,
        }
        let of = if rounding.inputs == 0 { "of every input" } else { "of these inputs" };
        match (&rounding.overflow, &rounding.possible_overflow) {
            (Some(overflow), _) => writeln!(out, "bounds: exceeded, an answer is wrong: {overflow}")?,
            (None, Some(possible)) => {
                writeln!(out, "bounds: not proven for the values {of}; first {possible}")?;
                writeln!(
                    out,
                    "        (what is stated of the rounding interval holds where no value exceeds its bound)"
                )?;
            }
            (None, None) => writeln!(out, "bounds: proven for the values {of}")?,
        }
    }
    Ok(())
}
