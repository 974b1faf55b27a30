//! Tells the crate whether the target has the instructions of `src/simd/chacha_arm.rs`: of 32-bit Arm all but the smallest.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(thumb2)");
    // No cfg of the stable compiler tells them apart, but targets' names do.
    let target = var("TARGET").unwrap_or_default();
    if ["thumbv7", "thumbv8m.main", "armv7"].iter().any(|name| target.starts_with(name)) {
        println!("cargo::rustc-cfg=thumb2");
    }
}
