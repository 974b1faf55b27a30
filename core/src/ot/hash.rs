//! The hash that turns correlated rows of the extension into independent keys.
//!
//! TMMO of Guo, Katz, Wang and Yu, "Efficient and Secure Multiparty Computation from Fixed-Key Block Ciphers" (IEEE S&P
//! 2020, section 7.4): H(x, i) = π(π(x) ⊕ i) ⊕ π(x). With π an ideal permutation it is tweakable circular correlation
//! robust: for a secret Δ, H(x ⊕ Δ, i) is uniform to one who knows x and i. An attack with p evaluations of π against q
//! hashes under one key succeeds with probability in the order of p·q / 2^128, so π is AES-128 under a key of the
//! session's own, replaced every 2^20 OTs. The tweak is the OT's index, which never restarts.
//!
//! With the other suite H(x, i) is the first half of what ChaCha20 gives under the key x and public words of the session's own, at
//! counter i: a random function of all of them, if ChaCha20's permutation is an ideal one.

use super::{Block, Bytes, Context, Label, Suite, encrypt_with, first_half};
use crate::simd::aes::Aes128Enc;
use crate::simd::chacha::Binding;
use aes::cipher::common::BlockSizeUser;
use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, KeyInit};
use alloc::boxed::Box;
use zeroize::{Zeroize, Zeroizing};

/// OTs hashed under one AES key, as a power of two.
const EPOCH_BITS: u32 = 20;

/// Blocks that pass through AES together: enough to fill the widest unit (64 blocks in the `aes` crate's AVX-512 code)
/// twice. A hash holds two such runs, so in little memory there are fewer.
const BATCH: usize = if cfg!(feature = "small") { 16 } else { 128 };

/// What a hash's AES keys are bound to beside the session: each purpose has a tweak counter of its own.
#[derive(Clone, Copy)]
enum Purpose {
    SoftSpoken,
    /// The silent extension with the set of this number.
    Silent(u8),
}

/// The hash of one direction of a session. Both parties hold one; what keys it is known to both.
pub(super) enum Hasher {
    Aes(Box<AesHasher>),
    ChaCha(Binding),
}

/// That of the suite with AES.
pub(super) struct AesHasher {
    context: Context,
    purpose: Purpose,
    epoch: u64,
    cipher: Aes128Enc,
    /// π(x) and what follows from it. Secret; kept here so that it is wiped once, not after every batch.
    inner: [Bytes; BATCH],
    outer: [Bytes; BATCH],
}

impl Hasher {
    /// For the SoftSpoken extension.
    pub(super) fn new(context: &Context) -> Self {
        Self::for_purpose(context, Purpose::SoftSpoken)
    }

    /// For the silent extension.
    pub(super) fn for_silent(context: &Context, set: u8) -> Self {
        Self::for_purpose(context, Purpose::Silent(set))
    }

    fn for_purpose(context: &Context, purpose: Purpose) -> Self {
        match context.suite {
            Suite::ChaCha => Self::ChaCha(Binding::new(&digest(context, purpose, 0))),
            Suite::Aes => Self::Aes(Box::new(AesHasher {
                context: *context,
                purpose,
                epoch: 0,
                cipher: epoch_cipher(context, purpose, 0),
                inner: [[0; 16]; BATCH],
                outer: [[0; 16]; BATCH],
            })),
        }
    }

    /// Replaces each x_n of `values` by H(x_n, first + n).
    pub(super) fn hash(&mut self, first: u64, values: &mut [Block]) {
        match self {
            Self::Aes(hasher) => hasher.hash(first, values),
            Self::ChaCha(binding) => binding.hash(first, 0, values),
        }
    }

    /// Both keys of the OTs with the rows `rows` of the sender: H(q_n, first + n) and H(q_n ⊕ Δ, first + n). Leaves in
    /// `rows` the second ones.
    pub(super) fn hash_pairs(&mut self, first: u64, delta: Block, rows: &mut [Block], keys: &mut [[Block; 2]]) {
        for (keys, row) in keys.iter_mut().zip(rows.iter_mut()) {
            keys[1] = *row ^ delta;
        }
        self.hash(first, rows);
        for (keys, row) in keys.iter_mut().zip(rows.iter_mut()) {
            keys[0] = *row;
            *row = keys[1];
        }
        self.hash(first, rows);
        for (keys, row) in keys.iter_mut().zip(rows.iter()) {
            keys[1] = *row;
        }
    }
}

impl AesHasher {
    fn hash(&mut self, first: u64, values: &mut [Block]) {
        let mut tweak = first;
        let mut rest = values;
        while !rest.is_empty() {
            let epoch = tweak >> EPOCH_BITS;
            if epoch != self.epoch {
                self.epoch = epoch;
                self.cipher = epoch_cipher(&self.context, self.purpose, epoch);
            }
            let left_in_epoch = (1 << EPOCH_BITS) - (tweak & ((1 << EPOCH_BITS) - 1));
            let count = rest.len().min(BATCH).min(usize::try_from(left_in_epoch).unwrap_or(BATCH));
            let (now, later) = rest.split_at_mut(count);
            self.hash_batch(tweak, now);
            tweak += count as u64;
            rest = later;
        }
    }

    /// At most `BATCH` values, all in the present epoch.
    fn hash_batch(&mut self, first: u64, values: &mut [Block]) {
        let (inner, outer) = (&mut self.inner[..values.len()], &mut self.outer[..values.len()]);
        self.cipher.encrypt_with_backend(Tmmo { first, values, inner, outer });
    }
}

