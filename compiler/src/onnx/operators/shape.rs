//! What moves elements without computing on them.

use super::super::attributes::{find, integer, integers, string};
use super::super::constant;
use super::super::proto::element_type;
use super::super::value::Order;
use super::{Call, Computed, Fault, Outputs, described, unsupported};
use crate::network::Op;
use crate::shape::checked;
use safenet_core::model::{Channels, Edge, Shape, Window, limits};

const KEEP_BATCH: &str = "keep the batch as the first dimension";

/// An axis of the file, batch included, as an index into a value's dimensions without the batch.
pub(super) fn axis(axis: i64, dims: usize) -> Result<usize, String> {
    let rank = dims as i64 + 1;
    let positive = if axis < 0 { axis.saturating_add(rank) } else { axis };
    if (1..rank).contains(&positive) {
        return Ok(positive as usize - 1);
    }
    Err(format!("axis: expected one from 1 to {dims}, behind the batch, got {axis}"))
}

/// What an axis counts.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Channels,
    Rows,
    Columns,
}

/// What an axis of a settled value counts, where that is one thing of the tensor.
fn part(x: &Computed, axis: usize) -> Option<Part> {
    // Elements of a vector that stand in another order than the tensor's are no range of its channels.
    if x.channel_axis() == Some(axis) && x.places().is_none() {
        return Some(Part::Channels);
    }
    let Shape { channels, height, width } = x.shape;
    match (x.order, axis) {
        (Order::Same, 1) if x.dims == [channels, height, width] => Some(Part::Rows),
        (Order::Same, 2) if x.dims == [channels, height, width] => Some(Part::Columns),
        (Order::ChannelsLast(_), 0) if x.dims == [height, width, channels] => Some(Part::Rows),
        (Order::ChannelsLast(_), 1) if x.dims == [height, width, channels] => Some(Part::Columns),
        _ => None,
    }
}

/// A value like `x`, of which some parts have changed their size: the tensor of `shape`, with `size` at `axis`.
fn resized(x: &Computed, tensor: usize, shape: Shape, axis: usize, size: u32) -> Computed {
    let mut dims = x.dims.clone();
    dims[axis] = size;
    let order = if x.order == Order::Same { Order::Same } else { Order::ChannelsLast(shape) };
    Computed { tensor, shape, dims, order, left_to_client: None }
}

pub(super) fn identity(call: &mut Call<'_>) -> Outputs {
    Ok(vec![call.computed(0)?])
}

/// In evaluation, nothing is dropped.
pub(super) fn dropout(call: &mut Call<'_>) -> Outputs {
    let training = call.optional(2, "training_mode")?;
    if training.is_some_and(|t| t.int32_data.iter().any(|&v| v != 0) || t.raw_data.iter().any(|&v| v != 0)) {
        return unsupported("training_mode is on", super::EVALUATION);
    }
    identity(call)
}

/// Between types of real numbers; scores may become anything.
pub(super) fn cast(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let to = integer(call.node, "to", 0)?;
    let real = [element_type::FLOAT, element_type::DOUBLE].map(i64::from);
    if x.left_to_client.is_none() && !real.contains(&to) {
        return unsupported(format!("a cast to type {to}"), "compute in 32-bit real numbers");
    }
    Ok(vec![x])
}

/// Another view of a value's elements; `dims` includes the batch.
fn view(call: &mut Call<'_>, x: Computed, dims: &[u64]) -> Outputs {
    let elements = x.shape.elements() as u64;
    let product = dims.iter().try_fold(1u64, |product, &d| product.checked_mul(d));
    if product != Some(elements) {
        return Err(format!("expected a shape of {elements} elements for {}, got {dims:?}", described(&x)).into());
    }
    let [1, rest @ ..] = dims else {
        return unsupported(format!("a change of the batch, to {dims:?}"), KEEP_BATCH);
    };
    if rest.is_empty() || rest.len() > limits::NODE_INPUTS {
        return unsupported(format!("a change of shape to {} dimensions", dims.len()), KEEP_BATCH);
    }
    // No dimension exceeds the number of elements.
    let dims: Vec<u32> = rest.iter().map(|&d| d as u32).collect();
    if let ([channels, height, width], true) = (&dims[..], x.shape.plane() == 1 && is_input(call, &x)) {
        let image = checked((*channels).into(), (*height).into(), (*width).into())?;
        call.builder.network.input = image;
        call.builder.note(format!("the input is an image of shape {image}, which the file takes as a vector"));
        return Ok(vec![Computed::image(0, image)]);
    }
    // Elements of one channel or of one pixel are in either order.
    let order = if x.shape.channels == 1 || x.shape.plane() == 1 { Order::Same } else { x.order };
    Ok(vec![Computed { dims, order, ..x }])
}

