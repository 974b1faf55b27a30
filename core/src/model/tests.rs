//! Model files: what is written is read back, and nothing else is taken.

use super::*;
use crate::error::ErrorKind;
use alloc::{string::ToString, vec, vec::Vec};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

fn small() -> ModelFile {
    let channel = |kind, bound_bits, shift, back_shift| Channel { kind, bound_bits, shift, back_shift };
    let conv = Convolution::new(3, [2, 2]);
    let channels = vec![
        channel(Kind::Relu, 16, 2, 0),
        channel(Kind::Zero, 0, 0, 0),
        channel(Kind::Square { secret_sign: true }, 16, 3, 4),
    ];
    let node = |name: &str, input, op| Node { name: name.into(), inputs: vec![input], op };
    ModelFile {
        architecture: Architecture {
            name: "small".into(),
            input: Shape { channels: 1, height: 4, width: 4 },
            input_fraction_bits: 8,
            input_range: [0, 256],
            nodes: vec![
                node("conv", 0, Op::Convolution(conv)),
                node("act", 1, Op::Activation(Activation { fraction_bits: 5, channels })),
            ],
            output: Output::Scores,
        },
        parameters: Some(Parameters {
            calibration: Calibration::default(),
            scales: vec![],
            nodes: vec![
                NodeSecret::Convolution { weights: (0..12).map(|i| i * 40 - 220).collect(), bias: vec![1, -2, 3] },
                NodeSecret::Activation(vec![
                    ChannelSecret::default(),
                    ChannelSecret { offset: 7, ..Default::default() },
                    ChannelSecret { offset: -7, negative: true, ..Default::default() },
                ]),
            ],
        }),
    }
}

