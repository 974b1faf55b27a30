//! Random graphs: every value right, no value of the client's at the server without a mask of its own, what is taken as
//! read by no one read by no one.

use super::graphs::with_secrets;
use super::{Pipe, check_cost, check_tensors};
use crate::layer;
use crate::model::{
    Activation, Architecture, Channel, Channels, Convolution, Edge, Kind, Max, ModelFile, Node, Op, Output, Pool,
    Shape, Sum, Window,
};
use crate::prg::{Prg, Seed};
use crate::session::{ClientModel, ServerModel};
use crate::threads::Threads;
use alloc::{collections::BTreeMap, format, vec, vec::Vec};

/// A graph in the making, with a bound of each tensor's values, and whether a convolution may read it.
struct Draft {
    prg: Prg,
    nodes: Vec<Node>,
    shapes: Vec<Shape>,
    bounds: Vec<i64>,
    known: Vec<bool>,
}

impl Draft {
    fn below(&mut self, limit: usize) -> usize {
        self.prg.below(limit as u64) as usize
    }

    /// A tensor, recent ones more often.
    fn tensor(&mut self) -> usize {
        let count = self.shapes.len();
        let back = self.below(count).min(self.below(count));
        count - 1 - back
    }

    /// Tensors of the same shape as one.
    fn alike(&mut self, first: usize, same: fn(&Shape) -> [u32; 3]) -> usize {
        let wanted = same(&self.shapes[first]);
        let fitting: Vec<usize> = (0..self.shapes.len()).filter(|&t| same(&self.shapes[t]) == wanted).collect();
        fitting[self.below(fitting.len())]
    }

    /// Adds a node if it is one, its values are small and its tensor is too.
    fn push(&mut self, inputs: &[usize], op: Op, bound: i64) {
        let shapes: Vec<Shape> = inputs.iter().map(|&t| self.shapes[t]).collect();
        let Ok(shape) = op.output(&shapes) else { return };
        let all_known = inputs.iter().all(|&t| self.known[t]);
        let convolution = matches!(op, Op::Convolution(_));
        if !(1..=160).contains(&shape.elements()) || bound >= 1 << 24 || convolution && !all_known {
            return;
        }
        self.known.push(if op.is_local() { all_known } else { !convolution });
        let name = format!("node {}", self.nodes.len());
        self.nodes.push(Node { name, inputs: inputs.iter().map(|&t| t as u32).collect(), op });
        self.shapes.push(shape);
        self.bounds.push(bound);
    }

    /// A channel's activation for values of a bound, and the bound of what comes out.
    fn channel(&mut self, bound: i64) -> (Channel, i64) {
        let bits = 64 - (bound as u64).leading_zeros() as u8;
        let shift = bits.saturating_sub(6 + self.below(6) as u8);
        let bound_bits = (bits + 2).max(shift + 3);
        let v = (bound >> shift) + 1;
        let channel = |kind, back_shift| Channel { kind, bound_bits, shift, back_shift };
        let zero = Channel { kind: Kind::Zero, bound_bits: 0, shift: 0, back_shift: 0 };
        match self.below(8) {
            0 | 1 => (channel(Kind::Relu, 0), v),
            2 => (channel(Kind::Square { secret_sign: bits & 1 == 1 }, 6), ((v * v) >> 6) + 18),
            3 if bound_bits - shift <= 12 => (channel(Kind::Cubic, 10), ((v * v * v + 300 * v) >> 10) + 18),
            4 | 3 => (channel(Kind::Linear, 0), v + 17),
            _ => (zero, 17),
        }
    }

    fn activation(&mut self, channels: usize, bound: i64) -> (Op, i64) {
        let drawn: Vec<_> = (0..channels).map(|_| self.channel(bound)).collect();
        let most = drawn.iter().map(|(_, bound)| *bound).max().unwrap();
        (Op::Activation(Activation { fraction_bits: 6, channels: drawn.into_iter().map(|(c, _)| c).collect() }), most)
    }

    fn max(&mut self, a: usize, b: usize) -> (Op, i64) {
        let width = 66 - ((self.bounds[a] + self.bounds[b]) as u64).leading_zeros() as u8;
        (Op::Max(Max { width: width.clamp(2, 26) }), self.bounds[a].max(self.bounds[b]))
    }

