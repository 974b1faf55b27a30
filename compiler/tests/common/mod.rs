//! ONNX graphs made by hand.

#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod random;

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

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
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
