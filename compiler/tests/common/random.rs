//! Random small networks that together use every operator and attribute that the compiler reads, and what a file uses.
//!
//! Attributes are written only where they differ from their defaults, so that a file's attributes tell what it uses.

use super::*;
use std::collections::{BTreeSet, HashSet};

/// A value of a graph: its name, and its shape without the batch.
#[derive(Clone)]
pub(crate) struct Value {
    name: String,
    shape: Vec<usize>,
}

impl Value {
    fn is_image(&self) -> bool {
        self.shape.len() == 3
    }
}

/// What the client does with the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ending {
    None,
    Softmax,
    LogSoftmax,
    Sigmoid,
    ArgMax,
}

/// A random network.
pub(crate) struct Network {
    /// The file.
    pub(crate) model: ModelProto,
    /// The same file, but for an `ArgMax` at its end.
    pub(crate) scores: ModelProto,
    /// Channels, height, width of the input as the compiler takes it.
    pub(crate) input: [usize; 3],
    /// Whether the file takes it with its channels last.
    pub(crate) channels_last: bool,
    pub(crate) ending: Ending,
}

/// Makes a network of some steps, a head on most, and an ending on some.
pub(crate) fn network(r: &mut Random) -> Network {
    let input = [1 + r.below(3), 4 + r.below(5), 4 + r.below(5)];
    let mut layout = r.below(8);
    if input[0] == 1 && layout == 1 {
        // One channel is first and last.
        layout = 2;
    }
    // Lists that are inputs today were attributes in early operator sets.
    let opset = [9, 15, 15, 18][r.below(4)];
    let mut g = Builder::new(
        opset,
        &match layout {
            0 => vec![input.iter().product()],
            1 => vec![input[1], input[2], input[0]],
            _ => input.to_vec(),
        },
    );
    let mut x = Value { name: "image".into(), shape: input.to_vec() };
    match layout {
        0 => {
            let shape = g.integers(&[0, input[0] as i64, input[1] as i64, input[2] as i64]);
            x.name = g.node("Reshape", &["image", &shape], vec![]);
        }
        1 => x.name = g.node("Transpose", &["image"], vec![ints("perm", &[0, 3, 1, 2])]),
        _ => {}
    }
    let mut values = vec![x];
    for _ in 0..2 + r.below(6) {
        let recent = values.len() - 1 - r.below(values.len().min(2));
        let x = values[recent].clone();
        let y = match r.below(4) {
            0 => {
                let other = values[r.below(values.len())].clone();
                joined(&mut g, &x, &other, r)
            }
            _ => step(&mut g, &x, r),
        };
        values.extend(y.filter(|y| y.shape.iter().product::<usize>() < 1500));
    }
    let mut last = values[values.len() - 1].clone();
    let mut ending = Ending::None;
    if values.len() == 1 || r.below(5) > 0 {
        last = flattened(&mut g, &last, r);
        if r.below(3) == 0 {
            // Elements of one channel with a function each.
            last = vector_step(&mut g, &last, r);
        }
        last = dense(&mut g, &last, r);
        if r.flip() {
            last = vector_step(&mut g, &last, r);
            last = dense(&mut g, &last, r);
        }
        ending = [Ending::None, Ending::Softmax, Ending::LogSoftmax, Ending::Sigmoid, Ending::ArgMax][r.below(5)];
    }
    let before = g.finish(&last.name);
    let (model, scores) = match ending {
        Ending::None => (before.clone(), before),
        Ending::Softmax | Ending::LogSoftmax => {
            let end = g.node(&format!("{ending:?}"), &[&last.name], vec![int("axis", 1)]);
            (g.finish(&end), before)
        }
        Ending::Sigmoid => {
            let end = g.node("Sigmoid", &[&last.name], vec![]);
            (g.finish(&end), before)
        }
        Ending::ArgMax => {
            let end = g.node("ArgMax", &[&last.name], vec![int("axis", 1), int("keepdims", 0)]);
            (g.finish(&end), before)
        }
    };
    Network { model, scores, input, channels_last: layout == 1, ending }
}

/// A graph under construction.
struct Builder {
    graph: Graph,
    opset: i64,
}

impl Builder {
    fn new(opset: i64, shape: &[usize]) -> Self {
        let mut graph = Graph::new(shape);
        graph.model.opset_import[0].version = opset;
        Self { graph, opset }
    }

