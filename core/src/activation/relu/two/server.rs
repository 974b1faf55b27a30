//! The server's side: it opens the digits' bits, then a sign and a word.

use super::super::comparison::Comparison;
use super::{halves, top_less};
use crate::activation::material::{ReceiverRots, blocks, ones, scratch, spread, words};
use crate::activation::truncate::Truncation;
use crate::model::Channel;
use crate::ot::wide::INDEX_BITS;
use crate::prg::{SecretVec, collect};
use crate::share::Masked;
use crate::simd::words::tables::{Index, chosen_words, chosen_words_at, open, open_half};
use crate::wire::words::{FieldReader, FieldWriter};

/// Where an element's choices hold that of the truncation's OT, above those of at most 12 bits of digits.
const TRUNCATION_CHOICE: u32 = 30;
/// Where an element's word of tables holds the pads of its comparison bits and of its sign, above their choices.
const PADS: u32 = 16;

/// The server's prepared side of a group, and its words during inference.
pub(crate) struct Server {
    truncation: Truncation,
    comparison: Comparison,
    /// Random indices of all digits of an element, as one number of w - 1 bits, and the truncation's choice.
    choices: SecretVec<u32>,
    /// The random index of an element's tables of signs and of words, and from [`PADS`] on the pads of what it opens.
    tables: SecretVec<u32>,
    /// None where nothing is truncated.
    truncation_pads: SecretVec<u32>,
    word_pads: SecretVec<u32>,
    /// (u, wS).
    products: SecretVec<[u32; 2]>,
    absorbed: usize,
    next: usize,
    /// y + m; after round 1, tS.
    words: SecretVec<u32>,
    /// From round 1 on, the masked comparison bits, and above them sS. To the top digit's less 1 ^ top(A) is added.
    bits: SecretVec<u32>,
}

impl Server {
    /// As of the protocol in three round trips.
    pub(crate) fn new((channel, word_bits): (&Channel, u32), products: &[[u32; 2]]) -> Self {
        let truncation = Truncation::new(channel, word_bits);
        let count = products.len();
        let products = products.iter().map(|&[k0, k1]| [k1.wrapping_sub(k0), k0.wrapping_neg()]);
        Self {
            truncation,
            comparison: Comparison::in_two_digits(truncation.width()),
            choices: words(count),
            tables: words(count),
            truncation_pads: words(if truncation.shift() > 0 { count } else { 0 }),
            word_pads: words(count),
            products: collect(count, products),
            absorbed: 0,
            next: 0,
            words: SecretVec::default(),
            bits: SecretVec::default(),
        }
    }

    /// Takes the random OTs of the next elements.
    pub(crate) fn absorb(&mut self, rots: &mut ReceiverRots<'_>) {
        let elements = rots.elements;
        let run = self.absorbed..self.absorbed + elements;
        self.absorbed = run.end;
        let choices = &mut self.choices[run.clone()];
        let (mut table_choices, mut pads, mut key_words) = (words(elements), words(elements), words(elements));
        let mut all = [(); 4].map(|()| words(elements));
        if self.truncation.shift() > 0 {
            chosen_words(rots.take(TRUNCATION_CHOICE, choices), &mut self.truncation_pads[run.clone()]);
        }
        for digit in &self.comparison.digits {
            let mut planes = all.each_mut().map(|words| &mut words[..]);
            let planes = &mut planes[..(digit.planes * halves(digit)) as usize];
            let index = digit.place(0);
            rots.take_table(Index { bits: index.bits.min(INDEX_BITS), ..index }, choices, planes);
            if halves(digit) == 1 {
                for (plane, words) in (0..).zip(planes) {
                    open(words, choices, index, digit.output + plane, &mut pads);
                }
                continue;
            }
            let keys = rots.take(index.start + INDEX_BITS, choices);
            for (plane, halves) in (0..).zip(planes.chunks_exact_mut(2)) {
                chosen_words_at(keys, plane, &mut key_words);
                for half in halves.iter_mut() {
                    half.iter_mut().zip(key_words.iter()).for_each(|(half, word)| *half ^= word);
                }
                open_half([halves[0], halves[1]], choices, index, digit.output + plane, &mut pads);
            }
        }
        let bits = self.comparison.sign;
        let index = Index { start: 0, bits };
        let signs = &mut all[0];
        rots.take_table(index, &mut table_choices, &mut [&mut self.word_pads[run.clone()], &mut signs[..]]);
        open(signs, &table_choices, index, bits, &mut pads);
        for (tables, (&choices, &pads)) in self.tables[run].iter_mut().zip(table_choices.iter().zip(pads.iter())) {
            *tables = choices | pads << PADS;
        }
    }

    /// Starts with the words y + m.
    pub(crate) fn start(&mut self, masked: Masked) {
        self.bits = words(masked.len());
        self.words = masked;
    }

    pub(crate) fn request(&mut self, request: &mut FieldWriter) {
        match self.next {
            0 => self.request_digits(request),
            _ => self.request_words(request),
        }
    }

