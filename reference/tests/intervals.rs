//! Small random graphs, evaluated with random roundings by code of its own: every value must lie in the reference's
//! intervals, and every node's output must be allowed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

use proptest::prelude::*;
use safenet_core::model::{
    Activation, Architecture, Calibration, Channel, ChannelSecret, Channels, Convolution, Edge, Kind, Max, ModelFile,
    Node, NodeSecret, Op, Output, Parameters, Pool, Shape, Sum, Window,
};
use safenet_reference::{FIELD_PRIME, Mismatch, Reference, Violation};

/// A small generator (Marsaglia's xorshift, 2003), so that a failing case is reproduced by its seed alone.
struct Coins(u64);

impl Coins {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn range(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1) as u64) as i64
    }

    fn size(&mut self, low: u32, high: u32) -> u32 {
        self.range(low.into(), high.into()) as u32
    }

    fn flip(&mut self) -> bool {
        self.next() >> 40 & 1 == 1
    }
}

/// An image as a function of any place; 0 outside.
struct Image<'a> {
    shape: Shape,
    values: &'a [i64],
}

impl Image<'_> {
    fn at(&self, c: u32, i: i64, j: i64) -> i64 {
        let (height, width) = (i64::from(self.shape.height), i64::from(self.shape.width));
        let inside = (0..height).contains(&i) && (0..width).contains(&j);
        if inside { self.values[((i64::from(c) * height + i) * width + j) as usize] } else { 0 }
    }
}

/// The values of v = T(y) that some mask gives.
fn truncations(y: i64, channel: &Channel) -> Vec<i64> {
    let unit = 1i64 << channel.shift;
    let floor = y.div_euclid(unit);
    if y.rem_euclid(unit) == 0 { vec![floor] } else { vec![floor, floor + 1] }
}

/// The results of an activation that some choice of roundings gives; `None` where the model's bounds are violated.
fn activations(y: i64, channel: &Channel, secret: &ChannelSecret) -> Option<Vec<i64>> {
    let offset = i64::from(secret.offset);
    if channel.kind == Kind::Zero {
        return Some(vec![offset]);
    }
    if y.abs() >= (1i64 << (channel.bound_bits - 1)) - (1i64 << channel.shift) {
        return None;
    }
    let mut results = Vec::new();
    for v in truncations(y, channel) {
        let unit = 1i64 << channel.back_shift;
        let back = |z: i64| if unit == 1 { vec![z] } else { vec![z.div_euclid(unit), z.div_euclid(unit) + 1] };
        match channel.kind {
            Kind::Relu => results.push(v.max(0)),
            Kind::Square { .. } => {
                if 4 * (v * v + unit) >= FIELD_PRIME {
                    return None;
                }
                results.extend(back(v * v).iter().map(|q| if secret.negative { offset - q } else { offset + q }));
            }
            Kind::Cubic => {
                let z = v * v * v + secret.lambda * v;
                if 4 * (z.abs() + (1 << 33) + unit) >= FIELD_PRIME {
                    return None;
                }
                results.extend(back(z).iter().map(|q| offset + q));
            }
            _ => results.push(v),
        }
    }
    Some(results)
}

