//! Values of nodes all of whose inputs are constants.

use super::{element_type, guarded, parse};
use crate::onnx::proto::{AttributeProto, NodeProto, TensorProto};
use tract_onnx::data_resolver::MmapDataResolver;
use tract_onnx::pb;
use tract_onnx::prelude::{DatumType, InferenceModelExt, IntoRunnable, Tensor, TractResult, tvec};
use tract_onnx::tensor::load_tensor;
use tract_onnx::tract_core::internal::{Datum, TDim, bail, format_err};

/// Elements that a computed constant has at most.
const LARGEST: u128 = 1 << 26;

/// Computes a node all of whose inputs are constants: `inputs` are those of the node's inputs that have a name, in order.
/// `opset` is the version of the operator set. The result has a tensor for every output that has a name.
///
/// Only operators whose results' size is known from their inputs beforehand are computed, so that a small file cannot ask
/// for a large one.
///
/// # Errors
/// What is expected of such a node, or what the engine says of it.
pub(crate) fn fold_constant(node: &NodeProto, inputs: &[&TensorProto], opset: i64) -> Result<Vec<TensorProto>, String> {
    let named: Vec<&String> = node.input.iter().filter(|name| !name.is_empty()).collect();
    if named.len() != inputs.len() {
        return Err(format!("expected {} constants for its inputs, got {}", named.len(), inputs.len()));
    }
    let mut remaining = inputs.iter();
    let by_place: Vec<Option<&TensorProto>> =
        node.input.iter().map(|name| if name.is_empty() { None } else { remaining.next().copied() }).collect();
    match elements(node, &by_place) {
        Some(count) if count <= LARGEST => {}
        Some(count) => {
            return Err(format!("expected a constant of at most {LARGEST} elements, got up to {count}"));
        }
        None => {
            return Err(format!(
                "expected an operator and inputs from which a constant can be computed, got {} of shapes {:?}",
                node.op_type,
                inputs.iter().map(|t| &t.dims).collect::<Vec<_>>()
            ));
        }
    }
    let mut initializer: Vec<pb::TensorProto> = Vec::with_capacity(inputs.len());
    for (name, tensor) in named.iter().zip(inputs) {
        if !initializer.iter().any(|t| t.name == **name) {
            initializer.push(tensor_for_engine(tensor, name)?);
        }
    }
    let outputs: Vec<&String> = node.output.iter().filter(|name| !name.is_empty()).collect();
    if let ("Cast", [tensor], [output]) = (node.op_type.as_str(), initializer.as_slice(), outputs.as_slice()) {
        // The engine's operator casts to int64 by way of int32.
        let to = node.attribute.iter().find(|a| a.name == "to").map(|a| a.i as i32).and_then(datum_type);
        let to = to.ok_or("Cast: expected a cast to float, double, int32, int64 or bool, got another")?;
        let value = load(tensor)?;
        let value = guarded(|| tensor_from_engine(value.cast_to_dt(to)?.as_ref(), output))?;
        return Ok(vec![value]);
    }
    let mut attributes = node.attribute.iter().map(attribute_for_engine).collect::<Result<Vec<_>, _>>()?;
    if node.op_type == "ConstantOfShape" && attributes.is_empty() {
        // The engine's default is a zero in double precision, ONNX's is one in single precision.
        attributes.push(pb::AttributeProto {
            name: "value".into(),
            r#type: pb::attribute_proto::AttributeType::Tensor as i32,
            t: Some(pb::TensorProto {
                dims: vec![1],
                data_type: element_type::FLOAT,
                float_data: vec![0.0],
                ..Default::default()
            }),
            ..Default::default()
        });
    }
    let graph = pb::GraphProto {
        node: vec![pb::NodeProto {
            op_type: node.op_type.clone(),
            name: node.name.clone(),
            input: node.input.clone(),
            output: node.output.clone(),
            attribute: attributes,
            ..Default::default()
        }],
        initializer,
        output: outputs.iter().map(|name| pb::ValueInfoProto { name: (*name).clone(), ..Default::default() }).collect(),
        ..Default::default()
    };
    guarded(|| {
        let values = parse(graph, opset)?.into_typed()?.into_runnable()?.run(tvec![])?;
        values.iter().zip(&outputs).map(|(value, name)| tensor_from_engine(value, name)).collect()
    })
}

