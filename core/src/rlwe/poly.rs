//! Elements of R_q as residues: structure of arrays, one array of N residues per prime, wiped when dropped.

use super::encode::WORD_SCALE;
use super::modulus::Modulus;
use super::ntt::RnsPrime;
use super::params::RingParams;
use super::sample::{self, Flooding};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::Wiped;
use crate::simd::residues::pointwise;
use crate::wire::bits::{BitReader, packed_bytes};
use core::marker::PhantomData;
use core::ops::Range;

/// Bits of a residue on the wire.
pub(super) const RESIDUE_BITS: u32 = 31;

/// The residues are coefficients.
pub(super) enum Coefficients {}
/// The residues are values at the roots of X^N + 1, in the order of [`super::ntt`].
pub(super) enum Values {}
/// The residues are values times 2^32 (Montgomery), ready to be multiplied by.
pub(super) enum Factors {}

/// An element of R_q. `Form` says what its residues, always in [0, q_i), stand for.
pub(super) struct Poly<Form> {
    pub(super) params: &'static RingParams,
    residues: Wiped<u32>,
    form: PhantomData<fn() -> Form>,
}

/// Bytes that an element takes in memory.
pub(super) fn element_bytes(params: &RingParams) -> usize {
    params.degree * params.primes.len() * size_of::<u32>()
}

impl<Form> Poly<Form> {
    pub(super) fn zero(params: &'static RingParams) -> Self {
        let residues = Wiped::zeros(params.degree * params.primes.len());
        Self { params, residues, form: PhantomData }
    }

    /// Each prime with its N residues.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&'static RnsPrime, &[u32])> {
        self.params.primes.iter().zip(self.residues.chunks_exact(self.params.degree))
    }

    /// Each prime with its N residues, to be changed.
    pub(super) fn parts_mut(&mut self) -> impl Iterator<Item = (&'static RnsPrime, &mut [u32])> {
        self.params.primes.iter().zip(self.residues.chunks_exact_mut(self.params.degree))
    }

    /// The N residues modulo prime `index`.
    pub(super) fn part(&self, index: usize) -> &[u32] {
        &self.residues[index * self.params.degree..][..self.params.degree]
    }

    /// The same, to be changed.
    pub(super) fn part_mut(&mut self, index: usize) -> &mut [u32] {
        &mut self.residues[index * self.params.degree..][..self.params.degree]
    }

    fn map(mut self, f: impl Fn(&'static RnsPrime, &mut [u32])) -> Self {
        for (prime, part) in self.parts_mut() {
            f(prime, part);
        }
        self
    }

    fn into_form<Other>(self) -> Poly<Other> {
        Poly { params: self.params, residues: self.residues, form: PhantomData }
    }
}

impl Poly<Coefficients> {
    /// The polynomial of N small signed coefficients.
    pub(super) fn from_small(params: &'static RingParams, small: &[i8]) -> Self {
        let mut out = Self::zero(params);
        out.add_small(0, small);
        out
    }

    /// Adds small signed numbers to the coefficients from number `first` on.
    pub(super) fn add_small(&mut self, first: usize, small: &[i8]) {
        for (prime, part) in self.parts_mut() {
            pointwise::add_small(prime.modulus, &mut part[first..], small);
        }
    }

    /// The polynomial of coefficients 1 - rest + e, e the encoding of a word, for rests below 2^61.
    pub(super) fn sealed(params: &'static RingParams, words: &[u32], rests: &[u64]) -> Self {
        let mut out = Self::zero(params);
        for (prime, part) in out.parts_mut() {
            pointwise::sealed(prime.modulus, part, words, rests, WORD_SCALE);
        }
        out
    }

    /// Adds the encodings of words to the coefficients from number `first` on.
    pub(super) fn add_words(&mut self, first: usize, words: &[u32]) {
        for (prime, part) in self.parts_mut() {
            pointwise::add_words(prime.modulus, &mut part[first..], words, WORD_SCALE);
        }
    }

    /// Adds flooding to the coefficients from number `first` on.
    pub(super) fn add_flooding(&mut self, first: usize, flooding: &Flooding) {
        let Flooding { bits, low, mid, top } = flooding;
        for (prime, part) in self.parts_mut() {
            pointwise::add_limbs(prime.modulus, &mut part[first..], low, mid, top, *bits);
        }
    }

