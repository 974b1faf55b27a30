//! What the activation protocols share: how elements are processed side by side, and how they take random OTs.

use crate::ot::{Block, softspoken::RotBatchReceived};
use crate::prg::SecretVec;
use crate::simd::words::tables::{low_words, put_bits};
use alloc::vec;
use core::ops::Range;

/// Elements of a group that are processed together: in a message, their values of one kind are one field.
pub(super) const BLOCK: usize = 512;

/// The blocks of a group: whole ones, and what is left.
pub(super) fn blocks(elements: usize) -> impl Iterator<Item = Range<usize>> {
    (0..elements).step_by(BLOCK).map(move |start| start..elements.min(start + BLOCK))
}

/// Bits of the fields of some widths, each filled up to whole bytes, of all blocks of a group.
pub(super) fn field_bits(elements: usize, widths: &[u32]) -> u64 {
    let (whole, rest) = ((elements / BLOCK) as u64, (elements % BLOCK) as u64);
    let bits = |&width: &u32| whole * BLOCK as u64 * u64::from(width) + (rest * u64::from(width)).next_multiple_of(8);
    widths.iter().map(bits).sum()
}

/// N arrays for the words of a block.
pub(super) fn scratch<const N: usize>(elements: usize) -> [SecretVec<u32>; N] {
    core::array::from_fn(|_| words(elements.min(BLOCK)))
}

/// Zeros, one for each element.
pub(super) fn words(elements: usize) -> SecretVec<u32> {
    vec![0; elements].into()
}

/// The sender's side of the random OTs of some elements: both keys of each. First comes the first OT of each element,
/// then the second of each, and so on.
pub(crate) struct SenderRots<'a> {
    keys: &'a [[Block; 2]],
    elements: usize,
}

impl<'a> SenderRots<'a> {
    pub(crate) fn new(keys: &'a [[Block; 2]], elements: usize) -> Self {
        Self { keys, elements }
    }

    /// The next OT of each element.
    pub(crate) fn take(&mut self) -> &'a [[Block; 2]] {
        let (taken, rest) = self.keys.split_at(self.elements);
        self.keys = rest;
        taken
    }

    /// The low words of both keys of each element's next OT, as pads of two messages.
    pub(crate) fn take_pads(&mut self, pads: &mut [SecretVec<u32>; 2], run: Range<usize>) {
        let [first, second] = pads;
        low_words(self.take(), &mut first[run.clone()], &mut second[run]);
    }
}

/// The receiver's side of the random OTs of some elements, in the same order: a choice bit and the chosen key of each.
pub(crate) struct ReceiverRots<'a> {
    batch: &'a RotBatchReceived,
    elements: usize,
    next: usize,
}

impl<'a> ReceiverRots<'a> {
    pub(crate) fn new(batch: &'a RotBatchReceived, elements: usize) -> Self {
        Self { batch, elements, next: 0 }
    }

    /// The chosen keys of each element's next OT. Its choice goes to one bit of the element's word of choices.
    pub(crate) fn take(&mut self, bit: u32, choices: &mut [u32]) -> &'a [Block] {
        put_bits(&self.batch.choices, self.next, bit, choices);
        let keys = &self.batch.keys[self.next..self.next + self.elements];
        self.next += self.elements;
        keys
    }
}

/// `words[bit]`, reading both.
pub(crate) fn select(bit: u32, words: [u32; 2]) -> u32 {
    words[0] ^ (spread(bit) & (words[0] ^ words[1]))
}

/// Both words, the second first if the lowest bit of `flip` is set.
pub(crate) fn exchange(flip: u32, words: [u32; 2]) -> [u32; 2] {
    let differ = spread(flip) & (words[0] ^ words[1]);
    [words[0] ^ differ, words[1] ^ differ]
}

/// All ones if the lowest bit of `bit` is set, else zero.
pub(crate) fn spread(bit: u32) -> u32 {
    (bit & 1).wrapping_neg()
}

/// The low `bits` bits set; `bits` is at most 64.
pub(crate) const fn ones(bits: u32) -> u64 {
    if bits == 64 { u64::MAX } else { (1 << bits) - 1 }
}
