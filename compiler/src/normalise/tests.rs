//! Random graphs that together use every operator and attribute: the file as the engine runs it against the network in the
//! protocol's terms; and the form that single layers take.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, also in its helpers")]

use super::{normalise, sums};
use crate::engine::{FloatNetwork, OnnxRunner};
use crate::network::{Function, Network, OUTPUT, Op};
use crate::onnx::proto::*;
use crate::onnx::read;
use prost::Message;

/// Numbers from a seed (Marsaglia's xorshift, 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    fn real(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.below(1 << 16) as f32 / (1 << 16) as f32)
    }

    fn reals(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| self.real(-size, size)).collect()
    }
}

/// A value of a graph: its name, and its shape without the batch.
type Value = (String, Vec<usize>);

/// A graph under construction.
struct Graph {
    graph: GraphProto,
    input: Vec<usize>,
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: ints.to_vec(), r#type: 7, ..Default::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, r#type: 2, ..Default::default() }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f, r#type: 1, ..Default::default() }
}

fn string(name: &str, s: &str) -> AttributeProto {
    AttributeProto { name: name.into(), s: s.into(), r#type: 3, ..Default::default() }
}

impl Graph {
    fn new(shape: &[usize]) -> Self {
        let mut dim = vec![DimensionProto { dim_param: "batch".into(), ..Default::default() }];
        dim.extend(shape.iter().map(|&d| DimensionProto { dim_value: d as i64, ..Default::default() }));
        let tensor_type = Some(TensorTypeProto { elem_type: 1, shape: Some(TensorShapeProto { dim }) });
        let input = ValueInfoProto { name: "x".into(), r#type: Some(TypeProto { tensor_type }) };
        Self { graph: GraphProto { input: vec![input], ..Default::default() }, input: shape.to_vec() }
    }

    fn x(&self) -> Value {
        ("x".into(), self.input.clone())
    }

    fn floats(&mut self, dims: &[usize], values: &[f32]) -> String {
        let name = format!("c{}", self.graph.initializer.len());
        let dims = dims.iter().map(|&d| d as i64).collect();
        let tensor =
            TensorProto { name: name.clone(), dims, data_type: 1, float_data: values.to_vec(), ..Default::default() };
        self.graph.initializer.push(tensor);
        name
    }

    fn integers(&mut self, values: &[i64]) -> String {
        let name = format!("c{}", self.graph.initializer.len());
        let dims = vec![values.len() as i64];
        let tensor =
            TensorProto { name: name.clone(), dims, data_type: 7, int64_data: values.to_vec(), ..Default::default() };
        self.graph.initializer.push(tensor);
        name
    }

    fn outputs(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>, count: usize) -> Vec<String> {
        let name = format!("{}{}", op.to_lowercase(), self.graph.node.len());
        let output: Vec<String> =
            (0..count).map(|i| if i == 0 { name.clone() } else { format!("{name}.{i}") }).collect();
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&i| i.into()).collect(),
            output: output.clone(),
            name,
            op_type: op.into(),
            attribute,
            ..Default::default()
        });
        output
    }

    fn node(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        self.outputs(op, inputs, attribute, 1).remove(0)
    }

    fn bytes(&self, output: &str) -> Vec<u8> {
        let mut graph = self.graph.clone();
        graph.output = vec![ValueInfoProto { name: output.into(), r#type: None }];
        let opset = OperatorSetIdProto { domain: String::new(), version: 15 };
        ModelProto { ir_version: 8, opset_import: vec![opset], graph: Some(graph), ..Default::default() }
            .encode_to_vec()
    }

    fn convolution(&mut self, x: &Value, out: usize, kernel: usize, pad: i64) -> Value {
        self.any_convolution(x, [out, 1, kernel, kernel], [1, 1], [1, 1], [pad; 4], &mut Random(77))
    }

    /// `how`: output channels, groups, kernel.
    fn any_convolution(
        &mut self,
        (x, s): &Value,
        [out, groups, rows, columns]: [usize; 4],
        stride: [usize; 2],
        dilation: [usize; 2],
        pads: [i64; 4],
        r: &mut Random,
    ) -> Value {
        let fan_in = s[0] / groups * rows * columns;
        let weights = r.reals(out * fan_in, 1.5 / (fan_in as f32).sqrt());
        let w = self.floats(&[out, s[0] / groups, rows, columns], &weights);
        let b = self.floats(&[out], &r.reals(out, 0.5));
        let attributes = vec![
            int("group", groups as i64),
            ints("strides", &stride.map(|s| s as i64)),
            ints("dilations", &dilation.map(|s| s as i64)),
            ints("pads", &pads),
        ];
        let y = self.node("Conv", &[x, &w, &b], attributes);
        let size = |i: usize| {
            let reach = ([rows, columns][i] - 1) * dilation[i] + 1;
            (s[1 + i] + (pads[i] + pads[i + 2]) as usize - reach) / stride[i] + 1
        };
        (y, vec![out, size(0), size(1)])
    }

    /// One number per channel, as a constant that spreads over a value.
    fn per_channel(&mut self, s: &[usize], values: &[f32]) -> String {
        let mut dims = vec![1; s.len()];
        dims[0] = s[0];
        self.floats(&dims, values)
    }
}

/// A random step on a value.
fn step(g: &mut Graph, x: &Value, r: &mut Random) -> Option<Value> {
    let (name, s) = x;
    let same = |name: String| Some((name, s.clone()));
    let image = s.len() == 3;
    match r.below(24) {
        0..4 if image => {
            let kernel = [1 + r.below(3.min(s[1])), 1 + r.below(3.min(s[2]))];
            let dilation = [0, 1].map(|i| if (kernel[i] - 1) * 2 < s[1 + i] { 1 + r.below(2) } else { 1 });
            let depthwise = r.below(3) == 0;
            let out = if depthwise { s[0] * (1 + r.below(2)) } else { 1 + r.below(5) };
            let groups = if depthwise { s[0] } else { 1 };
            let pads = [(); 4].map(|()| r.below(3) as i64);
            let stride = [1 + r.below(2), 1 + r.below(2)];
            Some(g.any_convolution(x, [out, groups, kernel[0], kernel[1]], stride, dilation, pads, r))
        }
        4 => same(g.node("Relu", &[name], vec![])),
        5 => {
            let low = g.floats(&[], &[r.real(-1.0, 0.0)]);
            let high = g.floats(&[], &[r.real(0.2, 1.0)]);
            let (low, high) = match r.below(4) {
                0 => (String::new(), high),
                1 => (low, String::new()),
                2 => (g.floats(&[], &[0.0]), high),
                _ => (low, high),
            };
            same(g.node("Clip", &[name, &low, &high], vec![]))
        }
        6 => same(g.node("LeakyRelu", &[name], vec![float("alpha", r.real(-0.3, 0.5))])),
        7 => {
            let slopes = r.reals(s[0], 0.5);
            let slope = g.per_channel(s, &slopes);
            same(g.node("PRelu", &[name, &slope], vec![]))
        }
        8 => same(g.node("HardSigmoid", &[name], vec![float("alpha", r.real(0.1, 0.5)), float("beta", 0.4)])),
        9 => {
            let six = g.floats(&[], &[4.0]);
            let wide = g.node("Mul", &[name, &six], vec![]);
            same(g.node("HardSwish", &[&wide], vec![]))
        }
        10 => {
            let op = ["Add", "Sub", "Mul", "Div"][r.below(4)];
            let count = if r.flip() { s[0] } else { 1 };
            let values: Vec<f32> = (0..count).map(|_| r.real(0.4, 1.5) * if r.flip() { 1.0 } else { -1.0 }).collect();
            let c = if count == 1 { g.floats(&[1], &values) } else { g.per_channel(s, &values) };
            let swapped = op != "Div" && r.flip();
            same(if swapped { g.node(op, &[&c, name], vec![]) } else { g.node(op, &[name, &c], vec![]) })
        }
        11 => {
            let c = s[0];
            let scale: Vec<f32> = (0..c).map(|_| r.real(0.5, 1.5)).collect();
            let variance: Vec<f32> = (0..c).map(|_| r.real(0.3, 2.0)).collect();
            let (scale, variance) = (g.floats(&[c], &scale), g.floats(&[c], &variance));
            let (bias, mean) = (r.reals(c, 0.5), r.reals(c, 0.5));
            let (bias, mean) = (g.floats(&[c], &bias), g.floats(&[c], &mean));
            same(g.node("BatchNormalization", &[name, &scale, &bias, &mean, &variance], vec![float("epsilon", 1e-3)]))
        }
        12..16 if image => pool(g, x, r),
        16 if image => {
            let op = ["GlobalAveragePool", "GlobalMaxPool", "ReduceMean"][r.below(3)];
            let axes = if op == "ReduceMean" { vec![ints("axes", &[-1, 2]), int("keepdims", 1)] } else { vec![] };
            Some((g.node(op, &[name], axes), vec![s[0], 1, 1]))
        }
        17 if image => {
            let p = [(); 4].map(|()| r.below(3) as i64);
            let pads = g.integers(&[0, 0, p[0], p[1], 0, 0, p[2], p[3]]);
            let mode = ["constant", "edge"][r.below(2)];
            let y = g.node("Pad", &[name, &pads], vec![string("mode", mode)]);
            Some((y, vec![s[0], s[1] + (p[0] + p[2]) as usize, s[2] + (p[1] + p[3]) as usize]))
        }
        18 => {
            let axis = r.below(s.len());
            let start = r.below(s[axis]);
            let count = 1 + r.below(s[axis] - start);
            // Channels are taken in a row.
            let step = if axis == 0 { 1 } else { 1 + r.below(3) };
            let (starts, ends) = (g.integers(&[start as i64]), g.integers(&[(start + count) as i64]));
            let (axes, steps) = (g.integers(&[axis as i64 + 1]), g.integers(&[step as i64]));
            let y = g.node("Slice", &[name, &starts, &ends, &axes, &steps], vec![]);
            let mut shape = s.clone();
            shape[axis] = (count - 1) / step + 1;
            Some((y, shape))
        }
        19 if s[0] > 1 => {
            let first = 1 + r.below(s[0] - 1);
            let sizes = g.integers(&[first as i64, (s[0] - first) as i64]);
            let parts = g.outputs("Split", &[name, &sizes], vec![int("axis", 1)], 2);
            let order = if r.flip() { [0, 1] } else { [1, 0] };
            same(g.node("Concat", &order.map(|i| parts[i].as_str()), vec![int("axis", 1)]))
        }
        20 => same(g.node("Neg", &[name], vec![])),
        21 => {
            let op = ["Identity", "Dropout", "Abs"][r.below(3)];
            same(g.node(op, &[name], vec![]))
        }
        _ => None,
    }
}

fn pool(g: &mut Graph, (name, s): &Value, r: &mut Random) -> Option<Value> {
    let kernel = [1 + r.below(5.min(s[1])), 1 + r.below(5.min(s[2]))];
    let stride = [1 + r.below(3), 1 + r.below(3)];
    let p = [0, 1, 2, 3].map(|i| r.below(kernel[i % 2].min(3)));
    let up = r.below(3) == 0;
    let mut attributes = vec![
        ints("kernel_shape", &kernel.map(|k| k as i64)),
        ints("strides", &stride.map(|s| s as i64)),
        ints("pads", &p.map(|p| p as i64)),
        int("ceil_mode", i64::from(up)),
    ];
    let max = r.flip();
    if !max {
        // The engine divides by other numbers than ONNX where windows reach beyond the padding and the padding counts.
        attributes.push(int("count_include_pad", i64::from(!up && r.flip())));
    }
    let size = |i: usize| {
        let (room, before) = (s[1 + i] + p[i] + p[i + 2] - kernel[i], s[1 + i] + p[i]);
        let places = room / stride[i] + 1;
        if up && room % stride[i] != 0 && places * stride[i] < before { places + 1 } else { places }
    };
    let y = g.node(if max { "MaxPool" } else { "AveragePool" }, &[name], attributes);
    Some((y, vec![s[0], size(0), size(1)]))
}

/// To a vector, in one of the ways exporters write.
fn flattened(g: &mut Graph, (name, s): &Value, r: &mut Random) -> Value {
    let elements: usize = s.iter().product();
    let y = match r.below(if s.len() == 3 { 4 } else { 1 }) {
        0 => g.node("Flatten", &[name], vec![]),
        1 => {
            let shape = g.integers(&[-1, elements as i64]);
            g.node("Reshape", &[name, &shape], vec![])
        }
        2 => {
            let last = g.node("Transpose", &[name], vec![ints("perm", &[0, 2, 3, 1])]);
            g.node("Flatten", &[&last], vec![])
        }
        // x.view(x.size(0), -1) in PyTorch.
        _ => {
            let shape = g.node("Shape", &[name], vec![]);
            let zero = g.integers(&[0]);
            let batch = g.node("Gather", &[&shape, &zero], vec![int("axis", 0)]);
            let rest = g.integers(&[-1]);
            let shape = g.node("Concat", &[&batch, &rest], vec![int("axis", 0)]);
            g.node("Reshape", &[name, &shape], vec![])
        }
    };
    (y, vec![elements])
}

fn dense(g: &mut Graph, (name, s): &Value, r: &mut Random) -> Value {
    let (inputs, out) = (s[0], 1 + r.below(5));
    let values = r.reals(inputs * out, 1.5 / (inputs as f32).sqrt());
    let bias = r.reals(out, 0.5);
    let bias = g.floats(&[out], &bias);
    let y = if r.flip() {
        let w = g.floats(&[inputs, out], &values);
        let y = g.node("MatMul", &[name, &w], vec![]);
        g.node("Add", &[&bias, &y], vec![])
    } else {
        let w = g.floats(&[out, inputs], &values);
        g.node("Gemm", &[name, &w, &bias], vec![int("transB", 1), float("alpha", 0.5), float("beta", 2.0)])
    };
    (y, vec![out])
}

/// Joins two values of one shape, or two images of one size.
fn joined(g: &mut Graph, a: &Value, b: &Value, r: &mut Random) -> Option<Value> {
    if a.1 == b.1 && r.flip() {
        let op = ["Add", "Sub", "Sum"][r.below(3)];
        return Some((g.node(op, &[&a.0, &b.0], vec![]), a.1.clone()));
    }
    if a.1[1..] != b.1[1..] {
        return None;
    }
    let mut shape = a.1.clone();
    shape[0] += b.1[0];
    Some((g.node("Concat", &[&a.0, &b.0], vec![int("axis", 1)]), shape))
}

/// A random network's file and the shape of its input.
fn random(r: &mut Random) -> (Vec<u8>, Vec<usize>) {
    let shape = vec![1 + r.below(3), 4 + r.below(5), 4 + r.below(5)];
    let mut g = Graph::new(&shape);
    let mut values = vec![g.x()];
    for _ in 0..2 + r.below(7) {
        let recent = values.len() - 1 - r.below(values.len().min(2));
        let x = values[recent].clone();
        let other = values[r.below(values.len())].clone();
        let new = if r.below(3) == 0 { joined(&mut g, &x, &other, r) } else { step(&mut g, &x, r) };
        values.extend(new.filter(|(_, s)| s.iter().product::<usize>() < 3000));
    }
    let mut last = values[values.len() - 1].clone();
    if r.below(4) > 0 {
        last = flattened(&mut g, &last, r);
        // A part of a vector is refused where its channels are last.
        let whole = |y: &Value| !y.0.starts_with("slice") && !y.0.starts_with("concat");
        if let (true, Some(y)) = (r.flip(), step(&mut g, &last, r).filter(whole)) {
            last = y;
        }
        last = dense(&mut g, &last, r);
    }
    (g.bytes(&last.0), shape)
}

/// What the rest of the compiler relies on.
fn assert_normal(network: &Network) {
    let known = network.known();
    for (index, layer) in network.layers.iter().enumerate() {
        assert!(layer.inputs.iter().all(|&input| input <= index), "{network:?}");
        match layer.op {
            Op::Affine { .. } | Op::Piecewise(_) | Op::MaxPool(_) => panic!("{} is left: {network:?}", layer.name),
            Op::Linear(_) | Op::Max => assert!(layer.inputs.iter().all(|&input| known[input]), "{network:?}"),
            Op::Sum { .. } => assert!(!sums::has_unaligned(network, index), "{}: {network:?}", layer.name),
            _ => {}
        }
    }
    let last = network.layers.last().unwrap();
    assert_eq!(last.name, OUTPUT);
    assert!(matches!(&last.op, Op::Activation(f) if f.iter().all(|f| *f == Function::IDENTITY)));
}

fn normal(bytes: &[u8]) -> Network {
    let mut network = read(bytes).unwrap();
    normalise(&mut network).unwrap();
    assert_normal(&network);
    network
}

/// The largest difference between the file and the network, against the largest score.
fn difference(bytes: &[u8], network: &Network, input: &[f32]) -> f32 {
    let expected = OnnxRunner::new(bytes).unwrap().run(input).unwrap();
    let got = FloatNetwork::new(network).unwrap().run(input).unwrap();
    assert_eq!(expected.len(), got.len());
    let size = expected.iter().fold(1.0f32, |size, x| size.max(x.abs()));
    expected.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
}

#[test]
fn networks_compute_what_their_files_compute() {
    for number in 0..200u64 {
        // Xorshift wants seeds of many bits.
        let mut r = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (bytes, shape) = random(&mut r);
        let network = normal(&bytes);
        let input = r.reals(shape.iter().product(), 1.0);
        let difference = difference(&bytes, &network, &input);
        assert!(difference < 1e-4, "network {number}: {difference} in {network:?}");
    }
}

/// Layers by kind, in order.
fn kinds(network: &Network) -> Vec<&'static str> {
    let kind = |op: &Op| match op {
        Op::Linear(l) if l.is_depthwise() => "depthwise",
        Op::Linear(_) => "linear",
        Op::Average(_) => "average",
        Op::Max => "max",
        Op::Window(_) => "window",
        Op::Channels(_) => "channels",
        Op::Concat => "concat",
        Op::Flatten => "flatten",
        Op::Sum { .. } => "sum",
        Op::Activation(f) if f.iter().all(|f| *f == Function::Relu) => "relu",
        Op::Activation(f) if f.iter().all(|f| *f == Function::IDENTITY) => "identity",
        Op::Activation(_) => "polynomial",
        Op::MaxPool(_) | Op::Affine { .. } | Op::Piecewise(_) => "read",
    };
    network.layers.iter().map(|layer| kind(&layer.op)).collect()
}

