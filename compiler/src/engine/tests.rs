//! Every layer against its definition, evaluated place by place in double precision.

use super::FloatNetwork;
use crate::network::{Function, Layer, Linear, Network, Op, Piecewise};
use safenet_core::model::{Channels, Convolution, Edge, Pool, Shape, Window};

/// A three-dimensional array, read with signed places; outside is none.
struct Image {
    shape: Shape,
    values: Vec<f64>,
}

impl Image {
    fn at(&self, c: usize, i: i64, j: i64) -> Option<f64> {
        let (height, width) = (i64::from(self.shape.height), i64::from(self.shape.width));
        let inside = (0..height).contains(&i) && (0..width).contains(&j);
        inside.then(|| self.values[(c as i64 * height * width + i * width + j) as usize])
    }
}

/// Numbers that look random: multiples of 1/8 from -4 to 4.
fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % 65) as f64 / 8.0 - 4.0
    };
    (0..count).map(next).collect()
}

fn shape(channels: u32, height: u32, width: u32) -> Shape {
    Shape { channels, height, width }
}

/// Evaluates one layer on an image, through the engine, and compares it with `at`(channel, row, column).
fn check(op: Op, input: Shape, output: Shape, at: impl Fn(&Image, usize, i64, i64) -> f64) {
    let text = format!("{op:?}");
    let layer =
        Layer { name: "layer".into(), inputs: vec![0; if matches!(op, Op::Max) { 2 } else { 1 }], op, shape: output };
    let network = Network { layers: vec![layer], ..Network::new(String::new(), input) };
    let float = FloatNetwork::new(&network).unwrap_or_else(|e| panic!("{text}: {e}"));
    let image = Image { shape: input, values: numbers(7, input.elements()) };
    let narrow: Vec<f32> = image.values.iter().map(|&x| x as f32).collect();
    let got = float.run(&narrow).unwrap();
    assert_eq!(float.trace(&narrow).unwrap().len(), 1);
    let mut expected = Vec::new();
    for c in 0..output.channels as usize {
        for i in 0..i64::from(output.height) {
            expected.extend((0..i64::from(output.width)).map(|j| at(&image, c, i, j)));
        }
    }
    assert_eq!(got.len(), expected.len(), "{text}");
    for (place, (&got, expected)) in got.iter().zip(expected).enumerate() {
        let difference = (f64::from(got) - expected).abs();
        assert!(difference <= 1e-4 * expected.abs().max(1.0), "{text}: {place}: expected {expected}, got {got}");
    }
}

fn convolution(out_channels: u32, kernel: [u32; 2], stride: [u32; 2], padding: [u32; 4]) -> Convolution {
    Convolution { out_channels, kernel, stride, padding, dilation: [1, 1], groups: 1, packed_outputs: u32::MAX }
}

#[test]
fn convolutions() {
    let cases = [
        (convolution(5, [3, 3], [1, 1], [1, 1, 1, 1]), shape(4, 6, 7), [6, 7]),
        (convolution(3, [2, 3], [2, 1], [0, 2, 1, 0]), shape(2, 5, 6), [3, 6]),
        (Convolution { dilation: [2, 3], ..convolution(2, [3, 2], [1, 2], [2, 0, 1, 3]) }, shape(3, 7, 8), [6, 4]),
        (Convolution { groups: 2, ..convolution(6, [3, 1], [1, 1], [1, 0, 1, 0]) }, shape(4, 4, 5), [4, 5]),
        (Convolution { groups: 4, ..convolution(4, [3, 3], [2, 2], [1, 1, 1, 1]) }, shape(4, 6, 6), [3, 3]),
        (Convolution { groups: 3, ..convolution(6, [3, 3], [1, 1], [0, 0, 0, 0]) }, shape(3, 5, 5), [3, 3]),
        (convolution(7, [1, 1], [1, 1], [0; 4]), shape(33, 1, 1), [1, 1]),
    ];
    for (conv, input, [height, width]) in cases {
        let inputs = (input.channels / conv.groups) as usize;
        let [rows, columns] = conv.kernel.map(|k| k as usize);
        let weights = numbers(3, conv.out_channels as usize * inputs * rows * columns);
        let bias = numbers(4, conv.out_channels as usize);
        let linear = Linear { conv, weights: weights.clone(), bias: bias.clone() };
        check(Op::Linear(linear), input, shape(conv.out_channels, height, width), |x, o, i, j| {
            let group = o / (conv.out_channels / conv.groups) as usize;
            let mut sum = bias[o];
            for c in 0..inputs {
                for (r, s) in (0..rows).flat_map(|r| (0..columns).map(move |s| (r, s))) {
                    let row = i * i64::from(conv.stride[0]) + r as i64 * i64::from(conv.dilation[0]);
                    let column = j * i64::from(conv.stride[1]) + s as i64 * i64::from(conv.dilation[1]);
                    let [top, left] = [conv.padding[0], conv.padding[1]].map(i64::from);
                    let value = x.at(group * inputs + c, row - top, column - left).unwrap_or(0.0);
                    sum += weights[((o * inputs + c) * rows + r) * columns + s] * value;
                }
            }
            sum
        });
    }
}