/// A bound on the elements of all results of a node together; none if it is not known.
fn elements(node: &NodeProto, inputs: &[Option<&TensorProto>]) -> Option<u128> {
    let dims = |i: usize| inputs.get(i).copied().flatten().map(|t| t.dims.as_slice());
    let values = |i: usize| inputs.get(i).copied().flatten().and_then(numbers);
    // Sizes are given as int64; they saturate here, far above the limit.
    let sizes = |i: usize| Some(values(i)?.into_iter().map(|x| x as i64).collect::<Vec<i64>>());
    let given = || inputs.iter().flatten();
    match node.op_type.as_str() {
        "Abs" | "Cast" | "Ceil" | "CumSum" | "Exp" | "Flatten" | "Floor" | "Identity" | "Log" | "Neg" | "Not"
        | "Reciprocal" | "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceSum" | "Relu" | "Reshape"
        | "Round" | "Sigmoid" | "Sign" | "Slice" | "Split" | "Sqrt" | "Squeeze" | "Tanh" | "Transpose"
        | "Unsqueeze" => product(dims(0)?),
        "Shape" => Some(dims(0)?.len() as u128),
        "Size" => Some(1),
        "Add" | "And" | "Clip" | "Div" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Max"
        | "Min" | "Mod" | "Mul" | "Or" | "Pow" | "Sub" | "Where" | "Xor" => {
            let shape = given().try_fold(Vec::new(), |shape, t| broadcast(&shape, &t.dims))?;
            product(&shape)
        }
        "MatMul" => {
            let [a, b] = [dims(0)?, dims(1)?];
            let (a, b) = (a.split_at(a.len().saturating_sub(2)), b.split_at(b.len().saturating_sub(2)));
            // Of a matrix, the sides that stay; a vector is summed over.
            let rows = if a.1.len() == 2 { a.1[0] } else { 1 };
            let columns = if b.1.len() == 2 { b.1[1] } else { 1 };
            product(&broadcast(a.0, b.0)?)?.checked_mul(product(&[rows, columns])?)
        }
        "Concat" => given().try_fold(0u128, |sum, t| sum.checked_add(product(&t.dims)?)),
        "Gather" => {
            let (data, axis) = (dims(0)?, node.attribute.iter().find(|a| a.name == "axis").map_or(0, |a| a.i));
            let axis = usize::try_from(if axis < 0 { axis.checked_add(data.len() as i64)? } else { axis }).ok()?;
            let mut rest = data.to_vec();
            *rest.get_mut(axis)? = 1;
            product(&rest)?.checked_mul(product(dims(1)?)?)
        }
        "GatherElements" => product(dims(1)?),
        "ConstantOfShape" => product(&sizes(0)?),
        "Expand" => product(&broadcast(dims(0)?, &sizes(1)?)?),
        "Tile" => product(dims(0)?)?.checked_mul(product(&sizes(1)?)?),
        "Range" => {
            let number = |i: usize| values(i).and_then(|v| v.first().copied());
            let count = ((number(1)? - number(0)?) / number(2)?).ceil();
            (!count.is_nan()).then_some(count as u128)
        }
        _ => None,
    }
}

/// The elements of a constant.
fn numbers(tensor: &TensorProto) -> Option<Vec<f64>> {
    let tensor = load(&tensor_for_engine(tensor, "").ok()?).ok()?;
    guarded(|| Ok(tensor.cast_to::<f64>()?.try_as_plain_ram()?.as_slice::<f64>()?.to_vec())).ok()
}

fn load(tensor: &pb::TensorProto) -> Result<Tensor, String> {
    guarded(|| load_tensor(&MmapDataResolver, tensor, None))
}

fn datum_type(element_type: i32) -> Option<DatumType> {
    match element_type {
        element_type::FLOAT => Some(DatumType::F32),
        element_type::DOUBLE => Some(DatumType::F64),
        element_type::INT32 => Some(DatumType::I32),
        element_type::INT64 => Some(DatumType::I64),
        element_type::BOOL => Some(DatumType::Bool),
        _ => None,
    }
}

/// The number of elements of a shape.
fn product(dims: &[i64]) -> Option<u128> {
    dims.iter().try_fold(1u128, |n, &d| n.checked_mul(u128::try_from(d).ok()?))
}

