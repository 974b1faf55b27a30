//! Polynomial channels: the pure square ±v² and the depressed cubic v³ + λ·v, in two round trips
//! (`docs/protocol.md`, polynomials).
//!
//! 1. Truncation into F_p: v = S - C with S at the server and C, free and known since prepare, at the client.
//! 2. Products and the way back. With prepared correlations u·g(C) = wC + wS (u uniform, the server's) one message
//!    (multiplier - u) gives shares zS + zC = z of the polynomial, and one OT chosen by [zS < p/4] brings
//!    (z + offset) >> g back into Z_2^32, already masked with r.

use super::material::{BLOCK, ReceiverRots, SenderRots, blocks, ones, scratch, words};
use super::truncate::Truncation;
use crate::field::{self, P_BITS};
use crate::model::{Channel, ChannelSecret, Kind};
use crate::ot::table;
use crate::prg::{SecretVec, collect};
use crate::share::{Mask, Masked};
use crate::simd::words::{field as lanes, tables};
use crate::wire::words::{FieldReader, FieldWriter};
use alloc::{vec, vec::Vec};

/// The public numbers of one channel's polynomial.
#[derive(Clone, Copy)]
struct Form {
    truncation: Truncation,
    cubic: bool,
    secret_sign: bool,
    back_shift: u32,
}

impl Form {
    fn new(channel: &Channel, word_bits: u32) -> Self {
        Self {
            truncation: Truncation::new(channel, word_bits),
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
    1 + Form::new(channel, 32).back_bits() as usize
}

/// Widths of the fields of an element of F_p: its low and its high bits.
const ELEMENT: [u32; 2] = [32, P_BITS - 32];

/// Widths of the fields of both rounds, for outputs of which `word_bits` bits matter: (server -> client, client -> server).
pub(crate) fn round_fields(channel: &Channel, word_bits: u32) -> Vec<(Vec<u32>, Vec<u32>)> {
    let back = Form::new(channel, word_bits).back_bits();
    let products = [&ELEMENT.repeat(products(channel))[..], &[back]].concat();
    vec![(vec![1], ELEMENT.repeat(2)), (products, vec![word_bits; 1 << back])]
}

/// Puts encodings of elements of F_p, given in words.
fn put(message: &mut FieldWriter, [low, high]: [&[u32]; 2]) {
    message.put(low, ELEMENT[0]);
    message.put(high, ELEMENT[1]);
}

/// Takes encodings of elements of F_p.
fn take(message: &mut FieldReader<'_>, [low, high]: [&mut [u32]; 2]) {
    message.take(ELEMENT[0], low);
    message.take(ELEMENT[1], high);
}

/// The values g(C) that the client's prepared products multiply: C, and C² for a cubic.
pub(crate) fn factors<'a>(channel: &Channel, shares: &'a [u64]) -> impl Iterator<Item = u64> + 'a {
    let squared = if channel.kind == Kind::Cubic { shares } else { &[] };
    shares.iter().copied().chain(squared.iter().map(|&c| field::mul(c, c)))
}

/// Bytes that both parties keep per element of a prepared layer: (client, server).
pub(crate) fn memory(channel: &Channel) -> (usize, usize) {
    // Both masks, C, wC, the pads of T and of the way back; λ, γ and the sign, (u, wS), choices and pads, room for S.
    (4 + 4 + 8 + 8 * products(channel) + 16 + 16, 16 + 16 * products(channel) + 12 + 4 + 8)
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
    truncation_pads: [SecretVec<u64>; 2],
    /// For each message of the way back.
    back_pads: Vec<SecretVec<u32>>,
    absorbed: usize,
    next: usize,
}

