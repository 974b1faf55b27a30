//! The byte channel between a party's script and the outside.
//!
//! A script awaits bytes or room; [`Driver::advance`] moves bytes between the caller's buffers and the channel and polls
//! the script in between. No executor, no threads, no waker that wakes anyone: whoever calls `advance` is the scheduler.

use super::meter::{Meter, Observer, Place};
use crate::error::{Error, Result};
use crate::wire::frame::{self, Expected, FrameKind, HEADER_BYTES};
use alloc::{boxed::Box, collections::VecDeque, sync::Arc, vec::Vec};
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use spin::Mutex;

/// A script waits while more than this is queued for sending, so a slow reader costs its peer no memory.
const QUEUE_BYTES: usize = if cfg!(feature = "small") { 1 << 12 } else { 1 << 18 };
/// Room that is made for a piece before any of it is here. Of a longer one it grows with what arrives.
const PIECE_BYTES: usize = 1 << 20;

#[derive(Default)]
struct Channel {
    /// Received bytes of the piece that the script awaits, and how many it wants in all.
    inbox: Vec<u8>,
    wanted: usize,
    /// Pieces to be sent; the first `sent` bytes of the front one are gone.
    outbox: VecDeque<Vec<u8>>,
    sent: usize,
    queued: usize,
    /// The script waits until all that is queued is out.
    flushing: bool,
    /// The other party has sent an error: it is gone.
    refused: bool,
    meter: Meter,
    observer: Option<Observer>,
    /// What a party holds of every tensor, if it is asked to keep that.
    #[cfg(any(test, feature = "trace"))]
    words: Option<Vec<Vec<u32>>>,
}

impl Channel {
    fn enqueue(&mut self, piece: Vec<u8>) {
        if !piece.is_empty() {
            self.queued += piece.len();
            self.outbox.push_back(piece);
        }
    }

    fn take_input(&mut self, input: &[u8]) -> usize {
        let count = (self.wanted - self.inbox.len()).min(input.len());
        self.inbox.extend_from_slice(&input[..count]);
        count
    }

    fn give_output(&mut self, output: &mut [u8]) -> usize {
        let mut produced = 0;
        while let Some(front) = self.outbox.front() {
            let rest = &front[self.sent..];
            let count = rest.len().min(output.len() - produced);
            output[produced..produced + count].copy_from_slice(&rest[..count]);
            produced += count;
            self.sent += count;
            if self.sent < front.len() {
                break;
            }
            self.outbox.pop_front();
            self.sent = 0;
        }
        self.queued -= produced;
        produced
    }
}

/// A script's end of the channel.
#[derive(Clone)]
pub(crate) struct Link(Arc<Mutex<Channel>>);

impl Link {
    /// States where in the protocol the bytes from here on belong.
    pub(crate) fn enter(&self, place: Place) {
        let mut channel = self.0.lock();
        channel.meter.enter(place);
        if let Some(observer) = &mut channel.observer {
            observer(place);
        }
    }

    /// Whether the words of all tensors are kept to be looked at.
    pub(crate) fn is_traced(&self) -> bool {
        #[cfg(any(test, feature = "trace"))]
        return self.0.lock().words.is_some();
        #[cfg(not(any(test, feature = "trace")))]
        false
    }

