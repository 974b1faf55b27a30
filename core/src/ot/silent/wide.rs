//! Wide OTs, silently: the same code and trees, with noise that is an index of five bits.
//!
//! A row of R is t = q ⊕ D(u), u an index of five bits. Rows add up as single ones do, indices with them. One iteration takes k
//! wide OTs as the vector, one more for each of m trees, and h single correlated OTs for each tree. Of these the tree is grown
//! as for single OTs: R lacks the leaf at α and has leaf ⊕ Δ instead. Then both replace all leaves by their hashes, so that R
//! knows nothing of the one at α, v, and S sends the sum of all ⊕ q of the tree's wide OT. R adds the leaves that it knows
//! and its row q ⊕ D(u), and has v ⊕ D(u): the noise is u there, uniform, 0 included.
//!
//! To S the indices of the outputs are e ⊕ A·s over five bits with the binary matrix A: five instances of LPN whose noise has
//! its places in common. A linear form of the five bits gives one instance over F_2 whose noise is 0 in about half of the
//! trees; there are 31, and the attacker takes the one of least weight. `docs/parameters.md` costs that, as Liu, Wang, Yang and
//! Yu (EUROCRYPT 2024) do for LPN over rings, where the same happens.

use super::super::wide::{Keys, Received, Sent, Source};
use super::super::{Block, Bytes, Context, Label, read_block};
use super::receiver::point;
use super::stream::{Forest, Rows, Stream, Streams, check_count};
use super::{Set, tree};
use crate::error::Result;
use crate::prg::{SecretVec, collect};
use crate::simd::aes::Aes128Enc;
use alloc::vec;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// The single rows of each tree.
fn tree_rows(set: Set, correlated: &[Block]) -> impl Iterator<Item = &[Block]> {
    correlated.chunks_exact(set.depth()).take(set.trees())
}

/// The hash of a tree's leaves: a permutation of its own, numbered behind those that grow trees.
fn leaf_permutation(set: Set, permutations: &Aes128Enc, index: usize) -> Aes128Enc {
    tree::permutation(permutations, set.trees() + index)
}

/// The sender of the wide OTs: holds Δ of the single OTs, D, the rows q, and all leaves of all trees.
pub struct WideSender {
    set: Set,
    context: Context,
    keys: Keys,
    /// Δ, with which the single OTs are correlated.
    delta: Zeroizing<Vec<Block>>,
    offsets: SecretVec<Block>,
    /// The first iteration's seed, until it begins.
    seed: Option<SecretVec<Block>>,
    streams: Streams<Roots>,
    iteration: u64,
    made: u64,
}

/// The first left node of each tree, and Δ behind them.
struct Roots {
    set: Set,
    roots: SecretVec<Block>,
}

impl Roots {
    fn delta(&self) -> Block {
        self.roots.last().copied().unwrap_or_default()
    }
}

impl Forest for Roots {
    fn grow(&self, index: usize, permutations: &Aes128Enc, leaves: &mut [Bytes], _: &mut [u8]) {
        let pi = tree::permutation(permutations, index);
        tree::full(&pi, self.roots[index], self.delta(), tree::NO_BITS, leaves, |_, _| {});
        tree::hash_leaves(&leaf_permutation(self.set, permutations, index), leaves);
    }
}

impl WideSender {
    /// Starts with the seed of the first iteration, [`Set::seed_rows`] wide OTs.
    ///
    /// A context and a set serve one sender and one receiver: they bind all public keys.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if there are more or fewer rows.
    pub(in crate::ot) fn new(
        context: &Context,
        set: Set,
        delta: Block,
        offsets: SecretVec<Block>,
        seed: SecretVec<Block>,
    ) -> Result<Self> {
        set.check_seed(seed.len())?;
        Ok(Self {
            set,
            context: *context,
            keys: Keys::new(context, Source::Silent(set.id())),
            delta: Zeroizing::new(vec![delta]),
            offsets,
            seed: Some(seed),
            streams: Streams::new(),
            iteration: 0,
            made: 0,
        })
    }

    /// Wide OTs to be had before another refill. The same at the receiver.
    pub fn available(&self) -> usize {
        self.streams.available()
    }

    /// Begins another iteration with [`Set::tree_rows`] single correlated OTs, even rows q: the message to the receiver,
    /// [`Set::refill_bytes`] long.
    pub fn refill(&mut self, correlated: &[Block]) -> Vec<u8> {
        let first = self.seed.take().map(|rows| Rows { rows, ..Rows::default() });
        let seed = first.or_else(|| self.streams.seed()).unwrap_or_default();
        let set = self.set;
        let mut message = Vec::with_capacity(set.refill_bytes());
        let mut leaves: SecretVec<Bytes> = Zeroizing::new(vec![[0; 16]; 1 << set.depth()]);
        let permutations = set.cipher(&self.context, Label::SilentTrees, self.iteration);
        let own = &seed.rows[set.vector()..];
        for ((index, rows), own) in tree_rows(set, correlated).enumerate().zip(own) {
            let pi = tree::permutation(&permutations, index);
            tree::full(&pi, rows[0], self.delta[0], tree::NO_BITS, &mut leaves, |level, sum| {
                message.extend_from_slice(&(sum ^ rows[level - 1]).to_le_bytes());
            });
            let sum = tree::hash_leaves(&leaf_permutation(set, &permutations, index), &mut leaves);
            message.extend_from_slice(&(sum ^ own).to_le_bytes());
        }
        let roots = tree_rows(set, correlated).map(|rows| rows[0]).chain([self.delta[0]]);
        let roots = Roots { set, roots: collect(set.trees() + 1, roots) };
        self.streams.push(Stream::new(&self.context, set, self.iteration, &seed, roots));
        self.iteration += 1;
        message
    }

