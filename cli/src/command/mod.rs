//! One module per subcommand.

pub(crate) mod accuracy;
pub(crate) mod bench;
pub(crate) mod compile;
pub(crate) mod infer;
pub(crate) mod inspect;
pub(crate) mod reference;
pub(crate) mod serve;
pub(crate) mod verify;

use indicatif::{ProgressBar, ProgressStyle};
use safenet_core::model::{Op, Shape};
use safenet_core::ot::softspoken::Depth;
use safenet_core::session::Options;

/// A bar on stderr, which shows nothing where stderr is no terminal.
fn progress(length: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(length).with_message(what);
    match ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {eta}") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// Reads the depth of the OT extension from the command line.
fn depth(text: &str) -> Result<Depth, String> {
    let k = text.parse().map_err(|_| "expected 2, 4 or 8".to_owned())?;
    Depth::new(k).map_err(|e| e.to_string())
}

/// Options with a depth, where one was asked for.
fn options(depth: Option<Depth>) -> Options {
    let defaults = Options::default();
    Options { ot_depth: depth.unwrap_or(defaults.ot_depth), ..defaults }
}

/// What a node is called in tables.
fn kind(op: &Op, input: Shape) -> &'static str {
    match op {
        Op::Convolution(_) if input.plane() == 1 => "dense",
        Op::Convolution(_) => "convolution",
        Op::SumPool(_) => "sum-pool",
        Op::Flatten => "flatten",
        Op::Activation(_) => "activation",
    }
}
