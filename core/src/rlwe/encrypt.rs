//! What the server does to the sum of products before it may send it.
//!
//! The client knows s, the uniform halves it sent and the errors in them. So of a bare sum of products the uniform half would
//! tell the weights (W·a, with a known), and the noise of the other half would (W·e, with e known). A fresh encryption of zero
//! makes the uniform half a fresh RLWE sample, and flooding drowns the noise. [`hide`] is the only way to an answer.

use super::keys::{PublicKey, open_seal};
use super::modulus::Modulus;
use super::params::RingParams;
use super::poly::{Coefficients, Factors, Poly, Values};
use super::sample;
use crate::error::Result;
use crate::prg::Prg;
use crate::simd::residues::{self, Term};
use alloc::vec::Vec;

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

    /// self + the sum of request·w over the terms, for plaintext polynomials w.
    pub(super) fn add_products(&mut self, terms: &[(&Self, &Poly<Values>)]) {
        self.add_terms(terms, |w, prime| w.part(prime), residues::add_products);
    }

    /// self + the sum of request·w over the terms, for integers w, in constant time.
    pub(super) fn add_scaled(&mut self, terms: &[(&Self, i16)]) {
        self.add_terms(terms, |&w, _| w, residues::add_scaled);
    }

    /// Both halves together, prime by prime: `factor` is the part of w for a prime.
    fn add_terms<'a, W, F>(
        &mut self,
        terms: &'a [(&Self, W)],
        factor: impl Fn(&'a W, usize) -> F,
        add: impl Fn(Modulus, [&mut [u32]; 2], &[Term<'a, F>]),
    ) {
        for (i, ((prime, c0), (_, c1))) in self.c0.parts_mut().zip(self.c1.parts_mut()).enumerate() {
            let term = |(x, w): &'a (&Self, W)| Term { x: [x.c0.part(i), x.c1.part(i)], w: factor(w, i) };
            add(prime.modulus, [c0, c1], &terms.iter().map(term).collect::<Vec<_>>());
        }
    }

    /// self·w for a public integer w of at most 2^16.
    pub(super) fn scaled(self, w: u32) -> Self {
        Self { c0: self.c0.scaled(w), c1: self.c1.scaled(w) }
    }

    pub(super) fn into_coefficients(self) -> Ciphertext<Coefficients> {
        Ciphertext { c0: self.c0.into_coefficients(), c1: self.c1.into_coefficients() }
    }

    /// Adds a fresh public-key encryption of zero, (b·u + e0, a·u + e1) with u ternary.
    pub(super) fn add_zero_encryption(mut self, key: &PublicKey, prg: &mut Prg) -> Ciphertext<Coefficients> {
        let params = self.c0.params;
        let u = Poly::from_small(params, &sample::ternary(params.degree, prg)).into_values();
        self.c0.add_product(&u, &key.b);
        self.c1.add_product(&u, &key.a);
        let mut out = self.into_coefficients();
        out.c0.add_small(&sample::errors(params.degree, prg));
        out.c1.add_small(&sample::errors(params.degree, prg));
        out
    }
}

impl Ciphertext<Coefficients> {
    /// Adds noise uniform in [-2^bits, 2^bits) to the coefficients of c0, also to those that will not be sent.
    pub(super) fn add_flooding(&mut self, bits: u32, prg: &mut Prg) {
        let (low, high) = sample::flooding(self.c0.params.degree, bits, prg);
        self.c0.add_halves(&low, &high);
    }
}

/// Makes a sum of products fit to be switched and sent: adds an encryption of zero, the server's mask and flooding, modulo q.
///
/// `add_mask` adds the encoded mask to each coefficient of c0 that will be sent. Flooding is uniform in [-2^flooding_bits, 2^flooding_bits).
pub(super) fn hide(
    sum: Ciphertext<Values>,
    key: &PublicKey,
    flooding_bits: u32,
    add_mask: impl FnOnce(&mut Poly<Coefficients>, &mut Prg),
    prg: &mut Prg,
) -> Ciphertext<Coefficients> {
    let mut out = sum.add_zero_encryption(key, prg);
    add_mask(&mut out.c0, prg);
    out.add_flooding(flooding_bits, prg);
    out
}
