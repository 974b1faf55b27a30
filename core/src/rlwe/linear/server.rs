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
use crate::threads::Threads;
use alloc::vec;
use alloc::vec::Vec;
use core::mem;
use core::ops::Range;

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
        Self::made_by(&Threads::default(), packing, weights, keep)
    }

    /// As [`Self::new`], with threads to transform the weights.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn made_by(threads: &Threads, packing: &LinearPacking, weights: &[i16], keep: Keep) -> Result<Self> {
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
                let maker = Maker::new(packing);
                let of_part = |output_part| {
                    let parts = packing.input_parts(output_part);
                    let (mut polynomials, mut made) = (Interleaved::zeros(parts.len()), vec![]);
                    let step = threads.pieces().min(TERMS);
                    for start in parts.clone().step_by(step) {
                        let inputs = start..parts.end.min(start + step);
                        maker.make(threads, weights, inputs.clone(), output_part, &mut made);
                        inputs.zip(&made).for_each(|(part, made)| polynomials.set(part - parts.start, made));
                    }
                    polynomials
                };
                Kept::Transformed(threads.map(0..packing.output_parts(), of_part))
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
}

impl<'a> Maker<'a> {
    fn new(packing: &'a LinearPacking) -> Self {
        Self { packing, taps: packing.taps() }
    }

    /// The transformed polynomials of some parts of the input planes and one of the output channels, as the first of `made`; each thread a run
    /// of them.
    fn make(
        &self,
        threads: &Threads,
        weights: &[i16],
        inputs: Range<usize>,
        output_part: usize,
        made: &mut Vec<Poly<Values>>,
    ) {
        made.resize_with(made.len().max(inputs.len()), || Poly::zero(&LINEAR));
        let share = threads.share(inputs.len());
        let runs = made[..inputs.len()].chunks_mut(share).zip(inputs.step_by(share));
        threads.map(runs, |(made, first)| {
            let mut small = Wiped::zeros(LINEAR.degree);
            for (input_part, made) in (first..).zip(made) {
                self.packing.fill_weights(&self.taps, [input_part, output_part], weights, &mut small);
                made.set(&small);
            }
        });
    }
}

