//! ONNX graphs made by hand, and an evaluation of them, node by node, that shares no code with the compiler.

#![allow(dead_code, reason = "each test uses its part")]

use prost::Message;
use safenet_compiler::onnx::proto::*;
use std::collections::HashMap;

/// A small generator (Marsaglia's xorshift, 2003), so that a failing case is reproduced by its seed alone.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    pub(crate) fn real(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.below(1 << 20) as f32 / (1 << 20) as f32)
    }

    pub(crate) fn reals(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| self.real(-size, size)).collect()
    }
}

pub(crate) fn floats(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    let dims = dims.iter().map(|&d| d as i64).collect();
    TensorProto {
        name: name.into(),
        dims,
        data_type: element_type::FLOAT,
        float_data: values.to_vec(),
        ..Default::default()
    }
}

pub(crate) fn integers(name: &str, dims: &[usize], values: &[i64]) -> TensorProto {
    let dims = dims.iter().map(|&d| d as i64).collect();
    let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    TensorProto { name: name.into(), dims, data_type: element_type::INT64, raw_data, ..Default::default() }
}

pub(crate) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: ints.to_vec(), r#type: 7, ..Default::default() }
}

pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, r#type: 2, ..Default::default() }
}

pub(crate) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f, r#type: 1, ..Default::default() }
}

