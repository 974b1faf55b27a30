//! Tables of up to 32 bits, a word for each element: entry i of an element's table is bit i of its word. Tables of 64 bits
//! are two *halves* of such words, half 1 for the entries from 32 on.
//!
//! An *index* is cut from an element's word of indices: `bits` (at most 5, or 6 where there are halves) bits of it from
//! `start` on. All slices of a call have one length.

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

/// All ones if the lowest bit of `bit` is set, else zero.
#[inline(always)]
fn spread(bit: u32) -> u32 {
    (bit & 1).wrapping_neg()
}

/// The table with entry i moved to entry i ^ d. Bits of d from the table's index bits on are zero.
#[inline(always)]
fn permute(mut table: u32, d: u32) -> u32 {
    for (s, low) in LOW.iter().enumerate() {
        let swap = spread(d >> s);
        let differ = (table >> (1 << s) ^ table) & low & swap;
        table ^= differ ^ differ << (1 << s);
    }
    table
}

multiversion! {
    /// A half of tables of [i < index].
    pub(crate) fn less(words: &[u32], index: Index, half: u32, tables: &mut [u32]) {
        let lower = spread(half ^ 1);
        for (table, &word) in tables.iter_mut().zip(words) {
            let index = index.of(word);
            let (upper, below) = (spread(index >> 5), (1u32 << (index & 31)) - 1);
            *table = (upper & (lower | below)) | (lower & below);
        }
    }

    /// A half of tables of [i = index].
    pub(crate) fn equal(words: &[u32], index: Index, half: u32, tables: &mut [u32]) {
        for (table, &word) in tables.iter_mut().zip(words) {
            let index = index.of(word);
            *table = (1u32 << (index & 31)) & spread(index >> 5 ^ half ^ 1);
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

    /// XORs pads into a half of tables of 64 entries, the pad of entry i into entry i ^ index.
    pub(crate) fn xor_moved_half(pads: [&[u32]; 2], words: &[u32], index: Index, half: u32, tables: &mut [u32]) {
        for (((table, &low), &high), &word) in tables.iter_mut().zip(pads[0]).zip(pads[1]).zip(words) {
            let index = index.of(word);
            let pad = low ^ (spread(index >> 5 ^ half) & (low ^ high));
            *table ^= permute(pad, index & 31);
        }
    }

    /// XORs one bit of each word into all `1 << bits` (at most 32) entries of its table.
    pub(crate) fn xor_bit(words: &[u32], bit: u32, bits: u32, tables: &mut [u32]) {
        let entries = ((1u64 << (1 << bits)) - 1) as u32;
        for (table, &word) in tables.iter_mut().zip(words) {
            *table ^= spread(word >> bit) & entries;
        }
    }

    /// XORs the entry at the index of each table into one bit of a result.
    pub(crate) fn open(tables: &[u32], words: &[u32], index: Index, bit: u32, results: &mut [u32]) {
        for ((result, &table), &word) in results.iter_mut().zip(tables).zip(words) {
            *result ^= (table >> index.of(word) & 1) << bit;
        }
    }

    /// XORs the entry at the index of each table of 64 entries, given in halves, into one bit of a result.
    pub(crate) fn open_half(tables: [&[u32]; 2], words: &[u32], index: Index, bit: u32, results: &mut [u32]) {
        for (((result, &low), &high), &word) in results.iter_mut().zip(tables[0]).zip(tables[1]).zip(words) {
            let index = index.of(word);
            let table = low ^ (spread(index >> 5) & (low ^ high));
            *result ^= (table >> (index & 31) & 1) << bit;
        }
    }

    /// The lowest words of both keys of random OTs: all that most tables take of them.
    pub(crate) fn low_words(keys: &[[Block; 2]], first: &mut [u32], second: &mut [u32]) {
        for ((keys, first), second) in keys.iter().zip(first).zip(second) {
            (*first, *second) = (keys[0] as u32, keys[1] as u32);
        }
    }

    /// The words of both keys of random OTs that lie `word` words above the lowest.
    pub(crate) fn words_at(keys: &[[Block; 2]], word: u32, first: &mut [u32], second: &mut [u32]) {
        for ((keys, first), second) in keys.iter().zip(first).zip(second) {
            (*first, *second) = ((keys[0] >> (32 * word)) as u32, (keys[1] >> (32 * word)) as u32);
        }
    }

    /// The lowest words of the chosen keys.
    pub(crate) fn chosen_words(keys: &[Block], words: &mut [u32]) {
        for (word, key) in words.iter_mut().zip(keys) {
            *word = *key as u32;
        }
    }

    /// The words of the chosen keys that lie `word` words above the lowest.
    pub(crate) fn chosen_words_at(keys: &[Block], word: u32, words: &mut [u32]) {
        for (target, key) in words.iter_mut().zip(keys) {
            *target = (key >> (32 * word)) as u32;
        }
    }

    /// Exchanges words of which the index's bit `bit` is set.
    pub(crate) fn exchange(words: &[u32], bit: u32, first: &mut [u32], second: &mut [u32]) {
        for ((first, second), &word) in first.iter_mut().zip(second).zip(words) {
            let differ = spread(word >> bit) & (*first ^ *second);
            (*first, *second) = (*first ^ differ, *second ^ differ);
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
                less(&words, index, 0, &mut tables);
                let is = |tables: &[u32], entry: &dyn Fn(usize, u32) -> u32| {
                    for (e, table) in tables.iter().enumerate() {
                        (0..all)
                            .for_each(|i| assert_eq!(table >> i & 1, entry(e, i) & 1, "{level:?} {index:?} {e}: {i}"));
                        assert_eq!(table & !entries(index.bits), 0);
                    }
                };
                is(&tables, &|e, i| u32::from(i < of(words[e])));
                equal(&words, index, 0, &mut tables);
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

    #[test]
    fn halves_are_what_they_say() {
        for start in [0, 5, 26] {
            let index = Index { start, bits: 6 };
            let [words, others, low, high] = [1, 2, 3, 4].map(random);
            let of = |word: u32| word >> start & 63;
            let bit = |halves: &[Vec<u32>; 2], e: usize, i: u32| halves[i as usize / 32][e] >> (i % 32) & 1;
            let pads = [low, high];
            at_each_level(|level| {
                for plane in 0..2 {
                    let mut tables = [0, 1].map(|half| {
                        let mut tables = vec![9; COUNT];
                        match plane {
                            0 => less(&words, index, half, &mut tables),
                            _ => equal(&words, index, half, &mut tables),
                        }
                        tables
                    });
                    let entry =
                        |e: usize, i: u32| u32::from(if plane == 0 { i < of(words[e]) } else { i == of(words[e]) });
                    for (e, i) in (0..COUNT).flat_map(|e| (0..64).map(move |i| (e, i))) {
                        assert_eq!(bit(&tables, e, i), entry(e, i), "{level:?}");
                    }
                    for (half, tables) in (0..).zip(&mut tables) {
                        xor_moved_half([&pads[0], &pads[1]], &others, index, half, tables);
                    }
                    for (e, i) in (0..COUNT).flat_map(|e| (0..64).map(move |i| (e, i))) {
                        assert_eq!(bit(&tables, e, i), entry(e, i) ^ bit(&pads, e, i ^ of(others[e])), "{level:?}");
                    }
                    let mut results = vec![0; COUNT];
                    open_half([&tables[0], &tables[1]], &others, index, 9, &mut results);
                    assert!((0..COUNT).all(|e| results[e] == bit(&tables, e, of(others[e])) << 9));
                }
            });
        }
    }

    #[test]
    fn bits_go_where_they_belong() {
        let mut prg = Prg::new(&Seed::from_bytes([5; 32]));
        let bytes: [u8; 64] = prg.array();
        for first in [0, 1, 8, 77, 500] {
            at_each_level(|level| {
                let mut words = vec![1; COUNT];
                put_bits(&bytes, first, 9, &mut words);
                for (n, word) in words.iter().enumerate() {
                    let bit = bytes.get((first + n) / 8).map_or(0, |byte| byte >> ((first + n) % 8) & 1);
                    assert_eq!(*word, 1 | u32::from(bit) << 9, "{level:?}");
                }
            });
        }
    }
}
