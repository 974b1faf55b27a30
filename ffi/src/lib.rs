//! The C interface of SAFENet. `include/safenet.h` is generated from this crate and is its documentation: what is written
//! on public items here is worded for C programmers.
//!
//! Every exported function enters through `session::Handle::call` or `platform::guard`, which no panic leaves, and takes
//! its pointers through `pointer`, which holds the one rule for NULL.
//!
//! With the feature `std` the platform is `hosted`. Without it, for targets without an operating system, it is `bare`, whose
//! own functions the header declares where `SAFENET_BARE_METAL` is defined, or `web`, in a WebAssembly module.
#![no_std]
#![allow(non_camel_case_types, reason = "types bear the names that C programs use")]
#![allow(clippy::missing_safety_doc, reason = "the header's preamble states once what callers owe every function")]

extern crate alloc;

#[cfg(all(not(feature = "std"), not(target_os = "none"), not(all(target_family = "wasm", target_os = "unknown"))))]
compile_error!(
    "safenet-ffi without its feature `std` is for targets without an operating system: on others the allocator and the stop for \
     panics (src/bare.rs, src/web.rs) would stand beside the system's"
);
#[cfg(all(feature = "std", target_family = "wasm", target_os = "unknown"))]
compile_error!(
    "safenet-ffi for WebAssembly: expected to be built without its feature `std` (--no-default-features), got it with"
);

// On a hosted system for its tests alone.
#[cfg(any(test, target_os = "none"))]
mod arena;
#[cfg(not(feature = "std"))]
mod fault;
#[cfg(feature = "std")]
mod hosted;
mod pointer;
mod session;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod web;

#[cfg(target_os = "none")]
use bare as platform;
#[cfg(all(feature = "std", not(target_os = "none")))]
use hosted as platform;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use web as platform;

// In the order in which the header shows them, which is the order in which a reader needs them.
pub mod version;

pub mod status;

#[cfg(target_os = "none")]
pub mod bare;

pub mod options;

pub mod model;

pub mod stats;

pub mod transport;

pub mod client;

pub mod server;
