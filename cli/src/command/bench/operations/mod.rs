//! What single operations cost: the difference between a small network with the operation and the same without it.

mod models;

use super::Args;
use super::figures::Summary;
use super::inputs::Inputs;
use super::network::Network;
use super::process::{ServerProcess, Subject};
use super::session::Sessions;
use super::simd::Simd;
use crate::command;
use crate::table::{self, Table};
use anyhow::{Context, Result, ensure};
use models::{OPERATIONS, Operation, SHAPE, What};
use safenet_core::model::ModelFile;
use safenet_core::session::ClientModel;
use safenet_core::threads::Threads;
use safenet_reference::Reference;
use serde::Serialize;
use std::io::{self, Write};
use std::ops::Sub;
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    runs: u32,
    /// Of each party.
    threads: usize,
    ot: &'static str,
    relu_round_trips: u8,
    simd: &'a str,
    network: Option<Network>,
    operations: Vec<Row>,
}

/// An operation and what it costs.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    /// Values that an activation is applied to; none for convolutions.
    elements: Option<usize>,
    #[serde(flatten)]
    cost: Cost,
}

/// Seconds on the clock with both parties at work, seconds that each computed, bytes of both directions, round trips.
#[derive(Clone, Copy, Serialize)]
struct Cost {
    prepare_s: f64,
    online_s: f64,
    client_prepare_s: f64,
    server_prepare_s: f64,
    client_online_s: f64,
    server_online_s: f64,
    prepare_bytes: u64,
    online_bytes: u64,
    rounds_online: u64,
}

impl Cost {
    fn new(summary: &Summary) -> Self {
        let whole = &summary.whole;
        let (mut client, mut server) = ([0.0; 2], [0.0; 2]);
        for layer in &summary.layers {
            client[0] += layer.client_prepare_s;
            client[1] += layer.client_online_s;
            server[0] += layer.server_prepare_s;
            server[1] += layer.server_online_s;
        }
        Self {
            prepare_s: whole.prepare_s,
            online_s: whole.online_s,
            client_prepare_s: client[0],
            server_prepare_s: server[0],
            client_online_s: client[1],
            server_online_s: server[1],
            prepare_bytes: whole.prepare_bytes_up + whole.prepare_bytes_down,
            online_bytes: whole.online_bytes_up + whole.online_bytes_down,
            rounds_online: whole.rounds_online,
        }
    }
}

impl Sub for Cost {
    type Output = Self;

    /// What is more in the first. Measured seconds that come out negative are noise about none.
    fn sub(self, other: Self) -> Self {
        let seconds = |value: fn(&Self) -> f64| (value(&self) - value(&other)).max(0.0);
        let count = |value: fn(&Self) -> u64| value(&self).saturating_sub(value(&other));
        Self {
            prepare_s: seconds(|c| c.prepare_s),
            online_s: seconds(|c| c.online_s),
            client_prepare_s: seconds(|c| c.client_prepare_s),
            server_prepare_s: seconds(|c| c.server_prepare_s),
            client_online_s: seconds(|c| c.client_online_s),
            server_online_s: seconds(|c| c.server_online_s),
            prepare_bytes: count(|c| c.prepare_bytes),
            online_bytes: count(|c| c.online_bytes),
            rounds_online: count(|c| c.rounds_online),
        }
    }
}

/// The network around the operation of a name.
pub(super) fn model(name: &str, without: bool) -> Result<ModelFile> {
    let operation = OPERATIONS.iter().find(|operation| operation.name == name);
    models::model(operation.with_context(|| format!("no operation is called {name}"))?, without)
}