/// The shape of what is computed element by element from two tensors: dimensions align at the right, 1 fits any.
fn broadcast(a: &[i64], b: &[i64]) -> Option<Vec<i64>> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let mut shape = long.to_vec();
    for (d, &other) in shape[long.len() - short.len()..].iter_mut().zip(short) {
        *d = match (*d, other) {
            (d, 1) => d,
            (1, other) => other,
            (d, other) if d == other => d,
            _ => return None,
        };
    }
    Some(shape)
}

fn tensor_for_engine(tensor: &TensorProto, name: &str) -> Result<pb::TensorProto, String> {
    if datum_type(tensor.data_type).is_none() {
        return Err(format!(
            "constant {name}: expected elements of float, double, int32, int64 or bool, got type {}",
            tensor.data_type
        ));
    }
    if tensor.data_location != 0 {
        return Err(format!(
            "constant {name}: expected its elements in the file, got a reference to another; save the model as one file"
        ));
    }
    Ok(pb::TensorProto {
        name: name.into(),
        dims: tensor.dims.clone(),
        data_type: tensor.data_type,
        float_data: tensor.float_data.clone(),
        int32_data: tensor.int32_data.clone(),
        int64_data: tensor.int64_data.clone(),
        double_data: tensor.double_data.clone(),
        raw_data: tensor.raw_data.clone(),
        ..Default::default()
    })
}

fn attribute_for_engine(attribute: &AttributeProto) -> Result<pb::AttributeProto, String> {
    Ok(pb::AttributeProto {
        name: attribute.name.clone(),
        r#type: attribute.r#type,
        f: attribute.f,
        i: attribute.i,
        s: attribute.s.clone(),
        t: attribute.t.as_ref().map(|t| tensor_for_engine(t, &attribute.name)).transpose()?,
        floats: attribute.floats.clone(),
        ints: attribute.ints.clone(),
        ..Default::default()
    })
}