/// Normalises a graph, compares it with its file, and gives it back.
fn exact(g: &Graph, output: &Value) -> Network {
    let bytes = g.bytes(&output.0);
    let network = normal(&bytes);
    let input = Random(11).reals(g.input.iter().product(), 1.0);
    let difference = difference(&bytes, &network, &input);
    assert!(difference < 1e-5, "{difference} in {network:?}");
    network
}

fn then(g: &mut Graph, x: &Value, op: &str, attributes: Vec<AttributeProto>) -> Value {
    (g.node(op, &[&x.0], attributes), x.1.clone())
}

#[test]
fn batch_normalisation_disappears() {
    let mut g = Graph::new(&[2, 4, 4]);
    let x = g.convolution(&g.x(), 3, 3, 1);
    let constants = ["1.5", "0.5", "-0.25", "2"].map(|c| g.floats(&[3], &[c.parse().unwrap(); 3]));
    let [scale, bias, mean, variance] = constants.each_ref().map(String::as_str);
    let y = g.node("BatchNormalization", &[&x.0, scale, bias, mean, variance], vec![]);
    let pooled = g.node("GlobalAveragePool", &[&y], vec![]);
    let shift = g.floats(&[3, 1, 1], &[1.0, 2.0, 3.0]);
    let y = g.node("Add", &[&shift, &pooled], vec![]);
    assert_eq!(kinds(&exact(&g, &(y, vec![3, 1, 1]))), ["linear", "average", "identity"]);
}

