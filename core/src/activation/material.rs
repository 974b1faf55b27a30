//! What the activation protocols share: how elements are processed side by side, and how they take random OTs.

use crate::ot::supply::Count;
use crate::ot::wide::{self, INDEX_BITS};
use crate::ot::{Block, softspoken::RotBatchReceived};
use crate::prg::SecretVec;
use crate::simd::words::tables::{Index, low_words, put_bits};
use crate::wire::bits::packed_bytes;
use crate::wire::words::{FieldReader, FieldWriter};
use alloc::vec;
use alloc::vec::Vec;
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

/// The random OTs with the server as receiver that an element takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rots {
    pub(crate) each: Count,
    /// For each wide OT that serves a table of fewer than 32 entries, the bits of its index that the receiver tells.
    told: Vec<u32>,
}

impl Rots {
    /// So many single OTs.
    pub(super) fn single(single: usize) -> Self {
        Self { each: Count { single, wide: 0 }, told: vec![] }
    }

    /// With a wide OT more, for a table of 2^`bits` entries.
    pub(super) fn with_table(mut self, bits: u32) -> Self {
        self.each.wide += 1;
        if bits < INDEX_BITS {
            self.told.push(INDEX_BITS - bits);
        }
        self
    }

    /// The OTs of some elements.
    pub(crate) fn of(&self, elements: usize) -> Count {
        Count { single: self.each.single * elements, wide: self.each.wide * elements }
    }

    /// Bytes in which the receiver tells upper index bits of some elements' wide OTs.
    pub(crate) fn told_bytes(&self, elements: usize) -> usize {
        self.told.iter().map(|&bits| packed_bytes(elements, bits)).sum()
    }
}

/// The sender's side of the random OTs of some elements: both keys of each single one, the rows of the wide ones. First comes
/// the first OT of each element, then the second of each, and so on.
pub(crate) struct SenderRots<'a> {
    keys: &'a [[Block; 2]],
    wide: Option<&'a mut wide::Sent>,
    next_wide: usize,
    /// What the receiver tells of its indices.
    told: FieldReader<'a>,
    pub(super) elements: usize,
}

impl<'a> SenderRots<'a> {
    pub(crate) fn new(
        keys: &'a [[Block; 2]],
        wide: Option<&'a mut wide::Sent>,
        told: &'a [u8],
        elements: usize,
    ) -> Self {
        Self { keys, wide, next_wide: 0, told: FieldReader::new(told), elements }
    }

    /// Checks that the receiver told as much as was asked for.
    ///
    /// # Errors
    /// [`crate::ErrorKind::MalformedMessage`] otherwise.
    pub(crate) fn finish(self) -> crate::Result<()> {
        self.told.finish()
    }

    /// The next single OT of each element.
    pub(crate) fn take(&mut self) -> &'a [[Block; 2]] {
        let (taken, rest) = self.keys.split_at(self.elements);
        self.keys = rest;
        taken
    }

    /// The low words of both keys of each element's next single OT, as pads of two messages.
    pub(crate) fn take_pads(&mut self, pads: &mut [SecretVec<u32>; 2], run: Range<usize>) {
        let [first, second] = pads;
        low_words(self.take(), &mut first[run.clone()], &mut second[run]);
    }

    /// The pads of tables of 2^`bits` entries from each element's next wide OT: bit i of an element of plane p is that of
    /// entry i.
    pub(crate) fn take_planes(&mut self, bits: u32, planes: &mut [&mut [u32]]) {
        let run = self.next_table(bits);
        if let Some(wide) = &self.wide {
            wide.planes(run, bits, planes);
        }
    }

    /// The pads of tables of 2^`bits` words, and of a plane of bits beside them, from each element's next wide OT.
    pub(crate) fn take_words(&mut self, bits: u32, words: &mut [&mut [u32]], plane: &mut [u32]) {
        let run = self.next_table(bits);
        if let Some(wide) = &self.wide {
            wide.words(run, bits, words, plane);
        }
    }

    fn next_table(&mut self, bits: u32) -> Range<usize> {
        let run = self.next_wide..self.next_wide + self.elements;
        self.next_wide = run.end;
        if let (Some(wide), Some(told @ 1..)) = (&mut self.wide, INDEX_BITS.checked_sub(bits)) {
            let mut upper = vec![0; self.elements];
            self.told.take(told, &mut upper);
            wide.narrow(run.clone(), bits, &upper);
        }
        run
    }
}

/// The receiver's side of the random OTs of some elements, in the same order: a choice bit and the chosen key of each, or an
/// index and a row.
pub(crate) struct ReceiverRots<'a> {
    batch: &'a RotBatchReceived,
    next: usize,
    wide: Option<&'a wide::Received>,
    next_wide: usize,
    told: FieldWriter,
    pub(super) elements: usize,
}

impl<'a> ReceiverRots<'a> {
    pub(crate) fn new(batch: &'a RotBatchReceived, wide: Option<&'a wide::Received>, elements: usize) -> Self {
        Self { batch, next: 0, wide, next_wide: 0, told: FieldWriter::default(), elements }
    }

    /// What the sender is to be told of the indices.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.told.finish()
    }

    /// The chosen keys of each element's next single OT. Its choice goes to one bit of the element's word of choices.
    pub(crate) fn take(&mut self, bit: u32, choices: &mut [u32]) -> &'a [Block] {
        put_bits(&self.batch.choices, self.next, bit, choices);
        let keys = &self.batch.keys[self.next..self.next + self.elements];
        self.next += self.elements;
        keys
    }

    /// Each element's next wide OT, for a table with that index: the index goes to the element's word of choices, and words of
    /// the chosen key to `planes`, of which the bit at the index is the pad of that plane.
    pub(crate) fn take_table(&mut self, index: Index, choices: &mut [u32], planes: &mut [&mut [u32]]) {
        let run = self.next_wide..self.next_wide + self.elements;
        self.next_wide = run.end;
        let Some(wide) = self.wide else { return };
        let indices = &wide.indices()[run.clone()];
        for (choices, &own) in choices.iter_mut().zip(indices) {
            *choices |= (u32::from(own) & ones(index.bits) as u32) << index.start;
        }
        if let Some(told @ 1..) = INDEX_BITS.checked_sub(index.bits) {
            let upper: SecretVec<u32> =
                indices.iter().map(|&own| u32::from(own) >> index.bits).collect::<Vec<_>>().into();
            self.told.put(&upper, told);
        }
        wide.words(run, planes);
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
