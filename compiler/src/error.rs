//! The compiler's errors. Every text says what was being read, what was expected, what came, and what to do about it.

use std::fmt;

/// The result of every fallible function of the compiler.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a network was not compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The ONNX file cannot be read, or contradicts itself.
    #[error("ONNX file: {0}")]
    Onnx(String),
    /// The network uses what private inference cannot do; every such node is listed.
    #[error("ONNX file: {} unsupported:{}", count(.0.len()), list(.0))]
    Unsupported(Vec<UnsupportedNode>),
    /// The network is read but cannot be put into fixed-point form.
    #[error("network: {0}")]
    Network(String),
    /// The calibration samples cannot be read, or are not for this network.
    #[error("samples: {0}")]
    Samples(String),
    /// An option is outside what the compiler allows.
    #[error("options: {0}")]
    Options(String),
    /// The compiled model violates a limit of the model file.
    #[error("compiled model: {0}")]
    Model(#[from] safenet_core::Error),
}

/// A node that the compiler cannot translate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// The node's name in the file, or its place if it has none.
    pub name: String,
    /// Its operator, with the domain if that is not ONNX's own.
    pub operator: String,
    /// What about it is not supported.
    pub reason: String,
    /// What to do instead.
    pub advice: &'static str,
}

impl fmt::Display for UnsupportedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}; {}", self.name, self.operator, self.reason, self.advice)
    }
}

fn count(nodes: usize) -> String {
    if nodes == 1 { "1 node is".into() } else { format!("{nodes} nodes are") }
}

fn list(nodes: &[UnsupportedNode]) -> String {
    nodes.iter().map(|node| format!("\n  {node}")).collect()
}