#[test]
fn a_shift_before_zero_padding_stays_a_layer() {
    let mut g = Graph::new(&[2, 4, 4]);
    let shift = g.floats(&[1], &[0.5]);
    let shifted = (g.node("Add", &["x", &shift], vec![]), vec![2, 4, 4]);
    let y = g.convolution(&shifted, 3, 3, 0);
    assert_eq!(kinds(&exact(&g, &y)), ["linear", "identity"]);
    let y = g.convolution(&shifted, 3, 3, 1);
    assert_eq!(kinds(&exact(&g, &y)), ["depthwise", "identity", "linear", "identity"]);
}

#[test]
fn piecewise_activations_before_a_convolution_cost_no_linear_layer() {
    for (op, expected) in [
        ("LeakyRelu", &["linear", "identity", "relu", "concat", "linear", "identity"][..]),
        (
            "HardSwish",
            &["linear", "sum", "relu", "sum", "relu", "sum", "polynomial", "concat", "linear", "identity"][..],
        ),
    ] {
        let mut g = Graph::new(&[2, 5, 5]);
        let x = g.convolution(&g.x(), 3, 3, 1);
        let x = then(&mut g, &x, op, vec![]);
        let y = g.convolution(&x, 2, 3, 1);
        assert_eq!(kinds(&exact(&g, &y)), expected, "{op}");
    }
    // A plain sum of known tensors is better as one tensor.
    let mut g = Graph::new(&[2, 5, 5]);
    let x = g.convolution(&g.x(), 3, 3, 1);
    let (low, high) = (g.floats(&[], &[0.0]), g.floats(&[], &[0.75]));
    let x = (g.node("Clip", &[&x.0, &low, &high], vec![]), x.1);
    let y = g.convolution(&x, 2, 3, 1);
    assert_eq!(kinds(&exact(&g, &y)), ["linear", "relu", "sum", "relu", "sum", "linear", "identity"]);
}

