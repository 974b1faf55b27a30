//! Zeros around an image that only convolutions read, as these convolutions' own padding.

use crate::error::Result;
use crate::network::{Network, Op, Tensor};
use safenet_core::model::{Edge, Shape, Window};

pub(super) fn fold(network: &mut Network) -> Result<()> {
    for index in 0..network.layers.len() {
        while let Some((tensor, more)) = padded(network, index) {
            let layer = &mut network.layers[index];
            if let Op::Linear(linear) = &mut layer.op {
                linear.conv.padding.iter_mut().zip(more).for_each(|(padding, more)| *padding += more);
            }
            layer.inputs = vec![tensor];
        }
    }
    Ok(())
}

/// What a linear layer reads if its input only adds zeros to it, and how many.
fn padded(network: &Network, index: usize) -> Option<(Tensor, [u32; 4])> {
    let layer = &network.layers[index];
    let Op::Linear(linear) = &layer.op else {
        return None;
    };
    let before = network.producer(*layer.inputs.first()?)?;
    let Op::Window(window) = &before.op else {
        return None;
    };
    let tensor = *before.inputs.first()?;
    let more = zeros(window, network.shape(tensor))?;
    // Padding of any size is fine for a convolution, as long as the numbers hold it.
    let sums = linear.conv.padding.iter().zip(more).all(|(a, b)| a.checked_add(b).is_some());
    sums.then_some((tensor, more))
}

/// Zeros at the top, left, bottom and right, if a window holds its input and nothing else.
fn zeros(window: &Window, input: Shape) -> Option<[u32; 4]> {
    if window.stride != [1, 1] || window.edge != Edge::Zero {
        return None;
    }
    let around = |i: usize, size: u32| {
        let before = -i64::from(window.offset[i]);
        let after = i64::from(window.size[i]) - before - i64::from(size);
        Some([u32::try_from(before).ok()?, u32::try_from(after).ok()?])
    };
    let ([top, bottom], [left, right]) = (around(0, input.height)?, around(1, input.width)?);
    Some([top, left, bottom, right])
}
