//! Two-party private inference of neural networks: the cryptography, the arithmetic and the protocol.
//!
//! `docs/protocol.md` describes the protocol and its notation. This crate opens no sockets, reads no clock and prints
//! nothing: [`session`] takes bytes in and gives bytes out. It starts no threads unless it is told how many ([`threads`]).
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

mod activation;
pub mod error;
mod field;
mod layer;
mod map;
pub mod model;
pub mod ot;
pub mod prg;
pub mod rlwe;
pub mod session;
mod share;
#[allow(unsafe_code)]
pub mod simd;
pub mod threads;
pub mod wire;

pub use error::{Error, ErrorKind, Result};