pub(crate) fn string(name: &str, s: &str) -> AttributeProto {
    AttributeProto { name: name.into(), s: s.into(), r#type: 3, ..Default::default() }
}

/// A chain under construction. `shape` is that of the last value, without the batch.
pub(crate) struct Graph {
    pub(crate) model: ModelProto,
    pub(crate) last: String,
    pub(crate) shape: Vec<usize>,
}

impl Graph {
    pub(crate) fn new(shape: &[usize]) -> Self {
        let mut dim = vec![DimensionProto { dim_param: "batch".into(), ..Default::default() }];
        dim.extend(shape.iter().map(|&d| DimensionProto { dim_value: d as i64, ..Default::default() }));
        let tensor_type = Some(TensorTypeProto { elem_type: 1, shape: Some(TensorShapeProto { dim }) });
        let input = ValueInfoProto { name: "image".into(), r#type: Some(TypeProto { tensor_type }) };
        let graph = GraphProto { name: "test".into(), input: vec![input], ..Default::default() };
        let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
        let model = ModelProto {
            ir_version: 8,
            opset_import: vec![opset("", 15), opset("safenet", 1)],
            graph: Some(graph),
            functions: vec![channel_activation()],
            ..Default::default()
        };
        Self { model, last: "image".into(), shape: shape.to_vec() }
    }

    pub(crate) fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.as_mut().unwrap()
    }

    /// Adds a node on the last value, with constants as its further inputs.
    pub(crate) fn add(&mut self, op: &str, constants: Vec<TensorProto>, attribute: Vec<AttributeProto>) -> &mut Self {
        let index = self.graph().node.len();
        let output = format!("{}{index}", op.to_lowercase());
        let mut input = vec![self.last.clone()];
        for (i, mut tensor) in constants.into_iter().enumerate() {
            tensor.name = format!("{output}.{i}");
            input.push(tensor.name.clone());
            self.graph().initializer.push(tensor);
        }
        let domain = if op == "ChannelActivation" { "safenet".into() } else { String::new() };
        let node = NodeProto {
            input,
            output: vec![output.clone()],
            name: output.clone(),
            op_type: op.into(),
            attribute,
            domain,
        };
        self.graph().node.push(node);
        self.last = output;
        self
    }

    pub(crate) fn finish(&self) -> ModelProto {
        let mut model = self.model.clone();
        let output = ValueInfoProto { name: self.last.clone(), r#type: None };
        model.graph.as_mut().unwrap().output = vec![output];
        model
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.finish().encode_to_vec()
    }
}

/// The planned activation's function, in standard operators.
pub(crate) fn channel_activation() -> FunctionProto {
    let node = |op: &str, input: &[&str], output: &str| NodeProto {
        input: input.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        op_type: op.into(),
        ..Default::default()
    };
    let mut zero = node("Constant", &[], "zero");
    zero.attribute = vec![int("value_int", 0)];
    FunctionProto {
        name: "ChannelActivation".into(),
        domain: "safenet".into(),
        input: ["X", "degree", "c0", "c1", "c2", "c3"].map(Into::into).to_vec(),
        output: vec!["Y".into()],
        node: vec![
            zero,
            node("Less", &["degree", "zero"], "exact"),
            node("Relu", &["X"], "relu"),
            node("Mul", &["c3", "X"], "t3"),
            node("Add", &["t3", "c2"], "s2"),
            node("Mul", &["s2", "X"], "t2"),
            node("Add", &["t2", "c1"], "s1"),
            node("Mul", &["s1", "X"], "t1"),
            node("Add", &["t1", "c0"], "polynomial"),
            node("Where", &["exact", "relu", "polynomial"], "Y"),
        ],
    }
}

/// Evaluates a graph on one input, node by node. `shape` is that of the input without the batch.
pub(crate) fn interpret(model: &ModelProto, shape: &[usize], input: &[f32]) -> Vec<f64> {
    let graph = model.graph.as_ref().unwrap();
    let constants: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut x: Vec<f64> = input.iter().map(|&v| v.into()).collect();
    let mut s = shape.to_vec();
    for node in &graph.node {
        let constant = |i: usize| constants[node.input[i].as_str()];
        let given = |i: usize| node.input.len() > i && !node.input[i].is_empty();
        let values = |i: usize| constant(i).float_data.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
        let plane: usize = s[1..].iter().product();
        let per_channel = |v: Vec<f64>, e: usize| if v.len() == 1 { v[0] } else { v[e / plane] };
        match node.op_type.as_str() {
            "Conv" | "AveragePool" => {
                let conv = node.op_type == "Conv";
                let kernel: Vec<usize> = if conv {
                    constant(1).dims[2..].iter().map(|&d| d as usize).collect()
                } else {
                    attribute("kernel_shape").unwrap().ints.iter().map(|&d| d as usize).collect()
                };
                let stride = attribute("strides").map_or(vec![1, 1], |a| a.ints.iter().map(|&d| d as usize).collect());
                let mut pads = attribute("pads").map_or(vec![0; 4], |a| a.ints.iter().map(|&d| d as usize).collect());
                if let Some(rule) = attribute("auto_pad").filter(|a| a.s.starts_with(b"SAME")) {
                    for i in 0..2 {
                        let places = (s[1 + i] as f64 / stride[i] as f64).ceil() as usize;
                        let total = ((places - 1) * stride[i] + kernel[i]).saturating_sub(s[1 + i]);
                        let first = if rule.s == b"SAME_UPPER" { total / 2 } else { total.div_ceil(2) };
                        (pads[i], pads[i + 2]) = (first, total - first);
                    }
                }
                let size = |i: usize| (s[1 + i] + pads[i] + pads[i + 2] - kernel[i]) / stride[i] + 1;
                let out = if conv { constant(1).dims[0] as usize } else { s[0] };
                let weights = if conv { values(1) } else { Vec::new() };
                let mut y = Vec::new();
                for o in 0..out {
                    for (i, j) in (0..size(0)).flat_map(|i| (0..size(1)).map(move |j| (i, j))) {
                        let mut sum = if conv && given(2) { values(2)[o] } else { 0.0 };
                        for c in if conv { 0..s[0] } else { o..o + 1 } {
                            for (p, q) in (0..kernel[0]).flat_map(|p| (0..kernel[1]).map(move |q| (p, q))) {
                                let (r, t) = (
                                    (i * stride[0] + p).wrapping_sub(pads[0]),
                                    (j * stride[1] + q).wrapping_sub(pads[1]),
                                );
                                if r < s[1] && t < s[2] {
                                    let w = if conv {
                                        weights[((o * s[0] + c) * kernel[0] + p) * kernel[1] + q]
                                    } else {
                                        1.0 / (kernel[0] * kernel[1]) as f64
                                    };
                                    sum += w * x[(c * s[1] + r) * s[2] + t];
                                }
                            }
                        }
                        y.push(sum);
                    }
                }
                s = vec![out, size(0), size(1)];
                x = y;
            }
            "Gemm" | "MatMul" => {
                let transposed = attribute("transB").is_some_and(|a| a.i == 1);
                let dims: Vec<usize> = constant(1).dims.iter().map(|&d| d as usize).collect();
                let (alpha, beta) = (attribute("alpha").map_or(1.0, |a| a.f), attribute("beta").map_or(1.0, |a| a.f));
                let out = if transposed { dims[0] } else { dims[1] };
                let w = values(1);
                let at = |o: usize, k: usize| if transposed { w[o * dims[1] + k] } else { w[k * dims[1] + o] };
                let y = (0..out).map(|o| {
                    let product: f64 = x.iter().enumerate().map(|(k, x)| x * at(o, k)).sum();
                    let bias = if given(2) { per_channel(values(2), o) } else { 0.0 };
                    f64::from(alpha) * product + f64::from(beta) * bias
                });
                (x, s) = (y.collect(), vec![out]);
            }
            "BatchNormalization" => {
                let epsilon = attribute("epsilon").map_or(1e-5, |a| f64::from(a.f));
                let (g, b, m, v) = (values(1), values(2), values(3), values(4));
                for (e, x) in x.iter_mut().enumerate() {
                    let c = e / plane;
                    *x = g[c] * (*x - m[c]) / (v[c] + epsilon).sqrt() + b[c];
                }
            }
            "Add" => x.iter_mut().enumerate().for_each(|(e, x)| *x += per_channel(values(1), e)),
            "Sub" => x.iter_mut().enumerate().for_each(|(e, x)| *x -= per_channel(values(1), e)),
            "Mul" => x.iter_mut().enumerate().for_each(|(e, x)| *x *= per_channel(values(1), e)),
            "Div" => x.iter_mut().enumerate().for_each(|(e, x)| *x /= per_channel(values(1), e)),
            "Relu" => x.iter_mut().for_each(|x| *x = x.max(0.0)),
            "GlobalAveragePool" => {
                x = x.chunks(plane).map(|c| c.iter().sum::<f64>() / plane as f64).collect();
                s = vec![s[0], 1, 1];
            }
            "Flatten" | "Reshape" => s = vec![x.len()],
            "Identity" | "Dropout" => {}
            "ChannelActivation" => {
                let degrees: Vec<i64> =
                    constant(1).raw_data.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
                let c: Vec<Vec<f64>> = (2..6).map(values).collect();
                for (e, x) in x.iter_mut().enumerate() {
                    let k = e / plane;
                    *x = if degrees[k] < 0 {
                        x.max(0.0)
                    } else {
                        ((c[3][k] * *x + c[2][k]) * *x + c[1][k]) * *x + c[0][k]
                    };
                }
            }
            other => panic!("{other}"),
        }
    }
    x
}
