//! Bytes on the wire: bit packing and message frames.

pub mod bits;
pub(crate) mod frame;
pub(crate) mod words;
