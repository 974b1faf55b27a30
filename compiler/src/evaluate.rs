//! The network in 32-bit real numbers, as it was trained, and what its values are on the calibration samples.

use crate::network::{Function, Network, Op};
use crate::samples::Samples;
use safenet_core::model::{Convolution, Pool, Shape};

/// The trained network in 32-bit real numbers, batch normalisation folded: what the fixed-point model is compared with.
pub struct FloatNetwork {
    input: Shape,
    layers: Vec<Layer>,
}

struct Layer {
    op: FloatOp,
    input: Shape,
    output: Shape,
}

enum FloatOp {
    Linear { conv: Convolution, weights: Vec<f32>, bias: Vec<f32> },
    Average(Pool),
    Flatten,
    Activation(Vec<Function>),
}

impl FloatNetwork {
    /// Takes a chain without affine layers.
    pub(crate) fn new(network: &Network) -> Self {
        let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let mut input = network.input;
        let mut layers = Vec::with_capacity(network.layers.len());
        for layer in &network.layers {
            let op = match &layer.op {
                Op::Linear(l) => FloatOp::Linear { conv: l.conv, weights: narrow(&l.weights), bias: narrow(&l.bias) },
                Op::Average(pool) => FloatOp::Average(*pool),
                Op::Flatten | Op::Affine { .. } => FloatOp::Flatten,
                Op::Activation(functions) => FloatOp::Activation(functions.clone()),
            };
            layers.push(Layer { op, input, output: layer.shape });
            input = layer.shape;
        }
        Self { input: network.input, layers }
    }

    /// Shape of the input.
    pub fn input_shape(&self) -> Shape {
        self.input
    }

    /// The scores of one input; `None` if its length is not that of the input.
    pub fn run(&self, input: &[f32]) -> Option<Vec<f32>> {
        if input.len() != self.input.elements() {
            return None;
        }
        let mut x = input.to_vec();
        for layer in &self.layers {
            x = layer.apply(&x);
        }
        Some(x)
    }

    /// The output of every layer for one input of the right length.
    pub(crate) fn trace(&self, input: &[f32]) -> Vec<Vec<f32>> {
        let mut outputs: Vec<Vec<f32>> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let output = layer.apply(outputs.last().map_or(input, Vec::as_slice));
            outputs.push(output);
        }
        outputs
    }
}

impl Layer {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        match &self.op {
            FloatOp::Linear { conv, weights, bias } => convolve(conv, self.input, self.output, weights, bias, x),
            FloatOp::Average(pool) => average(pool, self.input, self.output, x),
            FloatOp::Flatten => x.to_vec(),
            FloatOp::Activation(functions) => {
                let plane = self.output.plane();
                let mut y = Vec::with_capacity(x.len());
                for (channel, function) in x.chunks_exact(plane).zip(functions) {
                    match function {
                        Function::Relu => y.extend(channel.iter().map(|&x| x.max(0.0))),
                        polynomial => y.extend(channel.iter().map(|&x| polynomial.at(x.into()) as f32)),
                    }
                }
                y
            }
        }
    }
}

/// Which output places along one axis a kernel tap reads from inside the input, and where the first of them reads.
fn reach(tap: u32, stride: u32, before: u32, size: u32, places: u32) -> (usize, usize, usize) {
    let (tap, stride, before) = (i64::from(tap), i64::from(stride), i64::from(before));
    let first = ((before - tap).max(0) + stride - 1) / stride;
    let last = (i64::from(size) - 1 + before - tap).div_euclid(stride) + 1;
    let last = last.clamp(first, i64::from(places).max(first));
    (first as usize, last as usize, (first * stride + tap - before).max(0) as usize)
}

