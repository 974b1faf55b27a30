//! Tables of up to 32 bits, a word for each element: entry i of an element's table is bit i of its word.
//!
//! An *index* is cut from an element's word of indices: `bits` (at most 5) bits of it from `start` on. What
//! [`crate::ot::table`] does for one table, these do for many side by side. All slices of a call have one length.

use super::super::multiversion;
use crate::ot::Block;

/// Positions whose bit s is zero, for each s.
const LOW: [u32; 5] = [0x5555_5555, 0x3333_3333, 0x0f0f_0f0f, 0x00ff_00ff, 0x0000_ffff];

/// Where an element's word holds the index of its table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Index {
    pub(crate) start: u32,
    pub(crate) bits: u32,
}

impl Index {
    /// The index of an element.
    #[inline(always)]
    pub(crate) fn of(self, word: u32) -> u32 {
        word >> self.start & ((1 << self.bits) - 1)
    }
}

/// The table with entry i moved to entry i ^ d. Bits of d from the table's index bits on are zero.
#[inline(always)]
fn permute(mut table: u32, d: u32) -> u32 {
    for (s, low) in LOW.iter().enumerate() {
        let swap = (d >> s & 1).wrapping_neg();
        let differ = (table >> (1 << s) ^ table) & low & swap;
        table ^= differ ^ differ << (1 << s);
    }
    table
}

