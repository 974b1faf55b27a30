//! `safenet infer`: asks a server for the network's output on inputs that it does not see.

use crate::images::{self, Sample};
use crate::net::{self, Connection, Waiting};
use crate::record::{self, Record};
use crate::{command, files, table};
use anyhow::{Context, Result, bail};
use safenet_core::session::{Client, ClientModel, Line, Phase, drive};
use safenet_core::threads::Threads;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Ask a server for the network's output on private inputs
///
/// The server learns neither the inputs nor the outputs. An IMAGE is a binary picture (.pgm, or .ppm for colours; 8 bits,
/// dark 0 to bright 1), little-endian floats and nothing else (.f32), or NumPy arrays (.npz, array `image`); a directory
/// stands for all such files in it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  safenet infer localhost:7878 --model mnist-relu.public digits/00-7.pgm
  safenet infer localhost:7878 --model mnist-relu.public digits/*.pgm --prepare 8 --json > results.json")]
pub(crate) struct Args {
    /// HOST:PORT of the server
    server: String,
    /// The model's public part
    #[arg(long, value_name = "PUBLIC")]
    model: PathBuf,
    /// The inputs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Inferences prepared at once, before the inputs they serve
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    prepare: u32,
    /// Prepare nothing ahead: each layer is prepared when it is reached. Takes the least memory and the most round trips; the time
    /// told as online is then that of all
    #[arg(long, conflicts_with = "prepare")]
    stream: bool,
    #[command(flatten)]
    choices: command::Choices,
    /// For --round-trips auto: the connection's rate in 10^6 bits per second each way. The time of a round trip is measured,
    /// as the time that connecting takes: to whatever ends the connection, a tunnel or a proxy too
    #[arg(long, value_name = "RATE", default_value_t = 100.0, value_parser = rate)]
    mbit: f64,
    #[command(flatten)]
    waiting: Waiting,
    /// Threads with which this party computes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = command::thread_count())]
    threads: usize,
    /// Print one JSON object per input
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let place = || args.model.display().to_string();
    let model = ClientModel::read(&files::model_bytes(&args.model)?).with_context(place)?;
    let model = model.with_threads(Threads::new(args.threads)?);
    let samples = images::load_all(&args.images, model.architecture().input)?;
    // Before anything is sent: an input that does not fit is no reason to spend what was prepared for another.
    let encode = |s: &Sample| model.encode(&s.values).with_context(|| s.name.clone());
    let inputs = samples.iter().map(encode).collect::<Result<Vec<_>>>()?;

    let mut connection = Connection::open(&args.server, args.waiting)?;
    let line = || Ok(Line { round_trip_s: connection.round_trip().as_secs_f64(), bytes_per_s: args.mbit * 1e6 / 8.0 });
    let mut client = Client::new(&model, args.choices.options(&model, line)?, net::seed()?);
    let mut out = io::stdout().lock();

    let start = Instant::now();
    client.prepare(0)?;
    drive(&mut client, &mut connection).with_context(|| args.server.clone())?;
    if !args.json {
        let bytes = Cost::of(&client, Phase::Setup).bytes;
        let seconds = table::seconds(start.elapsed().as_secs_f64());
        writeln!(out, "connected to {}: set-up {seconds}, {}", args.server, table::bytes(bytes))?;
    }

    let mut prepared = Cost::default();
    for (index, (sample, input)) in samples.iter().zip(&inputs).enumerate() {
        let before_stream = Cost::of(&client, Phase::Prepare);
        if client.bundles().is_empty() && !args.stream {
            let count = args.prepare.min((samples.len() - index) as u32);
            let (before, start) = (Cost::of(&client, Phase::Prepare), Instant::now());
            client.prepare(count)?;
            drive(&mut client, &mut connection).with_context(|| args.server.clone())?;
            prepared = Cost::of(&client, Phase::Prepare).since(&before, start, count);
        }
        let (before, start) = (Cost::of(&client, Phase::Infer), Instant::now());
        match client.bundles().first() {
            _ if args.stream => client.stream(input)?,
            Some(&bundle) => client.infer(bundle, input)?,
            None => bail!("{}: expected a prepared inference, got none", args.server),
        }
        drive(&mut client, &mut connection).with_context(|| args.server.clone())?;
        let online = Cost::of(&client, Phase::Infer).since(&before, start, 1);
        if args.stream {
            prepared = Cost { ms: 0.0, ..Cost::of(&client, Phase::Prepare).since(&before_stream, start, 1) };
        }
        let outputs = client.output().context("expected an output, got none")?.to_vec();
        let record = Record {
            image: sample.name.clone(),
            class: record::class(&outputs, model.architecture().output),
            scores: model.decode(&outputs),
            outputs,
            prepare_ms: prepared.ms,
            online_ms: online.ms,
            prepare_bytes: prepared.bytes,
            online_bytes: online.bytes,
            rounds_prepare: prepared.rounds,
            rounds_online: online.rounds,
        };
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&record)?)?;
        } else {
            write!(out, "{}", text(&record))?;
        }
        out.flush()?;
    }
    client.close()?;
    drive(&mut client, &mut connection).with_context(|| args.server.clone())?;
    Ok(ExitCode::SUCCESS)
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|rate| (0.01..=1e6).contains(rate));
    number.ok_or_else(|| "expected 0.01 to 1000000".to_owned())
}

/// What a phase costs.
#[derive(Default)]
struct Cost {
    bytes: u64,
    rounds: u64,
    ms: f64,
}

impl Cost {
    /// So far.
    fn of(client: &Client, phase: Phase) -> Self {
        let meter = client.meter();
        let traffic = meter.phase(phase);
        Self { bytes: traffic.sent + traffic.received, rounds: meter.rounds(phase), ms: 0.0 }
    }

    /// Per inference, of `count` inferences since an earlier state.
    fn since(self, before: &Self, start: Instant, count: u32) -> Self {
        Self {
            bytes: (self.bytes - before.bytes) / u64::from(count),
            rounds: (self.rounds - before.rounds) / u64::from(count),
            ms: start.elapsed().as_secs_f64() * 1e3 / f64::from(count),
        }
    }
}

fn text(record: &Record) -> String {
    let scores: Vec<String> = record.scores.iter().map(|s| format!("{s:.3}")).collect();
    let phase = |name, ms: f64, bytes, rounds| {
        let (time, bytes, rounds) = (table::seconds(ms / 1e3), table::bytes(bytes), table::count(rounds, "round trip"));
        format!("{name} {time}, {bytes}, {rounds}")
    };
    format!(
        "{}: class {}\n  scores {}\n  {}; {}\n",
        record.image,
        record.class,
        scores.join(" "),
        phase("prepare", record.prepare_ms, record.prepare_bytes, record.rounds_prepare),
        phase("online", record.online_ms, record.online_bytes, record.rounds_online),
    )
}
