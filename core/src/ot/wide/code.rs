//! The code of wide OTs: the simplex code, and the linear map that compresses what comes of it to 128 bits.
//!
//! The simplex code has a word of 31 bits for each index of five: the index, and then c_(j+5) = c_(j+2) ⊕ c_j, the output of
//! a shift register with the primitive polynomial x^5 + x^2 + 1. Every word but 0 has 16 ones: 31 = 2^5 - 1 positions stand
//! for the points α^j of GF(32)*, and the words are the linear forms.
//!
//! Each position has 8 bits of Δ, so the sender's row of 31 bytes and the receiver's differ by c(i) ⊙ Δ, 16 bytes of Δ. The
//! *compression* L maps 31 bytes to 16: byte r of L(x) is the sum of the bytes r + g of x over the taps g of [`TAPS`]. On the
//! 16 positions of each word but 0 it is one-to-one, so D(i) = L(c(i) ⊙ Δ) is uniform as Δ is. L is the generator matrix of a
//! binary cyclic code of length 31 and dimension 16, whose generator polynomial has its exponents in `TAPS` (the product of
//! the minimal polynomials of α^3, α^11 and α^15). Turning the positions turns the words into each other and the code into
//! itself, so what holds for one word holds for all; a test looks at all of them.

use super::super::{Block, Bytes, Delta, add, words, words_mut};
use crate::prg::SecretVec;
use alloc::vec;
use zeroize::Zeroizing;

/// Bits of an index.
pub const INDEX_BITS: u32 = 5;

/// Positions of the code.
pub(in crate::ot) const POSITIONS: usize = 31;

/// Bits of Δ for each position.
pub(in crate::ot) const POSITION_BITS: usize = 8;

/// Base OTs that wide OTs take: one for each bit of Δ.
pub const BASE_OTS: usize = POSITIONS * POSITION_BITS;

/// Positions that are left by the compression.
const COMPRESSED: usize = 16;

/// Exponents of the generator polynomial of the compression's code but the lowest, 0.
const TAPS: [usize; 6] = [1, 2, 6, 7, 12, 15];

/// Makes the word's bits at a position behind the index from those before it. A position has `lanes` blocks.
pub(in crate::ot) fn next_bit(word: &mut [Bytes], lanes: usize, position: usize) {
    let (known, next) = word.split_at_mut(position * lanes);
    let [older, newer] = [5, 3].map(|back| words(&known[(position - back) * lanes..][..lanes]));
    for ((bits, a), b) in words_mut(&mut next[..lanes]).zip(older).zip(newer) {
        *bits = (a ^ b).to_le_bytes();
    }
}

/// Applies the compression to the columns of [`POSITIONS`] positions, each the same number of blocks; the first 16 positions
/// hold the result.
pub(in crate::ot) fn compress(columns: &mut [Bytes]) {
    let lanes = columns.len() / POSITIONS;
    for to in 0..COMPRESSED {
        // Positions from `to` on are as they were.
        let (head, tail) = columns.split_at_mut((to + 1) * lanes);
        let sum = &mut head[to * lanes..];
        for tap in TAPS {
            let from = words(&tail[(tap - 1) * lanes..][..lanes]);
            words_mut(sum).zip(from).for_each(|(sum, word)| add(sum, word));
        }
    }
}

/// D(i) for all indices i, from a Δ of [`BASE_OTS`] bits; empty from a shorter one, with which there are no wide OTs.
pub(in crate::ot) fn offsets(delta: &Delta) -> SecretVec<Block> {
    let Some(delta) = delta.first_chunk::<POSITIONS>() else { return SecretVec::default() };
    let mut offsets = Zeroizing::new(vec![0; 1 << INDEX_BITS]);
    // Indices are public here: D is computed for all.
    for (index, offset) in offsets.iter_mut().enumerate() {
        let word = codeword(index as u32);
        let mut masked: Zeroizing<[Bytes; POSITIONS]> = Zeroizing::new([[0; 16]; POSITIONS]);
        for (position, (masked, byte)) in masked.iter_mut().zip(delta).enumerate() {
            masked[0] = byte & ((word >> position & 1) as u8).wrapping_neg();
        }
        compress(&mut *masked);
        *offset = masked[..COMPRESSED].iter().rev().fold(0, |offset, byte| offset << 8 | Block::from(byte[0]));
    }
    offsets
}

