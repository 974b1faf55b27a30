//! Kernels on words of Z_2^32: products with small weights, packing of few bits, and tables of one word per element.

pub(crate) mod pack;
pub(crate) mod products;
pub(crate) mod tables;
