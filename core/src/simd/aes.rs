//! AES-128 for encryption: crate `aes`, and where that leaves half of the processor's AES unit idle code of our own.
//!
//! Processors with VAES encrypt two blocks with one instruction in registers of 256 bits, two such instructions a cycle. The
//! crate's detection asks for AVX-512 with it, which some have not (AMD's of 2020 and 2021, Intel's small cores); on these the
//! loops around it would be compiled for SSE2 too. Where there is AVX-512, registers of 512 bits gain nothing, as one
//! instruction a cycle starts there, and the crate encrypts what is left of 64 blocks one by one. This type is the crate's
//! cipher elsewhere.

use aes::cipher::common::{BlockSizeUser, KeySizeUser};
use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherEncClosure, BlockCipherEncrypt, Key, KeyInit};

/// AES-128 under a key.
#[derive(Clone)]
pub(crate) enum Aes128Enc {
    Crate(aes::Aes128Enc),
    #[cfg(target_arch = "x86_64")]
    Vaes(vaes::RoundKeys),
}

impl BlockSizeUser for Aes128Enc {
    type BlockSize = U16;
}

impl KeySizeUser for Aes128Enc {
    type KeySize = U16;
}

impl KeyInit for Aes128Enc {
    #[inline]
    fn new(key: &Key<Self>) -> Self {
        #[cfg(target_arch = "x86_64")]
        if vaes::serves() {
            return Self::Vaes(vaes::RoundKeys::new(key.as_ref()));
        }
        Self::Crate(aes::Aes128Enc::new(key))
    }
}

impl BlockCipherEncrypt for Aes128Enc {
    #[inline]
    fn encrypt_with_backend(&self, closure: impl BlockCipherEncClosure<BlockSize = U16>) {
        match self {
            Self::Crate(cipher) => cipher.encrypt_with_backend(closure),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes(keys) => vaes::run(keys, closure),
        }
    }
}

/// The type of a block in the traits of crate `aes`.
#[cfg(any(test, target_arch = "x86_64"))]
type Bytes = aes::cipher::common::Block<Aes128Enc>;

#[cfg(target_arch = "x86_64")]
mod vaes {
    use super::super::{Level, level};
    use super::Bytes;
    use aes::cipher::common::{BlockSizeUser, ParBlocks, ParBlocksSizeUser};
    use aes::cipher::consts::U16;
    use aes::cipher::inout::InOut;
    use aes::cipher::{BlockCipherEncBackend, BlockCipherEncClosure};
    use core::arch::x86_64::*;
    use core::sync::atomic::{AtomicU8, Ordering};
    use zeroize::Zeroize;

    /// Whether this code is used: from level AVX2 on, if there are AES and VAES.
    #[inline]
    pub(super) fn serves() -> bool {
        level() >= Level::Avx2 && has_vaes()
    }

    /// 0 before it was found out, then 1 for no and 2 for yes.
    static HAS: AtomicU8 = AtomicU8::new(0);

    #[inline]
    fn has_vaes() -> bool {
        match HAS.load(Ordering::Relaxed) {
            0 => detect(),
            has => has == 2,
        }
    }

    #[cold]
    fn detect() -> bool {
        cpufeatures::new!(aes, "aes", "avx2", "bmi1", "bmi2");
        // Leaf 7, ECX bit 9 (Intel SDM, volume 2A, CPUID). That the system keeps registers of 256 bits came with AVX2.
        let has = aes::get() && __cpuid_count(7, 0).ecx >> 9 & 1 == 1;
        HAS.store(1 + u8::from(has), Ordering::Relaxed);
        has
    }

    /// The keys of the eleven rounds. Wiped when dropped.
    #[derive(Clone)]
    pub(crate) struct RoundKeys([__m128i; 11]);

    impl Drop for RoundKeys {
        fn drop(&mut self) {
            self.0.zeroize();
        }
    }

    impl RoundKeys {
        #[inline]
        pub(super) fn new(key: &[u8; 16]) -> Self {
            // SAFETY: `serves` found AES.
            unsafe { expand(key) }
        }
    }

    /// The key expansion of FIPS 197, section 5.2.
    #[target_feature(enable = "aes,avx2")]
    fn expand(key: &[u8; 16]) -> RoundKeys {
        /// The next key, given what AESKEYGENASSIST says of the last.
        #[inline]
        #[target_feature(enable = "aes,avx2")]
        fn next(key: __m128i, assist: __m128i) -> __m128i {
            // Each word is the sum of all words up to its own, and of the rotated and substituted last one.
            let key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
            let key = _mm_xor_si128(key, _mm_slli_si128::<8>(key));
            _mm_xor_si128(key, _mm_shuffle_epi32::<0xff>(assist))
        }
        // SAFETY: 16 bytes are read from an array of as many.
        let first = unsafe { _mm_loadu_si128(key.as_ptr().cast()) };
        let mut keys = [first; 11];
        keys[1] = next(keys[0], _mm_aeskeygenassist_si128::<0x01>(keys[0]));
        keys[2] = next(keys[1], _mm_aeskeygenassist_si128::<0x02>(keys[1]));
        keys[3] = next(keys[2], _mm_aeskeygenassist_si128::<0x04>(keys[2]));
        keys[4] = next(keys[3], _mm_aeskeygenassist_si128::<0x08>(keys[3]));
        keys[5] = next(keys[4], _mm_aeskeygenassist_si128::<0x10>(keys[4]));
        keys[6] = next(keys[5], _mm_aeskeygenassist_si128::<0x20>(keys[5]));
        keys[7] = next(keys[6], _mm_aeskeygenassist_si128::<0x40>(keys[6]));
        keys[8] = next(keys[7], _mm_aeskeygenassist_si128::<0x80>(keys[7]));
        keys[9] = next(keys[8], _mm_aeskeygenassist_si128::<0x1b>(keys[8]));
        keys[10] = next(keys[9], _mm_aeskeygenassist_si128::<0x36>(keys[9]));
        RoundKeys(keys)
    }