/// Whether a node reads the network's input and no other does, so that it may be declared to be something else.
fn is_input(call: &Call<'_>, x: &Computed) -> bool {
    let alone = call.node.input.first().is_some_and(|name| call.builder.uses.get(name) == Some(&1));
    x.tensor == 0 && alone && call.builder.network.layers.is_empty() && call.builder.input == call.node.input[0]
}

pub(super) fn reshape(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let target = call.list(1, "shape")?.ok_or("shape: expected a constant, got none")?;
    let elements = x.shape.elements() as u64;
    let mut dims = Vec::with_capacity(target.len());
    let mut free = None;
    for (i, &d) in target.iter().enumerate() {
        dims.push(match (d, i) {
            (0, 0) => 1,
            (0, _) => *x.dims.get(i - 1).ok_or_else(|| format!("shape: expected no 0 at place {i}, got {target:?}"))?,
            (-1, _) if free.replace(i).is_none() => 1,
            (1.., _) => u32::try_from(d).map_err(|_| format!("shape: expected {elements} elements, got {target:?}"))?,
            _ => {
                return Err(format!("shape: expected positive numbers, 0, and one -1, got {target:?}").into());
            }
        });
    }
    let mut dims: Vec<u64> = dims.into_iter().map(u64::from).collect();
    if let Some(i) = free {
        let given = dims.iter().try_fold(1u64, |product, &d| product.checked_mul(d)).unwrap_or(u64::MAX);
        dims[i] = elements / given.max(1);
    }
    view(call, x, &dims)
}

pub(super) fn flatten(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let axis = integer(call.node, "axis", 1)?;
    if axis != 1 && axis != -(x.dims.len() as i64) {
        return unsupported(format!("axis = {axis}"), KEEP_BATCH);
    }
    let elements = x.shape.elements() as u64;
    view(call, x, &[1, elements])
}

pub(super) fn squeeze(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let Some(axes) = call.list_or_attribute(1, "axes")? else {
        return unsupported("a Squeeze of all axes, the batch too", "name the axes");
    };
    let mut gone = vec![false; x.dims.len()];
    for a in axes {
        let a = axis(a, x.dims.len())?;
        if x.dims[a] != 1 {
            return Err(format!("axes: expected axes of size 1, got axis {} of {}", a + 1, described(&x)).into());
        }
        gone[a] = true;
    }
    let kept = x.dims.iter().zip(gone).filter(|(_, gone)| !gone).map(|(&d, _)| u64::from(d));
    let dims: Vec<u64> = std::iter::once(1).chain(kept).collect();
    view(call, x, &dims)
}

pub(super) fn unsqueeze(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let axes = call.list_or_attribute(1, "axes")?.ok_or("axes: expected the new axes, got none")?;
    if axes.len() > limits::NODE_INPUTS {
        return Err(format!("axes: expected a few, got {}", axes.len()).into());
    }
    let rank = x.dims.len() + axes.len();
    let mut new = vec![false; rank];
    for a in axes {
        new[axis(a, rank)?] = true;
    }
    if new.iter().filter(|new| !**new).count() != x.dims.len() {
        return Err("axes: expected different axes, got one twice".into());
    }
    let mut old = x.dims.iter();
    let dims = new.iter().map(|&new| if new { 1 } else { old.next().map_or(1, |&d| u64::from(d)) });
    let dims: Vec<u64> = std::iter::once(1).chain(dims).collect();
    view(call, x, &dims)
}

/// Permutations that move nothing in the tensor: between an image and the same with its channels last.
pub(super) fn transpose(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let rank = x.dims.len();
    let perm = integers(call.node, "perm")?.unwrap_or_default();
    let mut order: Vec<usize> = perm.iter().filter_map(|&p| usize::try_from(p - 1).ok()).collect();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if perm.first() != Some(&0) || perm.len() != rank + 1 || !sorted.into_iter().eq(0..rank) {
        return unsupported(format!("a permutation {perm:?} of {}", described(&x)), KEEP_BATCH);
    }
    let dims: Vec<u64> = order.iter().map(|&p| u64::from(x.dims[p])).collect();
    let all: Vec<u64> = std::iter::once(1).chain(dims).collect();
    let whole = order.clone();
    let Shape { channels, height, width } = x.shape;
    if x.order == Order::Same && x.dims == [channels, height, width] && whole == [1, 2, 0] {
        let dims = vec![height, width, channels];
        return Ok(vec![Computed { dims, order: Order::ChannelsLast(x.shape), ..x }]);
    }
    if x.order == Order::ChannelsLast(x.shape) && x.dims == [height, width, channels] && whole == [2, 0, 1] {
        return Ok(vec![Computed::image(x.tensor, x.shape)]);
    }
    order.retain(|&p| x.dims[p] != 1);
    if order.is_sorted() {
        return view(call, x, &all);
    }
    if whole == [2, 0, 1] && x.dims == [channels, height, width] && is_input(call, &x) {
        let image = Shape { channels: width, height: channels, width: height };
        let image = checked(image.channels.into(), image.height.into(), image.width.into())?;
        call.builder.network.input = image;
        let note = format!("the input is of shape {image} (channels first), where the file takes its channels last");
        call.builder.note(note);
        return Ok(vec![Computed::image(0, image)]);
    }
    unsupported(
        format!("a permutation {perm:?} of {}", described(&x)),
        "permute only between (N, C, H, W) and (N, H, W, C), at the input or before a Flatten",
    )
}

