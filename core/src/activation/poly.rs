//! Polynomial channels: the pure square ±v² and the depressed cubic v³ + λ·v, in two round trips
//! (`docs/protocol.md`, polynomials).
//!
//! 1. Truncation into F_p: v = S - C with S at the server and C, free and known since prepare, at the client.
//! 2. Products and the way back. With prepared correlations u·g(C) = wC + wS (u uniform, the server's) one message
//!    (multiplier - u) gives shares zS + zC = z of the polynomial, and one OT chosen by [zS < p/4] brings
//!    (z + offset) >> g back into Z_2^32, already masked with r.

use super::material::{ReceiverRots, SenderRots, blocks, ones, scratch, select, words};
use super::truncate::Truncation;
use crate::field::{self, P, P_BITS};
use crate::model::{Channel, ChannelSecret, Kind};
use crate::ot::table;
use crate::prg::{SecretVec, collect};
use crate::share::{Mask, Masked};
use crate::wire::words::{FieldReader, FieldWriter};
use alloc::{vec, vec::Vec};

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

/// Puts elements of F_p, or what encodes some.
fn put(message: &mut FieldWriter, elements: impl Iterator<Item = u64>, [low, high]: [&mut [u32]; 2]) {
    for (element, (low, high)) in elements.zip(low.iter_mut().zip(high.iter_mut())) {
        (*low, *high) = (element as u32, (element >> ELEMENT[0]) as u32);
    }
    message.put(low, ELEMENT[0]);
    message.put(high, ELEMENT[1]);
}

/// Takes encodings of elements of F_p.
fn take(message: &mut FieldReader<'_>, [low, high]: [&mut [u32]; 2]) {
    message.take(ELEMENT[0], low);
    message.take(ELEMENT[1], high);
}

