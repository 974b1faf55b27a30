//! Nominal answers of residual networks, on one core.
#![allow(clippy::unwrap_used, reason = "a benchmark has no one to return an error to")]

use criterion::{Criterion, criterion_group, criterion_main};
use safenet_core::model::{
    Activation, Architecture, Calibration, Channel, ChannelSecret, Convolution, Kind, ModelFile, Node, NodeSecret, Op,
    Output, Parameters, Pool, Shape, Sum,
};
use safenet_reference::Reference;
use std::hint::black_box;

/// Makes a network of random weights whose values keep about eight bits.
struct Network {
    nodes: Vec<Node>,
    secrets: Vec<NodeSecret>,
    /// Channels of each tensor.
    channels: Vec<u32>,
    state: u64,
}

impl Network {
    fn add(&mut self, inputs: &[u32], op: Op, secret: NodeSecret, channels: u32) -> u32 {
        self.nodes.push(Node { name: "node".into(), inputs: inputs.to_vec(), op });
        self.secrets.push(secret);
        self.channels.push(channels);
        self.nodes.len() as u32
    }

    fn convolution(&mut self, x: u32, out: u32, kernel: u32, stride: u32) -> u32 {
        let fan_in = self.channels[x as usize] * kernel * kernel;
        let weights = (0..out * fan_in).map(|_| self.weight()).collect();
        let conv = Convolution {
            out_channels: out,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [kernel / 2; 4],
            dilation: [1; 2],
            groups: 1,
            packed_outputs: u32::MAX,
        };
        self.add(&[x], Op::Convolution(conv), NodeSecret::Convolution { weights, bias: vec![0; out as usize] }, out)
    }

    /// From −63 to 63, by Knuth's linear congruential generator (MMIX).
    fn weight(&mut self) -> i16 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.state >> 40) % 127) as i16 - 63
    }

    fn activation(&mut self, x: u32, kind: Kind, shift: u8) -> u32 {
        let count = self.channels[x as usize];
        let channel = Channel { kind, bound_bits: shift + 16, shift, back_shift: 0 };
        let activation = Activation { fraction_bits: 0, channels: vec![channel; count as usize] };
        let secret = NodeSecret::Activation(vec![ChannelSecret::default(); count as usize]);
        self.add(&[x], Op::Activation(activation), secret, count)
    }

    fn layer(&mut self, x: u32, out: u32, kernel: u32, stride: u32) -> u32 {
        let y = self.convolution(x, out, kernel, stride);
        let shift = (36.0 * f64::from(self.channels[x as usize] * kernel * kernel).sqrt()).log2().round();
        self.activation(y, Kind::Relu, shift as u8)
    }

    fn sum(&mut self, a: u32, b: u32) -> u32 {
        let count = self.channels[a as usize];
        let sum = Sum { multipliers: vec![vec![1; count as usize]; 2] };
        self.add(&[a, b], Op::Sum(sum), NodeSecret::Sum(vec![0; count as usize]), count)
    }

    /// A residual block: layers of some (channels, kernel), the first one strided, and the way past them.
    fn block(&mut self, x: u32, layers: &[(u32, u32)], stride: u32) -> u32 {
        let mut y = x;
        for (i, &(out, kernel)) in layers.iter().enumerate() {
            y = self.layer(y, out, kernel, if i == 0 { stride } else { 1 });
        }
        let out = self.channels[y as usize];
        let past = if stride != 1 || self.channels[x as usize] != out { self.layer(x, out, 1, stride) } else { x };
        let sum = self.sum(y, past);
        self.activation(sum, Kind::Relu, 1)
    }

    fn pool(&mut self, x: u32, kernel: u32, stride: u32, padding: u32) -> u32 {
        let pool = Pool { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 4], inside_only: false };
        self.add(&[x], Op::SumPool(pool), NodeSecret::None, self.channels[x as usize])
    }
}

fn reference(size: u32, make: impl Fn(&mut Network)) -> Reference {
    let mut network = Network { nodes: Vec::new(), secrets: Vec::new(), channels: vec![3], state: 1 };
    make(&mut network);
    let Network { nodes, secrets, .. } = network;
    let architecture = Architecture {
        name: "residual".into(),
        input: Shape { channels: 3, height: size, width: size },
        input_fraction_bits: 8,
        input_range: [0, 255],
        nodes,
        output: Output::Scores,
    };
    let parameters = Some(Parameters { nodes: secrets, calibration: Calibration::default(), scales: vec![] });
    Reference::new(&ModelFile { architecture, parameters }).unwrap()
}

/// Of 32 x 32 pixels: 41 million products.
fn resnet_20() -> Reference {
    reference(32, |network| {
        let mut x = network.layer(0, 16, 3, 1);
        for (stage, channels) in [16, 32, 64].into_iter().enumerate() {
            for block in 0..3 {
                x = network.block(x, &[(channels, 3), (channels, 3)], if stage > 0 && block == 0 { 2 } else { 1 });
            }
        }
        x = network.pool(x, 8, 8, 0);
        x = network.convolution(x, 10, 1, 1);
        network.activation(x, Kind::Linear, 12);
    })
}

/// Of 224 x 224 pixels: four billion products.
fn resnet_50() -> Reference {
    reference(224, |network| {
        let mut x = network.layer(0, 64, 7, 2);
        x = network.pool(x, 3, 2, 1);
        x = network.activation(x, Kind::Linear, 3);
        for (stage, (channels, blocks)) in [(64, 3), (128, 4), (256, 6), (512, 3)].into_iter().enumerate() {
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                x = network.block(x, &[(channels, 1), (channels, 3), (4 * channels, 1)], stride);
            }
        }
        x = network.pool(x, 7, 7, 0);
        x = network.convolution(x, 1000, 1, 1);
        network.activation(x, Kind::Linear, 12);
    })
}

fn nominal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nominal");
    group.sample_size(10);
    for (name, reference) in [("ResNet-20", resnet_20()), ("ResNet-50", resnet_50())] {
        let input: Vec<i32> = (0..reference.shapes()[0].elements() as i32).map(|i| i * 89 % 256).collect();
        group.bench_function(name, |bench| bench.iter(|| black_box(reference.run_nominal_output(&input).unwrap())));
        if name == "ResNet-20" {
            group.bench_function(format!("{name}, trace"), |bench| {
                bench.iter(|| reference.run_nominal(&input).unwrap())
            });
            group.bench_function(format!("{name}, intervals"), |bench| bench.iter(|| reference.run(&input).unwrap()));
        }
    }
}

criterion_group!(benches, nominal);
criterion_main!(benches);
