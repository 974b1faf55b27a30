//! The operators that the compiler reads, one by one.

use super::constant::{integers, per_channel, reals};
use super::proto::{AttributeProto, NodeProto};
use super::{Constants, function};
use crate::network::{Function, Linear, Op, checked, windows};
use safenet_core::model::{Convolution, Pool, Shape};

/// What is known of a value on the way through the graph.
pub(crate) struct Value {
    pub(crate) shape: Shape,
    /// Whether it is of shape (batch, K) rather than (batch, C, H, W).
    pub(crate) flat: bool,
}

type Result<T> = std::result::Result<T, String>;

/// Why a node is not supported, and what to do instead. Shapes are not known yet; what depends on them is checked by
/// [`translate`].
pub(crate) fn unsupported(node: &NodeProto, constants: &Constants) -> Option<(String, &'static str)> {
    if node.domain == function::DOMAIN && node.op_type == function::NAME {
        return None;
    }
    if !node.domain.is_empty() && node.domain != "ai.onnx" {
        return Some((format!("unknown operator domain {:?}", node.domain), "use standard ONNX operators"));
    }
    let attribute = |name: &str| integer(node, name, 0);
    let not = |name: &str, allowed: &[i64]| {
        let value = attribute(name);
        (!allowed.contains(&value) && find(node, name).is_some()).then(|| format!("{name} = {value}"))
    };
    let computed = node.input.iter().filter(|i| !i.is_empty() && constants.get(i).is_none()).count();
    let fault = match node.op_type.as_str() {
        "Conv" => {
            if let Some(group) = not("group", &[1]) {
                return Some((group, "use convolutions of group 1"));
            }
            if find(node, "dilations").is_some_and(|a| a.ints.iter().any(|&d| d != 1)) {
                return Some(("dilations other than 1".into(), "use convolutions without dilation"));
            }
            None
        }
        "Gemm" => not("transA", &[0]).map(|a| (a, "transpose the weights, not the input")),
        "BatchNormalization" => {
            not("training_mode", &[0]).map(|a| (a, "export the network in evaluation mode (model.eval())"))
        }
        "Dropout" => {
            let training = node
                .input
                .get(2)
                .and_then(|i| constants.get(i))
                .is_some_and(|t| t.int32_data.iter().any(|&v| v != 0) || t.raw_data.iter().any(|&v| v != 0));
            training.then(|| ("training_mode is on".into(), "export the network in evaluation mode (model.eval())"))
        }
        "AveragePool" => {
            let padded = find(node, "pads").is_some_and(|a| a.ints.iter().any(|&p| p != 0));
            if padded && integer(node, "count_include_pad", 0) == 0 {
                let reason = "padding that is not counted in the average (count_include_pad = 0)";
                return Some((reason.into(), "use AveragePool without padding, or with count_include_pad = 1"));
            }
            if find(node, "dilations").is_some_and(|a| a.ints.iter().any(|&d| d != 1)) {
                return Some(("dilations other than 1".into(), "use pooling without dilation"));
            }
            None
        }
        "MatMul" | "Relu" | "GlobalAveragePool" | "Flatten" | "Reshape" | "Identity" => None,
        "Add" | "Sub" | "Mul" | "Div" => None,
        "MaxPool" | "GlobalMaxPool" => {
            let advice = "use AveragePool; maxima cost a comparison per element";
            return Some(("no private form of this operator in this version".into(), advice));
        }
        "Sigmoid" | "Tanh" | "Clip" | "LeakyRelu" | "PRelu" | "Elu" | "Selu" | "HardSwish" | "HardSigmoid" | "Gelu"
        | "Softplus" | "Mish" => {
            let advice = "use Relu, or plan the activation as polynomials (safenet.ChannelActivation)";
            return Some(("no private form of this activation".into(), advice));
        }
        "Softmax" | "LogSoftmax" | "ArgMax" => {
            let advice = "leave it out of the model and apply it to the scores";
            return Some(("no private form of this operator".into(), advice));
        }
        "Shape" | "Gather" | "Concat" | "Unsqueeze" | "Slice" => {
            let advice = "a shape computed at run time: use torch.flatten(x, 1) instead of view(x.size(0), -1), or run onnx-simplifier";
            return Some(("no private form of this operator".into(), advice));
        }
        _ => Some((
            "unknown operator".into(),
            "use Conv, Gemm, MatMul, BatchNormalization, Relu, AveragePool, GlobalAveragePool, Flatten",
        )),
    };
    if fault.is_some() {
        return fault;
    }
    if computed > 1 {
        let reason = format!("{computed} computed inputs");
        return Some((
            reason,
            "sums and products of two branches (residual connections) are not supported in this version",
        ));
    }
    // Where the computed value must stand.
    let first = node.input.first().is_some_and(|i| constants.get(i).is_none());
    let ordered = !matches!(node.op_type.as_str(), "Add" | "Mul");
    if computed == 1 && ordered && !first {
        return Some((
            "a computed weight or parameter".into(),
            "only the first input may be computed, the others must be constants",
        ));
    }
    None
}