/// One node with random roundings, element by element as its definition says; `None` where the model's bounds are violated.
fn evaluate(op: &Op, secret: &NodeSecret, inputs: &[Image<'_>], to: Shape, coins: &mut Coins) -> Option<Vec<i64>> {
    let x = &inputs[0];
    let mut y = Vec::new();
    for o in 0..to.channels {
        for (i, j) in (0..i64::from(to.height)).flat_map(|i| (0..i64::from(to.width)).map(move |j| (i, j))) {
            y.push(match (op, secret) {
                (Op::Convolution(conv), NodeSecret::Convolution { weights, bias }) => {
                    let (inputs, outputs) = (x.shape.channels / conv.groups, conv.out_channels / conv.groups);
                    let [rows, columns] = conv.kernel;
                    let place = |axis: usize, at: i64, tap: u32| {
                        at * i64::from(conv.stride[axis]) + i64::from(tap * conv.dilation[axis])
                            - i64::from(conv.padding[axis])
                    };
                    let mut sum = i64::from(bias[o as usize]);
                    for c in 0..inputs {
                        for (r, s) in (0..rows).flat_map(|r| (0..columns).map(move |s| (r, s))) {
                            let w = weights[(((o * inputs + c) * rows + r) * columns + s) as usize];
                            sum += i64::from(w) * x.at(o / outputs * inputs + c, place(0, i, r), place(1, j, s));
                        }
                    }
                    sum
                }
                (Op::SumPool(pool), _) => {
                    let (mut sum, mut inside) = (0, [0i64; 2]);
                    let start =
                        |axis: usize, at: i64| at * i64::from(pool.stride[axis]) - i64::from(pool.padding[axis]);
                    for r in 0..i64::from(pool.kernel[0]) {
                        for s in 0..i64::from(pool.kernel[1]) {
                            sum += x.at(o, start(0, i) + r, start(1, j) + s);
                        }
                    }
                    for (axis, (at, size)) in [(i, x.shape.height), (j, x.shape.width)].into_iter().enumerate() {
                        let taps = start(axis, at)..start(axis, at) + i64::from(pool.kernel[axis]);
                        inside[axis] = taps.filter(|tap| (0..i64::from(size)).contains(tap)).count() as i64;
                    }
                    // An average of what is inside, in units of 1/F.
                    if pool.inside_only { sum * pool.factor(x.shape, to) as i64 / (inside[0] * inside[1]) } else { sum }
                }
                (Op::Window(window), _) => {
                    let mut place = [
                        i64::from(window.offset[0]) + i * i64::from(window.stride[0]),
                        i64::from(window.offset[1]) + j * i64::from(window.stride[1]),
                    ];
                    if window.edge == Edge::Nearest {
                        place = [
                            place[0].clamp(0, i64::from(x.shape.height) - 1),
                            place[1].clamp(0, i64::from(x.shape.width) - 1),
                        ];
                    }
                    x.at(o, place[0], place[1])
                }
                (Op::Channels(channels), _) => x.at(channels.first + o, i, j),
                (Op::Concat, _) => {
                    let (mut image, mut channel) = (0, o);
                    while channel >= inputs[image].shape.channels {
                        channel -= inputs[image].shape.channels;
                        image += 1;
                    }
                    inputs[image].at(channel, i, j)
                }
                (Op::Sum(sum), NodeSecret::Sum(constants)) => {
                    let terms = inputs.iter().zip(&sum.multipliers);
                    i64::from(constants[o as usize])
                        + terms.map(|(x, m)| x.at(o, i, j) * i64::from(m[o as usize])).sum::<i64>()
                }
                (Op::Activation(activation), NodeSecret::Activation(secrets)) => {
                    let (channel, secret) = (&activation.channels[o as usize], &secrets[o as usize]);
                    let results = activations(x.at(o, i, j), channel, secret)?;
                    results[coins.range(0, results.len() as i64 - 1) as usize]
                }
                (Op::Max(max), _) => {
                    let (a, b) = (x.at(o, i, j), inputs[1].at(o, i, j));
                    let limit = 1i64 << (max.width - 1);
                    if a - b < -limit || a - b >= limit {
                        return None;
                    }
                    a.max(b)
                }
                _ => x.values[o as usize],
            });
        }
    }
    Some(y)
}

/// The whole network with random roundings, tensor by tensor; `None` where the model's bounds are violated.
fn simulate(reference: &Reference, secrets: &[NodeSecret], input: &[i64], coins: &mut Coins) -> Option<Vec<Vec<i64>>> {
    let (architecture, shapes) = (reference.architecture(), reference.shapes());
    let unread = architecture.unread_channels(shapes);
    let mut tensors = vec![input.to_vec()];
    for (n, node) in architecture.nodes.iter().enumerate() {
        let image = |&t: &u32| Image { shape: shapes[t as usize], values: &tensors[t as usize] };
        let inputs: Vec<Image<'_>> = node.inputs.iter().map(image).collect();
        let y = evaluate(&node.op, &secrets[n], &inputs, shapes[n + 1], coins)?;
        // The ring is Z_2^32: a value outside would come back as another.
        let wraps = |(e, &v): (usize, &i64)| i32::try_from(v).is_err() && !unread[n + 1][e / shapes[n + 1].plane()];
        if y.iter().enumerate().any(wraps) && !matches!(node.op, Op::Convolution(_)) {
            return None;
        }
        tensors.push(y);
    }
    Some(tensors)
}

/// Makes a graph node by node, with the values of one input as it goes: they tell what bounds suit.
struct Builder<'a> {
    coins: &'a mut Coins,
    nodes: Vec<Node>,
    secrets: Vec<NodeSecret>,
    shapes: Vec<Shape>,
    values: Vec<Vec<i64>>,
    /// Whether a convolution may read the tensor.
    known: Vec<bool>,
}

