//! Random small networks that together use every operator and attribute: the integers against the file itself, as the ONNX
//! engine runs it, within what the compiler predicts; and what else the compiler promises of whole networks.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, also in its helpers")]

mod common;

use common::random::{self, Ending};
use common::*;
use prost::Message;
use safenet_compiler::{Error, OnnxRunner, Options, Samples, compile};
use safenet_core::model::Shape;
use safenet_reference::Reference;
use std::collections::BTreeMap;

/// How many random networks, and samples for each.
const NETWORKS: u64 = 240;
const SAMPLES: usize = 24;

/// What the networks use between them, each in three at least.
const FEATURES: &[&str] = &[
    "Abs",
    "Add",
    "Add by a constant",
    "Add of 2",
    "Add to a constant",
    "ArgMax",
    "ArgMax axis",
    "ArgMax keepdims",
    "AveragePool",
    "AveragePool auto_pad SAME_UPPER",
    "AveragePool auto_pad VALID",
    "AveragePool ceil_mode",
    "AveragePool count_include_pad",
    "AveragePool kernel_shape",
    "AveragePool pads",
    "AveragePool pads asymmetric",
    "AveragePool strides",
    "BatchNormalization",
    "BatchNormalization epsilon",
    "BatchNormalization momentum",
    "Cast",
    "Cast to",
    "ChannelActivation",
    "ChannelActivation of degree -1",
    "ChannelActivation of degree 0",
    "ChannelActivation of degree 1",
    "ChannelActivation of degree 2",
    "ChannelActivation of degree 3",
    "Clip",
    "Clip above",
    "Clip below",
    "Concat",
    "Concat axis",
    "Concat of 2",
    "Constant",
    "Conv",
    "Conv auto_pad SAME_LOWER",
    "Conv auto_pad SAME_UPPER",
    "Conv auto_pad VALID",
    "Conv depthwise",
    "Conv dilations",
    "Conv group",
    "Conv kernel_shape",
    "Conv pads",
    "Conv pads asymmetric",
    "Conv strides",
    "Conv without bias",
    "Div",
    "Div by a constant",
    "Dropout",
    "Flatten",
    "Flatten axis",
    "Gather",
    "Gather axis",
    "Gemm",
    "Gemm alpha",
    "Gemm beta",
    "Gemm transB",
    "Gemm without bias",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "HardSigmoid alpha",
    "HardSigmoid beta",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "LeakyRelu alpha",
    "LogSoftmax",
    "LogSoftmax axis",
    "MatMul",
    "Max",
    "MaxPool",
    "MaxPool auto_pad SAME_LOWER",
    "MaxPool auto_pad SAME_UPPER",
    "MaxPool ceil_mode",
    "MaxPool kernel_shape",
    "MaxPool pads",
    "MaxPool pads asymmetric",
    "MaxPool strides",
    "Min",
    "Mul",
    "Mul by a constant",
    "Mul of constants",
    "Mul to a constant",
    "Neg",
    "PRelu",
    "Pad",
    "Pad by an input",
    "Pad mode edge",
    "Pad pads",
    "Pad pads asymmetric",
    "ReduceMean",
    "ReduceMean axes",
    "ReduceMean keepdims",
    "Relu",
    "Reshape",
    "Reshape of constants",
    "Shape",
    "Sigmoid",
    "Slice",
    "Slice axes",
    "Slice ends",
    "Slice of axis 1",
    "Slice of axis 2",
    "Slice of axis 2 with steps",
    "Slice of axis 3",
    "Slice of axis 3 with steps",
    "Slice starts",
    "Softmax",
    "Softmax axis",
    "Split",
    "Split axis",
    "Split num_outputs",
    "Split of axis 1",
    "Split of axis 2",
    "Split of axis 3",
    "Split split",
    "Squeeze",
    "Squeeze by an input",
    "Sub",
    "Sub by a constant",
    "Sub of 2",
    "Sub to a constant",
    "Sum",
    "Sum of 2",
    "Sum of 3",
    "Transpose",
    "Transpose perm",
    "Unsqueeze",
    "Unsqueeze by an input",
];

fn samples([channels, height, width]: [usize; 3], count: usize, r: &mut Random) -> Samples {
    let shape = Shape { channels: channels as u32, height: height as u32, width: width as u32 };
    Samples::new(shape, r.reals(count * shape.elements(), 1.0), None).unwrap()
}

/// A sample with the elements where the file has them.
fn as_the_file_takes_it(network: &random::Network, sample: &[f32]) -> Vec<f32> {
    if !network.channels_last {
        return sample.to_vec();
    }
    let plane = network.input[1] * network.input[2];
    (0..sample.len()).map(|e| sample[e % network.input[0] * plane + e / network.input[0]]).collect()
}

