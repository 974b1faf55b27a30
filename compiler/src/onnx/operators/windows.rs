//! Where the windows of convolutions and pooling lie.

use super::super::attributes::{find, flag, integers, pair, string};
use super::super::proto::NodeProto;
use crate::shape::checked;
use safenet_core::model::{Shape, limits};

/// Windows over an image.
pub(super) struct Windows {
    pub(super) stride: [u32; 2],
    /// Top, left, bottom, right, as the file gives it.
    pub(super) padding: [u32; 4],
    /// How many, vertically and horizontally.
    pub(super) count: [u32; 2],
    /// Places from a window's first element to behind its last.
    reach: [u32; 2],
}

impl Windows {
    /// Reads strides, padding and rounding. `reach` is the size of a window with its dilation.
    pub(super) fn read(node: &NodeProto, input: Shape, reach: [u32; 2]) -> Result<Self, String> {
        let stride = pair(node, "strides", 1)?;
        let padding = padding(node, input, reach, stride)?;
        let round_up = flag(node, "ceil_mode", false)?;
        let mut count = [0; 2];
        for (i, size) in [input.height, input.width].into_iter().enumerate() {
            count[i] = places(size, [padding[i], padding[i + 2]], reach[i], stride[i], round_up)?;
        }
        Ok(Self { stride, padding, count, reach })
    }

    /// Shape of an output of so many channels.
    pub(super) fn shape(&self, channels: u32) -> Result<Shape, String> {
        checked(channels.into(), self.count[0].into(), self.count[1].into())
    }

    /// How far windows reach past the image behind it, at the bottom and at the right, if the image is of this size and
    /// has padding before it only.
    pub(super) fn overhang(&self, size: [u32; 2], before: [u32; 2]) -> [u32; 2] {
        [0, 1].map(|i| {
            let end = (u64::from(self.count[i]) - 1) * u64::from(self.stride[i]) + u64::from(self.reach[i]);
            end.saturating_sub(u64::from(size[i]) + u64::from(before[i])) as u32
        })
    }
}

/// How many windows fit, or, rounding up, start in the image or in the padding before it.
fn places(size: u32, padding: [u32; 2], reach: u32, stride: u32, round_up: bool) -> Result<u32, String> {
    let [size, before, after, reach, stride] = [size, padding[0], padding[1], reach, stride].map(u64::from);
    let padded = size + before + after;
    if reach > padded {
        return Err(format!(
            "expected a kernel of 1 to the padded size of the image, {padded}, got one that reaches over {reach}"
        ));
    }
    let whole = (padded - reach) / stride + 1;
    let places = if round_up && !(padded - reach).is_multiple_of(stride) && whole * stride < size + before {
        whole + 1
    } else {
        whole
    };
    // Rounding up finds one more at most, unless padding after the image held windows of its own.
    Ok(places as u32)
}

/// Padding (top, left, bottom, right), given or by the rule of `auto_pad`.
fn padding(node: &NodeProto, input: Shape, reach: [u32; 2], stride: [u32; 2]) -> Result<[u32; 4], String> {
    match string(node, "auto_pad", "NOTSET")? {
        "NOTSET" | "" => {
            let Some(ints) = integers(node, "pads")? else {
                return Ok([0; 4]);
            };
            let fits = |p: &i64| (0..=limits::ELEMENTS as i64).contains(p);
            match *ints {
                [a, b, c, d] if ints.iter().all(fits) => Ok([a, b, c, d].map(|p| p as u32)),
                _ => Err(format!("pads: expected four numbers of 0 to {}, got {ints:?}", limits::ELEMENTS)),
            }
        }
        rule if find(node, "pads").is_some_and(|a| a.ints.iter().any(|&p| p != 0)) => {
            Err(format!("pads: expected none beside auto_pad, got auto_pad = {rule}"))
        }
        "VALID" => Ok([0; 4]),
        rule @ ("SAME_UPPER" | "SAME_LOWER") => {
            let mut padding = [0; 4];
            for (i, size) in [input.height, input.width].into_iter().enumerate() {
                let places = u64::from(size.div_ceil(stride[i]));
                let reached = (places - 1) * u64::from(stride[i]) + u64::from(reach[i]);
                let total = reached.saturating_sub(u64::from(size)) as u32;
                let (small, large) = (total / 2, total - total / 2);
                (padding[i], padding[i + 2]) = if rule == "SAME_UPPER" { (small, large) } else { (large, small) };
            }
            Ok(padding)
        }
        other => Err(format!("auto_pad: expected NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {other:?}")),
    }
}
