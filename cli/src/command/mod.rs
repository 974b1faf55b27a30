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

use crate::{files, table};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use safenet_core::model::{Op, Shape};
use safenet_core::ot::softspoken::Depth;
use safenet_core::ot::{Extension, Suite};
use safenet_core::session::{ClientModel, Line, Options, RoundTrips, ServerModel, Trade, WEIGHT_MEMORY};
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
    /// OT extension: silent (least traffic, some 10 MB of memory for each party), or SoftSpokenOT with trees of depth 2, 4 or 8
    /// (more is less traffic and more work)
    #[arg(long = "ot", value_name = "EXTENSION", value_parser = extension, default_value = "silent")]
    extension: Extension,
    /// What hashes and expands in OTs: aes, for processors with instructions for it, or chacha, for those without
    #[arg(long = "hash", value_name = "aes|chacha", value_parser = suite, default_value = suite_name(Suite::preferred()))]
    suite: Suite,
    /// Round trips of a ReLU of at most 13 bits, 2 or 3: 2 sends more than twice the bytes, and pays on links on which a
    /// round trip takes longer than these. `auto` takes 2 if the round trips saved in an inference take longer than the
    /// bytes added, and says so
    #[arg(long, value_name = "2|3|auto", value_parser = trips, default_value = "3")]
    round_trips: Trips,
    /// Most memory that a client may take of the heap, in KiB: how much it works on at a time, and the OT extension, are chosen to
    /// fit. `inspect` tells what that comes to on a microcontroller
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    memory: Option<u64>,
}

/// Round trips of ReLUs as the command line has them.
#[derive(Clone, Copy)]
enum Trips {
    Fixed(RoundTrips),
    /// By the line to the server.
    Auto,
}

impl Choices {
    /// A client's options for a model. The line to the server is asked for only where something depends on it.
    fn options(&self, model: &ClientModel, line: impl FnOnce() -> Result<Line>) -> Result<Options> {
        if let Trips::Fixed(_) = self.round_trips {
            return self.fixed();
        }
        let memory = self.memory_bytes();
        let options = Options { extension: self.extension, suite: self.suite, memory, ..Options::default() };
        let (trade, line) = (Trade::new(model, &options), line()?);
        let round_trips = trade.choose(&line);
        eprintln!("safenet: {}", explanation(&trade, &line, round_trips));
        Ok(Options { round_trips, ..options })
    }

    /// The same where there is no line.
    fn fixed(&self) -> Result<Options> {
        let Trips::Fixed(round_trips) = self.round_trips else {
            bail!("--round-trips auto: expected 2 or 3 here, where nothing tells how far away a server is");
        };
        let (extension, suite, memory) = (self.extension, self.suite, self.memory_bytes());
        Ok(Options { extension, suite, round_trips, memory, ..Options::default() })
    }

    fn memory_bytes(&self) -> Option<u64> {
        self.memory.map(|kib| kib << 10)
    }
}

/// Why ReLUs take so many round trips.
fn explanation(trade: &Trade, line: &Line, chosen: RoundTrips) -> String {
    let count = chosen.count();
    if trade.rounds == 0 {
        return format!("ReLUs in {count} round trips: none of this model's may take 2");
    }
    let rate = match line.bytes_per_s * 8.0 / 1e6 {
        mbit if mbit.is_finite() => format!("at {mbit} Mbit/s"),
        _ => "without a limit of the rate".to_owned(),
    };
    format!(
        "ReLUs in {count} round trips: 2 would save {} of {}, together {}, and send {} more, which {rate} take {}",
        table::count(trade.rounds, "round trip"),
        table::seconds(line.round_trip_s),
        table::seconds(trade.saved_s(line)),
        table::bytes(trade.bytes),
        table::seconds(trade.spent_s(line)),
    )
}

fn trips(text: &str) -> std::result::Result<Trips, String> {
    if text == "auto" {
        return Ok(Trips::Auto);
    }
    let count = text.parse().map_err(|_| "expected 2, 3 or auto".to_owned())?;
    RoundTrips::of_count(count).map(Trips::Fixed).map_err(|e| e.to_string())
}

fn extension(text: &str) -> std::result::Result<Extension, String> {
    let known = EXTENSIONS.iter().find(|(name, _)| *name == text);
    known.map(|(_, extension)| *extension).ok_or_else(|| "expected silent, 2, 4 or 8".to_owned())
}

fn extension_name(extension: Extension) -> &'static str {
    EXTENSIONS.iter().find(|(_, known)| *known == extension).map_or("?", |(name, _)| name)
}

/// What the suites are called on the command line.
const SUITES: [(&str, Suite); 2] = [("aes", Suite::Aes), ("chacha", Suite::ChaCha)];

fn suite(text: &str) -> std::result::Result<Suite, String> {
    let known = SUITES.iter().find(|(name, _)| *name == text);
    known.map(|(_, suite)| *suite).ok_or_else(|| "expected aes or chacha".to_owned())
}

fn suite_name(suite: Suite) -> &'static str {
    SUITES.iter().find(|(_, known)| *known == suite).map_or("?", |(name, _)| name)
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
