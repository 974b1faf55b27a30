//! `safenet bench`: what private inference of a model costs, both parties on this machine.

mod figures;
pub(crate) mod server;
mod timed;

use crate::net::{self, Connection};
use crate::table::{self, Table};
use crate::{alloc, command, files, images};
use anyhow::{Context, Result, bail, ensure};
use figures::{Figures, Run, Summary};
use safenet_core::model::Output as Answer;
use safenet_core::ot::softspoken::Depth;
use safenet_core::prg::{Prg, SEED_BYTES, Seed};
use safenet_core::session::{Client, ClientModel, Options, drive};
use safenet_reference::{Reference, Trace};
use serde::Serialize;
use server::{Opening, Report};
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Instant;
use timed::Timed;

/// Seed of the inputs that are drawn without --images. The protocol's own randomness always comes from the system.
const INPUT_SEED: u8 = 1;

/// Measure private inference of a model, client and server on this machine
///
/// The server runs in a process of its own, over loopback TCP without delayed packets. Every run is a session: set-up, then
/// prepare, then inferences; figures are medians over runs, for one inference.
///
/// Heap is what the party's own code allocates at its peak, the loaded model included: not the stacks, not the program, not
/// the kernel's buffers, and not what loading the model took before the first session. A layer's seconds are those that both
/// parties computed for it, waiting not included.
///
/// Every output is checked against the integer reference; the exit status is 0 only if all lie within its intervals.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  safenet bench mnist-relu.safenet
  safenet bench mnist-relu.safenet --images digits --runs 20 --json > bench.json
  safenet bench mnist-relu.safenet --ot-depth 8 --batch 16")]
pub(crate) struct Args {
    /// The server's model file
    model: PathBuf,
    /// Inputs: a .pgm, .ppm, .f32 or .npz file or a directory of them; else random ones within the model's range
    #[arg(long, value_name = "FILE|DIR")]
    images: Option<PathBuf>,
    /// Sessions to measure
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// Inferences prepared together in each session
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Depth of the OT extension, 2, 4 or 8: more is less traffic and more work
    #[arg(long, value_name = "K", value_parser = command::depth)]
    ot_depth: Option<Depth>,
    #[command(flatten)]
    memory: command::WeightMemory,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    model: &'a str,
    model_id: String,
    runs: u32,
    batch: u32,
    ot_depth: usize,
    inputs: String,
    setup_s: f64,
    setup_bytes_up: u64,
    setup_bytes_down: u64,
    #[serde(flatten)]
    whole: Figures,
    /// Peak heap with the loaded model, and the model's own part of it.
    client_peak_heap: u64,
    client_model_heap: u64,
    server_peak_heap: u64,
    server_model_heap: u64,
    max_ulp: u64,
    /// The widest of the reference's intervals: in deep networks it is so wide that it says nothing (see `safenet debug`).
    interval_ulp: i64,
    /// Whether every output lies within the reference's interval.
    matches: bool,
    layers: &'a [figures::Layer],
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let file = files::server_model(&args.model)?;
    let reference = Reference::new(&file).with_context(|| args.model.display().to_string())?;
    let public = file.public_bytes()?;
    let id = files::id(&file.architecture)?;
    drop(file);
    let (inputs, described) = inputs(args, &reference)?;
    let traces = inputs.iter().map(|input| Ok(reference.run(input)?)).collect::<Result<Vec<Trace>>>()?;

    let empty = alloc::current();
    let model = ClientModel::read(&public)?;
    let client_model_heap = (alloc::current() - empty) as u64;
    let options = Options { max_bundles: args.batch, ..command::options(args.ot_depth) };

