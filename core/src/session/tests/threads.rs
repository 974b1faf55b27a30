//! Sessions whose parties compute with several threads: what they say and find does not depend on how many.

use super::graphs::with_secrets;
use super::{check_tensors, turn};
use crate::model::{
    Activation, Architecture, Channel, Channels, Convolution, Edge, Kind, Max, ModelFile, Node, Op, Output, Pool,
    Shape, Sum, Window,
};
use crate::ot::Extension;
use crate::prg::{Prg, Seed};
use crate::rlwe::LinearPacking;
use crate::session::schedule::{Schedule, Step};
use crate::session::{Client, ClientModel, Options, Server, ServerModel, Status, WEIGHT_MEMORY};
use crate::threads::Threads;
use alloc::{vec, vec::Vec};

/// Convolutions of one and of several tiles, of more requests and answers than are made at once, dense and in groups; all kinds of
/// activations, with products for several ciphertexts; a maximum, a concatenation and sums.
fn network() -> ModelFile {
    let channel = |kind, bound_bits, shift, back_shift| Channel { kind, bound_bits, shift, back_shift };
    let act = |channels| Op::Activation(Activation { fraction_bits: 6, channels });
    let relu = |count| act(vec![channel(Kind::Relu, 18, 4, 0); count]);
    let linear = |count| act(vec![channel(Kind::Linear, 22, 8, 0); count]);
    let conv = |out_channels, kernel: u32, groups| {
        Op::Convolution(Convolution { padding: [kernel / 2; 4], groups, ..Convolution::new(out_channels, [kernel; 2]) })
    };
    let window = |first| Op::Window(Window { offset: [0, first], stride: [2, 2], size: [33, 32], edge: Edge::Nearest });
    let mixed = vec![
        channel(Kind::Square { secret_sign: false }, 18, 4, 8),
        channel(Kind::Cubic, 19, 8, 10),
        channel(Kind::Square { secret_sign: true }, 18, 4, 7),
        channel(Kind::Relu, 18, 4, 0),
        channel(Kind::Linear, 18, 4, 0),
    ];
    let nodes: Vec<(&str, &[u32], Op)> = vec![
        ("tiles", &[0], conv(5, 3, 1)),
        ("mixed", &[1], act(mixed)),
        ("even", &[2], window(0)),
        ("odd", &[2], window(1)),
        ("maximum", &[3, 4], Op::Max(Max { width: 17 })),
        ("average", &[2], Op::SumPool(Pool { padding: [0, 0, 1, 1], ..Pool::new([2; 2], [2; 2]) })),
        ("columns", &[6], Op::Window(Window { offset: [0; 2], stride: [1; 2], size: [33, 32], edge: Edge::Zero })),
        ("both", &[5, 7], Op::Concat),
        ("linear", &[8], linear(10)),
        ("many ciphertexts", &[2], conv(12, 3, 1)),
        ("halves", &[10], Op::SumPool(Pool::new([2; 2], [2; 2]))),
        ("linear2", &[11], linear(12)),
        ("one by one", &[12], conv(4, 1, 1)),
        ("linear3", &[13], linear(4)),
        ("middle", &[9], Op::Channels(Channels { first: 2, count: 4 })),
        ("sum", &[14, 15], Op::Sum(Sum { multipliers: vec![vec![1; 4], vec![2, -1, 1, 1]] })),
        ("linear4", &[16], linear(4)),
        ("depthwise", &[17], conv(4, 3, 4)),
        ("relu", &[18], relu(4)),
        ("pool", &[19], Op::SumPool(Pool::new([8; 2], [8; 2]))),
        ("linear5", &[20], linear(4)),
        ("flatten", &[21], Op::Flatten),
        ("dense", &[22], conv(10, 1, 1)),
        ("output", &[23], act(vec![channel(Kind::Linear, 28, 6, 0); 10])),
    ];
    let architecture = Architecture {
        name: "threads".into(),
        input: Shape { channels: 2, height: 66, width: 65 },
        input_fraction_bits: 6,
        input_range: [-64, 64],
        nodes: nodes
            .into_iter()
            .map(|(name, inputs, op)| Node { name: name.into(), inputs: inputs.to_vec(), op })
            .collect(),
        output: Output::Scores,
    };
    with_secrets(architecture, &mut Prg::new(&Seed::from_bytes([11; 32])))
}