/// Puts the right hash behind changed contents, so that what reads them is reached.
fn rehash(mut bytes: Vec<u8>) -> Vec<u8> {
    let contents = bytes.len().saturating_sub(32);
    bytes.truncate(contents);
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

#[test]
fn both_files_are_read_back() {
    let model = small();
    let server = ModelFile::read(&model.server_bytes().unwrap()).unwrap();
    assert_eq!(server.architecture, model.architecture);
    assert_eq!(*server.server_bytes().unwrap(), *model.server_bytes().unwrap());
    let public = ModelFile::read(&model.public_bytes().unwrap()).unwrap();
    assert_eq!(public.architecture.id().unwrap(), model.architecture.id().unwrap());
    assert!(public.parameters.is_none());
    assert!(public.server_bytes().is_err());
}

#[test]
fn liveness_follows_degree_zero_channels() {
    let model = small();
    let shapes = model.architecture.shapes().unwrap();
    assert_eq!(shapes[2], Shape { channels: 3, height: 3, width: 3 });
    assert_eq!(model.architecture.unread_channels(&shapes)[1], [false, true, false]);
    assert_eq!(model.architecture.constant_channels(&shapes)[2], [false, true, false]);
}

#[test]
fn what_the_protocol_cannot_do_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Architecture), kind, text: &str| {
        let mut architecture = small().architecture;
        change(&mut architecture);
        let error = architecture.shapes().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    fn channels(architecture: &mut Architecture) -> &mut Vec<Channel> {
        match &mut architecture.nodes[1].op {
            Op::Activation(activation) => &mut activation.channels,
            _ => panic!(),
        }
    }
    fn conv(architecture: &mut Architecture) -> &mut Convolution {
        match &mut architecture.nodes[0].op {
            Op::Convolution(conv) => conv,
            _ => panic!(),
        }
    }
    use ErrorKind::{MalformedModel, UnsupportedModel};
    refused(&|a| channels(a)[0].bound_bits = 31, MalformedModel, "channel 0 (relu): expected a bound of 2 to 30 bits");
    refused(&|a| channels(a)[0].shift = 15, MalformedModel, "shift at least 2 below it, got bound 16, shift 15");
    refused(&|a| channels(a)[0].bound_bits = 29, UnsupportedModel, "at most 26 bits, got 27");
    refused(&|a| channels(a)[1].shift = 1, MalformedModel, "channel 1 (zero)");
    refused(&|a| channels(a)[2].back_shift = 21, MalformedModel, "back shift of at most 20, got 21");
    refused(&|a| channels(a).truncate(2), MalformedModel, "expected 3 activations, got 2");
    refused(&|a| a.nodes[1].inputs = vec![2], MalformedModel, "node 1 (act): input: expected tensor 0 to 1, got 2");
    refused(&|a| a.nodes.truncate(1), MalformedModel, "last node: expected an activation layer");
    refused(
        &|a| channels(a)[0] = Channel { kind: Kind::Linear, bound_bits: 16, shift: 0, back_shift: 0 },
        UnsupportedModel,
        "last node: channel 0 (linear): expected a shift of at least 1",
    );
    refused(
        &|a| {
            let flatten = a.nodes[0].clone();
            a.input = Shape { channels: 1 << 14, height: 64, width: 64 };
            a.nodes = (0..8).map(|i| Node { op: Op::Flatten, inputs: vec![i.min(1)], ..flatten.clone() }).collect();
        },
        MalformedModel,
        "node 0 (conv): shape",
    );
    refused(
        &|a| {
            let pool = Op::SumPool(Pool::new([1, 1], [1, 1]));
            a.input = Shape { channels: 1 << 14, height: 64, width: 64 };
            a.nodes = (0..8).map(|i| Node { op: pool.clone(), inputs: vec![i], name: "pool".into() }).collect();
        },
        MalformedModel,
        "elements in all tensors together, got more",
    );
    refused(
        &|a| {
            a.input = Shape { channels: 1, height: 8192, width: 8192 };
            a.nodes[0].op = Op::SumPool(Pool::new([4096, 4096], [1, 1]));
        },
        MalformedModel,
        "node 0 (conv): expected at most 4294967296 additions",
    );
    refused(&|a| a.nodes.clear(), MalformedModel, "nodes: expected 1 to 4096, got 0");
    refused(&|a| a.input.channels = u32::MAX, MalformedModel, "input: shape");
    refused(&|a| conv(a).kernel = [9, 2], MalformedModel, "got kernel 9, stride 1, padded size 4");
    refused(&|a| conv(a).stride = [0, 1], MalformedModel, "stride of at least 1");
    refused(&|a| conv(a).padding = [u32::MAX; 4], MalformedModel, "node 0 (conv)");
    refused(&|a| conv(a).groups = 2, MalformedModel, "divides 1 input and 3 output channels, got 2");
    refused(&|a| conv(a).dilation = [0, 1], MalformedModel, "a dilation of at least 1, got size 2, dilation 0");
    refused(&|a| conv(a).dilation = [u32::MAX; 2], MalformedModel, "node 0 (conv): window");
    refused(&|a| a.nodes[1].inputs.clear(), MalformedModel, "node 1 (act): inputs: expected 1, got 0");
    refused(&|a| a.nodes[1].inputs = vec![1; 2], MalformedModel, "inputs: expected 1, got 2");
    refused(&|a| a.nodes[1].inputs = vec![1; 2000], MalformedModel, "inputs: expected at most 1024, got 2000");
    refused(&|a| a.output = Output::Class { index_bits: 2 }, MalformedModel, "in a maximum, got 2 bits");
    let insert = |op: Op| {
        move |a: &mut Architecture| a.nodes.insert(1, Node { name: "new".into(), inputs: vec![1], op: op.clone() })
    };
    let window = Window { offset: [0; 2], stride: [1; 2], size: [1; 2], edge: Edge::Zero };
    refused(&insert(Op::Window(Window { stride: [0, 1], ..window })), MalformedModel, "strides of at least 1");
    refused(&insert(Op::Window(Window { size: [u32::MAX; 2], ..window })), MalformedModel, "node 1 (new)");
    refused(&insert(Op::Window(Window { offset: [i32::MIN; 2], ..window })), MalformedModel, "node 1 (new)");
    refused(&insert(Op::Window(Window { size: [0; 2], ..window })), MalformedModel, "node 1 (new): shape");
    refused(
        &insert(Op::Channels(Channels { first: 2, count: u32::MAX })),
        MalformedModel,
        "expected some of 3, got 2 to",
    );
    refused(&insert(Op::Sum(Sum { multipliers: vec![vec![1; 2]] })), MalformedModel, "3 multipliers per input, got 2");
    refused(&insert(Op::Sum(Sum { multipliers: vec![] })), MalformedModel, "multipliers for 1 inputs, got 0");
    refused(&insert(Op::Max(Max { width: 9 })), MalformedModel, "inputs: expected 2, got 1");
    let pool = Pool { kernel: [2; 2], stride: [1; 2], padding: [2, 0, 0, 0], inside_only: true };
    refused(&insert(Op::SumPool(pool)), MalformedModel, "padding below the window's 2");
    refused(
        &|a| {
            a.input = Shape { channels: 1, height: 64, width: 64 };
            let pool = Pool { kernel: [40; 2], stride: [1; 2], padding: [39; 4], inside_only: true };
            a.nodes.insert(0, Node { name: "new".into(), inputs: vec![0], op: Op::SumPool(pool) });
        },
        UnsupportedModel,
        "a common multiple of at most 4096",
    );
    refused(
        &|a| {
            a.nodes.truncate(1);
            a.nodes.push(Node { name: "new".into(), inputs: vec![1, 1], op: Op::Max(Max { width: 60 }) });
        },
        MalformedModel,
        "max: expected a width of 2 to",
    );
    refused(&|a| conv(a).out_channels = 1 << 20, MalformedModel, "node 0 (conv): shape");
    refused(
        &|a| {
            let first = a.nodes[0].clone();
            a.nodes.insert(1, Node { inputs: vec![1], ..first });
        },
        MalformedModel,
        "expected an activation layer between two linear layers",
    );
}

