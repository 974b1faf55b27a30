//! The client's side: digits' tables, then a table of signs and one of words.

use super::super::comparison::{Comparison, Lookup};
use super::halves;
use crate::activation::material::{SenderRots, blocks, ones, scratch, select, spread, words};
use crate::activation::truncate::Truncation;
use crate::model::Channel;
use crate::ot::wide::INDEX_BITS;
use crate::prg::{Prg, SecretVec, collect};
use crate::share::Mask;
use crate::simd::words::tables::{Index, equal, exchange, less, moved, words_at, xor_bit, xor_moved, xor_moved_half};
use crate::wire::words::{FieldReader, FieldWriter};
use alloc::vec::Vec;
use core::ops::Range;

/// The client's prepared side of a group.
pub(crate) struct Client {
    truncation: Truncation,
    comparison: Comparison,
    /// m and r.
    masks: Mask,
    outputs: Mask,
    /// tC.
    shares: SecretVec<u32>,
    /// The pads of both messages; none where nothing is truncated.
    truncation_pads: [SecretVec<u32>; 2],
    /// The masks of an element's comparison bits; above them sC.
    bit_masks: SecretVec<u32>,
    /// For each comparison bit and each half of its plane.
    plane_pads: Vec<Vec<SecretVec<u32>>>,
    sign_pads: SecretVec<u32>,
    /// For each entry of the table of words.
    word_pads: Vec<SecretVec<u32>>,
    /// wC.
    product_shares: SecretVec<u32>,
    absorbed: usize,
    next: usize,
}

/// Some elements' pads.
fn part<'a>(pads: &'a mut SecretVec<u32>, run: &Range<usize>) -> &'a mut [u32] {
    &mut pads[run.clone()]
}

impl Client {
    /// As of the protocol in three round trips.
    pub(crate) fn new(
        (channel, word_bits): (&Channel, u32),
        masks: Mask,
        outputs: Mask,
        signs: (&[u8], &[u32]),
        prg: &mut Prg,
    ) -> Self {
        let truncation = Truncation::new(channel, word_bits);
        let comparison = Comparison::in_two_digits(truncation.width());
        let (count, bits) = (masks.len(), comparison.sign);
        let bit_masks = signs.0.iter().map(|&s| (prg.next_u32() & ones(bits) as u32) | u32::from(s & 1) << bits);
        let bit_masks = collect(count, bit_masks);
        let plane = |digit: &Lookup| (0..halves(digit)).map(|_| words(count)).collect::<Vec<_>>();
        let planes = comparison.digits.iter().flat_map(|digit| (0..digit.planes).map(move |_| plane(digit)));
        Self {
            shares: masks.clone(),
            truncation_pads: core::array::from_fn(|_| words(if truncation.shift() > 0 { count } else { 0 })),
            bit_masks,
            plane_pads: planes.collect(),
            sign_pads: words(count),
            word_pads: (0..1 << bits).map(|_| words(count)).collect(),
            product_shares: signs.1.to_vec().into(),
            truncation,
            comparison,
            masks,
            outputs,
            absorbed: 0,
            next: 0,
        }
    }

    /// Takes the random OTs of the next elements.
    pub(crate) fn absorb(&mut self, rots: &mut SenderRots<'_>) {
        let run = self.absorbed..self.absorbed + rots.elements;
        self.absorbed = run.end;
        if self.truncation.shift() > 0 {
            rots.take_pads(&mut self.truncation_pads, run.clone());
        }
        for digit in &self.comparison.digits {
            let planes = &mut self.plane_pads[digit.output as usize..(digit.output + digit.planes) as usize];
            let mut all: Vec<&mut [u32]> = planes.iter_mut().flatten().map(|pads| part(pads, &run)).collect();
            rots.take_planes(digit.bits.min(INDEX_BITS), &mut all);
            if halves(digit) == 2 {
                let keys = rots.take();
                let mut words = [words(rots.elements), words(rots.elements)];
                for (plane, halves) in (0..).zip(all.chunks_exact_mut(2)) {
                    let [first, second] = &mut words;
                    words_at(keys, plane, first, second);
                    for (pads, words) in halves.iter_mut().zip(&words) {
                        pads.iter_mut().zip(words.iter()).for_each(|(pad, word)| *pad ^= word);
                    }
                }
            }
        }
        let mut entries: Vec<&mut [u32]> = self.word_pads.iter_mut().map(|pads| part(pads, &run)).collect();
        rots.take_words(self.comparison.sign, &mut entries, part(&mut self.sign_pads, &run));
    }

    pub(crate) fn round(&mut self, request: &mut FieldReader<'_>, reply: &mut FieldWriter) {
        match self.next {
            0 => self.compare(request, reply),
            _ => self.finish(request, reply),
        }
        self.next += 1;
    }

