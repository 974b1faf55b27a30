//! Vectors of residues modulo 31-bit primes: transforms and sums of products.

#[cfg(any(test, compact_roots))]
pub(crate) mod compact;
pub(crate) mod fractions;
pub(crate) mod modulus;
pub(crate) mod pointwise;
mod products;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod products_neon;
#[cfg(target_arch = "x86_64")]
mod products_x86;
mod roots;
mod transform;
#[cfg(target_arch = "x86_64")]
mod transform_avx2;
#[cfg(target_arch = "x86_64")]
mod transform_ifma;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod transform_neon;

pub(crate) use products::{BLOCK, Pair, Parts, Sum, add_products, add_scaled};
pub(crate) use roots::MAX_DEGREE;
pub(crate) use transform::{Table, Transform};
