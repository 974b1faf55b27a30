//! Networks that cannot be compiled, and files that are no networks: clear errors, never a panic.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, also in its helpers")]

mod common;

use common::*;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use prost::Message;
use safenet_compiler::onnx::proto::*;
use safenet_compiler::{Error, Options, Samples, compile};
use safenet_core::model::Shape;

fn samples(shape: [u32; 3]) -> Samples {
    let shape = Shape { channels: shape[0], height: shape[1], width: shape[2] };
    let data = (0..4 * shape.elements()).map(|i| (i % 7) as f32 / 7.0).collect();
    Samples::new(shape, data, None).unwrap()
}

fn error(bytes: &[u8]) -> Error {
    match compile(bytes, &samples([1, 4, 4]), &Options::default(), &mut |_| {}) {
        Ok(_) => panic!("expected an error"),
        Err(e) => e,
    }
}

fn convolution(g: &mut Graph, attribute: Vec<AttributeProto>) {
    g.add("Conv", vec![floats("", &[1, 1, 3, 3], &[0.1; 9])], attribute);
}

fn valid() -> Graph {
    let mut g = Graph::new(&[1, 4, 4]);
    convolution(&mut g, vec![]);
    g.add("Relu", vec![], vec![]);
    g.add("Flatten", vec![], vec![]);
    g.add("Gemm", vec![floats("", &[4, 2], &[0.5; 8])], vec![]);
    g
}

