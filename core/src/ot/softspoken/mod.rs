//! The extension: SoftSpokenOT (Roy, "SoftSpokenOT: Quieter OT Extension from Small-Field Silent VOLE in the Minicrypt
//! Model", CRYPTO 2022), semi-honest. With the repetition code 128 base OTs become any number of random OTs at 128/k − 1
//! bits of traffic each; with the simplex code 248 become wide ones ([`super::wide`]) at 248/k − 5.
//!
//! For each of the trees of depth k (module `pprf`) and each OT j: the receiver of the random OTs expands all 2^k
//! leaves into one bit r_x each and takes u = Σ r_x and, for each bit b < k of the index, v_b = Σ x_b·r_x (sums are
//! XORs). The sender, who lacks the leaf at its point δ, takes w_b = Σ (x ⊕ δ)_b·r_x, in which the missing leaf has
//! weight zero. So w_b = v_b ⊕ δ_b·u: the paper's small-field VOLE (figure 7), over GF(2^k) as k bits. The receiver
//! makes the trees' u a word of a code by sending, for each tree whose u is no index bit, u ⊕ the code's bit there:
//!
//! * the repetition code over 128/k trees. All agree on the first one's u, the choice bit. Concatenated over the trees, the
//!   sender has q = t ⊕ u·Δ for the receiver's row t of 128 bits; hashing q, q ⊕ Δ and t gives the keys.
//! * the simplex code of 31 bits over 248/k trees, 8/k for each bit, the first five bits being the index. The rows of 248
//!   bits are compressed to 128 ([`super::wide`]).
//!
//! The single OTs' trees are the first of all. Each group of 128 OTs of either kind takes a group of the leaves' streams.
//!
//! More depth means less traffic and more work: 2^k/k leaves are expanded for each bit of a row.

mod forest;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;

pub use receiver::RotReceiver;
pub use sender::RotSender;

use super::pprf;
use super::wide::{self, POSITION_BITS};
use super::{Block, Direction, ROW_BITS};
use crate::error::{Error, ErrorKind, Result};
use crate::ot::supply::Count;
use crate::prg::SecretVec;
use crate::session::Build;
use alloc::format;

/// OTs come in groups of this many: one AES block of each leaf.
pub const GROUP: usize = 128;

/// k: the trees' depth, which trades work for traffic. Both parties of an extension have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// 64 trees of 4 leaves: 63 bits of traffic for each OT, least work.
    Two,
    /// 32 trees of 16 leaves: 31 bits of traffic.
    Four,
    /// 16 trees of 256 leaves: 15 bits of traffic, most work.
    Eight,
}

impl Depth {
    /// The depth of value `k`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] unless k is 2, 4 or 8.
    pub fn new(k: u32) -> Result<Self> {
        match k {
            2 => Ok(Self::Two),
            4 => Ok(Self::Four),
            8 => Ok(Self::Eight),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("depth of the OT extension's trees: expected 2, 4 or 8, got {k}"),
            )),
        }
    }

    /// k itself.
    pub const fn bits(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// The number of trees that single OTs take, 128 / k.
    const fn trees(self) -> usize {
        ROW_BITS / self.bits()
    }

    /// The number of trees for each position of the simplex code, 8 / k.
    const fn copies(self) -> usize {
        POSITION_BITS / self.bits()
    }
}

/// Bytes of the receiver's setup message: 32 for each level but the first of each tree.
pub const fn setup_bytes(direction: Direction, depth: Depth) -> usize {
    direction.base_ots() / depth.bits() * pprf::correction_bytes(depth.bits())
}

/// Bytes of the receiver's message for `count` random OTs, a multiple of [`GROUP`]: 128/k − 1 bits for each.
pub const fn extension_bytes(depth: Depth, count: usize) -> usize {
    Code::Repetition.message_bytes(depth, count)
}

/// Bytes of the receiver's message for `count` wide OTs, a multiple of [`GROUP`]: 248/k − 5 bits for each.
pub const fn wide_bytes(depth: Depth, count: usize) -> usize {
    Code::Simplex.message_bytes(depth, count)
}

/// Bytes of a leaf in memory.
pub(in crate::ot) fn leaf_bytes(build: Build) -> usize {
    match build {
        Build::Small => 16,
        Build::Hosted => size_of::<forest::AesLeaf>(),
    }
}

/// Bytes of working memory while so many OTs are extended.
pub(in crate::ot) fn work_bytes(depth: Depth, count: Count, build: Build) -> usize {
    let chunk = match build {
        Build::Small => forest::SMALL_CHUNK,
        Build::Hosted => forest::HOSTED_CHUNK,
    };
    let lanes = |code: Code, count: usize| {
        let columns = code.trees(depth) * depth.bits() + code.positions() + depth.bits() + 6;
        16 * columns * chunk.min(count / GROUP)
    };
    lanes(Code::Repetition, count.single).max(lanes(Code::Simplex, count.wide))
}

/// The code whose words the trees' u are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Code {
    /// All trees of single OTs agree: one position.
    Repetition,
    /// That of wide OTs.
    Simplex,
}

impl Code {
    /// Trees for each position.
    const fn copies(self, depth: Depth) -> usize {
        match self {
            Self::Repetition => depth.trees(),
            Self::Simplex => depth.copies(),
        }
    }

    const fn positions(self) -> usize {
        match self {
            Self::Repetition => 1,
            Self::Simplex => wide::POSITIONS,
        }
    }

    /// Index bits, those of the first positions.
    const fn index_bits(self) -> usize {
        match self {
            Self::Repetition => 1,
            Self::Simplex => wide::INDEX_BITS as usize,
        }
    }

    const fn trees(self, depth: Depth) -> usize {
        self.positions() * self.copies(depth)
    }

    /// Trees whose u is corrected: 16 bytes of the message for each group.
    const fn corrected(self, depth: Depth) -> usize {
        self.trees(depth) - self.index_bits()
    }

    /// Whether the u of a tree is an index bit: that of the first copy at each of the first positions.
    const fn is_index(self, depth: Depth, tree: usize) -> bool {
        tree.is_multiple_of(self.copies(depth)) && tree / self.copies(depth) < self.index_bits()
    }

    const fn message_bytes(self, depth: Depth, count: usize) -> usize {
        self.corrected(depth) * (count / GROUP) * 16
    }
}

/// What the receiver of a batch of random OTs holds.
pub struct RotBatchReceived {
    /// The choices, uniform: that of OT j is bit j % 8 of byte j / 8.
    pub choices: SecretVec<u8>,
    /// The chosen key of each OT.
    pub keys: SecretVec<Block>,
}

impl RotBatchReceived {
    /// The choices of `count` (at most 32) consecutive OTs, that of the first one lowest. Those past the end read as
    /// zero.
    #[inline]
    pub fn choice_bits(&self, first: usize, count: u32) -> u32 {
        debug_assert!(count <= 32);
        let mut window = [0; 8];
        let from = self.choices.len().min(first / 8);
        for (to, byte) in window.iter_mut().zip(&self.choices[from..]) {
            *to = *byte;
        }
        (u64::from_le_bytes(window) >> (first % 8) & ((1 << count) - 1)) as u32
    }
}

fn check_count(count: usize) -> Result<()> {
    if !count.is_multiple_of(GROUP) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("OT extension: expected a multiple of {GROUP} OTs, got {count}"),
        ));
    }
    Ok(())
}

pub(super) fn check_length(what: &str, expected: usize, got: usize) -> Result<()> {
    if got != expected {
        return Err(Error::new(ErrorKind::MalformedMessage, format!("{what}: expected {expected} bytes, got {got}")));
    }
    Ok(())
}
