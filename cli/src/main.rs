//! The `safenet` command: compiles networks, serves them, asks them, and checks and measures what comes back.
#![deny(unsafe_code)]

mod alloc;
mod command;
mod files;
mod images;
mod net;
mod patience;
mod record;
mod table;

use clap::{Parser, Subcommand};
use std::io;
use std::process::ExitCode;

/// Counts the heap, so that `bench` can tell how much memory a party needs.
#[global_allocator]
static HEAP: alloc::Counting = alloc::Counting;

/// Two-party private inference of neural networks.
///
/// The server owns a network's weights, the client owns an input. The client learns the network's output; nobody learns
/// anything else.
#[derive(Parser)]
#[command(
    name = "safenet",
    version,
    max_term_width = 110,
    after_help = "\
Examples:
  safenet compile mnist.onnx --calibration mnist.npz -o mnist.safenet
  safenet inspect mnist.safenet
  safenet serve mnist.safenet --port 7878
  safenet infer localhost:7878 --model mnist.public digit.pgm
  safenet bench mnist.safenet

`safenet COMMAND --help` tells more, with examples."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "compile")]
    Compile(command::compile::Args),
    Inspect(command::inspect::Args),
    Serve(command::serve::Args),
    Infer(command::infer::Args),
    Verify(command::verify::Args),
    Reference(command::reference::Args),
    Accuracy(command::accuracy::Args),
    Debug(command::debug::Args),
    Bench(command::bench::Args),
    #[command(hide = true)]
    BenchServer(command::bench::server::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        #[cfg(feature = "compile")]
        Command::Compile(args) => command::compile::run(&args),
        Command::Inspect(args) => command::inspect::run(&args),
        Command::Serve(args) => command::serve::run(&args),
        Command::Infer(args) => command::infer::run(&args),
        Command::Verify(args) => command::verify::run(&args),
        Command::Reference(args) => command::reference::run(&args),
        Command::Accuracy(args) => command::accuracy::run(&args),
        Command::Debug(args) => command::debug::run(&args),
        Command::Bench(args) => command::bench::run(&args),
        Command::BenchServer(args) => command::bench::server::run(&args),
    };
    match result {
        Ok(code) => code,
        // Whoever reads our output has read enough, as `safenet inspect … | head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("safenet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
