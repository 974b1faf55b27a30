//! What the server does to the sum of products before it may send it.
//!
//! The client knows s, the uniform halves it sent and the errors in them. So of a bare sum of products the uniform half would
//! tell the weights (W·a, with a known), and the noise of the other half would (W·e, with e known). A fresh encryption of zero
//! makes the uniform half a fresh RLWE sample, and flooding drowns the noise. [`hide`] is the only way to an answer.

use super::keys::{PublicKey, open_seal};
use super::modulus::Modulus;
use super::params::RingParams;
use super::poly::{Coefficients, Factors, Poly, Values};
use super::sample::{self, Flooding};
use crate::error::Result;
use crate::prg::Prg;
use crate::simd::residues::{self, Pair, Parts, Sum};
use alloc::vec::Vec;
use core::ops::Range;

/// A ciphertext (c0, c1) modulo q: c0 + c1·s = round(q·m/t) + noise.
pub(super) struct Ciphertext<Form> {
    pub(super) c0: Poly<Form>,
    pub(super) c1: Poly<Form>,
}

impl Ciphertext<Values> {
    pub(super) fn zero(params: &'static RingParams) -> Self {
        Self { c0: Poly::zero(params), c1: Poly::zero(params) }
    }

    /// Reads a client's symmetric encryption.
    pub(super) fn read(params: &'static RingParams, bytes: &[u8]) -> Result<Self> {
        open_seal(params, bytes).map(|(c0, c1)| Self { c0, c1 })
    }

    /// self + request·w for a plaintext polynomial w.
    pub(super) fn add_product(&mut self, request: &Self, w: &Poly<Factors>) {
        self.c0.add_product(&request.c0, w);
        self.c1.add_product(&request.c1, w);
    }

    /// self·w for a public integer w of at most 2^16.
    pub(super) fn scaled(self, w: u32) -> Self {
        Self { c0: self.c0.scaled(w), c1: self.c1.scaled(w) }
    }

    pub(super) fn into_coefficients(self) -> Ciphertext<Coefficients> {
        Ciphertext { c0: self.c0.into_coefficients(), c1: self.c1.into_coefficients() }
    }

    /// Adds a fresh public-key encryption of zero, (b·u + e0, a·u + e1) with u ternary. Of c0 only the coefficients that will be sent are kept, and
    /// have their part of e0.
    pub(super) fn add_zero_encryption(
        mut self,
        key: &PublicKey,
        sent: &Range<usize>,
        prg: &mut Prg,
    ) -> Ciphertext<Coefficients> {
        let params = self.c0.params;
        let u = Poly::from_small(params, &sample::ternary(params.degree, prg)).into_values();
        self.c0.add_product(&u, &key.b);
        self.c1.add_product(&u, &key.a);
        let mut out = self.into_coefficients();
        out.add_errors(sent, prg);
        out
    }
}

/// To each sum, that of ciphertexts times its plaintext polynomials: so many, `pair` gives the halves of each, its part for a prime, and `factor`
/// that of a sum and a ciphertext.
pub(super) fn add_products<'a>(
    (count, pair): (usize, impl Fn(usize, usize) -> Pair<'a>),
    sums: &mut [Ciphertext<Values>],
    factor: impl Fn(usize, usize, usize) -> Parts<'a>,
) {
    add_terms((count, pair), sums, factor, residues::add_products);
}

/// The same with integers, those of each sum, in constant time.
pub(super) fn add_scaled<'a>(
    (count, pair): (usize, impl Fn(usize, usize) -> Pair<'a>),
    sums: &mut [Ciphertext<Values>],
    factors: &[&[i16]],
) {
    add_terms((count, pair), sums, |sum, term, _| factors[sum][term], residues::add_scaled);
}

/// Both halves together, prime by prime.
fn add_terms<'a, W>(
    (count, pair): (usize, impl Fn(usize, usize) -> Pair<'a>),
    sums: &mut [Ciphertext<Values>],
    factor: impl Fn(usize, usize, usize) -> W,
    add: impl Fn(Modulus, &[Pair<'_>], &mut [Sum<'_, W>]),
) {
    let Some(first) = sums.first() else { return };
    for (i, prime) in first.c0.params.primes.iter().enumerate() {
        let pairs: Vec<Pair<'_>> = (0..count).map(|term| pair(term, i)).collect();
        let sums = sums.iter_mut().enumerate().map(|(s, sum)| Sum {
            sums: [sum.c0.part_mut(i), sum.c1.part_mut(i)],
            factors: (0..count).map(|term| factor(s, term, i)).collect(),
        });
        add(prime.modulus, &pairs, &mut sums.collect::<Vec<_>>());
    }
}

impl Ciphertext<Coefficients> {
    /// e0 and e1 of [`Self::add_zero_encryption`].
    pub(super) fn add_errors(&mut self, sent: &Range<usize>, prg: &mut Prg) {
        // Without their error the others must not leave, not even by mistake.
        self.c0.keep(sent);
        self.c0.add_small(sent.start, &sample::errors(sent.len(), prg));
        self.c1.add_small(0, &sample::errors(self.c1.params.degree, prg));
    }

    /// Adds noise uniform in [-2^bits, 2^bits) to the coefficients of c0 that will be sent.
    pub(super) fn add_flooding(&mut self, bits: u32, sent: &Range<usize>, prg: &mut Prg) {
        self.c0.add_flooding(sent.start, &Flooding::draw(sent.len(), bits, prg));
    }
}

/// Makes a sum of products fit to be switched and sent: adds an encryption of zero, the server's mask and flooding, modulo q.
///
/// `add_mask` adds the encoded mask to each coefficient of c0 that will be sent, all within `sent`; those outside come out as zero. Flooding is
/// uniform in [-2^flooding_bits, 2^flooding_bits).
pub(super) fn hide(
    sum: Ciphertext<Values>,
    key: &PublicKey,
    flooding_bits: u32,
    sent: &Range<usize>,
    add_mask: impl FnOnce(&mut Poly<Coefficients>, &mut Prg),
    prg: &mut Prg,
) -> Ciphertext<Coefficients> {
    let mut out = sum.add_zero_encryption(key, sent, prg);
    add_mask(&mut out.c0, prg);
    out.add_flooding(flooding_bits, sent, prg);
    out
}
