//! The network as both parties see it: its public architecture, its secret parameters, and the model file.
//!
//! A [`Architecture`] is public: layer kinds, shapes, and every number that shapes a message (fraction bits, shifts, bounds).
//! A [`Parameters`] is the server's secret: weights, biases and polynomial coefficients, as integers.

mod architecture;
mod file;
mod parameters;
#[cfg(test)]
mod tests;

pub use architecture::{Activation, Architecture, Channel, Convolution, Kind, Node, Op, Pool, Shape, TensorId, limits};
pub use file::{ModelFile, ModelId, PUBLIC_MAGIC, SERVER_MAGIC};
pub use parameters::{Calibration, ChannelSecret, NodeSecret, Parameters, WEIGHT_LIMIT};
