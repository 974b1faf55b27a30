//! The server's side of a linear layer: weights prepared once per model, and one responder per inference.

use super::packing::{ConvShape, LinearPacking};
use super::request;
use crate::error::{Error, ErrorKind, Result};
use crate::prg::{Prg, SecretVec};
use crate::rlwe::encrypt::{Ciphertext, hide};
use crate::rlwe::keys::PublicKey;
use crate::rlwe::noise;
use crate::rlwe::params::LINEAR;
use crate::rlwe::poly::{Coefficients, Poly, Values};
use crate::rlwe::sample;
use crate::rlwe::switch;
use crate::threads::Threads;
use alloc::vec::Vec;
use core::mem;
use core::ops::Range;
use zeroize::Zeroizing;

/// Largest magnitude of a weight: 9 bits with sign.
pub const MAX_WEIGHT: i16 = crate::model::WEIGHT_LIMIT;

/// Products that are summed up at a time: their polynomials (768 KiB) stay in the second-level cache for all tiles.
const TERMS: usize = 16;

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
    /// The polynomials of the first part of the output channels and all parts of the input planes it meets, then of the second, and so on.
    Transformed(Vec<Poly<Values>>),
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
                let parts = |j| packing.input_parts(j).map(move |i| [i, j]);
                let polynomial = |pair| {
                    let mut polynomial = Poly::zero(&LINEAR);
                    maker.make(weights, pair, &mut polynomial);
                    polynomial
                };
                Kept::Transformed(threads.map((0..packing.output_parts()).flat_map(parts), polynomial))
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

    /// The transformed polynomial of parts of the input planes and the output channels.
    fn make(&self, weights: &[i16], parts: [usize; 2], out: &mut Poly<Values>) {
        let mut small = Zeroizing::new([0; LINEAR.degree]);
        self.packing.fill_weights(&self.taps, parts, weights, &mut small[..]);
        out.set(&small[..]);
    }
}