/// The layers of one node, with the shape of each one's output, and whether the result is flat.
pub(crate) fn translate(node: &NodeProto, x: &Value, constants: &Constants) -> Result<(Vec<(Op, Shape)>, bool)> {
    let one = |op: Op| Ok((vec![(op, x.shape)], x.flat));
    let tensor = |i: usize, what: &str| {
        let name = node.input.get(i).map(String::as_str).unwrap_or_default();
        constants.get(name).ok_or_else(|| format!("{what}: expected a constant, got {name:?}"))
    };
    let numbers = |i: usize, what: &str| reals(tensor(i, what)?);
    let given = |i: usize| node.input.get(i).is_some_and(|n| !n.is_empty());
    let vector = |i: usize, what: &str| {
        let (dims, values) = numbers(i, what)?;
        if dims != [u64::from(x.shape.channels)] {
            return Err(format!(
                "{what}: expected one number for each of {} channels, got shape {dims:?}",
                x.shape.channels
            ));
        }
        Ok(values)
    };
    match node.op_type.as_str() {
        "ChannelActivation" => channel_activation(node, x, constants),
        "Relu" => one(Op::Activation(vec![Function::Relu; x.shape.channels as usize])),
        "Identity" | "Dropout" => Ok((Vec::new(), x.flat)),
        "Conv" => {
            if x.flat {
                return Err("expected an input of shape (batch, C, H, W), got (batch, K)".into());
            }
            let (dims, weights) = numbers(1, "weights")?;
            let [out, inputs, rows, columns] = dims[..] else {
                return Err(format!("weights: expected 4 dimensions, got shape {dims:?}"));
            };
            if inputs != u64::from(x.shape.channels) || weights.is_empty() {
                return Err(format!("weights: expected {} input channels, got shape {dims:?}", x.shape.channels));
            }
            let small = |d: u64| {
                u32::try_from(d)
                    .map_err(|_| format!("weights: expected a kernel that fits the input, got shape {dims:?}"))
            };
            let kernel = [small(rows)?, small(columns)?];
            if let Some(a) =
                find(node, "kernel_shape").filter(|a| a.ints != [i64::from(kernel[0]), i64::from(kernel[1])])
            {
                return Err(format!("kernel_shape: expected that of the weights, {kernel:?}, got {:?}", a.ints));
            }
            let stride = pair(node, "strides", 1)?;
            let padding = pads(node, x.shape, kernel, stride)?;
            let shape = windows(small(out)?, x.shape, kernel, stride, padding)?;
            let bias = if given(2) { numbers(2, "bias")?.1 } else { vec![0.0; out as usize] };
            if bias.len() as u64 != out {
                return Err(format!("bias: expected {out} numbers, got {}", bias.len()));
            }
            let conv = Convolution { out_channels: shape.channels, kernel, stride, padding, packed_outputs: u32::MAX };
            Ok((vec![(Op::Linear(Linear { conv, weights, bias }), shape)], false))
        }
        "Gemm" => {
            let (dims, weights) = numbers(1, "weights")?;
            let transposed = integer(node, "transB", 0) != 0;
            let (alpha, beta) = (real(node, "alpha", 1.0), real(node, "beta", 1.0));
            let (mut linear, shape) = dense(x, dims, weights, transposed)?;
            linear.weights.iter_mut().for_each(|w| *w *= alpha);
            if given(2) {
                let bias = per_channel(numbers(2, "bias")?, shape, true).map_err(|e| format!("bias: {e}"))?;
                linear.bias = bias.into_iter().map(|b| b * beta).collect();
            }
            Ok((vec![(Op::Linear(linear), shape)], true))
        }
        "MatMul" => {
            let (dims, weights) = numbers(1, "weights")?;
            let (linear, shape) = dense(x, dims, weights, false)?;
            Ok((vec![(Op::Linear(linear), shape)], true))
        }
        "BatchNormalization" => {
            let (gamma, beta) = (vector(1, "scale")?, vector(2, "bias")?);
            let (mean, variance) = (vector(3, "mean")?, vector(4, "variance")?);
            let epsilon = real(node, "epsilon", 1e-5);
            if let Some(v) = variance.iter().find(|&&v| v + epsilon <= 0.0) {
                return Err(format!("variance: expected positive numbers, got {v}"));
            }
            let scale: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
            let shift = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
            one(Op::Affine { scale, shift })
        }
        "Add" | "Sub" | "Mul" | "Div" => {
            let index = usize::from(node.input.first().is_some_and(|i| constants.get(i).is_none()));
            let c = per_channel(numbers(index, "constant")?, x.shape, x.flat)?;
            let count = c.len();
            let (scale, shift) = match node.op_type.as_str() {
                "Add" => (vec![1.0; count], c),
                "Sub" => (vec![1.0; count], c.iter().map(|c| -c).collect()),
                "Mul" => (c, vec![0.0; count]),
                _ if c.contains(&0.0) => return Err("expected a divisor other than 0".into()),
                _ => (c.iter().map(|c| 1.0 / c).collect(), vec![0.0; count]),
            };
            one(Op::Affine { scale, shift })
        }
        "AveragePool" => average_pool(node, x),
        "GlobalAveragePool" => {
            if x.flat {
                return Err("expected an input of shape (batch, C, H, W), got (batch, K)".into());
            }
            let pool = Pool { kernel: [x.shape.height, x.shape.width], stride: [1, 1] };
            Ok((vec![(Op::Average(pool), Shape { height: 1, width: 1, ..x.shape })], false))
        }
        "Flatten" => {
            let rank = if x.flat { 2 } else { 4 };
            let axis = integer(node, "axis", 1);
            if axis != 1 && axis != 1 - rank {
                return Err(format!("expected axis 1, which keeps the batch, got {axis}"));
            }
            flatten(x)
        }
        "Reshape" => {
            let (_, target) = integers(tensor(1, "shape")?)?;
            let Shape { channels, height, width } = x.shape;
            let same = [i64::from(channels), i64::from(height), i64::from(width)];
            match target[..] {
                // The batch must stay: 0 copies it, 1 and −1 are it.
                [-1..=1, k] if k == x.shape.elements() as i64 || (k == -1 && target[0] != -1) => flatten(x),
                [-1..=1, c, h, w] if !x.flat && [c, h, w] == same => Ok((Vec::new(), false)),
                _ => Err(format!("expected a flat vector as shape, (batch, {}), got {target:?}", x.shape.elements())),
            }
        }
        other => Err(format!("expected a supported operator, got {other}")),
    }
}

