//! ReLU channels, exactly, in three round trips (`docs/protocol.md`, ReLU).
//!
//! With A = (y + m) >> f at the server and C = m >> f at the client, both modulo 2^w, the truncated value is
//! t = A - C in two's complement, so its sign comes from top(A), top(C) and the comparison [a < c] of the low w - 1 bits:
//!
//! 1. Compare digit by digit: 1-of-2^d OTs of masked (less, equal) bits, chosen by a's digits. Truncation runs beside it.
//! 2. Combine the masked bits: a table chosen by them, whose entries are [a < c] ^ top(C) ^ sC. Now sigma = [t >= 0] is
//!    shared as sS ^ sC.
//! 3. Multiply: ReLU(t) = sigma · (tS - tC), with a random OT received by the client (sC its choice bit) as the
//!    correlation for the product of server's value and client's bit, and a 1-of-2 OT for the rest.

use super::material::{ReceiverRots, SenderRots, ones, select};
use super::truncate::Truncation;
use crate::model::Channel;
use crate::ot::{Block, table};
use crate::prg::{Prg, SecretVec, collect};
use crate::share::{Mask, Masked};
use crate::wire::bits::{BitReader, BitWriter};
use alloc::vec::Vec;

/// Most digits of a comparison.
const MAX_DIGITS: usize = 3;
/// Most bits of a digit: 32 entries of two bits take 32 bits of each key.
const DIGIT_BITS: u32 = 5;

/// The digits by which w - 1 bits are compared: a function of w alone, the same for both parties.
#[derive(Clone, Copy)]
struct Digits {
    /// Bits of each digit, lowest first; 0 beyond the last.
    bits: [u32; MAX_DIGITS],
    count: usize,
}

impl Digits {
    /// As few digits as 5 bits each allow, as equal as they can be, the lower ones larger (the lowest has one plane only).
    fn new(width: u32) -> Self {
        let total = width - 1;
        let count = total.div_ceil(DIGIT_BITS) as usize;
        let mut bits = [0; MAX_DIGITS];
        for (index, slot) in bits.iter_mut().enumerate().take(count) {
            *slot = total / count as u32 + u32::from((index as u32) < total % count as u32);
        }
        Self { bits, count }
    }

    /// (position of the digit's lowest bit, bits, planes) of each digit.
    fn iter(&self) -> impl Iterator<Item = (u32, u32, usize)> + '_ {
        let mut position = 0;
        self.bits[..self.count].iter().enumerate().map(move |(index, &bits)| {
            let start = position;
            position += bits;
            (start, bits, if index == 0 { 1 } else { 2 })
        })
    }

    /// Bits of the index into the final table: less of the lowest digit, then less and equal of each further one.
    fn index_bits(&self) -> u32 {
        2 * self.count as u32 - 1
    }

    /// [a < c] for every index into the final table: bit 0 is the lowest digit's less, bits 2k - 1 and 2k are digit k's
    /// less and equal.
    fn truth_table(&self) -> u32 {
        (0..1u32 << self.index_bits()).fold(0, |table, index| {
            let less = (1..self.count).fold(index & 1, |less, k| {
                let (digit_less, digit_equal) = (index >> (2 * k - 1) & 1, index >> (2 * k) & 1);
                digit_less ^ (digit_equal & less)
            });
            table | less << index
        })
    }
}

/// Random OTs per element with the server as receiver: truncation, digits, final table, last multiplication.
pub(crate) fn rots(channel: &Channel) -> usize {
    let digits = Digits::new(channel.width().into());
    usize::from(channel.shift > 0) + usize::from(channel.width()) - 1 + digits.index_bits() as usize + 1
}

/// Bits per element in each of the three rounds: (server -> client, client -> server).
pub(crate) fn round_bits(channel: &Channel) -> [(u32, u32); 3] {
    let digits = Digits::new(channel.width().into());
    let shift = u32::from(channel.shift);
    let tables: u32 = digits.iter().map(|(_, bits, planes)| (planes as u32) << bits).sum();
    [
        (u32::from(shift > 0) + u32::from(channel.width()) - 1, 2 * shift + tables),
        (digits.index_bits(), 1 << digits.index_bits()),
        (33, 64),
    ]
}

/// All ones if the lowest bit of `bit` is set, else zero.
fn spread(bit: u32) -> u32 {
    (bit & 1).wrapping_neg()
}

