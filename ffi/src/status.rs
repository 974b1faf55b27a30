//! Status codes, and the errors that leave the library as one.

use alloc::borrow::{Cow, ToOwned};
use core::ffi::{CStr, c_char};
use safenet_core::{Error, ErrorKind};

/// What a call came to: 0 is success, every error is negative. Values keep their meaning for ever.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "constants of C have no other name space than their prefix")]
pub enum safenet_status {
    /// Success.
    SAFENET_OK = 0,
    /// A pointer is NULL where the function needs one.
    SAFENET_ERROR_NULL_POINTER = -1,
    /// The library has a fault; the session, if it was one, is over. Please report the error text.
    SAFENET_ERROR_PANIC = -2,
    /// An argument is outside what the function allows.
    SAFENET_ERROR_INVALID_ARGUMENT = -3,
    /// The call came at a moment at which the session cannot take it: an operation is running, another call on the same
    /// session has not returned, or the session was closed.
    SAFENET_ERROR_INVALID_STATE = -4,
    /// A model file or its public part cannot be read.
    SAFENET_ERROR_MALFORMED_MODEL = -5,
    /// A model asks for what this version of the library cannot do.
    SAFENET_ERROR_UNSUPPORTED_MODEL = -6,
    /// The two parties do not speak of the same thing: protocol version, parameter set or model differ.
    SAFENET_ERROR_MISMATCH = -7,
    /// A message from the other party is not what the protocol calls for at this point.
    SAFENET_ERROR_MALFORMED_MESSAGE = -8,
    /// The other party reported an error and stopped.
    SAFENET_ERROR_PEER = -9,
    /// A prepared inference was asked for that is unknown, already used, or erased by an abort.
    SAFENET_ERROR_BUNDLE_SPENT = -10,
    /// The connection ended before the work was done.
    SAFENET_ERROR_ABORTED = -11,
    /// The source of randomness failed.
    SAFENET_ERROR_RANDOMNESS = -12,
    /// A read or write callback reported an error.
    SAFENET_ERROR_TRANSPORT = -13,
    /// An error of a kind that this version of the interface has no value for; the text says what it is.
    SAFENET_ERROR_OTHER = -14,
    /// What was asked for takes more memory than the option `memory` allows; the text says how much.
    SAFENET_ERROR_MEMORY = -15,
}

use safenet_status as Status;

impl Status {
    fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidArgument => Self::SAFENET_ERROR_INVALID_ARGUMENT,
            ErrorKind::InvalidState => Self::SAFENET_ERROR_INVALID_STATE,
            ErrorKind::MalformedModel => Self::SAFENET_ERROR_MALFORMED_MODEL,
            ErrorKind::UnsupportedModel => Self::SAFENET_ERROR_UNSUPPORTED_MODEL,
            ErrorKind::Mismatch => Self::SAFENET_ERROR_MISMATCH,
            ErrorKind::MalformedMessage => Self::SAFENET_ERROR_MALFORMED_MESSAGE,
            ErrorKind::Peer => Self::SAFENET_ERROR_PEER,
            ErrorKind::BundleSpent => Self::SAFENET_ERROR_BUNDLE_SPENT,
            ErrorKind::Aborted => Self::SAFENET_ERROR_ABORTED,
            ErrorKind::Memory => Self::SAFENET_ERROR_MEMORY,
            ErrorKind::Randomness => Self::SAFENET_ERROR_RANDOMNESS,
            _ => Self::SAFENET_ERROR_OTHER,
        }
    }
}

/// What a session needs next, after a call that moved bytes.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "constants of C have no other name space than their prefix")]
pub enum safenet_state {
    /// The session needs bytes from the other party to go on.
    SAFENET_WANTS_INPUT = 1,
    /// Bytes for the other party are left over, or work for when it has those of this call: send these, then call again with
    /// an empty output buffer.
    SAFENET_HAS_OUTPUT = 2,
    /// A client's operation is done and all its bytes are out.
    SAFENET_IDLE = 3,
    /// The session is over as it should be and all its bytes are out.
    SAFENET_CLOSED = 4,
}

/// An error on its way out: the status that the function returns, and its text.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    /// One that is the program's own takes no memory, and so is there where memory is not.
    pub(crate) text: Cow<'static, str>,
}

impl Failure {
    pub(crate) fn new(status: Status, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, text: text.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(Status::of(error.kind()), error.message().to_owned())
    }
}

/// A short English text for a status, such as "bundle spent" for SAFENET_ERROR_BUNDLE_SPENT; "unknown status" for a value
/// that is none. Never NULL, never freed; any thread may call. What went wrong in a particular call is in the error text.
#[unsafe(no_mangle)]
pub extern "C" fn safenet_status_text(status: i32) -> *const c_char {
    // The value is checked here and not by its type: C programs may pass any integer.
    let text: &CStr = match status {
        0 => c"success",
        -1 => c"null pointer",
        -2 => c"fault in the library",
        -3 => c"invalid argument",
        -4 => c"invalid state",
        -5 => c"malformed model",
        -6 => c"unsupported model",
        -7 => c"mismatch between the parties",
        -8 => c"malformed message",
        -9 => c"error at the other party",
        -10 => c"bundle spent",
        -11 => c"aborted",
        -12 => c"randomness failed",
        -13 => c"transport failed",
        -14 => c"other error",
        -15 => c"more memory than allowed",
        _ => c"unknown status",
    };
    text.as_ptr()
}
