//! From a trained network to a model file: reads ONNX, folds batch normalisation, measures ranges on calibration samples,
//! chooses fixed-point numbers, and reports how exact and how safe the result is.
//!
//! ```text
//! ONNX bytes ─ read ─ graph of layers ─ normalise ─ settle ─ measure ─ fix ─ ModelFile ─ judge ─ Report
//! ```
//!
//! # What is read
//!
//! Networks with one input and one output that are made of convolutions (strides, padding, dilation, groups), dense layers,
//! batch normalisation and other affine maps per channel, ReLU and the piecewise functions made of it (Clip, LeakyRelu, PRelu,
//! HardSigmoid, HardSwish), maxima and averages over windows, sums, concatenation, slices, padding and reshaping, and the
//! planned activation: the local function `ChannelActivation` of domain `safenet` with inputs X, degree (int64 per channel: −1
//! exact ReLU, else 0 to 3), c0, c1, c2, c3, which computes `Where(degree < 0, Relu(X), ((c3 X + c2) X + c1) X + c0)`.
//! Everything else gives one error that names every node that is not supported. Whatever is constant is computed beforehand.
//!
//! # Fixed point
//!
//! The input is round(x · 2^bits). Its range is that of the calibration samples, widened outwards to whole numbers ([0, 1] stays
//! [0, 1]), unless given. How the bits of each layer are chosen is told in `fixed/search.rs`; how activations are brought into
//! the protocol's forms, in `fixed/form.rs`. Bounds hold for calibrated values times a margin; which of them hold for every
//! input of the range is computed afterwards and told in the [`Report`].
#![forbid(unsafe_code)]

#[cfg(feature = "compile")]
mod compile;
#[cfg(feature = "compile")]
mod engine;
mod error;
#[cfg(feature = "compile")]
mod fixed;
#[cfg(feature = "compile")]
mod network;
#[cfg(feature = "compile")]
mod normalise;
#[cfg(feature = "compile")]
pub mod onnx;
#[cfg(feature = "compile")]
mod report;
mod samples;
mod shape;

#[cfg(feature = "compile")]
pub use compile::{Compiled, Options, compile, float_network};
#[cfg(feature = "compile")]
pub use engine::{FloatNetwork, OnnxRunner};
pub use error::{Error, Result, UnsupportedNode};
#[cfg(feature = "compile")]
pub use report::{Accuracy, KindCount, LayerReport, OutputReport, Report};
pub use samples::Samples;
