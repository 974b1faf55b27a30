//! The invariant that the whole protocol composes by (`docs/protocol.md`, section 1).
//!
//! For every tensor x of the network the client holds a [`Mask`] r, known since prepare, and the server the [`Masked`]
//! tensor x + r. Both are vectors over Z_2^32, in the order of [`crate::model::Shape`]. r is uniform, except that it is 0
//! in channels of degree 0 and in what is made of them alone. Every step of either party turns what it holds of its input
//! into what it holds of its output.

use crate::prg::SecretVec;

/// The client's part of a tensor: r.
pub(crate) type Mask = SecretVec<u32>;

/// The server's part of a tensor: x + r.
pub(crate) type Masked = SecretVec<u32>;
