//! Random OTs as the activation protocols take them: one element after another, a fixed number each.

use crate::ot::{Block, softspoken::RotBatchReceived};

/// The sender's side of a run of random OTs: both keys of each.
pub(crate) struct SenderRots<'a> {
    keys: &'a [[Block; 2]],
}

impl<'a> SenderRots<'a> {
    pub(crate) fn new(keys: &'a [[Block; 2]]) -> Self {
        Self { keys }
    }

    /// The next `count` OTs.
    pub(crate) fn take(&mut self, count: usize) -> &'a [[Block; 2]] {
        let (taken, rest) = self.keys.split_at(count);
        self.keys = rest;
        taken
    }
}

/// The receiver's side of a run of random OTs: a choice bit and the chosen key of each.
pub(crate) struct ReceiverRots<'a> {
    batch: &'a RotBatchReceived,
    next: usize,
}

impl<'a> ReceiverRots<'a> {
    pub(crate) fn new(batch: &'a RotBatchReceived) -> Self {
        Self { batch, next: 0 }
    }

    /// The next `count` OTs: their choice bits as one number (the first OT's is the lowest bit) and their keys.
    pub(crate) fn take(&mut self, count: usize) -> (u32, &'a [Block]) {
        let first = self.next;
        self.next += count;
        (self.batch.choice_bits(first, count as u32), &self.batch.keys[first..self.next])
    }
}

/// `words[bit]`, reading both.
pub(crate) fn select(bit: u32, words: [u32; 2]) -> u32 {
    words[0] ^ (bit.wrapping_neg() & (words[0] ^ words[1]))
}

/// The low `bits` bits set; `bits` is at most 64.
pub(crate) const fn ones(bits: u32) -> u64 {
    if bits == 64 { u64::MAX } else { (1 << bits) - 1 }
}
