//! Random small networks that together use every operator and attribute: the compiler's reading and folding against an
//! evaluation of the ONNX graph itself, and the integers against the compiler's own prediction of their error.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, also in its helpers")]

mod common;

use common::*;
use proptest::prelude::*;
use prost::Message;
use safenet_compiler::{Compiled, Options, Samples, compile};
use safenet_core::model::{ModelFile, Shape};
use safenet_reference::Reference;

fn normalisation(g: &mut Graph, r: &mut Random) {
    let c = g.shape[0];
    let constants = vec![
        floats("", &[c], &(0..c).map(|_| r.real(0.5, 1.5)).collect::<Vec<_>>()),
        floats("", &[c], &r.reals(c, 0.5)),
        floats("", &[c], &r.reals(c, 0.5)),
        floats("", &[c], &(0..c).map(|_| r.real(0.3, 2.0)).collect::<Vec<_>>()),
    ];
    g.add("BatchNormalization", constants, vec![float("epsilon", 1e-3)]);
}

fn activation(g: &mut Graph, r: &mut Random) {
    if r.below(3) == 0 {
        g.add("Relu", vec![], vec![]);
        return;
    }
    let c = g.shape[0];
    let degrees: Vec<i64> = (0..c).map(|_| r.below(5) as i64 - 1).collect();
    let dims = if g.shape.len() == 1 { vec![c] } else { vec![c, 1, 1] };
    let mut constants = vec![integers("", &dims, &degrees)];
    for k in 0..4 {
        let size = [0.3, 0.8, 0.4, 0.15][k as usize];
        // Leading coefficients away from 0, as the planner keeps them.
        let one = |degree: i64, r: &mut Random| match degree {
            d if d < k => 0.0,
            d if d == k => (if r.flip() { size } else { -size }) * r.real(0.6, 1.0),
            _ => r.real(-size, size),
        };
        let c: Vec<f32> = degrees.iter().map(|&d| one(d, r)).collect();
        constants.push(floats("", &dims, &c));
    }
    g.add("ChannelActivation", constants, vec![]);
}

fn convolution(g: &mut Graph, r: &mut Random, unpadded: bool) {
    let (c, h, w) = (g.shape[0], g.shape[1], g.shape[2]);
    let out = 1 + r.below(5) as usize;
    let kernel = [1 + r.below(3.min(h as u64)) as usize, 1 + r.below(3.min(w as u64)) as usize];
    let stride = [1 + r.below(2) as usize, 1 + r.below(2) as usize];
    let fan_in = c * kernel[0] * kernel[1];
    let mut constants =
        vec![floats("", &[out, c, kernel[0], kernel[1]], &r.reals(out * fan_in, 1.5 / (fan_in as f32).sqrt()))];
    if r.flip() {
        constants.push(floats("", &[out], &r.reals(out, 0.5)));
    }
    let mut attributes = vec![ints("strides", &[stride[0] as i64, stride[1] as i64])];
    let size = |i: usize, before: usize, after: usize| ([h, w][i] + before + after - kernel[i]) / stride[i] + 1;
    let choice = if unpadded { 0 } else { r.below(4) };
    g.shape = match choice {
        0 => {
            attributes.push(string("auto_pad", "VALID"));
            vec![out, size(0, 0, 0), size(1, 0, 0)]
        }
        1 => {
            attributes.push(string("auto_pad", "SAME_UPPER"));
            vec![out, h.div_ceil(stride[0]), w.div_ceil(stride[1])]
        }
        2 => {
            attributes.push(string("auto_pad", "SAME_LOWER"));
            vec![out, h.div_ceil(stride[0]), w.div_ceil(stride[1])]
        }
        _ => {
            let p = [(); 4].map(|()| r.below(3) as usize);
            attributes.push(ints("pads", &p.map(|p| p as i64)));
            vec![out, size(0, p[0], p[2]), size(1, p[1], p[3])]
        }
    };
    g.add("Conv", constants, attributes);
}

