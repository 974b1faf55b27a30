//! The sender of the random OTs.

use super::super::hash::Hasher;
use super::super::pprf::{Expander, correction_bytes, punctured_tree};
use super::super::transpose::Tile;
use super::super::wide::{self, Sent, code};
use super::super::{Block, Context, Delta, ROW_BITS, add, base, mask, row_delta, words, words_mut};
use super::forest::{CHUNK, Forest, Work, copy_rows, for_each_group};
use super::{Code, Depth, GROUP, check_count, check_length, setup_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::SecretVec;
use alloc::vec;
use zeroize::Zeroizing;

/// The sender of the random OTs: was receiver of the base OTs with choices Δ, holds all leaves but one of each tree.
pub struct RotSender {
    forest: Forest,
    hasher: Hasher,
    wide_keys: wide::Keys,
    /// D of all indices, of wide OTs.
    offsets: SecretVec<Block>,
    delta: Delta,
}

impl RotSender {
    /// Builds the punctured trees from Δ, the base OTs' keys for the choices Δ, and the receiver's corrections.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedMessage`] if there are not [`setup_bytes`] bytes of corrections.
    pub fn setup(
        context: &Context,
        depth: Depth,
        delta: Delta,
        base_keys: base::ReceiverKeys,
        corrections: &[u8],
    ) -> Result<Self> {
        check_length("OT extension setup", setup_bytes(context.direction, depth), corrections.len())?;
        let k = depth.bits();
        let expander = Expander::new(context);
        let mut forest = Forest::new(context, depth, 1);
        let trees = base_keys.chunks_exact(k).zip(corrections.chunks_exact(correction_bytes(k)));
        for (tree, (keys, corrections)) in trees.enumerate() {
            forest.add_tree(&punctured_tree(&expander, keys, point(&delta, tree * k, k), corrections));
        }
        let (hasher, wide_keys) = (Hasher::new(context), wide::Keys::new(context, wide::Source::SoftSpoken));
        Ok(Self { forest, hasher, wide_keys, offsets: code::offsets(&delta), delta })
    }

    /// Makes the next `count` random OTs from the receiver's message: both keys of each.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if `count` is not a multiple of [`GROUP`]; [`ErrorKind::MalformedMessage`] if the
    /// message has not [`extension_bytes`](super::extension_bytes) bytes. Neither changes the state.
    pub fn extend(&mut self, count: usize, message: &[u8]) -> Result<SecretVec<[Block; 2]>> {
        self.check(Code::Repetition, count, message)?;
        let delta = row_delta(&self.delta);
        let mut keys = Zeroizing::new(vec![[0; 2]; count]);
        let mut hashed = Zeroizing::new([0; GROUP]);
        self.matrix(Code::Repetition, message, |hasher, number, at, rows| {
            copy_rows(rows, &mut *hashed);
            hasher.hash_pairs(number, *delta, &mut *hashed, &mut keys[at..][..GROUP]);
        });
        Ok(keys)
    }

    /// Makes the next `count` correlated OTs from the receiver's message: the rows q, with 0 as their lowest bits.
    ///
    /// # Errors
    /// As [`extend`](Self::extend); [`ErrorKind::InvalidArgument`] also if Δ is even: the rows' lowest bits are the
    /// choices only where Δ's is 1.
    pub fn extend_correlated(&mut self, count: usize, message: &[u8]) -> Result<SecretVec<Block>> {
        self.check(Code::Repetition, count, message)?;
        if *row_delta(&self.delta) & 1 == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "correlated OTs: expected an odd Δ, got an even one"));
        }
        let mut rows = Zeroizing::new(vec![0; count]);
        self.matrix(Code::Repetition, message, |_, _, at, tile| copy_rows(tile, &mut rows[at..]));
        rows.iter_mut().for_each(|row| *row &= !1);
        Ok(rows)
    }

    /// Makes the next `count` wide OTs from the receiver's message: the rows.
    ///
    /// # Errors
    /// As [`extend`](Self::extend), for a message of [`wide_bytes`](super::wide_bytes) bytes.
    pub fn extend_wide(&mut self, count: usize, message: &[u8]) -> Result<Sent> {
        self.check(Code::Simplex, count, message)?;
        let first = self.forest.group * GROUP as u64;
        let mut rows = Zeroizing::new(vec![0; count]);
        self.matrix(Code::Simplex, message, |_, _, at, tile| copy_rows(tile, &mut rows[at..]));
        Ok(Sent::new(self.wide_keys.clone(), self.offsets.clone(), first, rows))
    }

    /// D of all indices: what the receiver's row of a wide OT with index i is the sender's row ⊕ D(i) for.
    pub(in crate::ot) fn offsets(&self) -> &SecretVec<Block> {
        &self.offsets
    }

    fn check(&self, code: Code, count: usize, message: &[u8]) -> Result<()> {
        check_count(count)?;
        check_length("OT extension", code.message_bytes(self.forest.depth, count), message.len())
    }

    /// For each group the hasher, the numbers of the group's first OT among all and in this call, and the rows q.
    fn matrix(&mut self, code: Code, message: &[u8], mut each: impl FnMut(&mut Hasher, u64, usize, &Tile)) {
        let depth = self.forest.depth;
        let (k, corrected) = (depth.bits(), code.corrected(depth));
        let mut work = Work::new(code, depth, message.len() / (16 * corrected));

        for (message, chunk) in message.chunks(16 * CHUNK * corrected).zip(0..) {
            let groups = message.len() / (16 * corrected);
            let columns = &mut work.columns[..code.trees(depth) * k * groups];
            let mut sent = 0;
            for (tree, columns) in columns.chunks_exact_mut(k * groups).enumerate() {
                self.forest.fold(tree, columns, &mut work.scratch);
                if code.is_index(depth, tree) {
                    continue;
                }
                let point = point(&self.delta, tree * k, k);
                for (column, b) in columns.chunks_exact_mut(groups).zip(0..) {
                    let mask = mask(point >> b) as u32;
                    for (block, received) in column.chunks_mut(1).zip(message.chunks_exact(16 * corrected)) {
                        let received = received.as_chunks().0[sent];
                        words_mut(block).zip(words(&[received])).for_each(|(place, word)| add(place, word & mask));
                    }
                }
                sent += 1;
            }
            if code == Code::Simplex {
                code::compress(columns);
            }
            let (hasher, first) = (&mut self.hasher, self.forest.group);
            for_each_group(&columns[..ROW_BITS * groups], &mut work.tiles, |place, rows| {
                each(hasher, (first + place as u64) * GROUP as u64, (chunk * CHUNK + place) * GROUP, rows);
            });
            self.forest.group += groups as u64;
        }
    }
}

/// The `k` bits of Δ from `first` on: the missing leaf of a tree. They lie in one byte, as k divides 8.
fn point(delta: &Delta, first: usize, k: usize) -> u32 {
    u32::from(delta[first / 8]) >> (first % 8) & ((1 << k) - 1)
}
