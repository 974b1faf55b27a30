//! Models with numbers that no compiler writes: refused, or run to the end; no panic, no memory out of proportion.

use super::random::draw;
use super::{Pipe, error_of};
use crate::error::ErrorKind;
use crate::model::{
    Activation, Architecture, Channel, Convolution, Kind, ModelFile, Node, NodeSecret, Op, Output, Shape, Sum,
};
use crate::prg::{Prg, Seed};
use crate::session::{ClientModel, Options, ServerModel, fit_noise};
use alloc::{string::String, vec, vec::Vec};

const EXTREMES: [u32; 16] = [
    0,
    1,
    2,
    3,
    16,
    17,
    255,
    4096,
    4097,
    65536,
    1 << 26,
    (1 << 26) + 1,
    1 << 30,
    i32::MAX as u32,
    i32::MIN as u32,
    u32::MAX,
];

/// Sets one number of a model to an extreme one, or to one near to what it is.
fn spoil(file: &mut ModelFile, prg: &mut Prg) {
    let (extreme, step) = (EXTREMES[prg.below(16) as usize], prg.next_u32());
    let near = prg.below(2) == 0;
    let wide = |number: &mut u32| *number = if near { number.wrapping_add(step % 3).wrapping_sub(1) } else { extreme };
    let signed = |number: &mut i32| *number = extreme as i32;
    let narrow = |number: &mut u8| {
        *number = if near { number.wrapping_add((step % 3) as u8).wrapping_sub(1) } else { extreme as u8 }
    };
    let which = prg.below(8) as usize;
    let architecture = &mut file.architecture;
    let at = prg.below(architecture.nodes.len() as u64 + 1) as usize;
    let Some(node) = architecture.nodes.get_mut(at) else {
        match which {
            0 => wide(&mut architecture.input.channels),
            1 => wide(&mut architecture.input.height),
            2 => narrow(&mut architecture.input_fraction_bits),
            3 => signed(&mut architecture.input_range[0]),
            4 => signed(&mut architecture.input_range[1]),
            _ => {
                let mut bits = extreme as u8;
                narrow(&mut bits);
                architecture.output = Output::Class { index_bits: bits };
            }
        }
        return;
    };
    if which == 7 {
        match prg.below(3) {
            0 => node.inputs.iter_mut().take(1).for_each(wide),
            1 => node.inputs.clear(),
            _ => node.inputs.push(0),
        }
        return;
    }
    let axis = prg.below(2) as usize;
    match &mut node.op {
        Op::Convolution(conv) => wide(match which {
            0 => &mut conv.out_channels,
            1 => &mut conv.kernel[axis],
            2 => &mut conv.stride[axis],
            3 => &mut conv.padding[2 * axis],
            4 => &mut conv.dilation[axis],
            5 => &mut conv.groups,
            _ => &mut conv.packed_outputs,
        }),
        Op::SumPool(pool) => wide(match which {
            0 | 1 => &mut pool.kernel[axis],
            2 | 3 => &mut pool.stride[axis],
            _ => &mut pool.padding[2 * axis + which % 2],
        }),
        Op::Window(window) => match which {
            0..3 => signed(&mut window.offset[axis]),
            3 | 4 => wide(&mut window.stride[axis]),
            _ => wide(&mut window.size[axis]),
        },
        Op::Channels(channels) => wide(if axis == 0 { &mut channels.first } else { &mut channels.count }),
        Op::Sum(sum) => {
            let input = step as usize % sum.multipliers.len().max(1);
            let Some(multipliers) = sum.multipliers.get_mut(input) else { return };
            match which {
                0 => multipliers.clear(),
                1 => drop(sum.multipliers.pop()),
                _ => multipliers.iter_mut().for_each(signed),
            }
        }
        Op::Activation(activation) => {
            let count = activation.channels.len().max(1);
            let Some(channel) = activation.channels.get_mut(step as usize % count) else { return };
            match which {
                0 => narrow(&mut channel.bound_bits),
                1 => narrow(&mut channel.shift),
                2 => narrow(&mut channel.back_shift),
                3 => channel.kind = Kind::Zero,
                4 => channel.kind = Kind::Relu,
                5 => narrow(&mut activation.fraction_bits),
                _ => drop(activation.channels.pop()),
            }
        }
        Op::Max(max) => narrow(&mut max.width),
        Op::Concat | Op::Flatten => {}
    }
}

/// Sets secret integers to extreme ones.
fn spoil_secrets(file: &mut ModelFile, prg: &mut Prg) {
    let Some(parameters) = &mut file.parameters else { return };
    let extreme = EXTREMES[prg.below(16) as usize] as i32;
    for node in &mut parameters.nodes {
        match node {
            NodeSecret::Sum(constants) => constants.fill(extreme),
            NodeSecret::Convolution { weights, bias } => {
                weights.fill([255, -255][prg.below(2) as usize]);
                bias.fill(extreme);
            }
            NodeSecret::Activation(channels) => {
                channels.iter_mut().filter(|c| c.offset != 0).for_each(|c| c.offset = extreme);
                channels.iter_mut().filter(|c| c.lambda != 0).for_each(|c| c.lambda = -(1 << 34) + 1);
            }
            NodeSecret::None => {}
        }
    }
}

