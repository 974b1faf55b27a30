//! Shapes of tensors.

use super::limits;
use super::malformed;
use crate::error::Result;
use alloc::format;
use serde::{Deserialize, Serialize};

/// A tensor's shape, channel-major: element (c, i, j) is at index (c · height + i) · width + j.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Channels; of a flat vector, its length.
    pub channels: u32,
    /// Rows; 1 for a flat vector.
    pub height: u32,
    /// Columns; 1 for a flat vector.
    pub width: u32,
}

impl Shape {
    /// Elements of one channel.
    pub fn plane(&self) -> usize {
        self.height as usize * self.width as usize
    }

    /// Elements of the tensor.
    pub fn elements(&self) -> usize {
        self.channels as usize * self.plane()
    }

    pub(super) fn checked(self) -> Result<Self> {
        let elements = u128::from(self.channels) * u128::from(self.height) * u128::from(self.width);
        if elements == 0 || elements > limits::ELEMENTS as u128 || self.channels as usize > limits::CHANNELS {
            return Err(malformed(format!(
                "shape: expected 1 to {} elements in 1 to {} channels, got {self}",
                limits::ELEMENTS,
                limits::CHANNELS
            )));
        }
        Ok(self)
    }
}

impl core::fmt::Display for Shape {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}
