//! The trees of one party, expanded and folded into columns.

use super::super::transpose::{Tile, transpose};
use super::super::{Block, Bytes, Context, Label, ROW_BITS, Suite, add, encrypt_into, encrypt_with, words, words_mut};
use super::{Code, Depth};
use crate::prg::SecretVec;
use crate::simd::aes::Aes128Enc;
use crate::simd::chacha::Binding;
use aes::cipher::common::BlockSizeUser;
use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, KeyInit};
use alloc::vec;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// Groups that go through expansion, transposition and hashing together. 64 blocks of a leaf fill the widest AES units;
/// the matrix of 128 columns then takes 128 KiB (248 columns 248 KiB), which second-level caches hold. In little memory an
/// eighth.
pub(super) const CHUNK: usize = if cfg!(feature = "small") { SMALL_CHUNK } else { HOSTED_CHUNK };
pub(super) const HOSTED_CHUNK: usize = 64;
pub(super) const SMALL_CHUNK: usize = 8;

/// Groups transposed together: a cache line of a column; in little memory one.
pub(super) const STRIPE: usize = if cfg!(feature = "small") { 1 } else { 4 };

/// A leaf of a tree as an AES-128 key in counter mode. The counter block is the group's number and a salt of the
/// session's own, which keeps tables made in advance from serving against more than one session.
pub(super) struct AesLeaf(#[cfg(feature = "small")] Zeroizing<[u8; 16]>, #[cfg(not(feature = "small"))] Aes128Enc);

impl AesLeaf {
    #[cfg(not(feature = "small"))]
    fn new(seed: Block) -> Self {
        Self(Aes128Enc::new(&seed.to_le_bytes().into()))
    }

    #[cfg(not(feature = "small"))]
    fn cipher(&self) -> &Aes128Enc {
        &self.0
    }

    /// In little memory the key alone is kept, a twentieth of its round keys.
    #[cfg(feature = "small")]
    fn new(seed: Block) -> Self {
        Self(Zeroizing::new(seed.to_le_bytes()))
    }

    #[cfg(feature = "small")]
    fn cipher(&self) -> Aes128Enc {
        Aes128Enc::new((&*self.0).into())
    }
}

/// Leaves by the suite that expands them.
pub(super) enum Leaves {
    /// With the salt of their counter blocks.
    Aes(Vec<AesLeaf>, [u8; 8]),
    /// Keys of ChaCha12, a group's number its piece of the stream.
    ChaCha(SecretVec<Block>, Binding),
}

impl Leaves {
    /// Room for so many.
    fn new(context: &Context, count: usize) -> Self {
        let digest = context.digest(Label::LeafSalt, &[]);
        match context.suite {
            Suite::Aes => Self::Aes(Vec::with_capacity(count), digest.first_chunk().map_or([0; 8], |salt| *salt)),
            Suite::ChaCha => Self::ChaCha(Vec::with_capacity(count).into(), Binding::new(&digest)),
        }
    }

    fn add(&mut self, seeds: &[Block]) {
        match self {
            Self::Aes(leaves, _) => leaves.extend(seeds.iter().map(|&seed| AesLeaf::new(seed))),
            Self::ChaCha(leaves, _) => leaves.extend_from_slice(seeds),
        }
    }

    /// The counter blocks of the next groups, the same for all leaves; nothing where there are none.
    pub(super) fn count(&self, first: u64, counters: &mut [Bytes]) {
        let Self::Aes(_, salt) = self else { return };
        for (block, group) in counters.iter_mut().zip(first..) {
            let (counter, rest) = block.split_at_mut(8);
            counter.copy_from_slice(&group.to_le_bytes());
            rest.copy_from_slice(salt);
        }
    }

    /// A leaf's blocks of the groups from `first` on, whose counter blocks are `counters`: as many.
    pub(super) fn expand(&self, leaf: usize, first: u64, counters: &[Bytes], blocks: &mut [Bytes]) {
        match self {
            #[allow(clippy::needless_borrow, reason = "in little memory it is no reference")]
            Self::Aes(leaves, _) => encrypt_into(&leaves[leaf].cipher(), counters, blocks),
            Self::ChaCha(leaves, binding) => binding.stream(leaves[leaf], first, blocks),
        }
    }
}

/// The leaves of one party's trees and the position in their streams.
pub(super) struct Forest {
    pub(super) depth: Depth,
    /// Leaf x of tree i at 2^k·i + x, in the party's own numbering.
    pub(super) leaves: Leaves,
    /// The first entry of each tree that is known: 0 at the receiver, 1 at the sender.
    first: usize,
    /// The number of the next group. Never goes back.
    pub(super) group: u64,
}

/// Working memory of [`Forest::fold`]: secret, wiped when dropped.
pub(super) struct Scratch {
    /// The counter blocks: public.
    counters: Vec<Bytes>,
    /// The expansion of four leaves.
    quad: [SecretVec<Bytes>; 4],
    /// The sum of the subtree just completed.
    carry: SecretVec<Bytes>,
    /// Sums of left subtrees that wait for their right neighbours, by height − 2. The last one is that of the whole
    /// tree.
    waiting: Vec<SecretVec<Bytes>>,
}

impl Scratch {
    pub(super) fn new(depth: Depth, groups: usize) -> Self {
        let lane = || Zeroizing::new(vec![[0; 16]; groups]);
        let counters = vec![[0; 16]; groups];
        Self {
            counters,
            quad: [(); 4].map(|()| lane()),
            carry: lane(),
            waiting: (1..depth.bits()).map(|_| lane()).collect(),
        }
    }

    /// The sum of all leaves of the tree folded last: u.
    pub(super) fn total(&self) -> &[Bytes] {
        self.waiting.last().map_or(&[], |sum| sum)
    }
}

impl Forest {
    pub(super) fn new(context: &Context, depth: Depth, first: usize) -> Self {
        let count = (context.direction.base_ots() / depth.bits()) << depth.bits();
        Self { depth, leaves: Leaves::new(context, count), first, group: 0 }
    }

    pub(super) fn add_tree(&mut self, leaves: &[Block]) {
        self.leaves.add(leaves);
    }

    /// For tree `tree` and the next groups, as many as `columns` has for each of its k columns: column b becomes Σ
    /// x_b·r_x over all known leaves x, and [`Scratch::total`] Σ r_x.
    ///
    /// Takes two XORs for each leaf whatever k is: subtrees are summed from the leaves upward, and column b gets the
    /// sum of each right subtree that hangs at height b.
    pub(super) fn fold(&self, tree: usize, columns: &mut [Bytes], scratch: &mut Scratch) {
        let k = self.depth.bits();
        let groups = columns.len() / k;
        columns.fill([0; 16]);
        let (low, high) = columns.split_at_mut(2 * groups);
        let (column_0, column_1) = low.split_at_mut(groups);
        self.leaves.count(self.group, &mut scratch.counters[..groups]);
        for n in 0..1 << (k - 2) {
            let leaf = (tree << k) + 4 * n;
            for (x, lane) in scratch.quad.iter_mut().enumerate().take(3) {
                if 4 * n + x < self.first {
                    lane.fill([0; 16]);
                } else {
                    self.leaves.expand(leaf + x, self.group, &scratch.counters[..groups], &mut lane[..groups]);
                }
            }
            // Carry as in counting: each trailing one of n says that a right subtree is complete.
            let height = n.trailing_ones() as usize;
            let last = LastOfFour {
                counters: &scratch.counters[..groups],
                quad: &mut scratch.quad,
                column_0,
                column_1,
                carry: &mut scratch.carry,
                columns: high,
                waiting: &scratch.waiting[..height.min(scratch.waiting.len())],
            };
            match &self.leaves {
                Leaves::Aes(leaves, _) => leaves[leaf + 3].cipher().encrypt_with_backend(last),
                Leaves::ChaCha(leaves, binding) => {
                    binding.stream(leaves[leaf + 3], self.group, &mut last.quad[3][..groups]);
                    last.add_up();
                }
            }
            if let Some(place) = scratch.waiting.get_mut(height) {
                core::mem::swap(&mut scratch.carry, place);
            }
        }
    }
}

/// Expands the last of four sibling leaves and adds all four to the columns, and the subtrees that are then complete. As a
/// closure of the cipher's back end, the sums are compiled for the instruction set that the back end uses.
struct LastOfFour<'a> {
    counters: &'a [Bytes],
    /// The leaves' expansions, the last one to come.
    quad: &'a mut [SecretVec<Bytes>; 4],
    /// The columns of the two lowest index bits.
    column_0: &'a mut [Bytes],
    column_1: &'a mut [Bytes],
    /// Gets the sum of the largest subtree completed.
    carry: &'a mut [Bytes],
    /// The columns of the higher index bits, one after the other.
    columns: &'a mut [Bytes],
    /// The left neighbours of the subtrees completed, from the lowest.
    waiting: &'a [SecretVec<Bytes>],
}

