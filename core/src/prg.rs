//! The seeded generator from which a session draws everything random.
//!
//! ChaCha20 (RFC 8439 block function, 64-bit block counter) keyed by 32 bytes that come from the operating system or the
//! caller. Sub-generators are keyed by output of their parent, so no key ever expands two things.

use crate::error::{Error, ErrorKind, Result};
use crate::simd::chacha;
use alloc::{boxed::Box, vec::Vec};
use chacha20::ChaCha20Rng;
use core::ops::{Deref, DerefMut};
use rand_core::{Rng, SeedableRng, TryCryptoRng};
use zeroize::{DefaultIsZeroes, Zeroize, Zeroizing};

/// Bytes in a seed.
pub const SEED_BYTES: usize = 32;

/// The key of a [`Prg`]. Wiped when dropped; not printable. In a box, so that moving it leaves no copy behind.
pub struct Seed(Box<Zeroizing<[u8; SEED_BYTES]>>);

impl Seed {
    /// Takes 32 uniform bytes from a cryptographic source.
    ///
    /// # Errors
    /// [`ErrorKind::Randomness`] if the source fails.
    pub fn from_rng(source: &mut impl TryCryptoRng) -> Result<Self> {
        let mut seed = Self::from_bytes([0; SEED_BYTES]);
        source.try_fill_bytes(&mut seed.0[..]).map_err(|e| {
            Error::new(
                ErrorKind::Randomness,
                alloc::format!("source of randomness: expected {SEED_BYTES} bytes, it failed: {e}"),
            )
        })?;
        Ok(seed)
    }

    /// Wraps 32 bytes that the caller vouches to be uniform, secret and never used before.
    pub fn from_bytes(bytes: [u8; SEED_BYTES]) -> Self {
        Self(Box::new(Zeroizing::new(bytes)))
    }
}

/// A stream of pseudo-random values that are uniform to anyone who does not know its seed.
///
/// Cannot be cloned: two copies would hand out the same masks twice. Wiped when dropped; in a box for the reason of [`Seed`].
pub struct Prg(Box<ChaCha20Rng>);

impl Prg {
    /// Starts the stream of a seed.
    pub fn new(seed: &Seed) -> Self {
        Self(Box::new(ChaCha20Rng::from_seed(**seed.0)))
    }

    /// A seed that is output of this stream, for a generator of its own.
    pub fn seed(&mut self) -> Seed {
        let mut seed = Seed::from_bytes([0; SEED_BYTES]);
        self.fill(&mut seed.0[..]);
        seed
    }

    /// A generator keyed by output of this one.
    pub fn fork(&mut self) -> Self {
        Self::new(&self.seed())
    }

    /// Fills a buffer with uniform bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        let filled = if out.len() > 2 * chacha::BATCH { self.fill_batches(out) } else { 0 };
        self.0.fill_bytes(&mut out[filled..]);
    }

    /// Fills the beginning of a long buffer, if the processor does so faster. The stream is the same either way.
    fn fill_batches(&mut self, out: &mut [u8]) -> usize {
        const WORDS: u128 = 16;
        // What is left of a block that was begun.
        let begun = (self.0.get_word_pos() % WORDS) as usize;
        let (head, batches) = out.split_at_mut((16 - begun) % 16 * size_of::<u32>());
        let (batches, _) = batches.as_chunks_mut();
        self.0.fill_bytes(head);
        let block = self.0.get_word_pos() / WORDS;
        let start = Zeroizing::new(chacha::state(&Zeroizing::new(self.0.get_seed()), block as u64));
        if !chacha::fill::<10>(&start, batches) {
            return head.len();
        }
        self.0.set_word_pos((block + 16 * batches.len() as u128) * WORDS);
        head.len() + batches.len() * chacha::BATCH
    }

    /// A uniform value of Z_2^32.
    pub fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A uniform 64-bit value.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform bytes as an array.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// A value of [0, bound), within statistical distance bound·2^-128 of uniform, in constant time.
    ///
    /// Takes the high half of a 128-bit uniform value times the bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        let low = u128::from(self.next_u64());
        let high = u128::from(self.next_u64());
        let bound = u128::from(bound);
        ((high * bound + ((low * bound) >> 64)) >> 64) as u64
    }
}

