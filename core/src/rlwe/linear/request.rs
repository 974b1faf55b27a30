//! A request: a symmetric encryption of inputs under the client's key, and what of it is sent.
//!
//! A ciphertext is (c0, a), a uniform and expanded from a seed that is sent, with c0 + a·s = e(r) + error, e the encoding of words.
//! With z = a·s - error = e(rho) + delta ([`crate::rlwe::split`]), rho a word and delta of 61 bits, coefficient by coefficient:
//!
//! - where the mask r is still to be chosen (a *fresh* place), it is chosen to be rho; c0 = -delta, and delta is all that is sent. To the
//!   server (a, z) is a sample of RLWE and so as good as uniform, and rho, its upper digit, uniform whatever the lower one is;
//! - elsewhere, where r is known already or zero, h = r - rho modulo 2^32 is sent too: c0 = e(r) - e(rho) - delta, and e(h) differs from
//!   e(r) - e(rho) modulo q by at most 1, which is added to delta before it is sent.
//!
//! On the wire: the seed; for every coefficient delta + 1 and what was added; then h for each place that is not fresh.

use super::check_index;
use super::packing::LinearPacking;
use crate::error::{Error, ErrorKind, Result};
use crate::prg::{Prg, SEED_BYTES, SecretVec};
use crate::rlwe::encrypt::Ciphertext;
use crate::rlwe::keys::{SecretKey, join};
use crate::rlwe::params::LINEAR;
use crate::rlwe::poly::{Coefficients, Poly, Values, check_length};
use crate::rlwe::sample::{self, Uniform};
use crate::rlwe::split::{REST_BITS, Split, Splitter, encoding};
use crate::simd::residues::pointwise;
use crate::threads::Threads;
use crate::wire::bits::{BitReader, BitWriter, packed_bytes};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use zeroize::Zeroizing;

/// Bits of h.
const WORD_BITS: u32 = 32;

/// Bytes of a request with so many fresh places.
pub(super) const fn bytes(fresh: usize) -> usize {
    let n = LINEAR.degree;
    SEED_BYTES + packed_bytes(n, REST_BITS) + packed_bytes(n - fresh, WORD_BITS)
}

/// Client: request `index` of a layer, an encryption of M planes of a tile of the mask r of the layer's input.
///
/// `mask` is the whole of r, channel by channel. Of the channels that `fresh` tells of (one flag per input channel, or an empty slice for
/// none), r is chosen here: the words of those inputs that no request of lower index holds are written. All requests of a layer
/// must be made in order, each once, before r is used. [`LinearPacking::request_bytes`] long.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if there is no such request, the mask has not the input's length or the key is of another ring.
pub fn encrypt_request(
    key: &SecretKey,
    packing: &LinearPacking,
    fresh: &[bool],
    mask: &mut [u32],
    index: usize,
    prg: &mut Prg,
) -> Result<Vec<u8>> {
    let pieces = request(key, packing, fresh, mask, index, prg)?;
    Ok(join(packing.request_bytes(index, fresh), pieces))
}

/// [`encrypt_request`] piece by piece, at the exact length of [`LinearPacking::request_bytes`] in all. The mask is written before the
/// first is taken.
///
/// # Errors
/// As [`encrypt_request`].
pub(crate) fn request(
    key: &SecretKey,
    packing: &LinearPacking,
    fresh: &[bool],
    mask: &mut [u32],
    index: usize,
    prg: &mut Prg,
) -> Result<impl Iterator<Item = Vec<u8>> + use<>> {
    check(key, packing, mask, index)?;
    Ok(Sample::draw(key, prg).carry(packing, index, fresh, mask))
}

/// Client: several requests as [`encrypt_request`] makes them one after another, each from a generator of its own, forked from `prg` in their
/// order. The threads do all but carry words from and to the mask.
///
/// # Errors
/// As [`encrypt_request`].
pub fn encrypt_requests(
    threads: &Threads,
    key: &SecretKey,
    packing: &LinearPacking,
    fresh: &[bool],
    mask: &mut [u32],
    indices: Range<usize>,
    prg: &mut Prg,
) -> Result<Vec<Vec<u8>>> {
    indices.clone().try_for_each(|index| check(key, packing, mask, index))?;
    let generators: Vec<Prg> = indices.clone().map(|_| prg.fork()).collect();
    let samples = threads.map(generators, |mut prg| Sample::draw(key, &mut prg));
    let carried: Vec<Request> = indices.zip(samples).map(|(i, sample)| sample.carry(packing, i, fresh, mask)).collect();
    Ok(threads.map(carried, |request| join(request.bytes(), request)))
}

fn check(key: &SecretKey, packing: &LinearPacking, mask: &[u32], index: usize) -> Result<()> {
    key.expect(&LINEAR)?;
    check_index("request", index, packing.request_ciphertexts())?;
    if mask.len() != packing.inputs() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            alloc::format!("input mask: expected {} values, got {}", packing.inputs(), mask.len()),
        ));
    }
    Ok(())
}

/// A sample of RLWE: the seed of a, and z = a·s - error in digits.
struct Sample {
    seed: [u8; SEED_BYTES],
    digits: Split,
}

impl Sample {
    fn draw(key: &SecretKey, prg: &mut Prg) -> Self {
        let seed = prg.array::<SEED_BYTES>();
        let errors = sample::errors(LINEAR.degree, prg);
        let (mut uniform, mut digits) = (Uniform::new(&seed), Splitter::new());
        for (index, prime) in LINEAR.primes.iter().enumerate() {
            let mut z = key.part(index);
            uniform.residues(prime.value(), LINEAR.degree, |run, a| {
                pointwise::multiply(prime.modulus, &mut z[run], a);
            });
            prime.inverse(&mut z);
            // Errors are as likely as their negatives.
            pointwise::add_small(prime.modulus, &mut z, &errors);
            digits.add(index, &z);
        }
        Self { seed, digits: digits.finish() }
    }

