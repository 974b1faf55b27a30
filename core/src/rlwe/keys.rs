//! The client's secret key and the public key that the server hides its answers with.

use super::modulus::Modulus;
use super::ntt::RnsPrime;
use super::params::RingParams;
use super::poly::{Factors, Poly, RESIDUE_BITS, Values, check_length};
use super::sample::{self, Uniform};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::{Prg, SEED_BYTES, Wiped};
use crate::simd::residues::pointwise;
use crate::wire::bits::{BitWriter, packed_bytes};
use alloc::vec::Vec;

/// A secret s of R_q with coefficients uniform in {-1, 0, 1}. The client holds it, one per ring; wiped when dropped.
pub struct SecretKey {
    params: &'static RingParams,
    #[cfg(not(feature = "small"))]
    s: Poly<Factors>,
    /// In little memory its coefficients alone, a byte each; its residues are four for each prime.
    #[cfg(feature = "small")]
    s: Wiped<i8>,
}

/// A pair (a, b = e - a·s) of R_q² with a uniform and e a fresh error: an encryption of zero under s.
///
/// The client makes it and the server hides its answers with it (Lyubashevsky, Peikert and Regev, Eurocrypt 2010).
pub struct PublicKey {
    pub(super) a: Poly<Factors>,
    pub(super) b: Poly<Factors>,
}

impl SecretKey {
    /// Draws a key for a ring.
    pub fn generate(params: &'static RingParams, prg: &mut Prg) -> Self {
        let s = sample::ternary(params.degree, prg);
        #[cfg(not(feature = "small"))]
        let s = Poly::from_small(params, &s).into_values().into_factors();
        Self { params, s }
    }

    /// For each prime what values are multiplied by s with.
    #[cfg(not(feature = "small"))]
    pub(super) fn parts(&self) -> impl Iterator<Item = (&'static RnsPrime, &[u32])> {
        self.s.parts()
    }

    /// For each prime what values are multiplied by s with, made when it is asked for.
    #[cfg(feature = "small")]
    pub(super) fn parts(&self) -> impl Iterator<Item = (&'static RnsPrime, Wiped<u32>)> {
        self.params.primes.iter().enumerate().map(|(index, prime)| (prime, self.part(index)))
    }

    /// What values are multiplied by s with, for one prime: a copy.
    #[cfg(not(feature = "small"))]
    pub(super) fn part(&self, index: usize) -> Wiped<u32> {
        let mut part = Wiped::zeros(self.params.degree);
        part.copy_from_slice(self.s.part(index));
        part
    }

    /// What values are multiplied by s with, for one prime, made when it is asked for.
    #[cfg(feature = "small")]
    pub(super) fn part(&self, index: usize) -> Wiped<u32> {
        let prime = &self.params.primes[index];
        let mut part = Wiped::zeros(self.params.degree);
        pointwise::add_small(prime.modulus, &mut part, &self.s);
        prime.forward(&mut part);
        pointwise::to_montgomery(prime.modulus, &mut part);
        part
    }

    /// s itself.
    #[cfg(test)]
    #[allow(clippy::needless_borrow, reason = "in little memory it is no reference")]
    pub(super) fn factors(&self) -> Poly<Factors> {
        let mut out = Poly::zero(self.params);
        out.parts_mut().zip(self.parts()).for_each(|((_, out), (_, part))| out.copy_from_slice(&part));
        out
    }

    /// The ring of this key.
    pub fn params(&self) -> &'static RingParams {
        self.params
    }

    /// A fresh public key of this key, [`PublicKey::bytes`] long: the seed that a expands from, then the values of b.
    pub fn public_key(&self, prg: &mut Prg) -> Vec<u8> {
        join(PublicKey::bytes(self.params), self.public_key_pieces(prg))
    }

    /// [`Self::public_key`] piece by piece.
    pub(crate) fn public_key_pieces(&self, prg: &mut Prg) -> impl Iterator<Item = Vec<u8>> + use<'_> {
        self.seal(|_, _, _| {}, prg)
    }

    /// A fresh symmetric encryption of an already scaled message, piece by piece: a seed for a, then the values of message + e - a·s.
    /// `message` adds its residues modulo the prime of a number to what it is given.
    ///
    /// The seed is output of `prg`, so it says nothing about what else comes from there.
    pub(super) fn seal<M>(&self, message: M, prg: &mut Prg) -> Seal<'_, M>
    where
        M: FnMut(usize, Modulus, &mut [u32]),
    {
        let seed = prg.array::<SEED_BYTES>();
        let errors = sample::errors(self.params.degree, prg);
        let uniform = Uniform::new(&seed);
        Seal { key: self, message, seed: Some(seed), errors, uniform, prime: 0, part: Wiped::zeros(0), written: 0 }
    }

    /// Refuses a key of another ring.
    pub(super) fn expect(&self, params: &'static RingParams) -> Result<()> {
        expect_ring("secret key", self.params(), params)
    }
}

/// Residues of a piece of what [`SecretKey::seal`] writes; all of a prime, where memory is not scarce.
const PIECE: usize = if cfg!(feature = "small") { 1024 } else { usize::MAX };

/// A symmetric encryption on its way out: [`SecretKey::seal`].
pub(super) struct Seal<'a, M> {
    key: &'a SecretKey,
    message: M,
    /// Until it is written.
    seed: Option<[u8; SEED_BYTES]>,
    errors: Wiped<i8>,
    uniform: Uniform,
    /// The number of the next prime; the values for the one before, and how many are written.
    prime: usize,
    part: Wiped<u32>,
    written: usize,
}

