//! The server's side of a linear layer: weights prepared once per model, and one responder per inference.

use super::interleaved::Interleaved;
use super::packing::{ConvShape, LinearPacking};
use super::request;
use crate::error::{Error, ErrorKind, Result};
use crate::prg::{Prg, SecretVec, Wiped};
use crate::rlwe::encrypt::{Ciphertext, add_products, add_scaled, hide};
use crate::rlwe::keys::PublicKey;
use crate::rlwe::noise;
use crate::rlwe::params::LINEAR;
use crate::rlwe::poly::{Coefficients, Poly, Values};
use crate::rlwe::sample;
use crate::rlwe::switch;
use crate::simd::residues::Parts;
use alloc::vec;
use alloc::vec::Vec;
use core::mem;
use zeroize::Zeroizing;

/// Largest magnitude of a weight: 9 bits with sign.
pub const MAX_WEIGHT: i16 = crate::model::WEIGHT_LIMIT;

/// Products that are summed up at a time: their polynomials (768 KiB) stay in the second-level cache for all tiles.
const TERMS: usize = 16;

/// The same where each polynomial is used once: of so many requests, the 512 coefficients that products are made of at a time (4 KiB of each)
/// stay there for all answers.
const TERMS_OF_ONE_TILE: usize = 64;

/// What a server keeps of a layer's weights between inferences.
///
/// Where M = L = 1 and a plane has a single weight of the kernel, polynomials are constants: the integers are kept and used as they
/// are, whatever is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keep {
    /// The transformed polynomials: [`LinearPacking::transformed_bytes`], nothing to make during an inference.
    Transformed,
    /// The integers, two bytes each. Each inference makes each polynomial once, three transforms of N; used for all tiles.
    Plain,
}

/// The weights of a linear layer. The server makes them once per model; immutable, shared by any number of inferences, wiped when dropped.
pub struct LinearWeights {
    packing: LinearPacking,
    kept: Kept,
    noise_bound: u64,
}

/// What is kept, by what a product needs. Which it is depends on public sizes alone.
enum Kept {
    /// The polynomials of each part of the output channels and all parts of the input planes it meets.
    Transformed(Vec<Interleaved>),
    /// The weights as they were given.
    Plain(SecretVec<i16>),
    /// The weights as they were given, each a polynomial of its own.
    Scalar(SecretVec<i16>),
}

/// Bound on the noise of the answers before flooding, the worst over all of them, that holds but for a probability of 2^-45 per coefficient.
///
/// See [`noise`] for what it counts. `weights` is laid out as for [`LinearWeights::new`].
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if there are not as many weights as the packing says.
pub fn linear_noise_bound(packing: &LinearPacking, weights: &[i16]) -> Result<u64> {
    if weights.len() != packing.weights() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            alloc::format!("weights: expected {}, got {}", packing.weights(), weights.len()),
        ));
    }
    let square = |&w: &i16| (i64::from(w) * i64::from(w)) as u64;
    // At most 2^30 weights below 2^15: the sum is below 2^60.
    let per_channel = weights.len() / packing.shape().out_channels;
    let per_answer = weights.chunks(per_channel * packing.outputs_per_response()).map(|w| w.iter().map(square).sum());
    Ok(noise::bound(per_answer.max().unwrap_or(0)))
}

/// The cheapest packing of [`LinearPacking::choose_quieter`] whose noise flooding hides, for the weights of a layer.
///
/// For the compiler: its L goes into the model's public part, from which both parties choose a packing of at most as many
/// output channels per answer.
///
/// # Errors
/// As [`LinearPacking::choose`], [`linear_noise_bound`]; [`ErrorKind::UnsupportedModel`] if even a single output channel per
/// answer has too much noise.
pub fn choose_within_budget(shape: &ConvShape, weights: &[i16]) -> Result<LinearPacking> {
    let mut packing = LinearPacking::choose(shape)?;
    loop {
        let noise = linear_noise_bound(&packing, weights)?;
        match packing.outputs_per_response() {
            _ if noise <= 1 << noise::LINEAR_NOISE_BITS => return Ok(packing),
            1 => return Err(too_noisy(noise, 1)),
            outputs => packing = LinearPacking::choose_quieter(shape, outputs - 1)?,
        }
    }
}

