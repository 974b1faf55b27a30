//! Puncturable pseudo-random functions: trees of Goldreich, Goldwasser and Micali, of which one party knows all 2^k
//! leaves and the other all but the one at its secret point.
//!
//! The tree is handed over by k base OTs as in SoftSpokenOT (Roy, CRYPTO 2022, after Boyle et al., CCS 2019): at each
//! level the punctured party chooses the side away from its path and gets the XOR of all nodes on that side, from which
//! it recovers the one node of that side which it cannot derive. The two nodes of the first level are the base OT's
//! keys themselves, so a tree of depth k costs k − 1 corrections.

use super::{Block, Bytes, Context, Label, Suite, encrypt, mask, read_block};
use crate::prg::SecretVec;
use crate::simd::aes::Aes128Enc;
use crate::simd::chacha::Binding;
use aes::cipher::KeyInit;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// Bytes of one level's correction: a masked sum for either side.
const CORRECTION_BYTES: usize = 32;

/// Bytes of the corrections of a tree of depth `depth`.
pub(super) const fn correction_bytes(depth: usize) -> usize {
    (depth - 1) * CORRECTION_BYTES
}

/// Doubles a node: children π_0(s) ⊕ s and π_1(s) ⊕ s with two AES keys of the session's own. That is the
/// permutation-based correlation-robust hash of Guo, Katz, Wang and Yu (IEEE S&P 2020, section 7), here only asked to
/// be a pseudo-random generator. With the other suite both children are 32 bytes of a block of ChaCha20 keyed by the node.
pub(super) enum Expander {
    Aes(Box<[Aes128Enc; 2]>),
    ChaCha(Binding),
}

impl Expander {
    pub(super) fn new(context: &Context) -> Self {
        let digest = Zeroizing::new(context.digest(Label::TreeKeys, &[]));
        if context.suite == Suite::ChaCha {
            return Self::ChaCha(Binding::new(&digest));
        }
        let (left, right) = digest.split_at(16);
        Self::Aes(Box::new([left, right].map(|half| {
            let mut key = [0; 16];
            key.copy_from_slice(half);
            Aes128Enc::new(&key.into())
        })))
    }

    /// Both children of all nodes: those to the left, and those to the right.
    fn expand(&self, nodes: &[Block]) -> [SecretVec<Block>; 2] {
        match self {
            Self::Aes(ciphers) => [0, 1].map(|side| Self::children(&ciphers[side], nodes)),
            Self::ChaCha(binding) => {
                let mut children = [0, 1].map(|_| SecretVec::new(Vec::with_capacity(nodes.len())));
                for node in nodes {
                    for (side, child) in children.iter_mut().zip(*Zeroizing::new(binding.pair(*node, 0))) {
                        side.push(child);
                    }
                }
                children
            }
        }
    }

    /// The children of all nodes on one side.
    fn children(cipher: &Aes128Enc, nodes: &[Block]) -> SecretVec<Block> {
        let mut images: Zeroizing<Vec<Bytes>> = Zeroizing::new(nodes.iter().map(|node| node.to_le_bytes()).collect());
        encrypt(cipher, &mut images);
        Zeroizing::new(
            nodes.iter().zip(images.iter()).map(|(node, image)| node ^ Block::from_le_bytes(*image)).collect(),
        )
    }
}

/// The full tree over the base OTs `keys` (one for each bit of the point, lowest bit first): its 2^k leaves in order.
/// Appends the k − 1 corrections.
///
/// Level k − 1 − i of the tree belongs to bit i of a leaf's index and to base OT i.
pub(super) fn full_tree(expander: &Expander, keys: &[[Block; 2]], corrections: &mut Vec<u8>) -> SecretVec<Block> {
    // A punctured party with bit c at this level gets key c, and is to have the other side's node.
    let mut nodes: SecretVec<Block> = Zeroizing::new(Vec::new());
    for (level, [key_0, key_1]) in keys.iter().rev().enumerate() {
        if level == 0 {
            nodes = Zeroizing::new(vec![*key_1, *key_0]);
            continue;
        }
        let [left, right] = expander.expand(&nodes);
        corrections.extend_from_slice(&(key_0 ^ sum(&right)).to_le_bytes());
        corrections.extend_from_slice(&(key_1 ^ sum(&left)).to_le_bytes());
        nodes = Zeroizing::new(left.iter().zip(right.iter()).flat_map(|(&l, &r)| [l, r]).collect());
    }
    nodes
}

