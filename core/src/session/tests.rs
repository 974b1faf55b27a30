//! Client and server back to back in memory.

mod graphs;
mod hostile;
mod observed;
mod random;
#[cfg(feature = "parallel")]
mod threads;
mod transcript;

use super::{
    BundleId, Client, ClientModel, Forecast, Meter, Options, Phase, Portions, RoundTrips, Server, ServerModel, Session,
    Status,
};
use crate::error::{Error, ErrorKind, Result};
use crate::layer;
use crate::model::{
    Activation, Architecture, Calibration, Channel, ChannelSecret, Convolution, Kind, ModelFile, Node, NodeSecret, Op,
    Output, Parameters, Pool, Shape,
};
use crate::ot::softspoken::Depth;
use crate::ot::{Extension, Suite};
use crate::prg::{Prg, Seed};
use crate::threads::Threads;
use alloc::{format, string::String, vec, vec::Vec};

/// Both parties and the bytes under way between them.
struct Pipe {
    client: Client,
    server: Server,
    up: Vec<u8>,
    down: Vec<u8>,
    /// Most bytes moved by one call.
    chunk: usize,
}

impl Pipe {
    /// Every third seed has ReLUs in two round trips.
    fn new(client: &ClientModel, server: &ServerModel, chunk: usize, seed: u8) -> Self {
        let options = Self::options(seed);
        Self {
            client: Client::new(client, options, Seed::from_bytes([seed; 32])),
            server: Server::new(server, options, Seed::from_bytes([seed ^ 0xff; 32])),
            up: vec![],
            down: vec![],
            chunk,
        }
    }

    /// One call of each party.
    fn step(&mut self) -> Result<(Status, Status)> {
        let client = turn(&mut self.client, &mut self.down, &mut self.up, self.chunk)?;
        let server = turn(&mut self.server, &mut self.up, &mut self.down, self.chunk)?;
        Ok((client, server))
    }

    /// Runs until the client is idle and its last bytes have reached the server.
    fn run(&mut self) -> Result<()> {
        loop {
            let (client, _) = self.step()?;
            if client == Status::Idle && self.up.is_empty() {
                return Ok(());
            }
        }
    }

    fn infer(&mut self, input: &[i32]) -> Result<Vec<i32>> {
        self.client.infer(self.client.bundles()[0], input)?;
        self.run()?;
        Ok(self.client.output().unwrap().to_vec())
    }
}

impl Pipe {
    fn stream(&mut self, input: &[i32]) -> Result<Vec<i32>> {
        self.client.stream(input)?;
        self.run()?;
        Ok(self.client.output().unwrap().to_vec())
    }

    fn options(seed: u8) -> Options {
        let round_trips = if seed % 3 == 2 { RoundTrips::Two } else { RoundTrips::Three };
        let portions = match seed % 4 {
            0 => Portions::default(),
            1 => Portions { chunk: 128, part: 128 },
            2 => Portions { chunk: 128, part: 384 },
            _ => Portions { chunk: 512, part: 256 },
        };
        let suite = if seed.is_multiple_of(2) { Suite::ChaCha } else { Suite::Aes };
        Options { round_trips, suite, portions, ..Options::default() }
    }

    fn trace(&mut self) {
        self.client.trace();
        self.server.trace();
    }

    /// Every tensor's values: both parties' words put together.
    fn tensors(&self, model: &ClientModel) -> Vec<Vec<i64>> {
        let (words, masks) = (self.server.masked(), self.client.masks());
        assert_eq!(words.len(), masks.len());
        model.unmask(&masks, &words)
    }
}

fn turn(session: &mut impl Session, input: &mut Vec<u8>, output: &mut Vec<u8>, chunk: usize) -> Result<Status> {
    let mut buffer = vec![0; chunk.min(1 << 20)];
    let progress = session.advance(&input[..input.len().min(chunk)], &mut buffer)?;
    input.drain(..progress.consumed);
    output.extend_from_slice(&buffer[..progress.produced]);
    Ok(progress.status)
}

