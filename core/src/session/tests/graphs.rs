//! Networks of unusual shape: branches, constants alone, outputs that no one reads.

use super::{Pipe, check_tensors};
use crate::model::{
    Activation, Architecture, Calibration, Channel, ChannelSecret, Channels, Convolution, Edge, Kind, Max, ModelFile,
    Node, NodeSecret, Op, Output, Parameters, Pool, Shape, Sum, Window,
};
use crate::prg::{Prg, Seed};
use crate::session::{ClientModel, ServerModel};
use alloc::{vec, vec::Vec};

/// Three readers of one linear output; a convolution, a pool and activations over constants alone (masks 0); activations
/// on the input and on an activation; an output that no one reads; constants in the answer.
fn odd(prg: &mut Prg) -> ModelFile {
    let channel = |kind, bound_bits, shift, back_shift| Channel { kind, bound_bits, shift, back_shift };
    let zero = channel(Kind::Zero, 0, 0, 0);
    let conv = |out_channels, kernel: u32| {
        Op::Convolution(Convolution { padding: [kernel / 2; 4], ..Convolution::new(out_channels, [kernel; 2]) })
    };
    let act = |channels| Op::Activation(Activation { fraction_bits: 6, channels });
    let mixed = || {
        act(vec![
            channel(Kind::Relu, 20, 6, 0),
            channel(Kind::Square { secret_sign: true }, 18, 4, 8),
            channel(Kind::Cubic, 19, 8, 10),
            channel(Kind::Linear, 20, 0, 0),
            channel(Kind::Linear, 20, 5, 0),
            channel(Kind::Relu, 15, 0, 0),
        ])
    };
    let identity = |count| act(vec![channel(Kind::Linear, 20, 0, 0); count]);
    let answer = act(vec![zero, channel(Kind::Linear, 28, 6, 0), zero, channel(Kind::Relu, 22, 6, 0)]);
    let nodes = [
        ("read by three", 0, conv(6, 3)),
        ("constants", 1, act(vec![zero; 6])),
        ("of constants", 2, conv(6, 3)),
        ("over a zero mask", 3, mixed()),
        ("pooled constants", 2, Op::SumPool(Pool::new([2; 2], [2; 2]))),
        ("over pooled constants", 5, mixed()),
        ("second reader", 1, mixed()),
        ("third reader", 1, mixed()),
        ("on the input", 0, identity(1)),
        ("read by no one", 0, conv(3, 1)),
        ("on an activation", 7, identity(6)),
        ("dense", 4, conv(4, 1)),
        ("answer", 12, answer),
    ];
    let architecture = Architecture {
        name: "odd".into(),
        input: Shape { channels: 1, height: 4, width: 4 },
        input_fraction_bits: 6,
        input_range: [-64, 64],
        nodes: nodes.into_iter().map(|(name, input, op)| Node { name: name.into(), inputs: vec![input], op }).collect(),
        output: Output::Scores,
    };
    with_secrets(architecture, prg)
}

/// Gives an architecture small random weights and constants.
pub(super) fn with_secrets(architecture: Architecture, prg: &mut Prg) -> ModelFile {
    let shapes = architecture.shapes().unwrap();
    let secret = |channel: &Channel| ChannelSecret {
        offset: if channel.kind == Kind::Relu { 0 } else { 17 },
        lambda: if channel.kind == Kind::Cubic { 300 } else { 0 },
        negative: channel.kind == (Kind::Square { secret_sign: true }),
    };
    let secrets = architecture.nodes.iter().zip(&shapes[1..]).map(|(node, output)| match &node.op {
        Op::Convolution(conv) => {
            let inputs = shapes[node.inputs[0] as usize].channels / conv.groups;
            let count = conv.out_channels as usize * inputs as usize * conv.taps();
            let weights = (0..count).map(|_| prg.below(7) as i16 - 3).collect();
            NodeSecret::Convolution { weights, bias: vec![5; conv.out_channels as usize] }
        }
        Op::Activation(activation) => NodeSecret::Activation(activation.channels.iter().map(secret).collect()),
        Op::Sum(_) => NodeSecret::Sum((0..output.channels as i32).map(|c| 3 * c - 4).collect()),
        _ => NodeSecret::None,
    });
    let parameters = Some(Parameters { nodes: secrets.collect(), calibration: Calibration::default(), scales: vec![] });
    ModelFile { architecture, parameters }
}

#[test]
fn every_value_of_an_odd_graph_is_an_allowed_rounding() {
    let mut prg = Prg::new(&Seed::from_bytes([9; 32]));
    check_graph(&odd(&mut prg), &mut prg);
}

