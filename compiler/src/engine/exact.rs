//! Nodes that the engine's optimiser takes for others, in forms that it leaves alone.
//!
//! It is wrong about three things, all of them common in networks:
//!
//! - `c - conv(x)` becomes a convolution of bias `c - b` with the weights of `conv`, not their negatives;
//! - every n-th row or column of a convolution becomes a convolution of n times the stride, also where the first row taken
//!   is not the first one there is, or where the padding follows from the stride (`auto_pad`);
//! - a convolution of one tap with a stride becomes one without, on every n-th row and column of its input; these are pulled
//!   up through the nodes before it, to convolutions at which the rule above applies.

use std::collections::HashMap;
use tract_onnx::prelude::{Datum, SpecialOps, TVec, TractResult, TypedModel, TypedNode, tvec};
use tract_onnx::tract_core::internal::{OutletId, Tensor, TypedFact, TypedOp};
use tract_onnx::tract_core::model::translator::{IntoTranslator, Translate};
use tract_onnx::tract_core::ops::array::{Gather, StridedSlice};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, PaddingSpec};
use tract_onnx::tract_core::ops::math;

/// The same model, of nodes that stay what they are when it is optimised.
pub(super) fn exact(model: &TypedModel) -> TractResult<TypedModel> {
    Exact.translate_model(model)
}

#[derive(Debug)]
struct Exact;

impl Translate<TypedFact, Box<dyn TypedOp>, TypedFact, Box<dyn TypedOp>> for Exact {
    fn translate_node(
        &self,
        source: &TypedModel,
        node: &TypedNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let inputs: TVec<OutletId> = node.inputs.iter().map(|input| mapping[input]).collect();
        if node.op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<math::Sub>())
            && target.outlet_fact(inputs[1])?.datum_type == f32::datum_type()
        {
            let negative = target.wire_node(format!("{}.negative", node.name), math::neg(), &inputs[1..])?;
            return target.wire_node(&node.name, math::add(), &[inputs[0], negative[0]]);
        }
        if let Some(conv) = node.op_as::<Conv>()
            && let Some(conv) = explicit(conv, target.outlet_fact(inputs[0])?)?
        {
            return target.wire_node(&node.name, conv, &inputs);
        }
        if let Some(slice) = node.op_as::<StridedSlice>()
            && let Some(places) = places(slice, target, &inputs)?
        {
            let mut wire = inputs[0];
            for (axis, places) in places {
                let name = format!("{}.axis{axis}", node.name);
                let places =
                    target.add_const(format!("{name}.places"), Tensor::from_shape(&[places.len()], &places)?)?;
                wire = target.wire_node(name, Gather::new(axis), &[wire, places])?[0];
            }
            return Ok(tvec![wire]);
        }
        IntoTranslator.translate_node(source, node, target, mapping)
    }
}

/// A convolution with its padding in numbers, and in the form that pooling has it in: at that form the optimiser does not
/// make strides anything else. `None` if there is nothing to guard.
fn explicit(conv: &Conv, input: &TypedFact) -> TractResult<Option<Conv>> {
    let spec = &conv.pool_spec;
    let ruled = matches!(spec.padding, PaddingSpec::SameUpper | PaddingSpec::SameLower);
    let Some(shape) = input.shape.as_concrete().filter(|_| ruled || spec.strides().iter().any(|&s| s > 1)) else {
        return Ok(None);
    };
    let shape = spec.data_format.shape(shape)?;
    let (before, after) =
        spec.computed_padding(shape.hw_dims()).into_iter().map(|axis| (axis.pad_before, axis.pad_after)).unzip();
    let mut conv = conv.clone();
    conv.pool_spec.padding = PaddingSpec::ExplicitOnnxPool(before, after, false);
    Ok(Some(conv))
}

/// Axes, and which of their places are taken.
type Places = Vec<(usize, Vec<i64>)>;

