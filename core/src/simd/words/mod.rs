//! Kernels on words of Z_2^32: products with small weights.

pub(crate) mod products;
