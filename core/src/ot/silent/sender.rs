//! The sender of the random OTs.

use super::super::hash::Hasher;
use super::super::{Block, Bytes, Context, Delta, Label, row_delta};
use super::stream::{Forest, Rows, Stream, Streams, check_count, tree_rows};
use super::{Set, tree};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::{SecretVec, collect};
use crate::simd::aes::Aes128Enc;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// The sender of the random OTs: holds Δ, the rows q, and all leaves of all trees.
pub struct Sender {
    set: Set,
    context: Context,
    hasher: Hasher,
    pub(super) delta: Delta,
    /// The first iteration's seed, until it begins.
    pub(super) seed: Option<SecretVec<Block>>,
    streams: Streams<Roots>,
    /// Iterations begun.
    iteration: u64,
    /// Random OTs made in all iterations: the next one's tweak. Never goes back.
    made: u64,
}

/// The first left node of each tree, and Δ.
struct Roots {
    roots: SecretVec<Block>,
    delta: Box<Zeroizing<Block>>,
}

impl Forest for Roots {
    fn grow(&self, index: usize, permutations: &Aes128Enc, leaves: &mut [Bytes], _: &mut [u8]) {
        let pi = tree::permutation(permutations, index);
        tree::full(&pi, self.roots[index], **self.delta, tree::BITS, leaves, |_, _| {});
    }
}

impl Sender {
    /// Starts with the seed of the first iteration, [`Set::seed_rows`] even rows q, for the Δ that the receiver's rows
    /// t = q ⊕ b·Δ were made with, whose lowest bit is set.
    ///
    /// A context and a set serve one sender and one receiver: they bind all public keys.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if there are more or fewer rows, or Δ is even.
    pub fn new(context: &Context, set: Set, delta: Delta, seed: SecretVec<Block>) -> Result<Self> {
        set.check_seed(seed.len())?;
        if *row_delta(&delta) & 1 == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "silent extension: expected an odd Δ, got an even one"));
        }
        let hasher = Hasher::for_silent(context, set.id());
        Ok(Self {
            set,
            context: *context,
            hasher,
            delta,
            seed: Some(seed),
            streams: Streams::new(),
            iteration: 0,
            made: 0,
        })
    }

    /// Random OTs to be had before another refill. The same at the receiver.
    pub fn available(&self) -> usize {
        self.streams.available()
    }

    /// Begins another iteration: the message to the receiver, [`Set::refill_bytes`] long. Its outputs come after those of
    /// the iterations before.
    pub fn refill(&mut self) -> Vec<u8> {
        let first = self.seed.take().map(|rows| Rows { rows, ..Rows::default() });
        let seed = first.or_else(|| self.streams.seed()).unwrap_or_default();
        let (set, delta) = (self.set, self.delta());
        let mut message = Vec::with_capacity(set.refill_bytes());
        let mut leaves: SecretVec<Bytes> = Zeroizing::new(vec![[0; 16]; 1 << set.depth()]);
        let permutations = set.cipher(&self.context, Label::SilentTrees, self.iteration);
        for (index, rows) in tree_rows(set, &seed.rows).enumerate() {
            tree::full(
                &tree::permutation(&permutations, index),
                rows[0],
                *delta,
                tree::BITS,
                &mut leaves,
                |level, sum| {
                    message.extend_from_slice(&(sum ^ rows[level - 1]).to_le_bytes());
                },
            );
        }
        let roots = collect(set.trees(), tree_rows(set, &seed.rows).map(|rows| rows[0]));
        let roots = Roots { roots, delta: Box::new(Zeroizing::new(*delta)) };
        self.streams.push(Stream::new(&self.context, set, self.iteration, &seed, roots));
        self.iteration += 1;
        message
    }

    /// The next `count` random OTs: both keys of each.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if `count` is not a multiple of [`GROUP`](super::GROUP) or more than
    /// [`available`](Self::available). Changes nothing then.
    pub fn extend(&mut self, count: usize) -> Result<SecretVec<[Block; 2]>> {
        check_count(count, self.available())?;
        let mut keys = Zeroizing::new(vec![[0; 2]; count]);
        let delta = self.delta();
        let mut rows = Zeroizing::new([0; super::GROUP]);
        for keys in keys.chunks_exact_mut(super::GROUP) {
            self.streams.take(&mut *rows, &mut []);
            self.hasher.hash_pairs(self.made, *delta, &mut *rows, keys);
            self.made += super::GROUP as u64;
        }
        Ok(keys)
    }

    /// The next `count` outputs as correlated OTs: even rows q, to seed a larger set.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn extend_correlated(&mut self, count: usize) -> Result<SecretVec<Block>> {
        check_count(count, self.available())?;
        let mut rows = Zeroizing::new(vec![0; count]);
        self.streams.take(&mut rows, &mut []);
        Ok(rows)
    }

    fn delta(&self) -> Zeroizing<Block> {
        row_delta(&self.delta)
    }
}
