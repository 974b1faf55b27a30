//! Gives the shared library the name under which programs ask for it at run time.

/// Equal to `SAFENET_ABI_VERSION`; a test compares them.
const ABI_VERSION: u32 = 0;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |key: &str, value: &str| std::env::var(key).is_ok_and(|v| v == value);
    // Other systems name libraries in other ways; there the linker's default stands.
    if is("CARGO_CFG_TARGET_OS", "linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libsafenet.so.{ABI_VERSION}");
    }
}