    fn grow(&mut self) {
        let t = self.tensor();
        let (shape, bound) = (self.shapes[t], self.bounds[t]);
        let pair = |d: &mut Self, least: usize, most: usize| [0; 2].map(|_| (least + d.below(most - least + 1)) as u32);
        match self.below(12) {
            0..=2 => {
                let kernel = pair(self, 1, 3);
                let groups = (1..=shape.channels).filter(|g| shape.channels.is_multiple_of(*g)).collect::<Vec<_>>();
                let groups = groups[self.below(groups.len())];
                let padding = [(); 2].map(|()| pair(self, 0, 1));
                let conv = Convolution {
                    stride: pair(self, 1, 2),
                    padding: [padding[0][0], padding[0][1], padding[1][0], padding[1][1]],
                    dilation: pair(self, 1, 2),
                    groups,
                    ..Convolution::new(groups * (1 + self.below(3) as u32), kernel)
                };
                let fan_in = i64::from(shape.channels / groups) * conv.taps() as i64;
                self.push(&[t], Op::Convolution(conv), 3 * fan_in * bound + 5);
            }
            3..=5 => {
                let (op, bound) = self.activation(shape.channels as usize, bound);
                self.push(&[t], op, bound);
            }
            6 => {
                let other = self.alike(t, |s| [s.channels, s.height, s.width]);
                let (op, bound) = self.max(t, other);
                self.push(&[t, other], op, bound);
            }
            7 => {
                let count = 1 + self.below(3);
                let inputs: Vec<usize> =
                    (0..count).map(|_| self.alike(t, |s| [s.channels, s.height, s.width])).collect();
                let channels = shape.channels as usize;
                let multipliers: Vec<Vec<i32>> = inputs
                    .iter()
                    .map(|_| (0..channels).map(|_| [-2, -1, 0, 1, 1, 4][self.below(6)]).collect())
                    .collect();
                let bound = inputs.iter().map(|&t| 4 * self.bounds[t]).sum::<i64>() + 3 * i64::from(shape.channels) + 4;
                self.push(&inputs, Op::Sum(Sum { multipliers }), bound);
            }
            8 => {
                let inputs: Vec<usize> =
                    (0..1 + self.below(3)).map(|_| self.alike(t, |s| [0, s.height, s.width])).collect();
                let bound = inputs.iter().map(|&t| self.bounds[t]).max().unwrap();
                self.push(&inputs, Op::Concat, bound);
            }
            9 => {
                let first = self.below(shape.channels as usize) as u32;
                let count = 1 + self.below((shape.channels - first) as usize) as u32;
                self.push(&[t], Op::Channels(Channels { first, count }), bound);
            }
            10 => {
                let offset = pair(self, 0, 4).map(|o| o as i32 - 2);
                let edge = if self.below(2) == 0 { Edge::Zero } else { Edge::Nearest };
                let window = Window { offset, stride: pair(self, 1, 2), size: pair(self, 1, 4), edge };
                self.push(&[t], Op::Window(window), bound);
            }
            _ if self.below(3) == 0 => self.push(&[t], Op::Flatten, bound),
            _ => {
                let (kernel, inside_only) = (pair(self, 1, 3), self.below(2) == 0);
                let padding = [(); 2].map(|()| pair(self, 0, 1));
                let padding = [padding[0][0], padding[0][1], padding[1][0], padding[1][1]];
                let pool = Pool { kernel, stride: pair(self, 1, 2), padding, inside_only };
                self.push(&[t], Op::SumPool(pool), 36 * bound);
            }
        }
    }

    fn finish(mut self) -> ModelFile {
        let t = self.tensor();
        let output = if self.below(3) == 0 {
            let other = self.alike(t, |s| [s.channels, s.height, s.width]);
            let (op, bound) = self.max(t, other);
            self.push(&[t, other], op, bound);
            Output::Class { index_bits: 1 + self.below(16) as u8 }
        } else {
            let bits = 67 - (self.bounds[t] as u64).leading_zeros() as u8;
            let channel = Channel { kind: Kind::Linear, bound_bits: bits.max(5), shift: 2, back_shift: 0 };
            let channels = vec![channel; self.shapes[t].channels as usize];
            let bound = self.bounds[t];
            self.push(&[t], Op::Activation(Activation { fraction_bits: 4, channels }), bound);
            Output::Scores
        };
        let architecture = Architecture {
            name: "random".into(),
            input: self.shapes[0],
            input_fraction_bits: 4,
            input_range: [-16, 16],
            nodes: self.nodes,
            output,
        };
        with_secrets(architecture, &mut self.prg)
    }
}

pub(super) fn draw(seed: u8) -> ModelFile {
    let mut prg = Prg::new(&Seed::from_bytes([seed; 32]));
    let input =
        Shape { channels: 1 + prg.below(4) as u32, height: 1 + prg.below(5) as u32, width: 1 + prg.below(5) as u32 };
    let mut draft = Draft { prg, nodes: vec![], shapes: vec![input], bounds: vec![16], known: vec![true] };
    let count = 6 + draft.below(30);
    (0..count).for_each(|_| draft.grow());
    draft.finish()
}