fn too_noisy(bound: u64, outputs: usize) -> Error {
    Error::new(
        ErrorKind::UnsupportedModel,
        alloc::format!(
            "weights: expected noise of at most {} (2^{}), which flooding hides, got {bound} with {outputs} output channels \
             per answer; fewer of them, smaller weights or fewer inputs lower it",
            1u64 << noise::LINEAR_NOISE_BITS,
            noise::LINEAR_NOISE_BITS,
        ),
    )
}

impl LinearWeights {
    /// Prepares weights, laid out as \[output channel\]\[input channel of its group\]\[kernel row\]\[kernel column\], each within ±[`MAX_WEIGHT`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a wrong number of weights; [`ErrorKind::UnsupportedModel`] if a weight is too large or
    /// the noise exceeds 2^[`noise::LINEAR_NOISE_BITS`], what flooding hides.
    pub fn new(packing: &LinearPacking, weights: &[i16], keep: Keep) -> Result<Self> {
        let noise_bound = linear_noise_bound(packing, weights)?;
        if weights.iter().any(|w| w.unsigned_abs() > MAX_WEIGHT.unsigned_abs()) {
            return Err(Error::new(
                ErrorKind::UnsupportedModel,
                alloc::format!("weights: expected values within ±{MAX_WEIGHT}, got larger ones"),
            ));
        }
        if noise_bound > 1 << noise::LINEAR_NOISE_BITS {
            return Err(too_noisy(noise_bound, packing.outputs_per_response()));
        }
        let kept = match keep {
            _ if packing.is_scalar() => Kept::Scalar(weights.to_vec().into()),
            Keep::Plain => Kept::Plain(weights.to_vec().into()),
            Keep::Transformed => {
                let mut maker = Maker::new(packing);
                let mut polynomial = Poly::zero(&LINEAR);
                let mut of_part = |output_part| {
                    let parts = packing.input_parts(output_part);
                    let mut polynomials = Interleaved::zeros(parts.len());
                    for (number, input_part) in parts.enumerate() {
                        maker.make(weights, [input_part, output_part], &mut polynomial);
                        polynomials.set(number, &polynomial);
                    }
                    polynomials
                };
                Kept::Transformed((0..packing.output_parts()).map(&mut of_part).collect())
            }
        };
        Ok(Self { packing: *packing, kept, noise_bound })
    }

    /// How the layer lies in ciphertexts.
    pub fn packing(&self) -> &LinearPacking {
        &self.packing
    }

    /// See [`linear_noise_bound`].
    pub fn noise_bound(&self) -> u64 {
        self.noise_bound
    }

    /// The least b such that the noise bound is at most 2^b.
    pub fn noise_bits(&self) -> u32 {
        noise::bits(self.noise_bound)
    }
}

/// Makes polynomials of a packing.
struct Maker<'a> {
    packing: &'a LinearPacking,
    taps: Vec<Vec<(usize, usize)>>,
    small: Zeroizing<[i16; LINEAR.degree]>,
}

impl<'a> Maker<'a> {
    fn new(packing: &'a LinearPacking) -> Self {
        Self { packing, taps: packing.taps(), small: Zeroizing::new([0; LINEAR.degree]) }
    }

    /// The transformed polynomial of parts of the input planes and the output channels.
    fn make(&mut self, weights: &[i16], parts: [usize; 2], out: &mut Poly<Values>) {
        self.packing.fill_weights(&self.taps, parts, weights, &mut self.small[..]);
        out.set(&self.small[..]);
    }
}

/// Answers the requests of one inference of one layer. The server's.
///
/// It keeps the requests; the answers of all tiles of some output channels are computed when the first of them is asked for. Given out in
/// order, answers in the making are one ciphertext per tile, or up to [`LinearPacking::answers_together`], and requests are dropped before the
/// last of them leave.
/// [`LinearPacking::ciphertext_memory`] says what each takes.
pub struct LinearResponder<'a> {
    weights: &'a LinearWeights,
    fresh: &'a [bool],
    /// Of each tile, both halves of the request for each part of the input planes; none before the first came and after the last was needed.
    requests: Vec<Interleaved>,
    /// Which requests came, and how many have not.
    came: Vec<bool>,
    missing: usize,
    answers: Vec<Answer>,
    /// How many answers are [`Answer::Waiting`].
    waiting: usize,
    /// Room for polynomials of weights that are kept plain: up to 16, 768 KiB.
    made: Vec<Poly<Values>>,
}