/// The punctured tree of one who holds `keys[i]`, the key of base OT i for its choice, bit i of `point`: entry y is
/// leaf y ⊕ `point`, and entry 0, the unknown leaf, is zero.
///
/// Numbering nodes by their XOR with the path keeps the point out of every index: the unknown node is number 0 on each
/// level, and only the order of a node's two children depends on the point, which a masked swap settles.
pub(super) fn punctured_tree(expander: &Expander, keys: &[Block], point: u32, corrections: &[u8]) -> SecretVec<Block> {
    let mut nodes: SecretVec<Block> = Zeroizing::new(Vec::new());
    let mut corrections = corrections.chunks_exact(CORRECTION_BYTES);
    for (level, (bit, key)) in keys.iter().enumerate().rev().enumerate() {
        let bit = mask(point >> bit);
        if level == 0 {
            nodes = Zeroizing::new(vec![0, *key]);
            continue;
        }
        // The caller hands over one correction for each level but the first.
        let correction = corrections.next().unwrap_or(&[0; CORRECTION_BYTES]);
        let (for_0, for_1) = correction.split_at(16);
        let (for_0, for_1) = (read_block(for_0), read_block(for_1));
        let mut off_path = key ^ for_0 ^ ((for_0 ^ for_1) & bit);
        let [left, right] = expander.expand(&nodes);
        let mut children: SecretVec<Block> = Zeroizing::new(vec![0; 2 * nodes.len()]);
        // Node 0 is unknown and so are its children, but for the one that the sum of its side gives away.
        for ((pair, &l), &r) in children.chunks_exact_mut(2).zip(left.iter()).zip(right.iter()).skip(1) {
            let swap = (l ^ r) & bit;
            pair[0] = l ^ swap;
            pair[1] = r ^ swap;
            off_path ^= pair[1];
        }
        children[1] = off_path;
        nodes = children;
    }
    nodes
}

fn sum(nodes: &[Block]) -> Block {
    nodes.iter().fold(0, |sum, node| sum ^ node)
}

#[cfg(test)]
mod tests {
    use super::super::{Direction, test_context};
    use super::*;
    use crate::prg::{Prg, Seed};

    fn expanders() -> [Expander; 2] {
        [Suite::Aes, Suite::ChaCha]
            .map(|suite| Expander::new(&Context { suite, ..test_context(Direction::ServerReceives) }))
    }

    #[test]
    fn the_punctured_tree_has_every_leaf_but_the_one_at_the_point() {
        let expanders = expanders();
        let mut prg = Prg::new(&Seed::from_bytes([5; 32]));
        for (depth, expander) in [2, 4, 8].into_iter().flat_map(|depth| expanders.each_ref().map(|e| (depth, e))) {
            for point in 0..1u32 << depth {
                let keys: Vec<[Block; 2]> = (0..depth)
                    .map(|_| [Block::from_le_bytes(prg.array()), Block::from_le_bytes(prg.array())])
                    .collect();
                let mut corrections = Vec::new();
                let full = full_tree(expander, &keys, &mut corrections);
                assert_eq!(full.len(), 1 << depth);
                assert_eq!(corrections.len(), correction_bytes(depth));
                let chosen: Vec<Block> = keys.iter().enumerate().map(|(i, k)| k[(point >> i & 1) as usize]).collect();
                let punctured = punctured_tree(expander, &chosen, point, &corrections);
                assert_eq!(punctured[0], 0);
                for y in 1..1u32 << depth {
                    assert_eq!(punctured[y as usize], full[(y ^ point) as usize], "depth {depth} point {point} y {y}");
                }
            }
        }
    }

    #[test]
    fn leaves_are_distinct() {
        let base = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]];
        let grow = |expander: Expander| full_tree(&expander, &base, &mut Vec::new()).to_vec();
        let mut leaves: Vec<Block> = expanders().into_iter().flat_map(grow).collect();
        leaves.sort_unstable();
        leaves.dedup();
        assert_eq!(leaves.len(), 2 * 32);
    }
}
