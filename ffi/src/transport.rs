//! The callbacks by which the blocking helpers reach a socket.

use crate::status::{Failure, safenet_status};
use alloc::borrow::ToOwned;
use core::ffi::c_void;
use safenet_core::session::{Session, Transport, drive};
use safenet_core::{Error, ErrorKind, Result};

/// Reads from the connection, as recv() does: waits for at least one byte, stores up to `size` bytes at `buffer` and
/// returns how many; 0 means that the connection has ended, a negative value that reading failed.
pub type safenet_read = Option<unsafe extern "C" fn(context: *mut c_void, buffer: *mut u8, size: usize) -> isize>;

/// Writes to the connection, as send() does: takes up to `size` bytes from `buffer`, at least one, and returns how many; 0
/// or a negative value means that writing failed.
pub type safenet_write = Option<unsafe extern "C" fn(context: *mut c_void, buffer: *const u8, size: usize) -> isize>;

struct Callbacks {
    read: unsafe extern "C" fn(*mut c_void, *mut u8, usize) -> isize,
    write: unsafe extern "C" fn(*mut c_void, *const u8, usize) -> isize,
    context: *mut c_void,
    failed: bool,
}

impl Callbacks {
    /// The count that a callback returned for a buffer of `size` bytes.
    fn count(&mut self, what: &str, least: isize, size: usize, returned: isize) -> Result<usize> {
        match usize::try_from(returned) {
            Ok(count) if returned >= least && count <= size => Ok(count),
            _ => {
                self.failed = true;
                let text = alloc::format!("{what} callback: expected {least} to {size}, got {returned}");
                Err(Error::new(ErrorKind::Aborted, text))
            }
        }
    }
}

impl Transport for Callbacks {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        // SAFETY: the callback's contract.
        let returned = unsafe { (self.read)(self.context, buffer.as_mut_ptr(), buffer.len()) };
        self.count("read", 0, buffer.len(), returned)
    }

    fn write_all(&mut self, mut buffer: &[u8]) -> Result<()> {
        while !buffer.is_empty() {
            // SAFETY: the callback's contract.
            let returned = unsafe { (self.write)(self.context, buffer.as_ptr(), buffer.len()) };
            let count = self.count("write", 1, buffer.len(), returned)?;
            buffer = &buffer[count..];
        }
        Ok(())
    }
}

/// Runs a session's operation over callbacks. If the connection fails, the session is over and its secrets are erased.
pub(crate) fn run(
    session: &mut impl Session,
    read: safenet_read,
    write: safenet_write,
    context: *mut c_void,
) -> core::result::Result<(), Failure> {
    let (Some(read), Some(write)) = (read, write) else {
        let text = "callbacks: expected a read and a write function, got NULL";
        return Err(Failure::new(safenet_status::SAFENET_ERROR_NULL_POINTER, text));
    };
    let mut callbacks = Callbacks { read, write, context, failed: false };
    match drive(session, &mut callbacks) {
        Ok(_) => Ok(()),
        // Any other error is the session's own, which it could not tell the other party.
        Err(error) if callbacks.failed && error.kind() == ErrorKind::Aborted => {
            Err(Failure::new(safenet_status::SAFENET_ERROR_TRANSPORT, error.message().to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}