/// Secret values that are wiped when dropped.
pub type SecretVec<T> = Zeroizing<Vec<T>>;

/// Secret words, a fixed number of them, wiped when dropped: all at once, where [`SecretVec`] wipes word by word.
pub(crate) struct Wiped<T: DefaultIsZeroes>(Vec<T>);

impl<T: DefaultIsZeroes> Wiped<T> {
    pub(crate) fn zeros(count: usize) -> Self {
        Self(alloc::vec![T::default(); count])
    }

    /// Drops all but the first `count`.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.0[count..].zeroize();
        self.0.truncate(count);
    }
}

impl<T: DefaultIsZeroes> Drop for Wiped<T> {
    fn drop(&mut self) {
        self.0[..].zeroize();
    }
}

impl<T: DefaultIsZeroes> Deref for Wiped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: DefaultIsZeroes> DerefMut for Wiped<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// Collects `count` secret values. The room is taken at once: a vector that grows leaves copies of its contents behind.
pub(crate) fn collect<T: zeroize::Zeroize>(count: usize, values: impl Iterator<Item = T>) -> SecretVec<T> {
    let mut out = Vec::with_capacity(count);
    out.extend(values.take(count));
    debug_assert_eq!(out.len(), count);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::at_each_level;

    #[test]
    fn first_block_is_rfc_8439_chacha20_of_the_zero_key() {
        // RFC 8439, appendix A.1, test vector 1: zero key, zero nonce, block counter 0.
        let mut prg = Prg::new(&Seed::from_bytes([0; 32]));
        assert_eq!(
            prg.array::<16>(),
            [0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90, 0x40, 0x5d, 0x6a, 0xe5, 0x53, 0x86, 0xbd, 0x28]
        );
    }

    /// It is that of the crate `chacha20`.
    #[test]
    fn the_stream_does_not_depend_on_how_it_is_taken_nor_on_the_level() {
        let seed = [0x5a; SEED_BYTES];
        let mut whole = alloc::vec![0; 40_000];
        ChaCha20Rng::from_seed(seed).fill_bytes(&mut whole);
        at_each_level(|level| {
            for first in [0, 4, 60, 64, 252, 256, 1000, 4096] {
                let mut prg = Prg::new(&Seed::from_bytes(seed));
                let mut pieces = alloc::vec![0; 40_000];
                let mut left = &mut pieces[..];
                for length in [first, 8, 9000, 4, 2052, 3072, 100, 20_000] {
                    let (piece, rest) = left.split_at_mut(length);
                    prg.fill(piece);
                    left = rest;
                }
                let taken = 40_000 - left.len();
                assert!(pieces[..taken] == whole[..taken], "{level:?}, {first}");
            }
        });
    }

    /// The block counter's low word overflows within a batch.
    #[test]
    fn counters_carry() {
        let (mut batches, mut blocks) = ([[0; chacha::BATCH]; 2], [0; 2 * chacha::BATCH]);
        let mut rng = ChaCha20Rng::from_seed([7; SEED_BYTES]);
        rng.set_word_pos(((1u128 << 32) - 5) * 16);
        rng.fill_bytes(&mut blocks);
        if chacha::fill::<10>(&chacha::state(&[7; SEED_BYTES], (1 << 32) - 5), &mut batches) {
            assert!(batches.as_flattened() == blocks);
        }
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut prg = Prg::new(&Seed::from_bytes([1; 32]));
        let mut seen = [0u32; 7];
        for _ in 0..7000 {
            seen[prg.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
        assert!((0..1000).all(|_| prg.below(1) == 0));
    }

    #[test]
    fn forks_differ_from_their_parent_and_from_each_other() {
        let mut prg = Prg::new(&Seed::from_bytes([2; 32]));
        let (mut a, mut b) = (prg.fork(), prg.fork());
        assert_ne!(a.next_u64(), b.next_u64());
        assert_ne!(a.next_u64(), prg.next_u64());
    }
}