/// What [`take`] took of one element.
fn encoding(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << ELEMENT[0]
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
    truncation_pads: SecretVec<[u64; 2]>,
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
            truncation_pads: vec![[0; 2]; masks.len()].into(),
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
        for (pads, keys) in self.truncation_pads[run.clone()].iter_mut().zip(rots.take()) {
            *pads = keys.map(|key| key as u64 & ones(P_BITS));
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
        for block in blocks(self.masks.len()) {
            let [flips, low, high] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            request.take(1, flips);
            for choice in 0..2 {
                let elements = self.masks[block.clone()].iter().zip(&self.shares[block.clone()]);
                let elements = elements.zip(&self.truncation_pads[block.clone()]).zip(flips.iter());
                let messages = elements.map(|(((&mask, &share), pads), &flip)| {
                    let part = field::from_near(self.form.truncation.client_part(mask, choice));
                    let differ = u64::from(flip ^ choice).wrapping_neg() & (pads[0] ^ pads[1]);
                    field::add(part, share) ^ pads[0] ^ differ
                });
                put(reply, messages, [low, high]);
            }
        }
    }

    /// The client's share of z, and the messages of the way back.
    fn leave(&mut self, request: &mut FieldReader<'_>, reply: &mut FieldWriter) {
        let (count, g, bits) = (self.masks.len(), self.form.back_shift, self.form.back_bits());
        let mut arrays = scratch::<6>(count);
        let mut z: SecretVec<u64> = vec![0; count.min(super::material::BLOCK)].into();
        for block in blocks(count) {
            let z = &mut z[..block.len()];
            let [low, high, low_2, high_2, flips, message] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            take(request, [low, high]);
            let differences = low.iter().zip(high.iter()).map(|(&low, &high)| reduced(encoding(low, high)));
            let elements = differences.zip(&self.shares[block.clone()]).zip(&self.products[block.clone()]);
            if self.form.cubic {
                take(request, [low_2, high_2]);
                let products = &self.products[count + block.start..count + block.end];
                let differences = low_2.iter().zip(high_2.iter()).map(|(&low, &high)| reduced(encoding(low, high)));
                for (z, (((d, &c), &w), (d_2, &w_2))) in z.iter_mut().zip(elements.zip(differences.zip(products))) {
                    let square = field::mul(c, c);
                    let linear = field::add(field::mul(d, c), w);
                    *z = field::add(linear, field::add(field::mul(field::sub(d_2, c), square), w_2));
                }
            } else {
                // d·C + C².
                for (z, ((d, &c), &w)) in z.iter_mut().zip(elements) {
                    *z = field::add(field::mul(field::add(d, c), c), w);
                }
            }
            z.iter_mut().for_each(|z| *z = field::add(*z, self.form.offset() + ones(g)));
            request.take(bits, flips);
            for choice in 0..1 << bits {
                let elements = z.iter().zip(&self.outputs[block.clone()]).zip(flips.iter()).enumerate();
                for (message, (index, ((&z, &output), &flip))) in message.iter_mut().zip(elements) {
                    // The shares' sum wraps exactly unless zS < p/4 (the choice's bit 0) and zC < p/2.
                    let wraps = (1 ^ (u64::from(choice & 1) & below(z, HALF))).wrapping_neg();
                    let back = (z >> g).wrapping_sub(wraps & (P >> g)) as u32;
                    let signed = if choice >> 1 == 1 { back.wrapping_neg() } else { back };
                    let pads = |pair: usize| [0, 1].map(|i| self.back_pads[2 * pair + i][block.start + index]);
                    let swapped = |pair: usize| select(flip ^ choice, pads(pair));
                    let pad =
                        if bits == 1 { swapped(0) } else { select((flip ^ choice) >> 1, [swapped(0), swapped(1)]) };
                    *message = signed.wrapping_add(output) ^ pad;
                }
                reply.put(message, self.form.truncation.word_bits());
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
    /// A group of channels of `plane` elements each, of which these are the secrets, with the products' (u, wS).
    pub(crate) fn new(
        (channel, word_bits): (&Channel, u32),
        secrets: impl Iterator<Item = ChannelSecret>,
        plane: usize,
        products: &[[u64; 2]],
    ) -> Self {
        let count = products.len() / self::products(channel);
        let secrets = secrets.map(|s| (field::from_i64(s.lambda), s.offset as u32, u8::from(s.negative)));
        Self {
            form: Form::new(channel, word_bits),
            secrets: collect(count, secrets.flat_map(|secret| core::iter::repeat_n(secret, plane))),
            products: products.to_vec().into(),
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
        let truncation = self.form.truncation;
        let mut arrays = scratch::<4>(self.masked.len());
        for block in blocks(self.masked.len()) {
            let [low_0, high_0, low_1, high_1] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            take(reply, [low_0, high_0]);
            take(reply, [low_1, high_1]);
            let messages = low_0.iter().zip(low_1.iter()).zip(high_0.iter().zip(high_1.iter()));
            let elements = self.masked[block.clone()].iter().zip(&self.truncation_pads[block.clone()]).zip(messages);
            for (share, ((&masked, &pad), ((&low_0, &low_1), (&high_0, &high_1)))) in
                self.shares[block].iter_mut().zip(elements)
            {
                let choice = truncation.choice(masked);
                let chosen = encoding(select(choice, [low_0, low_1]), select(choice, [high_0, high_1]));
                let part = field::from_near(truncation.server_part(masked));
                *share = field::add(reduced(chosen ^ pad), part);
            }
        }
    }

    /// Sends (multiplier - u) of each product and the choice bits of the way back; keeps zS.
    fn request_products(&mut self, request: &mut FieldWriter) {
        let count = self.shares.len();
        let mut arrays = scratch::<3>(count);
        for block in blocks(count) {
            let [low, high, flips] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let shares = &mut self.shares[block.clone()];
            let (secrets, products) = (&self.secrets[block.clone()], &self.products[block.clone()]);
            if self.form.cubic {
                // v³ + λv = S³ + λS - (3S² + λ)·C + 3S·C² - C³.
                let second = &self.products[count + block.start..count + block.end];
                let multipliers = shares.iter().zip(secrets).zip(products).map(|((&s, &(lambda, ..)), &[u, _])| {
                    field::sub(field::sub(0, field::add(triple(field::mul(s, s)), lambda)), u)
                });
                put(request, multipliers, [low, high]);
                let multipliers = shares.iter().zip(second).map(|(&s, &[u, _])| field::sub(triple(s), u));
                put(request, multipliers, [low, high]);
                let elements = secrets.iter().zip(products.iter().zip(second));
                for (share, (&(lambda, ..), (&[_, w], &[_, w_2]))) in shares.iter_mut().zip(elements) {
                    let square = field::mul(*share, *share);
                    *share = field::add(field::mul(*share, field::add(square, lambda)), field::add(w, w_2));
                }
            } else {
                // v² = S² - 2S·C + C².
                let multipliers = shares.iter().zip(products);
                let multipliers = multipliers.map(|(&s, &[u, _])| field::sub(field::sub(0, field::add(s, s)), u));
                put(request, multipliers, [low, high]);
                shares
                    .iter_mut()
                    .zip(products)
                    .for_each(|(share, &[_, w])| *share = field::add(field::mul(*share, *share), w));
            }
            let elements = shares.iter().zip(secrets).zip(&self.choices[block]);
            for (flip, ((&share, &(.., negative)), &choices)) in flips.iter_mut().zip(elements) {
                *flip = back_choice(share, negative) ^ choices >> 1;
            }
            request.put(flips, self.form.back_bits());
        }
    }

    fn receive_words(&mut self, reply: &mut FieldReader<'_>) -> Masked {
        let (g, offset) = (self.form.back_shift, (self.form.offset() >> self.form.back_shift) as u32);
        let mut out = core::mem::take(&mut self.masked);
        let mut arrays = scratch::<2>(out.len());
        for block in blocks(out.len()) {
            let [chosen, message] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let (shares, secrets) = (&self.shares[block.clone()], &self.secrets[block.clone()]);
            chosen.copy_from_slice(&self.back_pads[block.clone()]);
            for entry in 0..1 << self.form.back_bits() {
                // All entries are read; the mask keeps the chosen one.
                reply.take(self.form.truncation.word_bits(), message);
                let elements = message.iter().zip(shares).zip(secrets);
                for (chosen, ((&message, &share), &(.., negative))) in chosen.iter_mut().zip(elements) {
                    let differ = back_choice(share, negative) ^ entry;
                    *chosen ^= message & below(u64::from(differ), 1).wrapping_neg() as u32;
                }
            }
            let elements = chosen.iter().zip(shares).zip(secrets);
            for (word, ((&chosen, &z), &(_, gamma, negative))) in out[block].iter_mut().zip(elements) {
                let own = ((z >> g) as u32).wrapping_sub(offset);
                let sign = u32::from(negative).wrapping_neg();
                *word = chosen.wrapping_add((own ^ sign).wrapping_sub(sign)).wrapping_add(gamma);
            }
        }
        out
    }
}

/// 3 · x.
fn triple(x: u64) -> u64 {
    field::add(field::add(x, x), x)
}

/// The server's choice on the way back: [zS < p/4], and above it the sign.
fn back_choice(share: u64, negative: u8) -> u32 {
    below(share, QUARTER) as u32 | u32::from(negative) << 1
}
