//! The public matrix A of the LPN problem, n rows of k columns with ten ones each: a local linear code.
//!
//! Row j has its ones at the columns that two AES blocks give, the encryptions of 2j and 2j + 1 under a key of the
//! iteration's own. As k is a power of two the columns are uniform without bias, for AES an ideal cipher. Two ones of
//! a row may fall on one column, where they cancel, as in the instances that the attacks' costs are known for.
//!
//! The columns are public, so memory may be read at them: nothing about a secret shows in the time that takes.

use super::super::{Block, Bytes};
use super::Set;
use crate::prg::SecretVec;
use aes::Aes128Enc;
use aes::cipher::common::{Block as CipherBlock, BlockSizeUser};
use aes::cipher::consts::U16;
use aes::cipher::{Array, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt};
use zeroize::Zeroize;

/// Ones in a row.
pub(super) const LOCALITY: usize = 10;

/// Rows computed together: their columns take 64 AES blocks, which fill the widest units.
pub(super) const BATCH: usize = 32;

/// Bits of an AES block that choose a column. A 64-bit half has three fields.
const FIELD: usize = 21;

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
        debug_assert!(self.vector.len() == set.vector() && set.vector().is_power_of_two());
        debug_assert!(set.vector() <= 1 << FIELD);
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
        let mut blocks = [CipherBlock::<B>::default(); 2 * BATCH];
        let batches = self.leaves.chunks_exact(BATCH).zip(self.rows.chunks_exact_mut(BATCH));
        for ((leaves, rows), first) in batches.zip((2 * self.first..).step_by(2 * BATCH)) {
            for (block, number) in blocks.iter_mut().zip(first..) {
                *block = CipherBlock::<B>::default();
                block[..8].copy_from_slice(&number.to_le_bytes());
            }
            let (chunks, tail) = Array::slice_as_chunks_mut(&mut blocks);
            for chunk in chunks {
                backend.encrypt_par_blocks_inplace(chunk);
            }
            backend.encrypt_tail_blocks_inplace(tail);
            for ((row, leaf), pair) in rows.iter_mut().zip(leaves).zip(blocks.chunks_exact(2)) {
                let leaf = Entry::from(Block::from_le_bytes(*leaf));
                let [low, high] = columns(&pair[0].0, &pair[1].0).iter().fold(leaf.0, |sum, &column| {
                    let entry = self.vector[column as usize & (self.vector.len() - 1)].0;
                    [sum[0] ^ entry[0], sum[1] ^ entry[1]]
                });
                *row = Block::from(low) | Block::from(high) << 64;
            }
        }
    }
}

/// The columns of a row's ones, to be taken modulo k.
#[inline(always)]
fn columns(first: &Bytes, second: &Bytes) -> [u64; LOCALITY] {
    let [first, second] = [first, second].map(|block| u128::from_le_bytes(*block));
    let words = [first as u64, (first >> 64) as u64, second as u64, (second >> 64) as u64];
    let field = |word: usize, place: usize| words[word] >> (place * FIELD);
    [
        field(0, 0),
        field(0, 1),
        field(0, 2),
        field(1, 0),
        field(1, 1),
        field(2, 0),
        field(2, 1),
        field(2, 2),
        field(3, 0),
        field(3, 1),
    ]
}
