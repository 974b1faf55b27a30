//! The command as its users run it: a server and a client in processes of their own, on small random networks.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use safenet_core::model::{
    Activation, Architecture, Calibration, Channel, ChannelSecret, Convolution, Kind, ModelFile, Node, NodeSecret, Op,
    Output as Answer, Parameters, Pool, Shape,
};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const SIDE: usize = 8;

/// A folder of a test's own, with a model and pictures in it.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("pictures")).unwrap();
        let model = network();
        fs::write(path.join("net.safenet"), &*model.server_bytes().unwrap()).unwrap();
        fs::write(path.join("net.public"), model.public_bytes().unwrap()).unwrap();
        let mut random = Random(7);
        for index in 0..3 {
            let mut picture = format!("P5\n{SIDE} {SIDE}\n255\n").into_bytes();
            picture.extend((0..SIDE * SIDE).map(|_| random.below(256) as u8));
            fs::write(path.join(format!("pictures/{index:02}-{}.pgm", index % 2)), picture).unwrap();
        }
        let flat: Vec<u8> = (0..SIDE * SIDE).flat_map(|i| (i as f32 / 64.0).to_le_bytes()).collect();
        fs::write(path.join("ramp.f32"), flat).unwrap();
        Self(path)
    }

    fn safenet(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_safenet")).args(args).current_dir(&self.0).output().unwrap()
    }

    /// Runs a command that must succeed; what it prints.
    fn good(&self, args: &[&str]) -> String {
        let output = self.safenet(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail; what it complains of.
    fn bad(&self, args: &[&str]) -> String {
        let output = self.safenet(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// A deterministic source for models and pictures (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn weights(&mut self, count: usize) -> Vec<i16> {
        (0..count).map(|_| self.below(41) as i16 - 20).collect()
    }
}

/// Convolution, activations of every kind, pooling, dense layer: small, but with everything in it.
fn network() -> ModelFile {
    let mut random = Random(1);
    let channel = |kind, bound_bits, shift, back_shift| Channel { kind, bound_bits, shift, back_shift };
    let node = |name: &str, input, op| Node { name: name.into(), inputs: vec![input], op };
    let conv = |out_channels, kernel, padding| {
        Op::Convolution(Convolution { padding, ..Convolution::new(out_channels, kernel) })
    };
    let mixed = vec![
        channel(Kind::Relu, 17, 4, 0),
        channel(Kind::Linear, 18, 4, 0),
        channel(Kind::Square { secret_sign: true }, 18, 7, 7),
        channel(Kind::Cubic, 18, 8, 16),
        channel(Kind::Zero, 0, 0, 0),
    ];
    ModelFile {
        architecture: Architecture {
            name: "small".into(),
            input: Shape { channels: 1, height: SIDE as u32, width: SIDE as u32 },
            input_fraction_bits: 8,
            input_range: [0, 256],
            nodes: vec![
                node("conv", 0, conv(5, [3, 3], [1; 4])),
                node("mixed", 1, Op::Activation(Activation { fraction_bits: 8, channels: mixed })),
                node("pool", 2, Op::SumPool(Pool::new([2, 2], [2, 2]))),
                node("flat", 3, Op::Flatten),
                node("dense", 4, conv(4, [1, 1], [0; 4])),
                node(
                    "scores",
                    5,
                    Op::Activation(Activation { fraction_bits: 6, channels: vec![channel(Kind::Linear, 30, 8, 0); 4] }),
                ),
            ],
            output: Answer::Scores,
        },
        parameters: Some(Parameters {
            calibration: Calibration::default(),
            scales: vec![],
            nodes: vec![
                NodeSecret::Convolution { weights: random.weights(5 * 9), bias: vec![100, -200, 0, 50, 0] },
                NodeSecret::Activation(vec![
                    ChannelSecret::default(),
                    ChannelSecret::default(),
                    ChannelSecret { offset: 9, negative: true, ..Default::default() },
                    ChannelSecret { offset: -3, lambda: 12345, ..Default::default() },
                    ChannelSecret { offset: 77, ..Default::default() },
                ]),
                NodeSecret::None,
                NodeSecret::None,
                NodeSecret::Convolution { weights: random.weights(4 * 5 * 16), bias: vec![1, 2, 3, 4] },
                NodeSecret::Activation(vec![ChannelSecret::default(); 4]),
            ],
        }),
    }
}

/// A server that is ended with the test.
struct Serving {
    child: Child,
    lines: BufReader<ChildStdout>,
    address: String,
}

impl Serving {
    fn start(folder: &Folder, extra: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_safenet"))
            .args(["serve", "net.safenet", "--port", "0"])
            .args(extra)
            .current_dir(&folder.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut serving = Self { lines: BufReader::new(child.stdout.take().unwrap()), child, address: String::new() };
        let line = serving.line();
        serving.address = line.strip_prefix("listening on ").unwrap().to_owned();
        serving
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn private_results_match_the_reference() {
    let folder = Folder::new("results");
    let mut server = Serving::start(&folder, &[]);
    // The silent extension's refills would count to the inferences before which they are due.
    let args = ["infer", &server.address, "--model", "net.public", "pictures", "--prepare", "2", "--json", "--ot", "4"];
    let results = folder.good(&args);
    assert!(server.line().contains("done"));
    let records: Vec<Value> = results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 3);
    for record in &records {
        assert_eq!(record["outputs"].as_array().unwrap().len(), 4);
        assert_eq!(record["scores"].as_array().unwrap().len(), 4);
        assert_eq!(record["rounds_prepare"], 1);
    }
    // What it cost is what the architecture foretells.
    let forecast: Value =
        serde_json::from_str(&folder.good(&["inspect", "net.public", "--json", "--ot", "4"])).unwrap();
    let total = |phase: &str| {
        let way = |way: &str| forecast["total"][format!("{phase}_bytes_{way}")].as_u64().unwrap();
        way("up") + way("down")
    };
    assert_eq!(records[2]["prepare_bytes"].as_u64().unwrap(), total("prepare"));
    assert_eq!(records[2]["online_bytes"].as_u64().unwrap(), total("online"));
    assert_eq!(records[2]["rounds_online"], forecast["rounds_online"]);

    fs::write(folder.0.join("results.json"), &results).unwrap();
    let args = ["verify", "net.safenet", "--results", "results.json", "--plan", "mixed"];
    let verified = folder.good(&args);
    let last = verified.lines().last().unwrap();
    assert!(last.starts_with("demo mixed: 3/3 private results match the integer reference, accuracy "), "{last}");
    let keys = [" prepare_ms=", " online_ms=", " prepare_bytes=", " online_bytes=", " rounds="];
    assert!(keys.iter().all(|key| last.contains(key)), "{last}");

    // Labels from a file, images from another place.
    fs::rename(folder.0.join("pictures"), folder.0.join("moved")).unwrap();
    let class = |i: usize| records[i]["class"].as_u64().unwrap();
    let labels = format!("# file, label\n00-0.pgm {}\n01-1.pgm {} 5\n02-0.pgm {}\n", class(0), class(1), class(2) + 1);
    fs::write(folder.0.join("labels.txt"), labels).unwrap();
    let moved = [&args[..], &["--images", "moved", "--labels", "labels.txt"]].concat();
    assert!(folder.good(&moved).lines().last().unwrap().contains("accuracy 2/3,"));

    // A changed result does not match.
    let mut wrong = records.clone();
    wrong[1]["outputs"][2] = (wrong[1]["outputs"][2].as_i64().unwrap() + 100_000).into();
    let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    fs::write(folder.0.join("results.json"), wrong.join("\n")).unwrap();
    let output = folder.safenet(&moved);
    assert!(!output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("01-1.pgm: output 2: expected"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("demo mixed: 2/3 "), "{text}");
}

#[test]
fn a_server_survives_bad_clients() {
    let folder = Folder::new("bad-clients");
    let mut server = Serving::start(&folder, &["--timeout", "2"]);
    TcpStream::connect(&server.address).unwrap().write_all(&[0xff; 5000]).unwrap();
    assert!(server.line().contains("failed"));
    drop(TcpStream::connect(&server.address).unwrap());
    assert!(server.line().contains("failed"));
    // One that says nothing is given up.
    let silent = TcpStream::connect(&server.address).unwrap();
    assert!(server.line().contains("did nothing for too long"));
    drop(silent);
    // One of another model is told so.
    let mut other = network();
    other.architecture.name = "other".into();
    fs::write(folder.0.join("other.public"), other.public_bytes().unwrap()).unwrap();
    let error = folder.bad(&["infer", &server.address, "--model", "other.public", "ramp.f32"]);
    assert!(error.contains("model id"), "{error}");
    assert!(server.line().contains("model id"));

    let answer = folder.good(&["infer", &server.address, "--model", "net.public", "ramp.f32"]);
    assert!(answer.contains("ramp.f32: class "), "{answer}");
    assert!(server.line().contains("done"));
}

/// A peer whose session has failed may still read why, but does not hold the server by sending on, a byte at a time.
#[test]
fn a_slow_sender_is_not_waited_for() {
    let folder = Folder::new("slow-sender");
    let mut server = Serving::start(&folder, &["--once"]);
    let mut client = TcpStream::connect(&server.address).unwrap();
    client.write_all(&[0xff; 8]).unwrap();
    assert!(server.line().contains("failed"));
    let start = Instant::now();
    while server.child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(30), "the server waits on");
        let _ = client.write_all(&[0]);
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn once_ends_with_its_session() {
    let folder = Folder::new("once");
    let mut server = Serving::start(&folder, &["--once"]);
    folder.good(&["infer", &server.address, "--model", "net.public", "ramp.f32"]);
    assert!(server.child.wait().unwrap().success());
    let mut server = Serving::start(&folder, &["--once"]);
    drop(TcpStream::connect(&server.address).unwrap());
    assert!(!server.child.wait().unwrap().success());
    let mut rest = String::new();
    server.lines.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("failed"), "{rest}");
}

#[test]
fn measurements_are_complete_and_right() {
    let folder = Folder::new("bench");
    let text = folder.good(&["bench", "net.safenet", "--images", "pictures", "--runs", "2", "--batch", "2", "--json"]);
    let bench: Value = serde_json::from_str(&text).unwrap();
    let keys = [
        "prepare_s",
        "online_s",
        "prepare_bytes_up",
        "prepare_bytes_down",
        "online_bytes_up",
        "online_bytes_down",
        "rounds_prepare",
        "rounds_online",
        "client_peak_heap",
        "server_peak_heap",
        "max_ulp",
        "setup_s",
        "setup_bytes_up",
        "setup_bytes_down",
        "runs",
    ];
    for key in keys {
        assert!(bench[key].is_number(), "{key}: {text}");
    }
    assert_eq!(bench["matches"], true);
    assert_eq!(bench["model"], "net");
    let layers = bench["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 7);
    // The layers add up to the whole, but for the rounding of each when divided by the batch.
    for key in ["prepare_bytes_up", "prepare_bytes_down", "online_bytes_up", "online_bytes_down"] {
        let sum: i64 = layers.iter().map(|l| l[key].as_i64().unwrap()).sum();
        assert!((bench[key].as_i64().unwrap() - sum).abs() <= layers.len() as i64, "{key}: {text}");
    }
    let rounds: i64 = layers.iter().map(|l| l["rounds_online"].as_i64().unwrap()).sum();
    assert_eq!(bench["rounds_online"].as_i64().unwrap(), rounds, "{text}");
    assert!(layers.iter().any(|l| l["server_online_s"].as_f64().unwrap() > 0.0));

    let text = folder.good(&["bench", "net.safenet", "--runs", "1", "--ot", "8"]);
    assert!(text.contains("peak heap") && text.contains("random, seed"), "{text}");
    assert!(text.contains("1 thread at each party"), "{text}");
    assert!(folder.bad(&["bench", "net.public"]).contains("expected the server's model file"));
}

#[test]
fn parties_compute_with_as_many_threads_as_they_are_told() {
    let folder = Folder::new("threads");
    let server = Serving::start(&folder, &["--threads", "2"]);
    let args = ["infer", &server.address, "--model", "net.public", "pictures", "--json", "--threads", "3"];
    fs::write(folder.0.join("results.json"), folder.good(&args)).unwrap();
    folder.good(&["verify", "net.safenet", "--results", "results.json", "--plan", "mixed"]);
    for more in [&["--batch", "2"][..], &["--clients", "2"]] {
        let args = [&["bench", "net.safenet", "--runs", "1", "--threads", "2", "--json"], more].concat();
        let bench: Value = serde_json::from_str(&folder.good(&args)).unwrap();
        assert_eq!((bench["threads"].as_u64(), bench["matches"].as_bool()), (Some(2), Some(true)));
    }
    folder.good(&["debug", "net.safenet", "pictures", "--threads", "2", "--summary"]);
    for count in ["0", "257", "-1", "many"] {
        assert!(folder.bad(&["bench", "net.safenet", &format!("--threads={count}")]).contains("--threads"));
    }
}

#[test]
fn a_simulated_network_takes_its_time() {
    let folder = Folder::new("network");
    let args = ["bench", "net.safenet", "--runs", "1", "--json", "--network", "broadband", "--rtt-ms", "30"];
    let bench: Value = serde_json::from_str(&folder.good(&args)).unwrap();
    assert_eq!((bench["network"]["rtt_ms"].as_f64(), bench["network"]["mbit"].as_f64()), (Some(30.0), Some(100.0)));
    for phase in ["prepare", "online"] {
        let [seconds, alone] = ["s", "network_s"].map(|key| bench[format!("{phase}_{key}")].as_f64().unwrap());
        let rounds = bench[format!("rounds_{phase}")].as_f64().unwrap();
        // What overlaps costs the network nothing: of that there is little here.
        assert!(seconds >= 0.030 * rounds && alone >= 0.030 * rounds, "{phase}: {bench}");
    }
    assert!(folder.bad(&["bench", "net.safenet", "--rtt-ms", "20000"]).contains("expected 0 to 10000"));
    assert!(folder.bad(&["bench", "net.safenet", "--mbit", "0"]).contains("expected 0.01 to 1000000"));
}

#[test]
fn throughput_is_that_of_all_clients() {
    let folder = Folder::new("clients");
    let args = ["bench", "net.safenet", "--clients", "3", "--runs", "2", "--batch", "2", "--json", "--simd", "base"];
    let bench: Value = serde_json::from_str(&folder.good(&args)).unwrap();
    assert_eq!((bench["clients"].as_u64(), bench["matches"].as_bool()), (Some(3), Some(true)));
    assert_eq!(bench["simd"], "base");
    for phase in ["prepare", "online"] {
        let [rate, median, slowest] = ["per_s", "p50_s", "p95_s"].map(|key| bench[phase][key].as_f64().unwrap());
        assert!(rate > 0.0 && 0.0 < median && median <= slowest, "{bench}");
    }
    assert!(folder.good(&args[..4]).contains("within the integer reference's intervals"));
}

#[test]
fn round_trips_are_chosen_by_the_line_to_the_server() {
    let folder = Folder::new("round-trips");
    let server = Serving::start(&folder, &["--poll", "0"]);
    let infer = |mbit: &str| {
        let args = ["infer", &server.address, "--model", "net.public", "ramp.f32", "--json", "--round-trips", "auto"];
        let output = folder.safenet(&[&args[..], &["--mbit", mbit]].concat());
        assert!(output.status.success(), "{output:?}");
        let record: Value = serde_json::from_slice(&output.stdout).unwrap();
        (record["rounds_online"].as_u64().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let [(quick, two), (slow, three)] = ["1000000", "0.01"].map(infer);
    assert!(two.contains("ReLUs in 2 round trips: 2 would save 1 round trip of"), "{two}");
    assert!(three.contains("ReLUs in 3 round trips: 2 would save 1 round trip of"), "{three}");
    assert_eq!(quick + 1, slow);
    let bench = |rtt: &str| {
        let line = ["--rtt-ms", rtt, "--mbit", "100", "--round-trips", "auto"];
        let text = folder.good(&[&["bench", "net.safenet", "--runs", "1", "--json"][..], &line].concat());
        serde_json::from_str::<Value>(&text).unwrap()["relu_round_trips"].as_u64().unwrap()
    };
    assert_eq!([bench("5"), bench("0.01")], [2, 3]);
    assert!(folder.bad(&["inspect", "net.public", "--round-trips", "auto"]).contains("expected 2 or 3 here"));
    assert!(folder.bad(&["inspect", "net.public", "--round-trips", "4"]).contains("2 or 3"));
}

#[test]
fn single_operations_are_measured() {
    let folder = Folder::new("operations");
    let text = folder.good(&["bench", "--operations=linear,dense", "--runs", "1", "--json"]);
    let bench: Value = serde_json::from_str(&text).unwrap();
    let rows = bench["operations"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["linear-16", "dense-512-1000"]);
    assert_eq!((rows[0]["elements"].as_u64(), rows[1]["elements"].as_u64()), (Some(65536), None));
    assert!(rows.iter().all(|row| row["prepare_bytes"].as_u64().unwrap() > 0), "{text}");
    // Neither input nor answer counts, of which the dense layer's network has nothing else online.
    assert_eq!((rows[0]["rounds_online"].as_u64(), rows[1]["online_bytes"].as_u64()), (Some(1), Some(0)));
    assert!(folder.bad(&["bench", "--operations=nothing"]).contains("conv-3x3-64-64-32"));
    assert!(folder.bad(&["bench"]).contains("MODEL"));
}

#[test]
fn models_are_shown() {
    let folder = Folder::new("inspect");
    let text = folder.good(&["inspect", "net.safenet", "--images", "pictures", "ramp.f32"]);
    assert!(text.contains("over 4 inputs"), "{text}");
    assert!(text.contains("1 cubic, 1 linear, 1 relu, 1 square, 1 zero"), "{text}");
    let json: Value = serde_json::from_str(&folder.good(&["inspect", "net.safenet", "--json"])).unwrap();
    assert!(json["layers"][0]["noise_bits"].as_u64() <= json["layers"][0]["noise_budget_bits"].as_u64());
    let seen: Value =
        serde_json::from_str(&folder.good(&["inspect", "net.safenet", "--json", "--images", "pictures"])).unwrap();
    let interval = |report: &Value| report["rounding"]["interval_ulp"].as_i64().unwrap();
    assert!(0 < interval(&seen) && interval(&seen) <= interval(&json), "{seen} {json}");
    let text = folder.good(&["inspect", "net.public"]);
    assert!(!text.contains("noise"), "{text}");
    assert!(folder.bad(&["inspect", "ramp.f32"]).contains("magic"));
    assert!(folder.bad(&["inspect", "nothing"]).contains("nothing: cannot open"));
}

#[test]
fn the_reference_runs_in_the_clear() {
    let folder = Folder::new("reference");
    let text = folder.good(&["reference", "net.safenet", "pictures", "--json"]);
    assert_eq!(text.lines().count(), 3);
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        for i in 0..4 {
            let [low, value, high] = ["low", "outputs", "high"].map(|key| line[key][i].as_i64().unwrap());
            assert!(low <= value && value <= high, "{line}");
        }
    }
    assert!(folder.good(&["reference", "net.safenet", "ramp.f32"]).contains("ramp.f32: class "));
    assert!(folder.bad(&["reference", "net.safenet", "net.public"]).contains("expected a file named .pgm"));
}

/// Just enough of the protocol buffers that an ONNX file consists of.
mod onnx {
    fn varint(mut value: u64) -> Vec<u8> {
        let mut out = vec![];
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }

    fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
        let value = value.as_ref();
        [&varint(field << 3 | 2)[..], &varint(value.len() as u64), value].concat()
    }

    fn node(op: &str, inputs: &[&str], output: &str, attribute: &[u8]) -> Vec<u8> {
        let inputs: Vec<u8> = inputs.iter().flat_map(|name| bytes(1, name)).collect();
        bytes(1, [inputs, bytes(2, output), bytes(3, output), bytes(4, op), attribute.to_vec()].concat())
    }

    fn tensor(name: &str, dims: &[u64], values: impl Iterator<Item = f32>) -> Vec<u8> {
        let dims: Vec<u8> = dims.iter().flat_map(|&d| number(1, d)).collect();
        let raw: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        bytes(5, [dims, number(2, 1), bytes(8, name), bytes(9, raw)].concat())
    }

    fn value(field: u64, name: &str, dims: &[u64]) -> Vec<u8> {
        let dims: Vec<u8> = dims.iter().flat_map(|&d| bytes(1, number(1, d))).collect();
        let kind = bytes(1, [number(1, 1), bytes(2, dims)].concat());
        bytes(field, [bytes(1, name), bytes(2, kind)].concat())
    }

    /// x (1, inputs) -> dense, ReLU, dense -> (1, 3).
    pub(crate) fn perceptron(inputs: u64, mut weight: impl FnMut() -> f32) -> Vec<u8> {
        let transposed = bytes(5, [bytes(1, "transB"), number(3, 1), number(20, 2)].concat());
        let mut weights = |name, dims: [u64; 2]| {
            let values: Vec<f32> = (0..dims[0] * dims[1]).map(|_| weight()).collect();
            tensor(name, &dims, values.into_iter())
        };
        let graph = [
            node("Gemm", &["x", "w1"], "hidden", &transposed),
            node("Relu", &["hidden"], "positive", &[]),
            node("Gemm", &["positive", "w2"], "scores", &transposed),
            bytes(2, "perceptron"),
            weights("w1", [8, inputs]),
            weights("w2", [3, 8]),
            value(11, "x", &[1, inputs]),
            value(12, "scores", &[1, 3]),
        ];
        let opset = [bytes(1, ""), number(2, 15)].concat();
        [number(1, 8), bytes(8, opset), bytes(7, graph.concat())].concat()
    }
}

/// Calibration samples with labels, as NumPy stores them.
fn samples(path: &Path, count: usize, inputs: usize, random: &mut Random) {
    let array = |kind: &str, shape: String, data: Vec<u8>| {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.bytes().chain(data));
        bytes
    };
    let image = (0..count * inputs).map(|_| random.below(256) as u8).collect();
    let label = (0..count).map(|_| random.below(3) as u8).collect();
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, bytes) in [
        ("image.npy", array("|u1", format!("({count}, {inputs})"), image)),
        ("label.npy", array("|u1", format!("({count},)"), label)),
    ] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap();
}

#[test]
fn a_trained_network_is_compiled_and_measured() {
    let folder = Folder::new("compile");
    let mut random = Random(3);
    let network = onnx::perceptron(20, || random.below(2001) as f32 / 1000.0 - 1.0);
    fs::write(folder.0.join("trained.onnx"), network).unwrap();
    samples(&folder.0.join("samples.npz"), 40, 20, &mut random);
    let args = ["compile", "trained.onnx", "--calibration", "samples.npz", "-o", "out.safenet"];
    let text = folder.good(&[&args[..], &["--report", "report.json"]].concat());
    assert!(text.contains("out.public"), "{text}");
    let report: Value = serde_json::from_slice(&fs::read(folder.0.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["layers"].as_array().unwrap().len(), 4);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(folder.0.join("out.safenet")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "the weights are their owner's: {mode:o}");
    }
    let accuracy: Value =
        serde_json::from_str(&folder.good(&["accuracy", "out.safenet", "samples.npz", "--json"])).unwrap();
    assert_eq!((accuracy["total"].as_u64(), accuracy["overflows"].as_u64()), (Some(40), Some(0)));
    let bench: Value = serde_json::from_str(&folder.good(&[
        "bench",
        "out.safenet",
        "--images",
        "samples.npz",
        "--runs",
        "2",
        "--json",
    ]))
    .unwrap();
    assert_eq!(bench["matches"], true);

    assert!(folder.bad(&["compile", "ramp.f32", "--calibration", "samples.npz", "-o", "x.safenet"]).contains("ONNX"));
    let error = folder.bad(&["compile", "trained.onnx", "--calibration", "ramp.f32", "-o", "x.safenet"]);
    assert!(error.contains("ramp.f32") && error.contains(".npz"), "{error}");
    assert!(folder.bad(&[&args[..5], &["x.public"]].concat()).contains("does not end in .public"));
    assert!(!folder.0.join("x.safenet").exists());
}
