//! The outputs of an iteration in order, made when they are asked for: what both parties do alike.

use super::super::{Block, Bytes, Context, Label};
use super::Set;
use super::code::{BATCH, Encode, Vector};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::{SecretVec, collect};
use crate::simd::aes::Aes128Enc;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// What a party's trees grow from.
pub(super) trait Forest {
    /// Grows tree `index`. Of single OTs, leaves have the lowest bit set at the place where the noise is 1, else clear. Of wide
    /// ones, the receiver's `noise` is the index at the place where it is not 0; elsewhere none is asked for.
    fn grow(&self, index: usize, permutations: &Aes128Enc, leaves: &mut [Bytes], noise: &mut [u8]);
}

/// Rows of one party, and the indices that go with those of a receiver of wide OTs; else these are empty.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) rows: SecretVec<Block>,
    pub(super) indices: SecretVec<u8>,
}

impl Rows {
    pub(super) fn zero(count: usize, indexed: bool) -> Self {
        Self { rows: vec![0; count].into(), indices: vec![0; if indexed { count } else { 0 }].into() }
    }
}

/// One party's outputs of one iteration.
pub(super) struct Stream<F> {
    set: Set,
    vector: Vector,
    /// The vector's indices, of a receiver of wide OTs.
    indices: SecretVec<u8>,
    forest: F,
    /// Ciphers of the iteration, public.
    columns: Aes128Enc,
    permutations: Aes128Enc,
    /// The leaves of the tree in hand, as far as they are not yet used.
    leaves: SecretVec<Bytes>,
    noise: SecretVec<u8>,
    /// The output to come next.
    next: usize,
}

impl<F: Forest> Stream<F> {
    /// `seed` begins with the vector.
    pub(super) fn new(context: &Context, set: Set, iteration: u64, seed: &Rows, forest: F) -> Self {
        let indices: SecretVec<u8> = seed.indices.iter().take(set.vector()).copied().collect::<Vec<_>>().into();
        Self {
            set,
            vector: collect(set.vector(), seed.rows.iter().map(|&row| row.into())),
            noise: vec![0; if indices.is_empty() { 0 } else { 1 << set.depth() }].into(),
            indices,
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

    /// The next rows, as many as `rows` has, and of those with indices as many of these.
    pub(super) fn take(&mut self, rows: &mut [Block], mut indices: &mut [u8]) {
        let depth = self.set.depth();
        let mut rest = rows;
        while !rest.is_empty() {
            let (index, place) = (self.next >> depth, self.next & ((1 << depth) - 1));
            if place == 0 {
                self.grow(index);
            }
            let (now, later) = rest.split_at_mut(rest.len().min((1 << depth) - place));
            let leaves = &mut self.leaves[place..place + now.len()];
            let noise = self.noise.get_mut(place..place + now.len()).unwrap_or_default();
            let encode =
                Encode { first: self.next as u64, vector: &self.vector, leaves, indices: &self.indices, noise };
            encode.run(self.set, &self.columns);
            let (own, later_indices) = indices.split_at_mut(indices.len().min(now.len()));
            own.iter_mut().zip(&self.noise[place.min(self.noise.len())..]).for_each(|(index, noise)| *index = *noise);
            indices = later_indices;
            for (row, leaf) in now.iter_mut().zip(leaves) {
                *row = Block::from_le_bytes(*leaf);
            }
            self.next += now.len();
            rest = later;
        }
    }

    /// The rows kept back for the next iteration.
    pub(super) fn seed(&mut self) -> Rows {
        debug_assert!(self.next <= self.set.outputs() && self.set.outputs().is_multiple_of(BATCH));
        let (next, tree) = (self.next, (1 << self.set.depth()) - 1);
        self.next = self.set.outputs();
        if self.next & tree != 0 {
            self.grow(self.next >> self.set.depth());
        }
        let mut seed = Rows::zero(self.set.seed_rows(), !self.indices.is_empty());
        self.take(&mut seed.rows, &mut seed.indices);
        // Back to the outputs that were not yet asked for.
        self.next = next;
        if next & tree != 0 {
            self.grow(next >> self.set.depth());
        }
        seed
    }

    fn grow(&mut self, index: usize) {
        self.forest.grow(index, &self.permutations, &mut self.leaves, &mut self.noise);
    }
}

/// A party's iterations whose outputs are not used up, the oldest first.
pub(super) struct Streams<F>(VecDeque<Stream<F>>);

impl<F: Forest> Streams<F> {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Outputs left that are not kept back.
    pub(super) fn available(&self) -> usize {
        self.0.iter().map(Stream::available).sum()
    }

    /// The next rows, as many as `rows` has and at most as many as there are, with their indices where there are some.
    pub(super) fn take(&mut self, rows: &mut [Block], mut indices: &mut [u8]) {
        let mut rest = rows;
        while let Some(stream) = self.0.front_mut().filter(|_| !rest.is_empty()) {
            let (now, later) = rest.split_at_mut(rest.len().min(stream.available()));
            let (own, later_indices) = indices.split_at_mut(indices.len().min(now.len()));
            stream.take(now, own);
            (rest, indices) = (later, later_indices);
            // The last one is needed for what it keeps back.
            if stream.available() == 0 && self.0.len() > 1 {
                self.0.pop_front();
            } else if rest.is_empty() || self.0.len() == 1 {
                break;
            }
        }
    }

    /// The seed of the iteration after the last; none before the first.
    pub(super) fn seed(&mut self) -> Option<Rows> {
        self.0.back_mut().map(Stream::seed)
    }

    /// Adds an iteration.
    pub(super) fn push(&mut self, stream: Stream<F>) {
        if self.available() == 0 {
            self.0.clear();
        }
        self.0.push_back(stream);
    }
}

/// The rows of a seed that go into the trees of single OTs, h for each.
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
