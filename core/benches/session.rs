//! Whole sessions, client and server back to back in memory: what one inference costs both parties together.
#![allow(clippy::expect_used, reason = "a benchmark has no one to return an error to")]

use criterion::{Criterion, criterion_group, criterion_main};
use safenet_core::model::{
    Activation, Architecture, Calibration, Channel, ChannelSecret, Convolution, Kind, ModelFile, Node, NodeSecret, Op,
    Output, Parameters, Pool, Shape,
};
use safenet_core::prg::{Prg, Seed};
use safenet_core::session::{Client, ClientModel, Options, Server, ServerModel, Session, Status};

/// A network of the size that digits take: two convolutions, two pools, two dense layers.
fn network(kind: Kind) -> ModelFile {
    let (bound_bits, shift, back_shift) = match kind {
        Kind::Relu => (24, 8, 0),
        Kind::Cubic => (20, 10, 18),
        _ => (20, 6, 14),
    };
    let activation = |count: usize| {
        let channels = vec![Channel { kind, bound_bits, shift, back_shift }; count];
        Op::Activation(Activation { fraction_bits: 8, channels })
    };
    let conv = |out_channels, kernel, pad| {
        let padding = [pad; 4];
        Op::Convolution(Convolution { padding, ..Convolution::new(out_channels, [kernel; 2]) })
    };
    let pool = || Op::SumPool(Pool::new([2; 2], [2; 2]));
    let linear = Channel { kind: Kind::Linear, bound_bits: 24, shift: 8, back_shift: 0 };
    let output = Op::Activation(Activation { fraction_bits: 8, channels: vec![linear; 10] });
    let ops = vec![
        conv(8, 5, 2),
        activation(8),
        pool(),
        conv(16, 3, 1),
        activation(16),
        pool(),
        Op::Flatten,
        conv(64, 1, 0),
        activation(64),
        conv(10, 1, 0),
        output,
    ];
    let nodes =
        ops.into_iter().enumerate().map(|(i, op)| Node { name: format!("node {i}"), inputs: vec![i as u32], op });
    let architecture = Architecture {
        name: "digits".into(),
        input: Shape { channels: 1, height: 28, width: 28 },
        input_fraction_bits: 8,
        input_range: [0, 256],
        nodes: nodes.collect(),
        output: Output::Scores,
    };
    let shapes = architecture.shapes().expect("a network");
    let mut prg = Prg::new(&Seed::from_bytes([0; 32]));
    let secrets = architecture.nodes.iter().map(|node| match &node.op {
        Op::Convolution(conv) => {
            let count = conv.out_channels * shapes[node.inputs[0] as usize].channels * conv.kernel[0] * conv.kernel[1];
            let weights = (0..count).map(|_| prg.below(65) as i16 - 32).collect();
            NodeSecret::Convolution { weights, bias: vec![0; conv.out_channels as usize] }
        }
        Op::Activation(activation) => NodeSecret::Activation(vec![ChannelSecret::default(); activation.channels.len()]),
        _ => NodeSecret::None,
    });
    let parameters = Some(Parameters { nodes: secrets.collect(), calibration: Calibration::default(), scales: vec![] });
    ModelFile { architecture, parameters }
}

struct Pair {
    client: Client,
    server: Server,
    up: Vec<u8>,
    down: Vec<u8>,
    buffer: Vec<u8>,
}

impl Pair {
    fn new(client: &ClientModel, server: &ServerModel) -> Self {
        let seed = |n| Seed::from_bytes([n; 32]);
        Self {
            client: Client::new(client, Options::default(), seed(1)),
            server: Server::new(server, Options::default(), seed(2)),
            up: vec![],
            down: vec![],
            buffer: vec![0; 1 << 16],
        }
    }

    fn run(&mut self) {
        loop {
            let step = self.client.advance(&self.down, &mut self.buffer).expect("client");
            self.down.drain(..step.consumed);
            self.up.extend_from_slice(&self.buffer[..step.produced]);
            let idle = step.status == Status::Idle;
            let step = self.server.advance(&self.up, &mut self.buffer).expect("server");
            self.up.drain(..step.consumed);
            self.down.extend_from_slice(&self.buffer[..step.produced]);
            if idle && self.up.is_empty() {
                return;
            }
        }
    }

    fn prepare(&mut self) {
        self.client.prepare(1).expect("prepare");
        self.run();
    }

    fn infer(&mut self, input: &[i32]) {
        self.client.infer(self.client.bundles()[0], input).expect("infer");
        self.run();
    }
}

fn bench(criterion: &mut Criterion) {
    for (name, kind) in [
        ("relu", Kind::Relu),
        ("square", Kind::Square { secret_sign: false }),
        ("cubic", Kind::Cubic),
        ("linear", Kind::Linear),
    ] {
        let file = network(kind);
        let client = ClientModel::new(file.architecture.clone()).expect("client model");
        let server = ServerModel::new(file).expect("server model");
        let input = vec![128; client.inputs()];
        let mut group = criterion.benchmark_group(format!("digits, all {name}"));
        group.sample_size(10);
        group.bench_function("setup", |b| {
            b.iter(|| {
                let mut pair = Pair::new(&client, &server);
                pair.client.prepare(0).expect("prepare");
                pair.run();
            });
        });
        let mut pair = Pair::new(&client, &server);
        group.bench_function("prepare and infer", |b| {
            b.iter(|| {
                pair.prepare();
                pair.infer(&input);
            });
        });
        group.bench_function("infer", |b| {
            b.iter_batched(
                || {
                    let mut pair = Pair::new(&client, &server);
                    pair.prepare();
                    pair
                },
                |mut pair| pair.infer(&input),
                criterion::BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