fn convolve(conv: &Convolution, input: Shape, output: Shape, weights: &[f32], bias: &[f32], x: &[f32]) -> Vec<f32> {
    let [rows, columns] = conv.kernel;
    let (plane, out_plane) = (input.plane(), output.plane());
    let (width, out_width) = (input.width as usize, output.width as usize);
    let inputs = input.channels as usize;
    if plane == 1 && conv.padding == [0; 4] {
        // A dense layer: one scalar product per output.
        let product = |row: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        return weights.chunks_exact(inputs).zip(bias).map(|(row, b)| product(row) + b).collect();
    }
    let [down, across] = [conv.stride[0] as usize, conv.stride[1] as usize];
    let mut y = Vec::with_capacity(output.elements());
    for (o, &b) in bias.iter().enumerate() {
        let start = y.len();
        y.resize(start + out_plane, b);
        let y = &mut y[start..];
        let mut taps = weights[o * inputs * (rows * columns) as usize..].iter();
        for channel in x.chunks_exact(plane) {
            for row in 0..rows {
                let (top, bottom, from) = reach(row, conv.stride[0], conv.padding[0], input.height, output.height);
                for column in 0..columns {
                    let (left, right, at) = reach(column, conv.stride[1], conv.padding[1], input.width, output.width);
                    let w = taps.next().copied().unwrap_or_default();
                    if w == 0.0 || left == right {
                        continue;
                    }
                    for i in top..bottom {
                        let source = &channel[(from + (i - top) * down) * width + at..];
                        let target = &mut y[i * out_width + left..i * out_width + right];
                        // Consecutive sums along a row vectorise.
                        if across == 1 {
                            target.iter_mut().zip(source).for_each(|(y, x)| *y += w * x);
                        } else {
                            target.iter_mut().zip(source.iter().step_by(across)).for_each(|(y, x)| *y += w * x);
                        }
                    }
                }
            }
        }
    }
    y
}

fn average(pool: &Pool, input: Shape, output: Shape, x: &[f32]) -> Vec<f32> {
    let [rows, columns] = [pool.kernel[0] as usize, pool.kernel[1] as usize];
    let [down, across] = [pool.stride[0] as usize, pool.stride[1] as usize];
    let factor = 1.0 / (rows * columns) as f32;
    let mut y = Vec::with_capacity(output.elements());
    for channel in x.chunks_exact(input.plane()) {
        for i in 0..output.height as usize {
            for j in 0..output.width as usize {
                let window =
                    (0..rows).map(|r| &channel[(i * down + r) * input.width as usize + j * across..][..columns]);
                y.push(window.flatten().sum::<f32>() * factor);
            }
        }
    }
    y
}

/// What one channel's values were on the calibration samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statistics {
    pub(crate) low: f64,
    pub(crate) high: f64,
    sum: f64,
    squares: f64,
    count: f64,
}

impl Statistics {
    const EMPTY: Self = Self { low: f64::INFINITY, high: f64::NEG_INFINITY, sum: 0.0, squares: 0.0, count: 0.0 };

    fn add(&mut self, values: &[f32]) {
        for &x in values {
            let x = f64::from(x);
            self.low = self.low.min(x);
            self.high = self.high.max(x);
            self.sum += x;
            self.squares += x * x;
        }
        self.count += values.len() as f64;
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.count.max(1.0)
    }

    pub(crate) fn mean_square(&self) -> f64 {
        self.squares / self.count.max(1.0)
    }

    pub(crate) fn variance(&self) -> f64 {
        (self.mean_square() - self.mean() * self.mean()).max(0.0)
    }
}

/// Statistics of every tensor's channels over the samples: 0 is the input, i + 1 the output of layer i.
pub(crate) fn measure(network: &FloatNetwork, samples: &Samples) -> Vec<Vec<Statistics>> {
    let shapes = std::iter::once(network.input).chain(network.layers.iter().map(|l| l.output));
    let planes: Vec<usize> = shapes.clone().map(|s| s.plane()).collect();
    let mut all: Vec<Vec<Statistics>> = shapes.map(|s| vec![Statistics::EMPTY; s.channels as usize]).collect();
    for sample in samples.iter() {
        let outputs = network.trace(sample);
        let tensors = std::iter::once(sample).chain(outputs.iter().map(Vec::as_slice));
        for ((channels, plane), tensor) in all.iter_mut().zip(&planes).zip(tensors) {
            for (channel, values) in channels.iter_mut().zip(tensor.chunks_exact(*plane)) {
                channel.add(values);
            }
        }
    }
    all
}
