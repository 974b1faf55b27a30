//! The integer reference: a network's fixed-point arithmetic in the clear, written without the protocol's code.
//!
//! The protocol rounds at random, by the client's mask: a truncation gives floor(y / 2^f) or one more, a polynomial's way
//! back floor(z / 2^g) or one more. So a private inference has many right answers. This crate says which:
//!
//! - [`Reference::run`] carries through the network a *nominal* value (each rounding to the nearest allowed integer) and
//!   an *interval* that holds every value the protocol may reach. [`Trace::contains`] checks an answer against it. Of a
//!   network that answers with a class it knows which classes may win ([`Trace::possible_classes`]).
//! - [`Reference::allowed`] checks one node: whether its output is an allowed result for the inputs that it really had.
//!
//! Both are exact statements about integers, so a value outside is a fault of the protocol's code, never bad luck. Intervals
//! treat every rounding as the worst one; [`Reference::run_sampled`] draws them as the protocol does instead.
//!
//! ```
//! # use safenet_core::model::*;
//! # fn main() -> safenet_core::Result<()> {
//! # let model = ModelFile {
//! #     architecture: Architecture {
//! #         name: "one".into(), input: Shape { channels: 1, height: 1, width: 1 }, input_fraction_bits: 8,
//! #         input_range: [0, 256],
//! #         nodes: vec![
//! #             Node { name: "fc".into(), inputs: vec![0], op: Op::Convolution(Convolution { out_channels: 1, kernel: [1, 1], stride: [1, 1], padding: [0; 4], dilation: [1, 1], groups: 1, packed_outputs: u32::MAX }) },
//! #             Node { name: "output".into(), inputs: vec![1], op: Op::Activation(Activation { fraction_bits: 4, channels: vec![Channel { kind: Kind::Linear, bound_bits: 16, shift: 6, back_shift: 0 }] }) },
//! #         ],
//! #         output: Output::Scores,
//! #     },
//! #     parameters: Some(Parameters { nodes: vec![NodeSecret::Convolution { weights: vec![-5], bias: vec![20] }, NodeSecret::Activation(vec![ChannelSecret::default()])], calibration: Calibration::default(), scales: vec![] }),
//! # };
//! let reference = safenet_reference::Reference::new(&model)?;
//! let input = reference.quantise(&[0.5])?;              // 128 with 8 fraction bits
//! let trace = reference.run(&input)?;
//! let output = trace.output();                          // (-5 * 128 + 20) / 2^6 = -9.6875
//! assert_eq!((output.low[0], output.nominal[0], output.high[0]), (-10, -10, -9));
//! assert!(trace.contains(&[-9])?.is_none());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod allowed;
mod bounds;
mod classes;
mod convolution;
mod evaluate;
mod local;
mod rounding;
mod spread;
mod trace;

pub use allowed::Violation;
pub use bounds::ChannelBounds;
pub use rounding::FIELD_PRIME;
pub use trace::{Mismatch, Overflow, Tensor, Trace};

use convolution::Kernel;
use rounding::{Excess, at_random, nearest};
use safenet_core::model::{
    Architecture, ChannelSecret, Convolution, ModelFile, NodeSecret, Op, Output, Parameters, Shape,
};
use safenet_core::{Error, ErrorKind, Result};

/// Largest fan-in of a linear layer: with it, sums of products of 9-bit weights and 32-bit values fit 64 bits.
pub const FAN_IN_LIMIT: usize = 1 << 22;

/// A network's integers, ready to be evaluated in the clear. Holds the server's secrets.
pub struct Reference {
    architecture: Architecture,
    parameters: Parameters,
    shapes: Vec<Shape>,
    /// Per tensor, which channels no one reads.
    unread: Vec<Vec<bool>>,
}

