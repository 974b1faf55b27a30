//! The client's side: it answers each of the server's choices with a table masked entry by entry.

use super::super::material::{SenderRots, ones};
use super::super::truncate::Truncation;
use super::comparison::{Comparison, Lookup};
use super::spread;
use crate::model::Channel;
use crate::ot::table;
use crate::prg::{Prg, SecretVec, collect};
use crate::share::Mask;
use crate::wire::bits::{BitReader, BitWriter};
use alloc::vec::Vec;

/// The client's prepared side of a group.
pub(crate) struct Client {
    truncation: Truncation,
    comparison: Comparison,
    /// m and r.
    masks: Mask,
    outputs: Mask,
    /// tC: (m >> f) plus the chosen top bits rho · 2^(32-f).
    shares: SecretVec<u32>,
    truncation_pads: SecretVec<[u32; 2]>,
    /// The masks of an element's comparison bits; in the place of the last, sC, a random OT's choice bit.
    bit_masks: SecretVec<u16>,
    /// For each comparison bit of an element, the pads of the plane from which it comes.
    plane_pads: SecretVec<u32>,
    /// wC, the key that goes with sC.
    product_shares: SecretVec<u32>,
    output_pads: SecretVec<[u32; 2]>,
    next: usize,
}

impl Client {
    /// A group with masks m and fresh masks r of the outputs; `signs` are the choice bits and words
    /// ([`super::product_word`]) of the client's random OTs as a receiver.
    pub(crate) fn new(channel: &Channel, masks: Mask, outputs: Mask, signs: (&[u8], &[u32]), prg: &mut Prg) -> Self {
        let truncation = Truncation::new(channel);
        let comparison = Comparison::new(truncation.width());
        let count = masks.len();
        let shift = truncation.shift();
        let shares = masks.iter().map(|&mask| {
            let rho = u64::from(prg.next_u32()) & ones(shift);
            (mask >> shift).wrapping_add((rho << (32 - shift)) as u32)
        });
        let shares = collect(count, shares);
        let sign = comparison.sign;
        let bit_masks = signs.0.iter().map(|&s| (prg.next_u32() & ones(sign) as u32) as u16 | u16::from(s & 1) << sign);
        Self {
            shares,
            truncation_pads: SecretVec::new(Vec::with_capacity(if shift > 0 { count } else { 0 })),
            bit_masks: collect(count, bit_masks),
            plane_pads: SecretVec::new(Vec::with_capacity(count * (sign as usize + 1))),
            product_shares: signs.1.to_vec().into(),
            output_pads: SecretVec::new(Vec::with_capacity(count)),
            truncation,
            comparison,
            masks,
            outputs,
            next: 0,
        }
    }

    /// Takes the random OTs of the next element.
    pub(crate) fn absorb(&mut self, rots: &mut SenderRots<'_>) {
        let shift = self.truncation.shift();
        if shift > 0 {
            let [p0, p1, ..] = table::sender_words(rots.take(1));
            let low = ones(shift);
            self.truncation_pads.push([(p0 & low) as u32, (p1 & low) as u32]);
        }
        for lookup in self.comparison.lookups() {
            let planes = table::sender_planes(rots.take(lookup.bits as usize), lookup.planes as usize);
            self.plane_pads.extend(planes.iter().take(lookup.planes as usize).map(|&plane| plane as u32));
        }
        let [p0, p1, ..] = table::sender_words(rots.take(1));
        self.output_pads.push([p0 as u32, p1 as u32]);
    }

    pub(crate) fn round(&mut self, request: &mut BitReader<'_>, reply: &mut BitWriter) {
        match self.next {
            0 => self.compare(request, reply),
            round if round <= self.comparison.steps.len() => self.combine(round - 1, request, reply),
            _ => self.multiply(request, reply),
        }
        self.next += 1;
    }

    fn compare(&mut self, request: &mut BitReader<'_>, reply: &mut BitWriter) {
        let shift = self.truncation.shift();
        let elements = self.plane_pads.chunks_exact(self.comparison.sign as usize + 1).zip(self.bit_masks.iter());
        for (index, (&mask, (pads, &bit_masks))) in self.masks.iter().zip(elements).enumerate() {
            if shift > 0 {
                // Messages of f bits: only the wrap's low f bits matter, and rho (in the share's top bits) masks them.
                let flip = request.take(1) as usize;
                let rho = u64::from(self.shares[index].wrapping_sub(mask >> shift)) >> (32 - shift);
                for choice in 0..2 {
                    let message = (rho + u64::from((mask >> 31) & choice as u32)) & ones(shift);
                    reply.put(message ^ u64::from(self.truncation_pads[index][choice ^ flip]), shift);
                }
            }
            for lookup in &self.comparison.digits {
                let digit = lookup.index(mask >> shift);
                // Entry i of a plane is [i < digit] or [i = digit].
                let planes = [(1u32 << digit).wrapping_sub(1), 1 << digit];
                answer(lookup, planes, bit_masks.into(), pads, request, reply);
            }
        }
    }

    fn combine(&mut self, step: usize, request: &mut BitReader<'_>, reply: &mut BitWriter) {
        let tables: Vec<_> = self.comparison.steps[step].iter().map(|table| (table, table.truth_table())).collect();
        let sign = self.comparison.sign;
        let top = self.truncation.shift() + self.truncation.width() - 1;
        let elements = self.plane_pads.chunks_exact(sign as usize + 1).zip(self.bit_masks.iter());
        for (&mask, (pads, &bit_masks)) in self.masks.iter().zip(elements) {
            // The entries of the last table are [a < c] ^ top(C) ^ sC.
            let output_masks = u32::from(bit_masks) ^ (mask >> top & 1) << sign;
            for &(lookup, truth) in &tables {
                let index_mask = lookup.index(bit_masks.into());
                let planes = truth.map(|plane| table::permute_u32(plane, index_mask, lookup.bits));
                answer(lookup, planes, output_masks, pads, request, reply);
            }
        }
    }

    fn multiply(&mut self, request: &mut BitReader<'_>, reply: &mut BitWriter) {
        for (index, &share) in self.shares.iter().enumerate() {
            let difference = request.take(32) as u32;
            let flip = request.take(1) as usize;
            let sign = u32::from(self.bit_masks[index] >> self.comparison.sign);
            // sC · (V - u) + wC + r, minus tC where the server's sign bit makes sigma = 1.
            let base =
                (spread(sign) & difference).wrapping_add(self.product_shares[index]).wrapping_add(self.outputs[index]);
            for choice in 0..2 {
                let message = base.wrapping_sub(spread(sign ^ choice as u32) & share);
                reply.put((message ^ self.output_pads[index][choice ^ flip]).into(), 32);
            }
        }
    }
}

/// Puts a lookup's table: each plane masked by its comparison bit's mask in all entries and by a pad in each.
fn answer(
    lookup: &Lookup,
    planes: [u32; 2],
    output_masks: u32,
    pads: &[u32],
    request: &mut BitReader<'_>,
    reply: &mut BitWriter,
) {
    let flip = request.take(lookup.bits) as u32;
    let all = ones(1 << lookup.bits) as u32;
    for (output, plane) in (lookup.output..).zip(planes).take(lookup.planes as usize) {
        let masked = plane ^ (spread(output_masks >> output) & all);
        reply.put((masked ^ table::permute_u32(pads[output as usize], flip, lookup.bits)).into(), 1 << lookup.bits);
    }
}