/// Channels of several values one after another.
pub(super) fn concat(call: &mut Call<'_>) -> Outputs {
    let mut values = Vec::with_capacity(call.inputs.len());
    for i in 0..call.inputs.len() {
        let x = call.computed(i)?;
        values.push(call.settled(x)?);
    }
    let Some(first) = values.first().cloned() else {
        return Err("expected inputs, got none".into());
    };
    let axis = axis(integer(call.node, "axis", 1)?, first.dims.len())?;
    let rest = |x: &Computed| {
        let mut dims = x.dims.clone();
        if axis < dims.len() {
            dims[axis] = 0;
        }
        dims
    };
    if let Some(other) = values.iter().find(|x| rest(x) != rest(&first)) {
        return Err(format!(
            "expected inputs that agree but for one axis, got {} and {}",
            described(&first),
            described(other)
        )
        .into());
    }
    if values.iter().any(|x| part(x, axis) != Some(Part::Channels)) {
        return unsupported(
            format!("a Concat along axis {} of {}", axis + 1, described(&first)),
            "concatenate channels, before a Flatten",
        );
    }
    let channels: u64 = values.iter().map(|x| u64::from(x.shape.channels)).sum();
    let shape = checked(channels, first.shape.height.into(), first.shape.width.into())?;
    if values.len() == 1 {
        return Ok(values);
    }
    let tensor = call.push(Op::Concat, values.iter().map(|x| x.tensor).collect(), shape)?;
    Ok(vec![resized(&first, tensor, shape, axis, shape.channels)])
}

/// Part of an axis: `count` places from `first` on, each `step` apart.
fn cut(call: &mut Call<'_>, x: &Computed, axis: usize, [first, count, step]: [u32; 3]) -> Result<Computed, Fault> {
    if first == 0 && step == 1 && count == x.dims[axis] {
        return Ok(x.clone());
    }
    let Shape { channels, height, width } = x.shape;
    let window = |offset, stride, height: u32, width: u32| {
        let window = Window { offset, stride, size: [height, width], edge: Edge::Zero };
        (Op::Window(window), Shape { channels, height, width })
    };
    let (op, shape) = match part(x, axis) {
        Some(Part::Channels) if step == 1 => {
            (Op::Channels(Channels { first, count }), Shape { channels: count, height, width })
        }
        Some(Part::Rows) => window([first as i32, 0], [step, 1], count, width),
        Some(Part::Columns) => window([0, first as i32], [1, step], height, count),
        _ => {
            return unsupported(
                format!("a slice with step {step} along axis {} of {}", axis + 1, described(x)),
                "slice channels with step 1, or rows and columns",
            );
        }
    };
    let tensor = call.push(op, vec![x.tensor], shape)?;
    Ok(resized(x, tensor, shape, axis, count))
}