    /// After the second round, the words ReLU(t) + r.
    pub(crate) fn reply(&mut self, reply: &mut FieldReader<'_>) -> Option<Masked> {
        self.next += 1;
        match self.next {
            1 => {
                self.receive_digits(reply);
                None
            }
            _ => Some(self.receive_words(reply)),
        }
    }

    fn request_digits(&mut self, request: &mut FieldWriter) {
        let (truncation, shift) = (self.truncation, self.truncation.shift());
        let digits = truncation.width() - 1;
        let [mut flips] = scratch(self.words.len());
        for block in blocks(self.words.len()) {
            let flips = &mut flips[..block.len()];
            let elements = self.words[block.clone()].iter().zip(&self.choices[block]);
            for (flip, (&word, &choices)) in flips.iter_mut().zip(elements) {
                let truncation = truncation.choice(word) ^ (choices >> TRUNCATION_CHOICE & 1);
                *flip = ((word >> shift) ^ choices) & ones(digits) as u32 | truncation << digits;
            }
            request.put(flips, digits + u32::from(shift > 0));
        }
    }

    fn receive_digits(&mut self, reply: &mut FieldReader<'_>) {
        let (truncation, shift) = (self.truncation, self.truncation.shift());
        let top = shift + truncation.width() - 1;
        let less = top_less(&self.comparison.digits);
        let mut arrays = scratch::<3>(self.words.len());
        for block in blocks(self.words.len()) {
            let [wraps, low, high] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let (words, bits) = (&mut self.words[block.clone()], &mut self.bits[block.clone()]);
            for ((bits, &tables), &word) in bits.iter_mut().zip(&self.tables[block.clone()]).zip(words.iter()) {
                *bits = tables >> PADS ^ (!(word >> top) & 1) << less;
            }
            if shift > 0 {
                reply.take(truncation.wrap_bits(), wraps);
            }
            for lookup in &self.comparison.digits {
                let digit = Index { start: shift + lookup.start, bits: lookup.bits };
                for plane in 0..lookup.planes {
                    reply.take((1 << lookup.bits).min(32), low);
                    if halves(lookup) == 1 {
                        open(low, words, digit, lookup.output + plane, bits);
                    } else {
                        reply.take(32, high);
                        open_half([low, high], words, digit, lookup.output + plane, bits);
                    }
                }
            }
            if shift == 0 {
                words.iter_mut().for_each(|word| *word = truncation.server_part(*word) as u32);
            } else {
                truncation.take_shares(words, wraps, &self.truncation_pads[block]);
            }
        }
    }

    /// tS - u, and the comparison bits as the index of both tables.
    fn request_words(&mut self, request: &mut FieldWriter) {
        let bits = self.comparison.sign;
        let mut arrays = scratch::<2>(self.words.len());
        for block in blocks(self.words.len()) {
            let [values, flips] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let elements = self.words[block.clone()].iter().zip(&self.products[block.clone()]);
            for (value, (&share, &[multiplier, _])) in values.iter_mut().zip(elements) {
                *value = share.wrapping_sub(multiplier);
            }
            let elements = self.bits[block.clone()].iter().zip(&self.tables[block]);
            for (flip, (&opened, &choices)) in flips.iter_mut().zip(elements) {
                *flip = opened ^ choices;
            }
            request.put(values, self.truncation.word_bits());
            request.put(flips, bits);
        }
    }

    fn receive_words(&mut self, reply: &mut FieldReader<'_>) -> Masked {
        let bits = self.comparison.sign;
        let index = Index { start: 0, bits };
        let mut out = core::mem::take(&mut self.words);
        let mut arrays = scratch::<2>(out.len());
        for block in blocks(out.len()) {
            let [chosen, message] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let opened = &mut self.bits[block.clone()];
            reply.take(1 << bits, message);
            chosen.copy_from_slice(opened);
            // The place of the sign holds its pad.
            open(message, chosen, index, bits, opened);
            chosen.copy_from_slice(&self.word_pads[block.clone()]);
            for entry in 0..1 << bits {
                // All entries are read; the mask keeps the chosen one.
                reply.take(self.truncation.word_bits(), message);
                for (chosen, (&message, &opened)) in chosen.iter_mut().zip(message.iter().zip(opened.iter())) {
                    *chosen ^= message & spread(is_zero(index.of(opened) ^ entry));
                }
            }
            let elements = chosen.iter().zip(opened.iter()).zip(&self.products[block.clone()]);
            for (word, ((&chosen, &opened), &[_, product])) in out[block].iter_mut().zip(elements) {
                // XS, or tS - XS.
                let sign = spread(opened >> bits);
                let own = (sign & *word).wrapping_add((product ^ sign).wrapping_sub(sign));
                *word = chosen.wrapping_add(own);
            }
        }
        out
    }

    /// All comparison bits, still masked, and the sign's share, as the server sees them.
    #[cfg(test)]
    pub(super) fn opened_bits(&self) -> &[u32] {
        &self.bits
    }
}

/// 1 if x = 0, else 0, for x < 2^31.
fn is_zero(x: u32) -> u32 {
    x.wrapping_sub(1) >> 31
}