    fn compare(&mut self, request: &mut FieldReader<'_>, reply: &mut FieldWriter) {
        let (shift, width) = (self.truncation.shift(), self.truncation.width());
        let mut arrays = scratch::<2>(self.masks.len());
        for block in blocks(self.masks.len()) {
            let [flips, first] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let (masks, bit_masks) = (&self.masks[block.clone()], &self.bit_masks[block.clone()]);
            request.take(width - 1 + u32::from(shift > 0), flips);
            if shift > 0 {
                let shares = &mut self.shares[block.clone()];
                let pads = self.truncation_pads.each_ref().map(|pads| &pads[block.clone()]);
                let truncations = flips.iter().map(|flip| flip >> (width - 1));
                self.truncation.wraps(masks, truncations, pads, [shares, first]);
                reply.put(first, self.truncation.wrap_bits());
            }
            for lookup in &self.comparison.digits {
                let digit = Index { start: shift + lookup.start, bits: lookup.bits };
                for (plane, half) in
                    (0..lookup.planes).flat_map(|plane| (0..halves(lookup)).map(move |half| (plane, half)))
                {
                    match plane {
                        0 => less(masks, digit, half, first),
                        _ => equal(masks, digit, half, first),
                    }
                    let output = lookup.output + plane;
                    xor_bit(bit_masks, output, lookup.bits.min(5), first);
                    match &self.plane_pads[output as usize][..] {
                        [low, high] => {
                            let pads = [&low[block.clone()], &high[block.clone()]];
                            xor_moved_half(pads, flips, lookup.place(0), half, first);
                        }
                        pads => {
                            pads.iter().for_each(|pads| xor_moved(&pads[block.clone()], flips, lookup.place(0), first))
                        }
                    }
                    reply.put(first, (1 << lookup.bits).min(32));
                }
            }
        }
    }

    fn finish(&mut self, request: &mut FieldReader<'_>, reply: &mut FieldWriter) {
        let bits = self.comparison.sign;
        let index = Index { start: 0, bits };
        let top = self.truncation.shift() + self.truncation.width() - 1;
        // All comparison bits index one table.
        let truth = self.comparison.steps.iter().flatten().map(|table| table.truth_table()[0]).next().unwrap_or(0);
        let mut arrays = scratch::<5>(self.masks.len());
        let mut pads = scratch::<8>(self.masks.len());
        for block in blocks(self.masks.len()) {
            let [flips, signs, table, first, second] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let bit_masks = &self.bit_masks[block.clone()];
            request.take(self.truncation.word_bits(), first);
            request.take(bits, flips);
            // sS for each index: [a < c] ^ 1 ^ top(A) comes by the index, top(C) and sC are added.
            let elements = bit_masks.iter().zip(&self.masks[block.clone()]);
            for (constant, (&bit_masks, &mask)) in table.iter_mut().zip(elements) {
                *constant = bit_masks >> bits ^ mask >> top;
            }
            moved(truth, bit_masks, index, signs);
            xor_bit(table, 0, bits, signs);
            table.copy_from_slice(signs);
            xor_moved(&self.sign_pads[block.clone()], flips, index, table);
            reply.put(table, 1 << bits);
            // Both words.
            let own = self.shares[block.clone()].iter().zip(&self.product_shares[block.clone()]);
            let own = own.zip(&self.outputs[block.clone()]).zip(bit_masks);
            for ((first, second), (((&share, &product), &output), &bit_masks)) in
                first.iter_mut().zip(second.iter_mut()).zip(own)
            {
                let mine = spread(bit_masks >> bits);
                let cross = (mine & *first).wrapping_add(product);
                *first = cross.wrapping_sub(mine & share).wrapping_add(output);
                *second = output.wrapping_sub(cross).wrapping_sub(!mine & share);
            }
            let pads = &mut pads[..1 << bits];
            for (pads, own) in pads.iter_mut().zip(&self.word_pads) {
                pads[..block.len()].copy_from_slice(&own[block.clone()]);
            }
            for bit in 0..bits {
                for pair in pads.chunks_exact_mut(2 << bit) {
                    let (low, high) = pair.split_at_mut(1 << bit);
                    for (low, high) in low.iter_mut().zip(high) {
                        exchange(flips, bit, &mut low[..block.len()], &mut high[..block.len()]);
                    }
                }
            }
            for (entry, pads) in pads.iter_mut().enumerate() {
                let message = &mut pads[..block.len()];
                let words = first.iter().zip(second.iter()).zip(signs.iter());
                for (message, ((&first, &second), &signs)) in message.iter_mut().zip(words) {
                    *message ^= select(signs >> entry, [first, second]);
                }
                reply.put(message, self.truncation.word_bits());
            }
        }
    }
}
