//! The receiver of the random OTs.

use super::super::hash::Hasher;
use super::super::pprf::{Expander, full_tree};
use super::super::transpose::Tile;
use super::super::wide::{self, Received, code};
use super::super::{Block, Bytes, Context, ROW_BITS, base};
use super::forest::{CHUNK, Forest, Work, copy_rows, for_each_group};
use super::{Code, Depth, GROUP, RotBatchReceived, check_count, setup_bytes};
use crate::error::Result;
use crate::prg::SecretVec;
use alloc::vec;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// The receiver of the random OTs: was sender of the base OTs, holds all leaves of all trees.
pub struct RotReceiver {
    forest: Forest,
    hasher: Hasher,
    wide_keys: wide::Keys,
}

/// One group of 128 OTs as it leaves the matrix.
struct Group<'a> {
    /// Its first OT's place in the call, and its number among all.
    at: usize,
    number: u64,
    rows: &'a Tile,
    /// The code's word: lanes of a chunk's groups, of which this is one.
    word: &'a [Bytes],
    groups: usize,
    place: usize,
}

impl Group<'_> {
    /// Bit b of the indices: the code's word at position b.
    fn index_bits(&self, b: usize) -> &Bytes {
        &self.word[b * self.groups + self.place]
    }
}

impl RotReceiver {
    /// Builds the trees over the base OTs' keys and gives the corrections ([`setup_bytes`]) from which the sender
    /// builds its own.
    pub fn setup(context: &Context, depth: Depth, base_keys: base::SenderKeys) -> (Self, Vec<u8>) {
        let expander = Expander::new(context);
        let mut forest = Forest::new(context, depth, 0);
        let mut corrections = Vec::with_capacity(setup_bytes(context.direction, depth));
        for keys in base_keys.chunks_exact(depth.bits()) {
            forest.add_tree(&full_tree(&expander, keys, &mut corrections));
        }
        let wide_keys = wide::Keys::new(context, wide::Source::SoftSpoken);
        (Self { forest, hasher: Hasher::new(context), wide_keys }, corrections)
    }

    /// Makes the next `count` random OTs (fastest in multiples of 8192): the message to the sender
    /// ([`extension_bytes`](super::extension_bytes)), and this party's choices and keys.
    ///
    /// The message has, for each group of 128 OTs, 16 bytes for each tree but the first. It does not depend on how OTs
    /// are divided among calls.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if `count` is not a multiple of [`GROUP`].
    pub fn extend(&mut self, count: usize) -> Result<(Vec<u8>, RotBatchReceived)> {
        check_count(count)?;
        let mut keys = Zeroizing::new(vec![0; count]);
        let mut choices = Zeroizing::new(vec![0; count / 8]);
        let message = self.matrix(Code::Repetition, count, |hasher, group| {
            let keys = &mut keys[group.at..][..GROUP];
            copy_rows(group.rows, keys);
            hasher.hash(group.number, keys);
            choices[group.at / 8..][..GROUP / 8].copy_from_slice(group.index_bits(0));
        });
        Ok((message, RotBatchReceived { choices, keys }))
    }

    /// Makes the next `count` correlated OTs: the message to the sender, as long as for random OTs, and the rows
    /// t = q ⊕ b·Δ for an odd Δ, with the choices b as their lowest bits.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn extend_correlated(&mut self, count: usize) -> Result<(Vec<u8>, SecretVec<Block>)> {
        check_count(count)?;
        let mut rows = Zeroizing::new(vec![0; count]);
        let message = self.matrix(Code::Repetition, count, |_, group| {
            let rows = &mut rows[group.at..][..GROUP];
            copy_rows(group.rows, rows);
            for (rows, byte) in rows.chunks_mut(8).zip(group.index_bits(0)) {
                for (row, bit) in rows.iter_mut().zip(0..) {
                    *row = *row & !1 | Block::from(byte >> bit & 1);
                }
            }
        });
        Ok((message, rows))
    }

    /// Makes the next `count` wide OTs: the message to the sender ([`wide_bytes`](super::wide_bytes)), and this party's
    /// indices and rows.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn extend_wide(&mut self, count: usize) -> Result<(Vec<u8>, Received)> {
        check_count(count)?;
        let first = self.forest.group * GROUP as u64;
        let mut rows = Zeroizing::new(vec![0; count]);
        let mut indices = Zeroizing::new(vec![0; count]);
        let message = self.matrix(Code::Simplex, count, |_, group| {
            copy_rows(group.rows, &mut rows[group.at..]);
            let bits = core::array::from_fn(|b| group.index_bits(b));
            code::gather_indices(bits, &mut indices[group.at..][..GROUP]);
        });
        Ok((message, Received::new(self.wide_keys.clone(), first, rows, indices)))
    }

    /// The message; `each` gets every group of 128 OTs.
    fn matrix(&mut self, code: Code, count: usize, mut each: impl FnMut(&mut Hasher, Group<'_>)) -> Vec<u8> {
        let depth = self.forest.depth;
        let (k, copies, corrected) = (depth.bits(), code.copies(depth), code.corrected(depth));
        let mut message = vec![0; code.message_bytes(depth, count)];
        let mut work = Work::new(code, depth, count / GROUP);

        for (message, chunk) in message.chunks_mut(16 * CHUNK * corrected).zip(0..) {
            let groups = message.len() / (16 * corrected);
            let columns = &mut work.columns[..code.trees(depth) * k * groups];
            let word = &mut work.word[..code.positions() * groups];
            let mut sent = 0;
            for (tree, columns) in columns.chunks_exact_mut(k * groups).enumerate() {
                self.forest.fold(tree, columns, &mut work.scratch);
                let total = &work.scratch.total()[..groups];
                let position = tree / copies;
                if code.is_index(depth, tree) {
                    word[position * groups..][..groups].copy_from_slice(total);
                    continue;
                }
                if tree.is_multiple_of(copies) {
                    code::next_bit(word, groups, position);
                }
                let places = message.chunks_exact_mut(16 * corrected);
                for ((place, bits), total) in places.zip(&word[position * groups..]).zip(total) {
                    let sum = Block::from_le_bytes(*bits) ^ Block::from_le_bytes(*total);
                    place[16 * sent..][..16].copy_from_slice(&sum.to_le_bytes());
                }
                sent += 1;
            }
            if code == Code::Simplex {
                code::compress(columns);
            }
            let (hasher, first) = (&mut self.hasher, self.forest.group);
            for_each_group(&columns[..ROW_BITS * groups], &mut work.tiles, |place, rows| {
                let (at, number) = ((chunk * CHUNK + place) * GROUP, (first + place as u64) * GROUP as u64);
                each(hasher, Group { at, number, rows, word, groups, place });
            });
            self.forest.group += groups as u64;
        }
        message
    }
}
