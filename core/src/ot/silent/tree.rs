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

use super::super::{Block, Bytes, mask};
use aes::Aes128Enc;
use aes::cipher::common::{Block as CipherBlock, BlockSizeUser};
use aes::cipher::consts::U16;
use aes::cipher::{Array, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, KeyInit};

/// The permutation of tree number `tree`, from the iteration's cipher for trees.
pub(super) fn permutation(cipher: &Aes128Enc, tree: usize) -> Aes128Enc {
    let mut key = Array::from((tree as u128).to_le_bytes());
    cipher.encrypt_block(&mut key);
    Aes128Enc::new(&key)
}

/// Grows the sender's tree: its leaves into `nodes`, 2^h of them. `sum(i, K)` gets the sum K of the left nodes of each
/// level i from 2 on.
pub(super) fn full(pi: &Aes128Enc, root: Block, delta: Block, nodes: &mut [Bytes], mut sum: impl FnMut(usize, Block)) {
    let depth = nodes.len().ilog2() as usize;
    nodes[0] = root.to_le_bytes();
    nodes[1] = (root ^ delta).to_le_bytes();
    for level in 2..=depth {
        sum(level, double(pi, &mut nodes[..1 << level]));
    }
}

/// Grows the receiver's tree without the leaf at `point`, whose place gets the sum of all others. `sums[i]` is the sum
/// of the nodes of level i + 1 that lie on the side away from the path.
///
/// The node on the path counts as 0 on each level. Its children would both be g = H(0): one is set to 0 again and the
/// other to what its side's sum lacks. All places are visited to find these two, so time tells nothing of the point.
pub(super) fn punctured(pi: &Aes128Enc, point: usize, sums: &[Block], nodes: &mut [Bytes]) {
    let (depth, point) = (nodes.len().ilog2() as usize, point as u64);
    let mut ghost = Array::default();
    pi.encrypt_block(&mut ghost);
    let ghost = Block::from_le_bytes(ghost.0);

    // All ones where the path turns right at a level, counted from 0.
    let right = |level: usize| mask((point >> level) as u32);
    let mut total = sums[0];
    nodes[0] = (total & right(0)).to_le_bytes();
    nodes[1] = (total & !right(0)).to_le_bytes();
    for level in 2..=depth {
        let nodes = &mut nodes[..1 << level];
        let (side, last) = (right(level - 1), level == depth);
        let left_sum = double(pi, nodes);
        // The right nodes sum to this and the parents' sum.
        let known = left_sum ^ (total & !side);
        let missing = sums[level - 1] ^ known ^ ghost;
        total ^= missing;
        let on_path = if last { total } else { 0 };
        let (left, right) = ((missing & side) | (on_path & !side), (missing & !side) | (on_path & side));
        patch(nodes, point & ((1 << (level - 1)) - 1), ghost ^ left, ghost ^ right);
    }
}

/// Adds `left` to the left child of node `place` and `right` to its right one, in time that does not depend on the place.
fn patch(children: &mut [Bytes], place: u64, left: Block, right: Block) {
    let half = children.len() / 2;
    let (lefts, rights) = children.split_at_mut(half);
    for (side, add) in [(lefts, left), (rights, right)] {
        let add = [add as u64, (add >> 64) as u64];
        for (node, number) in side.iter_mut().zip(0u64..) {
            let here = ((number ^ place).wrapping_sub(1) >> 63).wrapping_neg();
            xor_words(node, [add[0] & here, add[1] & here]);
        }
    }
}

#[inline(always)]
fn xor_words(node: &mut Bytes, [low, high]: [u64; 2]) {
    let words = words(node);
    *node = bytes([words[0] ^ low, words[1] ^ high]);
}

#[inline(always)]
fn words(node: &Bytes) -> [u64; 2] {
    let node = u128::from_le_bytes(*node);
    [node as u64, (node >> 64) as u64]
}

#[inline(always)]
fn bytes([low, high]: [u64; 2]) -> Bytes {
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

/// σ, a linear orthomorphism: x ↦ σ(x) and x ↦ σ(x) ⊕ x are both permutations.
#[inline(always)]
fn sigma([low, high]: [u64; 2]) -> [u64; 2] {
    [low ^ high, low]
}

/// Replaces the first half of `nodes` by the left children and the second half by the right ones. Gives the sum of the
/// left ones.
fn double(pi: &Aes128Enc, nodes: &mut [Bytes]) -> Block {
    let mut sum = [0; 2];
    pi.encrypt_with_backend(Double { nodes, sum: &mut sum });
    Block::from(sum[0]) | Block::from(sum[1]) << 64
}

/// As a closure of the cipher's back end, the loops are compiled for the instruction set that the back end uses.
struct Double<'a> {
    nodes: &'a mut [Bytes],
    sum: &'a mut [u64; 2],
}

impl BlockSizeUser for Double<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Double<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        /// Nodes that pass through AES together: a turn of the widest unit.
        const BATCH: usize = 64;
        let half = self.nodes.len() / 2;
        let (lefts, rights) = self.nodes.split_at_mut(half);
        let mut sum = [0; 2];
        for (lefts, rights) in lefts.chunks_mut(BATCH).zip(rights.chunks_mut(BATCH)) {
            for (parent, image) in lefts.iter().zip(rights.iter_mut()) {
                *image = bytes(sigma(words(parent)));
            }
            let images: &mut [CipherBlock<B>] = Array::cast_slice_from_core_mut(rights);
            let (chunks, tail) = Array::slice_as_chunks_mut(images);
            for chunk in chunks {
                backend.encrypt_par_blocks_inplace(chunk);
            }
            backend.encrypt_tail_blocks_inplace(tail);
            for (parent, image) in lefts.iter_mut().zip(rights.iter_mut()) {
                let (node, image_words) = (words(parent), words(image));
                let base = sigma(node);
                let left = [image_words[0] ^ base[0], image_words[1] ^ base[1]];
                *parent = bytes(left);
                *image = bytes([left[0] ^ node[0], left[1] ^ node[1]]);
                sum[0] ^= left[0];
                sum[1] ^= left[1];
            }
        }
        *self.sum = sum;
    }
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
            full(&pi(), root, DELTA, &mut leaves, |level, sum| {
                assert_eq!(level, sums.len() + 1);
                sums.push(sum);
            });
            let leaves: Vec<Block> = leaves.iter().map(|leaf| Block::from_le_bytes(*leaf)).collect();
            assert_eq!(leaves, expected);
            assert_eq!(leaves.iter().fold(0, |sum, leaf| sum ^ leaf), DELTA);
            for point in 0..1usize << depth {
                // The sums of the sides away from the path.
                let known: Vec<Block> = sums
                    .iter()
                    .enumerate()
                    .map(|(i, sum)| if point >> i & 1 == 1 { *sum } else { sum ^ DELTA })
                    .collect();
                let mut got = vec![[0x55; 16]; 1 << depth];
                punctured(&pi(), point, &known, &mut got);
                for (place, (got, leaf)) in got.iter().zip(&leaves).enumerate() {
                    let expected = if place == point { leaf ^ DELTA } else { *leaf };
                    assert_eq!(Block::from_le_bytes(*got), expected, "depth {depth} point {point} place {place}");
                }
            }
        }
    }
}
