//! Polynomial channels: the pure square ±v² and the depressed cubic v³ + λ·v, in two round trips
//! (`docs/protocol.md`, polynomials).
//!
//! 1. Truncation into F_p: v = S - C with S at the server and C, free and known since prepare, at the client.
//! 2. Products and the way back. With prepared correlations u·g(C) = wC + wS (u uniform, the server's) one message
//!    (multiplier - u) gives shares zS + zC = z of the polynomial, and one OT chosen by [zS < p/4] brings
//!    (z + offset) >> g back into Z_2^32, already masked with r.

use super::material::{ReceiverRots, SenderRots, ones};
use super::truncate::Truncation;
use crate::field::{self, P, P_BITS};
use crate::model::{Channel, ChannelSecret, Kind};
use crate::ot::table;
use crate::prg::{SecretVec, collect};
use crate::share::{Mask, Masked};
use crate::wire::bits::{BitReader, BitWriter};
use alloc::vec::Vec;

/// floor(p / 4) + 1: the first value that is not below p/4.
const QUARTER: u64 = P / 4 + 1;
/// floor(p / 2) + 1: the first value that is not below p/2.
const HALF: u64 = P / 2 + 1;

/// The public numbers of one channel's polynomial.
#[derive(Clone, Copy)]
struct Form {
    truncation: Truncation,
    cubic: bool,
    secret_sign: bool,
    back_shift: u32,
}

impl Form {
    fn new(channel: &Channel) -> Self {
        Self {
            truncation: Truncation::new(channel),
            cubic: channel.kind == Kind::Cubic,
            secret_sign: channel.kind == Kind::Square { secret_sign: true },
            back_shift: channel.back_shift.into(),
        }
    }

    /// Makes z + offset non-negative: 0 for a square, 2^33 for a cubic; a multiple of 2^g.
    fn offset(&self) -> u64 {
        if self.cubic { 1 << 33 } else { 0 }
    }

    /// Index bits of the way back's OT: [zS < p/4], and the sign where it is the server's secret.
    fn back_bits(&self) -> u32 {
        1 + u32::from(self.secret_sign)
    }
}

/// Products in F_p per element that must be prepared.
pub(crate) fn products(channel: &Channel) -> usize {
    if channel.kind == Kind::Cubic { 2 } else { 1 }
}

/// Random OTs per element with the server as receiver: truncation and the way back.
pub(crate) fn rots(channel: &Channel) -> usize {
    1 + Form::new(channel).back_bits() as usize
}

/// Bits per element in both rounds: (server -> client, client -> server).
pub(crate) fn round_bits(channel: &Channel) -> [(u32, u32); 2] {
    let back = Form::new(channel).back_bits();
    [(1, 2 * P_BITS), (products(channel) as u32 * P_BITS + back, 32 << back)]
}

/// 1 if x < bound, else 0; both below 2^63.
fn below(x: u64, bound: u64) -> u64 {
    x.wrapping_sub(bound) >> 63
}

/// The values g(C) that the client's prepared products multiply: C, and C² for a cubic.
pub(crate) fn factors<'a>(channel: &Channel, shares: &'a [u64]) -> impl Iterator<Item = u64> + 'a {
    let squared = if channel.kind == Kind::Cubic { shares } else { &[] };
    shares.iter().copied().chain(squared.iter().map(|&c| field::mul(c, c)))
}

/// Bytes that both parties keep per element of a prepared layer: (client, server).
pub(crate) fn memory(channel: &Channel) -> (usize, usize) {
    // Both masks, C, wC, the pads of T and of the way back; λ, γ and the sign, (u, wS), choices and pads, room for S.
    (4 + 4 + 8 + 8 * products(channel) + 16 + 16, 16 + 16 * products(channel) + 9 + 5 + 8)
}

/// The client's prepared side of a group.
pub(crate) struct Client {
    form: Form,
    masks: Mask,
    outputs: Mask,
    /// C.
    shares: SecretVec<u64>,
    /// wC of the products with C, then, for a cubic, of those with C².
    products: SecretVec<u64>,
    truncation_pads: SecretVec<[u64; 2]>,
    back_pads: SecretVec<[u32; 4]>,
    next: usize,
}

impl Client {
    /// A group with masks m, fresh masks r of the outputs, shares C and the products' shares wC.
    pub(crate) fn new(channel: &Channel, masks: Mask, outputs: Mask, shares: SecretVec<u64>, products: &[u64]) -> Self {
        let truncation_pads = SecretVec::new(Vec::with_capacity(masks.len()));
        let back_pads = SecretVec::new(Vec::with_capacity(masks.len()));
        Self {
            form: Form::new(channel),
            masks,
            outputs,
            shares,
            products: products.to_vec().into(),
            truncation_pads,
            back_pads,
            next: 0,
        }
    }

