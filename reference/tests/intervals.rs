//! Small random networks, evaluated with random roundings by code of its own: every value must lie in the reference's
//! intervals, and every node's output must be allowed.

use proptest::prelude::*;
use safenet_core::model::{
    Activation, Architecture, Calibration, Channel, ChannelSecret, Convolution, Kind, ModelFile, Node, NodeSecret, Op,
    Parameters, Pool, Shape,
};
use safenet_reference::{FIELD_PRIME, Reference, Violation};

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

    fn flip(&mut self) -> bool {
        self.next() >> 40 & 1 == 1
    }
}

struct Builder<'a> {
    coins: &'a mut Coins,
    shape: Shape,
    nodes: Vec<Node>,
    secrets: Vec<NodeSecret>,
}

impl Builder<'_> {
    fn add(&mut self, name: &str, op: Op, secret: NodeSecret, shape: Shape) {
        self.nodes.push(Node { name: name.into(), input: self.nodes.len() as u32, op });
        self.secrets.push(secret);
        self.shape = shape;
    }

    fn convolution(&mut self, kernel: [u32; 2], stride: [u32; 2], padding: [u32; 4]) {
        let out = self.coins.range(1, 5) as u32;
        let count = out * self.shape.channels * kernel[0] * kernel[1];
        let weights = (0..count).map(|_| self.coins.range(-20, 20) as i16).collect();
        let bias = (0..out).map(|_| self.coins.range(-500, 500) as i32).collect();
        let shape = Shape {
            channels: out,
            height: (self.shape.height + padding[0] + padding[2] - kernel[0]) / stride[0] + 1,
            width: (self.shape.width + padding[1] + padding[3] - kernel[1]) / stride[1] + 1,
        };
        let conv = Convolution { out_channels: out, kernel, stride, padding, packed_outputs: u32::MAX };
        self.add("linear", Op::Convolution(conv), NodeSecret::Convolution { weights, bias }, shape);
    }

    fn activation(&mut self) {
        let (mut channels, mut secrets) = (Vec::new(), Vec::new());
        for _ in 0..self.shape.channels {
            let offset = self.coins.range(-100, 100) as i32;
            let mut secret = ChannelSecret::default();
            let shift = self.coins.range(3, 12) as u8;
            let (kind, bound_bits, shift, back_shift) = match self.coins.range(0, 4) {
                0 => (Kind::Relu, shift + 16, shift, 0),
                1 => (Kind::Linear, 28, shift, 0),
                2 => {
                    secret.offset = offset;
                    (Kind::Zero, 0, 0, 0)
                }
                3 => {
                    let secret_sign = self.coins.flip();
                    secret = ChannelSecret { offset, lambda: 0, negative: secret_sign && self.coins.flip() };
                    (Kind::Square { secret_sign }, shift + 17, shift, self.coins.range(0, 20) as u8)
                }
                _ => {
                    secret = ChannelSecret { offset, lambda: self.coins.range(-2_000_000, 2_000_000), negative: false };
                    (Kind::Cubic, shift + 13, shift, self.coins.range(0, 20) as u8)
                }
            };
            channels.push(Channel { kind, bound_bits, shift, back_shift });
            secrets.push(secret);
        }
        let activation = Activation { fraction_bits: 4, channels };
        self.add("activation", Op::Activation(activation), NodeSecret::Activation(secrets), self.shape);
    }

    fn pool(&mut self, kernel: [u32; 2], stride: [u32; 2]) {
        let size = |size: u32, i: usize| (size - kernel[i]) / stride[i] + 1;
        let shape = Shape { height: size(self.shape.height, 0), width: size(self.shape.width, 1), ..self.shape };
        self.add("pool", Op::SumPool(Pool { kernel, stride }), NodeSecret::None, shape);
    }

    fn flatten(&mut self) {
        let shape = Shape { channels: self.shape.elements() as u32, height: 1, width: 1 };
        self.add("flat", Op::Flatten, NodeSecret::None, shape);
    }
}