fn flatten(x: &Value) -> Result<(Vec<(Op, Shape)>, bool)> {
    let shape = checked(x.shape.elements() as u64, 1, 1)?;
    // With one element per channel there is nothing to do but to call it flat.
    let ops = if x.shape.plane() == 1 { Vec::new() } else { vec![(Op::Flatten, shape)] };
    Ok((ops, true))
}

fn dense(x: &Value, dims: Vec<u64>, weights: Vec<f64>, transposed: bool) -> Result<(Linear, Shape)> {
    if !x.flat {
        return Err("expected a flat input of shape (batch, K), got (batch, C, H, W); add a Flatten before it".into());
    }
    let [rows, columns] = dims[..] else {
        return Err(format!("weights: expected 2 dimensions, got shape {dims:?}"));
    };
    let (out, inputs) = if transposed { (rows, columns) } else { (columns, rows) };
    if inputs != u64::from(x.shape.channels) || weights.is_empty() {
        return Err(format!("weights: expected {} inputs, got shape {dims:?}", x.shape.channels));
    }
    let shape = checked(out, 1, 1)?;
    let (out, inputs) = (out as usize, inputs as usize);
    let weights = if transposed {
        weights
    } else {
        (0..out * inputs).map(|at| weights[at % inputs * out + at / inputs]).collect()
    };
    let conv = Convolution {
        out_channels: shape.channels,
        kernel: [1, 1],
        stride: [1, 1],
        padding: [0; 4],
        packed_outputs: u32::MAX,
    };
    Ok((Linear { conv, weights, bias: vec![0.0; out] }, shape))
}

fn average_pool(node: &NodeProto, x: &Value) -> Result<(Vec<(Op, Shape)>, bool)> {
    if x.flat {
        return Err("expected an input of shape (batch, C, H, W), got (batch, K)".into());
    }
    if find(node, "kernel_shape").is_none() {
        return Err("kernel_shape: expected the window's size, got none".into());
    }
    let kernel = pair(node, "kernel_shape", 1)?;
    let stride = pair(node, "strides", 1)?;
    let padding = pads(node, x.shape, kernel, stride)?;
    let shape = windows(x.shape.channels, x.shape, kernel, stride, padding)?;
    if integer(node, "ceil_mode", 0) != 0 {
        let fits = |size: u32, i: usize| {
            (u64::from(size) + u64::from(padding[i]) + u64::from(padding[i + 2]) - u64::from(kernel[i]))
                .is_multiple_of(u64::from(stride[i]))
        };
        if !fits(x.shape.height, 0) || !fits(x.shape.width, 1) {
            return Err(
                "ceil_mode: expected windows that end with the input, got partial ones; use ceil_mode = 0".into()
            );
        }
    }
    if padding == [0; 4] {
        return Ok((vec![(Op::Average(Pool { kernel, stride }), shape)], false));
    }
    if integer(node, "count_include_pad", 0) == 0 {
        return Err("padding that is not counted in the average; use no padding, or count_include_pad = 1".into());
    }
    // Sums over windows have no padding in the model file, convolutions have.
    let factor = 1.0 / (f64::from(kernel[0]) * f64::from(kernel[1]));
    let linear = Linear::diagonal(x.shape.channels, kernel, stride, padding, factor)
        .ok_or("expected fewer channels for an average with padding, which becomes a convolution; use no padding")?;
    Ok((vec![(Op::Linear(linear), shape)], false))
}

