//! Reading a trained network from an ONNX file.
//!
//! Two passes. The first looks at every node that the output depends on and collects all that are not supported, so that
//! one error names them all. The second follows the chain from the input to the output and translates it.

mod constant;
mod function;
mod operators;
pub mod proto;

use crate::error::{Error, Result, UnsupportedNode};
use crate::network::{Layer, Network, checked};
use operators::{Value, translate, unsupported};
use prost::Message;
use proto::{ModelProto, NodeProto, TensorProto, ValueInfoProto};
use safenet_core::model::limits;
use std::collections::{HashMap, HashSet};

/// What the nodes of a graph refer to.
pub(crate) struct Constants<'a> {
    tensors: HashMap<&'a str, &'a TensorProto>,
}

impl<'a> Constants<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&'a TensorProto> {
        self.tensors.get(name).copied()
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::Onnx(message.into())
}

/// Reads the chain of layers of an ONNX file.
pub(crate) fn read(bytes: &[u8]) -> Result<Network> {
    let mut model =
        ModelProto::decode(bytes).map_err(|e| bad(format!("expected an ONNX model, got damaged data: {e}")))?;
    let graph = model.graph.as_mut().ok_or_else(|| bad("expected a graph, got none"))?;
    if graph.node.is_empty() || graph.node.len() > limits::NODES {
        return Err(bad(format!("expected a graph of 1 to {} nodes, got {}", limits::NODES, graph.node.len())));
    }
    // Constant nodes become initializers, so that nothing later tells them apart.
    for node in graph.node.iter().filter(|n| n.op_type == "Constant" && n.domain.is_empty()) {
        let tensor = constant_node(node).map_err(|e| bad(format!("node {}: {e}", label(node))))?;
        graph.initializer.push(tensor);
    }
    let graph = &*graph;
    let opset =
        model.opset_import.iter().find(|o| o.domain.is_empty() || o.domain == "ai.onnx").map_or(0, |o| o.version);
    if opset < 7 {
        return Err(bad(format!(
            "expected operator set 7 or later, got {opset}; export the model with a later opset_version"
        )));
    }
    if let Some(f) = model.functions.iter().find(|f| f.domain == function::DOMAIN && f.name == function::NAME) {
        function::check(f).map_err(bad)?;
    }
    let mut constants = Constants { tensors: graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect() };
    let mut producers: HashMap<&str, &NodeProto> = HashMap::new();
    for node in &graph.node {
        if node.op_type == "Constant" && node.domain.is_empty() {
            continue;
        }
        // Exporters put Identity nodes behind constants that are used twice.
        if let ("Identity", Some(tensor)) = (node.op_type.as_str(), node.input.first().and_then(|i| constants.get(i))) {
            if let Some(output) = node.output.first() {
                constants.tensors.insert(output, tensor);
            }
            continue;
        }
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if producers.insert(output, node).is_some() || constants.get(output).is_some() {
                return Err(bad(format!("value {output}: expected one node that makes it, got two")));
            }
        }
    }
    let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|i| constants.get(&i.name).is_none()).collect();
    let ([input], [output]) = (inputs.as_slice(), graph.output.as_slice()) else {
        return Err(bad(format!("expected one input and one output, got {} and {}", inputs.len(), graph.output.len())));
    };

    // First pass: everything that the output depends on.
    let mut needed: HashSet<*const NodeProto> = HashSet::new();
    let mut waiting = vec![output.name.as_str()];
    while let Some(name) = waiting.pop() {
        if let Some(node) = producers.get(name)
            && needed.insert(std::ptr::from_ref(*node))
        {
            waiting.extend(node.input.iter().map(String::as_str).filter(|i| constants.get(i).is_none()));
        }
    }
    let mut faults: Vec<UnsupportedNode> = Vec::new();
    for node in graph.node.iter().filter(|n| needed.contains(&std::ptr::from_ref(*n))) {
        if let Some((reason, advice)) = unsupported(node, &constants) {
            let operator =
                if node.domain.is_empty() { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) };
            faults.push(UnsupportedNode { name: label(node), operator, reason, advice });
        }
    }
    if !faults.is_empty() {
        return Err(Error::Unsupported(faults));
    }

    // Second pass: every needed node has one input that is no constant, so they form a chain.
    let mut chain = Vec::new();
    let mut name = output.name.as_str();
    while name != input.name {
        let node =
            producers.get(name).ok_or_else(|| bad(format!("value {name}: expected a node that makes it, got none")))?;
        if chain.len() > graph.node.len() {
            return Err(bad(format!("value {name}: expected a graph without cycles, got one")));
        }
        chain.push(*node);
        let dynamic = node.input.iter().find(|i| !i.is_empty() && constants.get(i).is_none());
        name = dynamic.ok_or_else(|| bad(format!("node {}: expected a computed input, got constants", label(node))))?;
    }
    let mut value = input_value(input)?;
    let mut network = Network { name: clip(&graph.name), input: value.shape, layers: Vec::new() };
    for node in chain.into_iter().rev() {
        let (ops, flat) = translate(node, &value, &constants)
            .map_err(|e| bad(format!("node {} ({}): {e}", label(node), node.op_type)))?;
        for (op, shape) in ops {
            network.layers.push(Layer { name: clip(&label(node)), op, shape });
            value.shape = shape;
        }
        value.flat = flat;
    }
    Ok(network)
}