impl Builder<'_> {
    fn add(&mut self, inputs: &[usize], op: Op, secret: NodeSecret, shape: Shape) -> usize {
        let image = |&t: &usize| Image { shape: self.shapes[t], values: &self.values[t] };
        let images: Vec<Image<'_>> = inputs.iter().map(image).collect();
        let values = evaluate(&op, &secret, &images, shape, self.coins).expect("bounds that suit the values");
        let known = match op {
            Op::Convolution(_) => false,
            Op::Activation(_) | Op::Max(_) => true,
            _ => inputs.iter().all(|&input| self.known[input]),
        };
        let name = format!("{op:?}").split(['(', ' ']).next().unwrap().to_lowercase();
        self.nodes.push(Node { name, inputs: inputs.iter().map(|&t| t as u32).collect(), op });
        self.secrets.push(secret);
        self.shapes.push(shape);
        self.values.push(values);
        self.known.push(known);
        self.shapes.len() - 1
    }

    /// One of the latest tensors.
    fn recent(&mut self) -> usize {
        let last = self.shapes.len() - 1;
        self.coins.range(last.saturating_sub(3) as i64, last as i64) as usize
    }

    /// One of all tensors that are like another.
    fn like(&mut self, tensor: usize, same: impl Fn(Shape, Shape) -> bool) -> usize {
        let all: Vec<usize> = (0..self.shapes.len()).filter(|&t| same(self.shapes[t], self.shapes[tensor])).collect();
        all[self.coins.range(0, all.len() as i64 - 1) as usize]
    }

    /// Bits of the largest absolute value of a channel.
    fn bits(values: impl Iterator<Item = i64>) -> u8 {
        values.map(|v| 64 - v.unsigned_abs().leading_zeros()).max().unwrap_or(0) as u8
    }

    fn convolution(&mut self, x: usize) -> Option<usize> {
        let from = self.shapes[x];
        let groups = [1, from.channels, 2][self.coins.range(0, 2) as usize];
        let (kernel, stride, dilation) = (
            [(); 2].map(|()| self.coins.size(1, 3)),
            [(); 2].map(|()| self.coins.size(1, 2)),
            [(); 2].map(|()| self.coins.size(1, 2)),
        );
        let padding = [(); 4].map(|()| self.coins.size(0, 2));
        let size = |i: usize, size: u32| {
            let room = (size + padding[i] + padding[i + 2]).checked_sub((kernel[i] - 1) * dilation[i] + 1)?;
            Some(room / stride[i] + 1)
        };
        let (height, width) = (size(0, from.height)?, size(1, from.width)?);
        if !self.known[x] || !from.channels.is_multiple_of(groups) || from.channels > 30 {
            return None;
        }
        let out_channels = groups * self.coins.size(1, 3);
        let count = out_channels * from.channels / groups * kernel[0] * kernel[1];
        let weights = (0..count).map(|_| self.coins.range(-20, 20) as i16).collect();
        let bias = (0..out_channels).map(|_| self.coins.range(-500, 500) as i32).collect();
        let conv = Convolution { out_channels, kernel, stride, padding, dilation, groups, packed_outputs: u32::MAX };
        let secret = NodeSecret::Convolution { weights, bias };
        Some(self.add(&[x], Op::Convolution(conv), secret, Shape { channels: out_channels, height, width }))
    }

    /// Bounds twice to eight times what the values need.
    fn activation(&mut self, x: usize, kinds: std::ops::RangeInclusive<i64>) -> usize {
        let (shape, values) = (self.shapes[x], self.values[x].clone());
        let (mut channels, mut secrets) = (Vec::new(), Vec::new());
        for values in values.chunks_exact(shape.plane()) {
            let bits = Self::bits(values.iter().copied()).max(4) + 1 + self.coins.range(1, 3) as u8;
            let mut secret = ChannelSecret::default();
            let mut kind = match self.coins.range(*kinds.start(), *kinds.end()) {
                0 => Kind::Relu,
                1 => Kind::Linear,
                2 => Kind::Zero,
                3 => Kind::Square { secret_sign: self.coins.flip() },
                _ => Kind::Cubic,
            };
            if bits > 30 {
                kind = Kind::Zero;
            }
            let width = self.coins.range(5, 12) as u8;
            let (mut bound_bits, mut shift, mut back_shift) = (bits, bits.saturating_sub(width).max(1), 0);
            match kind {
                Kind::Zero => (bound_bits, shift) = (0, 0),
                Kind::Square { secret_sign } => {
                    back_shift = self.coins.range(0, 20).min((2 * width).into()) as u8;
                    secret.negative = secret_sign && self.coins.flip();
                }
                Kind::Cubic => {
                    // |v³| < 2^33 for 11 bits and a sign; λ makes it no larger than twice that where v has fewer.
                    shift = bits.saturating_sub(width.min(10)).max(1);
                    back_shift = self.coins.range(5, 20) as u8;
                    secret.lambda = self.coins.range(-(1 << 17), 1 << 17);
                }
                _ => {}
            }
            if !matches!(kind, Kind::Relu | Kind::Linear) {
                secret.offset = self.coins.range(-100, 100) as i32;
            }
            channels.push(Channel { kind, bound_bits, shift, back_shift });
            secrets.push(secret);
        }
        let activation = Activation { fraction_bits: 4, channels };
        self.add(&[x], Op::Activation(activation), NodeSecret::Activation(secrets), shape)
    }

    fn pool(&mut self, x: usize) -> Option<usize> {
        let from = self.shapes[x];
        let (kernel, stride) = ([(); 2].map(|()| self.coins.size(1, 3)), [(); 2].map(|()| self.coins.size(1, 2)));
        let padding = [0, 1, 0, 1].map(|axis: usize| self.coins.size(0, kernel[axis] - 1));
        let size =
            |i: usize, size: u32| Some((size + padding[i] + padding[i + 2]).checked_sub(kernel[i])? / stride[i] + 1);
        let shape = Shape { height: size(0, from.height)?, width: size(1, from.width)?, ..from };
        let pool = Pool { kernel, stride, padding, inside_only: self.coins.flip() };
        Some(self.add(&[x], Op::SumPool(pool), NodeSecret::None, shape))
    }

    fn window(&mut self, x: usize) -> usize {
        let window = Window {
            offset: [(); 2].map(|()| self.coins.range(-3, 3) as i32),
            stride: [(); 2].map(|()| self.coins.size(1, 2)),
            size: [(); 2].map(|()| self.coins.size(2, 5)),
            edge: if self.coins.flip() { Edge::Zero } else { Edge::Nearest },
        };
        let shape = Shape { channels: self.shapes[x].channels, height: window.size[0], width: window.size[1] };
        self.add(&[x], Op::Window(window), NodeSecret::None, shape)
    }

    fn channels(&mut self, x: usize, first: u32, count: u32) -> usize {
        let shape = Shape { channels: count, ..self.shapes[x] };
        self.add(&[x], Op::Channels(Channels { first, count }), NodeSecret::None, shape)
    }

    fn concat(&mut self, x: usize) -> Option<usize> {
        let other = self.like(x, |a, b| (a.height, a.width) == (b.height, b.width));
        let shape = Shape { channels: self.shapes[x].channels + self.shapes[other].channels, ..self.shapes[x] };
        (shape.elements() < 400).then(|| self.add(&[x, other], Op::Concat, NodeSecret::None, shape))
    }

    fn sum(&mut self, x: usize) -> usize {
        let mut inputs = vec![x];
        (0..self.coins.range(0, 2)).for_each(|_| inputs.push(self.like(x, |a, b| a == b)));
        let shape = self.shapes[x];
        let multipliers =
            inputs.iter().map(|_| (0..shape.channels).map(|_| self.coins.range(-3, 3) as i32).collect()).collect();
        let constants = (0..shape.channels).map(|_| self.coins.range(-200, 200) as i32).collect();
        self.add(&inputs, Op::Sum(Sum { multipliers }), NodeSecret::Sum(constants), shape)
    }

    fn max(&mut self, a: usize, b: usize) -> Option<usize> {
        let differences = self.values[a].iter().zip(&self.values[b]).map(|(a, b)| a - b);
        let width = Self::bits(differences).max(4) + 1 + self.coins.range(0, 2) as u8;
        (width <= 16).then(|| self.add(&[a, b], Op::Max(Max { width }), NodeSecret::None, self.shapes[a]))
    }

    fn flatten(&mut self, x: usize) -> usize {
        let shape = Shape { channels: self.shapes[x].elements() as u32, height: 1, width: 1 };
        self.add(&[x], Op::Flatten, NodeSecret::None, shape)
    }

    /// The class of the largest of some scores.
    fn tournament(&mut self, scores: usize, index_bits: u8) -> Option<usize> {
        let count = self.shapes[scores].channels;
        let sum = Sum { multipliers: vec![vec![1 << index_bits; count as usize]] };
        let indices = NodeSecret::Sum((0..count as i32).collect());
        let labelled = self.add(&[scores], Op::Sum(sum), indices, self.shapes[scores]);
        let mut left: Vec<usize> = (0..count).map(|c| self.channels(labelled, c, 1)).collect();
        while left.len() > 1 {
            let (a, b) = (left.remove(0), left.remove(0));
            left.push(self.max(a, b)?);
        }
        left.pop()
    }
}