impl<M: FnMut(usize, Modulus, &mut [u32])> Seal<'_, M> {
    /// The values of message + e - a·s modulo the next prime.
    fn values(&mut self, index: usize, prime: &RnsPrime) -> Wiped<u32> {
        let (q, n, s) = (prime.modulus, self.key.params.degree, self.key.part(index));
        if cfg!(feature = "small") {
            // One array, for one transform more.
            let mut values = s;
            self.uniform.residues(q.value(), n, |run, a| pointwise::multiply(q, &mut values[run], a));
            prime.inverse(&mut values);
            values.iter_mut().for_each(|x| *x = q.sub(0, *x));
            (self.message)(index, q, &mut values);
            pointwise::add_small(q, &mut values, &self.errors);
            prime.forward(&mut values);
            return values;
        }
        let mut values = Wiped::zeros(n);
        (self.message)(index, q, &mut values);
        pointwise::add_small(q, &mut values, &self.errors);
        prime.forward(&mut values);
        self.uniform.residues(q.value(), n, |run, a| {
            pointwise::sub_product(q, &mut values[run.clone()], a, &s[run]);
        });
        values
    }
}

impl<M: FnMut(usize, Modulus, &mut [u32])> Iterator for Seal<'_, M> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(seed) = self.seed.take() {
            return Some(seed.to_vec());
        }
        if self.written == self.part.len() {
            let prime = self.key.params.primes.get(self.prime)?;
            self.part = Wiped::zeros(0);
            (self.part, self.written, self.prime) = (self.values(self.prime, prime), 0, self.prime + 1);
        }
        // A multiple of eight residues: whole bytes.
        let run = self.written..self.part.len().min(self.written.saturating_add(PIECE));
        self.written = run.end;
        let mut out = BitWriter::with_capacity(packed_bytes(run.len(), RESIDUE_BITS));
        out.put_all(&self.part[run], RESIDUE_BITS);
        Some(out.finish())
    }
}

/// A message of `bytes` bytes from its pieces.
pub(super) fn join(bytes: usize, pieces: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    pieces.for_each(|piece| out.extend_from_slice(&piece));
    out
}

impl PublicKey {
    /// Bytes of a public key on the wire.
    pub fn bytes(params: &RingParams) -> usize {
        sealed_bytes(params)
    }

    /// Reads what [`SecretKey::public_key`] wrote.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedMessage`] if the length differs or a residue is not below its prime.
    pub fn from_bytes(params: &'static RingParams, bytes: &[u8]) -> Result<Self> {
        let (b, a) = open_seal(params, bytes).map_err(|e| e.context("public key"))?;
        Ok(Self { a: a.into_factors(), b: b.into_factors() })
    }

    /// Refuses a key of another ring.
    pub(super) fn expect(&self, params: &'static RingParams) -> Result<()> {
        expect_ring("public key", self.a.params, params)
    }
}

/// Bytes of what [`SecretKey::seal`] writes.
pub(super) fn sealed_bytes(params: &RingParams) -> usize {
    SEED_BYTES + Poly::<Values>::wire_bytes(params)
}

/// Reads what [`SecretKey::seal`] wrote, as (c0, c1): the second half as sent, then the expanded uniform half.
pub(super) fn open_seal(params: &'static RingParams, bytes: &[u8]) -> Result<(Poly<Values>, Poly<Values>)> {
    check_length("ciphertext", sealed_bytes(params), bytes)?;
    let (seed, rest) = bytes.split_at(SEED_BYTES);
    let mut expand = [0; SEED_BYTES];
    expand.copy_from_slice(seed);
    Ok((Poly::read(params, rest)?, Poly::uniform(params, &expand)))
}

fn expect_ring(what: &str, got: &'static RingParams, expected: &'static RingParams) -> Result<()> {
    if core::ptr::eq(got, expected) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        alloc::format!("{what}: expected one of the ring of {}, got one of the ring of {}", expected.name, got.name),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prg::Seed;
    use crate::rlwe::params::{LINEAR, SLOTS};

    #[test]
    fn public_keys_are_read_back_and_malformed_ones_refused() {
        for params in [&LINEAR, &SLOTS] {
            let mut prg = Prg::new(&Seed::from_bytes([3; 32]));
            let key = SecretKey::generate(params, &mut prg);
            let bytes = key.public_key(&mut prg);
            assert_eq!(bytes.len(), PublicKey::bytes(params));
            assert!(PublicKey::from_bytes(params, &bytes).is_ok());
            let mut long = bytes.clone();
            long.push(0);
            let mut above = bytes.clone();
            above[SEED_BYTES..SEED_BYTES + 4].fill(0xff);
            for bad in [&[][..], &bytes[..31], &bytes[..bytes.len() - 1], &long, &above] {
                let error = PublicKey::from_bytes(params, bad).err().unwrap();
                assert_eq!(error.kind(), ErrorKind::MalformedMessage);
            }
        }
    }

    #[test]
    fn a_key_of_the_other_ring_is_refused() {
        let mut prg = Prg::new(&Seed::from_bytes([3; 32]));
        let key = SecretKey::generate(&SLOTS, &mut prg);
        assert_eq!(key.expect(&LINEAR).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert!(key.expect(&SLOTS).is_ok());
    }
}
