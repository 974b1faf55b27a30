//! The public matrix A of the LPN problem, n rows of k columns with ten ones each: a local linear code.
//!
//! Rows 2j and 2j + 1 have their ones at the columns that five AES blocks give, the encryptions of 5j to 5j + 4 under a
//! key of the iteration's own: words of 32 bits times k, divided by 2^32. Where k is a power of two the columns are
//! uniform, for AES an ideal cipher; else a column's chance is off by less than k / 2^32 of itself. Two ones of a row may
//! fall on one column, where they cancel, as in the instances that the attacks' costs are known for.
//!
//! The columns are public, so memory may be read at them: nothing about a secret shows in the time that takes.

use super::super::{Block, Bytes, encrypt_with};
use super::Set;
use crate::prg::SecretVec;
use crate::simd::aes::Aes128Enc;
use aes::cipher::common::BlockSizeUser;
use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt};
use zeroize::Zeroize;

/// Ones in a row.
const LOCALITY: usize = 10;

/// Rows computed together: their columns take 320 AES blocks, which fill the widest units five times.
pub(super) const BATCH: usize = 128;

/// AES blocks that choose the columns of a batch, four columns each.
const BLOCKS: usize = BATCH * LOCALITY / 4;

/// An entry of the secret vector. As bytes, whose XORs compilers turn into vector instructions; aligned, so that none lies
/// across two cache lines.
#[derive(Clone, Copy, Zeroize)]
#[repr(align(16))]
pub(super) struct Entry(Bytes);

impl From<Block> for Entry {
    fn from(block: Block) -> Self {
        Self(block.to_le_bytes())
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
    /// The rows' leaves, a multiple of [`BATCH`], which become the rows.
    pub(super) leaves: &'a mut [Bytes],
    /// The receiver's indices of wide OTs: those of the vector, and the noise of the rows, which becomes theirs. Both are
    /// empty where there are none.
    pub(super) indices: &'a [u8],
    pub(super) noise: &'a mut [u8],
}

impl Encode<'_> {
    /// Runs under the cipher of the iteration.
    pub(super) fn run(self, set: Set, cipher: &Aes128Enc) {
        debug_assert!(self.vector.len() == set.vector());
        debug_assert!(self.leaves.len().is_multiple_of(BATCH) && self.first.is_multiple_of(BATCH as u64));
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
        let mut counters = [[0; 16]; BLOCKS];
        let mut blocks = [[0; 16]; BLOCKS];
        let mut columns = [[0; LOCALITY]; BATCH];
        let mut noise = self.noise.chunks_exact_mut(BATCH);
        for (leaves, batch) in self.leaves.chunks_exact_mut(BATCH).zip(self.first / BATCH as u64..) {
            for (counter, number) in counters.iter_mut().zip(batch * BLOCKS as u64..) {
                counter[..8].copy_from_slice(&number.to_le_bytes());
            }
            blocks.copy_from_slice(&counters);
            encrypt_with(backend, &mut blocks);
            let words = blocks.as_flattened().as_chunks::<4>().0;
            for (column, word) in columns.as_flattened_mut().iter_mut().zip(words) {
                *column = ((u64::from(u32::from_le_bytes(*word)) * self.vector.len() as u64) >> 32) as u32;
            }
            for (leaf, columns) in leaves.iter_mut().zip(&columns) {
                *leaf = columns.iter().fold(*leaf, |sum, &column| {
                    let Entry(entry) = &self.vector[column as usize];
                    core::array::from_fn(|i| sum[i] ^ entry[i])
                });
            }
            for (noise, columns) in noise.next().into_iter().flatten().zip(&columns) {
                *noise = columns.iter().fold(*noise, |sum, &column| sum ^ self.indices[column as usize]);
            }
        }
    }
}
