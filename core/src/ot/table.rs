//! Random 1-out-of-2^j OTs: tables of one-time pads made from j random OTs each.
//!
//! The sender holds the pad of every entry, the receiver a random index c and the pad of entry c, which c's bits, the
//! choices of the j random OTs, give it. Online the receiver sends d = c ⊕ (the index it wants), the sender moves entry
//! i to place i ⊕ d and XORs the pads in: one masked word whatever the size of the table.
//!
//! The pad of entry i is the XOR over the bits k of a *segment* of key (k, i_k): the one with number rank_k(i), which
//! is i with bit k replaced by its top bit and the top bit dropped. For either value of i_k that is a bijection from
//! the entries with that bit to the 2^(j−1) segments of a key. So each segment serves one entry, and the pad of every
//! entry but the receiver's own has at least one segment that the receiver lacks and that no other pad has: together
//! those pads are uniform to it. Were one segment to serve two entries, XORs of entries could show.
//!
//! (Naor and Pinkas, "Computationally Secure Oblivious Transfer", Journal of Cryptology 18, 2005, apply a pseudo-random
//! function to each key for each entry instead; with tables this small, segments of the key are enough and cost no
//! cipher call.)

use super::Block;

/// The largest number of index bits of a bit table: 2^6 segments of 2 bits use up a key of 128.
pub const MAX_INDEX_BITS: usize = 7;

/// Bits of an entry of a word table.
pub const WORD_BITS: usize = 64;

/// Positions whose bit s is zero, for each s: where butterflies pick up the lower of two neighbours.
const LOW: [u128; 7] = [
    0x5555_5555_5555_5555_5555_5555_5555_5555,
    0x3333_3333_3333_3333_3333_3333_3333_3333,
    0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f,
    0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff,
    0x0000_ffff_0000_ffff_0000_ffff_0000_ffff,
    0x0000_0000_ffff_ffff_0000_0000_ffff_ffff,
    0x0000_0000_0000_0000_ffff_ffff_ffff_ffff,
];

/// Refuses tables whose pads would have to use a segment twice. A mistake of the calling code, as both figures are
/// public constants of it.
fn check_planes(j: usize, planes: usize) {
    assert!(
        (1..=MAX_INDEX_BITS).contains(&j) && (1..=2).contains(&planes),
        "bit table: expected 1 to 7 index bits and 1 or 2 planes, got {j} and {planes}"
    );
    const { assert!(2 << (MAX_INDEX_BITS - 1) <= Block::BITS) };
}

/// The sender's pads of a bit table with 2^j entries of `planes` bits, from the keys of j random OTs (that of index bit
/// 0 first).
///
/// Bit i of word p is the pad of plane p of entry i. Plane p takes bits p·2^(j−1) up to (p+1)·2^(j−1) of each key; bits
/// of the words past 2^j, and words past `planes`, are zero.
///
/// # Panics
/// Unless 1 ≤ j ≤ 7 and `planes` is 1 or 2.
#[inline]
pub fn sender_planes(keys: &[[Block; 2]], planes: usize) -> [u128; 2] {
    check_planes(keys.len(), planes);
    match keys.len() {
        1 => small_planes::<1>(keys, planes),
        2 => small_planes::<2>(keys, planes),
        3 => small_planes::<3>(keys, planes),
        4 => small_planes::<4>(keys, planes),
        5 => small_planes::<5>(keys, planes),
        6 => large_planes::<6>(keys, planes),
        _ => large_planes::<7>(keys, planes),
    }
}

