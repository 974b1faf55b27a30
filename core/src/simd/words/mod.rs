//! Kernels on words of Z_2^32: products with small weights, packing of few bits, tables of one word per element, and
//! elements of F_p in pairs of words.

pub(crate) mod field;
pub(crate) mod pack;
pub(crate) mod products;
pub(crate) mod tables;