    /// Takes the words of request `index` from the mask, and writes there those that it brings.
    fn carry(self, packing: &LinearPacking, index: usize, fresh: &[bool], mask: &mut [u32]) -> Request {
        let mut words = Zeroizing::new(vec![0u32; LINEAR.degree]);
        let mut brought = vec![false; LINEAR.degree];
        for run in packing.input_runs(index) {
            let (words, inputs) = (&mut words[run.places.clone()], run.inputs());
            if run.is_fresh(fresh) {
                brought[run.places.clone()].fill(true);
                words.copy_from_slice(&self.digits.words[run.places]);
                inputs.zip(words).for_each(|(input, word)| mask[input] = *word);
            } else {
                inputs.zip(words).for_each(|(input, word)| *word = mask[input]);
            }
        }
        Request { sample: self, words, brought, written: None }
    }
}

/// A sample with the words r that it hides, and where these are its own. Gives its message piece by piece.
struct Request {
    sample: Sample,
    words: SecretVec<u32>,
    brought: Vec<bool>,
    /// None before the seed is written; then how many coefficients are: of their second parts first, then of the first.
    written: Option<usize>,
}

/// Coefficients of a piece of a message; all, where memory is not scarce.
pub(super) const PIECE: usize = if cfg!(feature = "small") { 512 } else { LINEAR.degree };

impl Request {
    /// Bytes of the message.
    fn bytes(&self) -> usize {
        bytes(self.brought.iter().filter(|&&brought| brought).count())
    }
}

impl Iterator for Request {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let n = LINEAR.degree;
        let Some(written) = self.written else {
            self.written = Some(0);
            return Some(self.sample.seed.to_vec());
        };
        if written >= 2 * n {
            return None;
        }
        self.written = Some(written + PIECE);
        let run = written % n..written % n + PIECE;
        let (words, digits) = (&self.words[run.clone()], &self.sample.digits);
        let pairs = words.iter().zip(&digits.words[run.clone()]);
        let mut out = BitWriter::default();
        if written < n {
            let rests = pairs.zip(&digits.rests[run]);
            let rests = rests.map(|((&r, &rho), rest)| rest.wrapping_add(1).wrapping_add(rounding(r, rho)));
            out.put_all(&rests.collect::<Vec<_>>(), REST_BITS);
        } else {
            let apart = pairs.map(|(r, rho)| r.wrapping_sub(*rho)).zip(&self.brought[run]);
            let apart = apart.filter(|(_, brought)| !**brought).map(|(apart, _)| apart);
            out.put_all(&apart.collect::<Vec<_>>(), WORD_BITS);
        }
        Some(out.finish())
    }
}

/// e(h) - (e(r) - e(rho)) modulo q for h = r - rho: -1, 0 or 1, modulo 2^64.
fn rounding(r: u32, rho: u32) -> u64 {
    let wrapped = u64::from(r < rho).wrapping_neg() & encoding(1 << 32);
    let apart = encoding(r.into()).wrapping_sub(encoding(rho.into())).wrapping_add(wrapped);
    encoding(r.wrapping_sub(rho).into()).wrapping_sub(apart)
}

/// Server: reads what [`encrypt_request`] wrote.
///
/// # Errors
/// [`ErrorKind::MalformedMessage`] if it is not as long as it should be, or bits that fill it up are not zero.
pub(in crate::rlwe) fn read(
    packing: &LinearPacking,
    index: usize,
    fresh: &[bool],
    message: &[u8],
) -> Result<Ciphertext<Values>> {
    let Unpacked { c0, c1 } = unpack(packing, index, fresh, message)?;
    Ok(Ciphertext { c0: c0.into_values(), c1 })
}

/// A request whose first half is not yet transformed.
pub(super) struct Unpacked {
    pub(super) c0: Poly<Coefficients>,
    pub(super) c1: Poly<Values>,
}

/// [`read`] without the transform.
pub(super) fn unpack(packing: &LinearPacking, index: usize, fresh: &[bool], message: &[u8]) -> Result<Unpacked> {
    let mut brought = vec![false; LINEAR.degree];
    for run in packing.input_runs(index).filter(|run| run.is_fresh(fresh)) {
        brought[run.places].fill(true);
    }
    let count = brought.iter().filter(|&&brought| brought).count();
    check_length("request", bytes(count), message)?;
    let (seed, rest) = message.split_at(SEED_BYTES);
    let mut expand = [0; SEED_BYTES];
    expand.copy_from_slice(seed);
    let (rests, words) = rest.split_at(packed_bytes(LINEAR.degree, REST_BITS));
    let (mut rests, mut words) = (BitReader::new(rests), BitReader::new(words));
    let (mut second, mut some, mut first) =
        (vec![0; LINEAR.degree], vec![0u32; LINEAR.degree - count], vec![0; LINEAR.degree]);
    rests.take_all(REST_BITS, &mut second, |rest| rest);
    words.take_all(WORD_BITS, &mut some, |word| word as u32);
    rests.finish()?;
    words.finish()?;
    let places = first.iter_mut().zip(brought).filter(|(_, brought)| !brought);
    places.zip(some).for_each(|((first, _), word)| *first = word);
    let c0 = Poly::<Coefficients>::sealed(&LINEAR, &first, &second);
    Ok(Unpacked { c0, c1: Poly::uniform(&LINEAR, &expand) })
}