fn channel_activation(node: &NodeProto, x: &Value, constants: &Constants) -> Result<(Vec<(Op, Shape)>, bool)> {
    if node.input.len() != function::INPUTS {
        return Err(format!("expected the inputs X, degree, c0, c1, c2, c3, got {} inputs", node.input.len()));
    }
    let tensor = |i: usize, what: &str| {
        constants.get(&node.input[i]).ok_or_else(|| format!("{what}: expected a constant, got {:?}", node.input[i]))
    };
    let degrees = per_channel(integers(tensor(1, "degree")?)?, x.shape, x.flat).map_err(|e| format!("degree: {e}"))?;
    let mut c = Vec::with_capacity(4);
    for (i, name) in ["c0", "c1", "c2", "c3"].into_iter().enumerate() {
        c.push(per_channel(reals(tensor(i + 2, name)?)?, x.shape, x.flat).map_err(|e| format!("{name}: {e}"))?);
    }
    let mut functions = Vec::with_capacity(degrees.len());
    for (channel, &degree) in degrees.iter().enumerate() {
        let c = [c[0][channel], c[1][channel], c[2][channel], c[3][channel]];
        functions.push(match degree {
            ..0 => Function::Relu,
            0..=3 if c.iter().skip(degree as usize + 1).all(|&c| c == 0.0) => {
                Function::Polynomial { degree: degree as u8, c }
            }
            0..=3 => {
                return Err(format!("channel {channel}: expected coefficients of 0 above degree {degree}, got {c:?}"));
            }
            _ => return Err(format!("channel {channel}: expected a degree of -1 (ReLU) to 3, got {degree}")),
        });
    }
    Ok((vec![(Op::Activation(functions), x.shape)], x.flat))
}

fn find<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}

fn integer(node: &NodeProto, name: &str, default: i64) -> i64 {
    find(node, name).map_or(default, |a| a.i)
}

fn real(node: &NodeProto, name: &str, default: f64) -> f64 {
    find(node, name).map_or(default, |a| f64::from(a.f))
}

/// A vertical and a horizontal number.
fn pair(node: &NodeProto, name: &str, default: u32) -> Result<[u32; 2]> {
    let Some(attribute) = find(node, name) else { return Ok([default; 2]) };
    let numbers: Vec<u32> = attribute.ints.iter().filter_map(|&i| u32::try_from(i).ok()).filter(|&i| i > 0).collect();
    match (numbers[..].try_into(), attribute.ints.len()) {
        (Ok(pair), 2) => Ok(pair),
        _ => Err(format!("{name}: expected two positive numbers, got {:?}", attribute.ints)),
    }
}

/// Padding (top, left, bottom, right), given or by the rule of `auto_pad`.
fn pads(node: &NodeProto, input: Shape, kernel: [u32; 2], stride: [u32; 2]) -> Result<[u32; 4]> {
    let rule = find(node, "auto_pad").map_or(&b"NOTSET"[..], |a| a.s.as_slice());
    match rule {
        b"NOTSET" | b"" => {
            let Some(attribute) = find(node, "pads") else { return Ok([0; 4]) };
            let numbers: Vec<u32> = attribute.ints.iter().filter_map(|&i| u32::try_from(i).ok()).collect();
            match (numbers[..].try_into(), attribute.ints.len()) {
                (Ok(pads), 4) => Ok(pads),
                _ => Err(format!("pads: expected four numbers of at least 0, got {:?}", attribute.ints)),
            }
        }
        b"VALID" => Ok([0; 4]),
        b"SAME_UPPER" | b"SAME_LOWER" => {
            let mut padding = [0; 4];
            for (i, size) in [input.height, input.width].into_iter().enumerate() {
                let places = u64::from(size.div_ceil(stride[i]));
                let reached = (places - 1) * u64::from(stride[i]) + u64::from(kernel[i]);
                let total = reached.saturating_sub(u64::from(size)) as u32;
                let (small, large) = (total / 2, total - total / 2);
                (padding[i], padding[i + 2]) = if rule == b"SAME_UPPER" { (small, large) } else { (large, small) };
            }
            Ok(padding)
        }
        other => Err(format!(
            "auto_pad: expected NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {}",
            String::from_utf8_lossy(other)
        )),
    }
}