/// What the client makes of the scores, and by how much that can be further apart than the scores are.
fn left_to_client(ending: Ending, scores: &[f64]) -> (Vec<f64>, f64) {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|x| (x - largest).exp()).sum();
    let each = |f: &dyn Fn(f64) -> f64| scores.iter().map(|&x| f(x)).collect();
    match ending {
        Ending::None | Ending::ArgMax => (scores.to_vec(), 1.0),
        Ending::Softmax => (each(&|x| (x - largest).exp() / sum), 1.0),
        Ending::LogSoftmax => (each(&|x| x - largest - sum.ln()), 2.0),
        Ending::Sigmoid => (each(&|x| 1.0 / (1.0 + (-x).exp())), 0.25),
    }
}

fn rms(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), x| (sum + x * x, count + 1.0));
    f64::sqrt(sum / count)
}

/// What became of a network.
enum Outcome {
    /// No integers were found that fit it.
    Refused(String),
    /// The error of its scores against their size, root mean square each; none if it answers with classes.
    Compared(Option<f64>),
}

/// Compiles a network and compares it with its file on every sample.
fn compared(number: u64, network: &random::Network, r: &mut Random) -> Outcome {
    let samples = samples(network.input, SAMPLES, r);
    let compiled = compile(&network.model.encode_to_vec(), &samples, &Options::default(), &mut |_| {});
    let compiled = match compiled {
        Ok(compiled) => compiled,
        Err(Error::Network(reason)) => return Outcome::Refused(reason),
        Err(e) => panic!("network {number}: {e}"),
    };
    let report = &compiled.report;
    let bound = report.output.error_bound;
    let original = OnnxRunner::new(&network.scores.encode_to_vec()).unwrap_or_else(|e| panic!("network {number}: {e}"));
    let reference = Reference::new(&compiled.model).unwrap();
    let (mut errors, mut sizes) = (Vec::new(), Vec::new());
    for sample in samples.iter() {
        let scores = original.run(&as_the_file_takes_it(network, sample)).unwrap();
        let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
        let (answer, overflow) = reference.run_nominal_output(&reference.quantise(sample).unwrap()).unwrap();
        assert!(overflow.is_none(), "network {number}: {overflow:?}\n{report}");
        // What 32-bit reals lose.
        let roundings = 1e-5 * scores.iter().fold(1.0f64, |size, x| size.max(x.abs()));
        if network.ending == Ending::ArgMax {
            let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
            let class = answer[0] as usize;
            assert!(
                scores[best] - scores[class] <= 2.0 * (bound + roundings),
                "network {number}: class {class} of scores {scores:?}\n{report}"
            );
            continue;
        }
        let got: Vec<f64> = reference.scores(&answer).unwrap().into_iter().map(f64::from).collect();
        let (got, spread) = left_to_client(network.ending, &got);
        let (expected, _) = left_to_client(network.ending, &scores);
        assert_eq!(expected.len(), got.len());
        for (expected, got) in expected.iter().zip(&got) {
            let error = (expected - got).abs();
            assert!(error <= spread * bound + roundings, "network {number}: {error} of {expected}\n{report}");
        }
        errors.extend(reference.scores(&answer).unwrap().iter().zip(&scores).map(|(&got, x)| f64::from(got) - x));
        sizes.extend(scores);
    }
    Outcome::Compared((network.ending != Ending::ArgMax).then(|| rms(errors.into_iter()) / rms(sizes.into_iter())))
}

#[test]
fn private_answers_are_those_of_the_file() {
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    let (mut errors, mut refused) = (Vec::new(), Vec::new());
    for number in 0..NETWORKS {
        // Xorshift wants seeds of many bits.
        let mut r = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let network = random::network(&mut r);
        for feature in random::features(&network.model) {
            *used.entry(feature).or_default() += 1;
        }
        match compared(number, &network, &mut r) {
            Outcome::Refused(reason) => refused.push((number, reason)),
            Outcome::Compared(error) => errors.extend(error.map(|error| (error, number))),
        }
    }
    for &feature in FEATURES {
        assert!(used.get(feature).is_some_and(|&count| count >= 3), "{feature} in {:?} networks", used.get(feature));
    }
    errors.sort_by(|a, b| a.0.total_cmp(&b.0));
    println!("{used:#?}\n{errors:?}\n{refused:#?}");
    // Scales that cannot agree, of sums and of channels that hardly move.
    assert!(refused.len() <= 3, "{refused:#?}");
    let (median, _) = errors[errors.len() / 2];
    assert!(median < 0.005, "{median}");
    // Where a linear layer joins channels of very different scales, their weights leave it few bits.
    let (most, _) = errors[errors.len() * 95 / 100];
    assert!(most < 0.1, "{most}");
    let (worst, number) = errors[errors.len() - 1];
    assert!(worst < 0.6, "network {number}: {worst}");
}