/// Runs a network on random inputs and checks every value; returns the answers with the last tensor's values.
fn check_graph(file: &ModelFile, prg: &mut Prg) -> Vec<(Vec<i32>, Vec<i64>)> {
    let mut answers = vec![];
    let client = ClientModel::read(&file.public_bytes().unwrap()).unwrap();
    let server = ServerModel::read(&file.server_bytes().unwrap()).unwrap();
    for seed in 0..20 {
        let mut pipe = Pipe::new(&client, &server, usize::MAX, seed);
        pipe.trace();
        pipe.client.prepare(1).unwrap();
        pipe.run().unwrap();
        let input: Vec<i32> = (0..client.inputs()).map(|_| prg.below(129) as i32 - 64).collect();
        let answer = pipe.infer(&input).unwrap();
        let mut tensors = pipe.tensors(&client);
        check_tensors(file, &tensors, client.word_bits());
        answers.push((answer, tensors.pop().unwrap()));
    }
    answers
}

/// A residual block with a projection, grouped and dilated convolutions, weighted averages, max-pooling over both kinds of
/// edges, concatenation, and a tournament of class scores at the end.
pub(super) fn residual(prg: &mut Prg) -> ModelFile {
    let channel = |kind, bound_bits, shift| Channel { kind, bound_bits, shift, back_shift: 0 };
    let act = |kind, count, bound, shift| {
        Op::Activation(Activation { fraction_bits: 6, channels: vec![channel(kind, bound, shift); count] })
    };
    let relu = |count| act(Kind::Relu, count, 18, 4);
    let conv = |convolution: Convolution| Op::Convolution(convolution);
    let sum = |multipliers: &[[i32; 4]]| Op::Sum(Sum { multipliers: multipliers.iter().map(|m| m.to_vec()).collect() });
    let window = |offset, stride, size, edge| Op::Window(Window { offset, stride, size, edge });
    let max = Op::Max(Max { width: 17 });
    let nodes: Vec<(&str, &[u32], Op)> = vec![
        ("grouped", &[0], conv(Convolution { padding: [1; 4], groups: 2, ..Convolution::new(4, [3, 3]) })),
        ("relu", &[1], relu(4)),
        (
            "depthwise",
            &[2],
            conv(Convolution { padding: [2; 4], dilation: [2; 2], groups: 4, ..Convolution::new(4, [3, 3]) }),
        ),
        ("residual", &[3, 2], sum(&[[1; 4], [1, 8, -2, 16]])),
        ("relu2", &[4], relu(4)),
        ("even", &[5], window([0, -1], [1, 2], [6, 3], Edge::Nearest)),
        ("odd", &[5], window([0, 0], [1, 2], [6, 3], Edge::Zero)),
        ("columns", &[6, 7], max.clone()),
        (
            "average",
            &[2],
            Op::SumPool(Pool { kernel: [1, 3], stride: [1, 2], padding: [0, 1, 0, 0], inside_only: true }),
        ),
        ("both", &[8, 9], Op::Concat),
        ("middle", &[10], Op::Channels(Channels { first: 2, count: 4 })),
        ("difference", &[11, 8], sum(&[[1, 2, 3, 4], [-1, -1, -2, 0]])),
        ("linear", &[12], act(Kind::Linear, 4, 20, 3)),
        ("flatten", &[13], Op::Flatten),
        ("dense", &[14], conv(Convolution::new(4, [1, 1]))),
        ("scores", &[15], act(Kind::Linear, 4, 20, 6)),
        // Scores in the upper bits, class indices (the sum's constants are 3c - 4: all different) in the lower ones.
        ("indices", &[16], sum(&[[16; 4]])),
        ("first", &[17], Op::Channels(Channels { first: 0, count: 2 })),
        ("second", &[17], Op::Channels(Channels { first: 2, count: 2 })),
        ("semifinals", &[18, 19], Op::Max(Max { width: 20 })),
        ("left", &[20], Op::Channels(Channels { first: 0, count: 1 })),
        ("right", &[20], Op::Channels(Channels { first: 1, count: 1 })),
        ("final", &[21, 22], Op::Max(Max { width: 20 })),
    ];
    let architecture = Architecture {
        name: "residual".into(),
        input: Shape { channels: 2, height: 6, width: 6 },
        input_fraction_bits: 6,
        input_range: [-64, 64],
        nodes: nodes
            .into_iter()
            .map(|(name, inputs, op)| Node { name: name.into(), inputs: inputs.to_vec(), op })
            .collect(),
        output: Output::Class { index_bits: 4 },
    };
    with_secrets(architecture, prg)
}

#[test]
fn every_value_of_a_residual_graph_is_right_and_only_the_class_is_told() {
    let mut prg = Prg::new(&Seed::from_bytes([10; 32]));
    for (answer, winner) in check_graph(&residual(&mut prg), &mut prg) {
        assert_eq!((answer.len(), winner.len()), (1, 1));
        assert_eq!(i64::from(answer[0]), winner[0] & 15);
    }
}