    /// Makes all coefficients zero but these.
    pub(super) fn keep(&mut self, range: &Range<usize>) {
        for (_, part) in self.parts_mut() {
            part[..range.start].fill(0);
            part[range.end..].fill(0);
        }
    }

    /// Adds at coefficient `position` the integer whose residues `residue` gives.
    pub(super) fn add_at(&mut self, position: usize, residue: impl Fn(usize, Modulus) -> u32) {
        for (i, (prime, part)) in self.parts_mut().enumerate() {
            part[position] = prime.modulus.add(part[position], residue(i, prime.modulus));
        }
    }

    pub(super) fn into_values(self) -> Poly<Values> {
        self.map(|prime, part| prime.forward(part)).into_form()
    }
}

impl Poly<Values> {
    /// Becomes the polynomial of N small signed coefficients.
    pub(super) fn set(&mut self, small: &[i16]) {
        for (prime, part) in self.parts_mut() {
            pointwise::residues(prime.modulus, part, small);
            prime.forward(part);
        }
    }

    pub(super) fn into_coefficients(self) -> Poly<Coefficients> {
        self.map(|prime, part| prime.inverse(part)).into_form()
    }

    pub(super) fn into_factors(self) -> Poly<Factors> {
        self.map(|prime, part| pointwise::to_montgomery(prime.modulus, part)).into_form()
    }

    /// self + x·y.
    pub(super) fn add_product(&mut self, x: &Self, y: &Poly<Factors>) {
        for (((prime, sum), (_, x)), (_, y)) in self.parts_mut().zip(x.parts()).zip(y.parts()) {
            pointwise::add_product(prime.modulus, sum, x, y);
        }
    }

    /// self·w for a public integer w of at most 2^16.
    pub(super) fn scaled(self, w: u32) -> Self {
        if w == 1 {
            return self;
        }
        self.map(|prime, part| {
            pointwise::scale(prime.modulus, part, prime.modulus.factor(w));
        })
    }

    /// self - x·y.
    #[cfg(test)]
    pub(super) fn sub_product(&mut self, x: &Self, y: &Poly<Factors>) {
        for (((prime, sum), (_, x)), (_, y)) in self.parts_mut().zip(x.parts()).zip(y.parts()) {
            pointwise::sub_product(prime.modulus, sum, x, y);
        }
    }

    /// The uniform element that a public seed expands to. A uniform element has uniform values, so these are drawn directly.
    pub(super) fn uniform(params: &'static RingParams, seed: &[u8; 32]) -> Self {
        let mut prg = sample::public_prg(seed);
        let mut out = Self::zero(params);
        for (prime, part) in out.parts_mut() {
            sample::uniform_residues_vartime(prime.value(), part, &mut prg);
        }
        out
    }

    /// Bytes of an element on the wire.
    pub(super) fn wire_bytes(params: &RingParams) -> usize {
        packed_bytes(params.degree * params.primes.len(), RESIDUE_BITS)
    }

    /// Reads the values of all primes, 31 bits each, and nothing else.
    pub(super) fn read(params: &'static RingParams, bytes: &[u8]) -> Result<Self> {
        check_length("ring element", Self::wire_bytes(params), bytes)?;
        let mut reader = BitReader::new(bytes);
        let mut out = Self::zero(params);
        for (prime, part) in out.parts_mut() {
            reader.take_all(RESIDUE_BITS, part, |x| x as u32);
            if !part.iter().fold(true, |below, &x| below & (x < prime.value())) {
                return Err(Error::new(
                    ErrorKind::MalformedMessage,
                    alloc::format!("ring element: expected residues below {}, got others", prime.value()),
                ));
            }
        }
        reader.finish()?;
        Ok(out)
    }
}

/// Refuses a message that is not `expected` bytes long.
pub(super) fn check_length(what: &str, expected: usize, bytes: &[u8]) -> Result<()> {
    if bytes.len() == expected {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::MalformedMessage,
        alloc::format!("{what}: expected {expected} bytes, got {}", bytes.len()),
    ))
}
