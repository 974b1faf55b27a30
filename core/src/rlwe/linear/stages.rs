//! The server's work of a layer stage by stage, for the benchmark that compares each stage with what the machine could do.
//!
//! The same steps as those of [`super::LinearResponder`], in the same order, with a call between them; a test compares the answers.

use super::packing::LinearPacking;
use super::request;
use super::server::{LinearResponder, LinearWeights};
use crate::error::Result;
use crate::prg::Prg;
use crate::rlwe::encrypt::Ciphertext;
use crate::rlwe::keys::PublicKey;
use crate::rlwe::params::LINEAR;
use crate::rlwe::poly::{Poly, element_bytes};
use crate::rlwe::sample;
use crate::rlwe::switch;
use alloc::vec::Vec;

/// Number of stages.
pub const STAGES: usize = 8;

/// The stage of products and sums.
pub const PRODUCTS: usize = 2;

/// Names of the stages.
pub const NAMES: [&str; STAGES] = [
    "read requests: unpack, expand",
    "transform requests and u",
    "products and sums",
    "transform back",
    "zero encryption: draw, multiply, add",
    "mask and flooding: draw, add",
    "switch the modulus",
    "pack answers",
];

/// What a stage does in all, counted from the algorithm: each operand once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Bytes read and written.
    pub bytes: u64,
    /// Multiplications of words of 32 bits, those for reductions included.
    pub multiplications: u64,
    /// Bytes of the generator's stream.
    pub random: u64,
}

/// What the stages of a layer do; only products of requests and weights exceed the second-level cache.
pub fn work(packing: &LinearPacking, fresh: &[bool]) -> [Work; STAGES] {
    let (requests, answers) = (packing.request_ciphertexts() as u64, packing.response_ciphertexts() as u64);
    let n = LINEAR.degree as u64;
    let (residues, element) = (3 * n, element_bytes(&LINEAR) as u64);
    let products = packing.weight_polynomials() * packing.tiles() as u64;
    let messages: u64 = (0..packing.request_ciphertexts()).map(|i| packing.request_bytes(i, fresh) as u64).sum();
    let sent: u64 = (0..packing.response_ciphertexts()).map(|i| packing.response_outputs_count(i) as u64).sum();
    let spans: u64 = (0..packing.response_ciphertexts()).map(|i| packing.output_range(i).len() as u64).sum();
    let packed: u64 = (0..packing.response_ciphertexts()).map(|i| packing.response_bytes(i) as u64).sum();
    let transforms = |count: u64| Work {
        bytes: 2 * element * count,
        // Three for each butterfly.
        multiplications: residues / 2 * u64::from(LINEAR.degree.ilog2()) * 3 * count,
        random: 0,
    };
    // Requests are read once for all answers that are computed together.
    let passes = answers.div_ceil(packing.answers_together() as u64);
    // The upper part of flooding takes a word of 32 bits or of 64.
    let flooding = if LINEAR.flooding_bits + packing.unused_bits() < 64 { 8 } else { 12 };
    let factors = if packing.is_scalar() { 2 } else { element };
    [
        Work {
            bytes: messages + 12 * n * requests + (element + 2 * element) * requests,
            // The encoding of a word, two limbs and a reduction.
            multiplications: 5 * residues * requests,
            random: element * requests,
        },
        transforms(requests + answers),
        Work {
            bytes: factors * products + 2 * element * (requests * passes + 2 * answers),
            // Two halves; sums are reduced by seven.
            multiplications: 2 * residues * (products + 7 * answers),
            random: 0,
        },
        transforms(2 * answers),
        Work {
            // u and errors, then the key and sums, and the errors into these.
            bytes: answers * (element + 3 * n + 7 * element + 2 * element) + 2 * 12 * spans,
            multiplications: answers * 2 * residues * 3,
            // Of 16 bytes, 3 errors, or 32 coefficients of u.
            random: answers * n / 2 + (answers * n + spans) * 16 / 3,
        },
        Work {
            bytes: spans * (12 + 4 + 2 * 2 * 12) + 8 * sent,
            multiplications: spans * 3 * (5 + 3),
            random: spans * flooding + 4 * sent,
        },
        Work { bytes: (answers * n + spans) * (12 + 8), multiplications: (answers * n + spans) * 3 * 6, random: 0 },
        Work { bytes: answers * 8 * n + 8 * sent + packed, multiplications: 0, random: 0 },
    ]
}

/// Answers all requests of a layer, and calls `mark` after each piece of a stage with the stage's number.
///
/// # Errors
/// As [`LinearResponder`]'s.
pub fn run(
    weights: &LinearWeights,
    (fresh, requests): (&[bool], &[Vec<u8>]),
    key: &PublicKey,
    prg: &mut Prg,
    s: &mut [u32],
    mark: &mut impl FnMut(usize),
) -> Result<Vec<Vec<u8>>> {
    let packing = *weights.packing();
    let mut responder = LinearResponder::new(weights, fresh);
    for (i, message) in requests.iter().enumerate() {
        let read = request::unpack(&packing, i, fresh, message)?;
        mark(0);
        responder.place(i, &Ciphertext { c0: read.c0.into_values(), c1: read.c1 })?;
        mark(1);
    }
    let mut answers = Vec::with_capacity(packing.response_ciphertexts());
    for i in 0..packing.response_ciphertexts() {
        let mut sum = responder.take_sum(i)?.scaled(1 << packing.unused_bits());
        mark(2);
        let u = Poly::from_small(&LINEAR, &sample::ternary(LINEAR.degree, prg));
        mark(4);
        let u = u.into_values();
        mark(1);
        sum.c0.add_product(&u, &key.b);
        sum.c1.add_product(&u, &key.a);
        mark(4);
        let mut answer = sum.into_coefficients();
        mark(3);
        let range = packing.output_range(i);
        answer.add_errors(&range, prg);
        mark(4);
        let words = super::server::add_mask(&packing, i, &mut answer.c0, prg);
        super::write_outputs(&packing, i, &words, s);
        answer.add_flooding(LINEAR.flooding_bits + packing.unused_bits(), &range, prg);
        mark(5);
        let switched = switch::Rounded::new(&answer.c0, &answer.c1, packing.answer_bits(), &range);
        mark(6);
        answers.push(switched.write(packing.output_places(i)));
        mark(7);
    }
    Ok(answers)
}