/// A network with every kind of channel in both activation layers before the output: convolution with stride and padding,
/// pooling, flattening, dense layers.
fn network(prg: &mut Prg) -> ModelFile {
    let channel = |kind, bound_bits, shift, back_shift| Channel { kind, bound_bits, shift, back_shift };
    let zero = channel(Kind::Zero, 0, 0, 0);
    let kinds = |relu: u8, poly: u8, cubic: u8| {
        vec![
            channel(Kind::Relu, relu + 6, 6, 0),
            channel(Kind::Square { secret_sign: false }, poly + 4, 4, 8),
            channel(Kind::Cubic, cubic + 8, 8, 10),
            zero,
            channel(Kind::Linear, 20, 5, 0),
            // Wide enough for a round more than the other.
            channel(Kind::Relu, relu + 13, 6, 0),
            channel(Kind::Square { secret_sign: true }, poly + 4, 4, 7),
            channel(Kind::Linear, 20, 0, 0),
        ]
    };
    let node = |name: &str, input, op| Node { name: name.into(), inputs: vec![input], op };
    let conv = |out_channels, kernel, stride, padding| {
        Op::Convolution(Convolution { stride: [stride; 2], padding, ..Convolution::new(out_channels, [kernel; 2]) })
    };
    let nodes = vec![
        node("conv", 0, conv(8, 3, 1, [1, 1, 1, 0])),
        node("act", 1, Op::Activation(Activation { fraction_bits: 6, channels: kinds(14, 16, 11) })),
        node("pool", 2, Op::SumPool(Pool::new([2, 2], [2, 2]))),
        node("conv2", 3, conv(8, 2, 2, [0; 4])),
        node("act2", 4, Op::Activation(Activation { fraction_bits: 6, channels: kinds(15, 16, 11) })),
        node("flatten", 5, Op::Flatten),
        node("dense", 6, conv(5, 1, 1, [0; 4])),
        node(
            "output",
            7,
            Op::Activation(Activation { fraction_bits: 4, channels: vec![channel(Kind::Linear, 28, 6, 0); 5] }),
        ),
    ];
    let architecture = Architecture {
        name: "test".into(),
        input: Shape { channels: 2, height: 8, width: 7 },
        input_fraction_bits: 6,
        input_range: [-64, 64],
        nodes,
        output: Output::Scores,
    };
    let shapes = architecture.shapes().unwrap();
    let parameters = architecture.nodes.iter().map(|node| match &node.op {
        Op::Convolution(conv) => {
            let fan_in = shapes[node.inputs[0] as usize].channels * conv.kernel[0] * conv.kernel[1];
            // Small enough for the bounds above, whatever the input.
            let limit = if node.name == "conv" { 40 } else { 3 };
            let mut weight = || prg.below(2 * limit + 1) as i16 - limit as i16;
            let weights = (0..conv.out_channels * fan_in).map(|_| weight()).collect();
            NodeSecret::Convolution { weights, bias: (0..conv.out_channels).map(|_| i32::from(weight()) * 3).collect() }
        }
        Op::Activation(activation) => NodeSecret::Activation(
            activation
                .channels
                .iter()
                .map(|channel| ChannelSecret {
                    offset: if channel.kind == Kind::Relu { 0 } else { prg.below(100) as i32 - 50 },
                    lambda: if channel.kind == Kind::Cubic { prg.below(2000) as i64 - 1000 } else { 0 },
                    negative: channel.kind == (Kind::Square { secret_sign: true }),
                })
                .collect(),
        ),
        _ => NodeSecret::None,
    });
    let parameters =
        Some(Parameters { nodes: parameters.collect(), calibration: Calibration::default(), scales: vec![] });
    ModelFile { architecture, parameters }
}

fn models() -> (ModelFile, ClientModel, ServerModel) {
    let mut prg = Prg::new(&Seed::from_bytes([9; 32]));
    let file = network(&mut prg);
    let bytes = file.server_bytes().unwrap();
    let client = ClientModel::read(&file.public_bytes().unwrap()).unwrap();
    (file, client, ServerModel::read(&bytes).unwrap())
}

/// Both roundings that a channel allows for a linear output y, as the sorted set of results.
fn allowed(channel: &Channel, secret: &ChannelSecret, y: i64) -> Vec<i64> {
    if channel.kind == Kind::Zero {
        return vec![secret.offset.into()];
    }
    let limit = (1i64 << (channel.bound_bits - 1)) - (1 << channel.shift);
    assert!(y.abs() < limit, "the test's network keeps its bounds: |{y}| < {limit}");
    let unit = 1i64 << channel.shift;
    let truncated = [y.div_euclid(unit), -(-y).div_euclid(unit)];
    let back = |z: i64| {
        let floor = z.div_euclid(1 << channel.back_shift);
        [floor, floor + i64::from(channel.back_shift > 0)]
    };
    let sign = if secret.negative { -1 } else { 1 };
    match channel.kind {
        Kind::Relu => truncated.iter().map(|&v| v.max(0)).collect(),
        Kind::Linear => truncated.iter().map(|v| v + i64::from(secret.offset)).collect(),
        Kind::Square { .. } => {
            truncated.iter().flat_map(|&v| back(v * v)).map(|q| sign * q + i64::from(secret.offset)).collect()
        }
        _ => {
            let z = |v: i64| v * v * v + secret.lambda * v;
            truncated.iter().flat_map(|&v| back(z(v))).map(|q| q + i64::from(secret.offset)).collect()
        }
    }
}

