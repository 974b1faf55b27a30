//! Sessions over TCP.

use crate::patience::Patience;
use anyhow::{Context, Result};
use safenet_core::prg::Seed;
use safenet_core::session::Transport;
use safenet_core::{Error, ErrorKind};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Bytes that are read and dropped from a peer whose session has failed, so that it can read why.
const LINGER_BYTES: usize = 1 << 24;
/// How long that may take, however slowly the peer sends.
const LINGER_TIME: Duration = Duration::from_secs(3);

/// How a party waits for the other's bytes.
#[derive(Clone, Copy, clap::Args)]
pub(crate) struct Waiting {
    /// Microseconds for which a party waits for the other awake before it sleeps, where processors are idle and the other
    /// has been as quick before; 0: sleeps at once
    #[arg(long, value_name = "US", default_value_t = Self::default().poll, value_parser = clap::value_parser!(u64).range(..=100_000))]
    poll: u64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { poll: 500 }
    }
}

impl Waiting {
    /// The same on the command line of another process.
    pub(crate) fn argument(self) -> String {
        format!("--poll={}", self.poll)
    }
}

/// One end of a TCP connection.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Whether the stream waits for bytes; else it reports that there are none.
    blocking: bool,
    patience: Patience,
    round_trip: Duration,
}

impl Connection {
    /// Connects to `HOST:PORT`.
    pub(crate) fn open(address: &str, waiting: Waiting) -> Result<Self> {
        let attempt = || {
            let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
            for address in address.to_socket_addrs()? {
                let start = Instant::now();
                match TcpStream::connect(address) {
                    Ok(stream) => return Ok((stream, start.elapsed())),
                    Err(error) => failure = error,
                }
            }
            Err(failure)
        };
        let (stream, round_trip) = attempt()
            .with_context(|| format!("{address}: cannot connect (expected HOST:PORT of a running `safenet serve`)"))?;
        Ok(Self { round_trip, ..Self::new(stream, None, waiting)? })
    }

    /// How long a message and its answer are under way: what connecting took, which is one of each. Only who connected knows.
    pub(crate) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Takes a connected stream; `timeout` limits how long a read or a write may wait.
    pub(crate) fn new(stream: TcpStream, timeout: Option<Duration>, waiting: Waiting) -> Result<Self> {
        let configured = stream
            // Messages are written whole and waited for: delaying a packet only costs time.
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(timeout))
            .and_then(|()| stream.set_write_timeout(timeout));
        configured.context("connection: cannot set options")?;
        let patience = Patience::new(Duration::from_micros(waiting.poll));
        Ok(Self { stream, blocking: true, patience, round_trip: Duration::ZERO })
    }

    /// Asks the system only if something changes: most waits are like the one before.
    fn set_blocking(&mut self, blocking: bool) -> io::Result<()> {
        if self.blocking != blocking {
            self.stream.set_nonblocking(!blocking)?;
            self.blocking = blocking;
        }
        Ok(())
    }

    /// As the stream's own reading, but awake at first.
    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let start = Instant::now();
        let polls = self.patience.polls();
        self.set_blocking(!polls)?;
        let polled = match polls {
            true => self.patience.poll(start, || match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                result => Some(result),
            }),
            false => None,
        };
        let result = match polled {
            Some(result) => result,
            None => {
                self.set_blocking(true)?;
                self.stream.read(buffer)
            }
        };
        self.patience.waited(start.elapsed());
        result
    }

    /// Ends the connection after a failure in such a way that the peer still reads what was sent last.
    ///
    /// Closing a socket with unread bytes in it resets the connection, and the peer might lose the error's text.
    pub(crate) fn linger(mut self) {
        let end = Instant::now() + LINGER_TIME;
        let limited = self
            .set_blocking(true)
            .and_then(|()| self.stream.shutdown(Shutdown::Write))
            .and_then(|()| self.stream.set_read_timeout(Some(Duration::from_secs(1))));
        let mut buffer = vec![0; 1 << 16];
        let mut left = if limited.is_ok() { LINGER_BYTES } else { 0 };
        while left > 0 && Instant::now() < end {
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    }
}

impl Transport for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> safenet_core::Result<usize> {
        loop {
            match self.read_some(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(|e| broken("reading", &e)),
            }
        }
    }

    fn write_all(&mut self, buffer: &[u8]) -> safenet_core::Result<()> {
        let mut left = buffer;
        while !left.is_empty() {
            let written = match self.stream.write(left) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                // The other party takes in nothing more for the moment: there is nothing to look for again and again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.blocking => {
                    self.set_blocking(true).map(|()| 0)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                result => result,
            };
            left = &left[written.map_err(|e| broken("writing", &e))?..];
        }
        Ok(())
    }
}

fn broken(what: &str, error: &io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("connection: {what}: expected the other party to go on, it did nothing for too long")
        }
        _ => format!("connection: {what}: {error}"),
    };
    Error::new(ErrorKind::Aborted, message)
}

/// A fresh seed from the operating system.
pub(crate) fn seed() -> safenet_core::Result<Seed> {
    Seed::from_rng(&mut getrandom::SysRng)
}