/// Elements of the random networks' inputs.
const INPUT: Shape = Shape { channels: 2, height: 6, width: 5 };

/// A random graph, and an input on which it does not overflow.
fn network(coins: &mut Coins) -> (ModelFile, Vec<i32>) {
    let input: Vec<i64> = (0..INPUT.elements()).map(|_| coins.range(-256, 256)).collect();
    let mut b = Builder {
        coins,
        nodes: Vec::new(),
        secrets: Vec::new(),
        shapes: vec![INPUT],
        values: vec![input.clone()],
        known: vec![true],
    };
    for _ in 0..12 {
        let x = b.recent();
        match b.coins.range(0, 12) {
            0..=2 => drop(b.convolution(x)),
            3..=5 => drop(b.activation(x, 0..=4)),
            6 => drop(b.pool(x)),
            7 => drop(b.window(x)),
            8 if b.shapes[x].channels > 1 => drop(b.channels(x, 1, b.shapes[x].channels - 1)),
            9 => drop(b.concat(x)),
            10 => drop(b.sum(x)),
            11 => {
                let other = b.like(x, |a, b| a == b);
                b.max(x, other);
            }
            _ if b.shapes.len() > 8 => drop(b.flatten(x)),
            _ => {}
        }
    }
    let mut output = Output::Scores;
    let last = b.shapes.len() - 1;
    if b.coins.flip() {
        let flat = b.flatten(last);
        let some = b.channels(flat, 0, b.shapes[flat].channels.min(5));
        let scores = b.activation(some, 1..=1);
        if b.shapes[scores].channels > 1 && b.tournament(scores, 3).is_some() {
            output = Output::Class { index_bits: 3 };
        }
    }
    if output == Output::Scores {
        // Of what is left of a tournament whose differences are too wide, or of the graph.
        let last = b.shapes.len() - 1;
        b.activation(last, 0..=4);
    }
    let Builder { nodes, secrets, .. } = b;
    let architecture = Architecture {
        name: "random".into(),
        input: INPUT,
        input_fraction_bits: 8,
        input_range: [-256, 256],
        nodes,
        output,
    };
    let parameters = Parameters { nodes: secrets, calibration: Calibration::default(), scales: vec![] };
    let input = input.iter().map(|&x| x as i32).collect();
    (ModelFile { architecture, parameters: Some(parameters) }, input)
}