#[test]
fn folding_is_exact() {
    // 1x1 convolution with batch normalisation whose numbers are powers of two: folding must not round at all.
    let mut g = Graph::new(&[2, 2, 2]);
    g.add("Conv", vec![floats("", &[2, 2, 1, 1], &[1.0, -0.5, 0.25, 2.0]), floats("", &[2], &[0.5, 0.0])], vec![]);
    let bn = vec![
        floats("", &[2], &[2.0, 4.0]),
        floats("", &[2], &[0.125, -1.0]),
        floats("", &[2], &[0.5, 0.25]),
        floats("", &[2], &[3.0, 15.0]),
    ];
    g.add("BatchNormalization", bn, vec![float("epsilon", 1.0)]);
    let shape = Shape { channels: 2, height: 2, width: 2 };
    let x = [0.5, 0.25, 0.75, 1.0, 0.0, 0.125, 1.0, 0.5];
    let samples = Samples::new(shape, x.to_vec(), None).unwrap();
    let compiled = compile(&g.bytes(), &samples, &Options::default(), &mut |_| {}).unwrap();
    let expected = OnnxRunner::new(&g.bytes()).unwrap().run(&x).unwrap();
    assert_eq!(compiled.float.run(&x).unwrap(), expected);
}

#[test]
fn small_leading_coefficients_are_evaluated_or_warned_of() {
    // A nearly linear square, a cubic without a cubic term, and a constant planned as a square.
    let mut g = Graph::new(&[3, 1, 1]);
    let eye = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    g.add("Conv", vec![floats("", &[3, 3, 1, 1], &eye)], vec![]);
    let c = |values: [f32; 3]| floats("", &[3, 1, 1], &values);
    let constants = vec![
        integers("", &[3, 1, 1], &[2, 3, 2]),
        c([0.25, 0.5, 0.75]),
        c([1.0, -0.5, 0.0]),
        c([1e-7, 0.5, 0.0]),
        c([0.0, 0.0, 0.0]),
    ];
    g.add("ChannelActivation", constants, vec![]);
    g.add("Flatten", vec![], vec![]);
    g.add("Gemm", vec![floats("", &[3, 3], &eye)], vec![]);
    let samples = samples([3, 1, 1], 48, &mut Random(9));
    let compiled = compile(&g.bytes(), &samples, &Options::default(), &mut |_| {}).unwrap();
    assert!(compiled.report.output.max_error < 0.03, "{}", compiled.report);
    assert_eq!(compiled.report.output.overflows, 0);
}

#[test]
fn options_and_samples_are_checked() {
    let mut g = Graph::new(&[1, 2, 2]);
    g.add("Relu", vec![], vec![]);
    let onnx = g.model.clone().encode_to_vec();
    let shape = Shape { channels: 1, height: 2, width: 2 };
    let samples = Samples::new(shape, vec![0.5; 4], None).unwrap();
    let text = |samples: &Samples, options: &Options| {
        compile(&g.bytes(), samples, options, &mut |_| {}).err().unwrap().to_string()
    };
    assert!(
        text(&samples, &Options { margin: 0.5, ..Default::default() }).contains("margin: expected 1 to 1024, got 0.5")
    );
    assert!(
        text(&samples, &Options { relu_width: 17, ..Default::default() })
            .contains("ReLU width: expected 6 to 16, got 17")
    );
    let narrow = Options { input_range: Some([0.0, 0.25]), ..Default::default() };
    assert!(text(&samples, &narrow).contains("expected values within the given input range 0 to 0.25, got 0.5 to 0.5"));
    let other = Samples::new(Shape { channels: 4, height: 1, width: 1 }, vec![0.5; 4], None).unwrap();
    assert!(
        text(&other, &Options::default()).contains("expected samples of the network's input shape 1x2x2, got 4x1x1")
    );
    let text = compile(&onnx, &samples, &Options::default(), &mut |_| {}).err().unwrap().to_string();
    assert!(text.contains("expected one input and one output, got 1 and 0"), "{text}");
    assert!(compile(&g.bytes(), &samples, &Options::default(), &mut |_| {}).is_ok());
}

/// The models that come with the project, where they are there: the integers lose at most 0.3 points of accuracy, and the
/// roundings move scores by little against the gaps between them.
#[test]
fn the_digits_keep_their_accuracy() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let read = |name: &str| std::fs::read(folder.join(name));
    let (Ok(calibration), Ok(test)) = (read("mnist-calibration.npz"), read("mnist-test.npz")) else { return };
    let (calibration, test) = (Samples::from_npz(&calibration).unwrap(), Samples::from_npz(&test).unwrap());
    for name in ["mnist-relu.onnx", "mnist-mixed.onnx"] {
        let Ok(onnx) = read(name) else { continue };
        let compiled = compile(&onnx, &calibration, &Options::default(), &mut |_| {}).unwrap();
        let output = compiled.compare(&test, test.count(), 100).unwrap();
        println!("{}{output}", compiled.report);
        let accuracy = output.accuracy.unwrap();
        assert!((accuracy.float - accuracy.integer).abs() <= 0.003, "{output}");
        assert_eq!(output.overflows, 0, "{output}");
        assert!(output.max_half_width < 0.05 * output.median_gap, "{output}");
    }
}
