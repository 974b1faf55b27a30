//! Correlated trees (Guo, Yang, Wang, Zhang, Xie, Liu and Zhao, "Half-Tree: Halving the Cost of Tree Expansion in COT
//! and DPF", EUROCRYPT 2023, sections 3 and 4): each level's nodes sum to Δ.
//!
//! The first level's nodes are q_1 and q_1 ⊕ Δ; a node x has the children H(x) and x ⊕ H(x). So the nodes of a level
//! that lie left of their parents sum to some K, those that lie right to K ⊕ Δ. The sender knows all nodes. The
//! receiver knows t_i = q_i ⊕ b_i·Δ for each level i: at level 1 that is one of the two nodes, and from the sender's
//! K_i ⊕ q_i it gets K_i ⊕ b_i·Δ, the sum of the left nodes for b_i = 0, of the right ones for b_i = 1. Thus it knows
//! all nodes but those on the path that turns right at level i for b_i = 0, left for b_i = 1, and instead of the missing
//! leaf v the sum of all others, v ⊕ Δ.
//!
//! What the receiver sees is what it computes from its own t_i and the sums it is to have, so the message tells no more
//! than the sums. They and the nodes it knows are pseudo-random for a uniform Δ if H is circular correlation robust:
//! with H(x ⊕ Δ) one may also ask for H(x ⊕ Δ) ⊕ Δ. H(x) = π(σ(x)) ⊕ σ(x), σ(a, b) = (a ⊕ b, a), is so for an ideal
//! permutation π (Guo, Katz, Wang and Yu, IEEE S&P 2020, section 7.3). π is AES under a public key of the tree's own:
//! then no key serves more than h queries of Δ, however many trees there are.
//!
//! A level's left nodes stand in its first half and the right ones behind them, so a leaf's place has the turn of level
//! i in bit i − 1.

use super::super::{Block, Bytes, encrypt_with, mask};
use crate::simd::aes::Aes128Enc;
use aes::cipher::common::{Block as CipherBlock, BlockSizeUser};
use aes::cipher::consts::U16;
use aes::cipher::{Array, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, KeyInit};

/// The permutation of tree number `tree`, from the iteration's cipher for trees.
pub(super) fn permutation(cipher: &Aes128Enc, tree: usize) -> Aes128Enc {
    let mut key = Array::from((tree as u128).to_le_bytes());
    cipher.encrypt_block(&mut key);
    Aes128Enc::new(&key)
}

/// The bits of a leaf's low word that carry the noise: one of single OTs' trees, none of wide ones'.
pub(super) const BITS: u64 = 1;
pub(super) const NO_BITS: u64 = 0;

/// Grows the sender's tree from its first left node: 2^h leaves into `nodes`, without the bits `clear` of their low words.
/// `sum(i, K)` gets the sum K of the left nodes of each level i from 2 on.
pub(super) fn full(
    pi: &Aes128Enc,
    root: Block,
    delta: Block,
    clear: u64,
    nodes: &mut [Bytes],
    sum: impl FnMut(usize, Block),
) {
    nodes[0] = root.to_le_bytes();
    nodes[1] = (root ^ delta).to_le_bytes();
    pi.encrypt_with_backend(Full { nodes, clear, sum });
}

/// Grows the receiver's tree without the leaf at `point`, whose place gets the sum of all others. `sums[i]` is the sum
/// of the nodes of level i + 1 that lie on the side away from the path. A leaf's bits `clear` of the low word become 1 at the
/// point and 0 elsewhere.
pub(super) fn punctured(pi: &Aes128Enc, point: u16, sums: &[Block], clear: u64, nodes: &mut [Bytes]) {
    pi.encrypt_with_backend(Punctured { point: point.into(), sums, clear, nodes });
}

/// Replaces each leaf x of a tree of wide OTs by π(x) ⊕ x, and gives the sum of all. π is correlation robust in this use
/// ([`super::super::wide`]): of a tree's leaves there is one of which the receiver knows x ⊕ Δ only.
pub(super) fn hash_leaves(pi: &Aes128Enc, nodes: &mut [Bytes]) -> Block {
    let mut sum = [0; 2];
    pi.encrypt_with_backend(HashLeaves { nodes, sum: &mut sum });
    block(sum)
}

/// Adds to what lies at `place`, whose value does not show in the time.
pub(super) fn add_at(nodes: &mut [Bytes], place: u16, add: Block) {
    patch(nodes, place.into(), words(add), !0, 0);
}

