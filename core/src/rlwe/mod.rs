//! Ring-LWE encryption: linear layers and slot products on encrypted masks.
//!
//! Two rings R_q = Z_q\[X\]/(X^N + 1) with the same kind of modulus (a product of 31-bit primes, values kept as residues):
//! one for linear layers, whose plaintexts are coefficients modulo 2^32, and one for slot products, whose plaintexts are
//! N values of a prime field. [`params`] holds their parameters and says what they rest on.
//!
//! In both uses the client encrypts under its own key ([`keys::SecretKey`]) and the server multiplies by its own
//! plaintext and answers. Both answers go through the same steps in the same order, in `encrypt`: add a fresh encryption
//! of zero, add the server's mask, add flooding noise, all modulo the full q; only then switch to a smaller modulus and send.

mod encode;
mod encrypt;
pub mod keys;
pub mod linear;
pub(crate) mod memory;
pub mod noise;
pub mod ntt;
pub mod params;
mod poly;
mod sample;
pub mod slots;
mod split;
mod switch;

use crate::simd::residues::modulus;

#[cfg(test)]
mod tests;

pub use keys::{PublicKey, SecretKey};
pub use linear::{ConvShape, Keep, LinearPacking, LinearResponder, LinearWeights, decrypt_response, encrypt_request};
pub use params::{LINEAR, RingParams, SLOT_PRIME, SLOTS};
pub use slots::{decrypt_slots, encrypt_slots, multiply_slots, slot_request_bytes, slot_response_bytes};
