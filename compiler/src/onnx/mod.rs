//! Reading a trained network from an ONNX file.
//!
//! Nodes are followed in the order of the file, as far as the output depends on them. What depends on constants alone is
//! evaluated; each other node is translated by the entry of its operator in `operators::find`. Nodes that have no private
//! form are collected, so that one error names them all.

mod attributes;
mod constant;
mod function;
mod operators;
pub mod proto;
mod value;

use crate::error::{Error, Result, UnsupportedNode};
use crate::network::{Function, Layer, Network, OUTPUT, Op, Tensor};
use crate::shape::checked;
use operators::{Call, Fault};
use prost::Message;
use proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto};
use safenet_core::model::{Shape, limits};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use value::{Computed, Value};

/// Weights of all layers together; constants may be read by many nodes.
const WEIGHTS: usize = 1 << 28;

fn bad(message: impl Into<String>) -> Error {
    Error::Onnx(message.into())
}

/// Reads the network of an ONNX file. Its last layer is the identity, named [`OUTPUT`].
pub(crate) fn read(bytes: &[u8]) -> Result<Network> {
    let model = ModelProto::decode(bytes).map_err(|e| bad(format!("expected an ONNX model, got damaged data: {e}")))?;
    let graph = model.graph.ok_or_else(|| bad("expected a graph, got none"))?;
    if graph.node.is_empty() || graph.node.len() > NODES {
        return Err(bad(format!("expected a graph of 1 to {NODES} nodes, got {}", graph.node.len())));
    }
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
    Reader::new(graph, opset)?.network()
}

/// Nodes of a file. Shapes computed at run time take several nodes per layer.
const NODES: usize = 4 * limits::NODES;

/// The network as far as it is read.
pub(super) struct Builder {
    network: Network,
    channels: u64,
    weights: usize,
    /// Name of the file's input.
    input: String,
    /// For every value of the file, how many inputs of needed nodes it is; those that take only its shape do not count.
    uses: HashMap<String, usize>,
}

impl Builder {
    /// Adds a layer.
    fn push(&mut self, name: String, op: Op, inputs: Vec<Tensor>, shape: Shape) -> std::result::Result<Tensor, String> {
        self.channels += u64::from(shape.channels);
        if let Op::Linear(linear) = &op {
            self.weights = self.weights.saturating_add(linear.weights.len());
        }
        if self.channels > limits::ALL_CHANNELS || self.weights > WEIGHTS {
            return Err(format!(
                "expected at most {} channels and {WEIGHTS} weights in all layers together, got more",
                limits::ALL_CHANNELS
            ));
        }
        if inputs.len() > limits::NODE_INPUTS {
            return Err(format!("expected at most {} inputs, got {}", limits::NODE_INPUTS, inputs.len()));
        }
        self.network.layers.push(Layer { name, inputs, op, shape });
        Ok(self.network.layers.len())
    }

    fn note(&mut self, remark: String) {
        self.network.notes.push(remark);
    }
}

struct Reader {
    graph: GraphProto,
    opset: i64,
    output: String,
    /// The nodes that make each value.
    makers: HashMap<String, usize>,
    needed: Vec<bool>,
    values: HashMap<String, Value>,
    faults: BTreeMap<usize, (String, &'static str)>,
    builder: Builder,
}

impl Reader {
    fn new(mut graph: GraphProto, opset: i64) -> Result<Self> {
        let mut values: HashMap<String, Value> = HashMap::new();
        for tensor in std::mem::take(&mut graph.initializer) {
            values.insert(tensor.name.clone(), Value::Constant(Rc::new(tensor)));
        }
        // Files of old versions list the constants among the inputs.
        let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|i| !values.contains_key(&i.name)).collect();
        let ([input], [output]) = (&inputs[..], &graph.output[..]) else {
            return Err(bad(format!(
                "expected one input and one output, got {} and {}",
                inputs.len(),
                graph.output.len()
            )));
        };
        let value = input_value(input)?;
        let network = Network::new(clip(&graph.name), value.shape);
        let name = input.name.clone();
        values.insert(name.clone(), Value::Computed(value));
        let output = output.name.clone();
        let mut makers = HashMap::new();
        for (index, node) in graph.node.iter().enumerate() {
            for name in node.output.iter().filter(|o| !o.is_empty()) {
                if values.contains_key(name) || makers.insert(name.clone(), index).is_some() {
                    return Err(bad(format!("value {name}: expected one node that makes it, got two")));
                }
            }
        }
        let needed = needed(&graph, &makers, &output);
        let mut uses = HashMap::from([(output.clone(), 1)]);
        for (node, _) in graph.node.iter().zip(&needed).filter(|(n, needed)| **needed && n.op_type != "Shape") {
            node.input.iter().for_each(|name| *uses.entry(name.clone()).or_default() += 1);
        }
        let builder = Builder { network, channels: 0, weights: 0, input: name, uses };
        Ok(Self { graph, opset, output, makers, needed, values, faults: BTreeMap::new(), builder })
    }

