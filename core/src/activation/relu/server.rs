//! The server's side: it chooses entries of the client's tables, by the words that it holds and then by what it got.

use super::super::material::{ReceiverRots, blocks, ones, scratch, select, spread, words};
use super::super::truncate::Truncation;
use super::comparison::{Comparison, Lookup};
use crate::model::Channel;
use crate::prg::{SecretVec, collect};
use crate::share::Masked;
use crate::simd::words::tables::{Index, chosen_words, open};
use crate::wire::words::{FieldReader, FieldWriter};

/// Where an element's choices hold that of the truncation's OT, above those of at most 25 bits of digits ..
const TRUNCATION_CHOICE: u32 = 30;
/// .. and that of the last multiplication's.
const OUTPUT_CHOICE: u32 = 31;
/// Where an element's word of tables holds the pads of its comparison bits, above the choices of its tables.
const PADS: u32 = 16;

/// The server's prepared side of a group, and its words during inference.
pub(crate) struct Server {
    truncation: Truncation,
    comparison: Comparison,
    /// Random indices of all digits of an element, as one number of w - 1 bits, and two further choices.
    choices: SecretVec<u32>,
    /// Random indices of an element's tables, each in the place of the comparison bits to which it belongs, and the pad of
    /// each comparison bit, from [`PADS`] on.
    tables: SecretVec<u32>,
    /// None where nothing is truncated.
    truncation_pads: SecretVec<u32>,
    output_pads: SecretVec<u32>,
    /// (u, wS): the random multiplier k1 - k0 and -k0.
    products: SecretVec<[u32; 2]>,
    /// Elements that have their random OTs.
    absorbed: usize,
    next: usize,
    /// y + m; after round 1, tS.
    words: SecretVec<u32>,
    /// From round 1 on, the masked comparison bits so far, above them pads. The last has 1 ^ top(A) added, so that in the end
    /// it is sS.
    bits: SecretVec<u32>,
}

impl Server {
    /// A group of `products.len()` elements, of whose outputs the given number of bits matters; `products` are the words ([`super::product_word`]) of both keys of the
    /// server's random OTs as a sender.
    pub(crate) fn new((channel, word_bits): (&Channel, u32), products: &[[u32; 2]]) -> Self {
        let truncation = Truncation::new(channel, word_bits);
        let count = products.len();
        let products = products.iter().map(|&[k0, k1]| [k1.wrapping_sub(k0), k0.wrapping_neg()]);
        Self {
            truncation,
            comparison: Comparison::new(truncation.width()),
            choices: words(count),
            tables: words(count),
            truncation_pads: words(if truncation.shift() > 0 { count } else { 0 }),
            output_pads: words(count),
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
        let (mut table_choices, mut pads) = (words(elements), words(elements));
        let mut words = [words(elements), words(elements)];
        if self.truncation.shift() > 0 {
            chosen_words(rots.take(TRUNCATION_CHOICE, choices), &mut self.truncation_pads[run.clone()]);
        }
        let mut take = |lookup: &Lookup, choices: &mut [u32]| {
            let [first, second] = &mut words;
            let planes = &mut [&mut first[..], &mut second[..]][..lookup.planes as usize];
            rots.take_table(lookup.place(0), choices, planes);
            for (plane, words) in (0..).zip(planes) {
                open(words, choices, lookup.place(0), lookup.output + plane, &mut pads);
            }
        };
        self.comparison.digits.iter().for_each(|digit| take(digit, choices));
        self.comparison.steps.iter().flatten().for_each(|table| take(table, &mut table_choices));
        chosen_words(rots.take(OUTPUT_CHOICE, choices), &mut self.output_pads[run.clone()]);
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
            round if round <= self.comparison.steps.len() => self.request_tables(round - 1, request),
            _ => self.request_product(request),
        }
    }