/// What a session of two inferences says and finds.
#[derive(PartialEq)]
struct Told {
    up: Vec<u8>,
    down: Vec<u8>,
    outputs: Vec<Vec<i32>>,
    /// Of the last inference, every tensor.
    tensors: Vec<Vec<i64>>,
}

fn tell(file: &ModelFile, extension: Extension, weight_memory: u64, threads: &Threads) -> Told {
    let options = Options { extension, ..Options::default() };
    let model = ClientModel::new(file.architecture.clone()).unwrap().with_threads(threads.clone());
    let file = ModelFile::read(&file.server_bytes().unwrap()).unwrap();
    let server = ServerModel::load(file, weight_memory, threads.clone(), &mut |_, _| {}).unwrap();
    let mut client = Client::new(&model, options, Seed::from_bytes([1; 32]));
    let mut server = Server::new(&server, options, Seed::from_bytes([2; 32]));
    client.trace();
    server.trace();
    let (mut up, mut down) = (vec![], vec![]);
    let mut told = Told { up: vec![], down: vec![], outputs: vec![], tensors: vec![] };
    let mut run = |client: &mut Client, told: &mut Told| {
        loop {
            let before = up.len();
            let status = turn(client, &mut down, &mut up, usize::MAX).unwrap();
            told.up.extend_from_slice(&up[before..]);
            let before = down.len();
            turn(&mut server, &mut up, &mut down, usize::MAX).unwrap();
            told.down.extend_from_slice(&down[before..]);
            if status == Status::Idle && up.is_empty() {
                return server.masked();
            }
        }
    };
    for inference in 0..2 {
        client.prepare(1).unwrap();
        run(&mut client, &mut told);
        let masks = client.masks();
        let input: Vec<i32> = (0..model.inputs() as i32).map(|i| (i * 7 + inference) % 129 - 64).collect();
        client.infer(client.bundles()[0], &input).unwrap();
        let masked = run(&mut client, &mut told);
        told.outputs.push(client.output().unwrap().to_vec());
        told.tensors = model.unmask(&masks, &masked);
    }
    told
}

#[test]
fn bytes_and_answers_do_not_depend_on_the_number_of_threads() {
    let file = network();
    let client = ClientModel::new(file.architecture.clone()).unwrap();
    // Some more than five threads make at once, and others of several tiles.
    let steps = Schedule::new(&file.architecture).unwrap().steps;
    let packings = || steps.iter().filter_map(|step| if let Step::Linear(step) = step { step.packing } else { None });
    let most = |count: fn(&LinearPacking) -> usize| packings().map(|packing| count(&packing)).max().unwrap();
    let most =
        [LinearPacking::tiles, LinearPacking::request_ciphertexts, LinearPacking::response_ciphertexts].map(most);
    assert!(most[0] > 1 && most[1] > 8 && most[2] > 20, "{most:?}");
    let quiet = Extension::Silent.check_built().unwrap_or(Options::FALLBACK);
    for (extension, weight_memory) in [(quiet, WEIGHT_MEMORY), (Options::default().extension, 0)] {
        let expected = tell(&file, extension, weight_memory, &Threads::default());
        check_tensors(&file, &expected.tensors, client.word_bits());
        for count in [2, 5] {
            let told = tell(&file, extension, weight_memory, &Threads::new(count).unwrap());
            assert!(told.up == expected.up, "{extension:?}, {count} threads: the client's bytes");
            assert!(told.down == expected.down, "{extension:?}, {count} threads: the server's bytes");
            assert!(told.outputs == expected.outputs && told.tensors == expected.tensors);
        }
    }
}
