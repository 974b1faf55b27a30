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
use crate::rlwe::keys::SecretKey;
use crate::rlwe::params::LINEAR;
use crate::rlwe::poly::{Coefficients, Poly, Values, check_length};
use crate::rlwe::sample;
use crate::rlwe::split::{REST_BITS, Split, encoding, split};
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
    check(key, packing, mask, index)?;
    Ok(Sample::draw(key, prg).carry(packing, index, fresh, mask).write())
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
    Ok(threads.map(carried, |request| request.write()))
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
        let mut z = Poly::<Values>::zero(&LINEAR);
        z.add_uniform_product(&seed, key.parts());
        let mut z = z.into_coefficients();
        // Errors are as likely as their negatives.
        z.add_small(0, &sample::errors(LINEAR.degree, prg));
        Self { seed, digits: split(&z) }
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
        Request { sample: self, words, brought }
    }
}

/// A sample with the words r that it hides, and where these are its own.
struct Request {
    sample: Sample,
    words: SecretVec<u32>,
    brought: Vec<bool>,
}

impl Request {
    fn write(&self) -> Vec<u8> {
        let Self { sample: Sample { seed, digits }, words, brought } = self;
        let count = brought.iter().filter(|&&brought| brought).count();
        let mut out = BitWriter::with_capacity(bytes(count));
        for chunk in seed.as_chunks::<8>().0 {
            out.put(u64::from_le_bytes(*chunk), 64);
        }
        let sent = words.iter().zip(digits.words.iter()).zip(digits.rests.iter());
        let rests = sent.map(|((&r, &rho), rest)| rest.wrapping_add(1).wrapping_add(rounding(r, rho)));
        out.put_all(&rests.collect::<Vec<_>>(), REST_BITS);
        let apart = words.iter().zip(digits.words.iter()).map(|(r, rho)| r.wrapping_sub(*rho));
        let apart = apart.zip(brought).filter(|(_, brought)| !**brought).map(|(apart, _)| apart);
        out.put_all(&apart.collect::<Vec<_>>(), WORD_BITS);
        out.finish()
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