    /// After the last round, the words ReLU(t) + r.
    pub(crate) fn reply(&mut self, reply: &mut FieldReader<'_>) -> Option<Masked> {
        let round = self.next;
        self.next += 1;
        match round {
            0 => self.receive_digits(reply),
            round if round <= self.comparison.steps.len() => self.receive_tables(round - 1, reply),
            _ => return Some(self.receive_product(reply)),
        }
        None
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
        let (top, sign) = (shift + truncation.width() - 1, self.comparison.sign);
        let mut arrays = scratch::<2>(self.words.len());
        for block in blocks(self.words.len()) {
            let [wraps, entries] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let (words, bits) = (&mut self.words[block.clone()], &mut self.bits[block.clone()]);
            for ((bits, &tables), &word) in bits.iter_mut().zip(&self.tables[block.clone()]).zip(words.iter()) {
                *bits = tables >> PADS ^ (!(word >> top) & 1) << sign;
            }
            if shift > 0 {
                reply.take(truncation.wrap_bits(), wraps);
            }
            for lookup in &self.comparison.digits {
                let digit = Index { start: shift + lookup.start, bits: lookup.bits };
                for plane in 0..lookup.planes {
                    reply.take(1 << lookup.bits, entries);
                    open(entries, words, digit, lookup.output + plane, bits);
                }
            }
            if shift == 0 {
                words.iter_mut().for_each(|word| *word = truncation.server_part(*word) as u32);
                continue;
            }
            truncation.take_shares(words, wraps, &self.truncation_pads[block]);
        }
    }

    fn request_tables(&mut self, step: usize, request: &mut FieldWriter) {
        let (start, width) = Comparison::step_index(&self.comparison.steps[step]);
        let [mut flips] = scratch(self.bits.len());
        for block in blocks(self.bits.len()) {
            let flips = &mut flips[..block.len()];
            let elements = self.bits[block.clone()].iter().zip(&self.tables[block]);
            for (flip, (&bits, &choices)) in flips.iter_mut().zip(elements) {
                *flip = (bits ^ choices) >> start;
            }
            request.put(flips, width);
        }
    }

    fn receive_tables(&mut self, step: usize, reply: &mut FieldReader<'_>) {
        let mut arrays = scratch::<2>(self.bits.len());
        for block in blocks(self.bits.len()) {
            let [from, entries] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let bits = &mut self.bits[block];
            from.copy_from_slice(bits);
            for table in &self.comparison.steps[step] {
                for plane in 0..table.planes {
                    reply.take(1 << table.bits, entries);
                    open(entries, from, table.place(0), table.output + plane, bits);
                }
            }
        }
    }

    /// All comparison bits, still masked, as the server sees them.
    #[cfg(test)]
    pub(super) fn opened_bits(&self) -> &[u32] {
        &self.bits
    }

    fn request_product(&mut self, request: &mut FieldWriter) {
        let sign = self.comparison.sign;
        let mut arrays = scratch::<2>(self.words.len());
        for block in blocks(self.words.len()) {
            let [values, flips] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            let elements = self.words[block.clone()].iter().zip(&self.bits[block.clone()]);
            let elements = elements.zip(self.choices[block.clone()].iter().zip(&self.products[block]));
            for ((value, flip), ((&share, &bits), (&choices, &[multiplier, _]))) in
                values.iter_mut().zip(flips.iter_mut()).zip(elements)
            {
                let sign = bits >> sign & 1;
                // V = (1 - 2 sS) · tS.
                *value = (share ^ spread(sign)).wrapping_add(sign).wrapping_sub(multiplier);
                *flip = sign ^ (choices >> OUTPUT_CHOICE);
            }
            request.put(values, self.truncation.word_bits());
            request.put(flips, 1);
        }
    }

    fn receive_product(&mut self, reply: &mut FieldReader<'_>) -> Masked {
        let sign = self.comparison.sign;
        let mut words = core::mem::take(&mut self.words);
        let mut arrays = scratch::<2>(words.len());
        for block in blocks(words.len()) {
            let [first, second] = arrays.each_mut().map(|words| &mut words[..block.len()]);
            reply.take(self.truncation.word_bits(), first);
            reply.take(self.truncation.word_bits(), second);
            let own = self.bits[block.clone()].iter().zip(&self.output_pads[block.clone()]);
            let elements = own.zip(&self.products[block.clone()]).zip(first.iter().zip(second.iter()));
            for (word, (((&bits, &pad), &[_, product_share]), (&first, &second))) in
                words[block].iter_mut().zip(elements)
            {
                let message = select(bits >> sign, [first, second]) ^ pad;
                *word = (spread(bits >> sign) & *word).wrapping_add(product_share).wrapping_add(message);
            }
        }
        words
    }
}