#[test]
fn a_sum_of_scales_that_cannot_agree_gets_a_linear_layer() {
    let mut g = Graph::new(&[2, 5, 5]);
    let x = g.convolution(&g.x(), 2, 3, 1);
    let x = then(&mut g, &x, "HardSwish", vec![]);
    // A grouped convolution does not take the sum's terms apart.
    let y = g.any_convolution(&x, [2, 2, 3, 3], [1, 1], [1, 1], [1; 4], &mut Random(5));
    let network = exact(&g, &y);
    assert_eq!(network.layers.iter().filter(|l| l.name.ends_with(".align0")).count(), 1, "{network:?}");
}

#[test]
fn one_rescaling_serves_all_readers() {
    let mut g = Graph::new(&[2, 5, 5]);
    let a = g.convolution(&g.x(), 2, 3, 1);
    let b = g.convolution(&a, 2, 3, 1);
    let sum = (g.node("Add", &[&a.0, &b.0], vec![]), a.1);
    let y = g.convolution(&sum, 2, 3, 1);
    let y = (g.node("Add", &[&sum.0, &y.0], vec![]), y.1);
    let network = exact(&g, &y);
    let expected = ["linear", "identity", "linear", "sum", "identity", "linear", "sum", "identity"];
    assert_eq!(kinds(&network), expected);
    assert_eq!(network.layers[1].name, format!("{}.rescale", a.0));
}

