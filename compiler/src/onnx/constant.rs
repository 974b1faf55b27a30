//! Constant tensors of an ONNX file, checked against the bytes that are really there.

use super::proto::{TensorProto, element_type};
use safenet_core::model::Shape;

type Result<T> = std::result::Result<T, String>;

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

/// Shape and elements of a constant of real numbers.
pub(crate) fn reals(tensor: &TensorProto) -> Result<(Vec<u64>, Vec<f64>)> {
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
    // Beyond this, products of a few constants would leave the range of double precision.
    match values.iter().find(|x| !x.is_finite() || x.abs() > 1e18) {
        Some(x) => Err(format!("constant {}: expected finite numbers of at most 1e18, got {x}", tensor.name)),
        None => Ok((shape, values)),
    }
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

/// Broadcasts a constant over the channels of a tensor, by ONNX's rule (dimensions align at the right): shape (C, 1, 1) or
/// (1, C, 1, 1) for images, (C) or (1, C) for flat vectors, or a single element.
pub(crate) fn per_channel<T: Copy>(constant: (Vec<u64>, Vec<T>), shape: Shape, flat: bool) -> Result<Vec<T>> {
    let (dims, values) = constant;
    let channels = shape.channels as usize;
    if let ([value], true) = (values.as_slice(), dims.len() <= if flat { 2 } else { 4 }) {
        return Ok(vec![*value; channels]);
    }
    let trailing = if flat { 0 } else { 2 };
    let fits = dims.len() > trailing
        && dims.len() <= trailing + 2
        && dims.iter().rev().take(trailing).all(|&d| d == 1)
        && dims[dims.len() - 1 - trailing] == channels as u64
        && values.len() == channels;
    if fits {
        return Ok(values);
    }
    let expected = if flat { format!("({channels})") } else { format!("({channels}, 1, 1)") };
    Err(format!("expected one number per channel, of shape {expected}, or a single one, got shape {dims:?}"))
}
