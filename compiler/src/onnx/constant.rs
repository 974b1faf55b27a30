//! Constant tensors of an ONNX file, checked against the bytes that are really there.

use super::proto::{NodeProto, TensorProto, element_type};

type Result<T> = std::result::Result<T, String>;

/// Largest absolute value of a constant: beyond it, products of a few would leave the range of double precision.
pub(super) const LARGEST: f64 = 1e18;

/// The shape of a constant, and its number of elements.
fn dimensions(tensor: &TensorProto) -> Result<(Vec<u64>, usize)> {
    let mut count = 1usize;
    let mut shape = Vec::with_capacity(tensor.dims.len());
    for &d in &tensor.dims {
        let d =
            u64::try_from(d).map_err(|_| format!("constant {}: expected positive dimensions, got {d}", tensor.name))?;
        count = usize::try_from(d)
            .ok()
            .and_then(|d| count.checked_mul(d))
            .ok_or_else(|| format!("constant {}: too many elements: {:?}", tensor.name, tensor.dims))?;
        shape.push(d);
    }
    Ok((shape, count))
}

fn check_count(tensor: &TensorProto, expected: usize, got: usize) -> Result<()> {
    if expected != got {
        return Err(format!(
            "constant {}: expected {expected} elements for shape {:?}, got {got}",
            tensor.name, tensor.dims
        ));
    }
    Ok(())
}

/// Little-endian elements of `N` bytes; only as many as there are bytes, so a false shape allocates nothing.
fn raw<const N: usize, T>(tensor: &TensorProto, expected: usize, parse: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
    let chunks = tensor.raw_data.as_chunks::<N>();
    check_count(tensor, expected, if chunks.1.is_empty() { chunks.0.len() } else { usize::MAX })?;
    Ok(chunks.0.iter().map(|&b| parse(b)).collect())
}

fn local(tensor: &TensorProto) -> Result<()> {
    match tensor.data_location {
        0 => Ok(()),
        _ => Err(format!(
            "constant {}: expected its elements in the file, got a reference to another; save the model as one file",
            tensor.name
        )),
    }
}

/// Shape and elements of a constant of real numbers that may be computed with.
pub(crate) fn reals(tensor: &TensorProto) -> Result<(Vec<u64>, Vec<f64>)> {
    let (shape, values) = elements(tensor)?;
    match values.iter().find(|x| x.is_nan() || x.abs() > LARGEST) {
        Some(x) => Err(format!("constant {}: expected finite numbers of at most {LARGEST:e}, got {x}", tensor.name)),
        None => Ok((shape, values)),
    }
}

/// Shape and elements of a constant of real numbers, which may be anything.
fn elements(tensor: &TensorProto) -> Result<(Vec<u64>, Vec<f64>)> {
    local(tensor)?;
    let (shape, count) = dimensions(tensor)?;
    let from_raw = !tensor.raw_data.is_empty();
    let values: Vec<f64> = match tensor.data_type {
        element_type::FLOAT if from_raw => raw(tensor, count, |b| f64::from(f32::from_le_bytes(b)))?,
        element_type::DOUBLE if from_raw => raw(tensor, count, f64::from_le_bytes)?,
        element_type::FLOAT => tensor.float_data.iter().map(|&x| f64::from(x)).collect(),
        element_type::DOUBLE => tensor.double_data.clone(),
        other => {
            return Err(format!("constant {}: expected elements of float or double, got type {other}", tensor.name));
        }
    };
    check_count(tensor, count, values.len())?;
    Ok((shape, values))
}

/// Shape and elements of a constant of integers.
pub(crate) fn integers(tensor: &TensorProto) -> Result<(Vec<u64>, Vec<i64>)> {
    local(tensor)?;
    let (shape, count) = dimensions(tensor)?;
    let from_raw = !tensor.raw_data.is_empty();
    let values: Vec<i64> = match tensor.data_type {
        element_type::INT64 if from_raw => raw(tensor, count, i64::from_le_bytes)?,
        element_type::INT32 if from_raw => raw(tensor, count, |b| i64::from(i32::from_le_bytes(b)))?,
        element_type::INT64 => tensor.int64_data.clone(),
        element_type::INT32 => tensor.int32_data.iter().map(|&x| i64::from(x)).collect(),
        other => {
            return Err(format!("constant {}: expected elements of int64 or int32, got type {other}", tensor.name));
        }
    };
    check_count(tensor, count, values.len())?;
    Ok((shape, values))
}

/// A constant of integers that the compiler itself computes.
pub(super) fn of_integers(dims: Vec<i64>, values: Vec<i64>) -> TensorProto {
    TensorProto { dims, data_type: element_type::INT64, int64_data: values, ..TensorProto::default() }
}

/// The value of a Constant node.
pub(super) fn of_node(node: &NodeProto) -> Result<TensorProto> {
    let attribute = node.attribute.first().ok_or("expected a constant, got none")?;
    let reals = |dims: Vec<i64>, float_data: Vec<f32>| TensorProto {
        dims,
        data_type: element_type::FLOAT,
        float_data,
        ..TensorProto::default()
    };
    Ok(match attribute.name.as_str() {
        "value" => attribute.t.clone().ok_or("value: expected a tensor, got none")?,
        "value_float" => reals(Vec::new(), vec![attribute.f]),
        "value_floats" => reals(vec![attribute.floats.len() as i64], attribute.floats.clone()),
        "value_int" => of_integers(Vec::new(), vec![attribute.i]),
        "value_ints" => of_integers(vec![attribute.ints.len() as i64], attribute.ints.clone()),
        // Strings and sparse tensors: of no use in a network of numbers, and faulty only where something reads them.
        _ => TensorProto::default(),
    })
}

/// Elements of a constant of real numbers, which may be infinite.
pub(super) fn unbounded(tensor: &TensorProto) -> Result<Vec<f64>> {
    let values = elements(tensor)?.1;
    match values.iter().find(|x| x.is_nan()) {
        Some(x) => Err(format!("constant {}: expected numbers, got {x}", tensor.name)),
        None => Ok(values),
    }
}