impl Reference {
    /// Takes the integers of a server's model file.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedModel`] if the model holds no parameters or inconsistent ones,
    /// [`ErrorKind::UnsupportedModel`] if a layer's fan-in exceeds [`FAN_IN_LIMIT`].
    pub fn new(model: &ModelFile) -> Result<Self> {
        let parameters = model.parameters.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::MalformedModel,
                "reference: expected the server's model file, got the public part alone",
            )
        })?;
        parameters.check(&model.architecture)?;
        let shapes = model.architecture.shapes()?;
        for (index, node) in model.architecture.nodes.iter().enumerate() {
            let Op::Convolution(conv) = &node.op else { continue };
            let fan_in = (shapes[node.inputs[0] as usize].channels / conv.groups) as usize * conv.taps();
            if fan_in > FAN_IN_LIMIT {
                return Err(Error::new(
                    ErrorKind::UnsupportedModel,
                    format!(
                        "reference: node {index} ({}): expected a fan-in of at most {FAN_IN_LIMIT}, got {fan_in}",
                        node.name
                    ),
                ));
            }
        }
        let unread = model.architecture.unread_channels(&shapes);
        Ok(Self { architecture: model.architecture.clone(), parameters: parameters.clone(), shapes, unread })
    }

    /// The public architecture.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Shape of every tensor; 0 is the input, i + 1 the output of node i.
    pub fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// Evaluates the network on an encoded input: nominal values and intervals of every tensor.
    ///
    /// Overflows do not end the evaluation; they are in the trace ([`Trace::overflow`], [`Trace::possible_overflow`]).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the input's length is not that of the input tensor.
    pub fn run(&self, input: &[i32]) -> Result<Trace> {
        Ok(trace::run(self, Tensor::exact(self.wide(input)?), true))
    }

    /// As [`Self::run`], with nominal values alone (every interval is the nominal value itself): about three times faster.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the input's length is not that of the input tensor.
    pub fn run_nominal(&self, input: &[i32]) -> Result<Trace> {
        Ok(trace::run(self, Tensor::exact(self.wide(input)?), false))
    }

    /// The nominal answer alone and the first overflow, as [`Self::run_nominal`] finds them; tensors are dropped after
    /// their last use.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the input's length is not that of the input tensor.
    pub fn run_nominal_output(&self, input: &[i32]) -> Result<(Vec<i32>, Option<Overflow>)> {
        let (output, overflow) = evaluate::output(self, self.wide(input)?, nearest);
        Ok((self.answer(&output), overflow))
    }

    /// An answer that a private inference may give, and the first overflow on its way: every rounding goes up with the
    /// probability of its fraction, independently, as the protocol's do over the choice of the client's masks.
    ///
    /// `rounding` gives uniform words, one for each rounding. Answers to the same input with other words tell how far
    /// private answers lie apart in practice. They prove nothing about the extremes, as [`Self::run`] does; but in deep
    /// networks intervals take every rounding for the worst one, and soon hold everything.
    ///
    /// On its way back from the field the protocol rounds a polynomial up more often than that, by at most one in 2^g.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the input's length is not that of the input tensor.
    pub fn run_sampled(
        &self,
        input: &[i32],
        rounding: &mut dyn FnMut() -> u64,
    ) -> Result<(Vec<i32>, Option<Overflow>)> {
        let (output, overflow) = evaluate::output(self, self.wide(input)?, |z, bits| at_random(z, bits, rounding()));
        Ok((self.answer(&output), overflow))
    }

    /// Evaluates the network on all inputs between `low` and `high` at once: intervals that hold whatever the protocol may
    /// reach for any of them. Over the whole input range, this proves bounds; the nominal values are those of `low`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if a length is not that of the input tensor, or if a low end is above its high end.
    pub fn run_range(&self, low: &[i32], high: &[i32]) -> Result<Trace> {
        let (wide_low, wide_high) = (self.wide(low)?, self.wide(high)?);
        if let Some(i) = (0..low.len()).find(|&i| low[i] > high[i]) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("reference: input range: expected low <= high, got {} and {} at element {i}", low[i], high[i]),
            ));
        }
        Ok(trace::run(self, Tensor { nominal: wide_low.clone(), low: wide_low, high: wide_high }, true))
    }

    /// Per node and channel: what values are possible for any input within the input range, if the bounds of the nodes before
    /// hold, and whether the channel's own bound is thereby proven. If all are, no input within the range can overflow.
    ///
    /// Coarser than [`Self::run_range`] (a channel's elements share one interval), but a layer that cannot be proven does not
    /// spoil those after it.
    pub fn bounds(&self) -> Vec<Vec<ChannelBounds>> {
        bounds::bounds(self)
    }

    /// How far apart the protocol's roundings may drive two answers to the same input, in units of the last place: an upper
    /// bound of the intervals of [`Trace::output`] over all inputs within the input range whose traces show no possible
    /// overflow.
    pub fn worst_spread(&self) -> i64 {
        spread::worst(self, &self.bounds())
    }

    /// Whether every value after node `index` is an allowed result for the inputs that the node really had.
    ///
    /// Exact for all nodes but activations; for an activation, any result that the roundings of T and of the way back allow.
    /// Channels that no one reads are looked at only after activations and maxima.
    pub fn allowed(&self, index: usize, inputs: &[&[i64]], output: &[i64]) -> Option<Violation> {
        allowed::check(self, index, inputs, output)
    }

    /// Encodes real inputs: round(x · 2^bits), to the nearest integer.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the length is wrong or a value is not a number or outside the range for which the
    /// model's bounds were made.
    pub fn quantise(&self, input: &[f32]) -> Result<Vec<i32>> {
        self.check_input(input.len())?;
        let [low, high] = self.architecture.input_range;
        let scale = f64::from(1u32 << self.architecture.input_fraction_bits);
        let mut encoded = Vec::with_capacity(input.len());
        for (i, &x) in input.iter().enumerate() {
            let value = (f64::from(x) * scale).round();
            if !(f64::from(low)..=f64::from(high)).contains(&value) {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!(
                        "input element {i}: expected a value from {} to {}, for which the model was calibrated, got {x}",
                        f64::from(low) / scale,
                        f64::from(high) / scale
                    ),
                ));
            }
            encoded.push(value as i32);
        }
        Ok(encoded)
    }

    /// Decodes an answer: v / 2^bits, with the output's fraction bits.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the network answers with classes.
    pub fn scores(&self, answer: &[i32]) -> Result<Vec<f32>> {
        if self.architecture.output != Output::Scores {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "reference: expected a network that answers with scores, got one that answers with classes",
            ));
        }
        let scale = f64::from(1u32 << self.architecture.output_fraction_bits());
        Ok(answer.iter().map(|&v| (f64::from(v) / scale) as f32).collect())
    }

    /// What the client learns of the output's values.
    fn answer(&self, output: &[i64]) -> Vec<i32> {
        let one = |&v: &i64| match self.architecture.output {
            // An activation's results are held within 32 bits.
            Output::Scores => v as i32,
            Output::Class { index_bits } => classes::class(v, index_bits),
        };
        output.iter().map(one).collect()
    }

    fn wide(&self, input: &[i32]) -> Result<Vec<i64>> {
        self.check_input(input.len())?;
        Ok(input.iter().map(|&x| i64::from(x)).collect())
    }

    fn check_input(&self, length: usize) -> Result<()> {
        let expected = self.shapes[0].elements();
        if length != expected {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("reference: input: expected {expected} elements ({}), got {length}", self.shapes[0]),
            ));
        }
        Ok(())
    }

    fn weights(&self, index: usize) -> (&[i16], &[i32]) {
        match &self.parameters.nodes[index] {
            NodeSecret::Convolution { weights, bias } => (weights, bias),
            _ => (&[], &[]),
        }
    }

    fn kernel<'a>(&'a self, index: usize, conv: &'a Convolution) -> Kernel<'a> {
        let (input, output) = (self.architecture.nodes[index].inputs[0] as usize, index + 1);
        let (weights, bias) = self.weights(index);
        let unread = &self.unread[output];
        Kernel { conv, input: self.shapes[input], output: self.shapes[output], weights, bias, unread }
    }

    fn constants(&self, index: usize) -> &[i32] {
        match &self.parameters.nodes[index] {
            NodeSecret::Sum(constants) => constants,
            _ => &[],
        }
    }

    fn secrets(&self, index: usize) -> &[ChannelSecret] {
        match &self.parameters.nodes[index] {
            NodeSecret::Activation(secrets) => secrets,
            _ => &[],
        }
    }

    /// What was found at an element of a node's output, with its place.
    fn overflow(&self, node: usize, element: usize, excess: Excess) -> Overflow {
        let (name, channel, element) = self.place(node, element);
        let Excess { what, value, limit } = excess;
        Overflow { node, name, channel, element, condition: what, value, limit }
    }

    /// Name of the node, channel, and element within the channel.
    fn place(&self, node: usize, element: usize) -> (String, u32, u32) {
        let plane = self.shapes[node + 1].plane().max(1);
        (self.architecture.nodes[node].name.clone(), (element / plane) as u32, (element % plane) as u32)
    }
}
