//! Networks of unusual shape: branches, constants alone, outputs that no one reads.

use super::{Pipe, check_tensors};
use crate::model::{
    Activation, Architecture, Calibration, Channel, ChannelSecret, Convolution, Kind, ModelFile, Node, NodeSecret, Op,
    Parameters, Pool, Shape,
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
        let padding = [kernel / 2; 4];
        Op::Convolution(Convolution {
            out_channels,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding,
            packed_outputs: u32::MAX,
        })
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
        ("pooled constants", 2, Op::SumPool(Pool { kernel: [2; 2], stride: [2; 2] })),
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
        nodes: nodes.into_iter().map(|(name, input, op)| Node { name: name.into(), input, op }).collect(),
    };
    let shapes = architecture.shapes().unwrap();
    let secret = |channel: &Channel| ChannelSecret {
        offset: if matches!(channel.kind, Kind::Relu | Kind::Linear) { 0 } else { 17 },
        lambda: if channel.kind == Kind::Cubic { 300 } else { 0 },
        negative: channel.kind == (Kind::Square { secret_sign: true }),
    };
    let secrets = architecture.nodes.iter().map(|node| match &node.op {
        Op::Convolution(conv) => {
            let count = conv.out_channels * shapes[node.input as usize].channels * conv.kernel[0] * conv.kernel[1];
            let weights = (0..count).map(|_| prg.below(7) as i16 - 3).collect();
            NodeSecret::Convolution { weights, bias: vec![5; conv.out_channels as usize] }
        }
        Op::Activation(activation) => NodeSecret::Activation(activation.channels.iter().map(secret).collect()),
        _ => NodeSecret::None,
    });
    let parameters = Some(Parameters { nodes: secrets.collect(), calibration: Calibration::default() });
    ModelFile { architecture, parameters }
}

#[test]
fn every_value_of_an_odd_graph_is_an_allowed_rounding() {
    let mut prg = Prg::new(&Seed::from_bytes([9; 32]));
    let file = odd(&mut prg);
    let client = ClientModel::read(&file.public_bytes().unwrap()).unwrap();
    let server = ServerModel::read(&file.server_bytes().unwrap()).unwrap();
    for seed in 0..20 {
        let mut pipe = Pipe::new(&client, &server, usize::MAX, seed);
        pipe.client.prepare(1).unwrap();
        pipe.run().unwrap();
        let input: Vec<i32> = (0..client.inputs()).map(|_| prg.below(129) as i32 - 64).collect();
        pipe.infer(&input).unwrap();
        check_tensors(&file, &pipe.tensors());
    }
}
