//! The model as both parties see it: its public architecture, its secret parameters, and the model file.
//!
//! A [`Architecture`] is public: layer kinds, shapes, and every number that shapes a message (fraction bits, shifts, bounds).
//! A [`Parameters`] is the server's secret: weights, biases and polynomial coefficients, as integers.

mod activation;
mod architecture;
mod file;
pub mod limits;
mod operators;
mod parameters;
mod shape;
#[cfg(test)]
mod tests;

pub use activation::{Activation, Channel, Kind};
pub use architecture::{Architecture, Node, Output, TensorId};
pub use file::{ModelFile, ModelId, PUBLIC_MAGIC, SERVER_MAGIC};
pub use operators::{Channels, Convolution, Edge, Max, Op, Pool, Sum, Window};
pub use parameters::{Calibration, ChannelSecret, NodeSecret, Parameters, WEIGHT_LIMIT};
pub use shape::Shape;

use crate::error::{Error, ErrorKind};

fn malformed(message: impl Into<alloc::string::String>) -> Error {
    Error::new(ErrorKind::MalformedModel, message)
}
