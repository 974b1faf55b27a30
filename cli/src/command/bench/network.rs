//! The network that a measurement pretends lies between the parties.

use anyhow::{Context, Result, ensure};
use safenet_core::session::Line;
use serde::Serialize;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// What the command line says of the network.
#[derive(clap::Args)]
pub(crate) struct Simulated {
    /// Simulate a network between the parties
    #[arg(long, value_enum)]
    network: Option<Preset>,
    /// Round-trip time of the simulated network, half of it each way [default: that of --network, or 0]
    #[arg(long, value_name = "X")]
    rtt_ms: Option<f64>,
    /// Rate of the simulated network in 10^6 bits per second, each way [default: that of --network, or no limit]
    #[arg(long, value_name = "Y")]
    mbit: Option<f64>,
}

/// Networks as papers on private inference have them.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Preset {
    /// 0.3 ms, 3000 Mbit/s
    Lan,
    /// 20 ms, 100 Mbit/s
    Broadband,
    /// 40 ms, 350 Mbit/s
    Wan,
}

/// A line with the same delay and rate both ways.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Network {
    /// Round-trip time.
    rtt_ms: f64,
    /// 10^6 bits per second, each way; none for a line without a limit.
    mbit: Option<f64>,
}

impl Simulated {
    /// The network to simulate; none if none is asked for.
    pub(super) fn network(&self) -> Result<Option<Network>> {
        let (rtt_ms, mbit) = match self.network {
            None if self.rtt_ms.is_none() && self.mbit.is_none() => return Ok(None),
            None => (0.0, None),
            Some(Preset::Lan) => (0.3, Some(3000.0)),
            Some(Preset::Broadband) => (20.0, Some(100.0)),
            Some(Preset::Wan) => (40.0, Some(350.0)),
        };
        Network::new(self.rtt_ms.unwrap_or(rtt_ms), self.mbit.or(mbit)).map(Some)
    }
}

impl Network {
    pub(super) fn new(rtt_ms: f64, mbit: Option<f64>) -> Result<Self> {
        ensure!((0.0..=10_000.0).contains(&rtt_ms), "--rtt-ms: expected 0 to 10000, got {rtt_ms}");
        if let Some(mbit) = mbit {
            ensure!((0.01..=1e6).contains(&mbit), "--mbit: expected 0.01 to 1000000, got {mbit}");
        }
        Ok(Self { rtt_ms, mbit })
    }

    /// As a choice between options sees it.
    pub(super) fn line(&self) -> Line {
        let bytes_per_s = self.mbit.map_or(f64::INFINITY, |mbit| mbit * 1e6 / 8.0);
        Line { round_trip_s: self.rtt_ms / 1e3, bytes_per_s }
    }

    /// How long a byte is under way.
    pub(super) fn delay(&self) -> Duration {
        Duration::from_secs_f64(self.rtt_ms / 2e3)
    }

    /// How long bytes take to leave.
    pub(super) fn sending(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(self.mbit.map_or(0.0, |mbit| bytes as f64 / (mbit * 1e6 / 8.0)))
    }

    /// Bytes that leave in some time; at most the given number.
    pub(super) fn bytes_in(&self, time: Duration, most: usize) -> usize {
        let bytes = self.mbit.map_or(f64::INFINITY, |mbit| time.as_secs_f64() * mbit * 1e6 / 8.0);
        // The cast saturates.
        (bytes as usize).min(most)
    }

    /// Seconds that the network alone takes for what parties send by turns.
    pub(super) fn seconds(&self, bytes: u64, rounds: u64) -> f64 {
        self.sending(bytes).as_secs_f64() + rounds as f64 * self.rtt_ms / 1e3
    }
}

/// This machine's own line: the time of a round trip as connecting takes it, no limit of the rate.
pub(super) fn loopback() -> Result<Line> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("loopback: cannot listen")?;
    let address = listener.local_addr().context("loopback")?;
    let start = Instant::now();
    TcpStream::connect(address).context("loopback: cannot connect")?;
    Ok(Line { round_trip_s: start.elapsed().as_secs_f64(), bytes_per_s: f64::INFINITY })
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.mbit {
            Some(mbit) => write!(f, "{} ms, {mbit} Mbit/s", self.rtt_ms),
            None => write!(f, "{} ms, no limit of the rate", self.rtt_ms),
        }
    }
}