/// Two convolutions and a dense layer with pooling and flattening between, all kinds of channels, random integers.
fn network(coins: &mut Coins) -> ModelFile {
    let input = Shape { channels: 2, height: 7, width: 6 };
    let mut b = Builder { coins, shape: input, nodes: Vec::new(), secrets: Vec::new() };
    let padding = [(); 4].map(|()| b.coins.range(0, 2) as u32);
    b.convolution([3, 2], [1, 1], padding);
    b.activation();
    b.pool([2, 2], [2, 1]);
    b.convolution([2, 2], [1, 2], [1, 0, 0, 1]);
    b.pool([1, 2], [1, 1]);
    b.activation();
    b.flatten();
    b.convolution([1, 1], [1, 1], [0; 4]);
    b.activation();
    let Builder { nodes, secrets, .. } = b;
    let architecture =
        Architecture { name: "random".into(), input, input_fraction_bits: 8, input_range: [-256, 256], nodes };
    ModelFile { architecture, parameters: Some(Parameters { nodes: secrets, calibration: Calibration::default(), scales: vec![] }) }
}

/// One activation with random roundings; `None` where the model's bounds are violated.
fn activate(y: i64, channel: &Channel, secret: &ChannelSecret, coins: &mut Coins) -> Option<i64> {
    if channel.kind == Kind::Zero {
        return Some(i64::from(secret.offset));
    }
    let unit = 1i64 << channel.shift;
    if y.abs() >= (1i64 << (channel.bound_bits - 1)) - unit {
        return None;
    }
    let v = y.div_euclid(unit) + i64::from(y.rem_euclid(unit) != 0 && coins.flip());
    let back = |z: i64, coins: &mut Coins| {
        z.div_euclid(1 << channel.back_shift) + i64::from(channel.back_shift > 0 && coins.flip())
    };
    let offset = i64::from(secret.offset);
    match channel.kind {
        Kind::Relu => Some(v.max(0)),
        Kind::Linear => Some(v),
        Kind::Square { .. } => {
            let z = v * v;
            let q = back(z, coins);
            (4 * (z + (1 << channel.back_shift)) < FIELD_PRIME).then_some(offset + if secret.negative { -q } else { q })
        }
        _ => {
            let z = v * v * v + secret.lambda * v;
            (4 * (z.abs() + (1 << 33) + (1 << channel.back_shift)) < FIELD_PRIME).then(|| offset + back(z, coins))
        }
    }
}