multiversion! {
    /// Tables of [i < index].
    pub(crate) fn less(words: &[u32], index: Index, tables: &mut [u32]) {
        for (table, &word) in tables.iter_mut().zip(words) {
            *table = (1u32 << index.of(word)) - 1;
        }
    }

    /// Tables of [i = index].
    pub(crate) fn equal(words: &[u32], index: Index, tables: &mut [u32]) {
        for (table, &word) in tables.iter_mut().zip(words) {
            *table = 1u32 << index.of(word);
        }
    }

    /// One table for all, with entry i moved to entry i ^ index.
    pub(crate) fn moved(table: u32, words: &[u32], index: Index, tables: &mut [u32]) {
        for (moved, &word) in tables.iter_mut().zip(words) {
            *moved = permute(table, index.of(word));
        }
    }

    /// XORs pads into tables, the pad of entry i into entry i ^ index.
    pub(crate) fn xor_moved(pads: &[u32], words: &[u32], index: Index, tables: &mut [u32]) {
        for ((table, &pad), &word) in tables.iter_mut().zip(pads).zip(words) {
            *table ^= permute(pad, index.of(word));
        }
    }

    /// XORs one bit of each word into all `1 << bits` entries of its table.
    pub(crate) fn xor_bit(words: &[u32], bit: u32, bits: u32, tables: &mut [u32]) {
        let entries = ((1u64 << (1 << bits)) - 1) as u32;
        for (table, &word) in tables.iter_mut().zip(words) {
            *table ^= (word >> bit & 1).wrapping_neg() & entries;
        }
    }

    /// XORs the entry at the index of each table into one bit of a result.
    pub(crate) fn open(tables: &[u32], words: &[u32], index: Index, bit: u32, results: &mut [u32]) {
        for ((result, &table), &word) in results.iter_mut().zip(tables).zip(words) {
            *result ^= (table >> index.of(word) & 1) << bit;
        }
    }

    /// The low words of both keys of random OTs: all that tables take of them.
    pub(crate) fn low_words(keys: &[[Block; 2]], first: &mut [u32], second: &mut [u32]) {
        for ((keys, first), second) in keys.iter().zip(first).zip(second) {
            (*first, *second) = (keys[0] as u32, keys[1] as u32);
        }
    }

    /// The low words of the chosen keys.
    pub(crate) fn chosen_words(keys: &[Block], words: &mut [u32]) {
        for (word, key) in words.iter_mut().zip(keys) {
            *word = *key as u32;
        }
    }

    /// XORs into the pads of a plane of tables of 2^`bits` entries what comes from the random OT of index bit k, of whose keys
    /// the low words are given: for entry i the segment of key i_k with number rank_k(i), of the plane's half of the table's
    /// bits ([`crate::ot::table`]).
    pub(crate) fn sender_pads(keys: [&[u32]; 2], k: u32, bits: u32, plane: u32, pads: &mut [u32]) {
        let (top, half) = (bits - 1, 1u32 << (bits - 1));
        let segments = ((1u64 << half) - 1) as u32;
        let (distance, low) = (half - (1 << k), !LOW[k as usize] & LOW[top as usize]);
        for ((pad, &first), &second) in pads.iter_mut().zip(keys[0]).zip(keys[1]) {
            // Entry numbers with i_k on top and rank_k(i) below it; swapping index bits k and top puts them in order.
            let [first, second] = [first, second].map(|key| key >> (plane * half) & segments);
            let ranked = first | second << half;
            let differ = (ranked >> distance ^ ranked) & low;
            *pad ^= ranked ^ differ ^ differ << distance;
        }
    }

    /// XORs into the bits from `bit` on of each result, one for each of `planes` (1 or 2), what the random OT of index bit k
    /// gives of the pads at the index: bit rank_k(index) of each plane's segments of the chosen key.
    pub(crate) fn receiver_pads(keys: &[u32], words: &[u32], index: Index, k: u32, planes: u32, bit: u32, results: &mut [u32]) {
        let (top, half) = (index.bits - 1, 1u32 << (index.bits - 1));
        let both = planes - 1;
        for ((result, &key), &word) in results.iter_mut().zip(keys).zip(words) {
            let choice = index.of(word);
            let swap = (choice >> k ^ choice >> top) & 1;
            let ranked = key >> ((choice ^ swap << k) & (half - 1));
            *result ^= ((ranked & 1) | (ranked >> half & both) << 1) << bit;
        }
    }

    /// Puts one bit for each element, which lie in `bytes` from bit `first` on, into one bit of its word.
    pub(crate) fn put_bits(bytes: &[u8], first: usize, bit: u32, words: &mut [u32]) {
        for (n, words) in words.chunks_mut(32).enumerate() {
            let at = first + 32 * n;
            let mut window = [0; 8];
            match bytes.get(at / 8..).unwrap_or_default() {
                [a, b, c, d, e, ..] => window[..5].copy_from_slice(&[*a, *b, *c, *d, *e]),
                end => window[..end.len()].copy_from_slice(end),
            }
            let row = (u64::from_le_bytes(window) >> (at % 8)) as u32;
            for (i, word) in words.iter_mut().enumerate() {
                *word |= (row >> (i as u32 & 31) & 1) << bit;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::at_each_level;
    use super::*;
    use crate::ot::{ideal, table};
    use crate::prg::{Prg, Seed};
    use alloc::{vec, vec::Vec};

    /// Elements of each call: several vectors and a part of one.
    const COUNT: usize = 77;

    fn random(seed: u8) -> Vec<u32> {
        let mut prg = Prg::new(&Seed::from_bytes([seed; 32]));
        (0..COUNT).map(|_| prg.next_u32()).collect()
    }

    fn entries(bits: u32) -> u32 {
        u32::MAX >> (32 - (1 << bits))
    }

    fn indices() -> impl Iterator<Item = Index> {
        (1..=5).flat_map(|bits| [0, 3, 27].map(|start| Index { start, bits }))
    }

    #[test]
    fn tables_are_what_they_say() {
        for index in indices() {
            let [words, others, more] = [1, 2, 3].map(random);
            let of = |word: u32| word >> index.start & ((1 << index.bits) - 1);
            let all = 1u32 << index.bits;
            at_each_level(|level| {
                let mut tables = vec![9; COUNT];
                less(&words, index, &mut tables);
                let is = |tables: &[u32], entry: &dyn Fn(usize, u32) -> u32| {
                    for (e, table) in tables.iter().enumerate() {
                        (0..all)
                            .for_each(|i| assert_eq!(table >> i & 1, entry(e, i) & 1, "{level:?} {index:?} {e}: {i}"));
                        assert_eq!(table & !entries(index.bits), 0);
                    }
                };
                is(&tables, &|e, i| u32::from(i < of(words[e])));
                equal(&words, index, &mut tables);
                is(&tables, &|e, i| u32::from(i == of(words[e])));
                let one = 0x5a3c_96e1 & entries(index.bits);
                moved(one, &words, index, &mut tables);
                is(&tables, &|e, i| one >> (i ^ of(words[e])));
                xor_bit(&others, 13, index.bits, &mut tables);
                is(&tables, &|e, i| one >> (i ^ of(words[e])) ^ others[e] >> 13);
                let pads: Vec<u32> = more.iter().map(|pad| pad & entries(index.bits)).collect();
                xor_moved(&pads, &others, index, &mut tables);
                is(&tables, &|e, i| one >> (i ^ of(words[e])) ^ others[e] >> 13 ^ pads[e] >> (i ^ of(others[e])));
                let mut results = more.clone();
                open(&tables, &others, index, 21, &mut results);
                for e in 0..COUNT {
                    assert_eq!(results[e] ^ more[e], (tables[e] >> of(others[e]) & 1) << 21);
                }
            });
        }
    }

    /// Pads of many tables are those of each one ([`table::sender_planes`], [`table::receiver_planes`]).
    #[test]
    fn pads_are_those_of_the_tables() {
        let mut prg = Prg::new(&Seed::from_bytes([4; 32]));
        for (index, planes) in indices().flat_map(|index| [(index, 1), (index, 2)]) {
            let j = index.bits as usize;
            let (sent, received) = ideal::deal(&mut prg, COUNT * j);
            at_each_level(|level| {
                let mut words = vec![0; COUNT];
                for k in 0..j {
                    put_bits(&received.choices, k * COUNT, index.start + k as u32, &mut words);
                }
                let (mut pads, mut results) = (vec![vec![0; COUNT]; planes as usize], vec![0; COUNT]);
                let [mut first, mut second, mut chosen] = [0; 3].map(|_| vec![0; COUNT]);
                for k in 0..j as u32 {
                    let run = k as usize * COUNT..(k as usize + 1) * COUNT;
                    low_words(&sent[run.clone()], &mut first, &mut second);
                    chosen_words(&received.keys[run], &mut chosen);
                    for (plane, pads) in (0..).zip(&mut pads) {
                        sender_pads([&first, &second], k, index.bits, plane, pads);
                    }
                    receiver_pads(&chosen, &words, index, k, planes, 17, &mut results);
                }
                for e in 0..COUNT {
                    let choice = (0..j).fold(0, |c, k| c | received.choice_bits(k * COUNT + e, 1) << k);
                    assert_eq!(words[e], choice << index.start);
                    let keys: Vec<_> = (0..j).map(|k| sent[k * COUNT + e]).collect();
                    let chosen: Vec<_> = (0..j).map(|k| received.keys[k * COUNT + e]).collect();
                    let expected = table::sender_planes(&keys, planes as usize);
                    for (pads, expected) in pads.iter().zip(expected) {
                        assert_eq!(u128::from(pads[e]), expected, "{level:?} {index:?}");
                    }
                    let expected = table::receiver_planes(choice, &chosen, planes as usize);
                    assert_eq!(results[e], expected << 17, "{level:?} {index:?}");
                }
            });
        }
    }
}
