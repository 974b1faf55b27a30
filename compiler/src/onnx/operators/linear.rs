//! Convolutions, dense layers and batch normalisation.

use super::super::attributes::{find, finite, flag, integer, pair};
use super::super::value::Order;
use super::windows::Windows;
use super::{Call, Computed, Fault, Outputs, described, unsupported};
use crate::network::{Linear, Op};
use crate::shape::checked;
use safenet_core::model::{Convolution, Shape, limits};

/// Y = W * X + B, in any number of groups.
pub(super) fn convolution(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let (dims, weights) = call.reals(1, "weights")?;
    if dims.len() == 3 || dims.len() == 5 {
        return unsupported(
            format!("a convolution over {} axes", dims.len() - 2),
            "use convolutions over two axes, of height 1 if need be",
        );
    }
    if x.dims.len() != 3 {
        return Err(format!("expected an input of shape (batch, C, H, W), got {}", described(&x)).into());
    }
    let x = call.image(0)?;
    let [out, inputs, rows, columns] = dims[..] else {
        return Err(format!("weights: expected 4 dimensions, got shape {dims:?}").into());
    };
    let groups = groups(integer(call.node, "group", 1)?, x.shape.channels, out)?;
    if inputs != u64::from(x.shape.channels / groups) || weights.is_empty() {
        return Err(
            format!("weights: expected {} input channels, got shape {dims:?}", x.shape.channels / groups).into()
        );
    }
    let kernel = [small(rows, &dims)?, small(columns, &dims)?];
    let ints = [i64::from(kernel[0]), i64::from(kernel[1])];
    if let Some(a) = find(call.node, "kernel_shape").filter(|a| a.ints != ints) {
        return Err(format!("kernel_shape: expected that of the weights, {kernel:?}, got {:?}", a.ints).into());
    }
    let dilation = pair(call.node, "dilations", 1)?;
    let reach = reach(kernel, dilation)?;
    let windows = Windows::read(call.node, x.shape, reach)?;
    let shape = windows.shape(small(out, &dims)?)?;
    let bias = match call.optional(2, "bias")? {
        Some(_) => call.reals(2, "bias")?.1,
        None => vec![0.0; out as usize],
    };
    if bias.len() as u64 != out {
        return Err(format!("bias: expected {out} numbers, got {}", bias.len()).into());
    }
    let conv = Convolution {
        out_channels: shape.channels,
        kernel,
        stride: windows.stride,
        padding: windows.padding,
        dilation,
        groups,
        packed_outputs: u32::MAX,
    };
    let tensor = call.push(Op::Linear(Linear { conv, weights, bias }), vec![x.tensor], shape)?;
    Ok(vec![Computed::image(tensor, shape)])
}

fn groups(group: i64, inputs: u32, outputs: u64) -> Result<u32, String> {
    u32::try_from(group)
        .ok()
        .filter(|&g| g > 0 && inputs.is_multiple_of(g) && outputs.is_multiple_of(g.into()))
        .ok_or_else(|| {
            format!("group: expected a number that divides {inputs} input and {outputs} output channels, got {group}")
        })
}

fn small(size: u64, dims: &[u64]) -> Result<u32, String> {
    u32::try_from(size)
        .ok()
        .filter(|&size| size as usize <= limits::ELEMENTS)
        .ok_or_else(|| format!("weights: expected a kernel that fits the input, got shape {dims:?}"))
}

/// Places from a kernel's first element to behind its last.
fn reach(kernel: [u32; 2], dilation: [u32; 2]) -> Result<[u32; 2], String> {
    let mut reach = [0; 2];
    for i in 0..2 {
        let places = (u64::from(kernel[i]) - 1) * u64::from(dilation[i]) + 1;
        reach[i] = u32::try_from(places).map_err(|_| {
            format!("dilations: expected a kernel that fits the input, got one that reaches over {places}")
        })?;
    }
    Ok(reach)
}