impl Client {
    /// A group with masks m, fresh masks r of the outputs, shares C and the products' shares wC.
    pub(crate) fn new(
        (channel, word_bits): (&Channel, u32),
        masks: Mask,
        outputs: Mask,
        shares: SecretVec<u64>,
        products: &[u64],
    ) -> Self {
        let form = Form::new(channel, word_bits);
        Self {
            form,
            truncation_pads: core::array::from_fn(|_| vec![0; masks.len()].into()),
            back_pads: (0..1 << form.back_bits()).map(|_| words(masks.len())).collect(),
            masks,
            outputs,
            shares,
            products: products.to_vec().into(),
            absorbed: 0,
            next: 0,
        }
    }

    /// Takes the random OTs of the next elements.
    pub(crate) fn absorb(&mut self, rots: &mut SenderRots<'_>) {
        let run = self.absorbed..self.absorbed + rots.elements;
        self.absorbed = run.end;
        let [pads_0, pads_1] = self.truncation_pads.each_mut().map(|pads| pads[run.clone()].iter_mut());
        for ((pad_0, pad_1), keys) in pads_0.zip(pads_1).zip(rots.take()) {
            [*pad_0, *pad_1] = keys.map(|key| key as u64 & ones(P_BITS));
        }
        let first = rots.take();
        let second = if self.form.secret_sign { rots.take() } else { &[] };
        for (index, (element, &first)) in run.zip(first).enumerate() {
            let words = match second.get(index) {
                Some(&second) => table::sender_words(&[first, second]),
                None => table::sender_words(&[first]),
            };
            self.back_pads.iter_mut().zip(words).for_each(|(pads, word)| pads[element] = word as u32);
        }
    }

    pub(crate) fn round(&mut self, request: &mut FieldReader<'_>, reply: &mut FieldWriter) {
        match self.next {
            0 => self.enter(request, reply),
            _ => self.leave(request, reply),
        }
        self.next += 1;
    }

    /// Truncation into F_p: messages C + the client's part of T.
    fn enter(&mut self, request: &mut FieldReader<'_>, reply: &mut FieldWriter) {
        let mut arrays = scratch::<3>(self.masks.len());
        let [pads_0, pads_1] = &mut self.truncation_pads;
        for block in blocks(self.masks.len()) {
            let [flips, low, high] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let (pads_0, pads_1) = (&mut pads_0[block.clone()], &mut pads_1[block.clone()]);
            request.take(1, flips);
            lanes::exchange(flips, pads_0, pads_1);
            let (masks, shares) = (&self.masks[block.clone()], &self.shares[block]);
            for (choice, pads) in (0..).zip([pads_0, pads_1]) {
                lanes::truncated(masks, shares, pads, (self.form.truncation.shift(), choice), low, high);
                put(reply, [low, high]);
            }
        }
    }

    /// The client's share of z, and the messages of the way back.
    fn leave(&mut self, request: &mut FieldReader<'_>, reply: &mut FieldWriter) {
        let (count, g, bits) = (self.masks.len(), self.form.back_shift, self.form.back_bits());
        // Makes zC, a sum of z's parts, that of a non-negative z to be rounded up.
        let constant = self.form.offset() + ones(g);
        let mut arrays = scratch::<4>(count);
        let mut z: SecretVec<u64> = vec![0; count.min(BLOCK)].into();
        for block in blocks(count) {
            let z = &mut z[..block.len()];
            let [low, high, flips, message] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let (shares, products) = (&self.shares[block.clone()], &self.products[block.clone()]);
            take(request, [low, high]);
            if self.form.cubic {
                lanes::client_linear(low, high, shares, products, constant, z);
                let products = &self.products[count + block.start..count + block.end];
                take(request, [low, high]);
                lanes::add_client_cubic(low, high, shares, products, z);
            } else {
                lanes::client_square(low, high, shares, products, constant, z);
            }
            request.take(bits, flips);
            self.exchange_back_pads(block.clone(), flips);
            for (choice, pads) in (0..).zip(&self.back_pads) {
                lanes::back_messages(z, &self.outputs[block.clone()], &pads[block.clone()], (g, choice), message);
                reply.put(message, self.form.truncation.word_bits());
            }
        }
    }

