//! Throughput: many clients at once, one server.

use super::Args;
use super::inputs::Inputs;
use super::network::Network;
use super::process::{ServerProcess, Subject};
use super::session::Measured;
use super::shaper;
use super::simd::Simd;
use crate::record::{median, quantile};
use crate::table::{self, Table};
use crate::{command, files};
use anyhow::{Context, Result, anyhow};
use safenet_core::session::ClientModel;
use safenet_core::threads::Threads;
use safenet_reference::Reference;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    model: &'a str,
    clients: u32,
    runs: u32,
    batch: u32,
    /// Of all clients together, and of the server.
    threads: usize,
    ot: &'static str,
    relu_round_trips: u8,
    simd: &'a str,
    network: Option<Network>,
    /// Sessions set up in a second, all clients together.
    setups_per_s: f64,
    prepare: Phase,
    online: Phase,
    /// Seconds of the server's processors for an inference, set-up and preparation included; none where the system does not tell.
    server_cpu_s: Option<f64>,
    /// The server's heap for a session with all its inferences prepared, the model not included.
    server_session_heap: u64,
    server_model_heap: u64,
    matches: bool,
}

/// What all clients together got done, and how long each waited.
#[derive(Serialize)]
struct Phase {
    /// Inferences in a second; the median of all rounds.
    per_s: f64,
    /// Seconds that a client waited: for its preparation in a round, or for an inference.
    p50_s: f64,
    p95_s: f64,
}

impl Phase {
    fn new(rounds: &[Round]) -> Self {
        let waits = || rounds.iter().flat_map(|round| &round.waits).copied();
        let per_s = median(rounds.iter().map(|round| round.inferences / round.seconds));
        Self { per_s, p50_s: quantile(waits(), 0.5), p95_s: quantile(waits(), 0.95) }
    }
}

/// All clients doing the same.
struct Round {
    inferences: f64,
    /// From the start to the last client's end.
    seconds: f64,
    waits: Vec<f64>,
}

pub(super) fn run(args: &Args, path: &Path, clients: u32, simd: Simd, network: Option<Network>) -> Result<ExitCode> {
    let file = files::server_model(path)?;
    let reference = Reference::new(&file).with_context(|| path.display().to_string())?;
    let model = ClientModel::read(&file.public_bytes()?)?.with_threads(Threads::new(args.threads)?);
    drop(file);
    // All clients ask the same, in the same order.
    let inputs = Inputs::new(args, &reference, args.batch)?;
    let options = args.options(&model, network.as_ref())?;
    let child = ServerProcess::start(args, Subject::File(path), clients, true)?;
    let open = |_| Measured::new(&model, options, shaper::connect(child.port, network.as_ref(), args.waiting)?);
    let mut sessions = (0..clients).map(open).collect::<Result<Vec<_>>>()?;

    let bar = command::progress((2 * args.runs).into(), "rounds");
    let (setup, _) = together(&mut sessions, 0, |session| Ok((vec![session.prepare(0)?], vec![])))?;
    let (mut prepared, mut inferred, mut answers) = (vec![], vec![], vec![]);
    for _ in 0..args.runs {
        let prepare = |session: &mut Measured| Ok((vec![session.prepare(args.batch)?], vec![]));
        prepared.push(together(&mut sessions, args.batch, prepare)?.0);
        bar.inc(1);
        let (round, mut given) = together(&mut sessions, args.batch, |session| {
            let asked = inputs.values.iter().cycle().take(args.batch as usize);
            Ok(asked.map(|input| session.infer(input)).collect::<Result<Vec<_>>>()?.into_iter().unzip())
        })?;
        inferred.push(round);
        answers.append(&mut given);
        bar.inc(1);
    }
    bar.finish_and_clear();
    sessions.into_iter().try_for_each(Measured::close)?;
    let report = child.finish()?;

    let mut wrong = None;
    for given in answers.chunks(args.batch as usize) {
        let check = inputs.check(given)?;
        wrong = wrong.or_else(|| check.conclude().err());
    }
    let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let inferences = f64::from(clients) * f64::from(args.runs) * f64::from(args.batch);
    let output = Output {
        model: &name,
        clients,
        runs: args.runs,
        batch: args.batch,
        threads: args.threads,
        ot: command::extension_name(options.extension),
        relu_round_trips: options.round_trips.count(),
        simd: simd.name(),
        network,
        setups_per_s: f64::from(clients) / setup.seconds,
        prepare: Phase::new(&prepared),
        online: Phase::new(&inferred),
        server_cpu_s: report.cpu_s.map(|seconds| seconds / inferences),
        server_session_heap: report.session_heap / u64::from(clients),
        server_model_heap: report.model_heap,
        matches: wrong.is_none(),
    };
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&output)?)?;
    } else {
        print(&mut out, &output)?;
    }
    out.flush()?;
    wrong.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// What a client's part of a round gives: its waits, and answers.
type Part = (Vec<f64>, Vec<Vec<i32>>);

/// Lets all clients do the same at once, each in a thread, `each` inferences; the answers are in the order of clients.
fn together(
    sessions: &mut [Measured],
    each: u32,
    work: impl Fn(&mut Measured) -> Result<Part> + Sync,
) -> Result<(Round, Vec<Vec<i32>>)> {
    let start = Instant::now();
    let parts = thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = sessions.iter_mut().map(|session| scope.spawn(move || work(session))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Part>>| {
            thread.join().map_err(|_| anyhow!("a client panicked"))?
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let inferences = parts.len() as f64 * f64::from(each);
    let (waits, answers): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    Ok((Round { inferences, seconds, waits: waits.concat() }, answers.concat()))
}

fn print(out: &mut impl Write, output: &Output<'_>) -> Result<()> {
    writeln!(
        out,
        "model {}, {} at once, {} of {} each, OT extension {}, {} instructions, network: {}\n",
        output.model,
        table::count(output.clients.into(), "client"),
        table::count(output.runs.into(), "round"),
        table::count(output.batch.into(), "inference"),
        output.ot,
        output.simd,
        output.network.map_or_else(|| "loopback".to_owned(), |network| network.to_string()),
    )?;
    let mut phases = Table::new(&["<phase", "inferences/s", "wait, median", "wait, 95 %"]);
    for (name, phase) in [("prepare", &output.prepare), ("online", &output.online)] {
        let rate = format!("{:.1}", phase.per_s);
        phases.row([name.to_owned(), rate, table::seconds(phase.p50_s), table::seconds(phase.p95_s)]);
    }
    writeln!(out, "{phases}")?;
    writeln!(out, "sessions set up     {:.1}/s", output.setups_per_s)?;
    if let Some(seconds) = output.server_cpu_s {
        writeln!(out, "server's processor  {} an inference, set-up and preparation included", table::seconds(seconds))?;
    }
    let (session, model) = (table::bytes(output.server_session_heap), table::bytes(output.server_model_heap));
    writeln!(out, "server's heap       {session} a session at its peak, and the model: {model}")?;
    let inside = if output.matches { "all outputs are" } else { "outputs are NOT" };
    writeln!(out, "{inside} within the integer reference's intervals")?;
    Ok(())
}