/// The whole network with random roundings, tensor by tensor.
fn simulate(model: &ModelFile, input: &[i64], coins: &mut Coins) -> Option<Vec<Vec<i64>>> {
    let shapes = model.architecture.shapes().ok()?;
    let secrets = &model.parameters.as_ref()?.nodes;
    let mut tensors = vec![input.to_vec()];
    for (n, node) in model.architecture.nodes.iter().enumerate() {
        let x = &tensors[node.input as usize];
        let (from, to) = (shapes[node.input as usize], shapes[n + 1]);
        let at = |c: u32, i: i64, j: i64| {
            let inside = (0..i64::from(from.height)).contains(&i) && (0..i64::from(from.width)).contains(&j);
            if inside { x[(i64::from(c * from.height) + i) as usize * from.width as usize + j as usize] } else { 0 }
        };
        let mut y = Vec::new();
        for o in 0..to.channels {
            for (i, j) in (0..i64::from(to.height)).flat_map(|i| (0..i64::from(to.width)).map(move |j| (i, j))) {
                y.push(match (&node.op, &secrets[n]) {
                    (Op::Convolution(conv), NodeSecret::Convolution { weights, bias }) => {
                        let [rows, columns] = conv.kernel;
                        let mut sum = i64::from(bias[o as usize]);
                        for c in 0..from.channels {
                            for (r, s) in (0..rows).flat_map(|r| (0..columns).map(move |s| (r, s))) {
                                let w = weights[(((o * from.channels + c) * rows + r) * columns + s) as usize];
                                let i = i * i64::from(conv.stride[0]) + i64::from(r) - i64::from(conv.padding[0]);
                                let j = j * i64::from(conv.stride[1]) + i64::from(s) - i64::from(conv.padding[1]);
                                sum += i64::from(w) * at(c, i, j);
                            }
                        }
                        sum
                    }
                    (Op::SumPool(pool), _) => {
                        let mut sum = 0;
                        for r in 0..i64::from(pool.kernel[0]) {
                            for s in 0..i64::from(pool.kernel[1]) {
                                sum += at(o, i * i64::from(pool.stride[0]) + r, j * i64::from(pool.stride[1]) + s);
                            }
                        }
                        sum
                    }
                    (Op::Activation(activation), NodeSecret::Activation(secrets)) => {
                        activate(at(o, i, j), &activation.channels[o as usize], &secrets[o as usize], coins)?
                    }
                    _ => x[o as usize],
                });
            }
        }
        // The ring is Z_2^32: a value outside would come back as another.
        let wraps = y.iter().any(|&v| i32::try_from(v).is_err());
        if wraps && !matches!(node.op, Op::Convolution(_)) {
            return None;
        }
        tensors.push(y);
    }
    Some(tensors)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_choice_of_roundings_is_inside(seed in 1u64..) {
        let mut coins = Coins(seed);
        let model = network(&mut coins);
        let reference = Reference::new(&model).unwrap();
        let input: Vec<i32> = (0..84).map(|_| coins.range(-256, 256) as i32).collect();
        let trace = reference.run(&input).unwrap();
        let wide: Vec<i64> = input.iter().map(|&x| x.into()).collect();
        for _ in 0..4 {
            let Some(tensors) = simulate(&model, &wide, &mut coins) else {
                // A run that overflows must have been announced.
                prop_assert!(trace.possible_overflow.is_some());
                continue;
            };
            for (n, node) in model.architecture.nodes.iter().enumerate() {
                let violation = reference.allowed(n, &tensors[node.input as usize], &tensors[n + 1]);
                prop_assert!(violation.is_none(), "{}", violation.unwrap());
            }
            for (tensor, simulated) in trace.tensors.iter().zip(&tensors) {
                for (e, &value) in simulated.iter().enumerate() {
                    // Channels that no one reads are simulated, but not part of the trace.
                    let read = tensor.low[e] != 0 || tensor.high[e] != 0;
                    prop_assert!(!read || (tensor.low[e]..=tensor.high[e]).contains(&value));
                    prop_assert!((tensor.low[e]..=tensor.high[e]).contains(&tensor.nominal[e]));
                }
            }
            for ((bounds, tensor), shape) in reference.bounds().iter().zip(&tensors[1..]).zip(&reference.shapes()[1..]) {
                let inside = |(e, &v): (usize, &i64)| (bounds[e / shape.plane()].low..=bounds[e / shape.plane()].high).contains(&v);
                prop_assert!(tensor.iter().enumerate().all(inside));
            }
            let output: Vec<i32> = tensors.last().unwrap().iter().map(|&v| v as i32).collect();
            prop_assert_eq!(trace.contains(&output).unwrap(), None);
        }
    }

    #[test]
    fn a_range_of_inputs_holds_each_of_them(seed in 1u64..) {
        let mut coins = Coins(seed);
        let reference = Reference::new(&network(&mut coins)).unwrap();
        let low: Vec<i32> = (0..84).map(|_| coins.range(-256, 256) as i32).collect();
        let high: Vec<i32> = low.iter().map(|&x| x + coins.range(0, 20) as i32).collect();
        let between: Vec<i32> = low.iter().zip(&high).map(|(&l, &h)| coins.range(l.into(), h.into()) as i32).collect();
        let range = reference.run_range(&low, &high).unwrap();
        let trace = reference.run(&between).unwrap();
        if range.possible_overflow.is_none() {
            prop_assert!(trace.possible_overflow.is_none());
            for (r, t) in range.tensors.iter().zip(&trace.tensors) {
                prop_assert!((0..r.low.len()).all(|e| r.low[e] <= t.low[e] && t.high[e] <= r.high[e]));
            }
        }
    }

    #[test]
    fn a_changed_value_is_not_allowed(seed in 1u64.., delta in prop_oneof![Just(-3i64), Just(3), Just(1 << 20)]) {
        let mut coins = Coins(seed);
        let model = network(&mut coins);
        let reference = Reference::new(&model).unwrap();
        let input: Vec<i64> = (0..84).map(|_| coins.range(-256, 256)).collect();
        let Some(mut tensors) = simulate(&model, &input, &mut coins) else { return Ok(()) };
        let shapes = model.architecture.shapes().unwrap();
        for (n, node) in model.architecture.nodes.iter().enumerate() {
            let e = coins.range(0, tensors[n + 1].len() as i64 - 1) as usize;
            let channel = e / shapes[n + 1].plane();
            let loose = match &node.op {
                // Two allowed squares or cubes may lie further apart than the change.
                Op::Activation(a) => matches!(a.channels[channel].kind, Kind::Square { .. } | Kind::Cubic) && delta < 1 << 20,
                Op::Convolution(_) => model.architecture.unread_outputs(n, &shapes)[channel],
                _ => false,
            };
            let input = tensors[node.input as usize].clone();
            tensors[n + 1][e] += delta;
            let violation = reference.allowed(n, &input, &tensors[n + 1]);
            tensors[n + 1][e] -= delta;
            prop_assert!(loose || matches!(violation, Some(Violation::Value { .. })), "{} {:?}", node.name, violation);
        }
    }
}