#[test]
fn parameters_of_another_architecture_are_refused() {
    let refused = |change: &dyn Fn(&mut Vec<NodeSecret>), text: &str| {
        let mut model = small();
        change(&mut model.parameters.as_mut().unwrap().nodes);
        let error = model.server_bytes().unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    };
    let weights = |nodes: &mut Vec<NodeSecret>, change: &dyn Fn(&mut Vec<i16>)| match &mut nodes[0] {
        NodeSecret::Convolution { weights, .. } => change(weights),
        _ => panic!(),
    };
    refused(&|n| weights(n, &|w| w[0] = 256), "expected weights of at most 255, got a larger one");
    refused(&|n| weights(n, &|w| w[0] = i16::MIN), "got a larger one");
    refused(&|n| weights(n, &|w| w.truncate(11)), "expected 12 weights and 3 biases, got 11 and 3");
    refused(&|n| drop(n.pop()), "expected 2 nodes, got 1");
    refused(&|n| n.swap(0, 1), "got those of another");
}

#[test]
fn architectures_that_would_take_much_memory_to_decode_are_refused() {
    let length = limits::ARCHITECTURE_BYTES + 1;
    let mut file = PUBLIC_MAGIC.to_vec();
    file.extend_from_slice(&1u32.to_le_bytes());
    file.extend_from_slice(&(length as u32).to_le_bytes());
    file.resize(file.len() + length + 32, 0);
    let error = ModelFile::read(&rehash(file)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::MalformedModel);
    assert!(error.message().contains("architecture: expected at most 33554432 bytes, got 33554433"), "{error}");
}

proptest! {
    #[test]
    fn cut_or_changed_files_are_refused_without_a_panic(at in 0usize..400, bit in 0u8..8, cut in any::<bool>(), fix in any::<bool>()) {
        for good in [small().server_bytes().unwrap().to_vec(), small().public_bytes().unwrap()] {
            let mut bytes = good.clone();
            let at = at % bytes.len();
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            match ModelFile::read(&if fix { rehash(bytes.clone()) } else { bytes.clone() }) {
                // With the hash put right, a change may be another valid model; without, nothing is.
                Ok(_) => prop_assert!(fix),
                Err(error) => prop_assert!(error.message().starts_with("model file") || fix, "{}", error),
            }
        }
    }

    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), public in any::<bool>()) {
        let mut file = if public { PUBLIC_MAGIC } else { SERVER_MAGIC }.to_vec();
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        file.extend_from_slice(&bytes);
        file.extend_from_slice(&[0; 32]);
        prop_assert!(ModelFile::read(&rehash(file)).is_err());
        prop_assert!(ModelFile::read(&bytes).is_err());
    }
}
