//! Noise measured against its bound, decryption at the edge of the budget, and attempts to read the weights off an answer.

mod leak;
mod margin;

use super::encode::Word;
use super::encrypt::Ciphertext;
use super::linear::read_request;
use super::params::RingParams;
use super::poly::{Coefficients, Poly};
use super::*;
use crate::prg::{Prg, Seed};
use alloc::vec::Vec;

fn prg(seed: u64) -> Prg {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8] = 0x5a;
    Prg::new(&Seed::from_bytes(bytes))
}

fn modulus(params: &RingParams) -> u128 {
    params.primes.iter().map(|p| u128::from(p.value())).product()
}

/// The coefficients as integers of least magnitude modulo q.
fn lift(poly: &Poly<Coefficients>) -> Vec<i128> {
    let params = poly.params;
    let q = modulus(params);
    let mut sums = alloc::vec![0u128; params.degree];
    for ((prime, part), crt) in poly.parts().zip(params.crt) {
        for (sum, &x) in sums.iter_mut().zip(part) {
            // Below q < 2^124 each, so the sum of four is below 2^126.
            *sum += u128::from(prime.modulus.mul(x, crt.cofactor)) * (q / u128::from(prime.value()));
        }
    }
    sums.iter().map(|sum| sum % q).map(|x| if x > q / 2 { x as i128 - q as i128 } else { x as i128 }).collect()
}

/// c0 + c1·s modulo q.
fn phase(key: &SecretKey, c: Ciphertext<Coefficients>) -> Poly<Coefficients> {
    let mut sum = c.c0.into_values();
    sum.add_product(&c.c1.into_values(), &key.factors());
    sum.into_coefficients()
}

/// The noise of a linear answer at its outputs: what decrypts beyond the encoding of `m`.
fn noise_at(mut phase: Poly<Coefficients>, places: &[usize], m: &[u32]) -> Vec<i128> {
    for (&place, &m) in places.iter().zip(m) {
        let encoded = Word::new(m);
        phase.add_at(place, |prime, q| q.sub(0, encoded.residue(prime, q)));
    }
    let lifted = lift(&phase);
    places.iter().map(|&place| lifted[place]).collect()
}

fn keys(params: &'static RingParams, prg: &mut Prg) -> (SecretKey, PublicKey) {
    let key = SecretKey::generate(params, prg);
    let public = PublicKey::from_bytes(params, &key.public_key(prg)).unwrap();
    (key, public)
}

fn layer(channels: usize, size: usize, out: usize, kernel: usize) -> ConvShape {
    ConvShape {
        in_channels: channels,
        in_height: size,
        in_width: size,
        out_channels: out,
        groups: 1,
        kernel_height: kernel,
        kernel_width: kernel,
        dilation_height: 1,
        dilation_width: 1,
        stride_height: 1,
        stride_width: 1,
        pad_top: 0,
        pad_left: 0,
        pad_bottom: 0,
        pad_right: 0,
        word_bits: 32,
    }
}

/// A request's errors, as the client knows them: what its own ciphertext decrypts to beyond the encoding of r.
fn request_errors(key: &SecretKey, packing: &LinearPacking, request: &[u8], index: usize, r: &[u32]) -> Vec<i128> {
    let ciphertext = read_request(packing, index, &[], request).unwrap().into_coefficients();
    let mut message = alloc::vec![0; LINEAR.degree];
    for run in packing.input_runs(index) {
        run.places.clone().zip(run.inputs()).for_each(|(place, input)| message[place] = r[input]);
    }
    let places: Vec<usize> = (0..LINEAR.degree).collect();
    noise_at(phase(key, ciphertext), &places, &message)
}

/// A request of a layer without fresh channels.
fn bound_request(
    key: &SecretKey,
    packing: &LinearPacking,
    r: &[u32],
    index: usize,
    prg: &mut Prg,
) -> crate::Result<Vec<u8>> {
    encrypt_request(key, packing, &[], &mut r.to_vec(), index, prg)
}
