//! Versions of the interface and of the library.

use core::ffi::c_char;

/// Version of this interface. Programs built against one version run with every library that has the same. 0 until the
/// first stable release.
pub const SAFENET_ABI_VERSION: u32 = 0;

/// The SAFENET_ABI_VERSION of the library that is running. A program that loads the library at run time compares it with
/// its header's before it calls anything else.
#[unsafe(no_mangle)]
pub extern "C" fn safenet_abi_version() -> u32 {
    SAFENET_ABI_VERSION
}

/// The library's version, such as "0.1.0". Never freed; any thread may call.
#[unsafe(no_mangle)]
pub extern "C" fn safenet_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
