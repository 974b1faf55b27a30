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
        Build::Small => 9 * n + SMALL_BUFFERS,
        Build::Hosted => 4 * n * (3 * ring.primes.len() as u64 + 4),
    }
}

/// Pieces of messages, generators.
const SMALL_BUFFERS: u64 = 16 << 10;

/// A request of a linear layer.
pub(crate) fn request(build: Build) -> u64 {
    match build {
        Build::Small => (84 << 10) + SMALL_BUFFERS,
        Build::Hosted => 320 << 10,
    }
}

/// An answer of a linear layer.
pub(crate) fn answer(build: Build) -> u64 {
    match build {
        Build::Small => (48 << 10) + SMALL_BUFFERS,
        Build::Hosted => 256 << 10,
    }
}

/// A request of products.
pub(crate) fn slot_request(build: Build) -> u64 {
    match build {
        Build::Small => (112 << 10) + SMALL_BUFFERS,
        Build::Hosted => 640 << 10,
    }
}

/// An answer of products.
pub(crate) fn slot_answer(build: Build) -> u64 {
    match build {
        Build::Small => (104 << 10) + SMALL_BUFFERS,
        Build::Hosted => 512 << 10,
    }
}
