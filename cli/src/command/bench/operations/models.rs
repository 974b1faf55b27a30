//! The operations that are measured, and a small network around each.

use anyhow::{Context, Result};
use safenet_core::model::{
    Activation, Architecture, Calibration, Channel, ChannelSecret, Channels, Convolution, Kind, Max, ModelFile, Node,
    NodeSecret, Op, Output, Parameters, Pool, Shape,
};
use safenet_core::prg::{Prg, SEED_BYTES, Seed};
use safenet_core::session::fit_noise;

/// The tensor that activations are applied to: 65,536 values.
pub(super) const SHAPE: Shape = Shape { channels: 64, height: 32, width: 32 };

/// Something that is measured.
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) what: What,
}

/// What it does.
#[derive(Clone, Copy)]
pub(super) enum What {
    /// An activation of every value of [`SHAPE`].
    Activation(Channel),
    /// The larger of two values, for every place of [`SHAPE`]; differences have so many bits.
    Max(u8),
    /// A convolution with a square kernel of a square image, padded to keep its size.
    Convolution { kernel: u32, inputs: u32, outputs: u32, side: u32 },
}

const fn activation(name: &'static str, kind: Kind, bound_bits: u8, shift: u8, back_shift: u8) -> Operation {
    Operation { name, what: What::Activation(Channel { kind, bound_bits, shift, back_shift }) }
}

const fn convolution(name: &'static str, kernel: u32, inputs: u32, outputs: u32, side: u32) -> Operation {
    Operation { name, what: What::Convolution { kernel, inputs, outputs, side } }
}

/// All of them. Numbers in the names of activations are the bits of the values that they are applied to, after truncation;
/// those of convolutions are kernel, input and output channels, and the image's side.
pub(super) const OPERATIONS: [Operation; 14] = [
    activation("relu-16", Kind::Relu, 24, 8, 0),
    activation("relu-12", Kind::Relu, 20, 8, 0),
    Operation { name: "max-16", what: What::Max(16) },
    activation("cube-10", Kind::Cubic, 20, 10, 18),
    activation("square-14", Kind::Square { secret_sign: false }, 20, 6, 14),
    activation("square-14-signed", Kind::Square { secret_sign: true }, 20, 6, 14),
    activation("linear-16", Kind::Linear, 24, 8, 0),
    convolution("conv-3x3-64-64-32", 3, 64, 64, 32),
    convolution("conv-3x3-64-64-8", 3, 64, 64, 8),
    convolution("conv-3x3-16-16-32", 3, 16, 16, 32),
    convolution("conv-3x3-512-512-4", 3, 512, 512, 4),
    convolution("conv-1x1-64-64-32", 1, 64, 64, 32),
    convolution("conv-1x1-256-64-56", 1, 256, 64, 56),
    convolution("dense-512-1000", 1, 512, 1000, 1),
];

/// Inputs of convolutions lie between -1 and 1, so that sums over whole images stay in bounds.
const CONVOLVED: i32 = 1;

/// The network with an operation, or the same network without it.
pub(super) fn model(operation: &Operation, without: bool) -> Result<ModelFile> {
    let zero = Channel { kind: Kind::Zero, bound_bits: 0, shift: 0, back_shift: 0 };
    let linear = |bound_bits, shift| Channel { kind: Kind::Linear, bound_bits, shift, back_shift: 0 };
    let mut nodes = vec![];
    let mut node = |op, inputs: Vec<u32>| {
        nodes.push(Node { name: format!("node {}", nodes.len()), inputs, op });
        nodes.len() as u32
    };
    let each =
        |channel, count: u32| Op::Activation(Activation { fraction_bits: 8, channels: vec![channel; count as usize] });
    let (input, largest) = match operation.what {
        What::Activation(channel) => {
            // An input's words are as narrow as their readers allow, and a constant needs none of them. What no one reads is
            // kept whole: with this node the words have 32 bits in both networks, and their difference is the activation's.
            node(Op::Channels(Channels { first: 0, count: 1 }), vec![0]);
            // A constant costs nothing but that the input goes out and the answer comes back.
            node(each(if without { zero } else { channel }, SHAPE.channels), vec![0]);
            (SHAPE, (1 << (channel.bound_bits - 1)) - (1 << channel.shift) - 1)
        }
        What::Max(width) => {
            let half = |first| Op::Channels(Channels { first, count: SHAPE.channels });
            let mut last = node(half(0), vec![0]);
            if !without {
                let other = node(half(SHAPE.channels), vec![0]);
                last = node(Op::Max(Max { width }), vec![last, other]);
            }
            node(each(linear(width, 1), SHAPE.channels), vec![last]);
            (Shape { channels: 2 * SHAPE.channels, ..SHAPE }, (1 << (width - 2)) - 1)
        }
        What::Convolution { kernel, inputs, outputs, side } => {
            let mut last = 0;
            if !without {
                let padding = [kernel / 2; 4];
                last = node(
                    Op::Convolution(Convolution { padding, ..Convolution::new(outputs, [kernel; 2]) }),
                    vec![last],
                );
            }
            // The sums over the image alone are activated, of which there are few.
            last = node(Op::SumPool(Pool::new([side; 2], [side; 2])), vec![last]);
            if without && inputs != outputs {
                last = node(Op::Concat, vec![last; outputs.div_ceil(inputs) as usize]);
                last = node(Op::Channels(Channels { first: 0, count: outputs }), vec![last]);
            }
            node(each(linear(30, 8), outputs), vec![last]);
            (Shape { channels: inputs, height: side, width: side }, CONVOLVED)
        }
    };
    let architecture = Architecture {
        name: operation.name.into(),
        input,
        input_fraction_bits: 8,
        input_range: [-largest, largest],
        nodes,
        output: Output::Scores,
    };
    let mut model = ModelFile { parameters: Some(parameters(&architecture)?), architecture };
    fit_noise(&mut model)?;
    Ok(model)
}