/// [`sender_planes`] for J = 6 and 7, plane by plane.
fn large_planes<const J: usize>(keys: &[[Block; 2]], planes: usize) -> [u128; 2] {
    let (top, half) = (J - 1, 1 << (J - 1));
    let segments = LOW[6] >> (64 - half);
    let mut words = [0; 2];
    for (p, word) in words.iter_mut().enumerate().take(planes) {
        for (k, [key_0, key_1]) in keys.iter().enumerate().take(J) {
            // Entry numbers with i_k on top and rank_k(i) below it; swapping index bits k and J − 1 puts them in order.
            let ranked = ((key_0 >> (p * half)) & segments) | ((key_1 >> (p * half)) & segments) << half;
            *word ^= if k == top { ranked } else { swap_index_bits(ranked, k, top) };
        }
    }
    words
}

/// [`sender_planes`] for J up to 5, both planes side by side in 64 bits.
fn small_planes<const J: usize>(keys: &[[Block; 2]], planes: usize) -> [u128; 2] {
    let (top, half) = (J - 1, 1 << (J - 1));
    let segments = (LOW[6] as u64) >> (64 - half);
    let spread = |key: u64| (key & segments) | ((key >> half) & segments) << 32;
    let mut both = 0;
    for (k, [key_0, key_1]) in keys.iter().enumerate().take(J) {
        let ranked = spread(*key_0 as u64) | spread(*key_1 as u64) << half;
        both ^= if k == top {
            ranked
        } else {
            let distance = half - (1 << k);
            let differ = ((ranked >> distance) ^ ranked) & !LOW[k] as u64 & LOW[top] as u64;
            ranked ^ differ ^ differ << distance
        };
    }
    let second = 0u64.wrapping_sub(u64::from(planes == 2));
    [u128::from(both as u32), u128::from((both >> 32) & second)]
}

/// Moves the bit at each position to the position with index bits `low` < `high` exchanged.
#[inline]
fn swap_index_bits(word: u128, low: usize, high: usize) -> u128 {
    let distance = (1 << high) - (1 << low);
    let differ = ((word >> distance) ^ word) & !LOW[low] & LOW[high];
    word ^ differ ^ differ << distance
}

/// The receiver's pad bits of its entry: bit p is that of plane p. `choice` holds the choices of the j random OTs,
/// which are its index c, and `keys` the chosen keys.
///
/// # Panics
/// Unless 1 ≤ j ≤ 7 and `planes` is 1 or 2.
#[inline]
pub fn receiver_planes(choice: u32, keys: &[Block], planes: usize) -> u32 {
    let j = keys.len();
    check_planes(j, planes);
    let (top, half) = (j - 1, 1 << (j - 1));
    let segments = u64::MAX >> (64 - half);
    let mut bits = 0;
    for (k, key) in keys.iter().enumerate() {
        // rank_k(c): bit k becomes the top bit, and the top bit goes.
        let swap = ((choice >> k) ^ (choice >> top)) & 1;
        let rank = (choice ^ swap << k) & (half - 1);
        for p in 0..planes {
            bits ^= select_bit((key >> (p as u32 * half)) as u64 & segments, rank) << p;
        }
    }
    bits
}

/// Bit `index` (below 64, secret) of a word. One 32-bit shift, which takes the same time for every distance; a 64-bit
/// one would not on all 32-bit processors.
#[inline]
fn select_bit(word: u64, index: u32) -> u32 {
    let upper = 0u32.wrapping_sub(index >> 5 & 1);
    let (low, high) = (word as u32, (word >> 32) as u32);
    ((low ^ ((low ^ high) & upper)) >> (index & 31)) & 1
}

/// The word with bit i moved to bit i ⊕ d, for each i < 2^j. Bits from 2^j on must be zero. `j` is at most 7, d below
/// 2^j and may be secret.
#[inline]
pub fn permute(mut word: u128, d: u32, j: u32) -> u128 {
    for (s, low) in LOW.iter().enumerate().take(j as usize) {
        let swap = 0u128.wrapping_sub(u128::from(d >> s & 1));
        let differ = ((word >> (1 << s)) ^ word) & low & swap;
        word ^= differ ^ differ << (1 << s);
    }
    word
}

