//! Sessions over TCP.

use anyhow::{Context, Result};
use safenet_core::prg::Seed;
use safenet_core::session::Transport;
use safenet_core::{Error, ErrorKind};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Bytes that are read and dropped from a peer whose session has failed, so that it can read why.
const LINGER_BYTES: usize = 1 << 24;
/// How long that may take, however slowly the peer sends.
const LINGER_TIME: Duration = Duration::from_secs(3);

/// One end of a TCP connection.
pub(crate) struct Connection(TcpStream);

impl Connection {
    /// Connects to `HOST:PORT`.
    pub(crate) fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .with_context(|| format!("{address}: cannot connect (expected HOST:PORT of a running `safenet serve`)"))?;
        Self::new(stream, None)
    }

    /// Takes a connected stream; `timeout` limits how long a read or a write may wait.
    pub(crate) fn new(stream: TcpStream, timeout: Option<Duration>) -> Result<Self> {
        let configured = stream
            // Messages are written whole and waited for: delaying a packet only costs time.
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(timeout))
            .and_then(|()| stream.set_write_timeout(timeout));
        configured.context("connection: cannot set options")?;
        Ok(Self(stream))
    }

    /// Ends the connection after a failure in such a way that the peer still reads what was sent last.
    ///
    /// Closing a socket with unread bytes in it resets the connection, and the peer might lose the error's text.
    pub(crate) fn linger(mut self) {
        let end = Instant::now() + LINGER_TIME;
        let limited =
            self.0.shutdown(Shutdown::Write).and_then(|()| self.0.set_read_timeout(Some(Duration::from_secs(1))));
        let mut buffer = vec![0; 1 << 16];
        let mut left = if limited.is_ok() { LINGER_BYTES } else { 0 };
        while left > 0 && Instant::now() < end {
            match self.0.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    }
}

impl Transport for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> safenet_core::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(|e| broken("reading", &e)),
            }
        }
    }

    fn write_all(&mut self, buffer: &[u8]) -> safenet_core::Result<()> {
        self.0.write_all(buffer).map_err(|e| broken("writing", &e))
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