    fn network(mut self) -> Result<Network> {
        for index in 0..self.graph.node.len() {
            if self.needed[index] {
                self.node(index)?;
            }
        }
        if !self.faults.is_empty() {
            return Err(Error::Unsupported(self.unsupported()));
        }
        let output = self.output.clone();
        let value = match self.value(&output)? {
            Value::Computed(value) => value,
            _ => {
                return Err(bad(format!("output {output}: expected a value computed from the input, got a constant")));
            }
        };
        if value.order != value::Order::Same {
            self.builder.note("the scores are in the order (channels, height, width)".into());
        }
        let identity = Op::Activation(vec![Function::IDENTITY; value.shape.channels as usize]);
        self.builder.push(OUTPUT.into(), identity, vec![value.tensor], value.shape).map_err(bad)?;
        Ok(self.builder.network)
    }

    /// Translates one node.
    fn node(&mut self, index: usize) -> Result<()> {
        let mut inputs = self.inputs(index)?;
        let node = &self.graph.node[index];
        if !operators::reshapes(node) {
            self.faults.extend(no_ending(&mut inputs).map(|ending| (ending, operators::not_last())));
        }
        let outputs = match translate(node, index, &inputs, self.opset, &mut self.builder) {
            Ok(outputs) => outputs,
            Err(Fault::Damaged(e)) => {
                return Err(bad(format!("node {} ({}): {e}", label(node), node.op_type)));
            }
            Err(Fault::Unsupported { reason, advice }) => {
                self.faults.insert(index, (reason, advice));
                vec![Value::Unknown; node.output.len()]
            }
        };
        for (name, value) in node.output.iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
            self.values.insert(name.clone(), value);
        }
        Ok(())
    }

    fn inputs(&self, index: usize) -> Result<Vec<Option<Value>>> {
        let names = &self.graph.node[index].input;
        if names.len() > limits::NODE_INPUTS {
            let node = label(&self.graph.node[index]);
            return Err(bad(format!(
                "node {node}: expected at most {} inputs, got {}",
                limits::NODE_INPUTS,
                names.len()
            )));
        }
        names.iter().map(|name| if name.is_empty() { Ok(None) } else { self.value(name).map(Some) }).collect()
    }

    fn value(&self, name: &str) -> Result<Value> {
        if let Some(value) = self.values.get(name) {
            return Ok(value.clone());
        }
        Err(bad(match self.makers.get(name) {
            Some(&maker) => format!(
                "value {name}: expected a graph without cycles whose nodes stand in the order of computation, got one where it is \
                 read before node {} makes it, or an output that the compiler does not know",
                label(&self.graph.node[maker])
            ),
            None => format!("value {name}: expected a node that makes it, got none"),
        }))
    }

    fn unsupported(&mut self) -> Vec<UnsupportedNode> {
        let faults = std::mem::take(&mut self.faults);
        let named = |(index, (reason, advice))| {
            let node: &NodeProto = &self.graph.node[index];
            let operator =
                if node.domain.is_empty() { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) };
            UnsupportedNode { name: label(node), operator, reason, advice }
        };
        faults.into_iter().map(named).collect()
    }
}

/// Which nodes the output depends on.
fn needed(graph: &GraphProto, makers: &HashMap<String, usize>, output: &str) -> Vec<bool> {
    let mut needed = vec![false; graph.node.len()];
    let mut names = vec![output];
    while let Some(name) = names.pop() {
        if let Some(&index) = makers.get(name)
            && !std::mem::replace(&mut needed[index], true)
        {
            names.extend(graph.node[index].input.iter().map(String::as_str));
        }
    }
    needed
}