/// All ones if the numbers, below 2^63, are equal.
#[inline(always)]
pub(super) fn is_at(number: u64, place: u64) -> u64 {
    ((number ^ place).wrapping_sub(1) >> 63).wrapping_neg()
}

struct HashLeaves<'a> {
    nodes: &'a mut [Bytes],
    sum: &'a mut [u64; 2],
}

impl BlockSizeUser for HashLeaves<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for HashLeaves<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let mut images = [[0; 16]; BATCH];
        for nodes in self.nodes.chunks_mut(BATCH) {
            let images = &mut images[..nodes.len()];
            images.copy_from_slice(nodes);
            encrypt_with(backend, images);
            for (node, image) in nodes.iter_mut().zip(&*images) {
                let hashed = xor(load(node), load(image));
                *self.sum = xor(*self.sum, hashed);
                *node = store(hashed);
            }
        }
    }
}

/// Nodes that pass through AES together: a turn of the widest unit.
const BATCH: usize = 64;

/// The work under a tree's permutation. As closures of the cipher's back end, [`Full`] and [`Punctured`] are compiled for
/// the instruction set that the back end uses, with all that is inlined into them.
struct Full<'a, F> {
    nodes: &'a mut [Bytes],
    clear: u64,
    sum: F,
}

impl<F> BlockSizeUser for Full<'_, F> {
    type BlockSize = U16;
}

impl<F: FnMut(usize, Block)> BlockCipherEncClosure for Full<'_, F> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(mut self, backend: &B) {
        let depth = self.nodes.len().ilog2() as usize;
        for level in 2..=depth {
            let keep = if level == depth { !self.clear } else { !0 };
            let sum = double(backend, &mut self.nodes[..1 << level], keep);
            (self.sum)(level, block(sum));
        }
    }
}

/// The node on the path counts as 0 on each level. Its children would both be g = H(0): one is set to 0 again and the
/// other to what its side's sum lacks. All places are visited to find these two, so time tells nothing of the point.
struct Punctured<'a> {
    point: u64,
    sums: &'a [Block],
    clear: u64,
    nodes: &'a mut [Bytes],
}

impl BlockSizeUser for Punctured<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Punctured<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let depth = self.nodes.len().ilog2() as usize;
        let mut ghost = CipherBlock::<B>::default();
        backend.encrypt_block_inplace(&mut ghost);
        let ghost = Block::from_le_bytes(ghost.0);

        // All ones where the path turns right at a level, counted from 0.
        let right = |level: usize| mask((self.point >> level) as u32);
        let mut total = self.sums[0];
        self.nodes[0] = (total & right(0)).to_le_bytes();
        self.nodes[1] = (total & !right(0)).to_le_bytes();
        for level in 2..=depth {
            let nodes = &mut self.nodes[..1 << level];
            let (side, last) = (right(level - 1), level == depth);
            let left_sum = block(double(backend, nodes, !0));
            // The right nodes sum to this and the parents' sum.
            let known = left_sum ^ (total & !side);
            let missing = self.sums[level - 1] ^ known ^ ghost;
            total ^= missing;
            let on_path = if last { total } else { 0 };
            let left = ghost ^ (missing & side) ^ (on_path & !side);
            let right = ghost ^ (missing & !side) ^ (on_path & side);
            let (keep, mark) = if last { (!self.clear, self.clear) } else { (!0, 0) };
            let (lefts, rights) = nodes.split_at_mut(1 << (level - 1));
            let place = self.point & ((1 << (level - 1)) - 1);
            patch(lefts, place, words(left), keep, mark & !side as u64);
            patch(rights, place, words(right), keep, mark & side as u64);
        }
    }
}

/// Adds to the node at `place`, then keeps of all nodes the bits `keep` of their low words, then adds `mark` at the place.
/// The time does not depend on the place.
#[inline(always)]
fn patch(nodes: &mut [Bytes], place: u64, add: [u64; 2], keep: u64, mark: u64) {
    for (node, number) in nodes.iter_mut().zip(0u64..) {
        let here = is_at(number, place);
        let [low, high] = load(node);
        *node = store([((low ^ (add[0] & here)) & keep) ^ (mark & here), high ^ (add[1] & here)]);
    }
}

