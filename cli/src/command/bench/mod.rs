//! `safenet bench`: what private inference costs, both parties on this machine.

mod clients;
mod figures;
mod inputs;
mod network;
mod operations;
mod process;
pub(crate) mod server;
mod session;
mod shaper;
mod simd;
mod timed;
mod whole;

use crate::command;
use crate::net::Waiting;
use anyhow::Result;
use network::Network;
use safenet_core::session::{ClientModel, Options};
use simd::Simd;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measure private inference of a model, client and server on this machine
///
/// The server runs in a process of its own, over loopback TCP without delayed packets. Every run is a session: set-up, then
/// prepare, then inferences; figures are medians over runs, for one inference.
///
/// Heap is what the party's own code allocates at its peak, the loaded model included: not the stacks, not the program, not
/// the kernel's buffers, and not what loading the model took before the first session. A layer's seconds are those that each
/// party computed for it, exactly: waiting is not included.
///
/// --network, or --rtt-ms and --mbit, put a simulated network between the parties. Every byte leaves no faster than the rate
/// and arrives half a round trip later, to some tenths of a millisecond. Beside the time measured stands what the network
/// alone takes for the same bytes and round trips if nothing overlaps: bytes / rate + round trips * rtt.
///
/// --operations measures single operations, for comparison with other systems: activations on 65,536 values and
/// convolutions, each as the difference between two small networks, one with it and one without.
///
/// --clients measures throughput: so many clients have a session each with one server at the same time. All prepare, then all
/// infer, `--batch` inferences each, `--runs` times over. Clients and server share this machine's processors.
///
/// Every output is checked against the integer reference; the exit status is 0 only if all lie within its intervals.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  safenet bench mnist-relu.safenet
  safenet bench mnist-relu.safenet --images digits --runs 20 --json > bench.json
  safenet bench mnist-relu.safenet --ot silent --batch 16
  safenet bench mnist-relu.safenet --network wan
  safenet bench mnist-relu.safenet --rtt-ms 5 --mbit 1000
  safenet bench mnist-relu.safenet --clients 16 --runs 3
  safenet bench --operations                            all of them
  safenet bench --operations=relu,conv-3x3              those whose names begin so")]
pub(crate) struct Args {
    /// The server's model file
    #[arg(required_unless_present = "operations")]
    model: Option<PathBuf>,
    /// Inputs: a .pgm, .ppm, .f32 or .npz file or a directory of them; else random ones within the model's range
    #[arg(long, value_name = "FILE|DIR")]
    images: Option<PathBuf>,
    /// Sessions to measure, one after another; with --clients, rounds of preparing and inferring
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// Inferences prepared together in each session
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    #[command(flatten)]
    choices: command::Choices,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    network: network::Simulated,
    /// Measure single operations instead of a model: all, or those whose names begin with one of NAMES
    #[arg(long, value_name = "NAMES", num_args = 0..=1, require_equals = true, value_delimiter = ',',
        conflicts_with_all = ["model", "images", "clients", "batch"])]
    operations: Option<Vec<String>>,
    /// Measure throughput with so many clients at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: Option<u32>,
    /// Use no wider instructions than these, in both parties [default: the widest that the processor has]
    #[arg(long, value_enum)]
    simd: Option<Simd>,
    /// Threads with which each party computes: both together keep up to twice as many processors busy. With --clients, all
    /// clients share as many if it is more than 1, and so do the server's sessions
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = command::thread_count())]
    threads: usize,
    #[command(flatten)]
    memory: command::WeightMemory,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The client's options, on the line that the measurement has between the parties.
    fn options(&self, model: &ClientModel, network: Option<&Network>) -> Result<Options> {
        let line = || network.map_or_else(network::loopback, |network| Ok(network.line()));
        Ok(Options { max_bundles: self.batch, ..self.choices.options(model, line)? })
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let simd = simd::limit(args.simd)?;
    let network = args.network.network()?;
    match (&args.model, &args.operations, args.clients) {
        (Some(model), _, Some(clients)) => clients::run(args, model, clients, simd, network),
        (Some(model), _, None) => whole::run(args, model, simd, network),
        (None, names, _) => operations::run(args, names.as_deref().unwrap_or_default(), simd, network),
    }
}