/// Checks every value of every tensor against the values it was computed from, as far as its `bits` low bits go.
fn check_tensors(file: &ModelFile, tensors: &[Vec<i64>], bits: &[u32]) {
    let shapes = file.architecture.shapes().unwrap();
    let unread = file.architecture.unread_channels(&shapes);
    let secrets = &file.parameters.as_ref().unwrap().nodes;
    let words = |values: &[i64]| values.iter().map(|&v| v as u32).collect::<Vec<u32>>();
    for (index, node) in file.architecture.nodes.iter().enumerate() {
        let got = &tensors[index + 1];
        let keep = u32::MAX >> (32 - bits[index + 1]);
        let equal = |a: i64, b: i64| (a ^ b) as u32 & keep == 0;
        let inputs: Vec<&[i64]> = node.inputs.iter().map(|&t| &tensors[t as usize][..]).collect();
        let (input, output) = (shapes[node.inputs[0] as usize], shapes[index + 1]);
        let add = |out: &mut [u32], constants: &[i32]| {
            for (plane, &constant) in out.chunks_exact_mut(output.plane()).zip(constants) {
                plane.iter_mut().for_each(|word| *word = word.wrapping_add(constant as u32));
            }
        };
        match (&node.op, &secrets[index]) {
            (Op::Convolution(conv), NodeSecret::Convolution { weights, bias }) => {
                let unread = &unread[index + 1];
                let mut out = vec![0; output.elements()];
                layer::convolve(
                    &Threads::default(),
                    conv,
                    (input, &words(inputs[0])),
                    weights,
                    unread,
                    (output, &mut out),
                );
                let bias: Vec<i32> = bias.iter().zip(unread).map(|(&b, &unread)| if unread { 0 } else { b }).collect();
                add(&mut out, &bias);
                // What no one reads may be anything.
                let read = |i: &usize| !unread[i / output.plane()];
                assert!((0..out.len()).filter(read).all(|i| equal(got[i], out[i].into())), "{}", node.name);
            }
            (Op::Activation(activation), NodeSecret::Activation(channels)) => {
                for (place, (&value, &y)) in got.iter().zip(inputs[0]).enumerate() {
                    let c = place / output.plane();
                    let allowed = allowed(&activation.channels[c], &channels[c], y);
                    assert!(
                        allowed.iter().any(|&allowed| equal(allowed, value)),
                        "{} at {place}: y = {y}, got {value}, allowed {allowed:?}",
                        node.name
                    );
                }
            }
            (Op::Max(max), _) => {
                for ((&a, &b), &value) in inputs[0].iter().zip(inputs[1]).zip(got) {
                    assert!((a - b).abs() < 1 << (max.width - 1), "the test's network keeps its bounds");
                    assert!(equal(value, a.max(b)), "{}", node.name);
                }
            }
            (op, secret) => {
                let words: Vec<Vec<u32>> = inputs.iter().map(|x| words(x)).collect();
                let shapes = node.inputs.iter().map(|&t| shapes[t as usize]);
                let inputs: Vec<_> = shapes.zip(words.iter().map(|w| &w[..])).collect();
                let mut out = layer::local(op, &inputs, output).unwrap();
                if let NodeSecret::Sum(constants) = secret {
                    add(&mut out, constants);
                }
                assert!(got.iter().zip(out.iter()).all(|(&v, &out)| equal(v, out.into())), "{}", node.name);
            }
        }
    }
}

/// With both parties' words put together, every value after every layer is an allowed rounding of the layer's actual
/// inputs: 1,000 random inputs, extreme ones among them, no exception.
#[test]
fn every_value_of_every_layer_is_an_allowed_rounding() {
    let (file, client, server) = models();
    let mut prg = Prg::new(&Seed::from_bytes([1; 32]));
    let inputs = client.inputs();
    for session in 0..50u8 {
        let mut pipe = Pipe::new(&client, &server, usize::MAX, session);
        pipe.trace();
        for run in 0..20 {
            pipe.client.prepare(1).unwrap();
            pipe.run().unwrap();
            let input: Vec<i32> = (0..inputs)
                .map(|_| match run {
                    0 => 64,
                    1 => -64,
                    2 => 0,
                    3 => [-64, 64][prg.below(2) as usize],
                    _ => prg.below(129) as i32 - 64,
                })
                .collect();
            let output = pipe.infer(&input).unwrap();
            let tensors = pipe.tensors(&client);
            assert_eq!(tensors.len(), file.architecture.nodes.len() + 1);
            assert!(tensors[0].iter().zip(&input).all(|(&a, &b)| a == i64::from(b)));
            assert!(tensors[tensors.len() - 1].iter().zip(&output).all(|(&a, &b)| a == i64::from(b)));
            check_tensors(&file, &tensors, client.word_bits());
        }
    }
}

