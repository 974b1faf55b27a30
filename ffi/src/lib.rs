//! The C interface of SAFENet. `include/safenet.h` is generated from this crate and is its documentation: what is written
//! on public items here is worded for C programmers.
//!
//! Every exported function enters through [`session::Handle::call`] or [`hosted::guard`], which no panic leaves, and takes
//! its pointers through [`pointer`], which holds the one rule for NULL.
#![no_std]
#![allow(non_camel_case_types, reason = "types bear the names that C programs use")]
#![allow(clippy::missing_safety_doc, reason = "the header's preamble states once what callers owe every function")]

extern crate alloc;

#[cfg(not(feature = "std"))]
compile_error!(
    "safenet-ffi needs its feature `std`: a stop for panics, an allocator and a source of randomness (src/hosted.rs) have \
     no bare-metal counterpart yet"
);

#[cfg(feature = "std")]
mod hosted;
mod pointer;
mod session;

// In the order in which the header shows them, which is the order in which a reader needs them.
pub mod version;

pub mod status;

pub mod options;

pub mod model;

pub mod stats;

pub mod transport;

pub mod client;

pub mod server;