/// Random weights of eight bits; activations without secrets of their own.
fn parameters(architecture: &Architecture) -> Result<Parameters> {
    let shapes = architecture.shapes().context("operation's network")?;
    let mut prg = Prg::new(&Seed::from_bytes([0; SEED_BYTES]));
    let secrets = architecture.nodes.iter().map(|node| match &node.op {
        Op::Convolution(conv) => {
            let count = conv.out_channels as usize * shapes[node.inputs[0] as usize].channels as usize * conv.taps();
            let weights = (0..count).map(|_| prg.below(255) as i16 - 127).collect();
            NodeSecret::Convolution { weights, bias: vec![0; conv.out_channels as usize] }
        }
        Op::Activation(activation) => NodeSecret::Activation(vec![ChannelSecret::default(); activation.channels.len()]),
        _ => NodeSecret::None,
    });
    Ok(Parameters { nodes: secrets.collect(), calibration: Calibration::default(), scales: vec![] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use safenet_core::session::{ClientModel, Options, Phase};

    #[test]
    fn all_networks_are_valid_and_differ_in_the_operation_alone() {
        for operation in &OPERATIONS {
            let [with, without] = [false, true].map(|without| {
                let architecture = model(operation, without).unwrap().architecture;
                let model = ClientModel::new(architecture.clone()).unwrap();
                let (shapes, bits) = (architecture.shapes().unwrap(), model.word_bits());
                (shapes[0], bits[0], *shapes.last().unwrap(), *bits.last().unwrap(), architecture.input_range)
            });
            assert_eq!(with, without, "{}", operation.name);
        }
    }

    /// Bits of an element and round trips as `docs/protocol.md` has them, section 8: from the server and from the client. Words
    /// have 32 bits, those around a maximum 17.
    const ONLINE: [(&str, u64, u64, u64); 7] = [
        ("relu-16", 16 + 5 + 33, 8 + 160 + 32 + 64, 3),
        ("relu-12", 12 + 5 + 33, 8 + 64 + 32 + 64, 3),
        ("max-16", 15 + 5 + 18, 160 + 32 + 34, 3),
        ("cube-10", 1 + 73, 72 + 64, 2),
        ("square-14", 1 + 37, 72 + 64, 2),
        ("square-14-signed", 1 + 38, 72 + 128, 2),
        ("linear-16", 1, 64, 1),
    ];

    #[test]
    fn the_difference_of_two_networks_is_what_the_protocol_sends_for_the_operation() {
        const FRAME_HEADER: u64 = 8;
        for operation in &OPERATIONS {
            let [with, without] = [false, true].map(|without| {
                let model = ClientModel::new(model(operation, without).unwrap().architecture).unwrap();
                let forecast = model.forecast(&Options::default());
                let online = forecast.traffic.iter().filter(|(place, _)| place.phase == Phase::Infer);
                let sums = online.fold((0, 0), |(down, up), (_, t)| (down + t.received, up + t.sent));
                (sums.0, sums.1, forecast.infer_rounds)
            });
            let named = ONLINE.iter().find(|(name, ..)| *name == operation.name);
            // Convolutions send nothing online.
            let &(_, down, up, rounds) = named.unwrap_or(&("", 0, 0, 0));
            let bytes = |bits: u64| SHAPE.elements() as u64 * bits / 8 + rounds * FRAME_HEADER;
            let difference = (with.0 - without.0, with.1 - without.1, with.2 - without.2);
            assert_eq!(difference, (bytes(down), bytes(up), rounds), "{}", operation.name);
            assert_eq!(named.is_none(), matches!(operation.what, What::Convolution { .. }), "{}", operation.name);
        }
    }
}