impl BlockSizeUser for LastOfFour<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for LastOfFour<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let last = &mut self.quad[3][..self.counters.len()];
        last.copy_from_slice(self.counters);
        encrypt_with(backend, last);
        self.add_up();
    }
}

impl LastOfFour<'_> {
    /// Adds up, the last leaf being expanded.
    #[inline(always)]
    fn add_up(self) {
        let groups = self.counters.len();
        let [r0, r1, r2, r3] = self.quad;
        let carry = &mut self.carry[..groups];
        let quad = [&**r0, r1, r2, r3].map(|lane| &lane[..groups]);
        add_four(quad, self.column_0, self.column_1, carry);
        for (column, left) in self.columns.chunks_exact_mut(groups).zip(self.waiting) {
            add_subtree(carry, &left[..groups], column);
        }
    }
}

/// Adds four sibling leaves to the columns of the two lowest index bits and gives their sum.
#[inline(always)]
fn add_four(quad: [&[Bytes]; 4], column_0: &mut [Bytes], column_1: &mut [Bytes], sum: &mut [Bytes]) {
    let [r0, r1, r2, r3] = quad.map(words);
    let columns = words_mut(column_0).zip(words_mut(column_1));
    for (((r0, r1), (r2, r3)), ((v0, v1), sum)) in r0.zip(r1).zip(r2.zip(r3)).zip(columns.zip(words_mut(sum))) {
        let right = r1 ^ r3;
        add(v0, right);
        add(v1, r2 ^ r3);
        *sum = (r0 ^ r2 ^ right).to_le_bytes();
    }
}

