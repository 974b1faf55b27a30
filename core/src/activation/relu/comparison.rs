//! How [a < c] is found on w - 1 bits: which digits are compared, and which tables combine what they say. A function of
//! w alone, the same for both parties.
//!
//! On the way the server learns a string of *comparison bits*, each masked by a bit that the client drew in prepare:
//!
//! ```text
//! up to 3 digits:  less_0, less_1, equal_1, ..                                            | sign
//! 4 or 5 digits:   less_0, less_1, equal_1, .. | less of the low half, less and equal of the high half | sign
//! ```
//!
//! Every bit is one plane of a table of the client's, and is looked up by bits that the server has already: digits by a
//! itself, the other tables by comparison bits. Each comparison bit but the last is an index bit of exactly one table, so
//! that nothing that the server sends about it is masked by the same random choice twice.

use crate::simd::words::tables::Index;
use alloc::{vec, vec::Vec};

/// Most bits of a digit: 32 entries of two bits take 32 bits of each key.
const DIGIT_BITS: u32 = 5;
/// Most digits that one table combines: their 5 masked bits index 32 entries.
const TABLE_DIGITS: u32 = 3;

/// A table of the client's of 2^bits entries, from which the server takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lookup {
    /// Where the index starts: among the bits of a for a digit, among the comparison bits for another table.
    pub(super) start: u32,
    /// Bits of the index, at most 5, or 6 of a digit where there are only two.
    pub(super) bits: u32,
    /// Bits of an entry: 1 for less, 2 for less and equal.
    pub(super) planes: u32,
    /// Where an entry's bits go among the comparison bits.
    pub(super) output: u32,
}

impl Lookup {
    /// Where the index lies in what [`Self::start`] counts in, without its lowest `first` bits.
    pub(super) fn place(&self, first: u32) -> Index {
        Index { start: self.start - first, bits: self.bits }
    }

    /// The planes of a table that combines digits, or halves: bit i of a plane is its value at index i.
    ///
    /// A table of one plane has the lowest digit at the bottom of its index, of which there is only less; bits 2k - 1 and
    /// 2k are then digit k's less and equal. With two planes, bits 2k and 2k + 1 are digit k's.
    pub(super) fn truth_table(&self) -> [u32; 2] {
        let lowest = 2 - self.planes;
        let mut table = [0; 2];
        for index in 0..1u32 << self.bits {
            let (mut less, mut equal) = (index & lowest, 1);
            for position in (lowest..self.bits).step_by(2) {
                let (digit_less, digit_equal) = (index >> position & 1, index >> (position + 1) & 1);
                (less, equal) = (digit_less ^ (digit_equal & less), digit_equal & equal);
            }
            table[0] |= less << index;
            table[1] |= equal << index;
        }
        table
    }
}

/// The digits and tables of one width.
pub(super) struct Comparison {
    /// Lowest first.
    pub(super) digits: Vec<Lookup>,
    /// The tables of each round trip after that of the digits, one or two.
    pub(super) steps: Vec<Vec<Lookup>>,
    /// Place of the last comparison bit, [a < c] itself, whose mask makes it a share of the sign. Below it are the bits that
    /// index tables, at most 12.
    pub(super) sign: u32,
}

impl Comparison {
    /// As few digits as 5 bits each allow, as equal as they can be, the lower ones larger (the lowest has one plane only).
    /// `width` is 2 to 26.
    pub(super) fn new(width: u32) -> Self {
        Self::of_digits(width, DIGIT_BITS)
    }

    /// At most two digits of at most 6 bits each; `width` is 2 to 13.
    pub(super) fn in_two_digits(width: u32) -> Self {
        Self::of_digits(width, DIGIT_BITS + 1)
    }

    fn of_digits(width: u32, most: u32) -> Self {
        let total = width - 1;
        let count = total.div_ceil(most);
        let (mut start, mut output) = (0, 0);
        let digits = (0..count).map(|k| {
            let bits = total / count + u32::from(k < total % count);
            let digit = Lookup { start, bits, planes: if k == 0 { 1 } else { 2 }, output };
            start += bits;
            output += digit.planes;
            digit
        });
        let digits = digits.collect();
        if count <= TABLE_DIGITS {
            let all = Lookup { start: 0, bits: output, planes: 1, output };
            return Self { digits, steps: vec![vec![all]], sign: output };
        }
        let low_bits = 2 * count.div_ceil(2) - 1;
        let low = Lookup { start: 0, bits: low_bits, planes: 1, output };
        let high = Lookup { start: low_bits, bits: output - low_bits, planes: 2, output: output + 1 };
        let sign = output + 3;
        let both = Lookup { start: output, bits: 3, planes: 1, output: sign };
        Self { digits, steps: vec![vec![low, high], vec![both]], sign }
    }

