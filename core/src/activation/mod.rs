//! Activation layers, channel by channel: truncation, exact ReLU, and polynomials of degree 3, 2, 1 and 0.
//!
//! Channels with the same public numbers form a [`Group`], whose elements are processed side by side. Both parties walk
//! the groups in the same order, so a layer's message in a round is the groups' parts one after another. Within a group the
//! values of one kind of up to 512 elements lie together ([`crate::wire::words`]), so that all steps are loops over words.
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

pub use groups::RoundTrips;
pub(crate) use groups::{ClientLayer, Group, ServerLayer, draw_outputs, draw_shares, factors, groups, parts};
#[cfg(test)]
pub(crate) use material::Rots;
pub(crate) use material::{ReceiverRots, SenderRots};
pub(crate) use relu::product_word;
