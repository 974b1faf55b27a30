//! Degree 1: truncation from the mask m to the free mask r, and a constant that the server adds to its word.
//!
//! One 1-of-2 OT of 32-bit words whose messages are the client's part of the truncation, already masked with r. With
//! f = 0 nothing wraps and the client sends r - m.

use super::material::{ReceiverRots, SenderRots, select};
use super::truncate::Truncation;
use crate::model::Channel;
use crate::ot::table;
use crate::prg::{SecretVec, collect};
use crate::share::{Mask, Masked};
use crate::wire::bits::{BitReader, BitWriter};
use alloc::vec::Vec;

/// Random OTs per element with the server as receiver.
pub(crate) fn rots(channel: &Channel) -> usize {
    usize::from(channel.shift > 0)
}

/// Bits per element in the only round: (server -> client, client -> server).
pub(crate) fn round_bits(channel: &Channel) -> (u32, u32) {
    if channel.shift > 0 { (1, 64) } else { (0, 32) }
}

/// Bytes that both parties keep per element of a prepared layer: (client, server).
pub(crate) fn memory(channel: &Channel) -> (usize, usize) {
    let truncated = usize::from(channel.shift > 0);
    // Both masks and two pads; γ, a choice and a pad.
    (4 + 4 + 8 * truncated, 4 + 5 * truncated)
}

/// The client's prepared side of a group.
pub(crate) struct Client {
    truncation: Truncation,
    masks: Mask,
    outputs: Mask,
    pads: SecretVec<[u32; 2]>,
}

impl Client {
    pub(crate) fn new(channel: &Channel, masks: Mask, outputs: Mask) -> Self {
        let pads = SecretVec::new(Vec::with_capacity(masks.len()));
        Self { truncation: Truncation::new(channel), masks, outputs, pads }
    }

    /// Takes the random OTs of the next element.
    pub(crate) fn absorb(&mut self, rots: &mut SenderRots<'_>) {
        if self.truncation.shift() > 0 {
            let [p0, p1, ..] = table::sender_words(rots.take(1));
            self.pads.push([p0 as u32, p1 as u32]);
        }
    }

    pub(crate) fn round(&mut self, request: &mut BitReader<'_>, reply: &mut BitWriter) {
        let free = self.truncation.shift() == 0;
        for (index, (&mask, &output)) in self.masks.iter().zip(self.outputs.iter()).enumerate() {
            if free {
                reply.put(output.wrapping_sub(mask).into(), 32);
                continue;
            }
            let flip = request.take(1) as usize;
            for choice in 0..2 {
                let message = (self.truncation.client_part(mask, choice as u32) as u32).wrapping_add(output);
                reply.put((message ^ self.pads[index][choice ^ flip]).into(), 32);
            }
        }
    }
}

/// The server's prepared side of a group, and its words during inference.
pub(crate) struct Server {
    truncation: Truncation,
    choices: SecretVec<u8>,
    pads: SecretVec<u32>,
    /// γ of each element.
    offsets: SecretVec<i32>,
    masked: Masked,
}

impl Server {
    /// A group of `elements` elements, each with its γ.
    pub(crate) fn new(channel: &Channel, elements: usize, offsets: impl Iterator<Item = i32>) -> Self {
        let choices = SecretVec::new(Vec::with_capacity(elements));
        let pads = SecretVec::new(Vec::with_capacity(elements));
        let offsets = collect(elements, offsets);
        Self { truncation: Truncation::new(channel), choices, pads, offsets, masked: SecretVec::default() }
    }

    pub(crate) fn absorb(&mut self, rots: &mut ReceiverRots<'_>) {
        if self.truncation.shift() > 0 {
            let (choice, keys) = rots.take(1);
            self.choices.push(choice as u8);
            self.pads.push(table::receiver_word(choice, keys) as u32);
        }
    }

    /// Starts with the words y + m.
    pub(crate) fn start(&mut self, masked: Masked) {
        self.masked = masked;
    }

    pub(crate) fn request(&mut self, request: &mut BitWriter) {
        if self.truncation.shift() > 0 {
            for (&masked, &choice) in self.masked.iter().zip(self.choices.iter()) {
                request.put((self.truncation.choice(masked) ^ u32::from(choice)).into(), 1);
            }
        }
    }

    /// The words v + γ + r.
    pub(crate) fn reply(&mut self, reply: &mut BitReader<'_>) -> Masked {
        let mut out = core::mem::take(&mut self.masked);
        for (index, word) in out.iter_mut().enumerate() {
            let part = self.truncation.server_part(*word) as u32;
            let theirs = if self.truncation.shift() == 0 {
                reply.take(32) as u32
            } else {
                let messages = [reply.take(32) as u32, reply.take(32) as u32];
                select(self.truncation.choice(*word), messages) ^ self.pads[index]
            };
            *word = part.wrapping_add(theirs).wrapping_add(self.offsets[index] as u32);
        }
        out
    }
}