#[test]
fn padding_disappears_in_convolutions() {
    let mut g = Graph::new(&[2, 5, 5]);
    let pads = g.integers(&[0, 0, 1, 0, 0, 0, 2, 3]);
    let x = (g.node("Pad", &["x", &pads], vec![]), vec![2, 8, 8]);
    let y = g.convolution(&x, 2, 3, 1);
    let network = exact(&g, &y);
    assert_eq!(kinds(&network), ["linear", "identity"]);
    assert!(matches!(&network.layers[0].op, Op::Linear(l) if l.conv.padding == [2, 1, 3, 4]));
}

#[test]
fn maxima_compare_as_little_as_they_can() {
    // Elements that are compared, and the kernel, stride and padding.
    for (kernel, stride, pads, expected) in [
        ([2, 2], [2, 2], [0; 4], 8 * 4 + 4 * 4),
        ([3, 3], [2, 2], [1, 1, 1, 1], 2 * 8 * 4 + 2 * 4 * 4),
        // Two of each: pairs of neighbours would take one more at the end of every line.
        ([3, 3], [1, 1], [1, 1, 1, 1], 2 * 8 * 8 * 2),
        ([8, 8], [1, 1], [0; 4], 63),
        // Pairs, pairs of pairs, and two of these that overlap, for each of eight.
        ([1, 7], [1, 1], [0, 3, 0, 3], (8 + 5 + 8 + 3 + 8) * 8),
    ] {
        let mut g = Graph::new(&[1, 8, 8]);
        let x = g.convolution(&g.x(), 1, 3, 1);
        let x = then(&mut g, &x, "Relu", vec![]);
        let attributes = vec![ints("kernel_shape", &kernel), ints("strides", &stride), ints("pads", &pads)];
        let y = then(&mut g, &x, "MaxPool", attributes);
        let network = exact(&g, &y);
        let compared = network.layers.iter().filter(|l| matches!(l.op, Op::Max)).map(|l| l.shape.elements());
        assert_eq!(compared.sum::<usize>(), expected, "{kernel:?} {stride:?}");
        // The ReLUs come last, where there are fewer.
        let kinds = kinds(&network);
        assert_eq!((kinds[1], &kinds[kinds.len() - 2..]), ("identity", &["relu", "identity"][..]));
    }
}