fn pool(g: &mut Graph, r: &mut Random) {
    let (h, w) = (g.shape[1], g.shape[2]);
    let kernel = [(1 + r.below(3) as usize).min(h), (1 + r.below(3) as usize).min(w)];
    let stride = [1 + r.below(2) as usize, 1 + r.below(2) as usize];
    let mut attributes =
        vec![ints("kernel_shape", &kernel.map(|k| k as i64)), ints("strides", &stride.map(|s| s as i64))];
    let mut p = [0usize; 4];
    if r.below(4) == 0 {
        p = [0, 1, 1, 0].map(|p| p * r.below(2) as usize);
        attributes.push(ints("pads", &p.map(|p| p as i64)));
        attributes.push(int("count_include_pad", 1));
    }
    let size = |i: usize| ([h, w][i] + p[i] + p[i + 2] - kernel[i]) / stride[i] + 1;
    g.shape = vec![g.shape[0], size(0), size(1)];
    g.add("AveragePool", vec![], attributes);
}

fn dense(g: &mut Graph, r: &mut Random) {
    let (inputs, out) = (g.shape[0], 2 + r.below(5) as usize);
    let size = 1.5 / (inputs as f32).sqrt();
    let weights = r.reals(inputs * out, size);
    let bias = floats("", &[out], &r.reals(out, 0.5));
    match r.below(3) {
        0 => {
            g.add("MatMul", vec![floats("", &[inputs, out], &weights)], vec![]);
            g.add("Add", vec![bias], vec![]);
        }
        1 => {
            let attributes = vec![int("transB", 1), float("alpha", 0.5), float("beta", 2.0)];
            g.add("Gemm", vec![floats("", &[out, inputs], &weights), bias], attributes);
        }
        _ => {
            g.add("Gemm", vec![floats("", &[inputs, out], &weights)], vec![]);
        }
    }
    g.shape = vec![out];
}

fn network(r: &mut Random) -> Graph {
    let shape = [1 + r.below(3) as usize, 5 + r.below(4) as usize, 5 + r.below(4) as usize];
    let mut g = Graph::new(&shape);
    let normalised = r.flip();
    if normalised {
        let c = shape[0];
        g.add("Sub", vec![floats("", &[c, 1, 1], &r.reals(c, 0.5))], vec![]);
        g.add("Div", vec![floats("", &[1], &[r.real(0.3, 1.0)])], vec![]);
    }
    for layer in 0..1 + r.below(2) {
        convolution(&mut g, r, layer == 0 && normalised);
        if r.flip() {
            normalisation(&mut g, r);
        }
        match r.below(6) {
            // Averages before the activation, and no activation at all, are allowed too.
            0 => pool(&mut g, r),
            1 => continue,
            _ => {}
        }
        activation(&mut g, r);
        if r.flip() {
            pool(&mut g, r);
        }
        g.add("Dropout", vec![floats("", &[], &[0.5])], vec![]);
    }
    let elements: usize = g.shape.iter().product();
    match r.below(3) {
        0 => {
            g.add("GlobalAveragePool", vec![], vec![]);
            g.add("Flatten", vec![], vec![int("axis", 1)]);
            g.shape = vec![g.shape[0]];
        }
        1 => {
            g.add("Reshape", vec![integers("", &[2], &[-1, elements as i64])], vec![]);
            g.shape = vec![elements];
        }
        _ => {
            g.add("Flatten", vec![], vec![]);
            g.shape = vec![elements];
        }
    }
    g.add("Identity", vec![], vec![]);
    dense(&mut g, r);
    if r.flip() {
        normalisation(&mut g, r);
    }
    if r.flip() {
        activation(&mut g, r);
        dense(&mut g, r);
    }
    g
}

fn samples(shape: Shape, r: &mut Random) -> Samples {
    Samples::new(shape, (0..48 * shape.elements()).map(|_| r.real(0.0, 1.0)).collect(), None).unwrap()
}

