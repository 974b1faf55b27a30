//! Piecewise functions as sums of ReLUs, lines and parabolas.

use super::Before;
use crate::error::Result;
use crate::network::{Function, Linear, Network, Op, Piecewise, Tensor};
use safenet_core::model::Shape;

/// Replaces every piecewise layer.
pub(super) fn expand(network: &mut Network) -> Result<()> {
    let mut index = 0;
    while index < network.layers.len() {
        let layer = &mut network.layers[index];
        if let Op::Piecewise(functions) = &mut layer.op {
            let functions = std::mem::take(functions);
            let (name, x, shape) = (layer.name.clone(), layer.inputs[0], layer.shape);
            let mut at = Expansion { before: Before { network, index }, name, shape };
            let (op, inputs) = at.function(x, &functions);
            index = at.before.index;
            network.layers[index].op = op;
            network.layers[index].inputs = inputs;
        }
        index += 1;
    }
    Ok(())
}

struct Expansion<'a> {
    before: Before<'a>,
    name: String,
    shape: Shape,
}

impl Expansion<'_> {
    /// The last step of the functions, one per channel and all of one kind, and what it reads.
    fn function(&mut self, x: Tensor, functions: &[Piecewise]) -> (Op, Vec<Tensor>) {
        match functions.first() {
            Some(Piecewise::Leaky { .. }) => self.leaky(x, functions),
            Some(Piecewise::HardSigmoid { .. }) => self.hard_sigmoid(x, functions),
            Some(Piecewise::HardSwish) => self.hard_swish(x),
            Some(Piecewise::Clip { .. }) | None => {
                let ends = |f: &Piecewise| {
                    if let Piecewise::Clip { low, high } = *f { (low, high) } else { (0.0, 0.0) }
                };
                let (low, high): (Vec<f64>, Vec<f64>) = functions.iter().map(ends).unzip();
                self.clip(x, &low, &high)
            }
        }
    }

    fn push(&mut self, suffix: &str, op: Op, inputs: Vec<Tensor>) -> Tensor {
        self.before.push(format!("{}.{suffix}", self.name), op, inputs, self.shape)
    }

    /// relu(x − at).
    fn relu(&mut self, suffix: &str, x: Tensor, at: &[f64]) -> Tensor {
        let mut x = x;
        if at.iter().any(|&at| at != 0.0) {
            let constant = at.iter().map(|at| -at).collect();
            x = self.push(&format!("{suffix}.shift"), Op::Sum { negative: vec![false], constant }, vec![x]);
        }
        self.push(suffix, Op::Activation(vec![Function::Relu; at.len()]), vec![x])
    }

    /// min(max(x, low), high) = low + relu(x − low) − relu(x − high). Where there is no low end, −relu(−x + high) + high, so
    /// that no more than one ReLU is needed.
    fn clip(&mut self, x: Tensor, low: &[f64], high: &[f64]) -> (Op, Vec<Tensor>) {
        let finite = |ends: &[f64]| ends.iter().all(|end| end.is_finite());
        match (finite(low), finite(high)) {
            (true, false) => {
                let above = self.relu("low", x, low);
                (Op::Sum { negative: vec![false], constant: low.to_vec() }, vec![above])
            }
            (true, true) => {
                let (above, beyond) = (self.relu("low", x, low), self.relu("high", x, high));
                (Op::Sum { negative: vec![false, true], constant: low.to_vec() }, vec![above, beyond])
            }
            _ => {
                let distance = Op::Sum { negative: vec![true], constant: high.to_vec() };
                let distance = self.push("high.distance", distance, vec![x]);
                let below = self.push("high", Op::Activation(vec![Function::Relu; high.len()]), vec![distance]);
                (Op::Sum { negative: vec![true], constant: high.to_vec() }, vec![below])
            }
        }
    }

    /// (1 − slope) · relu(x) + slope · x.
    fn leaky(&mut self, x: Tensor, functions: &[Piecewise]) -> (Op, Vec<Tensor>) {
        let slope = |f: &Piecewise| {
            if let Piecewise::Leaky { slope } = *f { slope } else { 0.0 }
        };
        let slopes: Vec<f64> = functions.iter().map(slope).collect();
        let zeros = vec![0.0; slopes.len()];
        let positive = self.relu("relu", x, &zeros);
        let rest = slopes.iter().map(|slope| 1.0 - slope).collect();
        let positive = self.push("positive", Op::Linear(Linear::depthwise(rest, zeros.clone())), vec![positive]);
        let line = self.push("line", Op::Linear(Linear::depthwise(slopes, zeros.clone())), vec![x]);
        (Op::Sum { negative: vec![false; 2], constant: zeros }, vec![positive, line])
    }

    fn hard_sigmoid(&mut self, x: Tensor, functions: &[Piecewise]) -> (Op, Vec<Tensor>) {
        let line = |f: &Piecewise| match *f {
            Piecewise::HardSigmoid { alpha, beta } => (alpha, beta),
            _ => (0.0, 0.0),
        };
        let (scale, shift): (Vec<f64>, Vec<f64>) = functions.iter().map(line).unzip();
        let count = functions.len();
        let line = self.push("line", Op::Affine { scale, shift }, vec![x]);
        self.clip(line, &vec![0.0; count], &vec![1.0; count])
    }

    /// u²/6 + u/2 + relu(x − 3) with u = min(max(x, −3), 3): the parabola is 0 at −3 and 3 at 3.
    fn hard_swish(&mut self, x: Tensor) -> (Op, Vec<Tensor>) {
        let count = self.shape.channels as usize;
        let (above, beyond) = (self.relu("low", x, &vec![-3.0; count]), self.relu("high", x, &vec![3.0; count]));
        let clipped = Op::Sum { negative: vec![false, true], constant: vec![-3.0; count] };
        let clipped = self.push("clip", clipped, vec![above, beyond]);
        let parabola = Function::Polynomial { degree: 2, c: [0.0, 0.5, 1.0 / 6.0, 0.0] };
        let parabola = self.push("parabola", Op::Activation(vec![parabola; count]), vec![clipped]);
        (Op::Sum { negative: vec![false; 2], constant: vec![0.0; count] }, vec![parabola, beyond])
    }
}
