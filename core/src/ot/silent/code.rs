//! The public matrix A of the LPN problem, n rows of k columns with ten ones each: a local linear code.
//!
//! Row j has its ones at the columns that two AES blocks give, the encryptions of 2j and 2j + 1 under a key of the
//! iteration's own: five fields of 25 bits each, times k, divided by 2^25. Where k is a power of two the columns are
//! uniform, for AES an ideal cipher; else a column's chance is off by less than k / 2^25 of itself. Two ones of a row may
//! fall on one column, where they cancel, as in the instances that the attacks' costs are known for.
//!
//! The columns are public, so memory may be read at them: nothing about a secret shows in the time that takes.

use super::super::{Block, Bytes, encrypt_with};
use super::Set;
use crate::prg::SecretVec;
use aes::Aes128Enc;
use aes::cipher::common::BlockSizeUser;
use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt};
use zeroize::Zeroize;

/// Ones in a row.
pub(super) const LOCALITY: usize = 10;

/// Rows computed together: their columns take 64 AES blocks, which fill the widest units.
pub(super) const BATCH: usize = 32;

/// Bits of an AES block that choose a column.
const FIELD: usize = 25;

/// An entry of the secret vector. As two words, since compilers split XORs of `u128`; aligned, so that none lies across
/// two cache lines.
#[derive(Clone, Copy, Zeroize)]
#[repr(align(16))]
pub(super) struct Entry([u64; 2]);

impl From<Block> for Entry {
    fn from(block: Block) -> Self {
        Self([block as u64, (block >> 64) as u64])
    }
}

/// The secret vector: (q_i) at the sender, (t_i) at the receiver.
pub(super) type Vector = SecretVec<Entry>;

/// Adds A times the vector to some leaves.
pub(super) struct Encode<'a> {
    /// The number of the first row, a multiple of [`BATCH`].
    pub(super) first: u64,
    /// k entries.
    pub(super) vector: &'a [Entry],
    /// The leaves of the rows; a multiple of [`BATCH`].
    pub(super) leaves: &'a [Bytes],
    /// The output, as long as `leaves`.
    pub(super) rows: &'a mut [Block],
}

impl Encode<'_> {
    /// Runs under the cipher of the iteration.
    pub(super) fn run(self, set: Set, cipher: &Aes128Enc) {
        debug_assert!(self.vector.len() == set.vector() && set.vector() < 1 << FIELD);
        debug_assert!(self.leaves.len() == self.rows.len() && self.leaves.len().is_multiple_of(BATCH));
        cipher.encrypt_with_backend(self);
    }
}

impl BlockSizeUser for Encode<'_> {
    type BlockSize = U16;
}

/// As a closure of the cipher's back end, the loop is compiled for the instruction set that the back end uses.
impl BlockCipherEncClosure for Encode<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let mut blocks = [[0; 16]; 2 * BATCH];
        let batches = self.leaves.chunks_exact(BATCH).zip(self.rows.chunks_exact_mut(BATCH));
        for ((leaves, rows), first) in batches.zip((2 * self.first..).step_by(2 * BATCH)) {
            for (block, number) in blocks.iter_mut().zip(first..) {
                *block = u128::from(number).to_le_bytes();
            }
            encrypt_with(backend, &mut blocks);
            for ((row, leaf), pair) in rows.iter_mut().zip(leaves).zip(blocks.chunks_exact(2)) {
                let leaf = Entry::from(Block::from_le_bytes(*leaf));
                let [low, high] = fields(&pair[0], &pair[1]).iter().fold(leaf.0, |sum, &field| {
                    let column = (u64::from(field) * self.vector.len() as u64) >> FIELD;
                    let entry = self.vector[column as usize].0;
                    [sum[0] ^ entry[0], sum[1] ^ entry[1]]
                });
                *row = Block::from(low) | Block::from(high) << 64;
            }
        }
    }
}

/// The fields that choose the columns of a row's ones.
#[inline(always)]
fn fields(first: &Bytes, second: &Bytes) -> [u32; LOCALITY] {
    let mut fields = [0; LOCALITY];
    for (fields, block) in fields.chunks_exact_mut(LOCALITY / 2).zip([first, second]) {
        let block = u128::from_le_bytes(*block);
        for (i, field) in fields.iter_mut().enumerate() {
            *field = (block >> (i * FIELD)) as u32 & ((1 << FIELD) - 1);
        }
    }
    fields
}
