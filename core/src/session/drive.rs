//! The loop that runs a session over a blocking transport.

use super::link::{Progress, Status};
use crate::error::{Error, ErrorKind, Result};

/// A blocking byte stream, such as a socket.
pub trait Transport {
    /// Reads at least one byte into the buffer and returns how many; 0 means that the stream has ended.
    ///
    /// # Errors
    /// What the transport reports.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize>;

    /// Writes the whole buffer.
    ///
    /// # Errors
    /// What the transport reports.
    fn write_all(&mut self, buffer: &[u8]) -> Result<()>;
}

/// What a session offers to whoever moves its bytes: implemented by [`super::Client`] and [`super::Server`].
pub trait Session {
    /// Moves bytes and runs the session.
    ///
    /// # Errors
    /// What ended the session.
    fn advance(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress>;

    /// Tells the session that no more input will come; everything prepared is erased.
    fn input_ended(&mut self);
}

/// What is read or written at once.
const BUFFER_BYTES: usize = if cfg!(feature = "small") { 1 << 10 } else { 1 << 16 };

/// Runs a session until it is idle or closed.
///
/// # Errors
/// What ended the session or the transport. After an error the session is over, and everything that it had prepared is erased.
pub fn drive(session: &mut impl Session, transport: &mut impl Transport) -> Result<Status> {
    run(session, transport).inspect_err(|_| session.input_ended())
}

fn run(session: &mut impl Session, transport: &mut impl Transport) -> Result<Status> {
    let mut input = alloc::vec![0; BUFFER_BYTES];
    let mut output = alloc::vec![0; BUFFER_BYTES];
    let (mut start, mut end) = (0, 0);
    loop {
        let step = session.advance(&input[start..end], &mut output)?;
        start += step.consumed;
        if step.produced > 0
            && let Err(error) = transport.write_all(&output[..step.produced])
        {
            session.input_ended();
            // A session that has failed, and could not tell the other party, knows better what happened.
            return Err(match session.advance(&[], &mut []) {
                Err(own) if own.kind() != ErrorKind::Aborted => own,
                _ => error,
            });
        }
        match step.status {
            Status::WantsInput if start == end => {
                (start, end) = (0, transport.read(&mut input)?);
                if end == 0 {
                    session.input_ended();
                }
            }
            Status::WantsInput | Status::HasOutput => {}
            Status::Idle | Status::Closed if start == end => return Ok(step.status),
            Status::Idle | Status::Closed => {
                return Err(Error::new(
                    ErrorKind::MalformedMessage,
                    alloc::format!("expected nothing after the last message, got {} bytes", end - start),
                ));
            }
        }
    }
}