    /// Makes the pad i ^ flip of each element of a block the pad i.
    fn exchange_back_pads(&mut self, block: core::ops::Range<usize>, flips: &[u32]) {
        for bit in 0..self.form.back_bits() {
            for low in (0..self.back_pads.len()).filter(|i| i >> bit & 1 == 0) {
                if let Ok([first, second]) = self.back_pads.get_disjoint_mut([low, low | 1 << bit]) {
                    tables::exchange(flips, bit, &mut first[block.clone()], &mut second[block.clone()]);
                }
            }
        }
    }
}

/// The server's prepared side of a group, and its words during inference.
pub(crate) struct Server {
    form: Form,
    /// λ in F_p of the element's channel.
    lambdas: SecretVec<u64>,
    /// γ of the element's channel.
    gammas: SecretVec<u32>,
    /// The sign bit of the element's channel.
    signs: SecretVec<u32>,
    /// u of the products with C, then, for a cubic, of those with C².
    factors: SecretVec<u64>,
    /// wS of the products, in the same order.
    products: SecretVec<u64>,
    /// The truncation's choice, and from bit 1 on those of the way back.
    choices: SecretVec<u32>,
    truncation_pads: SecretVec<u64>,
    back_pads: SecretVec<u32>,
    masked: Masked,
    /// After round 1, S; from round 2's request on, zS.
    shares: SecretVec<u64>,
    absorbed: usize,
    next: usize,
}

impl Server {
    /// A group of channels, of which these are the secrets and the numbers of elements, with the products' (u, wS).
    pub(crate) fn new(
        (channel, word_bits): (&Channel, u32),
        secrets: impl Iterator<Item = (ChannelSecret, usize)> + Clone,
        products: &[[u64; 2]],
    ) -> Self {
        let count = products.len() / self::products(channel);
        let lambdas = secrets.clone().map(|(secret, elements)| (field::from_i64(secret.lambda), elements));
        let secrets = || secrets.clone().flat_map(|(secret, elements)| core::iter::repeat_n(secret, elements));
        Self {
            form: Form::new(channel, word_bits),
            lambdas: collect(count, lambdas.flat_map(|(lambda, elements)| core::iter::repeat_n(lambda, elements))),
            gammas: collect(count, secrets().map(|secret| secret.offset as u32)),
            signs: collect(count, secrets().map(|secret| secret.negative.into())),
            factors: collect(products.len(), products.iter().map(|&[u, _]| u)),
            products: collect(products.len(), products.iter().map(|&[_, w]| w)),
            choices: words(count),
            truncation_pads: vec![0; count].into(),
            back_pads: words(count),
            masked: SecretVec::default(),
            shares: vec![0; count].into(),
            absorbed: 0,
            next: 0,
        }
    }

    /// Takes the random OTs of the next elements.
    pub(crate) fn absorb(&mut self, rots: &mut ReceiverRots<'_>) {
        let run = self.absorbed..self.absorbed + rots.elements;
        self.absorbed = run.end;
        let choices = &mut self.choices[run.clone()];
        let keys = rots.take(0, choices);
        self.truncation_pads[run.clone()].iter_mut().zip(keys).for_each(|(pad, key)| *pad = *key as u64 & ones(P_BITS));
        let first = rots.take(1, choices);
        let second = if self.form.secret_sign { rots.take(2, choices) } else { &[] };
        for (index, (pad, (&first, &choices))) in
            self.back_pads[run].iter_mut().zip(first.iter().zip(&*choices)).enumerate()
        {
            *pad = match second.get(index) {
                Some(&second) => table::receiver_word(choices >> 1, &[first, second]),
                None => table::receiver_word(choices >> 1, &[first]),
            } as u32;
        }
    }

    /// Starts with the words y + m.
    pub(crate) fn start(&mut self, masked: Masked) {
        self.masked = masked;
    }

