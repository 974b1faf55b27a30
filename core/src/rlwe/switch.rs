//! From modulus q to a power of two q', and decryption there.

use super::keys::SecretKey;
use super::modulus::{Factor, Modulus};
use super::params::RingParams;
use super::poly::{Coefficients, Poly, check_length};
use crate::error::Result;
use crate::prg::{SecretVec, Wiped};
use crate::simd::residues::{fractions, pointwise};
use crate::wire::bits::{BitReader, BitWriter, packed_bytes};
use alloc::vec::Vec;
use core::ops::Range;
use zeroize::Zeroizing;

/// A ciphertext modulo q' as it is sent: all N coefficients of c1, then the coefficients of c0 at the positions asked for, those
/// without the ring's dropped bits.
pub(super) struct Switched {
    /// log2 of q'.
    bits: u32,
    c1: Wiped<u64>,
    c0: Wiped<u64>,
}

/// Bytes of a ciphertext modulo 2^bits with `sent` coefficients of c0.
pub(super) fn switched_bytes(params: &RingParams, bits: u32, sent: usize) -> usize {
    // A multiple of eight coefficients: the first half ends with a byte.
    packed_bytes(params.degree, bits) + packed_bytes(sent, bits - params.dropped_bits)
}

/// round(x·q'/q) mod q' for every coefficient x of a range and q' = 2^bits, at most 2^47.
///
/// x/q modulo 1 is the sum over the primes of y_i/q_i with y_i = x_i·(q/q_i)^-1 mod q_i, here in units of 2^-64. With R_i =
/// floor(2^96/q_i) = high·2^32 + low, y_i·2^64/q_i is taken as y_i·high + floor(y_i·low/2^32): too small by less than y_i/2^32
/// for R_i's rounding (at most 1/2, as y_i < 2^31) plus 1 for the last floor. Over at most four primes the fraction is too
/// small by less than 6·2^-64, so the result is within 1/2 + 6·q'/2^64 < 1/2 + 2^-14 of x·q'/q.
pub(super) fn round_to_switched(x: &Poly<Coefficients>, bits: u32, range: &Range<usize>) -> Wiped<u64> {
    let params = x.params;
    let mut fractions = Wiped::zeros(range.len());
    for ((prime, part), crt) in x.parts().zip(params.crt) {
        let (high, low) = crt.fraction;
        // The sum wraps at 1, as it should.
        fractions::add(prime.modulus, &mut fractions, &part[range.clone()], crt.cofactor, high, low);
    }
    let drop = 64 - bits;
    for fraction in fractions.iter_mut() {
        *fraction = fraction.wrapping_add(1 << (drop - 1)) >> drop;
    }
    fractions
}

/// A ciphertext (c0, c1) switched to q' = 2^bits; of c0 the coefficients among which are those that will be sent.
pub(super) struct Rounded {
    bits: u32,
    /// Without the ring's dropped bits, from number `first` on.
    c0: Wiped<u64>,
    first: usize,
    c1: Wiped<u64>,
    dropped_bits: u32,
}

impl Rounded {
    pub(super) fn new(c0: &Poly<Coefficients>, c1: &Poly<Coefficients>, bits: u32, sent: &Range<usize>) -> Self {
        let dropped_bits = c1.params.dropped_bits;
        Self {
            bits,
            c0: round_to_switched(c0, bits - dropped_bits, sent),
            first: sent.start,
            c1: round_to_switched(c1, bits, &(0..c1.params.degree)),
            dropped_bits,
        }
    }

    /// Writes all of c1, and c0 at the positions asked for.
    pub(super) fn write(&self, sent: impl Iterator<Item = usize>) -> Vec<u8> {
        let width = self.bits - self.dropped_bits;
        let mut chosen = Zeroizing::new(Vec::with_capacity(self.c0.len()));
        // Where iterators are nested, they are faster from inside: `for_each`, not `collect`.
        sent.for_each(|position| chosen.push(self.c0[position - self.first]));
        let bytes = packed_bytes(self.c1.len(), self.bits) + packed_bytes(chosen.len(), width);
        let mut out = BitWriter::with_capacity(bytes);
        out.put_all(&self.c1, self.bits);
        out.put_all(&chosen, width);
        out.finish()
    }
}

/// Writes (c0, c1) switched to q' = 2^bits, of c0 the coefficients asked for, all within `range`.
pub(super) fn write(
    c0: &Poly<Coefficients>,
    c1: &Poly<Coefficients>,
    bits: u32,
    range: &Range<usize>,
    sent: impl Iterator<Item = usize>,
) -> Vec<u8> {
    Rounded::new(c0, c1, bits, range).write(sent)
}

