//! Silent extension: a few thousand correlated OTs become millions of random OTs for less than a bit of traffic each,
//! under the assumption that learning parity with regular noise is hard.
//!
//! Ferret (Yang, Weng, Lan, Zhang and Wang, CCS 2020) with the correlated trees of Guo, Yang, Wang, Zhang, Xie, Liu and
//! Zhao ("Half-Tree", EUROCRYPT 2023), semi-honest. The sender S of the random OTs holds Δ. A *correlated OT* gives S a
//! row q and the receiver R a bit b and the row t = q ⊕ b·Δ. Δ is odd, so that a row can carry its bit: q is even, and
//! the lowest bit of t is b.
//!
//! One iteration, with the parameters k, m trees and depth h of a [`Set`], takes k + m·h correlated OTs and makes
//! n = m·2^h new ones:
//!
//! * k of them are a vector: S has (q_i), R has (t_i), with bits (s_i).
//! * the other m·h give S and R m trees (module `tree`): S all leaves v_j, R all but one leaf of each tree, and at that
//!   one leaf's place w_j = v_j ⊕ Δ. So w_j = v_j ⊕ e_j·Δ with one e_j = 1 in each tree.
//! * for a public matrix A with ten ones a row (module `code`), output row j of S is v_j ⊕ (A·q)_j, that of R is
//!   w_j ⊕ (A·t)_j, and its bit is e_j ⊕ (A·s)_j: uniform to S by the LPN assumption.
//!
//! The only message of an iteration goes from S to R, [`Set::refill_bytes`] long: R's choice of each tree's missing leaf
//! is the bits of the correlated OTs spent on it, which S does not know. The last k + m·h of the n outputs are kept
//! back as the next iteration's correlated OTs; the first iteration's come from elsewhere
//! ([`RotSender::extend_correlated`](super::softspoken::RotSender::extend_correlated), or a smaller set of this module).
//!
//! Outputs are made when they are asked for, one tree at a time. Between calls a party holds the vector, what its trees
//! grow from, and one tree's leaves ([`Set::sender_memory`], [`Set::receiver_memory`]).
//!
//! Wide OTs are made likewise (module `wide`), with noise that is an index.
//!
//! All sizes and positions are functions of the calls made alone, so the parties agree on them without talking.
//!
//! Without the crate's feature `silent` nobody can begin with it ([`Extension::check_built`](super::Extension::check_built)); what
//! it would send is known all the same.

#[cfg(not(feature = "silent"))]
mod absent;
#[cfg(feature = "silent")]
mod code;
#[cfg(feature = "silent")]
mod receiver;
#[cfg(feature = "silent")]
mod sender;
#[cfg(feature = "silent")]
mod stream;
#[cfg(test)]
#[cfg(feature = "silent")]
mod tests;
#[cfg(feature = "silent")]
mod tree;
#[cfg(feature = "silent")]
mod wide;

#[cfg(not(feature = "silent"))]
pub use absent::{Receiver, Sender, WideReceiver, WideSender};
#[cfg(feature = "silent")]
pub use receiver::Receiver;
#[cfg(feature = "silent")]
pub use sender::Sender;
#[cfg(feature = "silent")]
pub use wide::{WideReceiver, WideSender};

use super::softspoken::GROUP;
#[cfg(feature = "silent")]
use {
    super::{Block, Context, Label, first_half},
    crate::error::{Error, ErrorKind, Result},
    crate::simd::aes::Aes128Enc,
    aes::cipher::KeyInit,
    alloc::format,
};

/// Parameters of the LPN problem and of the trees that make its noise. `docs/parameters.md` says what attacks on them
/// cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// For up to a million single OTs, and to seed the next set: 285,056 an iteration, a vector of 576 KiB.
    Small,
    /// For millions: 4,965,376 an iteration, a vector of 4 MiB.
    Large,
    /// For up to a million wide OTs, and to seed the next set: 318,080 an iteration, a vector of 640 KiB.
    WideSmall,
    /// For millions: 5,469,440 an iteration, a vector of 4.5 MiB.
    WideLarge,
}

