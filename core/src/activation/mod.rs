//! Activation layers, channel by channel: truncation, exact ReLU, and polynomials of degree 3, 2, 1 and 0.
//!
//! Channels with the same public numbers form a [`Group`], whose elements are processed side by side. Both parties walk
//! the groups in the same order, so a layer's message in a round is the groups' bits one after another.
//!
//! Notation: the server holds y + m, the client m (known since prepare) and the fresh mask r of the layer's output.
//! Messages of a round go server -> client, then client -> server.

mod groups;
mod linear;
mod material;
mod poly;
mod relu;
#[cfg(test)]
mod tests;
mod truncate;

pub(crate) use groups::{ClientLayer, ClientSecrets, Group, RoundTrips, ServerLayer, groups};
pub(crate) use relu::product_word;
