//! Polynomials in the order in which products take them.

use crate::prg::Wiped;
use crate::rlwe::params::LINEAR;
use crate::rlwe::poly::{Poly, Values};
use crate::simd::residues::{BLOCK, Parts};

/// Words of a polynomial.
const WORDS: usize = LINEAR.degree * LINEAR.primes.len();

/// Some polynomials, prime by prime: of all of them the first 512 residues, then the next 512, and so on.
///
/// Sums of products are made 512 residues at a time. So the memory is read from its beginning to its end; and what is read again, for another
/// sum, lies together. In polynomials one after the other, parts lie multiples of 16 KiB apart: most share few places of a cache.
pub(super) struct Interleaved {
    words: Wiped<u32>,
    count: usize,
}

impl Interleaved {
    /// So many, all zero.
    pub(super) fn zeros(count: usize) -> Self {
        Self { words: Wiped::zeros(count * WORDS), count }
    }

    /// Sets polynomial `number`.
    pub(super) fn set(&mut self, number: usize, polynomial: &Poly<Values>) {
        let size = self.count * LINEAR.degree;
        for ((_, part), words) in polynomial.parts().zip(self.words.chunks_exact_mut(size)) {
            for (part, words) in part.as_chunks::<BLOCK>().0.iter().zip(words.chunks_exact_mut(self.count * BLOCK)) {
                words[number * BLOCK..][..BLOCK].copy_from_slice(part);
            }
        }
    }

    /// The residues of polynomial `number` modulo a prime.
    pub(super) fn get(&self, number: usize, prime: usize) -> Parts<'_> {
        let size = self.count * LINEAR.degree;
        Parts { words: &self.words[prime * size..][..size][number * BLOCK..], step: self.count }
    }
}
