//! The client's side: it answers each of the server's choices with a table masked entry by entry.

use super::super::material::{SenderRots, blocks, exchange, ones, scratch, spread, words};
use super::super::truncate::Truncation;
use super::comparison::{Comparison, Lookup};
use crate::model::Channel;
use crate::prg::{Prg, SecretVec, collect};
use crate::share::Mask;
use crate::simd::words::tables::{Index, equal, less, moved, xor_bit, xor_moved};
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
    /// tC: m where nothing is truncated; else from the first round on (m >> f) and free top bits.
    shares: SecretVec<u32>,
    /// The pads of both messages; none where nothing is truncated.
    truncation_pads: [SecretVec<u32>; 2],
    /// The masks of an element's comparison bits; in the place of the last, sC, a random OT's choice bit.
    bit_masks: SecretVec<u32>,
    /// For each comparison bit, the elements' pads of the plane from which it comes.
    plane_pads: Vec<SecretVec<u32>>,
    /// wC, the key that goes with sC.
    product_shares: SecretVec<u32>,
    output_pads: [SecretVec<u32>; 2],
    /// Elements that have their random OTs.
    absorbed: usize,
    next: usize,
}

impl Client {
    /// A group with masks m and fresh masks r of the outputs, of which the given number of bits matters; `signs` are the choice bits and words
    /// ([`super::product_word`]) of the client's random OTs as a receiver.
    pub(crate) fn new(
        (channel, word_bits): (&Channel, u32),
        masks: Mask,
        outputs: Mask,
        signs: (&[u8], &[u32]),
        prg: &mut Prg,
    ) -> Self {
        let truncation = Truncation::new(channel, word_bits);
        let comparison = Comparison::new(truncation.width());
        let count = masks.len();
        let shift = truncation.shift();
        let shares = masks.clone();
        let sign = comparison.sign;
        let bit_masks = signs.0.iter().map(|&s| (prg.next_u32() & ones(sign) as u32) | u32::from(s & 1) << sign);
        Self {
            shares,
            truncation_pads: core::array::from_fn(|_| words(if shift > 0 { count } else { 0 })),
            bit_masks: collect(count, bit_masks),
            plane_pads: (0..=sign).map(|_| words(count)).collect(),
            product_shares: signs.1.to_vec().into(),
            output_pads: core::array::from_fn(|_| words(count)),
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
        let mut planes = self.plane_pads.iter_mut().map(|pads| &mut pads[run.clone()]);
        for lookup in self.comparison.lookups() {
            let mut planes: Vec<&mut [u32]> = planes.by_ref().take(lookup.planes as usize).collect();
            rots.take_planes(lookup.bits, &mut planes);
        }
        rots.take_pads(&mut self.output_pads, run);
    }

    pub(crate) fn round(&mut self, request: &mut FieldReader<'_>, reply: &mut FieldWriter) {
        match self.next {
            0 => self.compare(request, reply),
            round if round <= self.comparison.steps.len() => self.combine(round - 1, request, reply),
            _ => self.multiply(request, reply),
        }
        self.next += 1;
    }

    fn compare(&mut self, request: &mut FieldReader<'_>, reply: &mut FieldWriter) {
        let (shift, width) = (self.truncation.shift(), self.truncation.width());
        let mut arrays = scratch::<2>(self.masks.len());
        for block in blocks(self.masks.len()) {
            let [flips, first] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let masks = &self.masks[block.clone()];
            // The truncation's choice lies above those of the digits.
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
                for plane in 0..lookup.planes {
                    match plane {
                        0 => less(masks, digit, 0, first),
                        _ => equal(masks, digit, 0, first),
                    }
                    let bit_masks = &self.bit_masks[block.clone()];
                    self.answer(lookup, plane, block.clone(), (bit_masks, flips, 0), first);
                    reply.put(first, 1 << lookup.bits);
                }
            }
        }
    }

    fn combine(&mut self, step: usize, request: &mut FieldReader<'_>, reply: &mut FieldWriter) {
        let sign = self.comparison.sign;
        let top = self.truncation.shift() + self.truncation.width() - 1;
        let step = &self.comparison.steps[step];
        let (start, bits) = Comparison::step_index(step);
        let mut arrays = scratch::<3>(self.masks.len());
        for block in blocks(self.masks.len()) {
            let [flips, output_masks, tables] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let bit_masks = &self.bit_masks[block.clone()];
            // The entries of the last table are [a < c] ^ top(C) ^ sC.
            let elements = bit_masks.iter().zip(&self.masks[block.clone()]);
            for (output_mask, (&bit_masks, &mask)) in output_masks.iter_mut().zip(elements) {
                *output_mask = bit_masks ^ (mask >> top & 1) << sign;
            }
            request.take(bits, flips);
            for lookup in step {
                let truth = lookup.truth_table();
                for plane in 0..lookup.planes {
                    moved(truth[plane as usize], bit_masks, lookup.place(0), tables);
                    self.answer(lookup, plane, block.clone(), (output_masks, flips, start), tables);
                    reply.put(tables, 1 << lookup.bits);
                }
            }
        }
    }

    /// Masks a plane of a lookup's tables: all entries by the comparison bit's mask, and each by its pad. The lookup's choices
    /// are cut from `flips`, whose lowest bit is number `start` of what [`Lookup::start`] counts.
    fn answer(
        &self,
        lookup: &Lookup,
        plane: u32,
        block: Range<usize>,
        (output_masks, flips, start): (&[u32], &[u32], u32),
        tables: &mut [u32],
    ) {
        let output = lookup.output + plane;
        xor_bit(output_masks, output, lookup.bits, tables);
        xor_moved(&self.plane_pads[output as usize][block], flips, lookup.place(start), tables);
    }

    fn multiply(&mut self, request: &mut FieldReader<'_>, reply: &mut FieldWriter) {
        let sign = self.comparison.sign;
        let mut arrays = scratch::<3>(self.masks.len());
        for block in blocks(self.masks.len()) {
            let [flips, first, second] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            request.take(self.truncation.word_bits(), first);
            request.take(1, flips);
            let own = self.bit_masks[block.clone()].iter().zip(&self.product_shares[block.clone()]);
            let own = own.zip(self.outputs[block.clone()].iter().zip(&self.shares[block.clone()]));
            let pads = self.output_pads[0][block.clone()].iter().zip(&self.output_pads[1][block.clone()]);
            let messages = first.iter_mut().zip(second.iter_mut());
            for (((&flip, ((&bits, &product), (&output, &share))), (&pad_0, &pad_1)), (first, second)) in
                flips.iter().zip(own).zip(pads).zip(messages)
            {
                // sC · (V - u) + wC + r, minus tC where the server's sign bit makes sigma = 1.
                let mine = spread(bits >> sign);
                let base = (mine & *first).wrapping_add(product).wrapping_add(output);
                let [pad_0, pad_1] = exchange(flip, [pad_0, pad_1]);
                *first = base.wrapping_sub(mine & share) ^ pad_0;
                *second = base.wrapping_sub(!mine & share) ^ pad_1;
            }
            reply.put(first, self.truncation.word_bits());
            reply.put(second, self.truncation.word_bits());
        }
    }
}
