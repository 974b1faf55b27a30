//! The server of a measurement, in a process of its own, so that its heap is its own.
//!
//! It prints `{"port": …}`, serves so many sessions, and prints a [`Report`].

use super::operations;
use super::simd::{self, Simd};
use super::timed::Timed;
use crate::net::{self, Connection, Waiting};
use crate::{alloc, command};
use anyhow::{Context, Result, bail};
use safenet_core::session::{Options, Phase, Server, ServerModel, WEIGHT_MEMORY, drive};
use safenet_core::threads::Threads;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

/// Serve the sessions of `bench` (started by it)
#[derive(clap::Args)]
pub(crate) struct Args {
    model: Option<PathBuf>,
    #[arg(long, conflicts_with = "model")]
    operation: Option<String>,
    #[arg(long, requires = "operation")]
    without: bool,
    #[arg(long)]
    sessions: usize,
    #[arg(long)]
    at_once: bool,
    #[arg(long)]
    max_prepared: u32,
    #[arg(long)]
    simd: Option<Simd>,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    memory: command::WeightMemory,
}

/// What the server says first.
#[derive(Serialize, Deserialize)]
pub(super) struct Opening {
    pub(super) port: u16,
}

/// What the server says last.
#[derive(Serialize, Deserialize)]
pub(super) struct Report {
    /// Bytes of heap that the loaded model takes.
    pub(super) model_heap: u64,
    /// Most bytes of heap in use at once above that: by a session, or by all where they run at once.
    pub(super) session_heap: u64,
    /// Seconds of processors that all sessions together took, where the system tells.
    pub(super) cpu_s: Option<f64>,
    /// Per session, seconds of computing by phase and node.
    pub(super) sessions: Vec<Vec<PlaceSeconds>>,
}

/// Seconds of computing at a place.
#[derive(Serialize, Deserialize)]
pub(super) struct PlaceSeconds {
    /// Whether it is the online phase.
    pub(super) online: bool,
    pub(super) node: Option<u32>,
    pub(super) seconds: f64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // Whoever started this process holds its input open; when that ends, so does this.
    thread::spawn(|| {
        let _ = io::stdin().lock().read(&mut [0]);
        std::process::exit(1);
    });
    simd::limit(args.simd)?;
    let threads = Threads::new(args.threads)?;
    let empty = alloc::current();
    let model = match (&args.model, &args.operation) {
        (Some(path), _) => command::server_model(path, args.memory.weight_memory, threads)?,
        (None, Some(name)) => {
            ServerModel::load(operations::model(name, args.without)?, WEIGHT_MEMORY, threads, &mut |_, _| {})?
        }
        (None, None) => bail!("expected a model or an operation, got none"),
    };
    let loaded = alloc::current();
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("127.0.0.1: cannot listen")?;
    say(&Opening { port: listener.local_addr()?.port() })?;

    let options = Options { max_bundles: args.max_prepared, ..Options::default() };
    let mut report = Report { model_heap: (loaded - empty) as u64, session_heap: 0, cpu_s: None, sessions: vec![] };
    let accept = || listener.accept().map(|(stream, _)| stream).context("cannot accept the client");
    let cpu = cpu_seconds();
    if args.at_once {
        alloc::reset_peak();
        report.sessions = thread::scope(|scope| {
            let start = |_| accept().map(|stream| scope.spawn(|| session(&model, options, stream, args.waiting)));
            let threads = (0..args.sessions).map(start).collect::<Result<Vec<_>>>()?;
            let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|_| bail!("panicked"));
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        report.session_heap = (alloc::peak() - loaded) as u64;
    } else {
        for _ in 0..args.sessions {
            let stream = accept()?;
            let before = alloc::current();
            alloc::reset_peak();
            report.sessions.push(session(&model, options, stream, args.waiting)?);
            report.session_heap = report.session_heap.max((alloc::peak() - before) as u64);
        }
    }
    report.cpu_s = cpu.zip(cpu_seconds()).map(|(before, after)| after - before);
    say(&report)?;
    Ok(ExitCode::SUCCESS)
}

/// Serves one session; its seconds of computing.
fn session(model: &ServerModel, options: Options, stream: TcpStream, waiting: Waiting) -> Result<Vec<PlaceSeconds>> {
    let mut connection = Connection::new(stream, None, waiting)?;
    let mut server = Timed::server(Server::new(model, options, net::seed()?));
    drive(&mut server, &mut connection)?;
    let places = server.seconds().into_iter().filter(|(place, _)| place.phase != Phase::Setup);
    let seconds =
        places.map(|(place, seconds)| PlaceSeconds { online: place.phase == Phase::Infer, node: place.node, seconds });
    Ok(seconds.collect())
}

/// Seconds of processors that this process has taken so far, as Linux tells them: in hundredths.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the name in brackets, may hold anything; of those after it, the 12th and 13th are user and system time.
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / 100.0)
}

fn say(line: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(line)?)?;
    Ok(out.flush()?)
}
