//! Tells the crate what of `src/simd` suits the target: `thumb2`, whether it has the instructions of `chacha_arm.rs`, as 32-bit Arm has but for the smallest;
//! `compact_roots`, whether roots of unity are made as they are used: in little memory, where no vectors read them from tables.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(thumb2)");
    println!("cargo::rustc-check-cfg=cfg(compact_roots)");
    let arch = var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if var("CARGO_FEATURE_SMALL").is_ok() && !["x86_64", "aarch64"].contains(&arch.as_str()) {
        println!("cargo::rustc-cfg=compact_roots");
    }
    // No cfg of the stable compiler tells them apart, but targets' names do.
    let target = var("TARGET").unwrap_or_default();
    if ["thumbv7", "thumbv8m.main", "armv7"].iter().any(|name| target.starts_with(name)) {
        println!("cargo::rustc-cfg=thumb2");
    }
}
