//! An ONNX file, run as it is.

use super::exact::exact;
use super::{Plan, element_type, guarded};
use crate::error::{Error, Result};
use prost::Message;
use std::collections::HashMap;
use tract_onnx::pb::{self, FunctionProto, NodeProto, tensor_shape_proto::dimension, type_proto};
use tract_onnx::prelude::{Framework, InferenceModelExt};
use tract_onnx::tract_core::internal::ensure;

/// Nodes after functions are replaced by their bodies.
const NODES: usize = 1 << 16;
/// How deep functions may call functions.
const DEPTH: usize = 8;

/// Runs an ONNX file as it is, through the engine; for comparing with what was compiled from it.
///
/// The file must have one input, of 32-bit reals, and one output. The batch is one input. Local functions are replaced by
/// their bodies; control flow and operators of other domains are refused.
///
/// Nothing bounds what the network computes on the way: run files that [`compile`](crate::compile) accepts.
pub struct OnnxRunner {
    dims: Vec<usize>,
    plan: Plan,
}

impl OnnxRunner {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Onnx`] if the file is damaged, or holds what is not run.
    pub fn new(onnx_bytes: &[u8]) -> Result<Self> {
        Self::read(onnx_bytes).map_err(Error::Onnx)
    }

    /// The output for one input of the network.
    ///
    /// # Errors
    /// [`Error::Samples`] if the input has another number of elements, [`Error::Onnx`] if the engine fails.
    pub fn run(&self, input: &[f32]) -> Result<Vec<f32>> {
        let elements: usize = self.dims.iter().product();
        if input.len() != elements {
            return Err(Error::Samples(format!(
                "expected an input of {elements} elements ({:?}), got {}",
                self.dims,
                input.len()
            )));
        }
        let mut outputs = self.plan.run(&self.dims, input, |_, output| output.to_vec()).map_err(Error::Onnx)?;
        outputs.pop().ok_or_else(|| Error::Onnx("expected an output, got none".into()))
    }

    fn read(bytes: &[u8]) -> std::result::Result<Self, String> {
        let mut model =
            pb::ModelProto::decode(bytes).map_err(|e| format!("expected an ONNX model, got damaged data: {e}"))?;
        let functions = std::mem::take(&mut model.functions);
        let graph = model.graph.as_mut().ok_or("expected a graph, got none")?;
        graph.node = Inliner::inline(&functions, std::mem::take(&mut graph.node))?;
        for node in &graph.node {
            check(node)?;
        }
        // Files of old versions list constants among the inputs.
        let constants: Vec<String> = graph.initializer.iter().map(|t| t.name.clone()).collect();
        graph.input.retain(|input| !constants.contains(&input.name));
        let [input] = graph.input.as_mut_slice() else {
            return Err(format!("expected a graph of one input, got {}", graph.input.len()));
        };
        let dims = one_input(input)?;
        let [output] = graph.output.as_mut_slice() else {
            return Err(format!("expected a graph of one output, got {}", graph.output.len()));
        };
        let made = graph.node.iter().flat_map(|n| &n.output).any(|name| *name == output.name);
        if !made {
            return Err(format!("expected a node that makes the output {}, got none", output.name));
        }
        // Its shape may be that of another batch.
        output.r#type = None;
        let plan = guarded(|| {
            let engine = tract_onnx::onnx().with_ignore_value_info(true);
            let model = exact(&engine.model_for_proto_model(&model)?.into_typed()?)?.into_decluttered()?;
            // Shapes that contradict each other stay symbolic.
            let shape = &model.output_fact(0)?.shape;
            ensure!(
                shape.as_concrete().is_some(),
                "expected shapes that agree and are fixed, got an output of {shape:?}"
            );
            Plan::new(model)
        })?;
        Ok(Self { dims, plan })
    }
}

/// Fixes the batch of the input to one; gives the input's dimensions.
fn one_input(input: &mut pb::ValueInfoProto) -> std::result::Result<Vec<usize>, String> {
    let name = &input.name;
    let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_mut().and_then(|t| t.value.as_mut()) else {
        return Err(format!("input {name}: expected a tensor"));
    };
    let Some(shape) = tensor.shape.as_mut().filter(|_| tensor.elem_type == element_type::FLOAT) else {
        return Err(format!("input {name}: expected a shape, and elements of 32-bit reals"));
    };
    if let Some(batch) = shape.dim.first_mut()
        && !matches!(batch.value, Some(dimension::Value::DimValue(1..)))
    {
        batch.value = Some(dimension::Value::DimValue(1));
    }
    let mut elements = 1usize;
    let mut dims = Vec::with_capacity(shape.dim.len());
    for (i, dim) in shape.dim.iter().enumerate() {
        let size = match dim.value {
            Some(dimension::Value::DimValue(size)) => usize::try_from(size).ok().filter(|&s| s > 0),
            _ => None,
        };
        let size = size.filter(|&s| i > 0 || s == 1);
        let size = size.ok_or_else(|| {
            format!("input {name}: expected a batch of 1 and fixed positive dimensions, got {:?}", dim.value)
        })?;
        elements = elements
            .checked_mul(size)
            .filter(|&n| n <= safenet_core::model::limits::ELEMENTS)
            .ok_or_else(|| format!("input {name}: too many elements"))?;
        dims.push(size);
    }
    Ok(dims)
}

/// What the engine would take for something else, or recurse into.
fn check(node: &NodeProto) -> std::result::Result<(), String> {
    let label = if node.name.is_empty() { &node.op_type } else { &node.name };
    if !["", "ai.onnx"].contains(&node.domain.as_str()) {
        return Err(format!("node {label}: expected ONNX's own operators, got {} of {}", node.op_type, node.domain));
    }
    if node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty()) {
        return Err(format!("node {label}: expected no control flow, got {}", node.op_type));
    }
    Ok(())
}

/// Replaces calls of functions by the functions' bodies.
struct Inliner<'a> {
    functions: HashMap<(&'a str, &'a str), &'a FunctionProto>,
    nodes: Vec<NodeProto>,
    calls: usize,
}

impl<'a> Inliner<'a> {
    fn inline(functions: &'a [FunctionProto], nodes: Vec<NodeProto>) -> std::result::Result<Vec<NodeProto>, String> {
        let key = |f: &'a FunctionProto| (f.domain(), f.name());
        let mut inliner =
            Self { functions: functions.iter().map(|f| (key(f), f)).collect(), nodes: Vec::new(), calls: 0 };
        for node in nodes {
            inliner.node(node, 0)?;
        }
        Ok(inliner.nodes)
    }

    fn node(&mut self, node: NodeProto, depth: usize) -> std::result::Result<(), String> {
        let Some(&function) = self.functions.get(&(node.domain.as_str(), node.op_type.as_str())) else {
            self.nodes.push(node);
            return if self.nodes.len() <= NODES {
                Ok(())
            } else {
                Err(format!("expected at most {NODES} nodes with functions replaced by their bodies, got more"))
            };
        };
        if depth == DEPTH {
            return Err(format!("function {}: expected calls at most {DEPTH} deep, got more", node.op_type));
        }
        self.calls += 1;
        if self.calls > NODES {
            return Err(format!("expected at most {NODES} calls of functions, got more"));
        }
        // Values within the body get names of their own for each call; a parameter that is not given is absent.
        let mut names: HashMap<&str, String> = HashMap::new();
        for (parameters, given) in [(&function.input, &node.input), (&function.output, &node.output)] {
            if given.len() > parameters.len() {
                return Err(format!(
                    "function {}: expected at most {} inputs or outputs, got {}",
                    node.op_type,
                    parameters.len(),
                    given.len()
                ));
            }
            let given = given.iter().cloned().chain(std::iter::repeat(String::new()));
            names.extend(parameters.iter().map(String::as_str).zip(given));
        }
        for output in function.output.iter().chain(function.node.iter().flat_map(|n| &n.output)) {
            let name = names.entry(output).or_default();
            if name.is_empty() && !output.is_empty() {
                *name = format!("call {} of {}: {output}", self.calls, node.op_type);
            }
        }
        for inner in &function.node {
            let mut inner = inner.clone();
            for name in inner.input.iter_mut().chain(&mut inner.output).filter(|name| !name.is_empty()) {
                *name = names
                    .get(name.as_str())
                    .cloned()
                    .ok_or_else(|| format!("function {}: expected a value of its body, got {name}", node.op_type))?;
            }
            inner.name = format!("call {} of {}: {}", self.calls, node.op_type, inner.output.first().map_or("", |n| n));
            for attribute in std::mem::take(&mut inner.attribute) {
                if attribute.ref_attr_name.is_empty() {
                    inner.attribute.push(attribute);
                } else if let Some(given) = node.attribute.iter().find(|a| a.name == attribute.ref_attr_name) {
                    inner.attribute.push(pb::AttributeProto { name: attribute.name, ..given.clone() });
                }
            }
            self.node(inner, depth + 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::Samples;
    use pb::attribute_proto::AttributeType;

    /// The digits of models/mnist-test.npz: as many right as onnxruntime says (models/README.md).
    #[test]
    fn the_digits_of_the_repository() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        let read = |name: &str| std::fs::read(folder.join(name));
        let Ok(samples) = read("mnist-test.npz") else { return };
        let samples = Samples::from_npz(&samples).unwrap();
        for (name, expected) in [("mnist-relu.onnx", 995), ("mnist-mixed.onnx", 993)] {
            let Ok(file) = read(name) else { continue };
            let runner = OnnxRunner::new(&file).unwrap();
            let right = samples.iter().zip(samples.labels().unwrap()).filter(|(image, label)| {
                let scores = runner.run(image).unwrap();
                let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
                best == Some(**label as usize)
            });
            assert_eq!(right.count(), expected, "{name}");
        }
    }

    fn node(domain: &str, op: &str, input: &[&str], output: &str) -> NodeProto {
        NodeProto {
            domain: domain.into(),
            op_type: op.into(),
            input: input.iter().map(|&s| s.into()).collect(),
            output: vec![output.into()],
            ..Default::default()
        }
    }

    fn function(name: &str, input: &[&str], node: Vec<NodeProto>) -> FunctionProto {
        FunctionProto {
            name: Some(name.into()),
            domain: Some("local".into()),
            input: input.iter().map(|&s| s.into()).collect(),
            output: vec!["Y".into()],
            node,
            ..Default::default()
        }
    }

    /// y = leak(2·c·(2·c·x)) + c, where leak and 2·c·x are functions, and doubling is one that the latter calls.
    fn model() -> pb::ModelProto {
        let twice = function("Twice", &["X"], vec![node("", "Add", &["X", "X"], "Y")]);
        let scale = vec![node("", "Mul", &["X", "factor"], "t"), node("local", "Twice", &["t"], "Y")];
        let mut leaky = node("", "LeakyRelu", &["X"], "Y");
        leaky.attribute = vec![pb::AttributeProto {
            name: "alpha".into(),
            ref_attr_name: "slope".into(),
            r#type: AttributeType::Float as i32,
            ..Default::default()
        }];
        let mut leak = node("local", "Leak", &["b"], "t");
        leak.attribute = vec![pb::AttributeProto {
            name: "slope".into(),
            f: 0.5,
            r#type: AttributeType::Float as i32,
            ..Default::default()
        }];
        let dim = [dimension::Value::DimParam("batch".into()), dimension::Value::DimValue(2)]
            .map(|value| pb::tensor_shape_proto::Dimension { value: Some(value), ..Default::default() });
        let tensor = type_proto::Tensor {
            elem_type: element_type::FLOAT,
            shape: Some(pb::TensorShapeProto { dim: dim.into() }),
        };
        let r#type = Some(pb::TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() });
        let named = |name: &str| pb::ValueInfoProto { name: name.into(), r#type: r#type.clone(), ..Default::default() };
        let graph = pb::GraphProto {
            node: vec![
                node("local", "Scale", &["x", "c"], "a"),
                node("local", "Scale", &["a", "c"], "b"),
                leak,
                node("", "Add", &["t", "c"], "y"),
            ],
            input: vec![named("x"), named("c")],
            output: vec![named("y")],
            initializer: vec![pb::TensorProto {
                name: "c".into(),
                dims: vec![2],
                data_type: element_type::FLOAT,
                float_data: vec![0.25, -1.0],
                ..Default::default()
            }],
            ..Default::default()
        };
        let import = |domain: &str| pb::OperatorSetIdProto { domain: domain.into(), version: 17 };
        pb::ModelProto {
            ir_version: 8,
            opset_import: vec![import(""), import("local")],
            functions: vec![twice, function("Scale", &["X", "factor"], scale), function("Leak", &["X"], vec![leaky])],
            graph: Some(graph),
            ..Default::default()
        }
    }

    #[test]
    fn functions_are_replaced_by_their_bodies() {
        let runner = OnnxRunner::new(&model().encode_to_vec()).unwrap();
        // (2 · 0.25)² = 0.25, (2 · -1)² = 4.
        assert_eq!(runner.run(&[8.0, 1.0]).unwrap(), [2.25, 3.0]);
        assert_eq!(runner.run(&[-8.0, -1.0]).unwrap(), [-0.75, -3.0]);
        assert!(runner.run(&[1.0]).unwrap_err().to_string().contains("expected an input of 2 elements"));
    }

    #[test]
    fn other_files_are_refused() {
        let refused = |change: &dyn Fn(&mut pb::ModelProto), why: &str| {
            let mut model = model();
            change(&mut model);
            match OnnxRunner::new(&model.encode_to_vec()) {
                Ok(_) => panic!("accepted, expected: {why}"),
                Err(error) => assert!(error.to_string().contains(why), "{error}"),
            }
        };
        assert!(OnnxRunner::new(b"no model").err().unwrap().to_string().contains("damaged"));
        fn graph(m: &mut pb::ModelProto) -> &mut pb::GraphProto {
            m.graph.as_mut().unwrap()
        }
        refused(&|m| m.graph = None, "expected a graph");
        refused(&|m| m.functions.clear(), "Scale of local");
        refused(&|m| m.functions[0].node = vec![node("local", "Twice", &["X"], "Y")], "at most 8 deep");
        refused(
            &|m| {
                m.functions[0].node = vec![node("local", "Leak", &["X"], "Y"); 300];
                m.functions[2].node = vec![node("", "Relu", &["X"], "Y"); 300];
            },
            "at most 65536 nodes",
        );
        refused(&|m| m.functions[0].node[0].input[0] = "elsewhere".into(), "got elsewhere");
        refused(&|m| graph(m).initializer.clear(), "one input, got 2");
        refused(&|m| graph(m).output[0].name = "nothing".into(), "makes the output nothing");
        refused(&|m| graph(m).output.clear(), "one output, got 0");
        refused(&|m| graph(m).node[0].input[0] = "nothing".into(), "resolve");
        refused(&|m| graph(m).node[3].op_type = "Unheard".into(), "Unheard");
        refused(
            &|m| {
                graph(m).node[3].attribute = vec![pb::AttributeProto {
                    name: "body".into(),
                    r#type: AttributeType::Graph as i32,
                    g: Some(pb::GraphProto::default()),
                    ..Default::default()
                }]
            },
            "no control flow",
        );
        let size = |m: &mut pb::ModelProto, axis: usize, size: i64| {
            let r#type = graph(m).input[0].r#type.as_mut().unwrap();
            let Some(type_proto::Value::TensorType(tensor)) = r#type.value.as_mut() else { unreachable!() };
            tensor.shape.as_mut().unwrap().dim[axis].value = Some(dimension::Value::DimValue(size));
        };
        refused(&|m| size(m, 0, 2), "a batch of 1");
        refused(&|m| size(m, 1, -1), "fixed positive dimensions");
        refused(&|m| size(m, 1, 1 << 40), "too many elements");
        refused(&|m| size(m, 1, 3), "shapes that agree");
    }
}