#[test]
fn the_answer_does_not_depend_on_how_bytes_are_cut() {
    let (_, client, server) = models();
    let input: Vec<i32> = (0..client.inputs() as i32).map(|i| i * 7 % 129 - 64).collect();
    let run = |chunk| {
        let mut pipe = Pipe::new(&client, &server, chunk, 42);
        pipe.client.prepare(2).unwrap();
        pipe.run().unwrap();
        assert_eq!(pipe.client.bundles().len(), 2);
        let outputs = [pipe.infer(&input).unwrap(), pipe.infer(&input).unwrap()];
        assert!(pipe.client.bundles().is_empty());
        pipe.client.close().unwrap();
        pipe.run().unwrap();
        assert_eq!(pipe.client.output(), Some(&outputs[1][..]));
        assert_eq!(error_of(pipe.client.prepare(1)).kind(), ErrorKind::InvalidState);
        // The end of the connection is no error any more.
        pipe.client.input_ended();
        pipe.server.input_ended();
        assert_eq!(pipe.client.advance(&[], &mut []).unwrap().status, Status::Idle);
        assert_eq!(pipe.server.advance(&[], &mut []).unwrap().status, Status::Closed);
        let progress = pipe.server.advance(&[], &mut []).unwrap();
        assert_eq!(progress.status, Status::Closed);
        outputs
    };
    let whole = run(usize::MAX);
    for chunk in [1, 7, 4096] {
        assert_eq!(run(chunk), whole, "chunks of {chunk}");
    }
}

#[test]
fn every_extension_works_and_costs_what_was_forecast() {
    let (_, client, server) = models();
    let input = vec![1; client.inputs()];
    let depths = [Depth::Two, Depth::Four, Depth::Eight].map(Extension::SoftSpoken);
    let extensions =
        depths.into_iter().chain(Extension::Silent.check_built().ok()).flat_map(|extension| [extension; 2]);
    let suites = [Suite::Aes, Suite::ChaCha].into_iter().cycle();
    let round_trips = [RoundTrips::Three, RoundTrips::Two, RoundTrips::Two, RoundTrips::Three].into_iter().cycle();
    for ((extension, suite), round_trips) in extensions.zip(suites).zip(round_trips) {
        let options = Options { extension, suite, round_trips, ..Options::default() };
        let mut pipe = Pipe::new(&client, &server, usize::MAX, 5);
        pipe.client = Client::new(&client, options, Seed::from_bytes([6; 32]));
        pipe.client.prepare(1).unwrap();
        pipe.run().unwrap();
        pipe.infer(&input).unwrap();
        let meter = pipe.client.meter();
        check_cost(&client.forecast(&options), &meter, 1);
        // Both parties count the same bytes.
        for phase in [Phase::Setup, Phase::Prepare, Phase::Infer] {
            let (mine, theirs) = (meter.phase(phase), pipe.server.meter().phase(phase));
            assert_eq!((mine.sent, mine.received), (theirs.received, theirs.sent), "{phase:?}");
        }
    }
}

/// The places and rounds of so many inferences are those of one, so often.
fn check_cost(forecast: &Forecast, meter: &Meter, inferences: u64) {
    let traffic = meter.traffic();
    for (place, expected) in &forecast.traffic {
        let actual = traffic.iter().find(|(p, _)| p == place).map(|(_, t)| *t).unwrap_or_default();
        let expected = (inferences * expected.sent, inferences * expected.received);
        assert_eq!((actual.sent, actual.received), expected, "{place:?}");
    }
    assert_eq!(meter.rounds(Phase::Prepare), inferences * forecast.prepare_rounds);
    assert_eq!(meter.rounds(Phase::Infer), inferences * forecast.infer_rounds);
}

