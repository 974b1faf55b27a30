//! One module per subcommand.

pub(crate) mod accuracy;
pub(crate) mod bench;
#[cfg(feature = "compile")]
pub(crate) mod compile;
pub(crate) mod debug;
pub(crate) mod infer;
pub(crate) mod inspect;
pub(crate) mod reference;
pub(crate) mod serve;
pub(crate) mod verify;

use crate::files;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use safenet_core::model::{Op, Shape};
use safenet_core::ot::Extension;
use safenet_core::ot::softspoken::Depth;
use safenet_core::session::{Options, RoundTrips, ServerModel, WEIGHT_MEMORY};
use safenet_core::threads::Threads;
use std::path::Path;

/// A bar on stderr, which shows nothing where stderr is no terminal.
fn progress(length: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(length).with_message(what);
    match ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {eta}") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// What the OT extensions are called on the command line.
const EXTENSIONS: [(&str, Extension); 4] = [
    ("silent", Extension::Silent),
    ("2", Extension::SoftSpoken(Depth::Two)),
    ("4", Extension::SoftSpoken(Depth::Four)),
    ("8", Extension::SoftSpoken(Depth::Eight)),
];

/// What a client chooses for a session.
#[derive(clap::Args)]
pub(crate) struct Choices {
    /// OT extension: silent (least traffic, 9 MB of memory for each party), or SoftSpokenOT with trees of depth 2, 4 or 8
    /// (more is less traffic and more work)
    #[arg(long = "ot", value_name = "EXTENSION", value_parser = extension, default_value = "silent")]
    extension: Extension,
    /// Round trips of a ReLU of at most 13 bits, 2 or 3: 2 sends more than twice the bytes, and pays on links on which a
    /// round trip takes longer than these
    #[arg(long, value_name = "N", value_parser = round_trips, default_value = "3")]
    round_trips: RoundTrips,
}

impl Choices {
    fn options(&self) -> Options {
        Options { extension: self.extension, round_trips: self.round_trips, ..Options::default() }
    }
}

fn round_trips(text: &str) -> std::result::Result<RoundTrips, String> {
    let count = text.parse().map_err(|_| "expected 2 or 3".to_owned())?;
    RoundTrips::of_count(count).map_err(|e| e.to_string())
}

fn extension(text: &str) -> std::result::Result<Extension, String> {
    let known = EXTENSIONS.iter().find(|(name, _)| *name == text);
    known.map(|(_, extension)| *extension).ok_or_else(|| "expected silent, 2, 4 or 8".to_owned())
}

fn extension_name(extension: Extension) -> &'static str {
    EXTENSIONS.iter().find(|(_, known)| *known == extension).map_or("?", |(name, _)| name)
}

/// How much memory a server may take for transformed weights.
#[derive(clap::Args)]
pub(crate) struct WeightMemory {
    /// Memory for transformed weights, in MiB; those of layers that do not fit are transformed anew for each inference
    #[arg(long, value_name = "MIB", default_value_t = WEIGHT_MEMORY >> 20)]
    weight_memory: u64,
}

/// A number of threads on the command line.
fn thread_count() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..=Threads::MOST as u64)
}

/// Loads a server's model, with a bar on stderr.
fn server_model(path: &Path, memory: u64, threads: Threads) -> Result<ServerModel> {
    let file = files::server_model(path)?;
    let bar = progress(0, "loading weights");
    let model = ServerModel::load(file, memory.saturating_mul(1 << 20), threads, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    model.with_context(|| path.display().to_string())
}

/// What a node is called in tables.
fn kind(op: &Op, input: Shape) -> &'static str {
    match op {
        Op::Convolution(conv) if conv.groups > 1 => "grouped convolution",
        Op::Convolution(_) if input.plane() == 1 => "dense",
        Op::Convolution(_) => "convolution",
        Op::SumPool(_) => "sum-pool",
        Op::Window(_) => "window",
        Op::Channels(_) => "channels",
        Op::Concat => "concat",
        Op::Flatten => "flatten",
        Op::Sum(_) => "sum",
        Op::Activation(_) => "activation",
        Op::Max(_) => "maximum",
    }
}