/// The client's prepared side of a group.
pub(crate) struct Client {
    truncation: Truncation,
    digits: Digits,
    truth_table: u32,
    /// m and r.
    masks: Mask,
    outputs: Mask,
    /// tC: (m >> f) plus the chosen top bits rho · 2^(32-f).
    shares: SecretVec<u32>,
    truncation_pads: SecretVec<[u32; 2]>,
    /// Pads of the (less, equal) planes, digit after digit, element after element.
    digit_pads: SecretVec<[u32; 2]>,
    /// The bits that mask the index into the final table.
    index_masks: SecretVec<u8>,
    table_pads: SecretVec<u32>,
    /// sC, a random choice bit, and its key wC.
    sign_shares: SecretVec<u8>,
    product_shares: SecretVec<u32>,
    output_pads: SecretVec<[u32; 2]>,
    next: usize,
}

impl Client {
    /// A group with masks m and fresh masks r of the outputs; `signs` are the choice bits and words ([`product_word`])
    /// of the client's random OTs as a receiver.
    pub(crate) fn new(channel: &Channel, masks: Mask, outputs: Mask, signs: (&[u8], &[u32]), prg: &mut Prg) -> Self {
        let truncation = Truncation::new(channel);
        let digits = Digits::new(truncation.width());
        let count = masks.len();
        let shift = truncation.shift();
        let shares = masks.iter().map(|&mask| {
            let rho = u64::from(prg.next_u32()) & ones(shift);
            (mask >> shift).wrapping_add((rho << (32 - shift)) as u32)
        });
        let shares = collect(count, shares);
        let index_masks = (0..count).map(|_| prg.next_u32() as u8 & ones(digits.index_bits()) as u8);
        Self {
            truncation,
            digits,
            truth_table: digits.truth_table(),
            shares,
            truncation_pads: SecretVec::new(Vec::with_capacity(if shift > 0 { count } else { 0 })),
            digit_pads: SecretVec::new(Vec::with_capacity(count * digits.count)),
            index_masks: collect(count, index_masks),
            table_pads: SecretVec::new(Vec::with_capacity(count)),
            sign_shares: signs.0.to_vec().into(),
            product_shares: signs.1.to_vec().into(),
            output_pads: SecretVec::new(Vec::with_capacity(count)),
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
        for (_, bits, planes) in self.digits.iter() {
            let [less, equal] = table::sender_planes(rots.take(bits as usize), planes);
            self.digit_pads.push([less as u32, equal as u32]);
        }
        let [table, _] = table::sender_planes(rots.take(self.digits.index_bits() as usize), 1);
        self.table_pads.push(table as u32);
        let [p0, p1, ..] = table::sender_words(rots.take(1));
        self.output_pads.push([p0 as u32, p1 as u32]);
    }

    pub(crate) fn round(&mut self, request: &mut BitReader<'_>, reply: &mut BitWriter) {
        match self.next {
            0 => self.compare(request, reply),
            1 => self.combine(request, reply),
            _ => self.multiply(request, reply),
        }
        self.next += 1;
    }

    fn compare(&mut self, request: &mut BitReader<'_>, reply: &mut BitWriter) {
        let shift = self.truncation.shift();
        let width = self.truncation.width();
        let mut pads = self.digit_pads.iter();
        for (index, &mask) in self.masks.iter().enumerate() {
            if shift > 0 {
                // Messages of f bits: only the wrap's low f bits matter, and rho (in the share's top bits) masks them.
                let flip = request.take(1) as usize;
                let rho = u64::from(self.shares[index].wrapping_sub(mask >> shift)) >> (32 - shift);
                for choice in 0..2 {
                    let message = (rho + u64::from((mask >> 31) & choice as u32)) & ones(shift);
                    reply.put(message ^ u64::from(self.truncation_pads[index][choice ^ flip]), shift);
                }
            }
            let flips = request.take(width - 1) as u32;
            let index_mask = u32::from(self.index_masks[index]);
            for (k, ((start, bits, planes), &[less_pad, equal_pad])) in
                self.digits.iter().zip(pads.by_ref()).enumerate()
            {
                let digit = (mask >> (shift + start)) & ones(bits) as u32;
                let flip = (flips >> start) & ones(bits) as u32;
                let all = ones(1 << bits) as u32;
                // Entry i of a plane is [i < digit] or [i = digit], masked by one bit of the final table's index mask.
                let less = (1u32 << digit).wrapping_sub(1) ^ (spread(index_mask >> (2 * k).saturating_sub(1)) & all);
                reply.put((less ^ table::permute_u32(less_pad, flip, bits)).into(), 1 << bits);
                if planes == 2 {
                    let equal = (1u32 << digit) ^ (spread(index_mask >> (2 * k)) & all);
                    reply.put((equal ^ table::permute_u32(equal_pad, flip, bits)).into(), 1 << bits);
                }
            }
        }
    }

    fn combine(&mut self, request: &mut BitReader<'_>, reply: &mut BitWriter) {
        let bits = self.digits.index_bits();
        let all = ones(1 << bits) as u32;
        let top = self.truncation.shift() + self.truncation.width() - 1;
        for (index, &mask) in self.masks.iter().enumerate() {
            let flips = request.take(bits) as u32;
            let less = table::permute_u32(self.truth_table, self.index_masks[index].into(), bits);
            let entries = less ^ (spread((mask >> top) ^ u32::from(self.sign_shares[index])) & all);
            reply.put((entries ^ table::permute_u32(self.table_pads[index], flips, bits)).into(), 1 << bits);
        }
    }

    fn multiply(&mut self, request: &mut BitReader<'_>, reply: &mut BitWriter) {
        for (index, &share) in self.shares.iter().enumerate() {
            let difference = request.take(32) as u32;
            let flip = request.take(1) as usize;
            let sign = u32::from(self.sign_shares[index]);
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

/// The word of a random OT's key that the multiplication's correlation uses: all that is kept of that OT.
pub(crate) fn product_word(key: Block) -> u32 {
    table::receiver_word(0, &[key]) as u32
}

/// The server's prepared side of a group, and its words during inference.
pub(crate) struct Server {
    truncation: Truncation,
    digits: Digits,
    truncation_choices: SecretVec<u8>,
    truncation_pads: SecretVec<u32>,
    /// Random indices of all digits of an element, as one number of w - 1 bits.
    digit_choices: SecretVec<u16>,
    /// Pad bits of an element's digits, two bits (less, equal) each.
    digit_pads: SecretVec<u8>,
    table_choices: SecretVec<u8>,
    table_pads: SecretVec<u8>,
    output_choices: SecretVec<u8>,
    output_pads: SecretVec<u32>,
    /// (u, wS): the random multiplier k1 - k0 and -k0.
    products: SecretVec<[u32; 2]>,
    next: usize,
    /// y + m; after round 1, tS.
    words: SecretVec<u32>,
    /// After round 1 the masked bits that index the final table, with top(A) in bit 7; after round 2, sS.
    bits: SecretVec<u8>,
}

impl Server {
    /// A group of `products.len()` elements; `products` are the words ([`product_word`]) of both keys of the
    /// server's random OTs as a sender.
    pub(crate) fn new(channel: &Channel, products: &[[u32; 2]]) -> Self {
        let truncation = Truncation::new(channel);
        let count = products.len();
        let products = products.iter().map(|&[k0, k1]| [k1.wrapping_sub(k0), k0.wrapping_neg()]);
        let truncations = if truncation.shift() > 0 { count } else { 0 };
        Self {
            truncation,
            digits: Digits::new(truncation.width()),
            truncation_choices: SecretVec::new(Vec::with_capacity(truncations)),
            truncation_pads: SecretVec::new(Vec::with_capacity(truncations)),
            digit_choices: SecretVec::new(Vec::with_capacity(count)),
            digit_pads: SecretVec::new(Vec::with_capacity(count)),
            table_choices: SecretVec::new(Vec::with_capacity(count)),
            table_pads: SecretVec::new(Vec::with_capacity(count)),
            output_choices: SecretVec::new(Vec::with_capacity(count)),
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
        if shift > 0 {
            let (choice, keys) = rots.take(1);
            self.truncation_choices.push(choice as u8);
            self.truncation_pads.push((table::receiver_word(choice, keys) & ones(shift)) as u32);
        }
        let (mut choices, mut pads) = (0u16, 0u8);
        for (k, (start, bits, planes)) in self.digits.iter().enumerate() {
            let (choice, keys) = rots.take(bits as usize);
            choices |= (choice as u16) << start;
            pads |= (table::receiver_planes(choice, keys, planes) as u8) << (2 * k);
        }
        self.digit_choices.push(choices);
        self.digit_pads.push(pads);
        let (choice, keys) = rots.take(self.digits.index_bits() as usize);
        self.table_choices.push(choice as u8);
        self.table_pads.push(table::receiver_planes(choice, keys, 1) as u8);
        let (choice, keys) = rots.take(1);
        self.output_choices.push(choice as u8);
        self.output_pads.push(table::receiver_word(choice, keys) as u32);
    }

    /// Starts with the words y + m.
    pub(crate) fn start(&mut self, masked: Masked) {
        self.bits = alloc::vec![0; masked.len()].into();
        self.words = masked;
    }

    pub(crate) fn request(&mut self, request: &mut BitWriter) {
        match self.next {
            0 => self.request_digits(request),
            1 => self.request_table(request),
            _ => self.request_product(request),
        }
    }

    /// After the third round, the words ReLU(t) + r.
    pub(crate) fn reply(&mut self, reply: &mut BitReader<'_>) -> Option<Masked> {
        self.next += 1;
        match self.next {
            1 => self.receive_digits(reply),
            2 => self.receive_table(reply),
            _ => return Some(self.receive_product(reply)),
        }
        None
    }

    fn request_digits(&mut self, request: &mut BitWriter) {
        let (shift, width) = (self.truncation.shift(), self.truncation.width());
        for (index, &word) in self.words.iter().enumerate() {
            if shift > 0 {
                let flip = self.truncation.choice(word) ^ u32::from(self.truncation_choices[index]);
                request.put(flip.into(), 1);
            }
            let digits = (word >> shift) & ones(width - 1) as u32;
            request.put((digits ^ u32::from(self.digit_choices[index])).into(), width - 1);
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
            let mut bits = 0;
            for (k, (start, digit_bits, planes)) in self.digits.iter().enumerate() {
                let digit = (*word >> (shift + start)) & ones(digit_bits) as u32;
                let pads = u32::from(self.digit_pads[index]) >> (2 * k);
                let less = (reply.take(1 << digit_bits) as u32 >> digit) ^ pads;
                bits |= (less & 1) << (2 * k).saturating_sub(1);
                if planes == 2 {
                    let equal = (reply.take(1 << digit_bits) as u32 >> digit) ^ (pads >> 1);
                    bits |= (equal & 1) << (2 * k);
                }
            }
            let top = (*word >> (shift + width - 1)) & 1;
            self.bits[index] = (bits | top << 7) as u8;
            *word = share;
        }
    }

    fn request_table(&mut self, request: &mut BitWriter) {
        let bits = self.digits.index_bits();
        for (&index_bits, &choice) in self.bits.iter().zip(self.table_choices.iter()) {
            request.put(u64::from(index_bits ^ choice) & ones(bits), bits);
        }
    }

    fn receive_table(&mut self, reply: &mut BitReader<'_>) {
        let bits = self.digits.index_bits();
        for (slot, &pad) in self.bits.iter_mut().zip(self.table_pads.iter()) {
            let index = u32::from(*slot) & ones(bits) as u32;
            let entry = (reply.take(1 << bits) as u32 >> index) as u8 ^ pad;
            // sS = entry ^ 1 ^ top(A).
            *slot = (entry ^ 1 ^ (*slot >> 7)) & 1;
        }
    }

    fn request_product(&mut self, request: &mut BitWriter) {
        for (index, &share) in self.words.iter().enumerate() {
            let sign = u32::from(self.bits[index]);
            // V = (1 - 2 sS) · tS.
            let value = (share ^ spread(sign)).wrapping_add(sign);
            let [multiplier, _] = self.products[index];
            request.put(value.wrapping_sub(multiplier).into(), 32);
            request.put((sign ^ u32::from(self.output_choices[index])).into(), 1);
        }
    }

    fn receive_product(&mut self, reply: &mut BitReader<'_>) -> Masked {
        let mut words = core::mem::take(&mut self.words);
        for (index, word) in words.iter_mut().enumerate() {
            let sign = u32::from(self.bits[index]);
            let messages = [reply.take(32) as u32, reply.take(32) as u32];
            let message = select(sign, messages) ^ self.output_pads[index];
            let [_, product_share] = self.products[index];
            *word = (spread(sign) & *word).wrapping_add(product_share).wrapping_add(message);
        }
        words
    }
}
