//! The server's side of a linear layer: weights prepared once per model, and one responder per inference.

use super::packing::{ConvShape, LinearPacking};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::Prg;
use crate::rlwe::encode::Word;
use crate::rlwe::encrypt::{Ciphertext, hide};
use crate::rlwe::keys::PublicKey;
use crate::rlwe::noise;
use crate::rlwe::params::LINEAR;
use crate::rlwe::poly::{Coefficients, Factors, Poly, Values};
use crate::rlwe::switch;
use alloc::vec;
use alloc::vec::Vec;

/// Largest magnitude of a weight: 9 bits with sign.
pub const MAX_WEIGHT: i16 = crate::model::WEIGHT_LIMIT;

/// The weights of a linear layer as transformed polynomials. The server makes them once per model; immutable, shared by any number of
/// inferences, wiped when dropped.
pub struct LinearWeights {
    packing: LinearPacking,
    /// The polynomial of request i and response j at i·responses + j.
    polynomials: Vec<Poly<Factors>>,
    noise_bound: u64,
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
    /// Prepares weights, laid out as \[output channel\]\[input channel\]\[kernel row\]\[kernel column\], each within ±[`MAX_WEIGHT`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a wrong number of weights; [`ErrorKind::UnsupportedModel`] if a weight is too large or
    /// the noise exceeds 2^[`noise::LINEAR_NOISE_BITS`], what flooding hides.
    pub fn new(packing: &LinearPacking, weights: &[i16]) -> Result<Self> {
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
        let (requests, responses) = (packing.request_ciphertexts(), packing.response_ciphertexts());
        let pairs = (0..requests).flat_map(|i| (0..responses).map(move |j| (i, j)));
        let polynomial = |(i, j)| {
            let mut poly = Poly::<Coefficients>::zero(&LINEAR);
            for (place, number) in packing.weight_places(i, j) {
                poly.add_at(place, |_, q| q.residue(i32::from(weights[number])));
            }
            poly.into_values().into_factors()
        };
        Ok(Self { packing: *packing, polynomials: pairs.map(polynomial).collect(), noise_bound })
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

/// Answers the requests of one inference of one layer. The server's; its memory is one ciphertext per answer.
pub struct LinearResponder<'a> {
    weights: &'a LinearWeights,
    /// Whether each request came.
    absorbed: Vec<bool>,
    /// The sum of products of each answer not yet given.
    sums: Vec<Option<Ciphertext<Values>>>,
}

impl<'a> LinearResponder<'a> {
    /// Starts with no request.
    pub fn new(weights: &'a LinearWeights) -> Self {
        let sums = (0..weights.packing.response_ciphertexts()).map(|_| Some(Ciphertext::zero(&LINEAR))).collect();
        Self { weights, absorbed: vec![false; weights.packing.request_ciphertexts()], sums }
    }

    /// Takes request `index` in, in any order, each once: adds its products to all answers.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedMessage`] if the request has another length or residues not below their prime; [`ErrorKind::InvalidState`]
    /// if there is no such request or it came already. Nothing is added then.
    pub fn absorb(&mut self, index: usize, request: &[u8]) -> Result<()> {
        match self.absorbed.get(index) {
            Some(false) => {}
            Some(true) => return Err(state("request", alloc::format!("expected each once, got {index} again"))),
            None => {
                let count = self.absorbed.len();
                return Err(state("request", alloc::format!("expected one of {count}, got number {index}")));
            }
        }
        let request = Ciphertext::read(&LINEAR, request).map_err(|e| e.context(format_args!("request {index}")))?;
        let row = self.weights.polynomials.iter().skip(index * self.sums.len());
        for (sum, w) in self.sums.iter_mut().zip(row) {
            if let Some(sum) = sum {
                sum.add_product(&request, w);
            }
        }
        self.absorbed[index] = true;
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
        Ok(switch::write(&answer.c0, &answer.c1, packing.output_places(index)))
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
        let sum = self.take_sum(index)?;
        let s = &mut s[packing.response_outputs(index)];
        let mask = |c0: &mut Poly<Coefficients>, prg: &mut Prg| {
            for (place, s) in packing.output_places(index).zip(s) {
                *s = prg.next_u32();
                let encoded = Word::new(*s);
                c0.add_at(place, |prime, q| encoded.residue(prime, q));
            }
        };
        Ok(hide(sum, key, packing.output_places(index), mask, prg))
    }

    /// The bare sum of products of an answer, taken out.
    pub(in crate::rlwe) fn take_sum(&mut self, index: usize) -> Result<Ciphertext<Values>> {
        if let Some(missing) = self.absorbed.iter().position(|came| !came) {
            return Err(state("answer", alloc::format!("expected all requests before, number {missing} is missing")));
        }
        let count = self.sums.len();
        match self.sums.get_mut(index) {
            None => Err(state("answer", alloc::format!("expected one of {count}, got number {index}"))),
            Some(sum) => {
                sum.take().ok_or_else(|| state("answer", alloc::format!("expected each once, got {index} again")))
            }
        }
    }
}

fn state(what: &str, message: alloc::string::String) -> Error {
    Error::new(ErrorKind::InvalidState, message).context(what)
}