/// The value of a Constant node as a tensor of the node's output name.
fn constant_node(node: &NodeProto) -> std::result::Result<TensorProto, String> {
    let attribute = node.attribute.first().ok_or("expected a constant, got none")?;
    let name = node.output.first().cloned().unwrap_or_default();
    let empty = TensorProto { name, ..TensorProto::default() };
    use proto::element_type::{FLOAT, INT64};
    Ok(match attribute.name.as_str() {
        "value" => {
            let tensor = attribute.t.clone().ok_or("expected a tensor, got none")?;
            TensorProto { name: empty.name, ..tensor }
        }
        "value_float" => TensorProto { data_type: FLOAT, float_data: vec![attribute.f], ..empty },
        "value_int" => TensorProto { data_type: INT64, int64_data: vec![attribute.i], ..empty },
        "value_floats" => TensorProto {
            data_type: FLOAT,
            dims: vec![attribute.floats.len() as i64],
            float_data: attribute.floats.clone(),
            ..empty
        },
        "value_ints" => TensorProto {
            data_type: INT64,
            dims: vec![attribute.ints.len() as i64],
            int64_data: attribute.ints.clone(),
            ..empty
        },
        // Strings and sparse tensors: of no use in a network of numbers, and faulty only where something reads them.
        _ => empty,
    })
}

fn input_value(input: &ValueInfoProto) -> Result<Value> {
    let shape = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).and_then(|t| t.shape.as_ref());
    let dims = shape.map(|s| s.dim.as_slice()).unwrap_or_default();
    let fixed = |i: usize| {
        u64::try_from(dims[i].dim_value).ok().filter(|&d| d > 0).ok_or_else(|| {
            bad(format!(
                "input {}: expected all dimensions but the first to be fixed, got {:?} as dimension {i}",
                input.name, dims[i].dim_param
            ))
        })
    };
    let (shape, flat) = match dims.len() {
        2 => (checked(fixed(1)?, 1, 1), true),
        4 => (checked(fixed(1)?, fixed(2)?, fixed(3)?), false),
        rank => {
            return Err(bad(format!(
                "input {}: expected shape (batch, C, H, W) or (batch, K), got {rank} dimensions",
                input.name
            )));
        }
    };
    Ok(Value { shape: shape.map_err(|e| bad(format!("input {}: {e}", input.name)))?, flat })
}

/// How a node is called in messages and reports.
fn label(node: &NodeProto) -> String {
    match (node.name.as_str(), node.output.first()) {
        ("", Some(output)) => format!("making {output}"),
        ("", None) => "without a name".into(),
        (name, _) => name.into(),
    }
}

/// A name within the model file's limit; room is left for what the compiler adds.
fn clip(name: &str) -> String {
    let mut end = name.len().min(limits::NAME - 32);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].into()
}