    fn constant(&mut self, mut tensor: TensorProto) -> String {
        let constants = &mut self.graph.graph().initializer;
        tensor.name = format!("c{}", constants.len());
        let name = tensor.name.clone();
        constants.push(tensor);
        name
    }

    fn floats(&mut self, dims: &[usize], values: &[f32]) -> String {
        self.constant(floats("", dims, values))
    }

    fn integers(&mut self, values: &[i64]) -> String {
        self.constant(integers("", &[values.len()], values))
    }

    /// Weights as exporters write them: as an initializer, by a node, or computed.
    fn weights(&mut self, dims: &[usize], values: &[f32], r: &mut Random) -> String {
        match r.below(6) {
            0 => {
                let value = AttributeProto { t: Some(floats("", dims, values)), r#type: 4, ..int("value", 0) };
                self.node("Constant", &[], vec![value])
            }
            1 => {
                let doubled: Vec<f32> = values.iter().map(|w| w * 2.0).collect();
                let flat = self.floats(&[values.len()], &doubled);
                let half = self.floats(&[], &[0.5]);
                let halved = self.node("Mul", &[&flat, &half], vec![]);
                let shape: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
                let shape = self.integers(&shape);
                self.node("Reshape", &[&halved, &shape], vec![])
            }
            _ => self.floats(dims, values),
        }
    }

    /// One number per channel, as a constant that spreads over a value.
    fn per_channel(&mut self, x: &Value, values: &[f32]) -> String {
        let mut dims = vec![1; x.shape.len()];
        dims[0] = x.shape[0];
        self.floats(&dims, values)
    }

    fn nodes(&mut self, op: &str, input: &[&str], attribute: Vec<AttributeProto>, outputs: usize) -> Vec<String> {
        let nodes = &mut self.graph.graph().node;
        let name = format!("{}{}", op.to_lowercase(), nodes.len());
        let output: Vec<String> = (0..outputs).map(|i| format!("{name}.{i}")).collect();
        nodes.push(NodeProto {
            input: input.iter().map(|&name| name.into()).collect(),
            output: output.clone(),
            name,
            op_type: op.into(),
            attribute,
            domain: if op == "ChannelActivation" { "safenet".into() } else { String::new() },
        });
        output
    }

    fn node(&mut self, op: &str, input: &[&str], attribute: Vec<AttributeProto>) -> String {
        self.nodes(op, input, attribute, 1).remove(0)
    }

    /// A node with lists of integers: inputs since an operator set, attributes before.
    fn with_lists(
        &mut self,
        op: &str,
        x: &Value,
        lists: &[(&str, &[i64])],
        since: i64,
        mut attribute: Vec<AttributeProto>,
    ) -> String {
        let mut input = vec![x.name.clone()];
        for (name, list) in lists {
            if self.opset >= since {
                input.push(self.integers(list));
            } else {
                attribute.push(ints(name, list));
            }
        }
        let input: Vec<&str> = input.iter().map(String::as_str).collect();
        self.node(op, &input, attribute)
    }

    /// A node that keeps the shape of the value it reads.
    fn same(&mut self, op: &str, x: &Value, constants: &[&str], attribute: Vec<AttributeProto>) -> Value {
        let inputs: Vec<&str> = std::iter::once(x.name.as_str()).chain(constants.iter().copied()).collect();
        Value { name: self.node(op, &inputs, attribute), shape: x.shape.clone() }
    }

    fn finish(&mut self, output: &str) -> ModelProto {
        self.graph.last = output.into();
        self.graph.finish()
    }
}

/// A step on a value alone.
fn step(g: &mut Builder, x: &Value, r: &mut Random) -> Option<Value> {
    if !x.is_image() {
        return Some(vector_step(g, x, r));
    }
    Some(match r.below(20) {
        0..5 => convolution(g, x, r),
        5..9 => activation(g, x, r),
        9..12 => pool(g, x, r),
        12 => global(g, x, r),
        13 => batch_normalisation(g, x, r),
        14 => arithmetic(g, x, r),
        15 => padded(g, x, r),
        16 => slice(g, x, r),
        17 => return split(g, x, r),
        18 => dense_per_pixel(g, x, r),
        _ => renamed(g, x, r),
    })
}

/// A step on a vector.
fn vector_step(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    match r.below(6) {
        0 => batch_normalisation(g, x, r),
        1 => arithmetic(g, x, r),
        2 => renamed(g, x, r),
        _ => activation(g, x, r),
    }
}

/// Numbers that are not small.
fn factors(count: usize, r: &mut Random) -> Vec<f32> {
    (0..count).map(|_| r.real(0.4, 1.5) * if r.flip() { 1.0 } else { -1.0 }).collect()
}

/// Padding of an axis by the rule SAME: before and after.
fn same_padding(size: usize, reach: usize, stride: usize, upper: bool) -> [usize; 2] {
    let total = ((size.div_ceil(stride) - 1) * stride + reach).saturating_sub(size);
    let (small, large) = (total / 2, total - total / 2);
    if upper { [small, large] } else { [large, small] }
}

/// Writes padding by a rule or in numbers below `most`; gives the padding top, left, bottom, right.
fn padding(
    size: [usize; 2],
    reach: [usize; 2],
    stride: [usize; 2],
    most: [usize; 2],
    attributes: &mut Vec<AttributeProto>,
    r: &mut Random,
) -> [usize; 4] {
    let rule = r.below(8);
    match rule {
        0 => {
            attributes.push(string("auto_pad", "VALID"));
            [0; 4]
        }
        1 | 2 => {
            attributes.push(string("auto_pad", if rule == 1 { "SAME_UPPER" } else { "SAME_LOWER" }));
            let [rows, columns] = [0, 1].map(|i| same_padding(size[i], reach[i], stride[i], rule == 1));
            [rows[0], columns[0], rows[1], columns[1]]
        }
        _ => {
            let pads = [0, 1, 2, 3].map(|i| r.below(most[i % 2]));
            if pads != [0; 4] {
                attributes.push(ints("pads", &pads.map(|p| p as i64)));
            }
            pads
        }
    }
}

fn unless_ones(name: &str, numbers: [usize; 2], attributes: &mut Vec<AttributeProto>) {
    if numbers != [1, 1] {
        attributes.push(ints(name, &numbers.map(|n| n as i64)));
    }
}

fn convolution(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    let [channels, size @ ..] = [x.shape[0], x.shape[1], x.shape[2]];
    let kernel = size.map(|s| 1 + r.below(3.min(s)));
    let dilation = [0, 1].map(|i| if (kernel[i] - 1) * 2 < size[i] && r.below(3) == 0 { 2 } else { 1 });
    let stride = [(); 2].map(|()| if r.below(3) == 0 { 2 } else { 1 });
    let groups = match r.below(4) {
        0 => channels,
        1 if channels.is_multiple_of(2) => 2,
        _ => 1,
    };
    let out = if groups > 1 { groups * (1 + r.below(2)) } else { 1 + r.below(6) };
    let reach = [0, 1].map(|i| (kernel[i] - 1) * dilation[i] + 1);
    let mut attributes = Vec::new();
    if r.flip() {
        attributes.push(ints("kernel_shape", &kernel.map(|k| k as i64)));
    }
    unless_ones("strides", stride, &mut attributes);
    unless_ones("dilations", dilation, &mut attributes);
    if groups > 1 {
        attributes.push(int("group", groups as i64));
    }
    let pads = padding(size, reach, stride, [3, 3], &mut attributes, r);
    let fan_in = channels / groups * kernel[0] * kernel[1];
    let weights = r.reals(out * fan_in, 1.5 / (fan_in as f32).sqrt());
    let w = g.weights(&[out, channels / groups, kernel[0], kernel[1]], &weights, r);
    let mut inputs = vec![x.name.as_str(), &w];
    let bias = g.floats(&[out], &r.reals(out, 0.5));
    if r.below(3) > 0 {
        inputs.push(&bias);
    }
    let y = g.node("Conv", &inputs, attributes);
    let places = |i: usize| (size[i] + pads[i] + pads[i + 2] - reach[i]) / stride[i] + 1;
    Value { name: y, shape: vec![out, places(0), places(1)] }
}

fn batch_normalisation(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    let c = x.shape[0];
    let scale = g.floats(&[c], &factors(c, r));
    let [bias, mean] = [(); 2].map(|()| g.floats(&[c], &r.reals(c, 0.5)));
    let variance: Vec<f32> = (0..c).map(|_| r.real(0.3, 2.0)).collect();
    let variance = g.floats(&[c], &variance);
    let attributes = if r.flip() { vec![float("epsilon", 0.1), float("momentum", 0.8)] } else { vec![] };
    g.same("BatchNormalization", x, &[&scale, &bias, &mean, &variance], attributes)
}

fn activation(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    match r.below(14) {
        0..2 => g.same("Relu", x, &[], vec![]),
        2 => {
            let (low, high) = (r.real(-1.0, 0.0), r.real(0.2, 1.0));
            if g.opset < 11 {
                let ends = [float("min", low), float("max", high)];
                return g.same("Clip", x, &[], ends[r.below(2)..].to_vec());
            }
            let (low, high) = (g.floats(&[], &[low]), g.floats(&[], &[high]));
            match r.below(3) {
                0 => g.same("Clip", x, &["", &high], vec![]),
                1 => g.same("Clip", x, &[&low], vec![]),
                _ => g.same("Clip", x, &[&low, &high], vec![]),
            }
        }
        3 => g.same("LeakyRelu", x, &[], vec![float("alpha", r.real(-0.3, 0.5))]),
        4 => {
            let slope = r.reals(x.shape[0], 0.5);
            let slope = g.per_channel(x, &slope);
            g.same("PRelu", x, &[&slope], vec![])
        }
        5 => {
            let attributes = if r.flip() { vec![float("alpha", r.real(0.1, 0.5)), float("beta", 0.4)] } else { vec![] };
            g.same("HardSigmoid", x, &[], attributes)
        }
        6 => {
            // Wide enough to reach both ends.
            let four = g.floats(&[], &[4.0]);
            let wide = g.same("Mul", x, &[&four], vec![]);
            g.same("HardSwish", &wide, &[], vec![])
        }
        7 => g.same("Abs", x, &[], vec![]),
        8 => {
            let end = g.floats(&[1], &[r.real(-0.5, 0.5)]);
            g.same(["Max", "Min"][r.below(2)], x, &[&end], vec![])
        }
        _ => channel_activation_step(g, x, r),
    }
}

/// A planned activation, of one degree for all channels or of one for each.
fn channel_activation_step(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    let c = x.shape[0];
    let one = r.below(5) as i64 - 1;
    let mixed = r.flip();
    let degrees: Vec<i64> = (0..c).map(|_| if mixed { r.below(5) as i64 - 1 } else { one }).collect();
    let dims = if x.is_image() { vec![c, 1, 1] } else { vec![c] };
    let mut constants = vec![g.constant(integers("", &dims, &degrees))];
    for (k, size) in [0.3f32, 0.8, 0.4, 0.15].into_iter().enumerate() {
        // Leading coefficients away from 0, as the planner keeps them.
        let coefficient = |degree: i64, r: &mut Random| match degree - k as i64 {
            ..0 => 0.0,
            0 => (if r.flip() { size } else { -size }) * r.real(0.6, 1.0),
            _ => r.real(-size, size),
        };
        let values: Vec<f32> = degrees.iter().map(|&degree| coefficient(degree, r)).collect();
        constants.push(g.floats(&dims, &values));
    }
    let constants: Vec<&str> = constants.iter().map(String::as_str).collect();
    g.same("ChannelActivation", x, &constants, vec![])
}

fn pool(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    let size = [x.shape[1], x.shape[2]];
    let kernel = size.map(|s| 1 + r.below(4.min(s)));
    let stride = [1 + r.below(3), 1 + r.below(3)];
    let mut attributes = vec![ints("kernel_shape", &kernel.map(|k| k as i64))];
    unless_ones("strides", stride, &mut attributes);
    let pads = padding(size, kernel, stride, kernel.map(|k| k.min(3)), &mut attributes, r);
    let ruled = attributes.iter().any(|a| a.name == "auto_pad");
    let up = !ruled && r.below(3) == 0;
    if up {
        attributes.push(int("ceil_mode", 1));
    }
    let max = r.flip();
    // The engine divides by other numbers than ONNX where windows reach beyond the padding and the padding counts.
    if !max && !up && r.flip() {
        attributes.push(int("count_include_pad", 1));
    }
    let places = |i: usize| {
        let (room, before) = (size[i] + pads[i] + pads[i + 2] - kernel[i], size[i] + pads[i]);
        let whole = room / stride[i] + 1;
        if up && room % stride[i] != 0 && whole * stride[i] < before { whole + 1 } else { whole }
    };
    let y = g.node(if max { "MaxPool" } else { "AveragePool" }, &[&x.name], attributes);
    Value { name: y, shape: vec![x.shape[0], places(0), places(1)] }
}

/// One value of each channel, or of each of its rows or columns.
fn global(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    let c = x.shape[0];
    let whole = vec![c, 1, 1];
    match r.below(5) {
        0 => Value { name: g.node("GlobalAveragePool", &[&x.name], vec![]), shape: whole },
        1 => Value { name: g.node("GlobalMaxPool", &[&x.name], vec![]), shape: whole },
        way => {
            let (axes, shape): (&[i64], _) = match way {
                2 => (&[-1, 2], whole),
                3 => (&[3], vec![c, x.shape[1], 1]),
                _ => (&[2, 3], vec![c]),
            };
            let attributes = if way == 4 { vec![int("keepdims", 0)] } else { vec![] };
            Value { name: g.with_lists("ReduceMean", x, &[("axes", axes)], 18, attributes), shape }
        }
    }
}

/// Arithmetic with constants.
fn arithmetic(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    let op = ["Add", "Sub", "Mul", "Div", "Neg"][r.below(5)];
    if op == "Neg" {
        return g.same("Neg", x, &[], vec![]);
    }
    let c = if r.flip() {
        let values = factors(x.shape[0], r);
        g.per_channel(x, &values)
    } else {
        let value = factors(1, r);
        g.floats(&[1], &value)
    };
    if op != "Div" && r.flip() {
        return Value { name: g.node(op, &[&c, &x.name], vec![]), shape: x.shape.clone() };
    }
    g.same(op, x, &[&c], vec![])
}

fn padded(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    let p = [(); 4].map(|()| r.below(3) as i64);
    let pads = [0, 0, p[0], p[1], 0, 0, p[2], p[3]];
    let attributes = if r.flip() { vec![string("mode", "edge")] } else { vec![] };
    let y = g.with_lists("Pad", x, &[("pads", &pads)], 11, attributes);
    let size = |i: usize| (x.shape[1 + i] as i64 + p[i] + p[i + 2]) as usize;
    Value { name: y, shape: vec![x.shape[0], size(0), size(1)] }
}

fn slice(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    let axis = r.below(3);
    let start = r.below(x.shape[axis]);
    let count = 1 + r.below(x.shape[axis] - start);
    // Channels are taken in a row, and all in early operator sets.
    let step = if axis == 0 || g.opset < 10 { 1 } else { 1 + r.below(3) };
    let numbers = [start as i64, (start + count) as i64, axis as i64 + 1, step as i64];
    let lists = [0, 1, 2, 3].map(|i| (["starts", "ends", "axes", "steps"][i], &numbers[i..=i]));
    let y = g.with_lists("Slice", x, if step > 1 { &lists } else { &lists[..3] }, 10, vec![]);
    let mut shape = x.shape.clone();
    shape[axis] = (count - 1) / step + 1;
    Value { name: y, shape }
}

/// Takes a value apart along an axis; joins the parts again in another order, or goes on with one.
fn split(g: &mut Builder, x: &Value, r: &mut Random) -> Option<Value> {
    let axis = r.below(3);
    let size = x.shape[axis];
    if size < 2 {
        return None;
    }
    let mut first = 1 + r.below(size - 1);
    let along = int("axis", axis as i64 + 1);
    let parts = if g.opset >= 18 && r.flip() {
        first = size.div_ceil(2);
        g.nodes("Split", &[&x.name], vec![along, int("num_outputs", 2)], 2)
    } else if g.opset >= 13 {
        let sizes = g.integers(&[first as i64, (size - first) as i64]);
        g.nodes("Split", &[&x.name, &sizes], vec![along], 2)
    } else {
        let sizes = ints("split", &[first as i64, (size - first) as i64]);
        g.nodes("Split", &[&x.name], vec![along, sizes], 2)
    };
    let mut shape = x.shape.clone();
    if axis == 0 && r.flip() {
        let y = g.node("Concat", &[&parts[1], &parts[0]], vec![int("axis", 1)]);
        return Some(Value { name: y, shape });
    }
    shape[axis] = size - first;
    Some(Value { name: parts[1].clone(), shape })
}

/// A dense layer of every pixel, as TensorFlow has it: channels last.
fn dense_per_pixel(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    let (inputs, out) = (x.shape[0], 1 + r.below(4));
    let last = g.node("Transpose", &[&x.name], vec![ints("perm", &[0, 2, 3, 1])]);
    let values = r.reals(inputs * out, 1.5 / (inputs as f32).sqrt());
    let w = g.weights(&[inputs, out], &values, r);
    let y = g.node("MatMul", &[&last, &w], vec![]);
    let bias = g.floats(&[out], &r.reals(out, 0.5));
    let y = g.node("Add", &[&y, &bias], vec![]);
    let y = g.node("Transpose", &[&y], vec![ints("perm", &[0, 3, 1, 2])]);
    Value { name: y, shape: vec![out, x.shape[1], x.shape[2]] }
}

/// What exporters leave behind, which changes nothing.
fn renamed(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    match r.below(4) {
        0 => g.same("Identity", x, &[], vec![]),
        1 => g.same("Dropout", x, &[], if g.opset < 12 { vec![float("ratio", 0.3)] } else { vec![] }),
        2 => g.same("Cast", x, &[], vec![int("to", 1)]),
        _ => {
            let axes = [x.shape.len() as i64 + 1];
            let wide = Value { name: g.with_lists("Unsqueeze", x, &[("axes", &axes)], 13, vec![]), shape: vec![] };
            Value { name: g.with_lists("Squeeze", &wide, &[("axes", &axes)], 13, vec![]), shape: x.shape.clone() }
        }
    }
}

/// To a vector, in one of the ways exporters write.
fn flattened(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    let elements: usize = x.shape.iter().product();
    let vector = |name: String| Value { name, shape: vec![elements] };
    let ways = if x.is_image() { 4 } else { 2 };
    vector(match r.below(ways) {
        0 => g.node("Flatten", &[&x.name], vec![]),
        // x.view(x.size(0), -1) in PyTorch.
        1 => {
            let shape = g.node("Shape", &[&x.name], vec![]);
            let zero = g.integers(&[0]);
            let batch = g.node("Gather", &[&shape, &zero], vec![int("axis", 0)]);
            let rest = g.integers(&[-1]);
            let shape = g.node("Concat", &[&batch, &rest], vec![int("axis", 0)]);
            g.node("Reshape", &[&x.name, &shape], vec![])
        }
        2 => {
            let shape = g.integers(&[-1, elements as i64]);
            g.node("Reshape", &[&x.name, &shape], vec![])
        }
        // Channels last.
        _ => {
            let last = g.node("Transpose", &[&x.name], vec![ints("perm", &[0, 2, 3, 1])]);
            g.node("Flatten", &[&last], vec![int("axis", 1)])
        }
    })
}

fn dense(g: &mut Builder, x: &Value, r: &mut Random) -> Value {
    let (inputs, out) = (x.shape[0], 2 + r.below(5));
    let values = r.reals(inputs * out, 1.5 / (inputs as f32).sqrt());
    let bias = g.floats(&[out], &r.reals(out, 0.5));
    let y = match r.below(4) {
        0 => {
            let w = g.weights(&[inputs, out], &values, r);
            let y = g.node("MatMul", &[&x.name, &w], vec![]);
            g.node("Add", &[&bias, &y], vec![])
        }
        1 => {
            let w = g.weights(&[inputs, out], &values, r);
            g.node("Gemm", &[&x.name, &w], vec![])
        }
        2 => {
            let w = g.weights(&[out, inputs], &values, r);
            g.node("Gemm", &[&x.name, &w, &bias], vec![int("transB", 1)])
        }
        _ => {
            let w = g.weights(&[out, inputs], &values, r);
            let attributes = vec![int("transB", 1), float("alpha", 0.5), float("beta", 2.0)];
            g.node("Gemm", &[&x.name, &w, &bias], attributes)
        }
    };
    Value { name: y, shape: vec![out] }
}

/// Joins two values: a sum of one shape, or the channels of images of one size. Images are brought to one number of
/// channels by a convolution, as residual networks do.
fn joined(g: &mut Builder, x: &Value, other: &Value, r: &mut Random) -> Option<Value> {
    if x.shape[1..] != other.shape[1..] || x.name == other.name {
        return None;
    }
    if r.below(3) == 0 {
        let mut shape = x.shape.clone();
        shape[0] += other.shape[0];
        let y = g.node("Concat", &[&x.name, &other.name], vec![int("axis", 1)]);
        return Some(Value { name: y, shape });
    }
    let mut other = other.clone();
    if x.shape != other.shape {
        if !x.is_image() {
            return None;
        }
        let (out, inputs) = (x.shape[0], other.shape[0]);
        let w = r.reals(out * inputs, 1.5 / (inputs as f32).sqrt());
        let w = g.weights(&[out, inputs, 1, 1], &w, r);
        other = Value { name: g.node("Conv", &[&other.name, &w], vec![]), shape: x.shape.clone() };
    }
    Some(match r.below(4) {
        0 => g.same("Sub", x, &[&other.name], vec![]),
        1 => g.same("Sum", x, &[&other.name], vec![]),
        2 => {
            let half = g.floats(&[], &[0.5]);
            let third = g.same("Mul", x, &[&half], vec![]);
            g.same("Sum", x, &[&other.name, &third.name], vec![])
        }
        _ => g.same("Add", x, &[&other.name], vec![]),
    })
}

/// What a file uses, as far as its output depends on it: operators, their attributes, and how they are used.
pub(crate) fn features(model: &ModelProto) -> BTreeSet<String> {
    let graph = model.graph.as_ref().unwrap();
    let constants: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let integer = |name: &str| constants.get(name).map(|t| i64::from_le_bytes(t.raw_data[..8].try_into().unwrap()));
    let mut fixed: HashSet<&str> = constants.keys().copied().collect();
    for node in &graph.node {
        if node.input.iter().all(|name| fixed.contains(name.as_str()) || name.is_empty()) {
            fixed.extend(node.output.iter().map(String::as_str));
        }
    }
    let mut needed: HashSet<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
    let mut features = BTreeSet::new();
    for node in graph.node.iter().rev() {
        if !node.output.iter().any(|name| needed.contains(name.as_str())) {
            continue;
        }
        needed.extend(node.input.iter().map(String::as_str));
        let op = node.op_type.as_str();
        let computed = node.input.iter().filter(|name| !name.is_empty() && !fixed.contains(name.as_str())).count();
        if computed == 0 {
            features.insert(if op == "Constant" { "Constant".into() } else { format!("{op} of constants") });
            continue;
        }
        features.insert(op.into());
        for attribute in &node.attribute {
            let value = String::from_utf8_lossy(&attribute.s);
            features.insert(format!("{op} {} {value}", attribute.name).trim_end().into());
            if attribute.name == "pads" && attribute.ints[..2] != attribute.ints[2..] {
                features.insert(format!("{op} pads asymmetric"));
            }
        }
        let how = match op {
            "Conv" if node.input.len() == 2 => "Conv without bias".into(),
            "Gemm" if node.input.len() == 2 => "Gemm without bias".into(),
            "Add" | "Sub" | "Sum" | "Mul" | "Div" | "Concat" if computed > 1 => format!("{op} of {computed}"),
            "Add" | "Sub" | "Mul" if fixed.contains(node.input[0].as_str()) => format!("{op} to a constant"),
            "Add" | "Sub" | "Mul" | "Div" => format!("{op} by a constant"),
            "Clip" if node.input.len() == 1 => "Clip".into(),
            "Clip" if node.input.len() == 2 => "Clip below".into(),
            "Clip" if node.input[1].is_empty() => "Clip above".into(),
            "Slice" => {
                let steps = if node.input.len() > 4 { " with steps" } else { "" };
                let axes = node.attribute.iter().find(|a| a.name == "axes").map(|a| a.ints[0]);
                format!("Slice of axis {}{steps}", axes.or_else(|| integer(&node.input[3])).unwrap())
            }
            "Split" => format!("Split of axis {}", node.attribute[0].i),
            "ReduceMean" | "Squeeze" | "Unsqueeze" | "Pad" if node.input.len() > 1 => format!("{op} by an input"),
            _ => op.into(),
        };
        features.insert(how);
        if op == "Conv" && node.attribute.iter().any(|a| a.name == "group") {
            // Weights that are computed do not tell.
            if constants.get(node.input[1].as_str()).is_some_and(|w| w.dims[1] == 1) {
                features.insert("Conv depthwise".into());
            }
        }
        if op == "ChannelActivation" {
            let degrees = constants[node.input[1].as_str()].raw_data.as_chunks::<8>().0;
            features.extend(degrees.iter().map(|&b| format!("ChannelActivation of degree {}", i64::from_le_bytes(b))));
        }
    }
    features
}
