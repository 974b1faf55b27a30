//! The evaluation of a whole network: nominal values, intervals, and overflows.

use crate::Reference;
use crate::classes::{self, Candidates};
use crate::evaluate;
use crate::rounding::{nearest, rounded};
use safenet_core::model::{Channel, ChannelSecret, Output};
use safenet_core::{Error, ErrorKind, Result};
use std::fmt;

/// What a tensor may hold after the protocol's roundings, element by element (channel-major, as [`Shape`] says).
///
/// [`Shape`]: safenet_core::model::Shape
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The result of rounding to the nearest allowed integer everywhere.
    pub nominal: Vec<i64>,
    /// Smallest value that any choice of roundings may give, or less.
    pub low: Vec<i64>,
    /// Largest value that any choice of roundings may give, or more.
    pub high: Vec<i64>,
}

impl Tensor {
    pub(crate) fn exact(values: Vec<i64>) -> Self {
        Self { low: values.clone(), high: values.clone(), nominal: values }
    }

    /// Largest high − low.
    pub fn max_spread(&self) -> i64 {
        self.low.iter().zip(&self.high).map(|(l, h)| h - l).max().unwrap_or(0)
    }
}

/// A value outside the bounds for which the model was made. The protocol's answer is wrong then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overflow {
    /// Index of the node.
    pub node: usize,
    /// Its name.
    pub name: String,
    /// The channel.
    pub channel: u32,
    /// The element within the channel.
    pub element: u32,
    /// The condition that is violated.
    pub condition: &'static str,
    /// The value that violates it.
    pub value: i128,
    /// The condition's limit.
    pub limit: i128,
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "overflow at node {} ({}), channel {}, element {}: expected {}, limit {}, got {}",
            self.node, self.name, self.channel, self.element, self.condition, self.limit, self.value
        )
    }
}

/// An answer that no choice of roundings gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// A score outside its interval.
    Score {
        /// Index of the output element.
        index: usize,
        /// What the answer has there.
        value: i32,
        /// Smallest value expected.
        low: i64,
        /// Largest value expected.
        high: i64,
    },
    /// A class that cannot win.
    Class {
        /// Index of the output element.
        index: usize,
        /// What the answer has there.
        value: i32,
        /// The class of the nominal value.
        nominal: i32,
        /// How many classes are possible.
        possible: usize,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Score { index, value, low, high } => {
                write!(f, "output {index}: expected {low} to {high}, got {value}")
            }
            Self::Class { index, value, nominal, possible: 1 } => {
                write!(f, "output {index}: expected class {nominal}, got {value}")
            }
            Self::Class { index, value, nominal, possible } => {
                write!(f, "output {index}: expected class {nominal} or one of {possible} in all, got {value}")
            }
        }
    }
}

/// The evaluation of a network on one input.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Every tensor: 0 is the input, i + 1 the output of node i. Channels of a convolution that no one reads are 0.
    pub tensors: Vec<Tensor>,
    /// The first nominal value outside the model's bounds: the network cannot be evaluated rightly on this input.
    pub overflow: Option<Overflow>,
    /// The first interval that reaches outside the model's bounds. With none, no choice of roundings overflows, and the
    /// intervals are proven; with one, they hold as long as no value overflows.
    pub possible_overflow: Option<Overflow>,
    /// Of a network that answers with classes, what each output element may be.
    candidates: Option<Vec<Candidates>>,
}

impl Trace {
    /// The network's output; of a network that answers with classes, the winners' values with the class in the low bits.
    pub fn output(&self) -> &Tensor {
        // A trace holds at least the input.
        &self.tensors[self.tensors.len() - 1]
    }

    /// The network's nominal answer: scores, or the indices of the classes.
    pub fn nominal_answer(&self) -> Vec<i32> {
        let nominal = &self.output().nominal;
        match &self.candidates {
            Some(candidates) => nominal.iter().zip(candidates).map(|(&v, c)| c.class(v)).collect(),
            // An activation's results are held within 32 bits.
            None => nominal.iter().map(|&v| v as i32).collect(),
        }
    }

    /// Whether some choice of roundings may give this answer; else the first element that none gives.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the answer's length is not the output's.
    pub fn contains(&self, answer: &[i32]) -> Result<Option<Mismatch>> {
        let expected = self.output();
        self.check_length(answer)?;
        Ok(answer.iter().enumerate().find_map(|(index, &value)| match &self.candidates {
            Some(candidates) => {
                let candidates = &candidates[index];
                (!candidates.hold(value)).then(|| {
                    let (nominal, possible) = (candidates.class(expected.nominal[index]), candidates.classes().len());
                    Mismatch::Class { index, value, nominal, possible }
                })
            }
            None => {
                let (low, high) = (expected.low[index], expected.high[index]);
                (!(low..=high).contains(&i64::from(value))).then_some(Mismatch::Score { index, value, low, high })
            }
        }))
    }

    /// Of a network that answers with classes, the indices that an output element may have by some choice of roundings, in
    /// ascending order; none of a network that answers with scores.
    pub fn possible_classes(&self, element: usize) -> Vec<u32> {
        self.candidates.as_ref().and_then(|all| all.get(element)).map_or_else(Vec::new, Candidates::classes)
    }

    /// The largest |output − nominal|, in units of the last place.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the answer's length is not the output's, or if the network answers with classes.
    pub fn max_ulp(&self, answer: &[i32]) -> Result<u64> {
        self.check_length(answer)?;
        if self.candidates.is_some() {
            return Err(Error::new(ErrorKind::InvalidArgument, "reference: expected scores, got classes: no distance"));
        }
        let nominal = &self.output().nominal;
        Ok(answer.iter().zip(nominal).map(|(&v, &n)| (i64::from(v) - n).unsigned_abs()).max().unwrap_or(0))
    }

    fn check_length(&self, answer: &[i32]) -> Result<()> {
        let expected = self.output().nominal.len();
        if answer.len() != expected {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("reference: output: expected {expected} elements, got {}", answer.len()),
            ));
        }
        Ok(())
    }
}

pub(crate) fn run(reference: &Reference, input: Tensor, intervals: bool) -> Trace {
    let mut trace = Trace { tensors: vec![input], overflow: None, possible_overflow: None, candidates: None };
    for (index, node) in reference.architecture.nodes.iter().enumerate() {
        let inputs = |part: fn(&Tensor) -> &[i64]| -> Vec<&[i64]> {
            node.inputs.iter().map(|&input| part(&trace.tensors[input as usize])).collect()
        };
        let activate = |y, channel: &Channel, secret: &ChannelSecret| rounded(y, channel, secret, nearest);
        let (nominal, sure) = evaluate::values(reference, index, &inputs(|t| &t.nominal), activate);
        let (tensor, possible) = if intervals {
            let (low, high, possible) =
                evaluate::intervals(reference, index, &inputs(|t| &t.low), &inputs(|t| &t.high));
            (Tensor { nominal, low, high }, possible)
        } else {
            (Tensor::exact(nominal), None)
        };
        let report = |(element, excess)| reference.overflow(index, element, excess);
        trace.overflow = trace.overflow.or_else(|| sure.map(report));
        trace.possible_overflow =
            trace.possible_overflow.or_else(|| possible.map(report)).or_else(|| trace.overflow.clone());
        trace.tensors.push(tensor);
    }
    if let Output::Class { index_bits } = reference.architecture.output {
        trace.candidates = Some(classes::candidates(reference, &trace.tensors, index_bits));
    }
    trace
}
