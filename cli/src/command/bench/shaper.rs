//! A simulated network: relays the bytes of a connection, each after its time.
//!
//! A byte leaves when all before it have left, no faster than the rate, and arrives half a round trip later. For each
//! direction one thread takes bytes in and notes when they arrive, and one hands them on at that moment. What is under way
//! is kept, and no more than [`WAITING_BYTES`] that wait to leave: a sender who is faster is held up, as by a socket.

use super::network::Network;
use crate::net::{Connection, Waiting};
use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that may wait to leave, in each direction.
const WAITING_BYTES: usize = 1 << 20;
/// Most bytes that are under way in one direction: a line that would hold more is slower than it should be.
const FLYING_BYTES: usize = 1 << 26;
/// Bytes are taken in and timed together if they leave within so long a time.
const PIECE_TIME: Duration = Duration::from_micros(100);
/// Bounds of the bytes of such a piece: a packet, and what is read at once.
const PIECE_BYTES: [usize; 2] = [1448, 1 << 16];
/// The system wakes a sleeper up to so much later than asked; the rest of a time is waited for awake.
const OVERSLEEP: Duration = Duration::from_micros(80);

/// A connection through a simulated network.
pub(super) struct Shaped {
    // In this order: the relays end when the connection does.
    pub(super) connection: Connection,
    _relays: Relays,
}

struct Relays(Vec<JoinHandle<()>>);

impl Drop for Relays {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            // A relay that panicked has closed its connection, which its party has seen.
            let _ = thread.join();
        }
    }
}

/// Connects to a port of this machine, through a network if there is one. All memory of the relays is allocated here.
pub(super) fn connect(port: u16, network: Option<&Network>, waiting: Waiting) -> Result<Shaped> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("cannot connect to the server's process")?;
    let Some(network) = network else {
        return Ok(Shaped { connection: Connection::new(server, None, waiting)?, _relays: Relays(vec![]) });
    };
    let between = || -> io::Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        Ok((client, listener.accept()?.0))
    };
    let (client, inner) = between().context("simulated network: cannot make a connection")?;
    let relays = relay(&inner, &server, *network).context("simulated network: cannot start")?;
    Ok(Shaped { connection: Connection::new(client, None, waiting)?, _relays: relays })
}

/// Starts the relays between two connections.
fn relay(a: &TcpStream, b: &TcpStream, network: Network) -> io::Result<Relays> {
    let mut threads = Relays(vec![]);
    for stream in [a, b] {
        stream.set_nodelay(true)?;
    }
    for (from, to) in [(a, b), (b, a)] {
        let line = Arc::new(Line::new(network));
        let (entry, exit) = (line.clone(), line);
        let (mut source, mut sink) = (from.try_clone()?, to.try_clone()?);
        let mut taken = vec![0; network.bytes_in(PIECE_TIME, PIECE_BYTES[1]).max(PIECE_BYTES[0])];
        let mut handed = Vec::with_capacity(PIECE_BYTES[1]);
        threads.0.push(thread::Builder::new().spawn(move || entry.take_in(&mut source, &mut taken))?);
        threads.0.push(thread::Builder::new().spawn(move || exit.hand_on(&mut sink, &mut handed))?);
    }
    Ok(threads)
}