/// Adds a right subtree, whose sum is `sum`, to its column, and its left neighbour to the sum.
#[inline(always)]
fn add_subtree(sum: &mut [Bytes], left: &[Bytes], column: &mut [Bytes]) {
    for ((sum, left), column) in words_mut(sum).zip(words(left)).zip(words_mut(column)) {
        add(column, u32::from_le_bytes(*sum));
        add(sum, left);
    }
}

/// Gives the rows of a matrix of 128 columns, of `columns.len()` / 128 groups each, stripe by stripe: `row(n, tile)`
/// gets the n-th group's rows.
pub(super) fn for_each_group(columns: &[Bytes], tiles: &mut [Tile], mut rows: impl FnMut(usize, &Tile)) {
    let groups = columns.len() / ROW_BITS;
    for first in (0..groups).step_by(STRIPE) {
        for (c, column) in columns.chunks_exact(groups).enumerate() {
            for (tile, bytes) in tiles.iter_mut().zip(&column[first..]) {
                let word = u128::from_le_bytes(*bytes);
                tile[c] = [word as u64, (word >> 64) as u64];
            }
        }
        for (n, tile) in tiles.iter_mut().enumerate().take(groups - first) {
            transpose(tile);
            rows(first + n, tile);
        }
    }
}

/// A row of a transposed tile as a block.
#[inline]
pub(super) fn row_block(row: &[u64; 2]) -> Block {
    u128::from(row[0]) | u128::from(row[1]) << 64
}

/// Copies the rows of a tile.
pub(super) fn copy_rows(tile: &Tile, rows: &mut [Block]) {
    for (to, row) in rows.iter_mut().zip(tile) {
        *to = row_block(row);
    }
}

/// Working memory of one call, no larger than the call needs. Secret, wiped when dropped.
pub(super) struct Work {
    /// The columns of a chunk.
    pub(super) columns: SecretVec<Bytes>,
    /// The word of the code: u at each position.
    pub(super) word: SecretVec<Bytes>,
    pub(super) scratch: Scratch,
    /// [`STRIPE`] of them.
    pub(super) tiles: SecretVec<Tile>,
}

impl Work {
    pub(super) fn new(code: Code, depth: Depth, groups: usize) -> Self {
        let groups = groups.min(CHUNK);
        let lanes = |count: usize| Zeroizing::new(vec![[0; 16]; count * groups]);
        Self {
            columns: lanes(code.trees(depth) * depth.bits()),
            word: lanes(code.positions()),
            scratch: Scratch::new(depth, groups),
            tiles: Zeroizing::new(vec![[[0; 2]; 128]; STRIPE]),
        }
    }
}
