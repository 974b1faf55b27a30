//! What is known of the values of an ONNX graph while it is read.

use super::proto::TensorProto;
use crate::network::Tensor;
use safenet_core::model::Shape;
use std::rc::Rc;

/// A value of the graph.
#[derive(Clone)]
pub(super) enum Value {
    Constant(Rc<TensorProto>),
    Computed(Computed),
    /// What an unsupported node gives. What reads it is looked at as far as that goes without its shape.
    Unknown,
}

/// A value that depends on the network's input.
///
/// ONNX reshapes and transposes freely, while the network's tensors are images in channel-major order. Most of these
/// changes move no element, so they are written down here, and a layer is made of them only where an operator needs one.
#[derive(Clone, Debug)]
pub(super) struct Computed {
    pub(super) tensor: Tensor,
    /// Shape of the tensor.
    pub(super) shape: Shape,
    /// Dimensions in the file, without the batch.
    pub(super) dims: Vec<u32>,
    pub(super) order: Order,
    /// The node, by its place in the file, of the function that is left to the client (softmax and its like); from there
    /// on the graph may only rename and reshape.
    pub(super) left_to_client: Option<usize>,
}

/// How the file's order of elements, last dimension fastest, follows from the tensor's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Order {
    /// The same.
    Same,
    /// Row by row, pixel by pixel, channel by channel of this image; the tensor is it or its flattening.
    ChannelsLast(Shape),
}

impl Computed {
    /// An image of shape (batch, C, H, W).
    pub(super) fn image(tensor: Tensor, shape: Shape) -> Self {
        let dims = vec![shape.channels, shape.height, shape.width];
        Self { tensor, shape, dims, order: Order::Same, left_to_client: None }
    }

    /// A vector of shape (batch, K).
    pub(super) fn flat(tensor: Tensor, shape: Shape) -> Self {
        Self { dims: vec![shape.channels], ..Self::image(tensor, shape) }
    }

    /// The same value changed by a layer that keeps its shape.
    pub(super) fn with(&self, tensor: Tensor) -> Self {
        Self { tensor, ..self.clone() }
    }

    /// Which of `dims` counts the tensor's channels, where one does.
    pub(super) fn channel_axis(&self) -> Option<usize> {
        let last = self.dims.len().checked_sub(1)?;
        match self.order {
            Order::Same => (self.dims[0] == self.shape.channels).then_some(0),
            // Flattened: the vector's elements are the tensor's channels, in another order.
            Order::ChannelsLast(image) if self.shape != image => (last == 0).then_some(0),
            Order::ChannelsLast(image) => (last > 0 && self.dims[last] == image.channels).then_some(last),
        }
    }

    /// For the elements of a vector in the file's order, their places in the tensor; none if that is the same.
    pub(super) fn places(&self) -> Option<Vec<usize>> {
        match self.order {
            Order::ChannelsLast(image) if self.shape != image => {
                let (channels, plane) = (image.channels as usize, image.plane());
                Some((0..channels * plane).map(|e| e % channels * plane + e / channels).collect())
            }
            _ => None,
        }
    }

    /// Spreads a constant over the tensor's channels, by ONNX's rule: dimensions align at the right.
    pub(super) fn per_channel<T: Copy>(&self, constant: (Vec<u64>, Vec<T>)) -> Result<Vec<T>, String> {
        let (dims, values) = constant;
        let rank = self.dims.len() + 1;
        if let ([value], true) = (values.as_slice(), dims.len() <= rank) {
            return Ok(vec![*value; self.shape.channels as usize]);
        }
        let expected = |this: &Self| {
            let shape: Vec<String> = (0..this.dims.len())
                .map(|i| if Some(i) == this.channel_axis() { this.dims[i].to_string() } else { "1".into() })
                .collect();
            format!(
                "expected one number per channel, of shape ({}), or a single one, got shape {dims:?}",
                shape.join(", ")
            )
        };
        let Some(axis) = self.channel_axis().map(|axis| axis + 1) else {
            return Err(expected(self));
        };
        let fits = dims.len() <= rank
            && dims.len() + axis >= rank
            && dims.iter().rev().zip((0..rank).rev()).all(|(&d, i)| d == 1 || i == axis)
            && dims[dims.len() + axis - rank] == u64::from(self.shape.channels)
            && values.len() == self.shape.channels as usize;
        if !fits {
            return Err(expected(self));
        }
        Ok(self.in_tensor_order(values))
    }

    /// Numbers for the elements of a vector, or the channels of an image, brought into the tensor's order.
    pub(super) fn in_tensor_order<T: Copy>(&self, values: Vec<T>) -> Vec<T> {
        let Some(places) = self.places() else {
            return values;
        };
        let mut ordered = values.clone();
        for (&value, place) in values.iter().zip(places) {
            ordered[place] = value;
        }
        ordered
    }
}