/// One batch. As a closure of the cipher's back end, the loops are compiled for the instruction set that the back end
/// uses.
struct Tmmo<'a> {
    first: u64,
    values: &'a mut [Block],
    inner: &'a mut [Bytes],
    outer: &'a mut [Bytes],
}

impl BlockSizeUser for Tmmo<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Tmmo<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let Self { first, values, inner, outer } = self;
        for (inner, value) in inner.iter_mut().zip(values.iter()) {
            *inner = value.to_le_bytes();
        }
        encrypt_with(backend, inner);
        for ((outer, inner), tweak) in outer.iter_mut().zip(inner.iter()).zip(first..) {
            *outer = (u128::from_le_bytes(*inner) ^ u128::from(tweak)).to_le_bytes();
        }
        encrypt_with(backend, outer);
        for ((value, outer), inner) in values.iter_mut().zip(outer.iter()).zip(inner.iter()) {
            *value = Block::from_le_bytes(*outer) ^ Block::from_le_bytes(*inner);
        }
    }
}

impl Drop for AesHasher {
    fn drop(&mut self) {
        self.inner.zeroize();
        self.outer.zeroize();
    }
}

fn epoch_cipher(context: &Context, purpose: Purpose, epoch: u64) -> Aes128Enc {
    let key = Zeroizing::new(first_half(&digest(context, purpose, epoch)));
    Aes128Enc::new((&*key).into())
}

/// What a purpose's hash is keyed by. The suite with ChaCha has one epoch.
fn digest(context: &Context, purpose: Purpose, epoch: u64) -> [u8; 32] {
    let epoch = epoch.to_le_bytes();
    match purpose {
        Purpose::SoftSpoken => context.digest(Label::HashKey, &[&epoch]),
        Purpose::Silent(set) => context.digest(Label::SilentHash, &[&[set], &epoch]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Direction, test_context};
    use super::*;
    use alloc::vec::Vec;

    fn contexts() -> [Context; 2] {
        [Suite::Aes, Suite::ChaCha].map(|suite| Context { suite, ..test_context(Direction::ServerReceives) })
    }

    fn hash_one(context: &Context, x: Block, tweak: u64) -> Block {
        let mut value = [x];
        Hasher::new(context).hash(tweak, &mut value);
        value[0]
    }

    #[test]
    fn known_answers() {
        // From tests/known-answers/ot.py. Its blocks are byte strings, so in hexadecimal the integers here are big-endian.
        let [aes, chacha] = contexts();
        let x = Block::from_le_bytes(core::array::from_fn(|i| i as u8));
        for (context, tweak, expected) in [
            (aes, 0, 0xfddd98229ca927324b95cd20e368250d),
            (aes, 5, 0x342a4583f340a84098d9d06c0bb31ba5),
            (aes, (1 << 20) + 5, 0xf8dc004649e59149ed1bb4068633be3e),
            (chacha, 0, 0x823ea898094589d874a6ea8dfce6252a),
            (chacha, 5, 0x313c5e627d3f8c97c0cc40991c27e506),
            (chacha, (1 << 20) + 5, 0x3e327561623b68d6ac8d53e6b2362092),
        ] {
            assert_eq!(hash_one(&context, x, tweak), u128::swap_bytes(expected), "{:?}, tweak {tweak}", context.suite);
        }
    }

    #[test]
    fn batches_of_any_size_and_across_epochs_agree_with_single_hashes() {
        let edge = 1u64 << EPOCH_BITS;
        let starts = |context| [0, 5, edge - 200, edge - 1, edge, 3 * edge - 128].map(|first| (context, first));
        for (context, first) in contexts().into_iter().flat_map(starts) {
            for count in [0, 1, 127, 128, 129, 400] {
                let mut values: Vec<Block> = (0..count).map(|i| ((i * i) << 90) | i).collect();
                let expected: Vec<Block> =
                    values.iter().zip(first..).map(|(&x, tweak)| hash_one(&context, x, tweak)).collect();
                Hasher::new(&context).hash(first, &mut values);
                assert_eq!(values, expected, "{first} {count}");
            }
        }
    }

    #[test]
    fn tweak_epoch_direction_and_nonces_all_change_the_hash() {
        for context in contexts() {
            check_binding(context);
        }
    }

    fn check_binding(context: Context) {
        let reference = hash_one(&context, 1, 0);
        assert_ne!(reference, hash_one(&context, 1, 1));
        assert_ne!(reference, hash_one(&context, 2, 0));
        for other in [
            Context { direction: Direction::ClientReceives, ..context },
            Context { client_nonce: [8; 32], ..context },
            Context { server_nonce: [8; 32], ..context },
            Context { suite: if context.suite == Suite::Aes { Suite::ChaCha } else { Suite::Aes }, ..context },
        ] {
            assert_ne!(reference, hash_one(&other, 1, 0), "{other:?}");
        }
        for set in [1, 2] {
            let mut value = [1];
            Hasher::for_silent(&context, set).hash(0, &mut value);
            assert_ne!(reference, value[0]);
        }
        // Same low tweak bits, another epoch: not only the tweak differs but the key.
        let keys: Vec<[u8; 32]> =
            (0u64..3).map(|epoch| context.digest(Label::HashKey, &[&epoch.to_le_bytes()])).collect();
        assert!(keys[0] != keys[1] && keys[1] != keys[2]);
    }
}