#[test]
fn pools() {
    let pools = [
        (Pool { kernel: [2, 2], stride: [2, 2], padding: [0; 4], inside_only: false }, [3, 3]),
        (Pool { kernel: [3, 3], stride: [2, 2], padding: [1; 4], inside_only: false }, [3, 4]),
        (Pool { kernel: [3, 3], stride: [2, 2], padding: [1; 4], inside_only: true }, [3, 4]),
        (Pool { kernel: [3, 2], stride: [1, 3], padding: [2, 0, 0, 1], inside_only: true }, [6, 3]),
        (Pool { kernel: [3, 2], stride: [1, 3], padding: [2, 0, 0, 1], inside_only: false }, [6, 3]),
        (Pool { kernel: [6, 7], stride: [1, 1], padding: [0; 4], inside_only: true }, [1, 1]),
    ];
    for (pool, [height, width]) in pools {
        let inside = move |x: &Image, c: usize, i: i64, j: i64| -> Vec<f64> {
            let place = |i: i64, k: u32, axis: usize| {
                i * i64::from(pool.stride[axis]) + i64::from(k) - i64::from(pool.padding[axis])
            };
            let window = (0..pool.kernel[0]).flat_map(|r| (0..pool.kernel[1]).map(move |s| (r, s)));
            window.filter_map(|(r, s)| x.at(c, place(i, r, 0), place(j, s, 1))).collect()
        };
        let (input, output) = (shape(3, 6, 7), shape(3, height, width));
        check(Op::Average(pool), input, output, |x, c, i, j| {
            let values = inside(x, c, i, j);
            let all = (pool.kernel[0] * pool.kernel[1]) as usize;
            values.iter().sum::<f64>() / if pool.inside_only { values.len() } else { all } as f64
        });
        check(Op::MaxPool(pool), input, output, |x, c, i, j| {
            inside(x, c, i, j).into_iter().fold(f64::NEG_INFINITY, f64::max)
        });
    }
}

#[test]
fn windows() {
    let input = shape(2, 5, 6);
    let cases = [
        ([0, 0], [1, 1], [5, 6]),
        ([1, 2], [2, 1], [2, 3]),
        ([0, 1], [2, 2], [3, 3]),
        ([-1, -2], [1, 1], [7, 9]),
        ([-3, 1], [2, 3], [6, 4]),
        ([4, 5], [1, 1], [3, 2]),
        ([-1, 0], [3, 1], [2, 6]),
        ([-9, 0], [1, 1], [3, 6]),
        ([0, 8], [2, 2], [2, 2]),
        ([1_000_000, -1_000_000], [1, 1], [2, 2]),
    ];
    for edge in [Edge::Zero, Edge::Nearest] {
        for (offset, stride, size) in cases {
            let window = Window { offset, stride, size, edge };
            check(Op::Window(window), input, shape(2, size[0], size[1]), |x, c, i, j| {
                let row = i64::from(offset[0]) + i * i64::from(stride[0]);
                let column = j * i64::from(stride[1]) + i64::from(offset[1]);
                match edge {
                    Edge::Zero => x.at(c, row, column).unwrap_or(0.0),
                    Edge::Nearest => x.at(c, row.clamp(0, 4), column.clamp(0, 5)).unwrap(),
                }
            });
        }
    }
}

#[test]
fn functions_of_one_variable() {
    let polynomial = |degree: u8| {
        let mut c = [0.5, -0.75, 0.25, 0.125];
        c[degree as usize + 1..].fill(0.0);
        Function::Polynomial { degree, c }
    };
    let all = [Function::Relu, polynomial(0), polynomial(1), polynomial(2), polynomial(3), Function::IDENTITY];
    let plans = all.iter().map(|&f| vec![f; 3]).chain([all.to_vec(), all[1..4].to_vec(), vec![all[0], all[5]]]);
    for functions in plans {
        let shape = shape(functions.len() as u32, 3, 5);
        let at = functions.clone();
        check(Op::Activation(functions), shape, shape, move |x, c, i, j| {
            let x = x.at(c, i, j).unwrap();
            match at[c] {
                Function::Relu => x.max(0.0),
                Function::Polynomial { c, .. } => c[0] + c[1] * x + c[2] * x.powi(2) + c[3] * x.powi(3),
            }
        });
    }
}

