//! What a measurement's inferences are asked, and what they may answer.

use super::Args;
use crate::images;
use anyhow::{Context, Result, bail, ensure};
use safenet_core::model::{Architecture, Output};
use safenet_core::prg::{Prg, SEED_BYTES, Seed};
use safenet_reference::{Reference, Trace};

/// Seed of the inputs that are drawn without --images. The protocol's own randomness always comes from the system.
const INPUT_SEED: u8 = 1;

/// Inputs that take turns, and what the integer reference says of them.
pub(super) struct Inputs {
    pub(super) values: Vec<Vec<i32>>,
    /// Where they come from.
    pub(super) described: String,
    traces: Vec<Trace>,
    output: Output,
}

/// What a comparison with the reference found.
pub(super) struct Check {
    /// Largest distance of a score from the reference's. Of a class there is no distance.
    pub(super) max_ulp: u64,
    faults: Vec<String>,
    answers: usize,
}

impl Inputs {
    /// Inputs as the command line wants them, at most so many; fewer take turns.
    pub(super) fn new(args: &Args, reference: &Reference, most: u32) -> Result<Self> {
        let architecture = reference.architecture();
        let Some(path) = &args.images else {
            return Self::traced(reference, random(architecture, most)?, format!("random, seed {INPUT_SEED}"));
        };
        let samples = images::load_all(std::slice::from_ref(path), architecture.input)?;
        ensure!(!samples.is_empty(), "{}: expected at least one input, got none", path.display());
        let encode = |s: &images::Sample| reference.quantise(&s.values).with_context(|| s.name.clone());
        let values = samples.iter().take(most as usize).map(encode).collect::<Result<Vec<_>>>()?;
        Self::traced(reference, values, path.display().to_string())
    }

    /// A single random input.
    pub(super) fn one(reference: &Reference) -> Result<Self> {
        Self::traced(reference, random(reference.architecture(), 1)?, String::new())
    }

    fn traced(reference: &Reference, values: Vec<Vec<i32>>, described: String) -> Result<Self> {
        let traces = values.iter().map(|input| Ok(reference.run(input)?)).collect::<Result<Vec<Trace>>>()?;
        for (index, trace) in traces.iter().enumerate() {
            if let Some(overflow) = &trace.overflow {
                eprintln!("safenet: input {index} is outside what the model was compiled for: {overflow}");
            }
        }
        Ok(Self { values, described, traces, output: reference.architecture().output })
    }

    /// The widest of the reference's intervals, in units of the last place.
    pub(super) fn interval_ulp(&self) -> i64 {
        self.traces.iter().map(|trace| trace.output().max_spread()).max().unwrap_or(0)
    }

    /// Compares answers, of which each belongs to an input in turn.
    pub(super) fn check(&self, answers: &[Vec<i32>]) -> Result<Check> {
        let mut check = Check { max_ulp: 0, faults: vec![], answers: answers.len() };
        for (answer, (index, trace)) in answers.iter().zip(self.traces.iter().enumerate().cycle()) {
            if self.output == Output::Scores {
                check.max_ulp = check.max_ulp.max(trace.max_ulp(answer)?);
            }
            if let Some(mismatch) = trace.contains(answer)? {
                check.faults.push(format!("input {index}: {mismatch}"));
            }
        }
        Ok(check)
    }
}

impl Check {
    /// Whether every answer lies within the reference's interval.
    pub(super) fn matches(&self) -> bool {
        self.faults.is_empty()
    }

    /// An error that tells of the first answer that does not.
    pub(super) fn conclude(&self) -> Result<()> {
        let Some(first) = self.faults.first() else { return Ok(()) };
        bail!(
            "{} of {} outputs are outside the reference's interval, the first: {first}",
            self.faults.len(),
            self.answers
        );
    }
}

fn random(architecture: &Architecture, count: u32) -> Result<Vec<Vec<i32>>> {
    let mut prg = Prg::new(&Seed::from_bytes([INPUT_SEED; SEED_BYTES]));
    let [low, high] = architecture.input_range.map(i64::from);
    ensure!(low <= high, "input range: expected low <= high, got {low} and {high}");
    let mut value = || (low + prg.below((high - low + 1) as u64) as i64) as i32;
    let elements = architecture.input.elements();
    Ok((0..count).map(|_| (0..elements).map(|_| value()).collect()).collect())
}