/// [`permute`] for j up to 5.
#[inline]
pub fn permute_u32(mut word: u32, d: u32, j: u32) -> u32 {
    for (s, low) in LOW.iter().enumerate().take(j.min(5) as usize) {
        let swap = 0u32.wrapping_sub(d >> s & 1);
        let differ = ((word >> (1 << s)) ^ word) & *low as u32 & swap;
        word ^= differ ^ differ << (1 << s);
    }
    word
}

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
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    fn prg(n: u8) -> Prg {
        Prg::new(&Seed::from_bytes([n; 32]))
    }

    /// rank_k(i), word for word.
    fn rank(i: usize, k: usize, j: usize) -> usize {
        let mut bits: Vec<usize> = (0..j).map(|s| i >> s & 1).collect();
        bits[k] = bits[j - 1];
        bits.pop();
        bits.iter().rev().fold(0, |rank, bit| 2 * rank + bit)
    }

    fn naive_pad(keys: &[[Block; 2]], plane: usize, i: usize) -> u32 {
        let j = keys.len();
        (0..j).fold(0, |pad, k| pad ^ (keys[k][i >> k & 1] >> (plane * (1 << (j - 1)) + rank(i, k, j)) & 1) as u32)
    }

    #[test]
    fn ranks_are_bijections_so_that_no_segment_serves_two_entries() {
        for j in 1..=MAX_INDEX_BITS {
            for k in 0..j {
                let used: BTreeSet<(usize, usize)> = (0..1 << j).map(|i| (i >> k & 1, rank(i, k, j))).collect();
                assert_eq!(used.len(), 1 << j);
                assert!(used.iter().all(|&(_, rank)| rank < 1 << (j - 1)));
            }
        }
    }

    #[test]
    fn each_key_bit_reaches_exactly_one_pad_bit_of_the_sender() {
        for j in 1..=MAX_INDEX_BITS {
            for planes in 1..=2 {
                for (k, side) in (0..j).flat_map(|k| [(k, 0), (k, 1)]) {
                    let mut reached = BTreeSet::new();
                    for bit in 0..128 {
                        let mut keys = alloc::vec![[0; 2]; j];
                        keys[k][side] = 1 << bit;
                        let words = sender_planes(&keys, planes);
                        let ones: Vec<usize> = (0..256).filter(|&b| words[b / 128] >> (b % 128) & 1 == 1).collect();
                        if bit < planes * (1 << (j - 1)) {
                            assert_eq!(ones.len(), 1);
                            assert_eq!((ones[0] % 128) >> k & 1, side, "a key reached an entry of the other choice");
                            assert!(reached.insert(ones[0]), "two segments of one key on one entry");
                        } else {
                            assert!(ones.is_empty());
                        }
                    }
                    assert_eq!(reached.len(), planes << (j - 1));
                }
            }
        }
        for (j, k, side, bit) in
            (1..=2).flat_map(|j| (0..j).flat_map(move |k| (0..256).map(move |n| (j, k, n & 1, n / 2))))
        {
            let mut keys = alloc::vec![[0; 2]; j];
            keys[k][side] = 1 << bit;
            let ones: u32 = sender_words(&keys).iter().map(|word| word.count_ones()).sum();
            assert_eq!(ones, u32::from(bit < 64 << (j - 1)));
        }
    }

    #[test]
    fn planes_agree_with_the_definition_for_every_size_and_choice() {
        for j in 1..=MAX_INDEX_BITS {
            for planes in 1..=2 {
                let (sent, _) = deal(&mut prg(j as u8), j);
                let words = sender_planes(&sent, planes);
                for i in 0..128 {
                    for (p, word) in words.iter().enumerate() {
                        let expected = if i < 1 << j && p < planes { naive_pad(&sent, p, i) } else { 0 };
                        assert_eq!((word >> i & 1) as u32, expected, "j {j} plane {p} entry {i}");
                    }
                }
                for c in 0..1 << j {
                    let keys: Vec<Block> = (0..j).map(|k| sent[k][c >> k & 1]).collect();
                    let got = receiver_planes(c as u32, &keys, planes);
                    let expected = (0..planes).fold(0, |bits, p| bits | ((words[p] >> c & 1) as u32) << p);
                    assert_eq!(got, expected, "j {j} planes {planes} choice {c}");
                }
            }
        }
    }

    #[test]
    fn words_agree_with_the_definition_for_every_size_and_choice() {
        for j in 1..=2 {
            for seed in 0..20 {
                let (sent, _) = deal(&mut prg(seed), j);
                let words = sender_words(&sent);
                for i in 0..1 << j {
                    let expected = (0..j).fold(0, |pad, k| pad ^ (sent[k][i >> k & 1] >> (64 * rank(i, k, j))) as u64);
                    assert_eq!(words[i], expected);
                }
                assert!(words[1 << j..].iter().all(|&word| word == 0));
                for c in 0..1usize << j {
                    let keys: Vec<Block> = (0..j).map(|k| sent[k][c >> k & 1]).collect();
                    assert_eq!(receiver_word(c as u32, &keys), words[c]);
                }
            }
        }
    }

    #[test]
    fn permute_moves_every_bit_to_its_index_xor_d() {
        for j in 0..=7 {
            for d in 0..1 << j {
                for i in 0..1 << j {
                    assert_eq!(permute(1 << i, d, j), 1 << (i ^ d), "j {j} d {d} i {i}");
                    if j <= 5 {
                        assert_eq!(permute_u32(1 << i, d, j), 1 << (i ^ d), "j {j} d {d} i {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_whole_table_is_delivered_as_one_masked_word() {
        let mut random = prg(30);
        for j in 1..=5usize {
            for wanted in 0..1u32 << j {
                let (sent, received) = deal(&mut random, j);
                let c = received.choice_bits(0, j as u32);
                let table = random.next_u32() & (u32::MAX >> (32 - (1 << j)));
                let sent = permute_u32(table, c ^ wanted, j as u32) ^ sender_planes(&sent, 1)[0] as u32;
                let bit = (sent >> c & 1) ^ receiver_planes(c, &received.keys, 1);
                assert_eq!(bit, table >> wanted & 1);
            }
        }
    }

    /// Over many tables: every unchosen pad bit is balanced, given the receiver's own pad and given its unchosen
    /// neighbour.
    #[test]
    fn unchosen_pads_are_balanced_and_uncorrelated() {
        const TABLES: u32 = 20_000;
        let mut random = prg(31);
        for j in [1, 3, 5] {
            let n = 1usize << j;
            let mut agree = alloc::vec![[0u32; 3]; n];
            for _ in 0..TABLES {
                let (sent, received) = deal(&mut random, j);
                let c = received.choice_bits(0, j as u32);
                let own = receiver_planes(c, &received.keys, 2);
                let words = sender_planes(&sent, 2).map(|word| permute(word, c, j as u32));
                // Entry 0 is now the chosen one.
                assert_eq!((words[0] & 1) as u32 | ((words[1] & 1) as u32) << 1, own);
                for (i, agree) in agree.iter_mut().enumerate().skip(1) {
                    let pad = (words[0] >> i & 1) as u32;
                    agree[0] += pad;
                    agree[1] += pad ^ own & 1;
                    agree[2] += pad ^ (words[1] >> (i % (n - 1) + usize::from(n > 2)) & 1) as u32;
                }
            }
            for (i, counts) in agree.iter().enumerate().skip(1) {
                for count in counts {
                    // Six standard deviations of 20 000 fair coins are 424.
                    assert!(count.abs_diff(TABLES / 2) < 424, "j {j} entry {i}: {counts:?}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "1 to 7 index bits")]
    fn a_table_that_would_need_a_segment_twice_is_refused() {
        sender_planes(&[[0; 2]; 8], 1);
    }
}