/// The outputs of one node.
fn translate(
    node: &NodeProto,
    index: usize,
    inputs: &[Option<Value>],
    opset: i64,
    builder: &mut Builder,
) -> std::result::Result<Vec<Value>, Fault> {
    let standard = node.domain.is_empty() || node.domain == "ai.onnx";
    if standard && node.op_type == "Constant" {
        let name = node.output.first().cloned().unwrap_or_default();
        return Ok(vec![Value::Constant(Rc::new(proto::TensorProto { name, ..constant::of_node(node)? }))]);
    }
    if let (true, Some(constants)) = (standard, constants(inputs)) {
        return fold(node, inputs, &constants, opset);
    }
    if let (true, "Shape", [Some(Value::Computed(x))]) = (standard, node.op_type.as_str(), inputs) {
        return Ok(vec![Value::Constant(Rc::new(shape_of(node, x)?))]);
    }
    let operator = operators::find(node)?;
    operator.check(node, inputs)?;
    if inputs.iter().flatten().any(|value| matches!(value, Value::Unknown)) {
        return Ok(vec![Value::Unknown; node.output.len()]);
    }
    let outputs = (operator.translate)(&mut Call { node, index, inputs, builder })?;
    Ok(outputs.into_iter().map(Value::Computed).collect())
}

/// The nodes whose results, left to the client, are inputs here; these become unknown.
fn no_ending(inputs: &mut [Option<Value>]) -> impl Iterator<Item = usize> {
    inputs.iter_mut().flatten().filter_map(|value| match value {
        Value::Computed(Computed { left_to_client: Some(ending), .. }) => {
            let ending = *ending;
            *value = Value::Unknown;
            Some(ending)
        }
        _ => None,
    })
}

/// The inputs, if there are some and all are constants.
fn constants(inputs: &[Option<Value>]) -> Option<Vec<&proto::TensorProto>> {
    let mut tensors = Vec::with_capacity(inputs.len());
    for value in inputs.iter().flatten() {
        match value {
            Value::Constant(tensor) => tensors.push(&**tensor),
            _ => return None,
        }
    }
    (!tensors.is_empty()).then_some(tensors)
}

/// The dimensions of a value, or those from `start` to `end`; the batch is 1.
fn shape_of(node: &NodeProto, x: &Computed) -> std::result::Result<proto::TensorProto, String> {
    let dims: Vec<i64> = std::iter::once(1).chain(x.dims.iter().map(|&d| i64::from(d))).collect();
    let rank = dims.len() as i64;
    let place = |p: i64| if p < 0 { p.saturating_add(rank) } else { p }.clamp(0, rank) as usize;
    let start = place(attributes::integer(node, "start", 0)?);
    let end = place(attributes::integer(node, "end", rank)?);
    let part = dims.get(start..end).unwrap_or_default().to_vec();
    Ok(constant::of_integers(vec![part.len() as i64], part))
}

/// Evaluates a node that reads constants alone.
fn fold(
    node: &NodeProto,
    inputs: &[Option<Value>],
    constants: &[&proto::TensorProto],
    opset: i64,
) -> std::result::Result<Vec<Value>, Fault> {
    if let ("Identity", [Some(value)]) = (node.op_type.as_str(), inputs) {
        return Ok(vec![value.clone()]);
    }
    // One for every output that has a name.
    let mut made = crate::engine::fold_constant(node, constants, opset).map_err(Fault::Damaged)?.into_iter();
    let value = |name: &String| {
        if name.is_empty() { Ok(Value::Unknown) } else { made.next().map(|t| Value::Constant(Rc::new(t))).ok_or("") }
    };
    node.output
        .iter()
        .map(value)
        .collect::<std::result::Result<_, _>>()
        .map_err(|_: &str| "expected more outputs".into())
}

fn input_value(input: &ValueInfoProto) -> Result<Computed> {
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
    if let Some(batch) = dims.first().filter(|d| d.dim_value > 1) {
        return Err(bad(format!(
            "input {}: expected a batch of 1 or of any size, got {}; export the model with a batch of 1",
            input.name, batch.dim_value
        )));
    }
    let shape = match dims.len() {
        2 => checked(fixed(1)?, 1, 1),
        4 => checked(fixed(1)?, fixed(2)?, fixed(3)?),
        rank => {
            return Err(bad(format!(
                "input {}: expected shape (batch, C, H, W) or (batch, K), got {rank} dimensions",
                input.name
            )));
        }
    };
    let shape = shape.map_err(|e| bad(format!("input {}: {e}", input.name)))?;
    Ok(if dims.len() == 2 { Computed::flat(0, shape) } else { Computed::image(0, shape) })
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
    let mut end = name.len().min(limits::NAME - 64);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].into()
}