pub(super) fn slice(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let mut x = call.settled(x)?;
    let starts = call.list_or_attribute(1, "starts")?.ok_or("starts: expected a constant, got none")?;
    let ends = call.list_or_attribute(2, "ends")?.ok_or("ends: expected a constant, got none")?;
    let axes = call.list_or_attribute(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = call.list(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] || starts.len() > x.dims.len() + 1 {
        return Err(format!(
            "expected starts, ends, axes and steps of one length, got {}, {}, {}, {}",
            starts.len(),
            ends.len(),
            axes.len(),
            steps.len()
        )
        .into());
    }
    for i in 0..starts.len() {
        let rank = x.dims.len() as i64 + 1;
        // All of the batch may be named.
        if (axes[i] == 0 || axes[i] == -rank) && starts[i] == 0 && ends[i] >= 1 && steps[i] == 1 {
            continue;
        }
        let axis = axis(axes[i], x.dims.len())?;
        let size = i64::from(x.dims[axis]);
        let place = |p: i64| if p < 0 { p.saturating_add(size) } else { p }.clamp(0, size);
        let (start, end, step) = (place(starts[i]), place(ends[i]), steps[i]);
        if step < 1 {
            return unsupported(format!("a slice with step {step}"), "slice forwards");
        }
        if start >= end {
            return Err(format!("expected a slice of at least one place of {size}, got {start} to {end}").into());
        }
        // Beyond the axis, every step takes the first place alone.
        let step = step.min(size);
        let count = (end - start - 1) / step + 1;
        x = cut(call, &x, axis, [start as u32, count as u32, step as u32])?;
    }
    Ok(vec![x])
}

pub(super) fn split(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let x = call.settled(x)?;
    let axis = axis(integer(call.node, "axis", 0)?, x.dims.len())?;
    let size = i64::from(x.dims[axis]);
    let parts = match call.list_or_attribute(1, "split")? {
        Some(parts) => parts,
        None => {
            let count = integer(call.node, "num_outputs", call.node.output.len() as i64)?;
            if count < 1 || count > size || count as usize != call.node.output.len() {
                return Err(format!("expected 1 to {size} outputs, got {count}").into());
            }
            // The last is smaller if they do not divide the axis.
            let part = (size + count - 1) / count;
            (0..count).map(|i| part.min(size - i * part)).collect()
        }
    };
    let whole = parts.iter().try_fold(0i64, |sum, &part| sum.checked_add(part).filter(|_| part > 0));
    if whole != Some(size) || parts.len() != call.node.output.len() {
        return Err(
            format!("split: expected {} sizes that sum to {size}, got {parts:?}", call.node.output.len()).into()
        );
    }
    let mut first = 0;
    let mut outputs = Vec::with_capacity(parts.len());
    for part in parts {
        outputs.push(cut(call, &x, axis, [first, part as u32, 1])?);
        first += part as u32;
    }
    Ok(outputs)
}

/// Rows and columns around an image, of zeros or of the nearest pixel; fewer of them where a number is negative.
pub(super) fn pad(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let edge = match string(call.node, "mode", "constant")? {
        "constant" => Edge::Zero,
        "edge" => Edge::Nearest,
        mode => return unsupported(format!("mode = {mode}"), "pad with zeros, or by the edge"),
    };
    let value = match call.optional(2, "constant_value")? {
        Some(tensor) => constant::unbounded(tensor).map_err(|e| format!("constant_value: {e}"))?,
        None => find(call.node, "value").map(|a| f64::from(a.f)).into_iter().collect(),
    };
    if edge == Edge::Zero && value.iter().any(|&v| v != 0.0) {
        return unsupported(format!("padding with {value:?}"), "pad with zeros");
    }
    let pads = call.list_or_attribute(1, "pads")?.ok_or("pads: expected a constant, got none")?;
    let axes = call.list(3, "axes")?.unwrap_or_else(|| (0..=x.dims.len() as i64).collect());
    if pads.len() != 2 * axes.len() {
        return Err(format!("pads: expected {} numbers, got {}", 2 * axes.len(), pads.len()).into());
    }
    // Before and after the rows, before and after the columns.
    let mut around = [[0i64; 2]; 2];
    for (i, &a) in axes.iter().enumerate() {
        let pair = [pads[i], pads[i + axes.len()]];
        if pair == [0; 2] {
            continue;
        }
        let part = axis(a, x.dims.len()).ok().and_then(|a| part(&x, a));
        around[match part {
            Some(Part::Rows) => 0,
            Some(Part::Columns) => 1,
            _ => return unsupported(format!("padding of axis {a}"), "pad rows and columns alone"),
        }] = pair;
    }
    if around == [[0; 2]; 2] {
        return Ok(vec![x]);
    }
    let mut size = [0; 2];
    for (i, old) in [x.shape.height, x.shape.width].into_iter().enumerate() {
        let new = around[i].iter().try_fold(i64::from(old), |sum, &p| sum.checked_add(p));
        let small = around[i].iter().all(|p| p.unsigned_abs() <= limits::ELEMENTS as u64);
        size[i] = new
            .filter(|&new| small && new > 0)
            .ok_or_else(|| format!("pads: expected at least one row and column to be left, got {pads:?}"))?;
    }
    let shape = checked(x.shape.channels.into(), size[0] as u64, size[1] as u64)?;
    let offset = [-around[0][0] as i32, -around[1][0] as i32];
    let window = Window { offset, stride: [1, 1], size: [shape.height, shape.width], edge };
    let tensor = call.push(Op::Window(window), vec![x.tensor], shape)?;
    let Shape { channels, height, width } = shape;
    let (dims, order) = match x.order {
        Order::Same => (vec![channels, height, width], Order::Same),
        Order::ChannelsLast(_) => (vec![height, width, channels], Order::ChannelsLast(shape)),
    };
    Ok(vec![Computed { tensor, shape, dims, order, left_to_client: None }])
}
