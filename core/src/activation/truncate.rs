//! Truncation T: from a masked linear output y + m to shares of floor(y / 2^f) or one more.
//!
//! With Y' = y + 2^(b-1) + m and 0 <= y + 2^(b-1) < 2^31, the ring wrapped exactly if top(m) = 1 and top(Y') = 0, so that
//!
//! ```text
//! floor or ceiling of y / 2^f  =  (Y' >> f) - 2^(b-1-f)  -  (m >> f)  +  [top(m) and not top(Y')] · 2^(32-f)
//! ```
//!
//! over the integers: rounded up exactly where the low f bits of Y' are below those of m. The first two terms are the
//! server's; the rest are the client's, chosen by one bit of the server through a 1-of-2 OT (`docs/protocol.md`, truncation).

use super::material::{exchange, spread};
use crate::model::Channel;

/// The public numbers of one channel's truncation.
#[derive(Clone, Copy)]
pub(crate) struct Truncation {
    bound_bits: u32,
    shift: u32,
    word_bits: u32,
}

impl Truncation {
    /// Of what comes out of the channel, only the low `word_bits` bits matter.
    pub(crate) fn new(channel: &Channel, word_bits: u32) -> Self {
        Self { bound_bits: channel.bound_bits.into(), shift: channel.shift.into(), word_bits }
    }

    /// k: bits of a word of the channel's output.
    pub(crate) fn word_bits(&self) -> u32 {
        self.word_bits
    }

    /// Bits of the client's message towards a ReLU. The wrap's weight is 2^(32-f), so f bits of it lie in a word of 32 bits and
    /// f + k - 32 in one of k.
    pub(crate) fn wrap_bits(&self) -> u32 {
        self.shift.saturating_sub(32 - self.word_bits)
    }

    /// b.
    pub(crate) fn bound_bits(&self) -> u32 {
        self.bound_bits
    }

    /// f.
    pub(crate) fn shift(&self) -> u32 {
        self.shift
    }

    /// w = b - f.
    pub(crate) fn width(&self) -> u32 {
        self.bound_bits - self.shift
    }

    /// Y' from the server's y + m.
    fn offset(&self, masked: u32) -> u32 {
        masked.wrapping_add(1 << (self.bound_bits - 1))
    }

    /// The server's choice: not top(Y').
    pub(crate) fn choice(&self, masked: u32) -> u32 {
        (self.offset(masked) >> 31) ^ 1
    }

    /// The server's integer part: (Y' >> f) - 2^(b-1-f).
    pub(crate) fn server_part(&self, masked: u32) -> i64 {
        i64::from(self.offset(masked) >> self.shift) - (1 << (self.bound_bits - 1 - self.shift))
    }

    /// The client's integer part for a choice bit of the server: [top(m) and choice] · 2^(32-f) - (m >> f).
    pub(crate) fn client_part(&self, mask: u32, choice: u32) -> i64 {
        (i64::from((mask >> 31) & choice) << (32 - self.shift)) - i64::from(mask >> self.shift)
    }

    /// Towards a ReLU, with f > 0: the client's shares tC = (m >> f) + rho · 2^(32-f), and its message, of which the low
    /// [`Self::wrap_bits`] bits are sent. `flips` are the corrected choices.
    ///
    /// The 1-of-2 OT is of rho and rho plus the wrap. As rho is free, it is the pad of the first, which then need not be sent
    /// (a correlated OT: Asharov, Lindell, Schneider and Zohner, CCS 2013).
    pub(crate) fn wraps(
        &self,
        masks: &[u32],
        flips: impl Iterator<Item = u32>,
        pads: [&[u32]; 2],
        [shares, message]: [&mut [u32]; 2],
    ) {
        let elements = masks.iter().zip(flips).zip(pads[0].iter().zip(pads[1]));
        for ((share, message), ((&mask, flip), (&pad_0, &pad_1))) in shares.iter_mut().zip(message).zip(elements) {
            let [rho, pad] = exchange(flip, [pad_0, pad_1]);
            *share = (mask >> self.shift).wrapping_add(rho << (32 - self.shift));
            *message = rho.wrapping_add(mask >> 31) ^ pad;
        }
    }

    /// Towards a ReLU, with f > 0: makes the server's shares of its words y + m, from the message and its pads.
    pub(crate) fn take_shares(&self, words: &mut [u32], message: &[u32], pads: &[u32]) {
        for (word, (&message, &pad)) in words.iter_mut().zip(message.iter().zip(pads)) {
            let chosen = (spread(self.choice(*word)) & message) ^ pad;
            // 1 <= f <= 29. Of the pad more bits stay than were sent; they do not reach the word's low k bits.
            *word = (self.server_part(*word) as u32).wrapping_add(chosen << (32 - self.shift));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;
    use proptest::prelude::*;

    fn truncation(b: u8, f: u8) -> Truncation {
        Truncation::new(&Channel { kind: Kind::Linear, bound_bits: b, shift: f, back_shift: 0 }, 32)
    }

    /// T is floor where the mask's low bits are at most those of Y', else floor + 1: both neighbours only, always.
    fn check(b: u8, f: u8, y: i64, mask: u32) {
        let t = truncation(b, f);
        let masked = (y as u32).wrapping_add(mask);
        let got = t.server_part(masked) + t.client_part(mask, t.choice(masked));
        let low = (1u64 << f) as u32 - 1;
        let up = i64::from(t.offset(masked) & low < mask & low);
        assert_eq!(got, (y >> f) + up, "b={b} f={f} y={y} mask={mask:#x}");
        if y & i64::from(low) == 0 {
            assert_eq!(up, 0);
        }
    }

    #[test]
    fn every_value_of_small_widths_under_masks_from_everywhere() {
        for b in 2..=9u8 {
            for f in 0..=b - 2 {
                let limit = (1i64 << (b - 1)) - (1 << f);
                for y in -limit + 1..limit {
                    for high in [0u32, 1, 0x3fff, 0x4000, 0x7fff, 0x8000, 0xbfff, 0xc000, 0xffff] {
                        for low in 0..1u32 << b {
                            check(b, f, y, (high << 16) | low);
                            check(b, f, y, ((high << 16) | 0xffff) - low);
                        }
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn full_width(b in 2u8..=31, f_of in any::<u8>(), y in any::<i64>(), mask in any::<u32>()) {
            let f = f_of % (b - 1);
            let limit = (1i64 << (b - 1)) - (1 << f);
            check(b, f, y.rem_euclid(2 * limit - 1) - (limit - 1), mask);
            check(b, f, limit - 1, mask);
            check(b, f, 1 - limit, mask);
        }
    }
}