#[test]
fn overflow_names_node_channel_value_and_limit() {
    let mut coins = Coins(7);
    let mut model = network(&mut coins);
    let Some(Node { op: Op::Activation(activation), .. }) = model.architecture.nodes.get_mut(1) else { panic!() };
    for channel in &mut activation.channels {
        *channel = Channel { kind: Kind::Relu, bound_bits: 6, shift: 2, back_shift: 0 };
    }
    let count = activation.channels.len();
    model.parameters.as_mut().unwrap().nodes[1] = NodeSecret::Activation(vec![ChannelSecret::default(); count]);
    let trace = Reference::new(&model).unwrap().run(&[200; 84]).unwrap();
    let text = trace.overflow.unwrap().to_string();
    assert!(
        text.starts_with(
            "overflow at node 1 (activation), channel 0, element 0: expected |y| < 2^(b-1) - 2^f, limit 28, got"
        ),
        "{text}"
    );
}

#[test]
fn arguments_are_checked() {
    let mut model = network(&mut Coins(3));
    let reference = Reference::new(&model).unwrap();
    assert!(reference.run(&[0; 83]).unwrap_err().message().contains("expected 84 elements (2x7x6), got 83"));
    let mut input = [0.0f32; 84];
    input[5] = 1.5;
    let text = reference.quantise(&input).unwrap_err().to_string();
    assert!(text.contains("input element 5: expected a value from -1 to 1"), "{text}");
    input[5] = f32::NAN;
    assert!(reference.quantise(&input).is_err());
    input[5] = 0.25;
    assert_eq!(reference.quantise(&input).unwrap()[5], 64);
    assert_eq!(reference.scores(&[-8, 24]), [-0.5, 1.5]);
    assert!(matches!(reference.allowed(99, &[], &[]), Some(Violation::NoSuchNode { .. })));
    assert!(matches!(reference.allowed(0, &[], &[]), Some(Violation::Length { which: "input", .. })));
    model.parameters = None;
    assert!(Reference::new(&model).is_err());
}