#[test]
fn piecewise_functions() {
    let all = [
        Piecewise::Clip { low: 0.0, high: 2.0 },
        Piecewise::Clip { low: f64::NEG_INFINITY, high: 1.0 },
        Piecewise::Clip { low: -1.0, high: f64::INFINITY },
        Piecewise::Leaky { slope: 0.125 },
        Piecewise::Leaky { slope: -2.0 },
        Piecewise::HardSigmoid { alpha: 0.25, beta: 0.5 },
        Piecewise::HardSigmoid { alpha: -1.0, beta: 0.0 },
        Piecewise::HardSwish,
    ];
    let plans = all.iter().map(|&f| vec![f; 2]).chain([all.to_vec(), all[..3].to_vec(), all[3..5].to_vec()]);
    for functions in plans {
        let shape = shape(functions.len() as u32, 4, 4);
        let at = functions.clone();
        check(Op::Piecewise(functions), shape, shape, move |x, c, i, j| {
            let x = x.at(c, i, j).unwrap();
            match at[c] {
                Piecewise::Clip { low, high } => x.max(low).min(high),
                Piecewise::Leaky { slope } => {
                    if x > 0.0 {
                        x
                    } else {
                        slope * x
                    }
                }
                Piecewise::HardSigmoid { alpha, beta } => (alpha * x + beta).clamp(0.0, 1.0),
                Piecewise::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            }
        });
    }
}

#[test]
fn layers_of_one_input() {
    let input = shape(4, 3, 2);
    let channels = Channels { first: 1, count: 2 };
    check(Op::Channels(channels), input, shape(2, 3, 2), |x, c, i, j| x.at(c + 1, i, j).unwrap());
    check(Op::Flatten, input, shape(24, 1, 1), |x, c, _, _| x.values[c]);
    let (scale, shift) = (numbers(1, 4), numbers(2, 4));
    let affine = Op::Affine { scale: scale.clone(), shift: shift.clone() };
    check(affine, input, input, |x, c, i, j| scale[c] * x.at(c, i, j).unwrap() + shift[c]);
    let sum = |negative, constant: &[f64]| Op::Sum { negative: vec![negative], constant: constant.to_vec() };
    check(sum(true, &shift), input, input, |x, c, i, j| shift[c] - x.at(c, i, j).unwrap());
    check(sum(false, &[0.0; 4]), input, input, |x, c, i, j| x.at(c, i, j).unwrap());
    check(Op::Max, input, input, |x, c, i, j| x.at(c, i, j).unwrap());
}

fn layer(inputs: &[usize], op: Op, shape: Shape) -> Layer {
    Layer { name: "layer".into(), inputs: inputs.to_vec(), op, shape }
}

/// Branches that meet, a layer that nothing reads, one read twice, and one whose input is the network's.
#[test]
fn graphs() {
    let input = shape(1, 2, 2);
    let line = |slope| Op::Affine { scale: vec![slope], shift: vec![1.0] };
    let layers = vec![
        layer(&[0], line(2.0), input),
        layer(&[0], line(-1.0), input),
        layer(&[1, 2], Op::Max, input),
        layer(&[1], line(100.0), input),
        layer(&[3, 3, 0], Op::Sum { negative: vec![false, true, true], constant: vec![0.5] }, input),
        layer(&[5, 3, 0], Op::Concat, shape(3, 2, 2)),
    ];
    let float = FloatNetwork::new(&Network { layers, ..Network::new(String::new(), input) }).unwrap();
    let x = [-2.0, -0.5, 0.0, 3.0];
    let each = |f: fn(f32) -> f32| x.map(f).to_vec();
    let sum = each(|x| 0.5 - x);
    let largest = each(|x| (2.0 * x + 1.0).max(1.0 - x));
    let all = [sum.clone(), largest.clone(), x.to_vec()].concat();
    let expected = [
        each(|x| 2.0 * x + 1.0),
        each(|x| 1.0 - x),
        largest,
        each(|x| 100.0 * (2.0 * x + 1.0) + 1.0),
        sum,
        all.clone(),
    ];
    assert_eq!(float.trace(&x).unwrap(), expected);
    assert_eq!(float.run(&x), Some(all));
    assert_eq!(float.run(&x[..3]), None);
    assert!(float.trace(&x[..3]).unwrap_err().to_string().contains("4 elements"));
}

#[test]
fn contradictions_are_errors() {
    let input = shape(2, 3, 3);
    let refused = |layer: Layer| {
        let network = Network { layers: vec![layer], ..Network::new(String::new(), input) };
        FloatNetwork::new(&network).err().unwrap().to_string()
    };
    assert!(refused(layer(&[0], Op::Flatten, input)).contains("expected an output of shape 2x3x3"));
    assert!(refused(layer(&[1], Op::Flatten, input)).contains("expected inputs among the 1 tensors"));
    assert!(refused(layer(&[], Op::Concat, input)).contains("expected an input"));
    assert!(refused(layer(&[0], Op::Max, input)).contains("expected two inputs"));
    let conv = Convolution { groups: 0, ..convolution(2, [1, 1], [1, 1], [0; 4]) };
    let linear = |conv| Op::Linear(Linear { conv, weights: vec![1.0; 4], bias: vec![0.0; 2] });
    assert!(refused(layer(&[0], linear(conv), input)).contains("the ONNX engine"));
    let conv = convolution(2, [4, 4], [1, 1], [0; 4]);
    assert!(refused(layer(&[0], linear(conv), input)).contains("the ONNX engine"));
    let empty = Network::new(String::new(), input);
    assert!(FloatNetwork::new(&empty).is_err());
}