#[test]
fn what_is_left_to_the_client_is_noted() {
    let mut g = Graph::new(&[12]);
    let shape = g.integers(&[0, 3, 2, 2]);
    let image = (g.node("Reshape", &["x", &shape], vec![]), vec![3, 2, 2]);
    let scores = g.convolution(&image, 4, 2, 0);
    let axes = g.integers(&[2, 3]);
    let flat = g.node("Squeeze", &[&scores.0, &axes], vec![]);
    let softmax = g.node("Softmax", &[&flat], vec![int("axis", -1)]);
    let class = g.node("ArgMax", &[&softmax], vec![int("axis", 1), int("keepdims", 0)]);
    let network = normal(&g.bytes(&class));
    assert_eq!(kinds(&network), ["linear", "identity"]);
    assert!(network.class_output);
    assert_eq!(network.input.to_string(), "3x2x2");
    let notes = network.notes.join("\n");
    for expected in ["the input is an image of shape 3x2x2", "softmax3 (Softmax) is left", "argmax4 (ArgMax) is left"] {
        assert!(notes.contains(expected), "{notes}");
    }
    // Channels last, as TensorFlow has them.
    let mut g = Graph::new(&[5, 4, 2]);
    let x = (g.node("Transpose", &["x"], vec![ints("perm", &[0, 3, 1, 2])]), vec![2, 5, 4]);
    let y = g.convolution(&x, 2, 3, 1);
    let network = normal(&g.bytes(&y.0));
    assert_eq!(network.input.to_string(), "2x5x4");
    assert!(network.notes[0].contains("channels first"), "{:?}", network.notes);
}

/// Engines differ here, so the numbers are ONNX's: what is beyond the padding counts in no window.
#[test]
fn averages_count_the_padding_but_not_what_is_beyond() {
    let mut g = Graph::new(&[1, 1, 4]);
    let attributes = vec![
        ints("kernel_shape", &[1, 2]),
        ints("strides", &[1, 2]),
        ints("pads", &[0, 1, 0, 0]),
        int("ceil_mode", 1),
        int("count_include_pad", 1),
    ];
    let y = g.node("AveragePool", &["x"], attributes);
    let network = normal(&g.bytes(&y));
    assert_eq!(FloatNetwork::new(&network).unwrap().run(&[1.0, 2.0, 3.0, 4.0]).unwrap(), [0.5, 2.5, 4.0]);
}