#[test]
fn spoiled_models_are_refused_or_run_to_the_end() {
    let mut prg = Prg::new(&Seed::from_bytes([21; 32]));
    let (mut refused, mut run) = (0, 0);
    for round in 0..800u32 {
        let mut file = draw((round % 50) as u8);
        if round % 3 == 0 || round % 20 == 0 {
            spoil_secrets(&mut file, &mut prg);
        }
        if round % 20 != 0 {
            (0..1 + prg.below(2)).for_each(|_| spoil(&mut file, &mut prg));
        }
        let Ok(client) = ClientModel::new(file.architecture.clone()) else {
            refused += 1;
            assert!(ServerModel::new(file).is_err());
            continue;
        };
        let forecast = client.forecast(&Options::default());
        let bytes: u64 = forecast.traffic.iter().map(|(_, t)| t.sent + t.received).sum();
        if fit_noise(&mut file).is_err() || round % 4 != 0 || bytes > 1 << 20 {
            continue;
        }
        // Another limit of output channels in a ciphertext is another architecture.
        let client = ClientModel::new(file.architecture.clone()).unwrap();
        let server = ServerModel::new(file).unwrap();
        let [low, high] = client.architecture().input_range;
        let mut pipe = Pipe::new(&client, &server, usize::MAX, 1);
        pipe.client.prepare(1).unwrap();
        pipe.run().unwrap();
        if low <= high {
            let input: Vec<i32> = (0..client.inputs()).map(|i| if i % 2 == 0 { low } else { high }).collect();
            assert_eq!(pipe.infer(&input).unwrap().len(), client.outputs());
            assert_eq!(pipe.stream(&input).unwrap().len(), client.outputs());
            run += 1;
        }
    }
    assert!(refused > 150 && run > 60, "{refused} {run}");
}

fn node(inputs: &[u32], op: Op) -> Node {
    Node { name: String::new(), inputs: inputs.to_vec(), op }
}

/// A small file must not make either party keep lists of channels without end: 3,000 convolutions of all of 2^16 channels.
#[test]
fn channels_read_are_bounded_in_all() {
    let relu = Channel { kind: Kind::Relu, bound_bits: 16, shift: 4, back_shift: 0 };
    let readers = |count: u32| {
        let mut nodes = vec![];
        let mut ends = vec![];
        for group in (0..count).collect::<Vec<_>>().chunks(1000) {
            let first = nodes.len() as u32 + 1;
            nodes.extend(group.iter().map(|_| node(&[0], Op::Convolution(Convolution::new(1, [1, 1])))));
            nodes.push(node(&(first..first + group.len() as u32).collect::<Vec<_>>(), Op::Concat));
            ends.push(nodes.len() as u32);
        }
        nodes.push(node(&ends, Op::Concat));
        let channels = vec![relu; count as usize];
        nodes.push(node(&[nodes.len() as u32], Op::Activation(Activation { fraction_bits: 4, channels })));
        Architecture {
            name: String::new(),
            input: Shape { channels: 1 << 16, height: 1, width: 1 },
            input_fraction_bits: 4,
            input_range: [0, 1],
            nodes,
            output: Output::Scores,
        }
    };
    let error = error_of(ClientModel::new(readers(3000)).map(|_| ()));
    assert_eq!(error.kind(), ErrorKind::MalformedModel);
    assert!(error.message().contains("channels that convolutions read"), "{error}");
    assert!(ClientModel::new(readers(30)).is_ok());
}

/// Nor make it add for hours: four sums of a thousand times a large image.
#[test]
fn additions_are_bounded_in_all() {
    let large = Shape { channels: 1, height: 1, width: 1 << 20 };
    let sums = |count: u32, terms: usize| {
        let sum = |i| node(&vec![i; terms], Op::Sum(Sum { multipliers: vec![vec![1]; terms] }));
        let mut nodes: Vec<Node> = (0..count).map(sum).collect();
        let channels = vec![Channel { kind: Kind::Linear, bound_bits: 16, shift: 4, back_shift: 0 }];
        nodes.push(node(&[count], Op::Activation(Activation { fraction_bits: 4, channels })));
        Architecture {
            name: String::new(),
            input: large,
            input_fraction_bits: 4,
            input_range: [0, 1],
            nodes,
            output: Output::Scores,
        }
    };
    assert!(sums(4, 1024).shapes().is_ok());
    let error = error_of(sums(5, 1024).shapes());
    assert!(error.message().contains("node 4") && error.message().contains("additions of sums"), "{error}");
}