    /// Runs a closure on this back end, compiled for its instruction sets.
    #[inline]
    pub(super) fn run(keys: &RoundKeys, closure: impl BlockCipherEncClosure<BlockSize = U16>) {
        #[target_feature(enable = "avx2,bmi1,bmi2,aes,vaes")]
        fn call(keys: &RoundKeys, closure: impl BlockCipherEncClosure<BlockSize = U16>) {
            closure.call(&Backend(keys));
        }
        // SAFETY: there are round keys only where `serves` found all of these.
        unsafe { call(keys, closure) }
    }

    struct Backend<'a>(&'a RoundKeys);

    impl BlockSizeUser for Backend<'_> {
        type BlockSize = U16;
    }

    /// Two blocks in each of eight registers: enough to hide an instruction's latency of four cycles at two a cycle.
    impl ParBlocksSizeUser for Backend<'_> {
        type ParBlocksSize = U16;
    }

    impl BlockCipherEncBackend for Backend<'_> {
        #[inline(always)]
        fn encrypt_block(&self, block: InOut<'_, '_, Bytes>) {
            let (from, to) = block.into_raw();
            // SAFETY: 16 bytes of either are read and written; called within `run` alone, on a processor with AES.
            unsafe {
                let keys = &self.0.0;
                let mut state = _mm_xor_si128(_mm_loadu_si128(from.cast()), keys[0]);
                for key in &keys[1..10] {
                    state = _mm_aesenc_si128(state, *key);
                }
                _mm_storeu_si128(to.cast(), _mm_aesenclast_si128(state, keys[10]));
            }
        }

        #[expect(clippy::needless_range_loop, reason = "places of memory go with them")]
        #[inline(always)]
        fn encrypt_par_blocks(&self, blocks: InOut<'_, '_, ParBlocks<Self>>) {
            let (from, to) = blocks.into_raw();
            let (from, to) = (from.cast::<__m256i>(), to.cast::<__m256i>());
            // SAFETY: eight vectors, sixteen blocks, of either are read and written; called within `run` alone, on a
            // processor with AVX2 and VAES. (Loops, as closures around the instructions would not be compiled for them.)
            unsafe {
                let keys = &self.0.0;
                let key = _mm256_broadcastsi128_si256(keys[0]);
                let mut states = [key; 8];
                for i in 0..8 {
                    states[i] = _mm256_xor_si256(_mm256_loadu_si256(from.add(i)), key);
                }
                for key in &keys[1..10] {
                    let key = _mm256_broadcastsi128_si256(*key);
                    for state in &mut states {
                        *state = _mm256_aesenc_epi128(*state, key);
                    }
                }
                let key = _mm256_broadcastsi128_si256(keys[10]);
                for i in 0..8 {
                    _mm256_storeu_si256(to.add(i), _mm256_aesenclast_epi128(states[i], key));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::at_each_level;
    use super::*;
    use crate::prg::{Prg, Seed};
    use alloc::vec::Vec;

    #[test]
    fn a_block_is_the_known_answer() {
        // FIPS 197, appendix C.1.
        let key: [u8; 16] = core::array::from_fn(|i| i as u8);
        at_each_level(|level| {
            let mut block = Bytes::from(core::array::from_fn(|i| 0x11 * i as u8));
            Aes128Enc::new(&key.into()).encrypt_block(&mut block);
            assert_eq!(u128::from_be_bytes(block.into()), 0x69c4e0d86a7b0430d8cdb78070b4c55a, "{level:?}");
        });
    }

    #[test]
    fn blocks_are_those_of_the_crate_in_place_and_elsewhere() {
        let mut prg = Prg::new(&Seed::from_bytes([9; 32]));
        for count in [0, 1, 2, 15, 16, 17, 48, 100] {
            let (key, blocks): ([u8; 16], Vec<Bytes>) = (prg.array(), (0..count).map(|_| prg.array().into()).collect());
            let mut expected = blocks.clone();
            aes::Aes128Enc::new(&key.into()).encrypt_blocks(&mut expected);
            at_each_level(|level| {
                let cipher = Aes128Enc::new(&key.into()).clone();
                let (mut in_place, mut elsewhere) = (blocks.clone(), blocks.clone());
                cipher.encrypt_blocks(&mut in_place);
                cipher.encrypt_blocks_b2b(&blocks, &mut elsewhere).unwrap();
                assert_eq!((&in_place, &elsewhere), (&expected, &expected), "{level:?}, {count} blocks");
            });
        }
    }
}