fn secrets(model: &ModelFile) -> &[NodeSecret] {
    &model.parameters.as_ref().unwrap().nodes
}

fn wide(input: &[i32]) -> Vec<i64> {
    input.iter().map(|&x| x.into()).collect()
}

/// What the client learns of the output's values.
fn answer(model: &ModelFile, output: &[i64]) -> Vec<i32> {
    let bits = match model.architecture.output {
        Output::Scores => return output.iter().map(|&v| v as i32).collect(),
        Output::Class { index_bits } => index_bits,
    };
    output.iter().map(|&v| v.rem_euclid(1 << bits) as i32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_choice_of_roundings_is_inside(seed in 1u64..) {
        let mut coins = Coins(seed);
        let (model, input) = network(&mut coins);
        let reference = Reference::new(&model).unwrap();
        let (architecture, shapes) = (reference.architecture(), reference.shapes());
        let unread = architecture.unread_channels(shapes);
        let trace = reference.run(&input).unwrap();
        for _ in 0..4 {
            let Some(tensors) = simulate(&reference, secrets(&model), &wide(&input), &mut coins) else {
                // A run that overflows must have been announced.
                prop_assert!(trace.possible_overflow.is_some());
                continue;
            };
            for (n, node) in architecture.nodes.iter().enumerate() {
                let inputs: Vec<&[i64]> = node.inputs.iter().map(|&t| &tensors[t as usize][..]).collect();
                let violation = reference.allowed(n, &inputs, &tensors[n + 1]);
                prop_assert!(violation.is_none(), "{}", violation.unwrap());
            }
            for (t, (tensor, simulated)) in trace.tensors.iter().zip(&tensors).enumerate() {
                for (e, &value) in simulated.iter().enumerate() {
                    // Linear channels that no one reads are simulated, but not part of the trace.
                    let linear = t > 0 && !matches!(architecture.nodes[t - 1].op, Op::Activation(_) | Op::Max(_));
                    let read = !linear || !unread[t][e / shapes[t].plane()];
                    prop_assert!(!read || (tensor.low[e]..=tensor.high[e]).contains(&value), "tensor {}, element {}", t, e);
                    prop_assert!((tensor.low[e]..=tensor.high[e]).contains(&tensor.nominal[e]));
                }
            }
            for ((bounds, tensor), shape) in reference.bounds().iter().zip(&tensors[1..]).zip(&shapes[1..]) {
                let inside = |(e, &v): (usize, &i64)| (bounds[e / shape.plane()].low..=bounds[e / shape.plane()].high).contains(&v);
                prop_assert!(tensor.iter().enumerate().all(inside));
            }
            prop_assert_eq!(trace.contains(&answer(&model, tensors.last().unwrap())).unwrap(), None);
        }
    }

    #[test]
    fn answers_alone_are_those_of_the_trace(seed in 1u64..) {
        let mut coins = Coins(seed);
        let (model, input) = network(&mut coins);
        let reference = Reference::new(&model).unwrap();
        let (trace, nominal) = (reference.run(&input).unwrap(), reference.run_nominal(&input).unwrap());
        let (values, overflow) = reference.run_nominal_output(&input).unwrap();
        prop_assert_eq!(&values, &trace.nominal_answer());
        prop_assert_eq!(&overflow, &trace.overflow);
        prop_assert_eq!(nominal.contains(&values).unwrap(), None);
        prop_assert!(trace.tensors.iter().zip(&nominal.tensors).all(|(t, n)| t.nominal == n.nominal && n.max_spread() == 0));
        let (sampled, overflow) = reference.run_sampled(&input, &mut || coins.next()).unwrap();
        prop_assert!(overflow.is_none() || trace.possible_overflow.is_some());
        prop_assert!(overflow.is_some() || trace.contains(&sampled).unwrap().is_none());
        if let Output::Class { .. } = model.architecture.output {
            // Five classes at most of eight indices: those without a class never win.
            let refused = |index| matches!(trace.contains(&[index]), Ok(Some(Mismatch::Class { .. })));
            prop_assert!((5..9).all(refused));
            prop_assert!(trace.possible_classes(0).contains(&(values[0] as u32)));
            prop_assert_eq!(nominal.possible_classes(0), [values[0] as u32]);
            prop_assert!(reference.scores(&values).is_err() && trace.max_ulp(&values).is_err());
        } else {
            prop_assert!(trace.possible_classes(0).is_empty());
            prop_assert_eq!(trace.max_ulp(&values).unwrap(), 0);
        }
    }

    #[test]
    fn no_input_spreads_further_than_the_worst(seed in 1u64..) {
        let mut coins = Coins(seed);
        let (model, mut input) = network(&mut coins);
        let reference = Reference::new(&model).unwrap();
        let worst = reference.worst_spread();
        for _ in 0..3 {
            let trace = reference.run(&input).unwrap();
            let spread = trace.output().max_spread();
            prop_assert!(trace.possible_overflow.is_some() || spread <= worst, "{} > {}", spread, worst);
            input.iter_mut().for_each(|x| *x = coins.range(-256, 256) as i32);
        }
    }

    #[test]
    fn a_range_of_inputs_holds_each_of_them(seed in 1u64..) {
        let mut coins = Coins(seed);
        let (model, low) = network(&mut coins);
        let reference = Reference::new(&model).unwrap();
        let high: Vec<i32> = low.iter().map(|&x| x + coins.range(0, 4) as i32).collect();
        let between: Vec<i32> = low.iter().zip(&high).map(|(&l, &h)| coins.range(l.into(), h.into()) as i32).collect();
        let range = reference.run_range(&low, &high).unwrap();
        let trace = reference.run(&between).unwrap();
        if range.possible_overflow.is_none() {
            prop_assert!(trace.possible_overflow.is_none());
            for (r, t) in range.tensors.iter().zip(&trace.tensors) {
                prop_assert!((0..r.low.len()).all(|e| r.low[e] <= t.low[e] && t.high[e] <= r.high[e]));
            }
            let answer = trace.nominal_answer();
            prop_assert_eq!(range.contains(&answer).unwrap(), None);
        }
    }

    #[test]
    fn a_value_one_beyond_is_not_allowed(seed in 1u64..) {
        let mut coins = Coins(seed);
        let (model, input) = network(&mut coins);
        let reference = Reference::new(&model).unwrap();
        let Some(mut tensors) = simulate(&reference, secrets(&model), &wide(&input), &mut coins) else { return Ok(()) };
        let shapes = reference.shapes();
        let unread = model.architecture.unread_channels(shapes);
        for (n, node) in model.architecture.nodes.iter().enumerate() {
            let e = coins.range(0, tensors[n + 1].len() as i64 - 1) as usize;
            let (channel, value) = (e / shapes[n + 1].plane(), tensors[n + 1][e]);
            let inputs: Vec<Vec<i64>> = node.inputs.iter().map(|&t| tensors[t as usize].clone()).collect();
            let inputs: Vec<&[i64]> = inputs.iter().map(Vec::as_slice).collect();
            let mut results = vec![value];
            if let (Op::Activation(activation), NodeSecret::Activation(secrets)) = (&node.op, &secrets(&model)[n]) {
                results = activations(inputs[0][e], &activation.channels[channel], &secrets[channel]).unwrap();
            }
            let (low, high) = (*results.iter().min().unwrap(), *results.iter().max().unwrap());
            let looked_at = !unread[n + 1][channel] || matches!(node.op, Op::Activation(_) | Op::Max(_));
            results.extend([low - 1, high + 1]);
            for &result in &results {
                tensors[n + 1][e] = result;
                let violation = reference.allowed(n, &inputs, &tensors[n + 1]);
                let right = (low..=high).contains(&result) || !looked_at;
                let named = matches!(violation, Some(Violation::Value { node, value, .. }) if node == n && value == result);
                prop_assert!(if right { violation.is_none() } else { named }, "{}: {} {:?}", node.name, result, violation);
            }
            tensors[n + 1][e] = value;
        }
    }
}

#[test]
fn random_graphs_reach_every_operator() {
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let (mut quiet, mut classes) = (0, 0);
    for seed in 1..=300 {
        let (model, input) = network(&mut Coins(seed * 0x9e37_79b9));
        model.architecture.nodes.iter().for_each(|node| *seen.entry(node.name.clone()).or_default() += 1);
        let trace = Reference::new(&model).unwrap().run(&input).unwrap();
        quiet += usize::from(trace.possible_overflow.is_none());
        classes += usize::from(model.architecture.output != Output::Scores && trace.possible_classes(0).len() > 1);
    }
    // Enough of each for the tests above, and enough without an overflow for what they say of such.
    assert_eq!(seen.len(), 9, "{seen:?}");
    assert!(seen.values().all(|&count| count > 50) && quiet > 100 && classes > 20, "{seen:?} {quiet} {classes}");
}

/// Numbers that no compiler writes: values far outside every bound are reported and held, and nothing leaves 64 bits (tests
/// check arithmetic).
#[test]
fn extreme_numbers_end_in_overflows_and_in_no_panic() {
    let extremes = [i32::MIN, i32::MIN + 1, -1, 0, 1, 1 << 20, i32::MAX];
    let mut overflows = 0;
    for seed in 1..=400 {
        let coins = &mut Coins(seed * 0x9e37_79b9);
        let (mut model, input) = network(coins);
        let mut extreme = || extremes[coins.range(0, 6) as usize];
        model.architecture.input_range = [i32::MIN, i32::MAX];
        for node in &mut model.architecture.nodes {
            if let Op::Sum(sum) = &mut node.op {
                sum.multipliers.iter_mut().flatten().for_each(|m| *m = extreme());
            }
        }
        for secret in &mut model.parameters.as_mut().unwrap().nodes {
            match secret {
                NodeSecret::Sum(constants) => constants.iter_mut().for_each(|c| *c = extreme()),
                NodeSecret::Convolution { weights, bias } => {
                    weights.iter_mut().for_each(|w| *w = if extreme() < 0 { -255 } else { 255 });
                    bias.iter_mut().for_each(|b| *b = extreme());
                }
                NodeSecret::Activation(channels) => {
                    channels.iter_mut().filter(|c| c.offset != 0).for_each(|c| c.offset = extreme());
                    channels.iter_mut().filter(|c| c.lambda != 0).for_each(|c| c.lambda = (1 << 34) - 1);
                }
                NodeSecret::None => {}
            }
        }
        let reference = Reference::new(&model).unwrap();
        let input: Vec<i32> = input.iter().map(|_| extreme()).collect();
        let trace = reference.run(&input).unwrap();
        overflows += usize::from(trace.overflow.is_some());
        trace.contains(&trace.nominal_answer()).unwrap();
        reference.run_sampled(&input, &mut || 3 << 60).unwrap();
        let ends = [i32::MIN, i32::MAX].map(|end| vec![end; input.len()]);
        reference.run_range(&ends[0], &ends[1]).unwrap();
        reference.bounds();
        assert!(reference.worst_spread() >= 0);
        for (index, node) in model.architecture.nodes.iter().enumerate() {
            let inputs: Vec<&[i64]> = node.inputs.iter().map(|&t| &trace.tensors[t as usize].nominal[..]).collect();
            reference.allowed(index, &inputs, &trace.tensors[index + 1].nominal);
        }
    }
    assert!(overflows > 200, "{overflows}");
    // A cube of what a convolution of large values reaches.
    let cubic = Channel { kind: Kind::Cubic, bound_bits: 13, shift: 0, back_shift: 0 };
    let mut model = single(cubic);
    model.architecture.input = Shape { channels: 64, height: 1, width: 2 };
    let nodes = &mut model.parameters.as_mut().unwrap().nodes;
    nodes[0] = NodeSecret::Convolution { weights: vec![255; 64], bias: vec![0] };
    let trace = Reference::new(&model).unwrap().run(&[i32::MAX; 128]).unwrap();
    assert!(trace.overflow.is_some());
}

/// A single activation node after a convolution that passes its input on.
fn single(channel: Channel) -> ModelFile {
    let conv = Convolution {
        out_channels: 1,
        kernel: [1, 1],
        stride: [1, 1],
        padding: [0; 4],
        dilation: [1, 1],
        groups: 1,
        packed_outputs: u32::MAX,
    };
    let node = |name: &str, input, op| Node { name: name.into(), inputs: vec![input], op };
    let architecture = Architecture {
        name: "single".into(),
        input: Shape { channels: 1, height: 1, width: 2 },
        input_fraction_bits: 8,
        input_range: [-256, 256],
        nodes: vec![
            node("linear", 0, Op::Convolution(conv)),
            node("activation", 1, Op::Activation(Activation { fraction_bits: 4, channels: vec![channel] })),
        ],
        output: Output::Scores,
    };
    let nodes = vec![
        NodeSecret::Convolution { weights: vec![1], bias: vec![0] },
        NodeSecret::Activation(vec![ChannelSecret::default()]),
    ];
    ModelFile {
        architecture,
        parameters: Some(Parameters { nodes, calibration: Calibration::default(), scales: vec![] }),
    }
}

#[test]
fn overflow_names_node_channel_value_and_limit() {
    let relu = Channel { kind: Kind::Relu, bound_bits: 6, shift: 2, back_shift: 0 };
    let trace = Reference::new(&single(relu)).unwrap().run(&[27, -200]).unwrap();
    assert_eq!(
        trace.overflow.unwrap().to_string(),
        "overflow at node 1 (activation), channel 0, element 1: expected |y| < 2^(b-1) - 2^f, limit 28, got -200"
    );
}

#[test]
fn a_maximum_of_values_too_far_apart_overflows() {
    let relu = Channel { kind: Kind::Relu, bound_bits: 17, shift: 1, back_shift: 0 };
    let mut model = single(relu);
    let opposite = Op::Sum(Sum { multipliers: vec![vec![-1]] });
    model.architecture.nodes[0] = Node { name: "max".into(), inputs: vec![0, 1], op: Op::Max(Max { width: 5 }) };
    model.architecture.nodes.insert(0, Node { name: "opposite".into(), inputs: vec![0], op: opposite });
    model.architecture.nodes[2].inputs = vec![2];
    model.parameters.as_mut().unwrap().nodes =
        vec![NodeSecret::Sum(vec![0]), NodeSecret::None, NodeSecret::Activation(vec![ChannelSecret::default()])];
    let reference = Reference::new(&model).unwrap();
    let trace = reference.run(&[-8, 7]).unwrap();
    assert_eq!((trace.overflow, trace.possible_overflow.is_some()), (None, false));
    assert_eq!(trace.tensors[2].nominal, [8, 7]);
    for input in [[0, 8], [0, -9]] {
        let text = reference.run(&input).unwrap().overflow.unwrap().to_string();
        let value = 2 * input[1];
        assert_eq!(
            text,
            format!(
                "overflow at node 1 (max), channel 0, element 1: expected -2^(w-1) <= a - b < 2^(w-1), limit 16, got {value}"
            )
        );
    }
    let violation = reference.allowed(1, &[&[0, 8], &[0, -8]], &[0, 8]);
    assert!(matches!(violation, Some(Violation::Overflow(_))), "{violation:?}");
    // Of all inputs some are too far apart.
    assert!(!reference.bounds()[1][0].holds && reference.bounds()[0][0].holds);
}

#[test]
fn arguments_are_checked() {
    let (mut model, input) =
        (0..).map(|i| network(&mut Coins(3 + i))).find(|(m, _)| m.architecture.output == Output::Scores).unwrap();
    let reference = Reference::new(&model).unwrap();
    assert!(reference.run(&[0; 59]).unwrap_err().message().contains("expected 60 elements (2x6x5), got 59"));
    assert!(reference.run_nominal_output(&[0; 59]).is_err() && reference.run_sampled(&[0; 61], &mut || 0).is_err());
    assert!(reference.run_range(&input, &input[1..]).is_err());
    let mut real = [0.0f32; 60];
    real[5] = 1.5;
    let text = reference.quantise(&real).unwrap_err().to_string();
    assert!(text.contains("input element 5: expected a value from -1 to 1"), "{text}");
    real[5] = f32::NAN;
    assert!(reference.quantise(&real).is_err());
    real[5] = 0.25;
    assert_eq!(reference.quantise(&real).unwrap()[5], 64);
    assert_eq!(reference.scores(&[-8, 24]).unwrap(), [-0.5, 1.5]);
    let single =
        Reference::new(&single(Channel { kind: Kind::Linear, bound_bits: 20, shift: 1, back_shift: 0 })).unwrap();
    assert!(matches!(single.allowed(99, &[], &[]), Some(Violation::NoSuchNode { .. })));
    assert!(matches!(single.allowed(0, &[], &[]), Some(Violation::Inputs { expected: 1, got: 0, .. })));
    assert_eq!(single.allowed(0, &[&[1]], &[1, 1]).unwrap().to_string(), "node 0: input 0: expected 2 elements, got 1");
    assert_eq!(single.allowed(0, &[&[1, 1]], &[1]).unwrap().to_string(), "node 0: output: expected 2 elements, got 1");
    assert!(matches!(single.allowed(0, &[&[1, 1 << 31]], &[1, 1]), Some(Violation::Input { element: 1, .. })));
    assert!(matches!(single.allowed(1, &[&[i64::MIN, 1]], &[1, 1]), Some(Violation::Input { element: 0, .. })));
    model.parameters = None;
    assert!(Reference::new(&model).is_err());
}
