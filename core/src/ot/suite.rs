//! What hashes and expands in OTs, of two kinds.
//!
//! | | AES | ChaCha |
//! |---|---|---|
//! | hash of single OTs | two AES calls under a key of 2^20 OTs | first 16 bytes of a block of ChaCha20 |
//! | hash of wide OTs | an AES call under a key of 128 OTs | first 16 bytes of a block of ChaCha20 |
//! | children of a tree's node | an AES call each | 32 bytes of a block of ChaCha20 |
//! | stream of a leaf | AES in counter mode | ChaCha12 |
//!
//! ChaCha is keyed by the 128 secret bits (a row, a node or a leaf) and 128 public ones of the session, its counter is the OT's, or the
//! piece's, number and its nonce are 64 more bits of the session ([`crate::simd::chacha::Binding`]). Processors with AES instructions are faster with AES; those
//! without would have to compute it from bit operations, and take several times as long as for ChaCha, which is sums and rotations of words.
//!
//! The silent extension's own trees and code are AES in either suite.

use crate::error::{Error, ErrorKind, Result};
use alloc::format;

/// What both parties of a session hash and expand with in OTs: the client's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// AES-128.
    Aes,
    /// ChaCha with 20 rounds, and with 12 in streams.
    ChaCha,
}

impl Suite {
    /// The one that is faster where this was compiled for: AES where processors have instructions for it.
    pub const fn preferred() -> Self {
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) { Self::Aes } else { Self::ChaCha }
    }

    /// The number that stands for a suite on the wire and in other languages: 1 for AES, 2 for ChaCha.
    pub const fn code(self) -> u8 {
        match self {
            Self::Aes => 1,
            Self::ChaCha => 2,
        }
    }

    /// The suite of a code.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for other codes.
    pub fn from_code(code: u32) -> Result<Self> {
        match code {
            1 => Ok(Self::Aes),
            2 => Ok(Self::ChaCha),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("hash suite: expected 1 for AES or 2 for ChaCha, got {code}"),
            )),
        }
    }
}
