//! The one error type of the library: a kind that programs can test and a text that people can read.
//!
//! Every text says what was being done, what was expected and what came. No text holds a secret.

use alloc::string::String;
use core::fmt;

/// What went wrong, as a value that programs can test. The C interface gives each kind its own status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument of a call is outside what the call allows.
    InvalidArgument,
    /// A call came at a moment at which the session cannot take it.
    InvalidState,
    /// A model file or its public part cannot be read.
    MalformedModel,
    /// A model asks for what this version or the parameter set cannot do (a bound, a width, a noise budget).
    UnsupportedModel,
    /// The two parties do not speak of the same thing: protocol version, parameter set or model differ.
    Mismatch,
    /// A message from the other party is not what the protocol calls for at this point.
    MalformedMessage,
    /// The other party reported an error and stopped.
    Peer,
    /// A prepared bundle was asked for that is unknown, already used, or erased by an abort.
    BundleSpent,
    /// The connection ended, or the session was stopped, before the work was done.
    Aborted,
    /// The source of randomness failed.
    Randomness,
    /// What was asked for takes more memory than the caller allows.
    Memory,
}

/// An error of the library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// The result of every fallible function of the library.
pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    /// Makes an error of the given kind with a text that says what was expected and what came.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What went wrong, for programs.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What went wrong, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Puts the place at which the error arose in front of its text.
    #[must_use]
    pub fn context(self, place: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: alloc::format!("{place}: {}", self.message) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for Error {}
