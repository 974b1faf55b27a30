//! The receiver of the random OTs.

use super::super::hash::Hasher;
use super::super::softspoken::RotBatchReceived;
use super::super::{Block, Bytes, Context, read_block};
use super::stream::{Forest, Rows, Stream, Streams, check_count, tree_rows};
use super::{Set, choice, tree};
use crate::error::Result;
use crate::prg::{SecretVec, collect};
use crate::simd::aes::Aes128Enc;
use alloc::vec;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// The receiver of the random OTs: holds the rows t with their bits, and all leaves but one of each tree.
pub struct Receiver {
    set: Set,
    context: Context,
    hasher: Hasher,
    /// The first iteration's seed, until it begins.
    seed: Option<SecretVec<Block>>,
    streams: Streams<Paths>,
    /// Iterations begun.
    iteration: u64,
    /// Random OTs made in all iterations: the next one's tweak. Never goes back.
    made: u64,
}

/// What the receiver knows of its trees.
struct Paths {
    depth: usize,
    /// The place of each tree's missing leaf.
    points: SecretVec<u16>,
    /// The sums of the nodes away from the path, h for each tree.
    sums: SecretVec<Block>,
}

impl Forest for Paths {
    fn grow(&self, index: usize, permutations: &Aes128Enc, leaves: &mut [Bytes], _: &mut [u8]) {
        let (pi, sums) = (tree::permutation(permutations, index), &self.sums[index * self.depth..][..self.depth]);
        tree::punctured(&pi, self.points[index], sums, tree::BITS, leaves);
    }
}

impl Receiver {
    /// Starts with the seed of the first iteration, [`Set::seed_rows`] rows t = q ⊕ b·Δ whose lowest bits are the b.
    ///
    /// A context and a set serve one sender and one receiver: they bind all public keys.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidArgument`] if there are more or fewer rows.
    pub fn new(context: &Context, set: Set, seed: SecretVec<Block>) -> Result<Self> {
        set.check_seed(seed.len())?;
        let hasher = Hasher::for_silent(context, set.id());
        Ok(Self { set, context: *context, hasher, seed: Some(seed), streams: Streams::new(), iteration: 0, made: 0 })
    }

    /// Random OTs to be had before another refill. The same at the sender.
    pub fn available(&self) -> usize {
        self.streams.available()
    }

    /// Begins another iteration with the sender's message; its outputs come after those of the iterations before.
    ///
    /// # Errors
    /// [`crate::ErrorKind::MalformedMessage`] if the message has not [`Set::refill_bytes`] bytes. Changes nothing then.
    pub fn refill(&mut self, message: &[u8]) -> Result<()> {
        let set = self.set;
        set.check_refill(message.len())?;
        let first = self.seed.take().map(|rows| Rows { rows, ..Rows::default() });
        let seed = first.or_else(|| self.streams.seed()).unwrap_or_default();
        let points = collect(set.trees(), tree_rows(set, &seed.rows).map(point));
        let mut sent = message.chunks_exact(16);
        let mut sums = Zeroizing::new(Vec::with_capacity(set.trees() * set.depth()));
        for rows in tree_rows(set, &seed.rows) {
            sums.push(rows[0]);
            sums.extend(rows[1..].iter().zip(&mut sent).map(|(row, block)| row ^ read_block(block)));
        }
        let paths = Paths { depth: set.depth(), points, sums };
        self.streams.push(Stream::new(&self.context, set, self.iteration, &seed, paths));
        self.iteration += 1;
        Ok(())
    }

    /// The next `count` random OTs: this party's choices and keys.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidArgument`] if `count` is not a multiple of [`GROUP`](super::GROUP) or more than
    /// [`available`](Self::available). Changes nothing then.
    pub fn extend(&mut self, count: usize) -> Result<RotBatchReceived> {
        check_count(count, self.available())?;
        let mut keys = Zeroizing::new(vec![0; count]);
        let mut choices = Zeroizing::new(vec![0; count / 8]);
        for (keys, choices) in keys.chunks_exact_mut(super::GROUP).zip(choices.chunks_exact_mut(super::GROUP / 8)) {
            self.streams.take(keys, &mut []);
            for (byte, rows) in choices.iter_mut().zip(keys.chunks_exact(8)) {
                *byte = rows.iter().rev().fold(0, |byte, row| byte << 1 | choice(*row));
            }
            self.hasher.hash(self.made, keys);
            self.made += super::GROUP as u64;
        }
        Ok(RotBatchReceived { choices, keys })
    }

    /// The next `count` outputs as correlated OTs: rows t, their lowest bits the choices, to seed a larger set.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn extend_correlated(&mut self, count: usize) -> Result<SecretVec<Block>> {
        check_count(count, self.available())?;
        let mut rows = Zeroizing::new(vec![0; count]);
        self.streams.take(&mut rows, &mut []);
        Ok(rows)
    }
}

/// The place of a tree's missing leaf: the path turns right at a level where the row's bit is 0.
pub(super) fn point(rows: &[Block]) -> u16 {
    rows.iter().zip(0..).fold(0, |point, (row, level)| point | u16::from(choice(*row) ^ 1) << level)
}