    let child = ServerProcess::start(args)?;
    let bar = command::progress(args.runs.into(), "runs");
    let (mut runs, mut outputs, mut client_heap) = (vec![], vec![], 0);
    let mut next = inputs.iter().cycle();
    for _ in 0..args.runs {
        let before = alloc::current();
        alloc::reset_peak();
        let batch: Vec<&[i32]> = next.by_ref().take(args.batch as usize).map(Vec::as_slice).collect();
        let (run, answers) = session(&model, options, child.port, &batch)?;
        client_heap = client_heap.max((alloc::peak() - before) as u64);
        runs.push(run);
        outputs.extend(answers);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let report = child.finish()?;

    let (mut max_ulp, mut faults) = (0, vec![]);
    for (output, (index, trace)) in outputs.iter().zip(traces.iter().enumerate().cycle()) {
        // Of a class there is no distance.
        if model.architecture().output == Answer::Scores {
            max_ulp = max_ulp.max(trace.max_ulp(output)?);
        }
        if let Some(mismatch) = trace.contains(output)? {
            faults.push(format!("input {index}: {mismatch}"));
        }
    }
    for (index, trace) in traces.iter().enumerate() {
        if let Some(overflow) = &trace.overflow {
            eprintln!("safenet: input {index} is outside what the model was compiled for: {overflow}");
        }
    }
    let summary = Summary::new(model.architecture(), reference.shapes(), &runs, &report.sessions);
    let name = args.model.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let output = Output {
        model: &name,
        model_id: id,
        runs: args.runs,
        batch: args.batch,
        ot_depth: options.ot_depth.bits(),
        inputs: described,
        setup_s: summary.setup_s,
        setup_bytes_up: summary.setup.sent,
        setup_bytes_down: summary.setup.received,
        whole: summary.whole,
        client_peak_heap: client_model_heap + client_heap,
        client_model_heap,
        server_peak_heap: report.model_heap + report.session_heap,
        server_model_heap: report.model_heap,
        max_ulp,
        interval_ulp: traces.iter().map(|trace| trace.output().max_spread()).max().unwrap_or(0),
        matches: faults.is_empty(),
        layers: &summary.layers,
    };
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&output)?)?;
    } else {
        print(&mut out, &output)?;
    }
    out.flush()?;
    if !faults.is_empty() {
        bail!(
            "{} of {} outputs are outside the reference's interval, the first: {}",
            faults.len(),
            outputs.len(),
            faults[0]
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The inputs of all inferences, which take turns, and where they come from.
fn inputs(args: &Args, reference: &Reference) -> Result<(Vec<Vec<i32>>, String)> {
    let architecture = reference.architecture();
    if let Some(path) = &args.images {
        let samples = images::load_all(std::slice::from_ref(path), architecture.input)?;
        ensure!(!samples.is_empty(), "{}: expected at least one input, got none", path.display());
        let encode = |s: &images::Sample| reference.quantise(&s.values).with_context(|| s.name.clone());
        let needed = (args.runs * args.batch) as usize;
        let inputs = samples.iter().take(needed).map(encode).collect::<Result<Vec<_>>>()?;
        return Ok((inputs, path.display().to_string()));
    }
    let mut prg = Prg::new(&Seed::from_bytes([INPUT_SEED; SEED_BYTES]));
    let [low, high] = architecture.input_range.map(i64::from);
    ensure!(low <= high, "input range: expected low <= high, got {low} and {high}");
    let mut value = || (low + prg.below((high - low + 1) as u64) as i64) as i32;
    let elements = architecture.input.elements();
    let inputs = (0..args.runs).map(|_| (0..elements).map(|_| value()).collect()).collect();
    Ok((inputs, format!("random, seed {INPUT_SEED}")))
}

/// One session: set-up, then as many inferences as there are inputs, prepared together.
fn session(model: &ClientModel, options: Options, port: u16, inputs: &[&[i32]]) -> Result<(Run, Vec<Vec<i32>>)> {
    let mut connection = Connection::open(&format!("127.0.0.1:{port}"))?;
    let mut client = Timed::client(Client::new(model, options, net::seed()?));
    let mut timed = |client: &mut Timed<Client>| -> Result<f64> {
        let start = Instant::now();
        drive(client, &mut connection)?;
        Ok(start.elapsed().as_secs_f64())
    };
    client.session().prepare(0)?;
    let setup_s = timed(&mut client)?;
    client.session().prepare(inputs.len() as u32)?;
    let prepare_s = timed(&mut client)?;
    let (mut online_s, mut outputs) = (vec![], vec![]);
    for input in inputs {
        let Some(&bundle) = client.session().bundles().first() else {
            bail!("expected a prepared inference, got none");
        };
        client.session().infer(bundle, input)?;
        online_s.push(timed(&mut client)?);
        outputs.push(client.session().output().context("expected an output, got none")?.to_vec());
    }
    // Before the farewell, which is no part of an inference.
    let meter = client.session().meter();
    client.session().close()?;
    timed(&mut client)?;
    Ok((Run { setup_s, prepare_s, online_s, meter, client: client.costs().clone() }, outputs))
}

/// The server's process; killed if it is not finished.
struct ServerProcess {
    child: Child,
    lines: BufReader<ChildStdout>,
    port: u16,
}

impl ServerProcess {
    fn start(args: &Args) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut child = Command::new(program)
            .arg("bench-server")
            .args(["--sessions", &args.runs.to_string(), "--max-prepared", &args.batch.to_string()])
            .args(["--weight-memory", &args.memory.weight_memory.to_string(), "--"])
            .arg(&args.model)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the server's process")?;
        let lines = BufReader::new(child.stdout.take().context("the server's process has no output")?);
        let mut server = Self { child, lines, port: 0 };
        server.port = server.line::<Opening>()?.port;
        Ok(server)
    }

    fn line<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.lines.read_line(&mut line).context("server's process")?;
        ensure!(!line.is_empty(), "server's process: expected its report, it ended without");
        serde_json::from_str(&line).with_context(|| format!("server's process: expected its report, got {line:?}"))
    }

    /// The report, with which the process has nothing more to do.
    fn finish(mut self) -> Result<Report> {
        self.line()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Of a process that has ended, both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn print(out: &mut impl Write, output: &Output<'_>) -> Result<()> {
    let Figures { prepare_s, online_s, rounds_prepare, rounds_online, .. } = output.whole;
    let bytes = table::bytes;
    writeln!(
        out,
        "model {} ({}), {} of {}, OT depth {}, inputs: {}\n",
        output.model,
        &output.model_id[..16],
        table::count(output.runs.into(), "session"),
        table::count(output.batch.into(), "inference"),
        output.ot_depth,
        output.inputs
    )?;
    let mut phases = Table::new(&["<phase", "time", "up", "down", "round trips"]);
    let up_down = |up, down| [bytes(up), bytes(down)];
    let [up, down] = up_down(output.setup_bytes_up, output.setup_bytes_down);
    phases.row(["set-up, per session".to_owned(), table::seconds(output.setup_s), up, down, String::new()]);
    let [up, down] = up_down(output.whole.prepare_bytes_up, output.whole.prepare_bytes_down);
    phases.row(["prepare".to_owned(), table::seconds(prepare_s), up, down, rounds_prepare.to_string()]);
    let [up, down] = up_down(output.whole.online_bytes_up, output.whole.online_bytes_down);
    phases.row(["online".to_owned(), table::seconds(online_s), up, down, rounds_online.to_string()]);
    writeln!(out, "{phases}")?;

    let mut layers = Table::new(&[
        "<layer",
        "<kind",
        "prepare client",
        "server",
        "up",
        "down",
        "online client",
        "server",
        "up",
        "down",
        "round trips",
    ]);
    for layer in output.layers {
        let f = &layer.figures;
        let time = |s: f64| if s == 0.0 { "-".to_owned() } else { table::seconds(s) };
        let size = |n: u64| if n == 0 { "-".to_owned() } else { bytes(n) };
        layers.row([
            layer.name.clone(),
            layer.kind.to_owned(),
            time(layer.client_prepare_s),
            time(layer.server_prepare_s),
            size(f.prepare_bytes_up),
            size(f.prepare_bytes_down),
            time(layer.client_online_s),
            time(layer.server_online_s),
            size(f.online_bytes_up),
            size(f.online_bytes_down),
            if f.rounds_online == 0 { "-".to_owned() } else { f.rounds_online.to_string() },
        ]);
    }
    writeln!(out, "{layers}")?;
    let heap = |peak, model| format!("{} (of it the model: {})", bytes(peak), bytes(model));
    writeln!(out, "peak heap  client {}", heap(output.client_peak_heap, output.client_model_heap))?;
    writeln!(out, "           server {}", heap(output.server_peak_heap, output.server_model_heap))?;
    let inside =
        if output.matches { "all outputs are within its intervals" } else { "outputs lie OUTSIDE its intervals" };
    writeln!(
        out,
        "largest deviation from the integer reference: {} ulp; {inside}, of which the widest has {} ulp",
        output.max_ulp, output.interval_ulp
    )?;
    Ok(())
}