impl Set {
    /// k: entries of the secret vector.
    pub const fn vector(self) -> usize {
        match self {
            Self::Small => 9 << 12,
            Self::Large => 1 << 18,
            Self::WideSmall => 10 << 12,
            Self::WideLarge => 9 << 15,
        }
    }

    /// The number of trees, which is the weight of the noise, of wide OTs with noise that may be 0.
    pub const fn trees(self) -> usize {
        match self {
            Self::Small => 640,
            Self::Large => 1280,
            Self::WideSmall => 1408,
            Self::WideLarge => 2816,
        }
    }

    /// h: a tree has 2^h leaves.
    pub const fn depth(self) -> usize {
        match self {
            Self::Small => 9,
            Self::Large => 12,
            Self::WideSmall => 8,
            Self::WideLarge => 11,
        }
    }

    /// Whether its OTs are wide.
    pub const fn is_wide(self) -> bool {
        matches!(self, Self::WideSmall | Self::WideLarge)
    }

    /// n: outputs of an iteration, those that the next iteration takes included.
    pub const fn samples(self) -> usize {
        self.trees() << self.depth()
    }

    /// OTs of its own kind that an iteration takes, made up to a multiple of [`GROUP`]: k, and for each tree h single or one
    /// wide.
    pub const fn seed_rows(self) -> usize {
        let tree = if self.is_wide() { 1 } else { self.depth() };
        (self.vector() + self.trees() * tree).next_multiple_of(GROUP)
    }

    /// Single correlated OTs that an iteration of wide ones takes beside them, made up to a multiple of [`GROUP`]: h for each
    /// tree.
    pub const fn tree_rows(self) -> usize {
        if self.is_wide() { (self.trees() * self.depth()).next_multiple_of(GROUP) } else { 0 }
    }

    /// OTs that an iteration gives, a multiple of [`GROUP`].
    pub const fn outputs(self) -> usize {
        self.samples() - self.seed_rows()
    }

    /// Bytes of the message of an iteration: a block for each level but the first of each tree, of wide OTs another one.
    pub const fn refill_bytes(self) -> usize {
        self.trees() * (self.depth() - 1 + self.is_wide() as usize) * 16
    }

    /// Bytes that the sender holds between calls. During a refill another vector comes to them.
    pub const fn sender_memory(self) -> usize {
        (self.vector() + self.trees() + (1 << self.depth())) * 16
    }

    /// Bytes that the receiver holds between calls. During a refill another vector comes to them.
    pub const fn receiver_memory(self) -> usize {
        let index = self.is_wide() as usize;
        (self.vector() + (1 << self.depth())) * (16 + index) + self.trees() * ((self.depth() + 1) * 16 + 17 * index)
    }
}

#[cfg(feature = "silent")]
impl Set {
    /// The number that stands for the set where hashes bind it.
    const fn id(self) -> u8 {
        match self {
            Self::Small => 1,
            Self::Large => 2,
            Self::WideSmall => 3,
            Self::WideLarge => 4,
        }
    }

    /// A public cipher of one iteration.
    fn cipher(self, context: &Context, label: Label, iteration: u64) -> Aes128Enc {
        let key = first_half(&context.digest(label, &[&[self.id()], &iteration.to_le_bytes()]));
        Aes128Enc::new(&key.into())
    }

    /// Refuses a seed of another length than [`Set::seed_rows`].
    fn check_seed(self, rows: usize) -> Result<()> {
        if rows != self.seed_rows() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("seed of the silent extension: expected {} correlated OTs, got {rows}", self.seed_rows()),
            ));
        }
        Ok(())
    }

    /// Refuses a message of another length than [`Set::refill_bytes`].
    fn check_refill(self, bytes: usize) -> Result<()> {
        if bytes != self.refill_bytes() {
            return Err(Error::new(
                ErrorKind::MalformedMessage,
                format!("silent extension's refill: expected {} bytes, got {bytes}", self.refill_bytes()),
            ));
        }
        Ok(())
    }
}

/// The last bit of a row of the receiver: the choice.
#[cfg(feature = "silent")]
#[inline]
fn choice(row: Block) -> u8 {
    row as u8 & 1
}
