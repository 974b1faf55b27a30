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
pub use request::encrypt_request;
#[cfg(test)]
pub(in crate::rlwe) use request::read as read_request;
pub use server::{Keep, LinearResponder, LinearWeights, MAX_WEIGHT, choose_within_budget, linear_noise_bound};

use super::encode::decode_word;
use super::keys::SecretKey;
use super::params::LINEAR;
use super::switch::Switched;
use crate::error::{Error, ErrorKind, Result};

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
    key.expect(&LINEAR)?;
    check_index("answer", index, packing.response_ciphertexts())?;
    check_outputs(packing, output_mask)?;
    let answer = Switched::read(&LINEAR, packing.answer_bits(), packing.response_outputs_count(index), bytes)
        .map_err(|e| e.context(format_args!("answer {index}")))?;
    let decrypted = answer.decrypt(&key.s, packing.output_places(index));
    let mut decrypted = decrypted.iter();
    for run in packing.output_runs(index) {
        for (output, &v) in output_mask[run.outputs].iter_mut().zip(&mut decrypted) {
            *output = decode_word(v, packing.shape().word_bits);
        }
    }
    Ok(())
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