/// Replaces the first half of `nodes` by the left children and the second half by the right ones, without the bits of
/// their low words that `keep` lacks. Gives the sum of the left ones with these bits.
#[inline(always)]
fn double<B: BlockCipherEncBackend<BlockSize = U16>>(backend: &B, nodes: &mut [Bytes], keep: u64) -> [u64; 2] {
    let (lefts, rights) = nodes.split_at_mut(nodes.len() / 2);
    let mut sum = [0; 2];
    for (lefts, rights) in lefts.chunks_mut(BATCH).zip(rights.chunks_mut(BATCH)) {
        for (parent, image) in lefts.iter().zip(rights.iter_mut()) {
            *image = store(sigma(load(parent)));
        }
        encrypt_with(backend, rights);
        for (parent, image) in lefts.iter_mut().zip(rights.iter_mut()) {
            let (node, base) = (load(parent), sigma(load(parent)));
            let left = xor(load(image), base);
            let right = xor(left, node);
            sum = xor(sum, left);
            *parent = store([left[0] & keep, left[1]]);
            *image = store([right[0] & keep, right[1]]);
        }
    }
    sum
}

/// σ, a linear orthomorphism: x ↦ σ(x) and x ↦ σ(x) ⊕ x are both permutations.
#[inline(always)]
fn sigma([low, high]: [u64; 2]) -> [u64; 2] {
    [low ^ high, low]
}

// Two words in the place of a `u128`, whose XORs compilers do not vectorise.

#[inline(always)]
fn load(node: &Bytes) -> [u64; 2] {
    words(Block::from_le_bytes(*node))
}

#[inline(always)]
fn store(node: [u64; 2]) -> Bytes {
    block(node).to_le_bytes()
}

#[inline(always)]
fn words(block: Block) -> [u64; 2] {
    [block as u64, (block >> 64) as u64]
}

#[inline(always)]
fn block([low, high]: [u64; 2]) -> Block {
    Block::from(low) | Block::from(high) << 64
}

#[inline(always)]
fn xor(a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
    [a[0] ^ b[0], a[1] ^ b[1]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    const DELTA: Block = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

    fn pi() -> Aes128Enc {
        Aes128Enc::new(&[3; 16].into())
    }

    /// The definition, node by node.
    fn naive(root: Block, depth: usize) -> Vec<Block> {
        let mut level = vec![root, root ^ DELTA];
        for _ in 1..depth {
            let left: Vec<Block> = level
                .iter()
                .map(|x| {
                    let sigma = ((x ^ (x >> 64)) & u128::from(u64::MAX)) | x << 64;
                    let mut image = Array::from(sigma.to_le_bytes());
                    pi().encrypt_block(&mut image);
                    Block::from_le_bytes(image.0) ^ sigma
                })
                .collect();
            let right: Vec<Block> = level.iter().zip(&left).map(|(x, left)| x ^ left).collect();
            level = left;
            level.extend(right);
        }
        level
    }

    #[test]
    fn trees_are_the_definition_and_the_receiver_lacks_one_leaf() {
        let root = 0xfeed_beef << 40;
        for depth in [2, 3, 6, 7, 9] {
            let expected = naive(root, depth);
            let mut sums = vec![root];
            let mut leaves = vec![[0xaa; 16]; 1 << depth];
            full(&pi(), root, DELTA, BITS, &mut leaves, |level, sum| {
                assert_eq!(level, sums.len() + 1);
                sums.push(sum);
            });
            let leaves: Vec<Block> = leaves.iter().map(|leaf| Block::from_le_bytes(*leaf)).collect();
            assert_eq!(expected.iter().fold(0, |sum, leaf| sum ^ leaf), DELTA);
            assert_eq!(leaves, expected.iter().map(|leaf| leaf & !1).collect::<Vec<_>>());
            for point in 0..1usize << depth {
                // The sums of the sides away from the path.
                let known: Vec<Block> = sums
                    .iter()
                    .enumerate()
                    .map(|(i, sum)| if point >> i & 1 == 1 { *sum } else { sum ^ DELTA })
                    .collect();
                let mut got = vec![[0x55; 16]; 1 << depth];
                punctured(&pi(), point as u16, &known, BITS, &mut got);
                for (place, (got, leaf)) in got.iter().zip(&leaves).enumerate() {
                    let expected = if place == point { leaf ^ DELTA } else { *leaf };
                    assert_eq!(expected & 1, Block::from(place == point));
                    assert_eq!(Block::from_le_bytes(*got), expected, "depth {depth} point {point} place {place}");
                }
            }
        }
    }
}