impl Switched {
    /// Reads a ciphertext modulo 2^bits with `sent` coefficients of c0.
    pub(super) fn read(params: &RingParams, bits: u32, sent: usize, bytes: &[u8]) -> Result<Self> {
        check_length("answer", switched_bytes(params, bits, sent), bytes)?;
        let mut reader = BitReader::new(bytes);
        let (mut c1, mut c0) = (Wiped::zeros(params.degree), Wiped::zeros(sent));
        reader.take_all(bits, &mut c1, |x| x);
        reader.take_all(bits - params.dropped_bits, &mut c0, |x| x << params.dropped_bits);
        reader.finish()?;
        Ok(Self { bits, c1, c0 })
    }

    /// c0 + c1·s mod q' at the positions that were sent, in their order.
    ///
    /// c1, centred, is at most q'/2 and s ternary, so |c1·s| <= N·q'/2: 2^52 in the ring of linear layers and 2^59 in that
    /// of the slots, which the first two primes, with product above 2^61.9, represent.
    pub(super) fn decrypt(&self, key: &SecretKey, sent: impl Iterator<Item = usize>) -> SecretVec<u64> {
        let width = self.bits;
        let centred = self.c1.iter().map(|&x| ((x << (64 - width)) as i64) >> (64 - width));
        let mut wide = Wiped::zeros(self.c1.len());
        wide.iter_mut().zip(centred).for_each(|(wide, centred)| *wide = centred);
        let mut residues: [Wiped<u32>; 2] = [0; 2].map(|_| Wiped::zeros(key.params().degree));
        for (product, (prime, s)) in residues.iter_mut().zip(key.parts()) {
            pointwise::residues_wide(prime.modulus, product, &wide);
            prime.forward(product);
            #[allow(clippy::needless_borrow, reason = "in little memory it is no reference")]
            pointwise::multiply(prime.modulus, product, &s);
            prime.inverse(product);
        }
        let [low, high] = &residues;
        let pair = CrtPair::new(key.params().primes[0].modulus, key.params().primes[1].modulus);
        let keep = u64::MAX >> (64 - width);
        // From inside, as in `write`.
        let (mut out, mut own) = (Zeroizing::new(Vec::with_capacity(self.c0.len())), self.c0.iter());
        sent.for_each(|i| out.extend(own.next().map(|c0| c0.wrapping_add(pair.lift(low[i], high[i]) as u64) & keep)));
        out
    }
}

/// The Chinese remainder map from two primes to centred integers.
struct CrtPair {
    first: Modulus,
    second: Modulus,
    /// first^-1 modulo second.
    inverse: Factor,
}

impl CrtPair {
    fn new(first: Modulus, second: Modulus) -> Self {
        let inverse = second.factor(second.invert_vartime(first.value() % second.value()));
        Self { first, second, inverse }
    }

    /// The x of least magnitude that is `a` modulo the first prime and `b` modulo the second.
    #[inline]
    fn lift(&self, a: u32, b: u32) -> i64 {
        let (p, q) = (u64::from(self.first.value()), u64::from(self.second.value()));
        // a is below the first prime, which is below twice the second.
        let digit = self.second.mul(self.second.sub(b, self.second.reduce_once(a)), self.inverse);
        let x = (u64::from(a) + p * u64::from(digit)) as i64;
        // x is in [0, p·q), below 2^62; the mask is all ones where x exceeds half of it.
        let above = ((p * q / 2) as i64 - x) >> 63;
        x - ((p * q) as i64 & above)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rlwe::params::{LINEAR, SLOTS};
    use proptest::prelude::*;

    fn from_integer(params: &'static RingParams, x: u128) -> Poly<Coefficients> {
        let mut poly = Poly::zero(params);
        poly.add_at(0, |_, q| (x % u128::from(q.value())) as u32);
        poly
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn switching_rounds_as_stated(x: u128, ring in 0usize..2, less in 0u32..20) {
            let params = [&LINEAR, &SLOTS][ring];
            let q = params.primes.iter().map(|p| u128::from(p.value())).product::<u128>();
            let x = x % q;
            let bits = params.switched_bits - less;
            let y = u128::from(round_to_switched(&from_integer(params, x), bits, &(0..8))[0]);
            // |y - x·q'/q| <= 1/2 + 2^-14 modulo q', times q/2^20 to stay within 128 bits: x·q' in two steps.
            let (mut quotient, mut rest) = (0u128, x);
            for _ in 0..bits {
                rest *= 2;
                quotient = 2 * quotient + u128::from(rest >= q);
                rest -= q * u128::from(rest >= q);
            }
            // x·q' = quotient·q + rest.
            let up = (quotient + 1) % (1 << bits);
            let slack = q >> 14;
            prop_assert!((y == quotient && rest <= q / 2 + slack) || (y == up && rest >= q / 2 - slack));
        }

        #[test]
        fn lifting_inverts_reduction(x in -(1i64 << 60)..1i64 << 60) {
            let [first, second] = [LINEAR.primes[0].modulus, LINEAR.primes[1].modulus];
            let pair = CrtPair::new(first, second);
            prop_assert_eq!(pair.lift(first.residue_wide(x), second.residue_wide(x)), x);
        }
    }
}
