//! Wide OTs: random 1-out-of-32 OTs, from which tables are made (module `pads`).
//!
//! The sender has a row q, the receiver a uniform index i of five bits and the row t = q ⊕ D(i). D is a linear map of the
//! index to 128 bits, the sender's secret, one for the session; D(i) is uniform for each i ≠ 0. The key of entry i is a hash
//! of q ⊕ D(i): the receiver can hash its own row and none of the others. One row serves a table of 32 entries, for which
//! five single OTs would be needed.
//!
//! Rows come from SoftSpokenOT with the simplex code (module `code`) or from the silent extension ([`super::silent`]). (1-out-of-n
//! extension by codes: Kolesnikov and Kumaresan, CRYPTO 2013; Orrù, Orsini and Scholl, CT-RSA 2017.)
//!
//! A table of 2^b < 32 entries takes a row too: the receiver tells the upper 5 - b bits of its index, and both go on with the
//! rest, the sender with q ⊕ D(those bits).

pub(super) mod code;
mod pads;
#[cfg(test)]
pub(super) mod tests;

pub use code::{BASE_OTS, INDEX_BITS};
pub(super) use code::{POSITION_BITS, POSITIONS};
pub(super) use pads::{Keys, Source};
pub use pads::{Received, Sent};
