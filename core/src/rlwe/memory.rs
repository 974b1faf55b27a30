//! What the client's operations take of the heap while they run, in bytes: measured sums of what they allocate, by build.

use super::params::RingParams;
use crate::session::Build;

/// What stays of a secret key.
pub(crate) fn key(ring: &RingParams, build: Build) -> u64 {
    let n = ring.degree as u64;
    match build {
        Build::Small => n,
        Build::Hosted => 4 * n * ring.primes.len() as u64,
    }
}

/// To make and send a public key.
pub(crate) fn public_key(ring: &RingParams, build: Build) -> u64 {
    let n = ring.degree as u64;
    match build {
        Build::Small => 5 * n + SMALL_BUFFERS,
        Build::Hosted => 4 * n * (3 * ring.primes.len() as u64 + 4),
    }
}

/// Pieces of messages, generators.
const SMALL_BUFFERS: u64 = 16 << 10;

/// A request of a linear layer.
pub(crate) fn request(build: Build) -> u64 {
    match build {
        Build::Small => (84 << 10) + SMALL_BUFFERS,
        Build::Hosted => 272 << 10,
    }
}

/// An answer of a linear layer.
pub(crate) fn answer(build: Build) -> u64 {
    match build {
        Build::Small => (48 << 10) + SMALL_BUFFERS,
        Build::Hosted => 192 << 10,
    }
}

/// So many requests of products at a time, of a run of factors.
pub(crate) fn slot_request(pieces: u64, factors: u64, build: Build) -> u64 {
    match build {
        // Factors, as words, are gone when they are packed.
        Build::Small => (104 << 10).max(factors.min(64 << 10) + (64 << 10)) + SMALL_BUFFERS,
        Build::Hosted => factors + pieces * (448 << 10),
    }
}

/// An answer of products.
pub(crate) fn slot_answer(build: Build) -> u64 {
    match build {
        Build::Small => (96 << 10) + SMALL_BUFFERS,
        Build::Hosted => 320 << 10,
    }
}
