//! The server of a measurement, in a process of its own, so that its heap is its own.
//!
//! It prints `{"port": …}`, serves so many sessions one after another, and prints a [`Report`].

use super::timed::Timed;
use crate::net::{self, Connection};
use crate::{alloc, command};
use anyhow::{Context, Result};
use safenet_core::session::{Options, Phase, Server, drive};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

/// Serve the sessions of `bench` (started by it)
#[derive(clap::Args)]
pub(crate) struct Args {
    model: PathBuf,
    #[arg(long)]
    sessions: usize,
    #[arg(long)]
    max_prepared: u32,
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
    /// Most bytes of heap in use at once above that, over all sessions.
    pub(super) session_heap: u64,
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
    let empty = alloc::current();
    let model = command::server_model(&args.model, args.memory.weight_memory)?;
    let loaded = alloc::current();
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("127.0.0.1: cannot listen")?;
    say(&Opening { port: listener.local_addr()?.port() })?;

    let options = Options { max_bundles: args.max_prepared, ..Options::default() };
    let mut report = Report { model_heap: (loaded - empty) as u64, session_heap: 0, sessions: vec![] };
    for _ in 0..args.sessions {
        let (stream, _) = listener.accept().context("cannot accept the client")?;
        let before = alloc::current();
        alloc::reset_peak();
        let mut connection = Connection::new(stream, None)?;
        let mut server = Timed::server(Server::new(&model, options, net::seed()?), model.architecture())?;
        drive(&mut server, &mut connection)?;
        report.session_heap = report.session_heap.max((alloc::peak() - before) as u64);
        let places = server.costs().iter().filter(|(place, _)| place.phase != Phase::Setup);
        let seconds = places.map(|(place, cost)| PlaceSeconds {
            online: place.phase == Phase::Infer,
            node: place.node,
            seconds: cost.seconds,
        });
        report.sessions.push(seconds.collect());
    }
    say(&report)?;
    Ok(ExitCode::SUCCESS)
}

fn say(line: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(line)?)?;
    Ok(out.flush()?)
}
