//! Linear layers on encrypted masks: the client's mask r goes in, W·r + s comes out, s the server's fresh uniform mask.
//!
//! The client sends [`encrypt_request`] for each request ciphertext. The server feeds them to a [`LinearResponder`] and sends its
//! answers. The client's [`decrypt_response`] gives m = W·r + s modulo 2^32, exactly.

mod axis;
mod interleaved;
mod packing;
mod request;
mod server;
#[doc(hidden)]
pub mod stages;

#[cfg(test)]
pub(in crate::rlwe) use packing::Layout;
pub use packing::{ConvShape, LinearPacking, MIN_WORD_BITS};
#[cfg(test)]
pub(in crate::rlwe) use request::read as read_request;
pub(crate) use request::request;
pub use request::{encrypt_request, encrypt_requests};
pub use server::{Keep, LinearResponder, LinearWeights, MAX_WEIGHT, choose_within_budget, linear_noise_bound};

use super::encode::decode_word;
use super::keys::SecretKey;
use super::params::LINEAR;
use super::poly::check_length;
use super::switch::{self, Opening};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::SecretVec;
use crate::threads::Threads;
use alloc::vec::Vec;

/// Client: decrypts answer `index` to its part of m = W·r + s.
///
/// `output_mask` is the whole of m; the answer's part, [`LinearPacking::response_outputs`], is written, modulo 2^k for words of k bits.
///
/// # Errors
/// [`ErrorKind::MalformedMessage`] if the answer is not [`LinearPacking::response_bytes`] long; [`ErrorKind::InvalidArgument`] if
/// there is no such answer, `output_mask` has not the output's length or the key is of another ring. Nothing is written then.
pub fn decrypt_response(
    key: &SecretKey,
    packing: &LinearPacking,
    index: usize,
    bytes: &[u8],
    output_mask: &mut [u32],
) -> Result<()> {
    decrypt_responses(&Threads::default(), key, packing, index, &[bytes], output_mask)
}

/// Client: decrypts answers in a row, from number `first` on, as [`decrypt_response`] does one.
///
/// # Errors
/// As [`decrypt_response`], of the first that is wrong.
pub fn decrypt_responses(
    threads: &Threads,
    key: &SecretKey,
    packing: &LinearPacking,
    first: usize,
    answers: &[impl AsRef<[u8]> + Sync],
    output_mask: &mut [u32],
) -> Result<()> {
    check_outputs(packing, output_mask)?;
    let decrypted = threads.map((first..).zip(answers), |(index, bytes)| decrypt(key, packing, index, bytes.as_ref()));
    let decrypted = decrypted.into_iter().collect::<Result<Vec<_>>>()?;
    for (index, words) in (first..).zip(decrypted) {
        write_outputs(packing, index, &words, output_mask);
    }
    Ok(())
}

/// The words that answer `index` brings.
fn decrypt(key: &SecretKey, packing: &LinearPacking, index: usize, bytes: &[u8]) -> Result<SecretVec<u32>> {
    let mut answer = Answer::new(key, packing, index)?;
    check_length("answer", packing.response_bytes(index), bytes)
        .map_err(|e| e.context(format_args!("answer {index}")))?;
    let mut rest = bytes;
    for bytes in answer.pieces() {
        let (piece, later) = rest.split_at(bytes);
        answer.absorb(piece)?;
        rest = later;
    }
    Ok(answer.words)
}

/// Client: an answer of a layer being decrypted, piece by piece.
pub(crate) struct Answer<'a> {
    opening: Opening<'a>,
    packing: &'a LinearPacking,
    index: usize,
    /// The words that have come.
    words: SecretVec<u32>,
    count: usize,
}

impl<'a> Answer<'a> {
    /// Answer `index` of a layer.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if there is no such answer or the key is of another ring.
    pub(crate) fn new(key: &'a SecretKey, packing: &'a LinearPacking, index: usize) -> Result<Self> {
        key.expect(&LINEAR)?;
        check_index("answer", index, packing.response_ciphertexts())?;
        let count = packing.response_outputs_count(index);
        let words = SecretVec::new(Vec::with_capacity(count));
        Ok(Self { opening: Opening::new(key, packing.answer_bits()), packing, index, words, count })
    }

    /// Bytes of the pieces in which it is taken, [`LinearPacking::response_bytes`] in all.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = usize> + Clone + use<> {
        switch::pieces(&LINEAR, self.packing.answer_bits(), self.count)
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedMessage`] if it has another length, or bits that fill it up are not zero.
    pub(crate) fn absorb(&mut self, piece: &[u8]) -> Result<()> {
        let done = self.words.len();
        let count = (self.count - done).min(switch::PIECE);
        let c0 = self.opening.absorb(piece, count).map_err(|e| e.context(format_args!("answer {}", self.index)))?;
        if let Some(c0) = c0 {
            let places = self.packing.output_places(self.index).skip(done);
            let values = self.opening.values(&c0, places.take(count));
            let bits = self.packing.shape().word_bits;
            self.words.extend(values.iter().map(|&v| decode_word(v, bits)));
        }
        Ok(())
    }

    /// Writes its outputs to where they are in the whole of m, once all pieces are there.
    pub(crate) fn finish(self, output_mask: &mut [u32]) {
        write_outputs(self.packing, self.index, &self.words, output_mask);
    }
}

/// Writes an answer's outputs, in its order, to where they are in the whole output.
fn write_outputs(packing: &LinearPacking, index: usize, mut words: &[u32], output: &mut [u32]) {
    for run in packing.output_runs(index) {
        let (own, rest) = words.split_at(run.outputs.len());
        output[run.outputs].copy_from_slice(own);
        words = rest;
    }
}

fn check_index(what: &str, index: usize, count: usize) -> Result<()> {
    if index < count {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidArgument, alloc::format!("{what}: expected one of {count}, got number {index}")))
}

fn check_outputs(packing: &LinearPacking, outputs: &[u32]) -> Result<()> {
    if outputs.len() == packing.outputs() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        alloc::format!("output mask: expected {} values, got {}", packing.outputs(), outputs.len()),
    ))
}

#[cfg(test)]
mod tests;