/// Bytes and rounds of a stream are those forecast, by any extension; the session goes on, and both kinds of inference may alternate.
#[test]
fn streams_work_with_every_extension_and_beside_prepared_inferences() {
    let (_, client, server) = models();
    let input: Vec<i32> = (0..client.inputs() as i32).map(|i| i * 7 % 129 - 64).collect();
    let depths = [Depth::Two, Depth::Four, Depth::Eight].map(Extension::SoftSpoken);
    for (extension, seed) in depths.into_iter().chain(Extension::Silent.check_built().ok()).zip(0..) {
        let options = Options { extension, ..Pipe::options(seed) };
        let mut pipe = Pipe::new(&client, &server, if seed == 1 { 100 } else { usize::MAX }, seed);
        pipe.client = Client::new(&client, options, Seed::from_bytes([6; 32]));
        let first = pipe.stream(&input).unwrap();
        check_cost(&client.forecast_stream(&options), &pipe.client.meter(), 1);
        for phase in [Phase::Setup, Phase::Prepare, Phase::Infer] {
            let (mine, theirs) = (pipe.client.meter().phase(phase), pipe.server.meter().phase(phase));
            assert_eq!((mine.sent, mine.received), (theirs.received, theirs.sent), "{phase:?}");
        }
        pipe.client.prepare(1).unwrap();
        pipe.run().unwrap();
        let second = pipe.stream(&input).unwrap();
        let third = pipe.infer(&input).unwrap();
        // Roundings differ; the network turns a unit of its layers into some units of its output.
        for (first, others) in first.iter().zip(second.iter().zip(&third)) {
            assert!(first.abs_diff(*others.0) < 500 && first.abs_diff(*others.1) < 500, "{first} {others:?}");
        }
        assert_eq!((pipe.client.meter().inferences(), pipe.server.meter().inferences()), (3, 3));
        assert_eq!(error_of(pipe.client.stream(&input[1..])).kind(), ErrorKind::InvalidArgument);
        pipe.stream(&input).unwrap();
    }
}

/// Many inferences at once take the large set, and then single ones what is left of it. A server may refuse to.
#[cfg(feature = "silent")]
#[test]
fn silent_extensions_serve_many_inferences_or_are_turned_down() {
    let (_, client, server) = models();
    let input = vec![1; client.inputs()];
    let run = |accept_silent| {
        let options = Options { extension: Extension::Silent, accept_silent, max_bundles: 100, ..Options::default() };
        let mut pipe = Pipe::new(&client, &server, usize::MAX, 7);
        pipe.client = Client::new(&client, options, Seed::from_bytes([8; 32]));
        pipe.server = Server::new(&server, options, Seed::from_bytes([9; 32]));
        for count in [1, 80, 1] {
            pipe.client.prepare(count).unwrap();
            pipe.run().unwrap();
            for _ in 0..count {
                pipe.infer(&input).unwrap();
            }
        }
        pipe.client.meter().phase(Phase::Prepare)
    };
    let (silent, fallback) = (run(true), run(false));
    assert!(silent.sent + silent.received + 600_000 < fallback.sent + fallback.received, "{silent:?} {fallback:?}");
    let options = Options { extension: Options::FALLBACK, ..Options::default() };
    let traffic = client.forecast(&options).traffic;
    let one = traffic.iter().filter(|(place, _)| place.phase == Phase::Prepare);
    assert_eq!(fallback.received, 82 * one.map(|(_, traffic)| traffic.received).sum::<u64>());
}

/// A server may refuse a suite; a client that asks for another is served.
#[test]
fn a_suite_that_is_switched_off_is_refused() {
    let (_, client, server) = models();
    let options = Options { accept_chacha: false, ..Options::default() };
    let run = |suite| {
        let mut pipe = Pipe::new(&client, &server, usize::MAX, 7);
        pipe.client = Client::new(&client, Options { suite, ..options }, Seed::from_bytes([8; 32]));
        pipe.server = Server::new(&server, options, Seed::from_bytes([9; 32]));
        pipe.client.prepare(1).unwrap();
        pipe.run()
    };
    run(Suite::Aes).unwrap();
    let error = error_of(run(Suite::ChaCha));
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.message().contains("expected AES, got ChaCha"), "{error}");
}

fn error_of<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error,
    }
}