fn tensor_from_engine(tensor: &Tensor, name: &str) -> TractResult<TensorProto> {
    // The engine computes sizes, and casts to int64, in a type of its own.
    let narrow = if tensor.datum_type() == TDim::datum_type() { Some(tensor.cast_to::<i64>()?) } else { None };
    let tensor = narrow.as_deref().unwrap_or(tensor);
    macro_rules! bytes {
        ($t:ty) => {
            tensor.try_as_plain_ram()?.as_slice::<$t>()?.iter().flat_map(|x| x.to_le_bytes()).collect()
        };
    }
    let (data_type, raw_data) = match tensor.datum_type() {
        DatumType::F32 => (element_type::FLOAT, bytes!(f32)),
        DatumType::F64 => (element_type::DOUBLE, bytes!(f64)),
        DatumType::I32 => (element_type::INT32, bytes!(i32)),
        DatumType::I64 => (element_type::INT64, bytes!(i64)),
        DatumType::Bool => {
            let truth = tensor.try_as_plain_ram()?.as_slice::<bool>()?.iter();
            (element_type::BOOL, truth.map(|&b| b.into()).collect())
        }
        other => bail!("expected a result of float, double, int32, int64 or bool, got {other:?}"),
    };
    let dims = tensor.shape().iter().map(|&d| i64::try_from(d).map_err(|e| format_err!("{e}")));
    Ok(TensorProto {
        name: name.into(),
        dims: dims.collect::<TractResult<_>>()?,
        data_type,
        raw_data,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integers(dims: &[i64], values: &[i64]) -> TensorProto {
        TensorProto {
            dims: dims.to_vec(),
            data_type: element_type::INT64,
            int64_data: values.to_vec(),
            ..Default::default()
        }
    }

    fn reals(dims: &[i64], values: &[f32]) -> TensorProto {
        TensorProto {
            dims: dims.to_vec(),
            data_type: element_type::FLOAT,
            float_data: values.to_vec(),
            ..Default::default()
        }
    }

    fn doubles(dims: &[i64], values: &[f64]) -> TensorProto {
        TensorProto {
            dims: dims.to_vec(),
            data_type: element_type::DOUBLE,
            double_data: values.to_vec(),
            ..Default::default()
        }
    }

    fn int(name: &str, i: i64) -> AttributeProto {
        AttributeProto { name: name.into(), i, r#type: 2, ..Default::default() }
    }

    fn ints(name: &str, ints: &[i64]) -> AttributeProto {
        AttributeProto { name: name.into(), ints: ints.to_vec(), r#type: 7, ..Default::default() }
    }

    fn fold(op: &str, attribute: &[AttributeProto], opset: i64, inputs: &[TensorProto]) -> Result<TensorProto, String> {
        let node = NodeProto {
            op_type: op.into(),
            input: (0..inputs.len()).map(|i| format!("x{i}")).collect(),
            output: vec!["y".into()],
            attribute: attribute.to_vec(),
            ..Default::default()
        };
        let mut results = fold_constant(&node, &inputs.iter().collect::<Vec<_>>(), opset)?;
        assert_eq!(results.len(), 1);
        Ok(results.remove(0))
    }

    fn expect_integers(got: Result<TensorProto, String>, dims: &[i64], values: &[i64]) {
        let got = got.unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!((got.data_type, got.dims, got.raw_data), (element_type::INT64, dims.to_vec(), bytes));
    }

    fn expect_reals(got: Result<TensorProto, String>, dims: &[i64], values: &[f32]) {
        let got = got.unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!((got.data_type, got.dims, got.raw_data), (element_type::FLOAT, dims.to_vec(), bytes));
    }

    /// What PyTorch writes for `x.view(x.size(0), -1)`: the shape, its first element, and that before -1.
    #[test]
    fn pytorchs_flatten() {
        let shape = integers(&[4], &[1, 16, 5, 5]);
        let batch = fold("Gather", &[int("axis", 0)], 17, &[shape, integers(&[], &[0])]);
        expect_integers(batch.clone(), &[], &[1]);
        let row = fold("Unsqueeze", &[], 17, &[batch.unwrap(), integers(&[1], &[0])]);
        expect_integers(row.clone(), &[1], &[1]);
        let old = fold("Unsqueeze", &[ints("axes", &[0])], 11, &[integers(&[], &[1])]);
        expect_integers(old, &[1], &[1]);
        let target = fold("Concat", &[int("axis", 0)], 17, &[row.unwrap(), integers(&[1], &[-1])]);
        expect_integers(target.clone(), &[2], &[1, -1]);
        let x = reals(&[1, 2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
        expect_reals(fold("Reshape", &[], 17, &[x, target.unwrap()]), &[1, 4], &[1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn shapes_and_sizes() {
        let x = || reals(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        expect_reals(fold("Transpose", &[ints("perm", &[1, 0])], 13, &[x()]), &[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let one = |v| integers(&[1], &[v]);
        expect_reals(fold("Slice", &[], 13, &[x(), one(-1), one(-9), one(1), one(-2)]), &[2, 2], &[3.0, 1.0, 6.0, 4.0]);
        // How exporters write "to the end".
        expect_reals(fold("Slice", &[], 13, &[x(), one(1), one(i64::MAX), one(1)]), &[2, 2], &[2.0, 3.0, 5.0, 6.0]);
        expect_integers(fold("Shape", &[], 13, &[x()]), &[2], &[2, 3]);
        expect_reals(fold("ConstantOfShape", &[], 13, &[integers(&[2], &[1, 3])]), &[1, 3], &[0.0; 3]);
        let range = fold("Range", &[], 13, &[integers(&[], &[5]), integers(&[], &[-2]), integers(&[], &[-3])]);
        expect_integers(range, &[3], &[5, 2, -1]);
        expect_reals(
            fold("Expand", &[], 13, &[reals(&[2, 1], &[1.0, 2.0]), integers(&[2], &[1, 2])]),
            &[2, 2],
            &[1.0, 1.0, 2.0, 2.0],
        );
        expect_reals(fold("MatMul", &[], 13, &[x(), reals(&[3, 1], &[1.0, 10.0, 100.0])]), &[2, 1], &[321.0, 654.0]);
        // An empty constant is one, too.
        expect_integers(fold("Shape", &[], 13, &[reals(&[], &[7.0])]), &[0], &[]);
    }

    #[test]
    fn numbers_of_every_type() {
        expect_integers(fold("Div", &[], 13, &[integers(&[2], &[-7, 7]), integers(&[], &[2])]), &[2], &[-3, 3]);
        let narrow = fold("Cast", &[int("to", 1)], 13, &[doubles(&[2], &[0.1, -3.0])]);
        expect_reals(narrow, &[2], &[0.1, -3.0]);
        expect_integers(fold("Cast", &[int("to", 7)], 13, &[reals(&[2], &[2.7, -2.7])]), &[2], &[2, -2]);
        let wide = fold("Mul", &[], 13, &[doubles(&[1], &[0.1]), doubles(&[1], &[3.0])]).unwrap();
        assert_eq!((wide.data_type, wide.raw_data), (element_type::DOUBLE, (0.1f64 * 3.0).to_le_bytes().to_vec()));
        let large = [i64::MAX, i64::MIN, 1 << 40];
        expect_integers(fold("Cast", &[int("to", 7)], 13, &[integers(&[3], &large)]), &[3], &large);
        let less = fold("Less", &[], 13, &[integers(&[3], &[-1, 0, 2]), integers(&[], &[0])]).unwrap();
        assert_eq!((less.data_type, less.raw_data.as_slice()), (element_type::BOOL, &[1, 0, 0][..]));
        let chosen = fold("Where", &[], 13, &[less, reals(&[], &[9.0]), reals(&[3], &[1.0, 2.0, 3.0])]);
        expect_reals(chosen, &[3], &[9.0, 2.0, 3.0]);
        let int32 = fold("Cast", &[int("to", 6)], 13, &[integers(&[1], &[-5])]).unwrap();
        assert_eq!((int32.data_type, int32.raw_data), (element_type::INT32, (-5i32).to_le_bytes().to_vec()));
    }

    #[test]
    fn absent_inputs_and_outputs() {
        let node = NodeProto {
            op_type: "Clip".into(),
            input: vec!["x".into(), String::new(), "high".into()],
            output: vec!["y".into()],
            ..Default::default()
        };
        let (x, high) = (reals(&[2], &[-4.0, 4.0]), reals(&[], &[1.0]));
        let got = fold_constant(&node, &[&x, &high], 13).map(|mut r| r.remove(0));
        expect_reals(got, &[2], &[-4.0, 1.0]);
        assert!(fold_constant(&node, &[&x], 13).unwrap_err().contains("expected 2 constants"));
        let split = NodeProto {
            op_type: "Split".into(),
            input: vec!["x".into(), "sizes".into()],
            output: vec![String::new(), "tail".into()],
            attribute: vec![int("axis", 0)],
            ..Default::default()
        };
        let (x, sizes) = (reals(&[3], &[1.0, 2.0, 3.0]), integers(&[2], &[1, 2]));
        let mut parts = fold_constant(&split, &[&x, &sizes], 13).unwrap();
        assert_eq!(parts.len(), 1);
        expect_reals(Ok(parts.remove(0)), &[2], &[2.0, 3.0]);
    }

    /// Small files that ask for much, contradict themselves, or divide by zero give an error.
    #[test]
    fn hostile_nodes_are_refused() {
        let refused = |op: &str, attributes: &[AttributeProto], inputs: &[TensorProto], why: &str| {
            let error = fold(op, attributes, 13, inputs).unwrap_err();
            assert!(error.contains(why), "{op}: {error}");
        };
        refused("ConstantOfShape", &[], &[integers(&[2], &[1 << 40, 1 << 40])], "at most");
        refused("ConstantOfShape", &[], &[integers(&[1], &[-1])], "expected an operator and inputs");
        let scalar = |v| integers(&[], &[v]);
        refused("Range", &[], &[scalar(0), scalar(i64::MAX), scalar(1)], "at most");
        refused("Range", &[], &[scalar(0), scalar(1), scalar(0)], "at most");
        refused("Tile", &[], &[reals(&[1], &[1.0]), integers(&[1], &[1 << 30])], "at most");
        let long = |dims: [i64; 2]| reals(&dims, &[0.0; 1 << 14]);
        refused("Add", &[], &[long([1, 1 << 14]), long([1 << 14, 1])], "at most");
        refused("Add", &[], &[reals(&[2], &[0.0; 2]), reals(&[3], &[0.0; 3])], "expected an operator and inputs");
        refused("Div", &[], &[scalar(1), scalar(0)], "the ONNX engine");
        refused("Add", &[], &[reals(&[1 << 20], &[0.0]), reals(&[], &[0.0])], "the ONNX engine");
        refused("Gather", &[int("axis", 7)], &[reals(&[1], &[0.0]), scalar(0)], "expected an operator and inputs");
        refused("Gather", &[int("axis", 0)], &[reals(&[1], &[0.0]), scalar(5)], "the ONNX engine");
        refused("Loop", &[], &[scalar(1), scalar(1)], "got Loop");
        refused("Cast", &[int("to", 8)], &[scalar(1)], "expected");
        let outside = TensorProto { data_location: 1, ..reals(&[1], &[0.0]) };
        refused("Identity", &[], &[outside], "save the model as one file");
    }
}