/// Answers the requests of one inference of one layer. The server's.
///
/// It keeps the requests; the answers of all tiles of some output channels are computed when the first of them is asked for. Given out in
/// order, answers in the making are one ciphertext per tile, or up to [`LinearPacking::answers_together`], or as many more as are asked for
/// together; requests are dropped before the last of them leave. [`LinearPacking::ciphertext_memory`] says what each takes.
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
    /// Room for polynomials of weights that are kept plain, for each part of the output channels that is computed at once: up to 16, 768 KiB.
    made: Vec<Vec<Poly<Values>>>,
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
        self.absorb_all(&Threads::default(), index, &[message])
    }

    /// Takes requests in a row in, from number `first` on.
    ///
    /// # Errors
    /// As [`Self::absorb`], of the first that is wrong. Nothing is kept then.
    pub fn absorb_all(&mut self, threads: &Threads, first: usize, messages: &[impl AsRef<[u8]> + Sync]) -> Result<()> {
        (0..messages.len()).try_for_each(|i| self.vacant(first.saturating_add(i)))?;
        let (packing, fresh) = (&self.weights.packing, self.fresh);
        let read = |(index, message): (usize, &_)| {
            request::read(packing, index, fresh, AsRef::<[u8]>::as_ref(message))
                .map_err(|e| e.context(format_args!("request {index}")))
        };
        let read = threads.map((first..).zip(messages), read).into_iter().collect::<Result<Vec<_>>>()?;
        (first..).zip(&read).try_for_each(|(index, request)| self.place(index, request))
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
        let answer = self.hidden(index, key, prg, s)?;
        Ok(self.switch(index, &answer))
    }

    /// Gives several answers as [`Self::respond`] does one after another, each with a generator of its own, forked from `prg` in their order.
    ///
    /// # Errors
    /// As [`Self::respond`].
    pub fn respond_all(
        &mut self,
        threads: &Threads,
        indices: Range<usize>,
        key: &PublicKey,
        prg: &mut Prg,
        s: &mut [u32],
    ) -> Result<Vec<Vec<u8>>> {
        self.check(key, s)?;
        self.compute_all(threads, indices.clone())?;
        let sums = indices.clone().map(|index| self.take_sum(index)).collect::<Result<Vec<_>>>()?;
        let pieces: Vec<_> = indices.clone().zip(sums).map(|(index, sum)| (index, sum, prg.fork())).collect();
        let this = &*self;
        let answers = threads.map(pieces, |(index, sum, mut prg)| {
            let (answer, words) = this.hide(index, sum, key, &mut prg);
            (this.switch(index, &answer), words)
        });
        let give = |(index, (answer, words)): (usize, (Vec<u8>, Wiped<u32>))| {
            super::write_outputs(&self.weights.packing, index, &words, s);
            answer
        };
        Ok(indices.zip(answers).map(give).collect())
    }

    /// The answer before it is switched.
    pub(in crate::rlwe) fn hidden(
        &mut self,
        index: usize,
        key: &PublicKey,
        prg: &mut Prg,
        s: &mut [u32],
    ) -> Result<Ciphertext<Coefficients>> {
        self.check(key, s)?;
        let sum = self.take_sum(index)?;
        let (answer, words) = self.hide(index, sum, key, prg);
        super::write_outputs(&self.weights.packing, index, &words, s);
        Ok(answer)
    }

    fn check(&self, key: &PublicKey, s: &[u32]) -> Result<()> {
        key.expect(&LINEAR)?;
        super::check_outputs(&self.weights.packing, s)
    }

    /// Hides the sum of products of an answer; also gives the part of s in it.
    fn hide(
        &self,
        index: usize,
        sum: Ciphertext<Values>,
        key: &PublicKey,
        prg: &mut Prg,
    ) -> (Ciphertext<Coefficients>, Wiped<u32>) {
        let packing = &self.weights.packing;
        let (unused, range) = (packing.unused_bits(), packing.output_range(index));
        let mut words = Wiped::zeros(0);
        let mask = |c0: &mut Poly<Coefficients>, prg: &mut Prg| words = add_mask(packing, index, c0, prg);
        let answer = hide(sum.scaled(1 << unused), key, LINEAR.flooding_bits + unused, &range, mask, prg);
        (answer, words)
    }

    fn switch(&self, index: usize, answer: &Ciphertext<Coefficients>) -> Vec<u8> {
        let packing = &self.weights.packing;
        let (range, places) = (packing.output_range(index), packing.output_places(index));
        switch::write(&answer.c0, &answer.c1, packing.answer_bits(), &range, places)
    }

    /// The bare sum of products of an answer, taken out.
    pub(in crate::rlwe) fn take_sum(&mut self, index: usize) -> Result<Ciphertext<Values>> {
        self.compute_all(&Threads::default(), index..index.saturating_add(1))?;
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

    /// Computes those answers that wait, with all of the same output channels and maybe of some of the next.
    fn compute_all(&mut self, threads: &Threads, indices: Range<usize>) -> Result<()> {
        if self.missing > 0 {
            let missing = self.came.iter().position(|came| !came).unwrap_or_default();
            return Err(state("answer", alloc::format!("expected all requests before, number {missing} is missing")));
        }
        let tiles = self.weights.packing.tiles();
        let runs = self.waiting_runs(threads, indices.start / tiles..indices.end.div_ceil(tiles));
        if runs.is_empty() {
            return Ok(());
        }
        self.made.resize_with(self.made.len().max(runs.len()), Vec::new);
        let mut rooms = mem::take(&mut self.made);
        let this = &*self;
        let sums = threads.map(runs.iter().zip(&mut rooms), |(run, made)| this.sums(threads, run, made));
        self.made = rooms;
        for (run, sums) in runs.into_iter().zip(sums) {
            for (tile, sums) in sums.into_iter().enumerate() {
                for (part, sum) in run.clone().zip(sums) {
                    self.answers[part * tiles + tile] = Answer::Computed(sum);
                }
            }
            self.waiting -= run.len() * tiles;
        }
        if self.waiting == 0 {
            self.requests.clear();
        }
        Ok(())
    }

    /// Those of some parts of the output channels that wait, in runs that are computed together. The last run may go on beyond them.
    fn waiting_runs(&self, threads: &Threads, parts: Range<usize>) -> Vec<Range<usize>> {
        let LinearWeights { packing, kept, .. } = self.weights;
        let tiles = packing.tiles();
        let waits = |&part: &usize| matches!(self.answers.get(part * tiles), Some(Answer::Waiting));
        let most = match kept {
            // Polynomials are made for one part at a time.
            Kept::Plain(_) => 1,
            // Requests are read from memory once for all that are computed together.
            _ => packing.answers_together() / tiles,
        };
        let together = match threads.count() {
            1 => most,
            // Of few parts, each thread has some.
            _ => most.min(threads.share(parts.clone().filter(waits).count())),
        };
        let mut runs: Vec<Range<usize>> = vec![];
        for part in parts.filter(waits) {
            if runs.last().is_none_or(|run| run.end <= part) {
                let inputs = packing.input_parts(part);
                let next = (part + 1..packing.output_parts())
                    .take_while(|next| waits(next) && packing.input_parts(*next) == inputs);
                runs.push(part..part + 1 + next.take(together - 1).count());
            }
        }
        runs
    }

    /// Of each tile in turn the sums of products of some parts of the output channels, which meet the same input planes; all requests are
    /// there.
    fn sums(
        &self,
        threads: &Threads,
        output_parts: &Range<usize>,
        made: &mut Vec<Poly<Values>>,
    ) -> Vec<Vec<Ciphertext<Values>>> {
        let LinearWeights { packing, kept, .. } = self.weights;
        let tiles = packing.tiles();
        let parts = packing.input_parts(output_parts.start);
        let mut sums: Vec<Vec<_>> =
            (0..tiles).map(|_| output_parts.clone().map(|_| Ciphertext::zero(&LINEAR)).collect()).collect();
        let terms = match kept {
            Kept::Plain(_) => TERMS,
            _ if tiles == 1 => TERMS_OF_ONE_TILE,
            _ => TERMS,
        };
        let maker = Maker::new(packing);
        for start in parts.clone().step_by(terms) {
            let inputs = start..parts.end.min(start + terms);
            if let Kept::Plain(weights) = kept {
                maker.make(threads, weights, inputs.clone(), output_parts.start, made);
            }
            let (before, made) = (inputs.start - parts.start, &*made);
            each(threads, &mut sums, |tile, sums| {
                let requests = &self.requests[tile];
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
                        let kept = &kept[output_parts.clone()];
                        add_products(requests, sums, |sum, term, prime| kept[sum].get(before + term, prime));
                    }
                    Kept::Plain(_) => {
                        add_products(requests, sums, |_, term, prime| Parts::together(made[term].part(prime)));
                    }
                }
            });
        }
        sums
    }
}

