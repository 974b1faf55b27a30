//! The linear layers on plain words of Z_2^32: what the server computes on masked tensors and the client on its masks.

mod convolve;
mod local;
mod planes;

pub(crate) use convolve::convolve;
pub(crate) use local::local;