/// For every tensor a word per element that is not zero where its value may change with those of `source` (but for a
/// chance of 2^-20 or so): a random difference carried through local operators, drawn anew by the others from any that is
/// not zero. Of outputs of convolutions for which `cut` is true nothing is carried on.
///
/// Calls back at every node that is not local with the differences that it reads.
fn differences(
    file: &ModelFile,
    source: &mut dyn FnMut(usize, usize) -> u32,
    cut: &[Vec<bool>],
    reads: &mut dyn FnMut(usize, &Op, &[u32]),
) -> Vec<Vec<u32>> {
    let mut prg = Prg::new(&Seed::from_bytes([99; 32]));
    let shapes = file.architecture.shapes().unwrap();
    let mut all: Vec<Vec<u32>> = vec![(0..shapes[0].elements()).map(|i| source(0, i)).collect()];
    for (index, node) in file.architecture.nodes.iter().enumerate() {
        let output = shapes[index + 1];
        let inputs: Vec<(Shape, &[u32])> =
            node.inputs.iter().map(|&t| (shapes[t as usize], &all[t as usize][..])).collect();
        if !node.op.is_local() {
            inputs.iter().for_each(|(_, words)| reads(index, &node.op, words));
        }
        let mut anew = |changed: bool| if changed { prg.next_u32() | 1 } else { 0 };
        let mut own: Vec<u32> = match &node.op {
            Op::Convolution(conv) => {
                let ones: Vec<u32> = inputs[0].1.iter().map(|&d| u32::from(d != 0)).collect();
                let fan_in = shapes[node.inputs[0] as usize].channels / conv.groups;
                let weights = vec![1; (conv.out_channels * fan_in) as usize * conv.taps()];
                let mut touched = vec![0; output.elements()];
                let unread = &cut[index + 1];
                layer::convolve(
                    &Threads::default(),
                    conv,
                    (inputs[0].0, &ones),
                    &weights,
                    unread,
                    (output, &mut touched),
                );
                touched.into_iter().map(|t| anew(t != 0)).collect()
            }
            Op::Activation(activation) => {
                let kind = |i: usize| activation.channels[i / output.plane()].kind;
                inputs[0].1.iter().enumerate().map(|(i, &d)| anew(d != 0 && kind(i) != Kind::Zero)).collect()
            }
            Op::Max(_) => inputs[0].1.iter().zip(inputs[1].1).map(|(&a, &b)| anew(a != 0 || b != 0)).collect(),
            op => layer::local(op, &inputs, output).unwrap().to_vec(),
        };
        own.iter_mut().enumerate().for_each(|(i, d)| *d = d.wrapping_add(source(index + 1, i)));
        all.push(own);
    }
    all
}

/// What the protocol does not compute is read by nothing: a change of it reaches neither a convolution, a maximum, a channel
/// of another degree than 0, nor the output.
fn check_unread(file: &ModelFile, unread: &[Vec<bool>]) {
    let shapes = file.architecture.shapes().unwrap();
    let nodes = &file.architecture.nodes;
    let mut prg = Prg::new(&Seed::from_bytes([98; 32]));
    let mut source = |tensor: usize, i: usize| {
        let linear = tensor > 0 && matches!(nodes[tensor - 1].op, Op::Convolution(_));
        if linear && unread[tensor][i / shapes[tensor].plane()] { prg.next_u32() | 1 } else { 0 }
    };
    let all = differences(file, &mut source, unread, &mut |index, op, words| {
        for (i, &d) in words.iter().enumerate() {
            let ignored = match op {
                Op::Activation(activation) => activation.channels[i / shapes[index + 1].plane()].kind == Kind::Zero,
                _ => false,
            };
            assert!(ignored || d == 0, "node {index} reads what no one should");
        }
    });
    assert!(all.last().unwrap().iter().all(|&d| d == 0));
}

/// Two bundles' masks of every element that may change with the input differ, and no two such elements of what convolutions,
/// activations and maxima give have the same: in both bundles, where words are narrow and coincide by chance now and then.
fn check_masks(file: &ModelFile, unread: &[Vec<bool>], masks: &[Vec<Vec<u32>>; 2]) -> usize {
    let mut prg = Prg::new(&Seed::from_bytes([97; 32]));
    let mut source = |tensor: usize, _: usize| if tensor == 0 { prg.next_u32() | 1 } else { 0 };
    let differences = differences(file, &mut source, unread, &mut |_, _, _| {});
    let (mut pairs, mut places) = (BTreeMap::new(), BTreeMap::new());
    let mut checked = 0;
    for (tensor, words) in differences.iter().enumerate() {
        let drawn = tensor == 0 || !file.architecture.nodes[tensor - 1].op.is_local();
        for i in (0..words.len()).filter(|&i| words[i] != 0) {
            checked += 1;
            let [a, b] = [masks[0][tensor][i], masks[1][tensor][i]];
            assert_ne!(a, b, "tensor {tensor}, element {i}");
            if drawn {
                assert_eq!(pairs.insert([a, b], (tensor, i)), None, "tensor {tensor}, element {i}: {a}, {b}");
                for mask in [a, b].into_iter().filter(|&mask| mask >= 1 << 24) {
                    assert_eq!(places.insert(mask, (tensor, i)), None, "tensor {tensor}, element {i}: {mask}");
                }
            }
        }
    }
    checked
}

