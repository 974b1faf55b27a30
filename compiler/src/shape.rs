//! Shapes from files.

use safenet_core::model::{Shape, limits};

/// A shape within the model file's limits.
pub(crate) fn checked(channels: u64, height: u64, width: u64) -> std::result::Result<Shape, String> {
    let elements = channels.checked_mul(height).and_then(|n| n.checked_mul(width));
    let fits = elements.is_some_and(|n| (1..=limits::ELEMENTS as u64).contains(&n));
    if !fits || channels > limits::CHANNELS as u64 {
        return Err(format!(
            "expected a tensor of 1 to {} elements in 1 to {} channels, got {channels}x{height}x{width}",
            limits::ELEMENTS,
            limits::CHANNELS
        ));
    }
    Ok(Shape { channels: channels as u32, height: height as u32, width: width as u32 })
}