    /// The next `count` wide OTs.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if `count` is not a multiple of 128 or more than [`available`](Self::available).
    /// Changes nothing then.
    pub fn extend(&mut self, count: usize) -> Result<Sent> {
        check_count(count, self.available())?;
        let mut rows = Zeroizing::new(vec![0; count]);
        self.streams.take(&mut rows, &mut []);
        let first = self.made;
        self.made += count as u64;
        Ok(Sent::new(self.keys.clone(), self.offsets.clone(), first, rows))
    }
}

/// The receiver of the wide OTs: holds the rows t and their indices, and all leaves but one of each tree.
pub struct WideReceiver {
    set: Set,
    context: Context,
    keys: Keys,
    /// The first iteration's seed, until it begins.
    seed: Option<Rows>,
    streams: Streams<Paths>,
    iteration: u64,
    made: u64,
}

/// What the receiver knows of its trees.
struct Paths {
    set: Set,
    /// The place of each tree's missing leaf.
    points: SecretVec<u16>,
    /// The sums of the nodes away from the path, h for each tree.
    sums: SecretVec<Block>,
    /// What S sent last ⊕ the row of the tree's wide OT, and the index of that: the noise.
    corrections: SecretVec<Block>,
    indices: SecretVec<u8>,
}

impl Forest for Paths {
    fn grow(&self, index: usize, permutations: &Aes128Enc, leaves: &mut [Bytes], noise: &mut [u8]) {
        let (set, point) = (self.set, self.points[index]);
        let pi = tree::permutation(permutations, index);
        tree::punctured(&pi, point, &self.sums[index * set.depth()..][..set.depth()], tree::NO_BITS, leaves);
        // At the point lies the hash of leaf ⊕ Δ, of no use, which the sum holds too: adding the sum takes it away.
        let sum = tree::hash_leaves(&leaf_permutation(set, permutations, index), leaves);
        tree::add_at(leaves, point, sum ^ self.corrections[index]);
        for (noise, place) in noise.iter_mut().zip(0u16..) {
            *noise = self.indices[index] & tree::is_at(place.into(), point.into()) as u8;
        }
    }
}

impl WideReceiver {
    /// Starts with the seed of the first iteration, [`Set::seed_rows`] wide OTs.
    ///
    /// A context and a set serve one sender and one receiver: they bind all public keys.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if there are more or fewer rows.
    pub(in crate::ot) fn new(
        context: &Context,
        set: Set,
        (rows, indices): (SecretVec<Block>, SecretVec<u8>),
    ) -> Result<Self> {
        set.check_seed(rows.len().min(indices.len()))?;
        Ok(Self {
            set,
            context: *context,
            keys: Keys::new(context, Source::Silent(set.id())),
            seed: Some(Rows { rows, indices }),
            streams: Streams::new(),
            iteration: 0,
            made: 0,
        })
    }

    /// Wide OTs to be had before another refill. The same at the sender.
    pub fn available(&self) -> usize {
        self.streams.available()
    }

    /// Begins another iteration with [`Set::tree_rows`] single correlated OTs, rows t with their choices as lowest bits, and
    /// the sender's message.
    ///
    /// # Errors
    /// [`MalformedMessage`](crate::ErrorKind::MalformedMessage) if the message has not [`Set::refill_bytes`] bytes. Changes nothing then.
    pub fn refill(&mut self, correlated: &[Block], message: &[u8]) -> Result<()> {
        let set = self.set;
        set.check_refill(message.len())?;
        let seed = self.seed.take().or_else(|| self.streams.seed()).unwrap_or_default();
        let points = collect(set.trees(), tree_rows(set, correlated).map(point));
        let mut sums = Zeroizing::new(Vec::with_capacity(set.trees() * set.depth()));
        let mut corrections = Zeroizing::new(Vec::with_capacity(set.trees()));
        let own = &seed.rows[set.vector()..];
        for ((rows, sent), own) in tree_rows(set, correlated).zip(message.chunks_exact(16 * set.depth())).zip(own) {
            let mut sent = sent.chunks_exact(16).map(read_block);
            sums.push(rows[0]);
            sums.extend(rows[1..].iter().zip(&mut sent).map(|(row, block)| row ^ block));
            corrections.extend(sent.map(|block| block ^ own));
        }
        let indices = collect(set.trees(), seed.indices[set.vector()..].iter().copied());
        let paths = Paths { set, points, sums, corrections, indices };
        self.streams.push(Stream::new(&self.context, set, self.iteration, &seed, paths));
        self.iteration += 1;
        Ok(())
    }

    /// The next `count` wide OTs.
    ///
    /// # Errors
    /// As [`WideSender::extend`].
    pub fn extend(&mut self, count: usize) -> Result<Received> {
        check_count(count, self.available())?;
        let mut taken = Rows::zero(count, true);
        self.streams.take(&mut taken.rows, &mut taken.indices);
        let first = self.made;
        self.made += count as u64;
        Ok(Received::new(self.keys.clone(), first, taken.rows, taken.indices))
    }
}