    /// Takes the random OTs of the next element.
    pub(crate) fn absorb(&mut self, rots: &mut SenderRots<'_>) {
        let [p0, p1, ..] = table::sender_words(rots.take(1));
        self.truncation_pads.push([p0 & ones(P_BITS), p1 & ones(P_BITS)]);
        let words = table::sender_words(rots.take(self.form.back_bits() as usize));
        self.back_pads.push(words.map(|w| w as u32));
    }

    pub(crate) fn round(&mut self, request: &mut BitReader<'_>, reply: &mut BitWriter) {
        match self.next {
            0 => self.enter(request, reply),
            _ => self.leave(request, reply),
        }
        self.next += 1;
    }

    /// Truncation into F_p: messages C + the client's part of T.
    fn enter(&mut self, request: &mut BitReader<'_>, reply: &mut BitWriter) {
        for (index, &mask) in self.masks.iter().enumerate() {
            let flip = request.take(1) as usize;
            for choice in 0..2 {
                let part = field::from_i64(self.form.truncation.client_part(mask, choice as u32));
                let message = field::add(part, self.shares[index]);
                reply.put(message ^ self.truncation_pads[index][choice ^ flip], P_BITS);
            }
        }
    }

    /// The client's share of z, and the messages of the way back.
    fn leave(&mut self, request: &mut BitReader<'_>, reply: &mut BitWriter) {
        let count = self.masks.len();
        let g = self.form.back_shift;
        for index in 0..count {
            let c = self.shares[index];
            let square = field::mul(c, c);
            let difference = reduced(request.take(P_BITS));
            let mut z = field::add(field::mul(difference, c), self.products[index]);
            if self.form.cubic {
                let difference = reduced(request.take(P_BITS));
                z = field::add(z, field::add(field::mul(difference, square), self.products[count + index]));
                z = field::sub(z, field::mul(square, c));
            } else {
                z = field::add(z, square);
            }
            let z = field::add(z, self.form.offset() + ones(g));
            let bits = self.form.back_bits();
            let flip = request.take(bits) as usize;
            for choice in 0..1usize << bits {
                // The shares' sum wraps exactly unless zS < p/4 (the choice's bit 0) and zC < p/2.
                let wraps = (1 ^ (choice as u64 & 1 & below(z, HALF))).wrapping_neg();
                let back = (z >> g).wrapping_sub(wraps & (P >> g)) as u32;
                let signed = if choice >> 1 == 1 { back.wrapping_neg() } else { back };
                let message = signed.wrapping_add(self.outputs[index]);
                reply.put((message ^ self.back_pads[index][choice ^ flip]).into(), 32);
            }
        }
    }
}

/// A field element from the wire. A value of [p, 2^36) is no honest server's; it is taken modulo p, which keeps the
/// arithmetic in range and costs only the sender's own correctness.
fn reduced(word: u64) -> u64 {
    word - (P & (1 ^ below(word, P)).wrapping_neg())
}

/// The server's prepared side of a group, and its words during inference.
pub(crate) struct Server {
    form: Form,
    /// λ in F_p and γ of the element's channel, and its sign bit.
    secrets: SecretVec<(u64, u32, u8)>,
    /// u and wS of the products with C, then, for a cubic, of those with C².
    products: SecretVec<[u64; 2]>,
    truncation_choices: SecretVec<u8>,
    truncation_pads: SecretVec<u64>,
    back_choices: SecretVec<u8>,
    back_pads: SecretVec<u32>,
    masked: Masked,
    /// After round 1, S; from round 2's request on, zS.
    shares: SecretVec<u64>,
    next: usize,
}

impl Server {
    /// A group whose element i has the secrets `secrets[i]`, with the products' (u, wS).
    pub(crate) fn new(channel: &Channel, secrets: impl Iterator<Item = ChannelSecret>, products: &[[u64; 2]]) -> Self {
        let count = products.len() / self::products(channel);
        let secrets = secrets.map(|s| (field::from_i64(s.lambda), s.offset as u32, u8::from(s.negative)));
        Self {
            form: Form::new(channel),
            secrets: collect(count, secrets),
            products: products.to_vec().into(),
            truncation_choices: SecretVec::new(Vec::with_capacity(count)),
            truncation_pads: SecretVec::new(Vec::with_capacity(count)),
            back_choices: SecretVec::new(Vec::with_capacity(count)),
            back_pads: SecretVec::new(Vec::with_capacity(count)),
            masked: SecretVec::default(),
            shares: SecretVec::new(Vec::with_capacity(count)),
            next: 0,
        }
    }