/// The places that a slice with steps takes along each of its axes; `None` if it has no steps, or runs backwards.
fn places(slice: &StridedSlice, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Option<Places>> {
    let constant = |input: usize| -> TractResult<Option<Vec<i64>>> {
        let Some(tensor) = &model.outlet_fact(inputs[input])?.konst else { return Ok(None) };
        Ok(Some(tensor.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.to_vec()))
    };
    let (Some(begins), Some(ends), Some(steps)) = (constant(1)?, constant(2)?, slice.optional_steps_input) else {
        return Ok(None);
    };
    let Some(steps) = constant(steps)?.filter(|s| s.iter().all(|&s| s > 0) && s.iter().any(|&s| s > 1)) else {
        return Ok(None);
    };
    let axes = match slice.optional_axes_input {
        Some(axes) => constant(axes)?,
        None => Some((0..begins.len() as i64).collect()),
    };
    let (Some(axes), Some(shape)) = (axes, model.outlet_fact(inputs[0])?.shape.as_concrete()) else {
        return Ok(None);
    };
    let mut all = Vec::with_capacity(axes.len());
    for (i, axis) in axes.into_iter().enumerate() {
        let axis = if axis < 0 { axis + shape.len() as i64 } else { axis } as usize;
        let size = shape[axis] as i64;
        let place = |p: i64| if p < 0 { p.saturating_add(size) } else { p }.clamp(0, size);
        all.push((axis, (place(begins[i])..place(ends[i])).step_by(steps[i] as usize).collect()));
    }
    Ok(Some(all))
}

#[cfg(test)]
mod tests {
    use crate::engine::OnnxRunner;
    use crate::onnx::proto::*;
    use prost::Message;

    fn node(op: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
        let input = input.iter().map(|&name| name.into()).collect();
        NodeProto { op_type: op.into(), input, output: vec![output.into()], attribute, ..Default::default() }
    }

    fn strides(horizontal: i64) -> AttributeProto {
        AttributeProto { name: "strides".into(), ints: vec![1, horizontal], r#type: 7, ..Default::default() }
    }

    /// Runs nodes from `x`, a row of pixels that count from 1, to `y`. `c` is one pixel of value 5, `kernel` a row of powers
    /// of ten.
    fn run(pixels: usize, kernel: usize, node: Vec<NodeProto>) -> Vec<f32> {
        let reals = |name: &str, row: Vec<f32>| TensorProto {
            name: name.into(),
            dims: vec![1, 1, 1, row.len() as i64],
            data_type: element_type::FLOAT,
            float_data: row,
            ..Default::default()
        };
        let integer = |name: &str, number: i64| TensorProto {
            name: name.into(),
            dims: vec![1],
            data_type: element_type::INT64,
            int64_data: vec![number],
            ..Default::default()
        };
        let initializer = vec![
            reals("kernel", (0..kernel).map(|i| 10f32.powi(i as i32)).collect()),
            reals("c", vec![5.0]),
            reals("one", vec![1.0]),
            integer("1", 1),
            integer("2", 2),
            integer("3", 3),
            integer("end", i64::MAX),
        ];
        let dim = [1, 1, 1, pixels as i64].map(|dim_value| DimensionProto { dim_value, ..Default::default() });
        let tensor_type = Some(TensorTypeProto { elem_type: 1, shape: Some(TensorShapeProto { dim: dim.into() }) });
        let graph = GraphProto {
            node,
            initializer,
            input: vec![ValueInfoProto { name: "x".into(), r#type: Some(TypeProto { tensor_type }) }],
            output: vec![ValueInfoProto { name: "y".into(), r#type: None }],
            ..Default::default()
        };
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 15 }];
        let model = ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() };
        let x: Vec<f32> = (1..=pixels).map(|pixel| pixel as f32).collect();
        OnnxRunner::new(&model.encode_to_vec()).unwrap().run(&x).unwrap()
    }

    #[test]
    fn a_convolution_is_subtracted() {
        let nodes = vec![node("Conv", &["x", "kernel"], "a", vec![]), node("Sub", &["c", "a"], "y", vec![])];
        assert_eq!(run(3, 2, nodes), [-16.0, -27.0]);
    }

    #[test]
    fn every_second_place_of_a_convolution() {
        let conv = node("Conv", &["x", "kernel"], "a", vec![]);
        let slice = node("Slice", &["a", "1", "end", "3", "2"], "y", vec![]);
        assert_eq!(run(6, 2, vec![conv.clone(), slice]), [32.0, 54.0]);
        // The same by a convolution of one tap.
        let slice = node("Slice", &["a", "1", "end", "3"], "b", vec![]);
        let tap = node("Conv", &["b", "one"], "y", vec![strides(2)]);
        assert_eq!(run(6, 2, vec![conv, slice, tap]), [32.0, 54.0]);
    }

    #[test]
    fn padding_by_rule_stays_what_it_is_without_the_stride() {
        let same = AttributeProto { name: "auto_pad".into(), s: b"SAME_UPPER".into(), r#type: 3, ..Default::default() };
        let conv = node("Conv", &["x", "kernel"], "a", vec![same]);
        let tap = node("Conv", &["a", "one"], "y", vec![strides(2)]);
        assert_eq!(run(4, 3, vec![conv, tap]), [210.0, 432.0]);
    }
}
