//! Tables of two or four words of one-time pads, made from one or two single random OTs.
//!
//! The sender holds the pad of every entry, the receiver a random index c and the pad of entry c, which c's bits, the
//! choices of the OTs, give it. Online the receiver sends d = c ⊕ (the index it wants), the sender moves entry i to place
//! i ⊕ d and XORs the pads in.
//!
//! With two OTs the pad of entry (i_1, i_0) is word i_1 of key i_0 of the first ⊕ word i_0 of key i_1 of the second. Each word of
//! a key serves one entry, and the pad of every entry but the receiver's own has a word that the receiver lacks and that no
//! other pad has: together those pads are uniform to it. Were a word to serve two entries, XORs of entries could show. (Naor
//! and Pinkas, "Computationally Secure Oblivious Transfer", Journal of Cryptology 18, 2005, apply a pseudo-random function to
//! each key for each entry instead; here words of the key are enough and cost no cipher call.)
//!
//! Larger tables are made from wide OTs ([`super::wide`]).

use super::Block;

/// Bits of an entry.
pub const WORD_BITS: usize = 64;

/// The sender's pads of a word table with 2^j entries (j is 1 or 2) of up to 64 bits each, from the keys of j random
/// OTs. Words past 2^j are zero.
///
/// # Panics
/// Unless j is 1 or 2.
#[inline]
pub fn sender_words(keys: &[[Block; 2]]) -> [u64; 4] {
    match keys {
        [[a, b]] => [*a as u64, *b as u64, 0, 0],
        [low, high] => core::array::from_fn(|i| {
            let (i_0, i_1) = (i & 1, i >> 1);
            (low[i_0] >> (WORD_BITS * i_1)) as u64 ^ (high[i_1] >> (WORD_BITS * i_0)) as u64
        }),
        _ => wrong_word_table(keys.len()),
    }
}

/// The receiver's pad of its entry of a word table, from the choices of the j random OTs and the chosen keys.
///
/// # Panics
/// Unless j is 1 or 2.
#[inline]
pub fn receiver_word(choice: u32, keys: &[Block]) -> u64 {
    match keys {
        [key] => *key as u64,
        [low, high] => select_word(*low, choice >> 1) ^ select_word(*high, choice),
        _ => wrong_word_table(keys.len()),
    }
}

/// The lower or the upper word of a key, by the low bit of `upper`, which is secret.
#[inline]
fn select_word(key: Block, upper: u32) -> u64 {
    let (low, high) = (key as u64, (key >> 64) as u64);
    low ^ ((low ^ high) & 0u64.wrapping_sub(u64::from(upper & 1)))
}

#[cold]
#[allow(clippy::panic)] // a mistake of the calling code; no message decides j
fn wrong_word_table(j: usize) -> ! {
    panic!("word table: expected 1 or 2 index bits, got {j}")
}

#[cfg(test)]
mod tests {
    use super::super::ideal::deal;
    use super::*;
    use crate::prg::{Prg, Seed};
    use alloc::vec::Vec;

    #[test]
    fn each_word_of_a_key_reaches_exactly_one_entry_of_its_own_choice() {
        for (j, k, side, bit) in
            (1..=2).flat_map(|j| (0..j).flat_map(move |k| (0..256).map(move |n| (j, k, n & 1, n / 2))))
        {
            let mut keys = alloc::vec![[0; 2]; j];
            keys[k][side] = 1 << bit;
            let words = sender_words(&keys);
            let reached: Vec<usize> = (0..4).filter(|&i| words[i] != 0).collect();
            assert_eq!(reached.len(), usize::from(bit < 64 << (j - 1)));
            assert!(reached.iter().all(|i| i >> k & 1 == side && words[*i].count_ones() == 1));
        }
    }

    #[test]
    fn the_receiver_gets_the_pad_of_its_choice() {
        for (j, seed) in (1..=2).flat_map(|j| (0..20).map(move |seed| (j, seed))) {
            let (sent, _) = deal(&mut Prg::new(&Seed::from_bytes([seed; 32])), j);
            let words = sender_words(&sent);
            assert!(words[1 << j..].iter().all(|&word| word == 0));
            for c in 0..1usize << j {
                let keys: Vec<Block> = (0..j).map(|k| sent[k][c >> k & 1]).collect();
                assert_eq!(receiver_word(c as u32, &keys), words[c]);
                assert!((0..1 << j).all(|i| i == c || words[i] != words[c]));
            }
        }
    }
}