    pub(crate) fn request(&mut self, request: &mut FieldWriter) {
        match self.next {
            0 => {
                let [mut flips] = scratch(self.masked.len());
                for block in blocks(self.masked.len()) {
                    let flips = &mut flips[..block.len()];
                    let elements = self.masked[block.clone()].iter().zip(&self.choices[block]);
                    for (flip, (&masked, &choices)) in flips.iter_mut().zip(elements) {
                        *flip = self.form.truncation.choice(masked) ^ choices;
                    }
                    request.put(flips, 1);
                }
            }
            _ => self.request_products(request),
        }
    }

    /// After the second round, the words z / 2^g + γ + r.
    pub(crate) fn reply(&mut self, reply: &mut FieldReader<'_>) -> Option<Masked> {
        self.next += 1;
        match self.next {
            1 => {
                self.receive_shares(reply);
                None
            }
            _ => Some(self.receive_words(reply)),
        }
    }

    fn receive_shares(&mut self, reply: &mut FieldReader<'_>) {
        let (bound_bits, shift) = (self.form.truncation.bound_bits(), self.form.truncation.shift());
        let mut arrays = scratch::<4>(self.masked.len());
        for block in blocks(self.masked.len()) {
            let [low_0, high_0, low_1, high_1] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let (masked, pads) = (&self.masked[block.clone()], &self.truncation_pads[block.clone()]);
            take(reply, [low_0, high_0]);
            take(reply, [low_1, high_1]);
            lanes::choose(masked, bound_bits, low_0, low_1);
            lanes::choose(masked, bound_bits, high_0, high_1);
            lanes::received(masked, pads, (bound_bits, shift), low_0, high_0, &mut self.shares[block]);
        }
    }

    /// Sends (multiplier - u) of each product and the choice bits of the way back; keeps zS.
    fn request_products(&mut self, request: &mut FieldWriter) {
        let count = self.shares.len();
        let mut arrays = scratch::<3>(count);
        for block in blocks(count) {
            let [low, high, flips] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let shares = &mut self.shares[block.clone()];
            let (factors, products) = (&self.factors[block.clone()], &self.products[block.clone()]);
            if self.form.cubic {
                // v³ + λv = S³ + λS - (3S² + λ)·C + 3S·C² - C³.
                let second = count + block.start..count + block.end;
                let lambdas = &self.lambdas[block.clone()];
                lanes::cubic_linear(shares, lambdas, factors, low, high);
                put(request, [low, high]);
                lanes::cubic_quadratic(shares, &self.factors[second.clone()], low, high);
                put(request, [low, high]);
                lanes::cubic(shares, lambdas, products, &self.products[second]);
            } else {
                // v² = S² - 2S·C + C².
                lanes::square(shares, factors, products, low, high);
                put(request, [low, high]);
            }
            lanes::back_choices(shares, &self.signs[block.clone()], flips);
            flips.iter_mut().zip(&self.choices[block]).for_each(|(flip, choices)| *flip ^= choices >> 1);
            request.put(flips, self.form.back_bits());
        }
    }

    fn receive_words(&mut self, reply: &mut FieldReader<'_>) -> Masked {
        let (g, offset) = (self.form.back_shift, (self.form.offset() >> self.form.back_shift) as u32);
        let mut out = core::mem::take(&mut self.masked);
        let mut arrays = scratch::<2>(out.len());
        for block in blocks(out.len()) {
            let [choices, message] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let (shares, signs) = (&self.shares[block.clone()], &self.signs[block.clone()]);
            let out = &mut out[block.clone()];
            out.copy_from_slice(&self.back_pads[block.clone()]);
            lanes::back_choices(shares, signs, choices);
            for entry in 0..1 << self.form.back_bits() {
                // All entries are read; the mask keeps the chosen one.
                reply.take(self.form.truncation.word_bits(), message);
                lanes::take_entry(choices, entry, message, out);
            }
            lanes::add_back(shares, signs, (g, offset), out);
            out.iter_mut().zip(&self.gammas[block]).for_each(|(word, &gamma)| *word = word.wrapping_add(gamma));
        }
        out
    }
}