    /// Digits and tables in the order of their random OTs.
    pub(super) fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        self.digits.iter().chain(self.steps.iter().flatten())
    }

    /// Widths of the fields of the digits' round, without truncation: server -> client, then client -> server.
    pub(super) fn digit_fields(&self) -> (u32, Vec<u32>) {
        fields(&self.digits)
    }

    /// Widths of the fields of each further round.
    pub(super) fn step_fields(&self) -> impl Iterator<Item = (u32, Vec<u32>)> {
        self.steps.iter().map(|step| fields(step))
    }

    /// The comparison bits that index a step's tables: the first, and how many. They follow each other.
    pub(super) fn step_index(step: &[Lookup]) -> (u32, u32) {
        (step.first().map_or(0, |table| table.start), fields(step).0)
    }
}

/// The bits of all indices together, and the entries of each plane of lookups made together.
fn fields(lookups: &[Lookup]) -> (u32, Vec<u32>) {
    let planes = lookups.iter().flat_map(|lookup| core::iter::repeat_n(1 << lookup.bits, lookup.planes as usize));
    (lookups.iter().map(|lookup| lookup.bits).sum(), planes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing that the server chooses by is left out or used twice, no bit is put twice, and all fits what it is held in.
    #[test]
    fn every_bit_is_made_once_and_indexes_one_table() {
        for width in 2..=26 {
            let comparison = Comparison::new(width);
            let run = |next, lookup: &Lookup| {
                assert_eq!(lookup.start, next);
                next + lookup.bits
            };
            assert_eq!(comparison.digits.iter().fold(0, run), width - 1);
            assert_eq!(comparison.steps.iter().flatten().fold(0, run), comparison.sign);
            let made = comparison.lookups().fold(0, |next, lookup| {
                assert_eq!(lookup.output, next);
                assert!((1..=5).contains(&lookup.bits) && (1..=2).contains(&lookup.planes));
                next + lookup.planes
            });
            assert_eq!(made, comparison.sign + 1);
            assert!(made <= 16);
            assert_eq!(comparison.steps.len(), if width <= 16 { 1 } else { 2 });
            // A table's bits are there before the step in which it is used.
            for step in &comparison.steps {
                assert!(step.iter().all(|table| table.start + table.bits <= step[0].output));
            }
        }
    }

    /// Without masks, the last bit is [a < c].
    #[test]
    fn the_last_bit_is_less() {
        let all = (2..=26u32).map(|width| (width, Comparison::new(width)));
        for (width, comparison) in all.chain((2..=13).map(|width| (width, Comparison::in_two_digits(width)))) {
            let less = |a: u32, c: u32| {
                let mut bits = 0;
                for digit in &comparison.digits {
                    let (a, c) = (digit.place(0).of(a), digit.place(0).of(c));
                    bits |= u32::from(a < c) << digit.output;
                    if digit.planes == 2 {
                        bits |= u32::from(a == c) << (digit.output + 1);
                    }
                }
                for table in comparison.steps.iter().flatten() {
                    let entries = table.truth_table().map(|plane| plane >> table.place(0).of(bits) & 1);
                    bits |= entries[0] << table.output;
                    if table.planes == 2 {
                        bits |= entries[1] << (table.output + 1);
                    }
                }
                bits >> comparison.sign
            };
            // Each pattern of below, equal and above over the digits.
            for pattern in 0..3u32.pow(comparison.digits.len() as u32) {
                let (mut a, mut c) = (0, 0);
                for (k, digit) in comparison.digits.iter().enumerate() {
                    let high = (1 << digit.bits) - 1;
                    let (x, y) = [(0, high), (high, high), (high, 0)][(pattern / 3u32.pow(k as u32) % 3) as usize];
                    (a, c) = (a | x << digit.start, c | y << digit.start);
                }
                assert_eq!(less(a, c), u32::from(a < c), "width {width}: {a:#x} < {c:#x}");
            }
        }
    }
}