pub(super) fn run(args: &Args, names: &[String], simd: Simd, network: Option<Network>) -> Result<ExitCode> {
    let wanted = |operation: &&Operation| names.is_empty() || names.iter().any(|n| operation.name.starts_with(n));
    let chosen: Vec<&Operation> = OPERATIONS.iter().filter(wanted).collect();
    ensure!(
        !chosen.is_empty(),
        "--operations: expected beginnings of {}, got {}",
        OPERATIONS.map(|operation| operation.name).join(", "),
        names.join(", ")
    );
    let options = args.choices.fixed()?;
    let mut output = Output {
        runs: args.runs,
        threads: args.threads,
        ot: command::extension_name(options.extension),
        relu_round_trips: options.round_trips.count(),
        simd: simd.name(),
        network,
        operations: vec![],
    };
    for operation in chosen {
        let cost = |without| measure(args, operation, without, network.as_ref());
        output.operations.push(Row {
            name: operation.name,
            elements: (!matches!(operation.what, What::Convolution { .. })).then(|| SHAPE.elements()),
            cost: cost(false)? - cost(true)?,
        });
    }
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&output)?)?;
    } else {
        print(&mut out, &output)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The cost of an inference of the network with an operation, or without it.
fn measure(args: &Args, operation: &Operation, without: bool, network: Option<&Network>) -> Result<Cost> {
    let file = models::model(operation, without)?;
    let reference = Reference::new(&file)?;
    let inputs = Inputs::one(&reference)?;
    let model = ClientModel::new(file.architecture)?.with_threads(Threads::new(args.threads)?);
    let child = ServerProcess::start(args, Subject::Operation { name: operation.name, without }, args.runs, false)?;
    let link = (network, args.waiting);
    let sessions = Sessions::measure(child, (&model, args.choices.fixed()?), (args.runs, 1), &inputs.values, link)?;
    inputs.check(&sessions.outputs)?.conclude().context(operation.name)?;
    let summary = Summary::new(model.architecture(), reference.shapes(), &sessions.runs, &sessions.report.sessions);
    Ok(Cost::new(&summary))
}

fn print(out: &mut impl Write, output: &Output<'_>) -> Result<()> {
    writeln!(
        out,
        "{}, OT extension {}, {} instructions, network: {}; time is on the clock, both parties at work\n",
        table::count(output.runs.into(), "session"),
        output.ot,
        output.simd,
        output.network.map_or_else(|| "loopback".to_owned(), |network| network.to_string()),
    )?;
    let titles = ["prepare us", "online us", "total us", "client us", "server us", "prepare B", "online B", "total B"];
    let titles: Vec<&str> =
        ["<each of 65,536"].into_iter().chain(titles).chain(["round trips", "all of them"]).collect();
    let mut activations = Table::new(&titles);
    let titles = ["prepare", "online", "total", "client", "server", "prepare", "online", "total"];
    let titles: Vec<&str> = ["<linear layer"].into_iter().chain(titles).collect();
    let mut layers = Table::new(&titles);
    let (mut some_activations, mut some_layers) = (false, false);
    for Row { name, elements, cost } in &output.operations {
        let seconds = [
            cost.prepare_s,
            cost.online_s,
            cost.prepare_s + cost.online_s,
            cost.client_prepare_s + cost.client_online_s,
            cost.server_prepare_s + cost.server_online_s,
        ];
        let bytes = [cost.prepare_bytes, cost.online_bytes, cost.prepare_bytes + cost.online_bytes];
        let name = [(*name).to_owned()];
        if let Some(elements) = elements {
            let each = *elements as f64;
            let seconds_each = seconds.map(|s| format!("{:.3}", s * 1e6 / each));
            let bytes_each = bytes.map(|b| format!("{:.1}", b as f64 / each));
            let rest = [cost.rounds_online.to_string(), table::seconds(seconds[2])];
            activations.row(name.into_iter().chain(seconds_each).chain(bytes_each).chain(rest));
            some_activations = true;
        } else {
            layers.row(name.into_iter().chain(seconds.map(table::seconds)).chain(bytes.map(table::bytes)));
            some_layers = true;
        }
    }
    if some_activations {
        writeln!(out, "{activations}")?;
    }
    if some_layers {
        writeln!(out, "{layers}")?;
    }
    Ok(())
}
