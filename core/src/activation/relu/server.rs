//! The server's side: it chooses entries of the client's tables, by the words that it holds and then by what it got.

use super::super::material::{ReceiverRots, ones, select};
use super::super::truncate::Truncation;
use super::comparison::{Comparison, Lookup};
use super::spread;
use crate::model::Channel;
use crate::ot::table;
use crate::prg::{SecretVec, collect};
use crate::share::Masked;
use crate::wire::bits::{BitReader, BitWriter};
use alloc::vec::Vec;

/// Where an element's choices hold that of the truncation's OT, above those of at most 25 bits of digits ..
const TRUNCATION_CHOICE: u32 = 30;
/// .. and that of the last multiplication's.
const OUTPUT_CHOICE: u32 = 31;

/// The server's prepared side of a group, and its words during inference.
pub(crate) struct Server {
    truncation: Truncation,
    comparison: Comparison,
    /// Random indices of all digits of an element, as one number of w - 1 bits, and two further choices.
    choices: SecretVec<u32>,
    /// Random indices of an element's tables, each in the place of the comparison bits to which it belongs.
    table_choices: SecretVec<u16>,
    /// The pad of each of an element's comparison bits.
    bit_pads: SecretVec<u16>,
    truncation_pads: SecretVec<u32>,
    output_pads: SecretVec<u32>,
    /// (u, wS): the random multiplier k1 - k0 and -k0.
    products: SecretVec<[u32; 2]>,
    next: usize,
    /// y + m; after round 1, tS.
    words: SecretVec<u32>,
    /// From round 1 on, the masked comparison bits so far. The last has 1 ^ top(A) added, so that in the end it is sS.
    bits: SecretVec<u16>,
}

impl Server {
    /// A group of `products.len()` elements; `products` are the words ([`super::product_word`]) of both keys of the
    /// server's random OTs as a sender.
    pub(crate) fn new(channel: &Channel, products: &[[u32; 2]]) -> Self {
        let truncation = Truncation::new(channel);
        let count = products.len();
        let products = products.iter().map(|&[k0, k1]| [k1.wrapping_sub(k0), k0.wrapping_neg()]);
        let truncations = if truncation.shift() > 0 { count } else { 0 };
        Self {
            truncation,
            comparison: Comparison::new(truncation.width()),
            choices: SecretVec::new(Vec::with_capacity(count)),
            table_choices: SecretVec::new(Vec::with_capacity(count)),
            bit_pads: SecretVec::new(Vec::with_capacity(count)),
            truncation_pads: SecretVec::new(Vec::with_capacity(truncations)),
            output_pads: SecretVec::new(Vec::with_capacity(count)),
            products: collect(count, products),
            next: 0,
            words: SecretVec::default(),
            bits: SecretVec::default(),
        }
    }

    /// Takes the random OTs of the next element.
    pub(crate) fn absorb(&mut self, rots: &mut ReceiverRots<'_>) {
        let shift = self.truncation.shift();
        let (mut choices, mut table_choices, mut pads) = (0u32, 0u32, 0u32);
        if shift > 0 {
            let (choice, keys) = rots.take(1);
            choices |= choice << TRUNCATION_CHOICE;
            self.truncation_pads.push((table::receiver_word(choice, keys) & ones(shift)) as u32);
        }
        let mut take = |lookup: &Lookup, choices: &mut u32| {
            let (choice, keys) = rots.take(lookup.bits as usize);
            *choices |= choice << lookup.start;
            pads |= table::receiver_planes(choice, keys, lookup.planes as usize) << lookup.output;
        };
        self.comparison.digits.iter().for_each(|digit| take(digit, &mut choices));
        self.comparison.steps.iter().flatten().for_each(|table| take(table, &mut table_choices));
        let (choice, keys) = rots.take(1);
        choices |= choice << OUTPUT_CHOICE;
        self.output_pads.push(table::receiver_word(choice, keys) as u32);
        self.choices.push(choices);
        self.table_choices.push(table_choices as u16);
        self.bit_pads.push(pads as u16);
    }

    /// Starts with the words y + m.
    pub(crate) fn start(&mut self, masked: Masked) {
        self.bits = alloc::vec![0; masked.len()].into();
        self.words = masked;
    }

    pub(crate) fn request(&mut self, request: &mut BitWriter) {
        match self.next {
            0 => self.request_digits(request),
            round if round <= self.comparison.steps.len() => self.request_tables(round - 1, request),
            _ => self.request_product(request),
        }
    }

