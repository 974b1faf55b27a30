//! Evaluating the whole network: nominal values, intervals, and overflows.

use crate::Reference;
use crate::linear::{Kernel, sum_pool};
use crate::rounding::{Excess, Interval, activated, activated_nominal};
use safenet_core::model::{Activation, ChannelSecret, Op};
use safenet_core::{Error, ErrorKind, Result};
use std::fmt;

/// Values of activations and pools from here on are outside Z_2^32 and reported as overflows; they are held at its ends, so
/// that sums of them still fit 64 bits.
const HELD: i64 = 1 << 31;

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
pub struct Mismatch {
    /// Index of the output element.
    pub index: usize,
    /// What the answer has there.
    pub value: i32,
    /// Smallest value expected.
    pub low: i64,
    /// Largest value expected.
    pub high: i64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "output {}: expected {} to {}, got {}", self.index, self.low, self.high, self.value)
    }
}

/// The evaluation of a network on one input.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Every tensor: 0 is the input, i + 1 the output of node i. Channels that no one reads are 0.
    pub tensors: Vec<Tensor>,
    /// The first nominal value outside the model's bounds: the network cannot be evaluated rightly on this input.
    pub overflow: Option<Overflow>,
    /// The first interval that reaches outside the model's bounds. With none, no choice of roundings overflows, and the
    /// intervals are proven; with one, they hold as long as no value overflows.
    pub possible_overflow: Option<Overflow>,
}

impl Trace {
    /// The network's output.
    pub fn output(&self) -> &Tensor {
        // A trace holds at least the input.
        &self.tensors[self.tensors.len() - 1]
    }

    /// The network's nominal answer. It is one of 32-bit integers: an activation's results are held within them.
    pub fn nominal_answer(&self) -> Vec<i32> {
        self.output().nominal.iter().map(|&v| v as i32).collect()
    }

    /// Whether some choice of roundings may give this answer; else the first element that none gives.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the answer's length is not the output's.
    pub fn contains(&self, output: &[i32]) -> Result<Option<Mismatch>> {
        let expected = self.output();
        self.check_length(output)?;
        Ok(output.iter().enumerate().find_map(|(index, &value)| {
            let (low, high) = (expected.low[index], expected.high[index]);
            (!(low..=high).contains(&i64::from(value))).then_some(Mismatch { index, value, low, high })
        }))
    }

    /// The largest |output − nominal|, in units of the last place.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the answer's length is not the output's.
    pub fn max_ulp(&self, output: &[i32]) -> Result<u64> {
        self.check_length(output)?;
        let nominal = &self.output().nominal;
        Ok(output.iter().zip(nominal).map(|(&v, &n)| (i64::from(v) - n).unsigned_abs()).max().unwrap_or(0))
    }

    fn check_length(&self, output: &[i32]) -> Result<()> {
        let expected = self.output().nominal.len();
        if output.len() != expected {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("reference: output: expected {expected} elements, got {}", output.len()),
            ));
        }
        Ok(())
    }
}

pub(crate) fn run(reference: &Reference, input: Tensor, intervals: bool) -> Trace {
    let mut trace = Trace { tensors: vec![input], overflow: None, possible_overflow: None };
    for (index, node) in reference.architecture.nodes.iter().enumerate() {
        let x = &trace.tensors[node.input as usize];
        let (input, output) = (reference.shapes[node.input as usize], reference.shapes[index + 1]);
        let mut excesses = [None, None];
        let tensor = match &node.op {
            Op::Convolution(conv) => {
                let (weights, bias) = reference.weights(index);
                let kernel = Kernel { conv, input, output, weights, bias, unread: &reference.unread[index] };
                let nominal = kernel.apply(&x.nominal);
                let (low, high) =
                    if intervals { kernel.apply_interval(&x.low, &x.high) } else { (nominal.clone(), nominal.clone()) };
                Tensor { nominal, low, high }
            }
            Op::SumPool(pool) => {
                let nominal = sum_pool(pool, input, output, &x.nominal);
                let ends = |x: &[i64]| if intervals { sum_pool(pool, input, output, x) } else { nominal.clone() };
                let (low, high) = (ends(&x.low), ends(&x.high));
                let mut tensor = Tensor { nominal, low, high };
                excesses = hold(&mut tensor);
                tensor
            }
            Op::Flatten => x.clone(),
            Op::Activation(activation) => {
                let (mut tensor, [sure, possible]) =
                    activate(activation, reference.secrets(index), output.plane(), x, intervals);
                let [wide, possibly_wide] = hold(&mut tensor);
                excesses = [sure.or(wide), possible.or(possibly_wide)];
                tensor
            }
        };
        let report = |found: Found| found.map(|(element, excess)| reference.overflow(index, element, excess));
        let [sure, possible] = excesses;
        if trace.overflow.is_none() {
            trace.overflow = report(sure);
        }
        if trace.possible_overflow.is_none() {
            trace.possible_overflow = report(possible).or_else(|| trace.overflow.clone());
        }
        trace.tensors.push(tensor);
    }
    trace
}

type Found = Option<(usize, Excess)>;

fn activate(
    activation: &Activation,
    secrets: &[ChannelSecret],
    plane: usize,
    x: &Tensor,
    intervals: bool,
) -> (Tensor, [Found; 2]) {
    let count = x.nominal.len();
    let mut tensor =
        Tensor { nominal: Vec::with_capacity(count), low: Vec::with_capacity(count), high: Vec::with_capacity(count) };
    let (mut sure, mut possible) = (None, None);
    for (c, (channel, secret)) in activation.channels.iter().zip(secrets).enumerate() {
        for e in c * plane..(c + 1) * plane {
            let y = x.nominal[e];
            let nominal = activated_nominal(y, channel, secret);
            tensor.nominal.push(nominal);
            if sure.is_none() {
                sure = activated(Interval::new(y, y), channel, secret).1.map(|excess| (e, excess));
            }
            if intervals {
                let (range, excess) = activated(Interval::new(x.low[e], x.high[e]), channel, secret);
                possible = possible.or(excess.map(|excess| (e, excess)));
                tensor.low.push(range.low);
                tensor.high.push(range.high);
            } else {
                tensor.low.push(nominal);
                tensor.high.push(nominal);
            }
        }
    }
    (tensor, [sure, possible])
}

/// Reports values outside Z_2^32, and holds them at its ends.
fn hold(tensor: &mut Tensor) -> [Found; 2] {
    let found = |values: &[i64]| {
        let e = values.iter().position(|v| !(-HELD..HELD).contains(v))?;
        let (value, limit) = (i128::from(values[e]), i128::from(HELD));
        Some((e, Excess { what: "a value of the ring Z_2^32", value, limit }))
    };
    let sure = found(&tensor.nominal);
    let possible = found(&tensor.low).or_else(|| found(&tensor.high));
    if sure.is_some() || possible.is_some() {
        for v in tensor.nominal.iter_mut().chain(&mut tensor.low).chain(&mut tensor.high) {
            *v = (*v).clamp(-HELD, HELD - 1);
        }
    }
    [sure, possible]
}
