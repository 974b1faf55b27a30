//! ReLU channels, exactly, in three round trips up to 16 bits and in four up to 26 (`docs/protocol.md`, ReLU); up to 13 bits
//! there is a way in two ([`two`]).
//!
//! With A = (y + m) >> f at the server and C = m >> f at the client, both modulo 2^w, the truncated value is
//! t = A - C in two's complement, so its sign comes from top(A), top(C) and the comparison [a < c] of the low w - 1 bits:
//!
//! 1. Compare digit by digit: 1-of-2^d OTs of masked (less, equal) bits, chosen by a's digits. Truncation runs beside it.
//! 2. Combine the masked bits: a table chosen by them, whose entries are [a < c] ^ top(C) ^ sC. Now sigma = [t >= 0] is
//!    shared as sS ^ sC. Above three digits there are two such steps: first the masked bits of the low half of the digits
//!    and those of the high half choose from a table each, then the masked bits that come out choose from the last table.
//! 3. Multiply: ReLU(t) = sigma · (tS - tC), with a random OT received by the client (sC its choice bit) as the
//!    correlation for the product of server's value and client's bit, and a 1-of-2 OT for the rest.

mod client;
mod comparison;
mod server;
pub(crate) mod two;

pub(crate) use client::Client;
pub(crate) use server::Server;

use super::material::Rots;
use super::truncate::Truncation;
use crate::model::Channel;
use crate::ot::{Block, table};
use alloc::{vec, vec::Vec};
use comparison::Comparison;

/// Random OTs per element with the server as receiver: truncation, digits, tables, last multiplication.
pub(crate) fn rots(channel: &Channel) -> Rots {
    let comparison = Comparison::new(channel.width().into());
    let ends = Rots::single(usize::from(channel.shift > 0) + 1);
    comparison.lookups().fold(ends, |rots, lookup| rots.with_table(lookup.bits))
}

/// Widths of the fields of each round, for outputs of which `word_bits` bits matter: (server -> client, client -> server).
pub(crate) fn round_fields(channel: &Channel, word_bits: u32) -> Vec<(Vec<u32>, Vec<u32>)> {
    let comparison = Comparison::new(channel.width().into());
    let (choices, tables) = comparison.digit_fields();
    let (shift, wrap_bits) = (channel.shift, Truncation::new(channel, word_bits).wrap_bits());
    let truncation = if shift > 0 { &[wrap_bits][..] } else { &[] };
    let digits = (vec![choices + u32::from(shift > 0)], [truncation, &tables].concat());
    let steps = comparison.step_fields().map(|(choices, tables)| (vec![choices], tables));
    core::iter::once(digits).chain(steps).chain([(vec![word_bits, 1], vec![word_bits; 2])]).collect()
}

/// Bytes that both parties keep per element of a prepared layer: (client, server).
pub(crate) fn memory(channel: &Channel) -> (usize, usize) {
    let bits = Comparison::new(channel.width().into()).sign as usize + 1;
    let truncated = usize::from(channel.shift > 0);
    // Both masks, the share, the pads of T, of the planes and of the result, their masks, and the sign's share.
    (4 + 4 + 4 + 8 * truncated + 4 + 4 * bits + 4 + 8, 4 + 4 + 4 * truncated + 4 + 8)
}

/// The word of a random OT's key that the multiplication's correlation uses: all that is kept of that OT.
pub(crate) fn product_word(key: Block) -> u32 {
    table::receiver_word(0, &[key]) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;
    use crate::ot::ideal;
    use crate::prg::{Prg, Seed};
    use crate::wire::words::{FieldReader, FieldWriter};

    /// For a fixed value and a fixed mask, each bit that the server opens is a fair coin, and so is the sum of any two: none
    /// goes without a mask, no two share one. Answers would be right without any.
    #[test]
    fn the_bits_that_the_server_opens_are_fair_and_independent_in_pairs() {
        const COUNT: usize = 4000;
        let mut prg = Prg::new(&Seed::from_bytes([12; 32]));
        for (width, value, mask) in [(16, 5u32, 0u32), (17, 0, 0), (19, 77, 0x3_ffff), (21, 1 << 19, 5), (26, 3, !0)] {
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
            // All but the multiplication.
            for _ in 1..round_fields(&channel, 32).len() {
                let (mut request, mut reply) = (FieldWriter::default(), FieldWriter::default());
                server.request(&mut request);
                client.round(&mut FieldReader::new(&request.finish()), &mut reply);
                server.reply(&mut FieldReader::new(&reply.finish()));
            }
            let bits = server.opened_bits();
            let count = Comparison::new(width.into()).sign + 1;
            for (i, j) in (0..count).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                let sum = |&bits: &u32| (bits >> i ^ if i == j { 0 } else { bits >> j }) & 1;
                let ones: u32 = bits.iter().map(sum).sum();
                // Six standard deviations of 4000 fair coins are 190.
                assert!(ones.abs_diff(COUNT as u32 / 2) < 190, "w = {width}, bits {i} and {j}: {ones} of {COUNT}");
            }
        }
    }
}