    /// After the last round, the words ReLU(t) + r.
    pub(crate) fn reply(&mut self, reply: &mut BitReader<'_>) -> Option<Masked> {
        let round = self.next;
        self.next += 1;
        match round {
            0 => self.receive_digits(reply),
            round if round <= self.comparison.steps.len() => self.receive_tables(round - 1, reply),
            _ => return Some(self.receive_product(reply)),
        }
        None
    }

    fn request_digits(&mut self, request: &mut BitWriter) {
        let (shift, width) = (self.truncation.shift(), self.truncation.width());
        for (&word, &choices) in self.words.iter().zip(self.choices.iter()) {
            if shift > 0 {
                let flip = self.truncation.choice(word) ^ (choices >> TRUNCATION_CHOICE & 1);
                request.put(flip.into(), 1);
            }
            request.put(u64::from((word >> shift) ^ choices) & ones(width - 1), width - 1);
        }
    }

    fn receive_digits(&mut self, reply: &mut BitReader<'_>) {
        let (shift, width) = (self.truncation.shift(), self.truncation.width());
        for (index, word) in self.words.iter_mut().enumerate() {
            let mut share = self.truncation.server_part(*word) as u32;
            if shift > 0 {
                let messages = [reply.take(shift) as u32, reply.take(shift) as u32];
                let chosen = select(self.truncation.choice(*word), messages) ^ self.truncation_pads[index];
                // 1 <= shift <= 28.
                share = share.wrapping_add(chosen << (32 - shift));
            }
            let not_top = !(*word >> (shift + width - 1)) & 1;
            let pads = u32::from(self.bit_pads[index]);
            let digits = self.comparison.digits.iter();
            let bits = digits.fold(0, |bits, digit| bits | receive(digit, *word >> shift, pads, reply));
            self.bits[index] = (bits | not_top << self.comparison.sign) as u16;
            *word = share;
        }
    }

    fn request_tables(&mut self, step: usize, request: &mut BitWriter) {
        for (&bits, &choices) in self.bits.iter().zip(self.table_choices.iter()) {
            for table in &self.comparison.steps[step] {
                request.put(table.index((bits ^ choices).into()).into(), table.bits);
            }
        }
    }

    fn receive_tables(&mut self, step: usize, reply: &mut BitReader<'_>) {
        for (bits, &pads) in self.bits.iter_mut().zip(self.bit_pads.iter()) {
            for table in &self.comparison.steps[step] {
                *bits ^= receive(table, u32::from(*bits), pads.into(), reply) as u16;
            }
        }
    }

    /// All comparison bits, still masked, as the server sees them.
    #[cfg(test)]
    pub(super) fn opened_bits(&self) -> &[u16] {
        &self.bits
    }

    /// sS.
    fn sign(&self, index: usize) -> u32 {
        u32::from(self.bits[index] >> self.comparison.sign)
    }

    fn request_product(&mut self, request: &mut BitWriter) {
        for (index, &share) in self.words.iter().enumerate() {
            let sign = self.sign(index);
            // V = (1 - 2 sS) · tS.
            let value = (share ^ spread(sign)).wrapping_add(sign);
            let [multiplier, _] = self.products[index];
            request.put(value.wrapping_sub(multiplier).into(), 32);
            request.put((sign ^ (self.choices[index] >> OUTPUT_CHOICE)).into(), 1);
        }
    }

    fn receive_product(&mut self, reply: &mut BitReader<'_>) -> Masked {
        let mut words = core::mem::take(&mut self.words);
        for (index, word) in words.iter_mut().enumerate() {
            let sign = self.sign(index);
            let messages = [reply.take(32) as u32, reply.take(32) as u32];
            let message = select(sign, messages) ^ self.output_pads[index];
            let [_, product_share] = self.products[index];
            *word = (spread(sign) & *word).wrapping_add(product_share).wrapping_add(message);
        }
        words
    }
}

/// Takes a lookup's table and opens the entry that `from` chooses: its comparison bits, still masked, in their places.
fn receive(lookup: &Lookup, from: u32, pads: u32, reply: &mut BitReader<'_>) -> u32 {
    let index = lookup.index(from);
    (lookup.output..).take(lookup.planes as usize).fold(0, |bits, output| {
        let plane = reply.take(1 << lookup.bits) as u32;
        bits | (((plane >> index) ^ (pads >> output)) & 1) << output
    })
}