fn compiled(seed: u64) -> (Graph, Shape, Samples, safenet_compiler::Result<Compiled>) {
    let mut r = Random(seed | 1);
    let g = network(&mut r);
    let input = &g.model.graph.as_ref().unwrap().input[0].r#type.as_ref().unwrap().tensor_type.as_ref().unwrap();
    let dims: Vec<u32> = input.shape.as_ref().unwrap().dim[1..].iter().map(|d| d.dim_value as u32).collect();
    let shape = Shape { channels: dims[0], height: dims[1], width: dims[2] };
    let samples = samples(shape, &mut r);
    let compiled = compile(&g.bytes(), &samples, &Options::default(), &mut |_| {});
    (g, shape, samples, compiled)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn integers_follow_the_network(seed: u64) {
        let (g, shape, samples, compiled) = compiled(seed);
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(e) => return Err(TestCaseError::fail(e.to_string())),
        };
        let model = g.finish();
        let dims = [shape.channels as usize, shape.height as usize, shape.width as usize];
        for sample in samples.iter().take(4) {
            let expected = interpret(&model, &dims, sample);
            let got = compiled.float.run(sample).unwrap();
            prop_assert_eq!(expected.len(), got.len());
            let size = expected.iter().fold(1.0, |a: f64, x| a.max(x.abs()));
            for (e, g) in expected.iter().zip(&got) {
                prop_assert!((e - f64::from(*g)).abs() < 1e-4 * size, "float: expected {} got {}", e, g);
            }
        }
        let report = &compiled.report;
        prop_assert_eq!(report.output.overflows, 0, "{}", report);
        prop_assert!(report.warnings.is_empty(), "{}", report);
        let mut idle = false;
        for layer in &report.layers {
            if let Some(a) = &layer.activation {
                // ReLUs that are never positive leave nothing to compare, and what comes after them is constant.
                idle |= a.rms < 50.0 || a.snr_db < -100.0;
                // The model gives a variance; the few weights of these networks scatter about it.
                prop_assert!(idle || a.snr_db > a.predicted_snr_db - 15.0, "{}", report);
                // Less than the margin of 2 only where worst cases in real numbers say that no more is possible.
                prop_assert!(a.headroom > 1.0, "{}", report);
            }
        }
        let last = report.layers.last().and_then(|l| l.activation.as_ref()).unwrap();
        // Scores that hardly depend on the input are lost in any fixed point, as predicted.
        prop_assert!(idle || last.predicted_snr_db < 40.0 || last.snr_db > 30.0, "{}", report);
        // The file holds the model, and the reference can be made of what is read back.
        let bytes = compiled.model.server_bytes().unwrap();
        let reference = Reference::new(&ModelFile::read(&bytes).unwrap()).unwrap();
        for sample in samples.iter().take(2) {
            let trace = reference.run(&reference.quantise(sample).unwrap()).unwrap();
            prop_assert_eq!(trace.contains(&trace.nominal_answer()).unwrap(), None);
            // The scores in real numbers lie near the interval: what is left is the weights' rounding.
            let exact = compiled.float.run(sample).unwrap();
            let unit = f64::from(1u32 << reference.architecture().output_fraction_bits());
            let allowed = 12.0 * (report.output.rms_error + 1.0 / unit);
            for (e, x) in exact.iter().enumerate() {
                let (low, high) = (trace.output().low[e] as f64 / unit, trace.output().high[e] as f64 / unit);
                prop_assert!(f64::from(*x) > low - allowed && f64::from(*x) < high + allowed, "{}", report);
            }
        }
    }
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
    let expected: Vec<f32> = interpret(&g.finish(), &[2, 2, 2], &x).iter().map(|&v| v as f32).collect();
    assert_eq!(compiled.float.run(&x).unwrap(), expected);
}

#[test]
fn normalisation_before_a_linear_layer_is_folded_forward() {
    let mut r = Random(5);
    let mut g = Graph::new(&[3, 4, 4]);
    g.shape = vec![3];
    normalisation(&mut g, &mut r);
    g.add("AveragePool", vec![], vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])]);
    g.add("Flatten", vec![], vec![]);
    g.shape = vec![12];
    normalisation(&mut g, &mut r);
    dense(&mut g, &mut r);
    let shape = Shape { channels: 3, height: 4, width: 4 };
    let samples = samples(shape, &mut r);
    let compiled = compile(&g.bytes(), &samples, &Options::default(), &mut |_| {}).unwrap();
    let sample = samples.iter().next().unwrap();
    let expected = interpret(&g.finish(), &[3, 4, 4], sample);
    for (e, got) in expected.iter().zip(compiled.float.run(sample).unwrap()) {
        assert!((e - f64::from(got)).abs() < 1e-5);
    }
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
    let shape = Shape { channels: 3, height: 1, width: 1 };
    let samples = samples(shape, &mut Random(9));
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