    /// Keeps what this party holds of every tensor, if that is wanted.
    pub(crate) fn show<'a>(&self, words: impl Iterator<Item = &'a [u32]>) {
        #[cfg(any(test, feature = "trace"))]
        if let Some(shown) = &mut self.0.lock().words {
            *shown = words.map(<[u32]>::to_vec).collect();
        }
        #[cfg(not(any(test, feature = "trace")))]
        drop(words);
    }

    /// Sends one frame; suspends while too much is queued.
    pub(crate) async fn send(&self, kind: FrameKind, payload: Vec<u8>) -> Result<()> {
        self.push(kind, payload)?;
        self.drained().await;
        Ok(())
    }

    /// Sends one frame whose payload of `length` bytes is made piece by piece; suspends while too much is queued.
    pub(crate) async fn send_pieces(
        &self,
        kind: FrameKind,
        length: usize,
        pieces: impl Iterator<Item = Vec<u8>>,
    ) -> Result<()> {
        self.announce(kind, length)?;
        let mut left = length;
        for piece in pieces {
            left = left
                .checked_sub(piece.len())
                .ok_or_else(|| super::invalid_state("message: got more than announced"))?;
            self.0.lock().enqueue(piece);
            self.drained().await;
        }
        match left {
            0 => Ok(()),
            _ => Err(super::invalid_state("message: got less than announced")),
        }
    }

    /// Suspends while too much is queued.
    async fn drained(&self) {
        poll_fn(|_| if self.0.lock().queued > QUEUE_BYTES { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    /// Suspends until the caller has taken all that is queued and comes again. So the other party has it while this one does
    /// what follows, work that takes long or that nobody waits for.
    pub(crate) async fn flush(&self) {
        self.0.lock().flushing = true;
        poll_fn(|_| if self.0.lock().flushing { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    fn push(&self, kind: FrameKind, payload: Vec<u8>) -> Result<()> {
        self.announce(kind, payload.len())?;
        self.0.lock().enqueue(payload);
        Ok(())
    }

    /// Queues the header of a frame.
    fn announce(&self, kind: FrameKind, length: usize) -> Result<()> {
        let header = frame::header(kind, length)?;
        let mut channel = self.0.lock();
        // Neither party counts an error: it ends the session, and belongs to no phase of it.
        if kind != FrameKind::Error {
            channel.meter.sent(HEADER_BYTES + length);
        }
        channel.enqueue(header.to_vec());
        Ok(())
    }

    /// Receives a frame of the given kind and exact length.
    pub(crate) async fn receive(&self, kind: FrameKind, length: usize) -> Result<Vec<u8>> {
        let payload = self.receive_any(&[(kind, length..=length)]).await?.1;
        self.count_received(payload.len());
        Ok(payload)
    }

    /// Receives a frame of the given kind and exact length piece by piece, and gives each piece to `take`.
    pub(crate) async fn receive_pieces(
        &self,
        kind: FrameKind,
        pieces: impl Iterator<Item = usize> + Clone,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let length = pieces.clone().sum();
        self.header(&[(kind, length..=length)]).await?;
        for piece in pieces {
            take(&self.bytes(piece).await)?;
        }
        self.count_received(length);
        Ok(())
    }

    /// Receives frames of the given kind and exact lengths, one after another.
    pub(crate) async fn receive_all(
        &self,
        kind: FrameKind,
        lengths: impl Iterator<Item = usize>,
    ) -> Result<Vec<Vec<u8>>> {
        let mut payloads = Vec::with_capacity(lengths.size_hint().0);
        for length in lengths {
            payloads.push(self.receive(kind, length).await?);
        }
        Ok(payloads)
    }

    /// Counts a frame that [`Self::receive_any`] returned, where the script now is.
    pub(crate) fn count_received(&self, payload: usize) {
        self.0.lock().meter.received(HEADER_BYTES + payload);
    }

    /// Counts an inference as done.
    pub(crate) fn count_inference(&self) {
        self.0.lock().meter.answered();
    }

    /// Receives one of several frames, uncounted: only its kind tells where it belongs. An error frame becomes the error it
    /// tells of.
    pub(crate) async fn receive_any(&self, expected: &[Expected]) -> Result<(FrameKind, Vec<u8>)> {
        let (kind, length) = self.header(expected).await?;
        Ok((kind, self.bytes(length).await))
    }

    /// The kind and the length of the next frame.
    async fn header(&self, expected: &[Expected]) -> Result<(FrameKind, usize)> {
        let (kind, length) = frame::parse_header(&self.bytes(HEADER_BYTES).await, expected)?;
        if kind == FrameKind::Error {
            let payload = self.bytes(length).await;
            self.0.lock().refused = true;
            return Err(frame::peer_error(&payload));
        }
        Ok((kind, length))
    }

    async fn bytes(&self, count: usize) -> Vec<u8> {
        {
            let mut channel = self.0.lock();
            channel.wanted = count;
            // What is allocated grows with what arrives; the length itself was checked against the public architecture.
            channel.inbox = Vec::with_capacity(count.min(PIECE_BYTES));
        }
        poll_fn(|_| {
            let mut channel = self.0.lock();
            if channel.inbox.len() < channel.wanted {
                return Poll::Pending;
            }
            channel.wanted = 0;
            Poll::Ready(core::mem::take(&mut channel.inbox))
        })
        .await
    }
}

/// How a call of `advance` left the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The session needs bytes from the other party to go on.
    WantsInput,
    /// Bytes for the other party are left over, or work for when those produced are on their way, or an error that will be
    /// returned: call again, with room for output.
    HasOutput,
    /// The operation that was asked for is done and all its bytes are out.
    Idle,
    /// The session is over and all its bytes are out.
    Closed,
}

/// What a call of `advance` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes taken from the front of the input.
    pub consumed: usize,
    /// Bytes written to the front of the output.
    pub produced: usize,
    /// What the session needs next.
    pub status: Status,
}

/// A script in progress.
pub(crate) type Script<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// The outside's end of the channel, and the script at the other end.
pub(crate) struct Driver<T> {
    channel: Arc<Mutex<Channel>>,
    script: Option<Script<T>>,
    failure: Option<Error>,
}

impl<T> Driver<T> {
    pub(crate) fn new() -> Self {
        Self { channel: Arc::default(), script: None, failure: None }
    }

    pub(crate) fn link(&self) -> Link {
        Link(self.channel.clone())
    }

    /// Tells an observer of every place that the script enters from here on.
    pub(crate) fn observe(&self, observer: Observer) {
        self.channel.lock().observer = Some(observer);
    }

    /// Keeps what the party holds of every tensor from here on.
    #[cfg(any(test, feature = "trace"))]
    pub(crate) fn trace(&self) {
        self.channel.lock().words.get_or_insert_default();
    }

    /// What the party held of every tensor of the last inference that it prepared (client) or ran (server).
    #[cfg(any(test, feature = "trace"))]
    pub(crate) fn words(&self) -> Vec<Vec<u32>> {
        self.channel.lock().words.clone().unwrap_or_default()
    }

    /// Starts a script; the one before must be done.
    pub(crate) fn start(&mut self, script: Script<T>) {
        debug_assert!(self.script.is_none() && self.failure.is_none());
        self.script = Some(script);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.script.is_some()
    }

    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    pub(crate) fn meter(&self) -> Meter {
        self.channel.lock().meter.clone()
    }

    pub(crate) fn place(&self) -> Place {
        self.channel.lock().meter.place()
    }

    /// Ends the script at once, with everything that it holds and all that is not sent; later calls return the error, or
    /// the one before it.
    pub(crate) fn abort(&mut self, error: Error) {
        self.script = None;
        let mut channel = self.channel.lock();
        channel.outbox.clear();
        (channel.sent, channel.queued, channel.flushing) = (0, 0, false);
        self.failure.get_or_insert(error);
    }

    /// Moves bytes and runs the script until it needs more input or more room, or is done (its result is returned once).
    ///
    /// A failed script tells the other party first: its error is returned when those bytes are out.
    pub(crate) fn advance(&mut self, input: &[u8], output: &mut [u8]) -> Result<(Progress, Option<T>)> {
        let (mut consumed, mut produced, mut result) = (0, 0, None);
        {
            let mut channel = self.channel.lock();
            channel.flushing &= channel.queued > 0;
        }
        loop {
            let before = (consumed, produced);
            {
                let mut channel = self.channel.lock();
                consumed += channel.take_input(&input[consumed..]);
                produced += channel.give_output(&mut output[produced..]);
            }
            if let Some(script) = &mut self.script
                && let Poll::Ready(done) = script.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                self.script = None;
                match done {
                    Ok(value) => result = Some(value),
                    Err(error) => {
                        if !self.channel.lock().refused {
                            // The header of an error frame cannot fail: its payload is short.
                            let _ = self.link().push(FrameKind::Error, frame::error_payload(&error));
                        }
                        self.failure = Some(error);
                    }
                }
            }
            let mut channel = self.channel.lock();
            produced += channel.give_output(&mut output[produced..]);
            // Without a move the script waits: for bytes that are not here, or for room that is not here.
            let could_take = consumed < input.len() && channel.inbox.len() < channel.wanted;
            if self.script.is_none() || (before == (consumed, produced) && !could_take) {
                break;
            }
        }
        let (queued, flushing) = {
            let channel = self.channel.lock();
            (channel.queued, channel.flushing)
        };
        let status = match (queued, &self.failure) {
            (1.., _) => Status::HasOutput,
            (0, Some(error)) if produced == 0 => return Err(error.clone()),
            // The last bytes of a failed session: the next call returns its error.
            (0, Some(_)) => Status::HasOutput,
            (0, None) if self.script.is_none() => Status::Idle,
            (0, None) if flushing => Status::HasOutput,
            (0, None) => Status::WantsInput,
        };
        Ok((Progress { consumed, produced, status }, result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn work_without_hurry_begins_when_the_caller_has_all_that_is_queued_and_comes_again() {
        let mut driver = Driver::new();
        let (link, begun) = (driver.link(), Arc::new(AtomicBool::new(false)));
        let begins = begun.clone();
        driver.start(Box::pin(async move {
            link.send(FrameKind::Goodbye, alloc::vec![1; 4]).await?;
            link.flush().await;
            begins.store(true, Ordering::Relaxed);
            Ok(7)
        }));
        let mut output = [0; HEADER_BYTES];
        // The header, the payload, the work: a call for each.
        for (produced, done) in [(HEADER_BYTES, None), (4, None), (0, Some(7))] {
            assert!(!begun.load(Ordering::Relaxed));
            let (progress, result) = driver.advance(&[], &mut output).unwrap();
            assert_eq!((progress.produced, result), (produced, done));
            assert_eq!(progress.status, if done.is_some() { Status::Idle } else { Status::HasOutput });
        }
        assert!(begun.load(Ordering::Relaxed));
    }
}