    /// Takes the random OTs of the next element.
    pub(crate) fn absorb(&mut self, rots: &mut ReceiverRots<'_>) {
        let (choice, keys) = rots.take(1);
        self.truncation_choices.push(choice as u8);
        self.truncation_pads.push(table::receiver_word(choice, keys) & ones(P_BITS));
        let (choice, keys) = rots.take(self.form.back_bits() as usize);
        self.back_choices.push(choice as u8);
        self.back_pads.push(table::receiver_word(choice, keys) as u32);
    }

    /// Starts with the words y + m.
    pub(crate) fn start(&mut self, masked: Masked) {
        self.masked = masked;
    }

    pub(crate) fn request(&mut self, request: &mut BitWriter) {
        match self.next {
            0 => {
                for (&masked, &choice) in self.masked.iter().zip(self.truncation_choices.iter()) {
                    request.put((self.form.truncation.choice(masked) ^ u32::from(choice)).into(), 1);
                }
            }
            _ => self.request_products(request),
        }
    }

    /// After the second round, the words z / 2^g + γ + r.
    pub(crate) fn reply(&mut self, reply: &mut BitReader<'_>) -> Option<Masked> {
        self.next += 1;
        match self.next {
            1 => {
                self.receive_shares(reply);
                None
            }
            _ => Some(self.receive_words(reply)),
        }
    }

    fn receive_shares(&mut self, reply: &mut BitReader<'_>) {
        for (&masked, &pad) in self.masked.iter().zip(self.truncation_pads.iter()) {
            let messages = [reply.take(P_BITS), reply.take(P_BITS)];
            let choice = u64::from(self.form.truncation.choice(masked)).wrapping_neg();
            let chosen = messages[0] ^ (choice & (messages[0] ^ messages[1]));
            let part = field::from_i64(self.form.truncation.server_part(masked));
            self.shares.push(field::add(reduced(chosen ^ pad), part));
        }
    }

    /// Sends (multiplier - u) of each product and the choice bits of the way back; keeps zS.
    fn request_products(&mut self, request: &mut BitWriter) {
        let count = self.shares.len();
        for (index, slot) in self.shares.iter_mut().enumerate() {
            let s = *slot;
            let square = field::mul(s, s);
            let (lambda, _, negative) = self.secrets[index];
            let [u, w] = self.products[index];
            if self.form.cubic {
                // v³ + λv = S³ + λS - (3S² + λ)·C + 3S·C² - C³.
                let [u2, w2] = self.products[count + index];
                let first = field::sub(0, field::add(field::mul(3, square), lambda));
                let second = field::mul(3, s);
                request.put(field::sub(first, u), P_BITS);
                request.put(field::sub(second, u2), P_BITS);
                *slot = field::add(field::mul(s, field::add(square, lambda)), field::add(w, w2));
            } else {
                // v² = S² - 2S·C + C².
                request.put(field::sub(field::sub(0, field::add(s, s)), u), P_BITS);
                *slot = field::add(square, w);
            }
            let choice = below(*slot, QUARTER) | u64::from(negative) << 1;
            let bits = self.form.back_bits();
            request.put((choice ^ u64::from(self.back_choices[index])) & ones(bits), bits);
        }
    }

    fn receive_words(&mut self, reply: &mut BitReader<'_>) -> Masked {
        let g = self.form.back_shift;
        let mut out = core::mem::take(&mut self.masked);
        for (index, word) in out.iter_mut().enumerate() {
            let z = self.shares[index];
            let (_, gamma, negative) = self.secrets[index];
            let mut chosen = 0;
            let choice = below(z, QUARTER) | u64::from(negative) << 1;
            for entry in 0..1u64 << self.form.back_bits() {
                // All entries are read; the mask keeps the chosen one.
                let keep = below(entry ^ choice, 1).wrapping_neg() as u32;
                chosen |= keep & reply.take(32) as u32;
            }
            let own = ((z >> g) as u32).wrapping_sub((self.form.offset() >> g) as u32);
            let sign = u32::from(negative).wrapping_neg();
            let signed = (own ^ sign).wrapping_sub(sign);
            *word = (chosen ^ self.back_pads[index]).wrapping_add(signed).wrapping_add(gamma);
        }
        out
    }
}