/// One direction of the network.
struct Line {
    network: Network,
    /// Most bytes and most pieces that are kept.
    room: (usize, usize),
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// What is under way or waits to leave.
#[derive(Default)]
struct Queue {
    bytes: VecDeque<u8>,
    pieces: VecDeque<Piece>,
    /// The sender has ended.
    ended: bool,
    /// The receiver takes nothing more.
    broken: bool,
}

struct Piece {
    arrival: Instant,
    length: usize,
}

impl Line {
    fn new(network: Network) -> Self {
        let bytes = network.bytes_in(network.delay(), FLYING_BYTES) + WAITING_BYTES;
        let room = (bytes, bytes / 64);
        let (bytes, pieces) = (VecDeque::with_capacity(room.0), VecDeque::with_capacity(room.1));
        let queue = Mutex::new(Queue { bytes, pieces, ended: false, broken: false });
        Self { network, room, queue, changed: Condvar::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change of the queue until it is as wanted.
    fn wait(&self, unready: impl Fn(&Queue) -> bool) -> MutexGuard<'_, Queue> {
        self.changed.wait_while(self.queue(), |queue| unready(queue)).unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes from their sender until it ends.
    fn take_in(&self, source: &mut TcpStream, buffer: &mut [u8]) {
        // When the line has sent what it was given.
        let mut free = Instant::now();
        loop {
            let count = match source.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            free = free.max(Instant::now()) + self.network.sending(count as u64);
            let full = |queue: &Queue| queue.bytes.len() + count > self.room.0 || queue.pieces.len() == self.room.1;
            let mut queue = self.wait(|queue| !queue.broken && full(queue));
            if queue.broken {
                break;
            }
            queue.bytes.extend(&buffer[..count]);
            queue.pieces.push_back(Piece { arrival: free + self.network.delay(), length: count });
            drop(queue);
            self.changed.notify_all();
        }
        let _ = source.shutdown(Shutdown::Read);
        self.queue().ended = true;
        self.changed.notify_all();
    }

    /// Hands bytes on, each when it arrives, until there are no more.
    fn hand_on(&self, sink: &mut TcpStream, buffer: &mut Vec<u8>) {
        loop {
            let queue = self.wait(|queue| queue.pieces.is_empty() && !queue.ended);
            let Some(arrival) = queue.pieces.front().map(|piece| piece.arrival) else { break };
            // The moment matters of the last piece alone: only of that can a receiver be in want.
            let last = queue.pieces.len() == 1;
            drop(queue);
            wait_until(arrival, if last { OVERSLEEP } else { Duration::ZERO });

            let (mut queue, now) = (self.queue(), Instant::now());
            buffer.clear();
            while let Some(Piece { length, .. }) = queue.pieces.front().filter(|piece| piece.arrival <= now)
                && (buffer.is_empty() || buffer.len() + length <= buffer.capacity())
            {
                let length = *length;
                buffer.extend(queue.bytes.drain(..length));
                queue.pieces.pop_front();
            }
            drop(queue);
            self.changed.notify_all();
            if sink.write_all(buffer).is_err() {
                break;
            }
        }
        let _ = sink.shutdown(Shutdown::Write);
        self.queue().broken = true;
        self.changed.notify_all();
    }
}

/// Sleeps until shortly before a moment, and waits for the rest awake.
fn wait_until(moment: Instant, awake: Duration) {
    let left = moment.saturating_duration_since(Instant::now());
    if left > awake {
        thread::sleep(left.saturating_sub(awake));
    }
    while Instant::now() < moment {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safenet_core::session::Transport;

    /// Best of several tries: what disturbs a measurement makes it longer only.
    const TRIES: u32 = 6;

    /// Seconds of `rounds` exchanges of `up` bytes for `down` bytes over a network.
    fn exchange(network: Network, rounds: usize, up: usize, down: usize) -> f64 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            stream.set_nodelay(true).unwrap();
            let mut asked = vec![0; up];
            for round in 0..rounds {
                stream.read_exact(&mut asked).unwrap();
                assert!(asked.iter().all(|&byte| byte == round as u8));
                stream.write_all(&vec![!round as u8; down]).unwrap();
            }
            // The client's end arrives too.
            assert_eq!(stream.read(&mut asked).unwrap(), 0);
        });
        let mut shaped = connect(port, Some(&network), Waiting::default()).unwrap();
        let mut answer = vec![0; down];
        let start = Instant::now();
        for round in 0..rounds {
            shaped.connection.write_all(&vec![round as u8; up]).unwrap();
            let mut filled = 0;
            while filled < down {
                filled += shaped.connection.read(&mut answer[filled..]).unwrap();
            }
            assert!(answer.iter().all(|&byte| byte == !round as u8));
        }
        let seconds = start.elapsed().as_secs_f64();
        drop(shaped);
        server.join().unwrap();
        seconds
    }

    #[test]
    fn transfers_take_the_time_that_the_network_takes() {
        for (rtt_ms, mbit, rounds, up, down) in [
            (20.0, 100.0, 3, 100, 100),
            (0.0, 80.0, 1, 1_000_000, 10),
            (4.0, 400.0, 2, 10, 1_500_000),
            (0.3, 3000.0, 50, 1000, 1000),
        ] {
            let network = Network::new(rtt_ms, Some(mbit)).unwrap();
            let expected = network.seconds((rounds * (up + down)) as u64, rounds as u64);
            let tolerated = 1.1 * expected + 0.5e-3 * rounds as f64 + 1e-3;
            let mut least = f64::INFINITY;
            for _ in 0..TRIES {
                let seconds = exchange(network, rounds, up, down);
                assert!(seconds >= expected, "{network}: {seconds} s, sooner than the {expected} s it takes");
                least = least.min(seconds);
                if least <= tolerated {
                    break;
                }
            }
            assert!(least <= tolerated, "{network}: {least} s, much later than the {expected} s it takes");
        }
    }

    #[test]
    fn a_sender_that_is_too_fast_is_held_up() {
        let line = Arc::new(Line::new(Network::new(0.0, Some(8.0)).unwrap()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut source = listener.accept().unwrap().0;
        let entry = line.clone();
        let thread = thread::spawn(move || entry.take_in(&mut source, &mut [0; 4096]));
        // Nobody takes out what goes in: some of this never finds room.
        sender.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(sender.write_all(&vec![1; 32 << 20]).is_err());
        assert!((WAITING_BYTES - 4096..=WAITING_BYTES).contains(&line.queue().bytes.len()));
        line.queue().broken = true;
        line.changed.notify_all();
        thread.join().unwrap();
    }
}