/// How far an answer is.
enum Answer {
    Waiting,
    /// The sum of products.
    Computed(Ciphertext<Values>),
    Given,
}

impl<'a> LinearResponder<'a> {
    /// Starts with no request. `fresh` tells how requests are written: see [`super::encrypt_request`].
    pub fn new(weights: &'a LinearWeights, fresh: &'a [bool]) -> Self {
        let (missing, waiting) = (weights.packing.request_ciphertexts(), weights.packing.response_ciphertexts());
        let answers = (0..waiting).map(|_| Answer::Waiting).collect();
        Self { weights, fresh, requests: vec![], came: vec![false; missing], missing, answers, waiting, made: vec![] }
    }

    /// Takes request `index` in, in any order, each once.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedMessage`] if the request has another length; [`ErrorKind::InvalidState`] if there is no such request or it came
    /// already. Nothing is kept then.
    pub fn absorb(&mut self, index: usize, message: &[u8]) -> Result<()> {
        self.vacant(index)?;
        let request = request::read(&self.weights.packing, index, self.fresh, message)
            .map_err(|e| e.context(format_args!("request {index}")))?;
        self.place(index, &request)
    }

    /// Refuses a request that is none or came already.
    fn vacant(&self, index: usize) -> Result<()> {
        let count = self.came.len();
        match self.came.get(index) {
            None => Err(state("request", alloc::format!("expected one of {count}, got number {index}"))),
            Some(true) => Err(state("request", alloc::format!("expected each once, got {index} again"))),
            _ => Ok(()),
        }
    }

    /// Takes request `index` in once it is read.
    pub(super) fn place(&mut self, index: usize, request: &Ciphertext<Values>) -> Result<()> {
        self.vacant(index)?;
        let tiles = self.weights.packing.tiles();
        if self.requests.is_empty() {
            let of_tile = 2 * self.came.len() / tiles;
            self.requests = (0..tiles).map(|_| Interleaved::zeros(of_tile)).collect();
        }
        let (tile, part) = (&mut self.requests[index % tiles], index / tiles);
        tile.set(2 * part, &request.c0);
        tile.set(2 * part + 1, &request.c1);
        self.came[index] = true;
        self.missing -= 1;
        Ok(())
    }

    /// Gives answer `index`, once: an encryption of W·r + s for a fresh uniform s.
    ///
    /// `s` is the whole output tensor; this answer's part of it, [`LinearPacking::response_outputs`], is written.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] if a request is missing, there is no such answer or it was given already;
    /// [`ErrorKind::InvalidArgument`] if `s` has not the output's length or the key is of another ring. Nothing is written then.
    pub fn respond(&mut self, index: usize, key: &PublicKey, prg: &mut Prg, s: &mut [u32]) -> Result<Vec<u8>> {
        let packing = self.weights.packing;
        let answer = self.hidden(index, key, prg, s)?;
        let (range, places) = (packing.output_range(index), packing.output_places(index));
        Ok(switch::write(&answer.c0, &answer.c1, packing.answer_bits(), &range, places))
    }

    /// The answer before it is switched.
    pub(in crate::rlwe) fn hidden(
        &mut self,
        index: usize,
        key: &PublicKey,
        prg: &mut Prg,
        s: &mut [u32],
    ) -> Result<Ciphertext<Coefficients>> {
        let packing = self.weights.packing;
        key.expect(&LINEAR)?;
        super::check_outputs(&packing, s)?;
        let unused = packing.unused_bits();
        let sum = self.take_sum(index)?.scaled(1 << unused);
        let mask = |c0: &mut Poly<Coefficients>, prg: &mut Prg| add_mask(&packing, index, c0, prg, s);
        Ok(hide(sum, key, LINEAR.flooding_bits + unused, &packing.output_range(index), mask, prg))
    }

    /// The bare sum of products of an answer, taken out.
    pub(in crate::rlwe) fn take_sum(&mut self, index: usize) -> Result<Ciphertext<Values>> {
        if self.missing > 0 {
            let missing = self.came.iter().position(|came| !came).unwrap_or_default();
            return Err(state("answer", alloc::format!("expected all requests before, number {missing} is missing")));
        }
        if let Some(Answer::Waiting) = self.answers.get(index) {
            self.compute(index / self.weights.packing.tiles());
        }
        let count = self.answers.len();
        match self.answers.get_mut(index) {
            None => Err(state("answer", alloc::format!("expected one of {count}, got number {index}"))),
            Some(answer) => match mem::replace(answer, Answer::Given) {
                Answer::Computed(sum) => Ok(sum),
                _ => Err(state("answer", alloc::format!("expected each once, got {index} again"))),
            },
        }
    }

