//! The outputs of an iteration in order, made when they are asked for: what both parties do alike.

use super::super::{Block, Bytes, Context, Label};
use super::code::{BATCH, Encode, Vector};
use super::{Set, tree};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::{SecretVec, collect};
use aes::Aes128Enc;
use alloc::format;
use alloc::vec;
use zeroize::Zeroizing;

/// What a party's trees grow from.
pub(super) trait Forest {
    /// Grows tree `index`: leaves, with the lowest bit set at the place where the noise is 1, else clear.
    fn grow(&self, index: usize, pi: &Aes128Enc, leaves: &mut [Bytes]);
}

/// One party's outputs of one iteration.
pub(super) struct Stream<F> {
    set: Set,
    vector: Vector,
    forest: F,
    /// Ciphers of the iteration, public.
    columns: Aes128Enc,
    permutations: Aes128Enc,
    /// The leaves of the tree in hand.
    leaves: SecretVec<Bytes>,
    /// The output to come next.
    next: usize,
}

impl<F: Forest> Stream<F> {
    pub(super) fn new(context: &Context, set: Set, iteration: u64, vector: Vector, forest: F) -> Self {
        Self {
            set,
            vector,
            forest,
            columns: set.cipher(context, Label::SilentColumns, iteration),
            permutations: set.cipher(context, Label::SilentTrees, iteration),
            leaves: Zeroizing::new(vec![[0; 16]; 1 << set.depth()]),
            next: 0,
        }
    }

    /// Outputs left that are not kept back.
    pub(super) fn available(&self) -> usize {
        self.set.outputs().saturating_sub(self.next)
    }

    /// The next rows, as many as `rows` has.
    pub(super) fn take(&mut self, rows: &mut [Block]) {
        let depth = self.set.depth();
        let mut rest = rows;
        while !rest.is_empty() {
            let (index, place) = (self.next >> depth, self.next & ((1 << depth) - 1));
            if place == 0 {
                self.grow(index);
            }
            let (now, later) = rest.split_at_mut(rest.len().min((1 << depth) - place));
            let leaves = &self.leaves[place..place + now.len()];
            Encode { first: self.next as u64, vector: &self.vector, leaves, rows: now }.run(self.set, &self.columns);
            self.next += now.len();
            rest = later;
        }
    }

    /// The rows kept back for the next iteration. Whatever is left before them is given up.
    pub(super) fn into_seed(mut self) -> SecretVec<Block> {
        debug_assert!(self.next <= self.set.outputs() && self.set.outputs().is_multiple_of(BATCH));
        self.next = self.set.outputs();
        if self.next & ((1 << self.set.depth()) - 1) != 0 {
            self.grow(self.next >> self.set.depth());
        }
        let mut rows = Zeroizing::new(vec![0; self.set.seed_rows()]);
        self.take(&mut rows);
        rows
    }

    fn grow(&mut self, index: usize) {
        self.forest.grow(index, &tree::permutation(&self.permutations, index), &mut self.leaves);
    }
}

/// The secret vector of an iteration, the first k rows of its seed.
pub(super) fn vector(set: Set, seed: &[Block]) -> Vector {
    collect(set.vector(), seed.iter().map(|&row| row.into()))
}

/// The rows of a seed that go into the trees, h for each.
pub(super) fn tree_rows(set: Set, seed: &[Block]) -> impl Iterator<Item = &[Block]> {
    seed[set.vector()..].chunks_exact(set.depth()).take(set.trees())
}

/// Refuses a count that is no multiple of [`GROUP`](super::GROUP), or more than there is.
pub(super) fn check_count(count: usize, available: usize) -> Result<()> {
    if count > available || !count.is_multiple_of(super::GROUP) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("silent extension: expected a multiple of {} OTs, at most {available}, got {count}", super::GROUP),
        ));
    }
    Ok(())
}