/// Answers the requests of one inference of one layer. The server's.
///
/// It keeps the requests; the answers of all tiles of some output channels are computed when the first of them is asked for. Given out in
/// order, answers in the making are one ciphertext per tile, or as many more as are asked for together, and requests are dropped before the
/// last of them leave. [`LinearPacking::ciphertext_memory`] says what each takes.
pub struct LinearResponder<'a> {
    weights: &'a LinearWeights,
    fresh: &'a [bool],
    /// Those that came and are still needed.
    requests: Vec<Option<Ciphertext<Values>>>,
    /// How many have not come.
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
        let requests = (0..missing).map(|_| None).collect();
        let answers = (0..waiting).map(|_| Answer::Waiting).collect();
        Self { weights, fresh, requests, missing, answers, waiting, made: Vec::new() }
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
        let indices = first..first + messages.len();
        for index in indices.clone() {
            match self.requests.get(index) {
                None => {
                    let count = self.requests.len();
                    return Err(state("request", alloc::format!("expected one of {count}, got number {index}")));
                }
                Some(None) if self.missing > 0 => {}
                _ => return Err(state("request", alloc::format!("expected each once, got {index} again"))),
            }
        }
        let read = |(index, message): (usize, &_)| {
            let message = AsRef::<[u8]>::as_ref(message);
            request::read(&self.weights.packing, index, self.fresh, message)
                .map_err(|e| e.context(format_args!("request {index}")))
        };
        let read = threads.map(indices.zip(messages), read).into_iter().collect::<Result<Vec<_>>>()?;
        self.missing -= read.len();
        self.requests[first..].iter_mut().zip(read).for_each(|(place, request)| *place = Some(request));
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
        let give = |(index, (answer, words)): (usize, (Vec<u8>, SecretVec<u32>))| {
            self.write_words(index, &words, s);
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
        self.write_words(index, &words, s);
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
    ) -> (Ciphertext<Coefficients>, SecretVec<u32>) {
        let packing = self.weights.packing;
        let unused = packing.unused_bits();
        let mut fresh = SecretVec::default();
        let mask = |c0: &mut Poly<Coefficients>, prg: &mut Prg| {
            fresh = sample::words(packing.response_outputs_count(index), prg);
            let mut words = Zeroizing::new([0; LINEAR.degree]);
            for (place, &word) in packing.output_places(index).zip(fresh.iter()) {
                words[place] = word << unused;
            }
            c0.add_words(&words[..]);
        };
        let answer = hide(sum.scaled(1 << unused), key, LINEAR.flooding_bits + unused, mask, prg);
        (answer, fresh)
    }

    fn write_words(&self, index: usize, words: &[u32], s: &mut [u32]) {
        let outputs = self.weights.packing.response_outputs(index);
        outputs.zip(words).for_each(|(output, &word)| s[output] = word);
    }

    fn switch(&self, index: usize, answer: &Ciphertext<Coefficients>) -> Vec<u8> {
        let packing = self.weights.packing;
        switch::write(&answer.c0, &answer.c1, packing.answer_bits(), packing.output_places(index))
    }

    /// The bare sum of products of an answer, taken out.
    pub(in crate::rlwe) fn take_sum(&mut self, index: usize) -> Result<Ciphertext<Values>> {
        self.compute_all(&Threads::default(), index..index + 1)?;
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
        self.requests.iter().flatten().count() + computed.count()
    }

    /// Computes those answers that wait, with all of the same output channels.
    fn compute_all(&mut self, threads: &Threads, indices: Range<usize>) -> Result<()> {
        if self.missing > 0 {
            let missing = self.requests.iter().position(Option::is_none).unwrap_or_default();
            return Err(state("answer", alloc::format!("expected all requests before, number {missing} is missing")));
        }
        let tiles = self.weights.packing.tiles();
        let waits = |&part: &usize| matches!(self.answers.get(part * tiles), Some(Answer::Waiting));
        let parts: Vec<usize> = (indices.start / tiles..indices.end.div_ceil(tiles)).filter(waits).collect();
        if parts.is_empty() {
            return Ok(());
        }
        self.made.resize_with(self.made.len().max(parts.len()), Vec::new);
        let mut rooms = mem::take(&mut self.made);
        let this = &*self;
        let sums = threads.map(parts.iter().zip(&mut rooms), |(&part, made)| this.sums(threads, part, made));
        self.made = rooms;
        for (part, sums) in parts.into_iter().zip(sums) {
            for (answer, sum) in self.answers[part * tiles..].iter_mut().zip(sums) {
                *answer = Answer::Computed(sum);
            }
            self.waiting -= tiles;
        }
        if self.waiting == 0 {
            self.requests.fill_with(|| None);
        }
        Ok(())
    }

    /// The sums of products of all tiles of a part of the output channels; all requests are there.
    fn sums(&self, threads: &Threads, output_part: usize, made: &mut Vec<Poly<Values>>) -> Vec<Ciphertext<Values>> {
        let LinearWeights { packing, kept, .. } = self.weights;
        let tiles = packing.tiles();
        let maker = Maker::new(packing);
        let mut sums: Vec<_> = (0..tiles).map(|_| Ciphertext::zero(&LINEAR)).collect();
        // Where this part's polynomials begin among all.
        let first = match kept {
            Kept::Transformed(_) | Kept::Scalar(_) => {
                (0..output_part).map(|part| packing.input_parts(part).len()).sum::<usize>()
            }
            Kept::Plain(_) => 0,
        };
        let parts = packing.input_parts(output_part);
        for start in parts.clone().step_by(TERMS) {
            let inputs = start..parts.end.min(start + TERMS);
            let numbers = first + inputs.start - parts.start..first + inputs.end - parts.start;
            // Of each tile in turn the requests of these parts.
            let of_parts = &self.requests[inputs.start * tiles..inputs.end * tiles];
            let requests = |tile: usize| of_parts[tile..].iter().step_by(tiles).flatten();
            match kept {
                Kept::Scalar(weights) => each(threads, &mut sums, |tile, sum| {
                    sum.add_scaled(&requests(tile).zip(weights[numbers.clone()].iter().copied()).collect::<Vec<_>>());
                }),
                Kept::Transformed(polynomials) => each(threads, &mut sums, |tile, sum| {
                    sum.add_products(&requests(tile).zip(&polynomials[numbers.clone()]).collect::<Vec<_>>());
                }),
                Kept::Plain(weights) => {
                    made.resize_with(made.len().max(inputs.len()), || Poly::zero(&LINEAR));
                    threads.map(inputs.zip(&mut *made), |(part, made)| maker.make(weights, [part, output_part], made));
                    each(threads, &mut sums, |tile, sum| {
                        sum.add_products(&requests(tile).zip(&*made).collect::<Vec<_>>());
                    });
                }
            }
        }
        sums
    }
}

/// Adds to the sum of each tile; each thread a run of them.
fn each(
    threads: &Threads,
    sums: &mut [Ciphertext<Values>],
    add: impl Fn(usize, &mut Ciphertext<Values>) + Send + Sync,
) {
    let share = threads.share(sums.len());
    threads.map(sums.chunks_mut(share).enumerate(), |(run, sums)| {
        sums.iter_mut().enumerate().for_each(|(i, sum)| add(run * share + i, sum));
    });
}

fn state(what: &str, message: alloc::string::String) -> Error {
    Error::new(ErrorKind::InvalidState, message).context(what)
}