    /// Ciphertexts held: requests and answers in the making.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let computed = self.answers.iter().filter(|answer| matches!(answer, Answer::Computed(_)));
        let came = self.came.iter().filter(|&&came| came && !self.requests.is_empty());
        came.count() + computed.count()
    }

    /// Computes the answers of a part of the output channels and maybe of some of the next, none of which was computed before; all
    /// requests are there.
    fn compute(&mut self, output_part: usize) {
        let LinearWeights { packing, kept, .. } = self.weights;
        let tiles = packing.tiles();
        let parts = packing.input_parts(output_part);
        let together = match kept {
            // Polynomials are made for one part at a time.
            Kept::Plain(_) => 1,
            // Requests are read from memory once for all that are computed together.
            _ => packing.answers_together() / tiles,
        };
        let next = (output_part + 1..packing.output_parts()).take_while(|&next| {
            matches!(self.answers[next * tiles], Answer::Waiting) && packing.input_parts(next) == parts
        });
        let output_parts = output_part..output_part + 1 + next.take(together - 1).count();
        // Of each tile in turn the sums of all parts.
        let mut sums: Vec<Vec<_>> =
            (0..tiles).map(|_| output_parts.clone().map(|_| Ciphertext::zero(&LINEAR)).collect()).collect();
        let terms = match kept {
            Kept::Plain(_) => TERMS,
            _ if tiles == 1 => TERMS_OF_ONE_TILE,
            _ => TERMS,
        };
        let mut maker = Maker::new(packing);
        for start in parts.clone().step_by(terms) {
            let inputs = start..parts.end.min(start + terms);
            if let Kept::Plain(weights) = kept {
                self.made.resize_with(self.made.len().max(inputs.len()), || Poly::zero(&LINEAR));
                for (input_part, made) in inputs.clone().zip(&mut self.made) {
                    maker.make(weights, [input_part, output_part], made);
                }
            }
            let before = inputs.start - parts.start;
            for (requests, sums) in self.requests.iter().zip(&mut sums) {
                let requests = (inputs.len(), |term: usize, prime| {
                    [0, 1].map(|half| requests.get(2 * (inputs.start + term) + half, prime))
                });
                match kept {
                    Kept::Scalar(weights) => {
                        // Each output channel has a weight for each input channel of its group.
                        let of_sum = |part| &weights[part * parts.len()..][before..before + inputs.len()];
                        add_scaled(requests, sums, &output_parts.clone().map(of_sum).collect::<Vec<_>>());
                    }
                    Kept::Transformed(kept) => {
                        add_products(requests, sums, |sum, term, prime| {
                            kept[output_part + sum].get(before + term, prime)
                        });
                    }
                    Kept::Plain(_) => {
                        let made = &self.made;
                        add_products(requests, sums, |_, term, prime| Parts::together(made[term].part(prime)));
                    }
                }
            }
        }
        for (tile, sums) in sums.into_iter().enumerate() {
            for (part, sum) in output_parts.clone().zip(sums) {
                self.answers[part * tiles + tile] = Answer::Computed(sum);
            }
        }
        self.waiting -= output_parts.len() * tiles;
        if self.waiting == 0 {
            self.requests.clear();
        }
    }
}

/// Draws an answer's part of s, writes it there and adds it to the answer.
pub(super) fn add_mask(
    packing: &LinearPacking,
    index: usize,
    c0: &mut Poly<Coefficients>,
    prg: &mut Prg,
    s: &mut [u32],
) {
    let range = packing.output_range(index);
    let mut words = Wiped::zeros(range.len());
    let fresh = sample::words(packing.response_outputs_count(index), prg);
    let mut fresh = &fresh[..];
    for run in packing.output_runs(index) {
        let (own, rest) = fresh.split_at(run.outputs.len());
        run.places().zip(own).for_each(|(place, &word)| words[place - range.start] = word << packing.unused_bits());
        s[run.outputs].copy_from_slice(own);
        fresh = rest;
    }
    c0.add_words(range.start, &words);
}

fn state(what: &str, message: alloc::string::String) -> Error {
    Error::new(ErrorKind::InvalidState, message).context(what)
}