/// Adds to the sums of each tile; each thread to those of a run of tiles.
fn each(
    threads: &Threads,
    sums: &mut [Vec<Ciphertext<Values>>],
    add: impl Fn(usize, &mut [Ciphertext<Values>]) + Send + Sync,
) {
    let share = threads.share(sums.len());
    threads.map(sums.chunks_mut(share).enumerate(), |(run, sums)| {
        sums.iter_mut().enumerate().for_each(|(i, sums)| add(run * share + i, sums));
    });
}

/// Draws an answer's part of s and adds it to the answer.
pub(super) fn add_mask(
    packing: &LinearPacking,
    index: usize,
    c0: &mut Poly<Coefficients>,
    prg: &mut Prg,
) -> Wiped<u32> {
    let range = packing.output_range(index);
    let mut words = Wiped::zeros(range.len());
    let fresh = sample::words(packing.response_outputs_count(index), prg);
    let mut left = fresh.iter();
    for run in packing.output_runs(index) {
        run.places()
            .zip(&mut left)
            .for_each(|(place, &word)| words[place - range.start] = word << packing.unused_bits());
    }
    c0.add_words(range.start, &words);
    fresh
}

fn state(what: &str, message: alloc::string::String) -> Error {
    Error::new(ErrorKind::InvalidState, message).context(what)
}