/// The word of an index, position j in bit j.
fn codeword(index: u32) -> u32 {
    (INDEX_BITS..POSITIONS as u32).fold(index, |word, j| word | ((word >> (j - 5) ^ word >> (j - 3)) & 1) << j)
}

/// Indices from their bits, those of 128 OTs in a block each.
pub(in crate::ot) fn gather_indices(bits: [&Bytes; INDEX_BITS as usize], indices: &mut [u8]) {
    for (n, indices) in indices.chunks_mut(8).enumerate() {
        for (index, place) in indices.iter_mut().zip(0..) {
            *index = (0..).zip(bits).fold(0, |index, (b, bits)| index | (bits[n] >> place & 1) << b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prg::{Prg, Seed};
    use alloc::vec::Vec;

    /// The rank of vectors over GF(2).
    fn rank(vectors: impl Iterator<Item = u128>) -> usize {
        let mut basis: Vec<u128> = Vec::new();
        for mut vector in vectors {
            for b in &basis {
                vector = vector.min(vector ^ b);
            }
            if vector != 0 {
                basis.push(vector);
            }
        }
        basis.len()
    }

    /// L of one byte at one position.
    fn image(position: usize, byte: u8) -> u128 {
        let mut columns = [[0; 16]; POSITIONS];
        columns[position][0] = byte;
        compress(&mut columns);
        columns[..COMPRESSED].iter().zip(0..).fold(0, |image, (c, r)| image | u128::from(c[0]) << (8 * r))
    }

    #[test]
    fn words_are_linear_have_16_ones_and_are_compressed_one_to_one() {
        for index in 1..32 {
            let word = codeword(index);
            assert_eq!(word & 31, index);
            assert_eq!(word.count_ones(), 16);
            assert_eq!(word, codeword(index & 12) ^ codeword(index & 19));
            let places = (0..POSITIONS).filter(|&j| word >> j & 1 == 1);
            let bits = places.flat_map(|j| (0..8).map(move |b| image(j, 1 << b)));
            assert_eq!(rank(bits), 128, "index {index}");
        }
    }

    #[test]
    fn lanes_of_the_word_are_the_words() {
        let mut prg = Prg::new(&Seed::from_bytes([3; 32]));
        let lanes = 3;
        let mut word = vec![[0; 16]; POSITIONS * lanes];
        word[..5 * lanes].iter_mut().for_each(|block| *block = prg.array());
        (5..POSITIONS).for_each(|j| next_bit(&mut word, lanes, j));
        for lane in 0..lanes {
            let mut indices = [0; 128];
            gather_indices(core::array::from_fn(|b| &word[b * lanes + lane]), &mut indices);
            for (n, index) in indices.into_iter().enumerate() {
                let bit = |j: usize| u32::from(word[j * lanes + lane][n / 8] >> (n % 8) & 1);
                assert_eq!((0..POSITIONS).fold(0, |word, j| word | bit(j) << j), codeword(index.into()));
            }
        }
    }

    #[test]
    fn offsets_are_linear_and_those_of_the_code() {
        let mut prg = Prg::new(&Seed::from_bytes([4; 32]));
        let delta: Delta = Zeroizing::new(prg.array::<POSITIONS>().to_vec());
        let d = offsets(&delta);
        assert_eq!(d[0], 0);
        for i in 0..32 {
            assert_eq!(d[i], d[i & 21] ^ d[i & 10]);
            let word = codeword(i as u32);
            let expected = (0..POSITIONS).filter(|&j| word >> j & 1 == 1).fold(0, |sum, j| sum ^ image(j, delta[j]));
            assert_eq!(d[i], expected);
        }
        assert!(offsets(&Zeroizing::new(vec![1; 16])).is_empty());
    }
}