#[test]
fn every_unsupported_node_is_named_at_once() {
    let mut g = Graph::new(&[1, 4, 4]);
    convolution(&mut g, vec![]);
    g.add("Sigmoid", vec![], vec![]);
    // A product of two computed values, as in squeeze-and-excite.
    let product = |g: &mut Graph, op: &str| {
        let output = format!("{}-of-two", op.to_lowercase());
        let input = vec![g.last.clone(), "conv0".into()];
        let node = NodeProto { input, output: vec![output.clone()], op_type: op.into(), ..Default::default() };
        g.graph().node.push(node);
        g.last = output;
    };
    product(&mut g, "Mul");
    g.add("Tanh", vec![], vec![]);
    g.add("MaxPool", vec![], vec![ints("kernel_shape", &[2, 2]), ints("dilations", &[2, 2])]);
    g.add("AveragePool", vec![], vec![ints("kernel_shape", &[2, 2]), int("novelty", 1)]);
    g.add("BatchNormalization", vec![], vec![int("training_mode", 1)]);
    g.add("Gemm", vec![], vec![int("transA", 1)]);
    g.add("Relu", vec![], vec![]);
    g.add("Frobnicate", vec![], vec![]);
    product(&mut g, "Max");
    g.add("LSTM", vec![], vec![]);
    g.add("Softmax", vec![], vec![]);
    // What the output does not depend on does not matter.
    let unused = NodeProto { output: vec!["unused".into()], op_type: "NonZero".into(), ..Default::default() };
    g.graph().node.push(unused);
    let Error::Unsupported(nodes) = error(&g.bytes()) else { panic!() };
    let text = Error::Unsupported(nodes.clone()).to_string();
    assert_eq!(nodes.len(), 10, "{text}");
    for expected in [
        "10 nodes are unsupported",
        "sigmoid1 (Sigmoid): no private form of this operator but at the very end",
        "making mul-of-two (Mul): 2 computed inputs; scale by constants",
        "tanh3 (Tanh): no private form of this activation; use Relu",
        "maxpool4 (MaxPool): dilations = 2, 2; use pooling without dilation",
        "averagepool5 (AveragePool): unknown attribute novelty",
        "batchnormalization6 (BatchNormalization): training_mode = 1; export the network in evaluation mode",
        "gemm7 (Gemm): transA = 1",
        "frobnicate9 (Frobnicate): unknown operator",
        "making max-of-two (Max): 2 computed inputs; use Add or Concat",
        "lstm11 (LSTM): no private form of recurrence",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn what_depends_on_shapes_is_named_too() {
    let text = |op: &str, constants: Vec<TensorProto>, attributes: Vec<AttributeProto>| {
        let mut g = Graph::new(&[2, 4, 4]);
        g.add(op, constants, attributes);
        g.add("Relu", vec![], vec![]);
        let text = error(&g.bytes()).to_string();
        assert!(text.contains(&format!("{}0 ({op})", op.to_lowercase())), "expected the node's name, got {text:?}");
        text
    };
    for (got, expected) in [
        (
            text("Conv", vec![floats("", &[3, 2, 1, 1], &[0.1; 6])], vec![int("group", 2)]),
            "group: expected a number that divides 2 input and 3 output channels, got 2",
        ),
        (
            text("Conv", vec![floats("", &[3, 2, 1], &[0.1; 6])], vec![]),
            "a convolution over 1 axes; use convolutions over two axes",
        ),
        (
            text("MaxPool", vec![], vec![ints("kernel_shape", &[2, 2]), ints("pads", &[2, 0, 0, 0])]),
            "pads: expected less than the window of [2, 2], got [2, 0, 0, 0]",
        ),
        (
            text("AveragePool", vec![], vec![ints("kernel_shape", &[9, 2])]),
            "expected a kernel of 1 to the padded size of the image, 4, got one that reaches over 9",
        ),
        (text("Flatten", vec![], vec![int("axis", 2)]), "axis = 2; keep the batch as the first dimension"),
        (text("ReduceMean", vec![], vec![ints("axes", &[1])]), "a mean over the axes [1]; average over the height"),
        (text("Transpose", vec![], vec![ints("perm", &[1, 0, 2, 3])]), "a permutation [1, 0, 2, 3]"),
        (text("Concat", vec![], vec![int("axis", 2)]), "a Concat along axis 2"),
        (text("Pad", vec![integers("", &[8], &[0, 1, 0, 0, 0, 0, 0, 0])], vec![]), "padding of axis 1"),
        (text("Pad", vec![integers("", &[8], &[0; 8])], vec![string("mode", "reflect")]), "mode = reflect"),
        (text("Clip", vec![floats("", &[], &[1.0]), floats("", &[], &[0.0])], vec![]), "got 1 and 0"),
        (text("Reshape", vec![integers("", &[2], &[2, 16])], vec![]), "a change of the batch, to [2, 16]"),
        (text("Reshape", vec![integers("", &[2], &[1, 33])], vec![]), "expected a shape of 32 elements"),
        (
            text("Slice", vec![integers("", &[1], &[3]), integers("", &[1], &[1]), integers("", &[1], &[1])], vec![]),
            "expected a slice of at least one place of 2",
        ),
        (text("Div", vec![floats("", &[1], &[0.0])], vec![]), "expected a divisor of at least 1e-18, got 0"),
        (text("Relu", vec![], vec![float("alpha", 0.5)]), "unknown attribute alpha"),
        (text("LeakyRelu", vec![], vec![int("alpha", 1)]), "alpha: expected an attribute of type 1, got type 2"),
    ] {
        assert!(got.contains(expected), "expected {expected:?}, got {got:?}");
    }
}

#[test]
fn contradictions_are_named() {
    let text = |change: &dyn Fn(&mut ModelProto)| {
        let mut model = valid().finish();
        change(&mut model);
        error(&model.encode_to_vec()).to_string()
    };
    let graph = |change: fn(&mut GraphProto)| text(&|m: &mut ModelProto| change(m.graph.as_mut().unwrap()));
    for (got, expected) in [
        (text(&|m| m.graph = None), "expected a graph, got none"),
        (text(&|m| m.opset_import.clear()), "expected operator set 7 or later, got 0"),
        (
            text(&|m| {
                m.functions[0].node.last_mut().unwrap().input.swap(1, 2);
            }),
            "got a body that gives",
        ),
        (
            text(&|m| {
                m.functions[0].node.last_mut().unwrap().op_type = "If".into();
            }),
            "expected element-wise operators in the body, got If",
        ),
        (graph(|g| g.initializer[0].dims[0] = 1 << 40), "conv0 (Conv): weights: constant conv0.0: expected"),
        (graph(|g| g.initializer[0].dims[0] = -1), "expected positive dimensions, got -1"),
        (graph(|g| g.initializer[0].dims = vec![i64::MAX; 4]), "too many elements"),
        (graph(|g| g.initializer[0].data_location = 1), "save the model as one file"),
        (graph(|g| g.initializer[0].data_type = 10), "expected elements of float or double, got type 10"),
        (graph(|g| g.initializer[0].float_data[0] = f32::NAN), "expected finite numbers"),
        (
            graph(|g| g.node[0].attribute.push(ints("strides", &[0, 1]))),
            "strides: expected two positive numbers, got [0, 1]",
        ),
        (
            graph(|g| g.node[0].attribute.push(ints("pads", &[i64::from(u32::MAX); 4]))),
            "node conv0 (Conv): pads: expected four numbers of 0 to 67108864, got [4294967295",
        ),
        (
            graph(|g| g.node[0].attribute.push(ints("pads", &[1 << 26; 4]))),
            "node conv0 (Conv): expected a tensor of 1 to",
        ),
        (
            graph(|g| {
                let dimension = DimensionProto { dim_value: 1 << 62, ..Default::default() };
                let shape = Some(TensorShapeProto {
                    dim: vec![DimensionProto::default(), dimension.clone(), dimension.clone(), dimension],
                });
                g.input[0].r#type = Some(TypeProto { tensor_type: Some(TensorTypeProto { elem_type: 1, shape }) });
            }),
            "input image: expected a tensor of 1 to",
        ),
        (graph(|g| g.node[3].input[0] = "conv0".into()), "gemm3 (Gemm): expected a flat input"),
        (graph(|g| g.node[0].input[0] = "flatten2".into()), "expected a graph without cycles"),
        (graph(|g| g.node[0].input[0] = "nowhere".into()), "value nowhere: expected a node that makes it, got none"),
        (graph(|g| g.node[1].output[0] = "conv0".into()), "value conv0: expected one node that makes it, got two"),
    ] {
        assert!(got.contains(expected), "expected {expected:?}, got {got:?}");
    }
    assert!(error(b"not a network at all").to_string().contains("expected an ONNX model, got damaged data"));
    assert!(error(b"").to_string().contains("expected a graph, got none"));
}

#[test]
fn planned_activations_are_checked() {
    // Degrees and coefficients that contradict each other.
    let planned = |degree: i64, c3: f32| {
        let mut g = Graph::new(&[1, 4, 4]);
        convolution(&mut g, vec![]);
        let c = |value: f32| floats("", &[1, 1, 1], &[value]);
        let constants = vec![integers("", &[1, 1, 1], &[degree]), c(0.0), c(1.0), c(0.0), c(c3)];
        g.add("ChannelActivation", constants, vec![]);
        error(&g.bytes()).to_string()
    };
    assert!(planned(2, 1.0).contains("channel 0: expected coefficients of 0 above degree 2"));
    assert!(planned(4, 1.0).contains("channel 0: expected a degree of -1 (ReLU) to 3, got 4"));
}

/// Any outcome but a panic.
fn survives(bytes: &[u8]) {
    let _ = compile(bytes, &samples([1, 4, 4]), &Options { compared_samples: 2, ..Options::default() }, &mut |_| {});
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survives(&bytes);
    }

    #[test]
    fn damaged_files_do_not_panic(
        cut in 0.0f64..1.3, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = valid().bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate((cut * bytes.len() as f64) as usize);
        survives(&bytes);
    }

    #[test]
    fn absurd_numbers_do_not_panic(
        dims in prop::collection::vec(prop_oneof![Just(0i64), Just(1), Just(4), any::<i64>(), Just(1 << 26)], 0..5),
        which in 0usize..2, attribute in prop::collection::vec(prop_oneof![-2i64..5, any::<i64>(), Just(1 << 25)], 0..5),
        name in prop::sample::select(vec!["strides", "pads", "kernel_shape", "dilations", "axis", "group"]),
        node in 0usize..4, size in prop_oneof![Just(1e30f32), Just(1e-30), Just(0.0), Just(1e17), Just(-1.0)],
    ) {
        let mut model = valid().finish();
        let graph = model.graph.as_mut().unwrap();
        if attribute.len() % 2 == 0 {
            graph.initializer[which].dims = dims.clone();
        }
        if attribute.len() % 3 == 0 {
            let dim = dims.iter().map(|&dim_value| DimensionProto { dim_value, ..Default::default() }).collect();
            let tensor_type = Some(TensorTypeProto { elem_type: 1, shape: Some(TensorShapeProto { dim }) });
            graph.input[0].r#type = Some(TypeProto { tensor_type });
        }
        let i = attribute.first().copied().unwrap_or(0);
        graph.initializer[which].float_data.iter_mut().for_each(|w| *w *= size);
        graph.node[node].attribute.push(AttributeProto { i, ..ints(name, &attribute) });
        survives(&model.encode_to_vec());
    }

    #[test]
    fn damaged_samples_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut zip = b"PK\x03\x04".to_vec();
        zip.extend(bytes);
        prop_assert!(Samples::from_npz(&zip).is_err());
    }
}
