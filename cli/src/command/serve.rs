//! `safenet serve`: answers private inferences over TCP, one thread per client.

use crate::net::{self, Connection, Waiting};
use crate::{command, table};
use anyhow::{Context, Result};
use safenet_core::session::{Meter, Options, Phase, Server, ServerModel, drive};
use safenet_core::threads::Threads;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Serve private inferences of a model over TCP
///
/// Prints `listening on ADDRESS:PORT`, then one line per session. A client that breaks off or sends nonsense ends its own
/// session only.
///
/// The protocol protects both parties from each other as long as both follow it. It does not tell who the other one is: where
/// the network is not trusted, let the connection run through TLS or SSH.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  safenet serve mnist-relu.safenet --port 7878
  safenet serve mnist-relu.safenet --port 0 --once      any free port, one session")]
pub(crate) struct Args {
    /// The server's model file
    model: PathBuf,
    /// Port to listen on; 0 takes a free one and prints it
    #[arg(long)]
    port: u16,
    /// Address to listen on; 0.0.0.0 for every interface
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    bind: String,
    /// End after one session, with its success or failure
    #[arg(long)]
    once: bool,
    /// Most clients served at once; others are turned away
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_clients: u32,
    /// Most prepared inferences that are kept for a client
    #[arg(long, value_name = "N", default_value_t = Options::default().max_bundles)]
    max_prepared: u32,
    /// Ends a session whose client sends no byte for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Threads that compute for all clients together; a client has one more, which waits meanwhile [default: as many as
    /// there are processors, at most 8]
    #[arg(long, value_name = "N", value_parser = command::thread_count())]
    threads: Option<usize>,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    memory: command::WeightMemory,
}

/// Threads that compute unless the command line says how many: beyond these, other clients make better use of processors.
const MOST_THREADS: usize = 8;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let processors = || thread::available_parallelism().map_or(1, usize::from);
    let threads = Threads::new(args.threads.unwrap_or_else(|| processors().min(MOST_THREADS)))?;
    let model = command::server_model(&args.model, args.memory.weight_memory, threads)?;
    let address = (args.bind.as_str(), args.port);
    let listener = TcpListener::bind(address).with_context(|| format!("{}:{}: cannot listen", args.bind, args.port))?;
    say(format_args!("listening on {}", listener.local_addr().context("listening socket")?));

    let options = Options { max_bundles: args.max_prepared, ..Options::default() };
    let timeout = Duration::from_secs(args.timeout);
    if args.once {
        let (stream, peer) = listener.accept().context("cannot accept a client")?;
        let good = session(1, peer, stream, &model, (options, timeout, args.waiting));
        return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let clients = AtomicU32::new(0);
    thread::scope(|scope| {
        for number in 1u64.. {
            let (stream, peer) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => {
                    say(format_args!("session {number}: cannot accept: {error}"));
                    // Out of file descriptors, for one: trying again at once would only burn time.
                    thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            if clients.fetch_add(1, Ordering::Relaxed) >= args.max_clients {
                clients.fetch_sub(1, Ordering::Relaxed);
                say(format_args!("session {number} {peer}: turned away, {} clients are served", args.max_clients));
                continue;
            }
            let (model, clients) = (&model, &clients);
            let spawned = thread::Builder::new().spawn_scoped(scope, move || {
                let _leave = Leave(clients);
                session(number, peer, stream, model, (options, timeout, args.waiting));
            });
            if let Err(error) = spawned {
                clients.fetch_sub(1, Ordering::Relaxed);
                say(format_args!("session {number} {peer}: turned away, no thread: {error}"));
            }
        }
    });
    Ok(ExitCode::SUCCESS)
}

/// Counts a client out, however its thread ends.
struct Leave<'a>(&'a AtomicU32);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one client; whether the session ended as it should.
fn session(
    number: u64,
    peer: SocketAddr,
    stream: TcpStream,
    model: &ServerModel,
    (options, timeout, waiting): (Options, Duration, Waiting),
) -> bool {
    let start = Instant::now();
    let opened = net::seed()
        .map_err(anyhow::Error::from)
        .and_then(|seed| Ok((Server::new(model, options, seed), Connection::new(stream, Some(timeout), waiting)?)));
    let (mut server, mut connection) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            say(format_args!("session {number} {peer}: {error:#}"));
            return false;
        }
    };
    let result = drive(&mut server, &mut connection);
    let cost = cost(&server.meter());
    let seconds = table::seconds(start.elapsed().as_secs_f64());
    match result {
        Ok(_) => {
            say(format_args!("session {number} {peer}: done in {seconds}; {cost}"));
            true
        }
        Err(error) => {
            say(format_args!("session {number} {peer}: failed after {seconds}: {error}; {cost}"));
            connection.linger();
            false
        }
    }
}

fn cost(meter: &Meter) -> String {
    let phase = |name, phase| {
        let traffic = meter.phase(phase);
        format!("{name} {} in, {} out", table::bytes(traffic.received), table::bytes(traffic.sent))
    };
    [phase("setup", Phase::Setup), phase("prepare", Phase::Prepare), phase("online", Phase::Infer)].join("; ")
}

/// A line on stdout. A server does not end because no one reads its log.
fn say(line: std::fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