#[test]
fn a_spent_bundle_is_refused_by_both_sides_before_any_online_byte() {
    let (_, client, server) = models();
    let input = vec![0; client.inputs()];
    let mut pipe = Pipe::new(&client, &server, usize::MAX, 7);
    pipe.client.prepare(2).unwrap();
    pipe.run().unwrap();
    let first = pipe.client.bundles()[0];
    pipe.infer(&input).unwrap();
    // The client refuses, sends nothing, and goes on.
    let before = pipe.client.meter().phase(Phase::Infer);
    assert_eq!(error_of(pipe.client.infer(first, &input)).kind(), ErrorKind::BundleSpent);
    assert_eq!(pipe.client.meter().phase(Phase::Infer), before);
    assert_eq!(pipe.client.bundles().len(), 1);
    pipe.infer(&input).unwrap();

    // A client that asks all the same is refused by the server: its only answer is the error, and the session is over.
    let bytes = (input.len() * client.word_bits()[0] as usize).div_ceil(8);
    let mut message = crate::wire::frame::header(crate::wire::frame::FrameKind::Infer, 24 + bytes).unwrap().to_vec();
    message.extend_from_slice(&first.to_bytes());
    message.extend(vec![0; bytes]);
    let mut answer = vec![0; 4096];
    let progress = pipe.server.advance(&message, &mut answer).unwrap();
    assert_eq!((progress.consumed, answer[0]), (message.len(), 0));
    assert!(String::from_utf8_lossy(&answer[9..progress.produced]).contains("used, erased or unknown"));
    let error = error_of(pipe.server.advance(&[], &mut []));
    assert_eq!(error.kind(), ErrorKind::BundleSpent);
    // And the client whose connection carries that answer learns why.
    pipe.client.prepare(1).unwrap();
    pipe.down.extend_from_slice(&answer[..progress.produced]);
    let error = loop {
        if let Err(error) = turn(&mut pipe.client, &mut pipe.down, &mut pipe.up, usize::MAX) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::BundleSpent);
}

#[test]
fn a_cut_connection_erases_every_bundle_on_both_sides() {
    let (_, client, server) = models();
    let input = vec![3; client.inputs()];
    let mut pipe = Pipe::new(&client, &server, 1000, 8);
    pipe.client.prepare(3).unwrap();
    pipe.run().unwrap();
    let bundles = pipe.client.bundles();
    // Cut in the middle of an inference.
    pipe.client.infer(bundles[0], &input).unwrap();
    for _ in 0..3 {
        pipe.step().unwrap();
    }
    pipe.client.input_ended();
    pipe.server.input_ended();
    assert!(pipe.client.bundles().is_empty());
    assert!(pipe.client.output().is_none());
    for bundle in &bundles {
        assert_eq!(error_of(pipe.client.infer(*bundle, &input)).kind(), ErrorKind::Aborted);
    }
    assert_eq!(error_of(pipe.client.prepare(1)).kind(), ErrorKind::Aborted);
    assert_eq!(error_of(pipe.server.advance(&[], &mut [0; 64])).kind(), ErrorKind::Aborted);

    // A new session knows none of them, even with the client's own seed again.
    let mut again = Pipe::new(&client, &server, 1 << 20, 8);
    again.server = Server::new(&server, Options::default(), Seed::from_bytes([99; 32]));
    again.client.prepare(1).unwrap();
    again.run().unwrap();
    for bundle in bundles {
        assert_eq!(error_of(again.client.infer(bundle, &input)).kind(), ErrorKind::BundleSpent);
    }
    again.infer(&input).unwrap();
}

/// A source of randomness that repeats itself at one party does not make it use a mask twice: nonces of the other enter.
#[test]
fn a_repeated_seed_repeats_no_mask() {
    let (_, client, server) = models();
    let masks = |mine: u8, theirs: u8| {
        let mut pipe = Pipe::new(&client, &server, usize::MAX, 0);
        pipe.client = Client::new(&client, Options::default(), Seed::from_bytes([mine; 32]));
        pipe.server = Server::new(&server, Options::default(), Seed::from_bytes([theirs; 32]));
        pipe.trace();
        pipe.client.prepare(1).unwrap();
        pipe.run().unwrap();
        // r of the input, and m of the first layer, which is W · r + s.
        pipe.client.masks()[..2].to_vec()
    };
    let (first, other_server, other_client) = (masks(1, 2), masks(1, 3), masks(4, 2));
    assert_eq!(first, masks(1, 2));
    let equal = |a: &[u32], b: &[u32]| a.iter().zip(b).filter(|(a, b)| a == b).count();
    assert!(equal(&first[0], &other_server[0]) < 3, "the client's masks");
    // The server's s is m - W · r: with the same client seed and a bound generator everything differs.
    assert!(equal(&first[1], &other_server[1]) < first[1].len() / 4, "the outputs' masks");
    assert!(equal(&first[0], &other_client[0]) < 3);
}