#[test]
fn random_graphs_are_right_and_masked() {
    let (mut checked, mut batches, mut streamed) = (0, 0, 0);
    let mut kinds = BTreeMap::new();
    for seed in 0..60 {
        let file = draw(seed);
        let shapes = file.architecture.shapes().unwrap_or_else(|e| panic!("{seed}: {e}"));
        let unread = file.architecture.unread_channels(&shapes);
        for node in &file.architecture.nodes {
            *kinds.entry(format!("{:?}", node.op).chars().take(5).collect::<alloc::string::String>()).or_insert(0) += 1;
        }
        check_unread(&file, &unread);
        let client = ClientModel::read(&file.public_bytes().unwrap()).unwrap();
        let server = ServerModel::read(&file.server_bytes().unwrap()).unwrap();
        let mut pipe = Pipe::new(&client, &server, if seed % 4 == 0 { 1000 } else { usize::MAX }, seed);
        pipe.trace();
        let masks = [(); 2].map(|()| {
            pipe.client.prepare(1).unwrap();
            pipe.run().unwrap();
            pipe.client.masks()
        });
        checked += check_masks(&file, &unread, &masks);
        let mut prg = Prg::new(&Seed::from_bytes([seed ^ 0x55; 32]));
        let mut inferences = vec![];
        for masks in masks {
            let input: Vec<i32> = (0..client.inputs()).map(|_| prg.below(33) as i32 - 16).collect();
            let answer = pipe.infer(&input).unwrap();
            let tensors = client.unmask(&masks, &pipe.server.masked());
            check_tensors(&file, &tensors, client.word_bits());
            let told = |v: i64| match file.architecture.output {
                Output::Scores => v,
                Output::Class { index_bits } => v & ((1 << index_bits) - 1),
            };
            let last = tensors.last().unwrap();
            assert!(tensors[0].iter().zip(&input).all(|(&x, &given)| x == i64::from(given)));
            assert!(answer.iter().zip(last).all(|(&a, &v)| i64::from(a) == told(v)));
            inferences.push((input, answer));
        }
        // Untraced, masks and words are erased when no later node reads them: the same randomness gives the same answers, also
        // from bundles that are prepared together.
        let mut quiet = Pipe::new(&client, &server, if seed % 4 == 1 { 1000 } else { usize::MAX }, seed);
        quiet.client.prepare(2).unwrap();
        quiet.run().unwrap();
        for (input, answer) in inferences {
            assert_eq!(quiet.infer(&input).unwrap(), answer, "{seed}");
        }
        // Costs of two bundles and two inferences, as forecast for one.
        let forecast = client.forecast(&Pipe::options(seed));
        check_cost(&forecast, &pipe.client.meter(), 2);
        batches = batches.max(forecast.prepare_rounds);
        streamed += check_stream(&file, &unread, (&client, &server), seed);
    }
    // The graphs are of all kinds, and prepared in several batches.
    assert!(kinds.len() == 9 && kinds.values().all(|&n| n > 20), "{kinds:?}");
    assert!(checked > 10_000 && batches > 2 && streamed > 10_000, "{checked} {batches} {streamed}");
}

/// The same for two inferences in a stream. Returns how many masks were checked.
fn check_stream(file: &ModelFile, unread: &[Vec<bool>], models: (&ClientModel, &ServerModel), seed: u8) -> usize {
    let (client, server) = models;
    let chunk = if seed % 4 == 2 { 1000 } else { usize::MAX };
    let [mut pipe, mut quiet] = [(); 2].map(|()| Pipe::new(client, server, chunk, seed));
    pipe.trace();
    let mut prg = Prg::new(&Seed::from_bytes([seed ^ 0xaa; 32]));
    let masks = [(); 2].map(|()| {
        let input: Vec<i32> = (0..client.inputs()).map(|_| prg.below(33) as i32 - 16).collect();
        let answer = pipe.stream(&input).unwrap();
        let tensors = pipe.tensors(client);
        check_tensors(file, &tensors, client.word_bits());
        assert!(tensors[0].iter().zip(&input).all(|(&x, &given)| x == i64::from(given)));
        assert_eq!(quiet.stream(&input).unwrap(), answer, "{seed}");
        pipe.client.masks()
    });
    check_cost(&client.forecast_stream(&Pipe::options(seed)), &pipe.client.meter(), 2);
    check_masks(file, unread, &masks)
}
