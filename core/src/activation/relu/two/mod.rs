//! ReLU in two round trips, up to 13 bits: more bytes, for links on which a round trip costs more than they do.
//!
//! In the notation of the protocol in three ([`super`]):
//!
//! 1. Compare at most two digits, of up to 6 bits. Truncation runs beside it.
//! 2. The server sends tS - u, so that with XC = sC · (tS - u) + wC at the client and XS = wS at the server XC + XS = sC · tS. The
//!    masked bits of the comparison, into whose top less the server adds 1 ^ top(A), which passes through to the sign, index a
//!    table of the bit sS = sigma ^ sC, and one of a word each: M_0 = XC - sC · tC + r where sS = 0, and
//!    M_1 = -XC - (1 - sC) · tC + r where sS = 1. The server adds XS, or tS - XS.
//!
//! Both tables are indexed by the same bits and take their pads from one wide OT. A digit of 6 bits, whose table has 64 entries,
//! takes a wide OT for the low five and a single one for the top bit: with the halves of its planes in words, the pad of
//! entry (h, i) of plane p is bit i of word 2p + h of the wide OT's key i, and of word p of the single OT's key h.

mod client;
mod server;

pub(crate) use client::Client;
pub(crate) use server::Server;

use super::comparison::{Comparison, Lookup};
use crate::activation::material::Rots;
use crate::activation::truncate::Truncation;
use crate::model::Channel;
use crate::ot::wide::INDEX_BITS;
use alloc::{vec, vec::Vec};

/// Most bits of a value.
const WIDEST: u32 = 13;

/// Whether values of the channel's width can be done in two round trips.
pub(crate) fn serves(channel: &Channel) -> bool {
    u32::from(channel.width()) <= WIDEST
}

/// The digits of a width, and the comparison bits that come of them: 1 or 3.
fn comparison(width: u32) -> (Vec<Lookup>, u32) {
    let Comparison { digits, sign, .. } = Comparison::in_two_digits(width);
    (digits, sign)
}

/// The halves of a digit's tables.
fn halves(digit: &Lookup) -> u32 {
    if digit.bits == 6 { 2 } else { 1 }
}

/// The place of the top digit's less among the comparison bits.
fn top_less(digits: &[Lookup]) -> u32 {
    digits.last().map_or(0, |digit| digit.output)
}

/// Random OTs per element with the server as receiver: truncation, digits, tables.
pub(crate) fn rots(channel: &Channel) -> Rots {
    let (digits, bits) = comparison(channel.width().into());
    let large = digits.iter().filter(|digit| halves(digit) == 2).count();
    let ends = Rots::single(usize::from(channel.shift > 0) + large);
    let digits = digits.iter().fold(ends, |rots, digit| rots.with_table(digit.bits.min(INDEX_BITS)));
    digits.with_table(bits)
}

/// Widths of the fields of both rounds, for outputs of which `word_bits` bits matter: (server -> client, client -> server).
pub(crate) fn round_fields(channel: &Channel, word_bits: u32) -> Vec<(Vec<u32>, Vec<u32>)> {
    let (digits, bits) = comparison(channel.width().into());
    let shift = u32::from(channel.shift);
    let choices = u32::from(channel.width()) - 1 + u32::from(shift > 0);
    let wrap_bits = Truncation::new(channel, word_bits).wrap_bits();
    let mut tables = if shift > 0 { vec![wrap_bits] } else { vec![] };
    for digit in &digits {
        tables.extend(core::iter::repeat_n((1 << digit.bits).min(32), (digit.planes * halves(digit)) as usize));
    }
    let words = core::iter::once(1 << bits).chain(core::iter::repeat_n(word_bits, 1 << bits));
    vec![(vec![choices], tables), (vec![word_bits, bits], words.collect())]
}

/// Bytes that both parties keep per element of a prepared layer: (client, server).
pub(crate) fn memory(channel: &Channel) -> (usize, usize) {
    let (digits, bits) = comparison(channel.width().into());
    let planes: usize = digits.iter().map(|digit| (digit.planes * halves(digit)) as usize).sum();
    let truncated = usize::from(channel.shift > 0);
    // Masks, shares, pads of T, the planes', the bits' masks, the pads of both tables, wC; choices, pads, and the product.
    (12 + 8 * truncated + 4 * planes + 4 + 4 + (4 << bits) + 4, 8 + 4 * truncated + 4 + 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::product_word;
    use crate::model::Kind;
    use crate::ot::ideal;
    use crate::prg::{Prg, Seed};
    use crate::wire::words::{FieldReader, FieldWriter};

    /// For a fixed value and a fixed mask, each bit that the server opens is a fair coin, and so is the sum of any two.
    #[test]
    fn the_bits_that_the_server_opens_are_fair_and_independent_in_pairs() {
        const COUNT: usize = 4000;
        let mut prg = Prg::new(&Seed::from_bytes([13; 32]));
        for (width, value, mask) in [(6, 3u32, 0u32), (7, 5, 9), (11, 0, 0), (13, 77, 0x1fff), (13, 1 << 11, 5)] {
            let channel = Channel { kind: Kind::Relu, bound_bits: width, shift: 0, back_shift: 0 };
            let (sign_keys, signs) = ideal::deal(&mut prg, COUNT);
            let sign_choices: Vec<u8> = (0..COUNT).map(|j| signs.choice_bits(j, 1) as u8).collect();
            let sign_words: Vec<u32> = signs.keys.iter().map(|&key| product_word(key)).collect();
            let products: Vec<[u32; 2]> = sign_keys.iter().map(|keys| keys.map(product_word)).collect();
            let masks = vec![mask; COUNT].into();
            let signs = (&sign_choices[..], &sign_words[..]);
            let mut client = Client::new((&channel, 32), masks, vec![0; COUNT].into(), signs, &mut prg);
            let mut server = Server::new((&channel, 32), &products);
            ideal::deal_rots(
                &mut prg,
                COUNT,
                &rots(&channel),
                |sent| client.absorb(sent),
                |received| server.absorb(received),
            );
            server.start(vec![value.wrapping_add(mask); COUNT].into());
            for _ in 0..2 {
                let (mut request, mut reply) = (FieldWriter::default(), FieldWriter::default());
                server.request(&mut request);
                client.round(&mut FieldReader::new(&request.finish()), &mut reply);
                server.reply(&mut FieldReader::new(&reply.finish()));
            }
            let bits = server.opened_bits();
            // The comparison's and sS.
            let count = comparison(width.into()).1 + 1;
            for (i, j) in (0..count).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                let sum = |&bits: &u32| (bits >> i ^ if i == j { 0 } else { bits >> j }) & 1;
                let ones: u32 = bits.iter().map(sum).sum();
                // Six standard deviations of 4000 fair coins are 190.
                assert!(ones.abs_diff(COUNT as u32 / 2) < 190, "w = {width}, bits {i} and {j}: {ones} of {COUNT}");
            }
        }
    }
}
