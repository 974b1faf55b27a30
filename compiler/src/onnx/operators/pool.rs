//! Pooling.

use super::super::attributes::{find, flag, pair};
use super::windows::Windows;
use super::{Call, Computed, Fault, Outputs, described, shape::axis, unsupported};
use crate::network::Op;
use crate::shape::checked;
use safenet_core::model::{Edge, Pool, Shape, Window};

/// The size and places of a pooling's windows.
fn windows(call: &mut Call<'_>) -> Result<(Computed, [u32; 2], Windows), Fault> {
    let x = call.image(0)?;
    if find(call.node, "kernel_shape").is_none() {
        return Err("kernel_shape: expected the window's size, got none".into());
    }
    let kernel = pair(call.node, "kernel_shape", 1)?;
    let windows = Windows::read(call.node, x.shape, kernel)?;
    if (0..4).any(|i| windows.padding[i] >= kernel[i % 2]) {
        return Err(format!("pads: expected less than the window of {kernel:?}, got {:?}", windows.padding).into());
    }
    Ok((x, kernel, windows))
}

pub(super) fn max(call: &mut Call<'_>) -> Outputs {
    let (x, kernel, windows) = windows(call)?;
    let shape = windows.shape(x.shape.channels)?;
    let pool = Pool { kernel, stride: windows.stride, padding: windows.padding, inside_only: true };
    let tensor = call.push(Op::MaxPool(pool), vec![x.tensor], shape)?;
    Ok(vec![Computed::image(tensor, shape)])
}

/// The average over windows, of what is inside the image or, with `count_include_pad`, of the padding's zeros too. What is
/// beyond the padding, where `ceil_mode` makes windows reach, counts in neither case.
pub(super) fn average(call: &mut Call<'_>) -> Outputs {
    let (mut x, kernel, windows) = windows(call)?;
    let shape = windows.shape(x.shape.channels)?;
    let [top, left, bottom, right] = windows.padding;
    let counted = flag(call.node, "count_include_pad", false)?;
    let padded = [x.shape.height + top + bottom, x.shape.width + left + right];
    let beyond = windows.overhang(padded, [0, 0]) != [0, 0];
    let (before, size) = if counted && beyond {
        // The padding becomes part of the image, so that what is beyond it is all that is outside.
        let offset = [-(top as i32), -(left as i32)];
        let window = Window { offset, stride: [1, 1], size: padded, edge: Edge::Zero };
        let image = checked(x.shape.channels.into(), padded[0].into(), padded[1].into())?;
        let tensor = call.push(Op::Window(window), vec![x.tensor], image)?;
        x = Computed::image(tensor, image);
        ([0, 0], padded)
    } else {
        ([top, left], [x.shape.height, x.shape.width])
    };
    let after = windows.overhang(size, before);
    let padding = [before[0], before[1], after[0], after[1]];
    let inside_only = padding != [0; 4] && (beyond || !counted);
    let pool = Pool { kernel, stride: windows.stride, padding, inside_only };
    let tensor = call.push(Op::Average(pool), vec![x.tensor], shape)?;
    Ok(vec![Computed::image(tensor, shape)])
}

pub(super) fn global_average(call: &mut Call<'_>) -> Outputs {
    let x = call.image(0)?;
    whole(call, &x, [true, true], Op::Average)
}

pub(super) fn global_max(call: &mut Call<'_>) -> Outputs {
    let x = call.image(0)?;
    whole(call, &x, [true, true], Op::MaxPool)
}

/// One window over all rows, all columns, or both.
fn whole(call: &mut Call<'_>, x: &Computed, over: [bool; 2], op: fn(Pool) -> Op) -> Outputs {
    let size = [x.shape.height, x.shape.width];
    let kernel = [0, 1].map(|i| if over[i] { size[i] } else { 1 });
    let pool = Pool { kernel, stride: [1, 1], padding: [0; 4], inside_only: false };
    let rest = [0, 1].map(|i| if over[i] { 1 } else { size[i] });
    let shape = Shape { channels: x.shape.channels, height: rest[0], width: rest[1] };
    let tensor = call.push(op(pool), vec![x.tensor], shape)?;
    Ok(vec![Computed::image(tensor, shape)])
}

/// The mean over rows, columns, or both.
pub(super) fn mean(call: &mut Call<'_>) -> Outputs {
    let x = call.image(0)?;
    let advice = "average over the height and width of an image alone";
    let Some(axes) = call.list_or_attribute(1, "axes")?.filter(|axes| !axes.is_empty()) else {
        return unsupported("a mean over all axes", advice);
    };
    let mut over = [false; 2];
    for &a in &axes {
        // The batch or the channels.
        match axis(a, x.dims.len()).ok().and_then(|a| a.checked_sub(1)) {
            Some(spatial) => over[spatial] = true,
            None => return unsupported(format!("a mean over the axes {axes:?}"), advice),
        }
    }
    let keep = flag(call.node, "keepdims", true)?;
    if !keep && over != [true, true] {
        return unsupported(format!("a mean over one axis of {}", described(&x)), "use keepdims = 1");
    }
    let mean = whole(call, &x, over, Op::Average)?;
    if keep {
        return Ok(mean);
    }
    Ok(mean.into_iter().map(|y| Computed::flat(y.tensor, y.shape)).collect())
}