#[test]
fn inputs_that_do_not_fit_cost_nothing() {
    let (_, client, server) = models();
    let mut pipe = Pipe::new(&client, &server, usize::MAX, 10);
    pipe.client.prepare(1).unwrap();
    pipe.run().unwrap();
    let bundle = pipe.client.bundles()[0];
    let short = error_of(pipe.client.infer(bundle, &[0; 3]));
    assert_eq!(short.message(), "input: expected 112 values (2x8x7), got 3");
    let mut outside = vec![0; 112];
    outside[5] = 65;
    let error = error_of(pipe.client.infer(bundle, &outside));
    assert_eq!(error.message(), "input value 5: expected -1 to 1, got one outside that range");
    assert!(client.encode(&[f32::NAN; 112]).is_err());
    assert_eq!(client.encode(&[0.5; 112]).unwrap()[0], 32);
    assert_eq!(pipe.client.bundles(), [bundle]);
    assert!(pipe.client.infer(BundleId::from_bytes([0; 24]), &[0; 112]).is_err());
    pipe.infer(&[0; 112]).unwrap();
}

#[test]
fn a_server_holds_no_more_bundles_than_it_was_told() {
    let (_, client, server) = models();
    let mut pipe = Pipe::new(&client, &server, usize::MAX, 11);
    pipe.client.prepare(65).unwrap();
    let error = loop {
        if let Err(error) = pipe.step() {
            break error;
        }
    };
    assert!(error.message().contains("at most 64 prepared inferences"), "{error}");

    // Once connected, the client knows the limit, and asking for too much costs nothing.
    let mut pipe = Pipe::new(&client, &server, usize::MAX, 12);
    pipe.client.prepare(1).unwrap();
    pipe.run().unwrap();
    assert_eq!(error_of(pipe.client.prepare(64)).kind(), ErrorKind::InvalidArgument);
    pipe.infer(&[0; 112]).unwrap();
    // And a client that asks all the same is refused by the server.
    let mut message = crate::wire::frame::header(crate::wire::frame::FrameKind::Prepare, 4).unwrap().to_vec();
    message.extend_from_slice(&65u32.to_le_bytes());
    pipe.server.advance(&message, &mut [0; 4096]).unwrap();
    assert!(error_of(pipe.server.advance(&[], &mut [])).message().contains("at most 64 prepared inferences"));
}

#[test]
fn another_version_another_model_and_strangers_are_told_so() {
    let (file, client, server) = models();
    let mut other = ModelFile::read(&file.server_bytes().unwrap()).unwrap();
    other.architecture.name = "other".into();
    let other = ClientModel::new(other.architecture).unwrap();
    let mut pipe = Pipe::new(&other, &server, usize::MAX, 12);
    pipe.client.prepare(1).unwrap();
    let server_error = loop {
        match pipe.step() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(server_error.kind(), ErrorKind::Mismatch);
    assert!(server_error.message().contains("model id: expected"), "{server_error}");

    let opening = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut hello = Client::new(&client, Options::default(), Seed::from_bytes([1; 32]));
        hello.prepare(1).unwrap();
        let mut bytes = vec![0; 1000];
        let produced = hello.advance(&[], &mut bytes).unwrap().produced;
        bytes.truncate(produced);
        change(&mut bytes);
        let mut server = Server::new(&server, Options::default(), Seed::from_bytes([2; 32]));
        let mut answer = vec![0; 1000];
        let _ = server.advance(&bytes, &mut answer).unwrap();
        error_of(server.advance(&[], &mut []))
    };
    let version = opening(&|bytes| bytes[16] = 99);
    assert_eq!(version.message(), "protocol version: expected 3, got 99");
    assert!(opening(&|bytes| bytes[8] = b'X').message().contains("something else"));
    assert!(opening(&|bytes| bytes[18] = 9).message().contains("parameter set: expected 1, got 9"));
    assert!(opening(&|bytes| bytes[19] = 3).message().contains("or 1 for the silent one, got 3"));
    assert!(opening(&|bytes| bytes[20] = 3).message().contains("expected 1 for AES or 2 for ChaCha, got 3"));
    assert!(opening(&|bytes| bytes[21] = 1).message().contains("expected 2 or 3, got 1"));
    let portions = opening(&|bytes| bytes[23] = 9);
    assert_eq!(portions.kind(), ErrorKind::Mismatch);
    assert!(
        portions.message().contains("elements extended together: expected a multiple of 128 up to 65536, got 296960")
    );
}

