//! The measurement of a whole model: phases, layers, memory, exactness.

use super::Args;
use super::figures::{Figures, Layer, Summary};
use super::inputs::Inputs;
use super::network::Network;
use super::process::{ServerProcess, Subject};
use super::session::Sessions;
use super::simd::Simd;
use crate::table::{self, Table};
use crate::{alloc, command, files};
use anyhow::{Context, Result};
use safenet_core::session::ClientModel;
use safenet_core::threads::Threads;
use safenet_reference::Reference;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    model: &'a str,
    model_id: String,
    runs: u32,
    batch: u32,
    /// Of each party.
    threads: usize,
    ot: &'static str,
    relu_round_trips: u8,
    simd: &'a str,
    /// The network that was simulated; none for loopback as it is.
    network: Option<Network>,
    inputs: &'a str,
    setup_s: f64,
    setup_bytes_up: u64,
    setup_bytes_down: u64,
    #[serde(flatten)]
    whole: Figures,
    /// What the simulated network alone takes.
    prepare_network_s: f64,
    online_network_s: f64,
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
    layers: &'a [Layer],
}

pub(super) fn run(args: &Args, path: &Path, simd: Simd, network: Option<Network>) -> Result<ExitCode> {
    let file = files::server_model(path)?;
    let reference = Reference::new(&file).with_context(|| path.display().to_string())?;
    let public = file.public_bytes()?;
    let id = files::id(&file.architecture)?;
    drop(file);
    let needed = if args.images.is_some() { args.runs * args.batch } else { args.runs };
    let inputs = Inputs::new(args, &reference, needed)?;

    let empty = alloc::current();
    let model = ClientModel::read(&public)?.with_threads(Threads::new(args.threads)?);
    let client_model_heap = (alloc::current() - empty) as u64;
    let options = args.options(&model, network.as_ref())?;
    let child = ServerProcess::start(args, Subject::File(path), args.runs, false)?;
    let counts = (args.runs, args.batch);
    let link = (network.as_ref(), args.waiting);
    let sessions = Sessions::measure(child, (&model, options), counts, &inputs.values, link)?;
    let report = &sessions.report;

    let check = inputs.check(&sessions.outputs)?;
    let summary = Summary::new(model.architecture(), reference.shapes(), &sessions.runs, &report.sessions);
    let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let whole = summary.whole;
    let alone = |bytes, rounds| network.map_or(0.0, |network| network.seconds(bytes, rounds));
    let output = Output {
        model: &name,
        model_id: id,
        runs: args.runs,
        batch: args.batch,
        threads: args.threads,
        ot: command::extension_name(options.extension),
        relu_round_trips: options.round_trips.count(),
        simd: simd.name(),
        network,
        inputs: &inputs.described,
        setup_s: summary.setup_s,
        setup_bytes_up: summary.setup.sent,
        setup_bytes_down: summary.setup.received,
        whole,
        prepare_network_s: alone(whole.prepare_bytes_up + whole.prepare_bytes_down, whole.rounds_prepare),
        online_network_s: alone(whole.online_bytes_up + whole.online_bytes_down, whole.rounds_online),
        client_peak_heap: client_model_heap + sessions.client_heap,
        client_model_heap,
        server_peak_heap: report.model_heap + report.session_heap,
        server_model_heap: report.model_heap,
        max_ulp: check.max_ulp,
        interval_ulp: inputs.interval_ulp(),
        matches: check.matches(),
        layers: &summary.layers,
    };
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&output)?)?;
    } else {
        print(&mut out, &output)?;
    }
    out.flush()?;
    check.conclude()?;
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, output: &Output<'_>) -> Result<()> {
    let Figures { prepare_s, online_s, rounds_prepare, rounds_online, .. } = output.whole;
    let bytes = table::bytes;
    writeln!(
        out,
        "model {} ({}), {} of {}, OT extension {}, {} instructions, {} at each party, network: {}, inputs: {}\n",
        output.model,
        &output.model_id[..16],
        table::count(output.runs.into(), "session"),
        table::count(output.batch.into(), "inference"),
        output.ot,
        output.simd,
        table::count(output.threads as u64, "thread"),
        output.network.map_or_else(|| "loopback".to_owned(), |network| network.to_string()),
        output.inputs
    )?;
    let mut titles = vec!["<phase", "time", "up", "down", "round trips"];
    titles.extend(output.network.map(|_| "network alone"));
    let mut phases = Table::new(&titles);
    let alone = |seconds| output.network.map(|_| table::seconds(seconds));
    let up_down = |up, down| [bytes(up), bytes(down)];
    let [up, down] = up_down(output.setup_bytes_up, output.setup_bytes_down);
    phases.row(["set-up, per session".to_owned(), table::seconds(output.setup_s), up, down, String::new()]);
    let [up, down] = up_down(output.whole.prepare_bytes_up, output.whole.prepare_bytes_down);
    let row = ["prepare".to_owned(), table::seconds(prepare_s), up, down, rounds_prepare.to_string()];
    phases.row(row.into_iter().chain(alone(output.prepare_network_s)));
    let [up, down] = up_down(output.whole.online_bytes_up, output.whole.online_bytes_down);
    let row = ["online".to_owned(), table::seconds(online_s), up, down, rounds_online.to_string()];
    phases.row(row.into_iter().chain(alone(output.online_network_s)));
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
