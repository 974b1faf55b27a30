//! Degree 1: truncation from the mask m to the free mask r, and a constant that the server adds to its word.
//!
//! One 1-of-2 OT of words whose messages are the client's part of the truncation, already masked with r. With
//! f = 0 nothing wraps and the client sends r - m.

use super::material::{ReceiverRots, SenderRots, blocks, exchange, scratch, select, words};
use super::truncate::Truncation;
use crate::model::Channel;
use crate::prg::{SecretVec, collect};
use crate::share::{Mask, Masked};
use crate::simd::words::tables::chosen_words;
use crate::wire::words::{FieldReader, FieldWriter};
use alloc::{vec, vec::Vec};

/// Random OTs per element with the server as receiver.
pub(crate) fn rots(channel: &Channel) -> usize {
    usize::from(channel.shift > 0)
}

/// Widths of the fields of the only round: (server -> client, client -> server).
pub(crate) fn round_fields(channel: &Channel, word_bits: u32) -> (Vec<u32>, Vec<u32>) {
    if channel.shift > 0 { (vec![1], vec![word_bits; 2]) } else { (vec![], vec![word_bits]) }
}

/// Bytes that both parties keep per element of a prepared layer: (client, server).
pub(crate) fn memory(channel: &Channel) -> (usize, usize) {
    let truncated = usize::from(channel.shift > 0);
    // Both masks and two pads; γ, a choice and a pad.
    (4 + 4 + 8 * truncated, 4 + 8 * truncated)
}

/// The client's prepared side of a group.
pub(crate) struct Client {
    truncation: Truncation,
    masks: Mask,
    outputs: Mask,
    /// The pads of both messages; none where nothing is truncated.
    pads: [SecretVec<u32>; 2],
    absorbed: usize,
}

impl Client {
    pub(crate) fn new((channel, word_bits): (&Channel, u32), masks: Mask, outputs: Mask) -> Self {
        let pads = core::array::from_fn(|_| words(rots(channel) * masks.len()));
        Self { truncation: Truncation::new(channel, word_bits), masks, outputs, pads, absorbed: 0 }
    }

    /// Takes the random OTs of the next elements.
    pub(crate) fn absorb(&mut self, rots: &mut SenderRots<'_>) {
        if self.truncation.shift() > 0 {
            rots.take_pads(&mut self.pads, self.absorbed..self.absorbed + rots.elements);
            self.absorbed += rots.elements;
        }
    }

    pub(crate) fn round(&mut self, request: &mut FieldReader<'_>, reply: &mut FieldWriter) {
        let truncation = self.truncation;
        let mut arrays = scratch::<3>(self.masks.len());
        for block in blocks(self.masks.len()) {
            let [flips, first, second] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let masks = self.masks[block.clone()].iter().zip(&self.outputs[block.clone()]);
            if truncation.shift() == 0 {
                first.iter_mut().zip(masks).for_each(|(word, (mask, output))| *word = output.wrapping_sub(*mask));
                reply.put(first, truncation.word_bits());
                continue;
            }
            request.take(1, flips);
            let pads = self.pads[0][block.clone()].iter().zip(&self.pads[1][block]);
            let messages = first.iter_mut().zip(second.iter_mut());
            for ((((&mask, &output), &flip), (&pad_0, &pad_1)), (first, second)) in
                masks.zip(flips.iter()).zip(pads).zip(messages)
            {
                let [pad_0, pad_1] = exchange(flip, [pad_0, pad_1]);
                *first = (truncation.client_part(mask, 0) as u32).wrapping_add(output) ^ pad_0;
                *second = (truncation.client_part(mask, 1) as u32).wrapping_add(output) ^ pad_1;
            }
            reply.put(first, truncation.word_bits());
            reply.put(second, truncation.word_bits());
        }
    }
}

/// The server's prepared side of a group, and its words during inference.
pub(crate) struct Server {
    truncation: Truncation,
    /// Choices and pads; none where nothing is truncated.
    choices: SecretVec<u32>,
    pads: SecretVec<u32>,
    absorbed: usize,
    /// γ of each element.
    offsets: SecretVec<i32>,
    masked: Masked,
}

impl Server {
    /// A group of `elements` elements, each with its γ.
    pub(crate) fn new(
        (channel, word_bits): (&Channel, u32),
        elements: usize,
        offsets: impl Iterator<Item = i32>,
    ) -> Self {
        let [choices, pads] = core::array::from_fn(|_| words(rots(channel) * elements));
        let offsets = collect(elements, offsets);
        Self {
            truncation: Truncation::new(channel, word_bits),
            choices,
            pads,
            absorbed: 0,
            offsets,
            masked: SecretVec::default(),
        }
    }

    /// Takes the random OTs of the next elements.
    pub(crate) fn absorb(&mut self, rots: &mut ReceiverRots<'_>) {
        if self.truncation.shift() > 0 {
            let run = self.absorbed..self.absorbed + rots.elements;
            self.absorbed = run.end;
            let keys = rots.take(0, &mut self.choices[run.clone()]);
            chosen_words(keys, &mut self.pads[run]);
        }
    }

    /// Starts with the words y + m.
    pub(crate) fn start(&mut self, masked: Masked) {
        self.masked = masked;
    }

    pub(crate) fn request(&mut self, request: &mut FieldWriter) {
        if self.truncation.shift() == 0 {
            return;
        }
        let [mut flips] = scratch(self.masked.len());
        for block in blocks(self.masked.len()) {
            let flips = &mut flips[..block.len()];
            let elements = self.masked[block.clone()].iter().zip(&self.choices[block]);
            for (flip, (&masked, &choice)) in flips.iter_mut().zip(elements) {
                *flip = self.truncation.choice(masked) ^ choice;
            }
            request.put(flips, 1);
        }
    }

    /// The words v + γ + r.
    pub(crate) fn reply(&mut self, reply: &mut FieldReader<'_>) -> Masked {
        let truncation = self.truncation;
        let mut out = core::mem::take(&mut self.masked);
        let mut arrays = scratch::<2>(out.len());
        for block in blocks(out.len()) {
            let [first, second] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            reply.take(truncation.word_bits(), first);
            if truncation.shift() > 0 {
                reply.take(truncation.word_bits(), second);
                let messages = first.iter_mut().zip(second.iter()).zip(&self.pads[block.clone()]);
                for (&word, ((first, &second), &pad)) in out[block.clone()].iter().zip(messages) {
                    *first = select(truncation.choice(word), [*first, second]) ^ pad;
                }
            }
            let theirs = first.iter().zip(&self.offsets[block.clone()]);
            for (word, (&theirs, &offset)) in out[block].iter_mut().zip(theirs) {
                *word = (truncation.server_part(*word) as u32).wrapping_add(theirs).wrapping_add(offset as u32);
            }
        }
        out
    }
}