/// Whatever a peer sends instead of the truth, a party ends with an error or goes on; it neither panics nor takes more
/// memory than the message it expects.
#[test]
fn damaged_messages_end_in_errors() {
    let (_, client, server) = models();
    let input = vec![1; client.inputs()];
    let mut prg = Prg::new(&Seed::from_bytes([13; 32]));
    let mut failures = 0;
    for round in 0..300 {
        let mut pipe = Pipe::new(&client, &server, usize::MAX, 14);
        let mut at = prg.below(if round % 2 == 0 { 2_000 } else { 400_000 }) as usize;
        let (to_server, kind) = (prg.below(2) == 0, prg.below(3));
        // Two inferences in a stream, or one that is prepared.
        let (stream, mut started) = (round % 3 == 0, false);
        if stream {
            pipe.client.stream(&input).unwrap();
        } else {
            pipe.client.prepare(1).unwrap();
        }
        for _ in 0..2000 {
            let Ok(status) = turn(&mut pipe.client, &mut pipe.down, &mut pipe.up, 1 << 16) else {
                failures += 1;
                break;
            };
            if status == Status::Idle && pipe.up.is_empty() {
                if core::mem::replace(&mut started, true) {
                    break;
                }
                if stream {
                    pipe.client.stream(&input).unwrap();
                } else {
                    pipe.client.infer(pipe.client.bundles()[0], &input).unwrap();
                }
            }
            damage(&mut pipe.up, to_server, &mut at, kind, &mut prg);
            if turn(&mut pipe.server, &mut pipe.up, &mut pipe.down, 1 << 16).is_err() {
                failures += 1;
                break;
            }
            damage(&mut pipe.down, !to_server, &mut at, kind, &mut prg);
        }
    }
    assert!(failures > 50, "{failures}");
}

/// Once `at` bytes of a direction have gone by, flips a bit, drops a byte or inserts one.
fn damage(bytes: &mut Vec<u8>, here: bool, at: &mut usize, kind: u64, prg: &mut Prg) {
    if !here || *at == usize::MAX {
        return;
    }
    if bytes.len() <= *at {
        *at -= bytes.len();
        return;
    }
    match kind {
        0 => bytes[*at] ^= 1 << prg.below(8),
        1 => drop(bytes.remove(*at)),
        _ => bytes.insert(*at, prg.next_u32() as u8),
    }
    *at = usize::MAX;
}

/// A transport that plays back what the peer sent, then fails.
struct Broken {
    incoming: Vec<u8>,
    writes: usize,
}

impl super::Transport for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = buffer.len().min(self.incoming.len());
        buffer[..count].copy_from_slice(&self.incoming[..count]);
        self.incoming.drain(..count);
        match count {
            0 => Err(Error::new(ErrorKind::Aborted, "reset")),
            _ => Ok(count),
        }
    }

    fn write_all(&mut self, _: &[u8]) -> Result<()> {
        match self.writes.checked_sub(1) {
            Some(left) => {
                self.writes = left;
                Ok(())
            }
            None => Err(Error::new(ErrorKind::Aborted, "broken pipe")),
        }
    }
}

#[test]
fn a_failing_transport_ends_the_session_and_hides_no_error_of_its_own() {
    let (_, client, server) = models();
    let mut pipe = Pipe::new(&client, &server, usize::MAX, 16);
    pipe.client.prepare(1).unwrap();
    pipe.run().unwrap();
    let bundle = pipe.client.bundles()[0];
    pipe.client.infer(bundle, &[0; 112]).unwrap();
    let error = error_of(super::drive(&mut pipe.client, &mut Broken { incoming: vec![], writes: 9 }));
    assert_eq!(error.message(), "reset");
    assert!(pipe.client.bundles().is_empty());
    assert_eq!(error_of(pipe.client.advance(&[], &mut [0; 64])).kind(), ErrorKind::Aborted);

    // A server that finds the client's opening wrong and cannot tell it still reports what was wrong.
    let mut opening = crate::wire::frame::header(crate::wire::frame::FrameKind::ClientHello, 5).unwrap().to_vec();
    opening.extend_from_slice(b"hello");
    let mut server = Server::new(&server, Options::default(), Seed::from_bytes([3; 32]));
    let error = error_of(super::drive(&mut server, &mut Broken { incoming: opening, writes: 0 }));
    assert_eq!(error.kind(), ErrorKind::Mismatch);
}

#[test]
fn announced_lengths_are_checked_before_anything_is_stored() {
    let (_, _, server) = models();
    let mut server = Server::new(&server, Options::default(), Seed::from_bytes([15; 32]));
    let error = {
        let _ = server.advance(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], &mut [0; 1000]).unwrap();
        error_of(server.advance(&[], &mut []))
    };
    assert_eq!(error.message(), format!("client hello message: expected 0 to 164 bytes, got {}", u32::MAX));
}