/// Y = alpha · A · B + beta · C with constants B and C.
pub(super) fn gemm(call: &mut Call<'_>) -> Outputs {
    let x = call.vector(0)?;
    let (alpha, beta) = (finite(call.node, "alpha", 1.0)?, finite(call.node, "beta", 1.0)?);
    let transposed = flag(call.node, "transB", false)?;
    let constant = call.reals(1, "weights")?;
    let (mut linear, shape) = dense(&x, constant, transposed)?;
    linear.weights.iter_mut().for_each(|w| *w *= alpha);
    if call.optional(2, "bias")?.is_some() {
        let bias = Computed::flat(0, shape).per_channel(call.reals(2, "bias")?).map_err(|e| format!("bias: {e}"))?;
        linear.bias = bias.into_iter().map(|b| b * beta).collect();
    }
    let tensor = call.push(Op::Linear(linear), vec![x.tensor], shape)?;
    Ok(vec![Computed::flat(tensor, shape)])
}

/// Y = A · B with a constant B: a dense layer of a vector, or of every pixel of an image whose channels are last.
pub(super) fn matrix_product(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let constant = call.reals(1, "weights")?;
    let pixels = matches!(x.order, Order::ChannelsLast(image) if x.dims == [image.height, image.width, image.channels]);
    if !pixels {
        let x = call.vector(0)?;
        let (linear, shape) = dense(&x, constant, false)?;
        let tensor = call.push(Op::Linear(linear), vec![x.tensor], shape)?;
        return Ok(vec![Computed::flat(tensor, shape)]);
    }
    let (linear, shape) = dense(&x, constant, false)?;
    let shape = checked(shape.channels.into(), x.shape.height.into(), x.shape.width.into())?;
    let tensor = call.push(Op::Linear(linear), vec![x.tensor], shape)?;
    let dims = vec![shape.height, shape.width, shape.channels];
    Ok(vec![Computed { tensor, shape, dims, order: Order::ChannelsLast(shape), left_to_client: None }])
}

/// The 1x1 convolution of a matrix, (outputs, inputs) if it is transposed; and the shape of a vector of its outputs.
fn dense(x: &Computed, constant: (Vec<u64>, Vec<f64>), transposed: bool) -> Result<(Linear, Shape), Fault> {
    let (dims, weights) = constant;
    let [rows, columns] = dims[..] else {
        return Err(format!("weights: expected 2 dimensions, got shape {dims:?}").into());
    };
    let (out, inputs) = if transposed { (rows, columns) } else { (columns, rows) };
    if inputs != u64::from(x.shape.channels) || weights.is_empty() {
        return Err(format!("weights: expected {} inputs, got shape {dims:?}", x.shape.channels).into());
    }
    let shape = checked(out, 1, 1)?;
    let (out, inputs) = (out as usize, inputs as usize);
    let weights = if transposed {
        weights
    } else {
        (0..out * inputs).map(|at| weights[at % inputs * out + at / inputs]).collect()
    };
    let weights = match x.places() {
        None => weights,
        Some(_) => weights.chunks_exact(inputs).flat_map(|row| x.in_tensor_order(row.to_vec())).collect(),
    };
    let conv = Convolution {
        out_channels: shape.channels,
        kernel: [1, 1],
        stride: [1, 1],
        padding: [0; 4],
        dilation: [1, 1],
        groups: 1,
        packed_outputs: u32::MAX,
    };
    Ok((Linear { conv, weights, bias: vec![0.0; out] }, shape))
}

/// Y = scale · (X − mean) / √(variance + ε) + bias.
pub(super) fn batch_normalisation(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let x = call.settled(x)?;
    if x.channel_axis() != Some(0) {
        return Err(format!("expected an input of shape (batch, C, ...), got {}", described(&x)).into());
    }
    let mut numbers = Vec::with_capacity(4);
    for (i, what) in ["scale", "bias", "mean", "variance"].into_iter().enumerate() {
        let (dims, values) = call.reals(i + 1, what)?;
        if dims != [u64::from(x.shape.channels)] {
            return Err(format!(
                "{what}: expected one number for each of {} channels, got shape {dims:?}",
                x.shape.channels
            )
            .into());
        }
        numbers.push(x.in_tensor_order(values));
    }
    let [gamma, beta, mean, variance] = [&numbers[0], &numbers[1], &numbers[2], &numbers[3]];
    let epsilon = finite(call.node, "epsilon", 1e-5)?;
    if let Some(v) = variance.iter().find(|&&v| v + epsilon <= 0.0) {
        return Err(format!("variance: expected positive numbers, got {v}").into());
    }
    let scale: Vec<f64> = gamma.iter().zip(variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
    let shift = beta.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    call.map(Op::Affine { scale, shift }, &x)
}
