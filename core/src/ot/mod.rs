//! Oblivious transfer (OT): base OTs, the extension that multiplies them, and the tables built from random OTs.
//!
//! A *random OT* gives its sender two uniform keys (k_0, k_1) and its receiver a uniform bit c and the key k_c. The
//! sender learns nothing of c, the receiver nothing of k_(1-c). Security is semi-honest throughout.
//!
//! One direction of a session runs, in this order (R is the receiver of the random OTs, S their sender):
//!
//! | step | who | call | message |
//! |---|---|---|---|
//! | 1 | R → S | [`base::BaseSender::new`] | [`base::SENDER_BYTES`] |
//! | 2 | S → R | [`base::base_receive`] with choices Δ | [`base::receiver_bytes`] |
//! | 3 | R → S | [`base::BaseSender::finish`], [`softspoken::RotReceiver::setup`] | [`softspoken::setup_bytes`] |
//! | 4 | S | [`softspoken::RotSender::setup`] | none |
//! | 5 | R → S, any number of times | [`softspoken::RotReceiver::extend`], [`softspoken::RotSender::extend`] | [`softspoken::extension_bytes`] |
//!
//! The roles of the base OTs are those of the extension turned round: R sends, S chooses with its secret Δ.
//! Both directions of a session run this once, each with its own [`Direction`] and an independent Δ.
//!
//! Instead of step 5, the two can make correlated OTs once and go on with the silent extension ([`silent`]), which takes
//! a hundredth of the traffic and a Δ whose lowest bit is set.

pub mod base;
#[cfg(any(test, feature = "small", not(feature = "curve-tables")))]
mod comb;
#[cfg_attr(not(feature = "silent"), allow(dead_code, reason = "the silent extension hashes too"))]
mod hash;
#[cfg(test)]
pub(crate) mod ideal;
mod pprf;
pub mod silent;
pub mod softspoken;
mod suite;
pub mod supply;
pub mod table;
mod transpose;
#[cfg_attr(not(feature = "silent"), allow(dead_code, reason = "the silent extension makes wide OTs too"))]
pub mod wide;

pub use suite::Suite;
pub use supply::Extension;

use crate::error::{Error, ErrorKind, Result};
use crate::prg::SecretVec;
use crate::simd::aes::Aes128Enc;
use aes::cipher::consts::U16;
use aes::cipher::inout::InOutBuf;
use aes::cipher::{Array, BlockCipherEncBackend, BlockCipherEncrypt};
use core::fmt;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SoftSpoken(depth) => write!(f, "depth {}", depth.bits()),
            Self::Silent => f.write_str("the silent one"),
        }
    }
}

impl Extension {
    /// The extension, if it is in this build: the silent one takes the crate's feature `silent`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if it is not.
    pub fn check_built(self) -> Result<Self> {
        if self == Self::Silent && !cfg!(feature = "silent") { Err(Self::not_built()) } else { Ok(self) }
    }

    fn not_built() -> Error {
        Error::new(
            ErrorKind::InvalidArgument,
            "OT extension: expected depth 2, 4 or 8, as this library is built without the silent one (feature `silent`), got 1",
        )
    }
}

/// A key of an OT: 128 bits. Bit i of the wire's byte b is bit 8·b + i of the integer, on every host.
pub type Block = u128;

/// Bits of a row of the extension's matrix, which is the computational security parameter.
pub const ROW_BITS: usize = 128;

/// What the sender of random OTs keeps secret for a whole session: its choices of the base OTs, bit i in bit i % 8 of byte
/// i / 8. On the heap, so that moving it leaves no copies.
pub type Delta = SecretVec<u8>;

/// Δ of the single OTs: the first [`ROW_BITS`] bits.
fn row_delta(delta: &Delta) -> Zeroizing<Block> {
    Zeroizing::new(delta.first_chunk().map_or(0, |bytes| Block::from_le_bytes(*bytes)))
}

/// A block as AES takes it. Kept as bytes where blocks are only XORed, word by word, which compilers turn into the widest vector
/// instructions at hand; XORs of `u128` they split over two general registers.
type Bytes = [u8; 16];

/// Which party receives the random OTs: part of every hash's domain, so that nothing of one direction is of use in the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The server chooses, the client holds both keys.
    ServerReceives,
    /// The client chooses, the server holds both keys.
    ClientReceives,
}

impl Direction {
    /// The number of base OTs: one for each bit of a row, and where the server receives, whose values choose from tables, as
    /// many as wide OTs take.
    pub const fn base_ots(self) -> usize {
        match self {
            Self::ServerReceives => wide::BASE_OTS,
            Self::ClientReceives => ROW_BITS,
        }
    }
}

/// What binds every hash and every cipher key of one direction of one session. Public, and equal at both parties.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// What hashes and expands.
    pub suite: Suite,
    /// Who receives the random OTs.
    pub direction: Direction,
    /// The client's nonce from the handshake, fresh per session.
    pub client_nonce: [u8; 32],
    /// The server's nonce from the handshake, fresh per session.
    pub server_nonce: [u8; 32],
}

/// The purposes that a hash of the [`Context`] can serve.
#[cfg_attr(not(feature = "silent"), allow(dead_code, reason = "some are the silent extension's"))]
#[derive(Clone, Copy)]
enum Label {
    /// Keys of the base OTs.
    BaseKey = 1,
    /// AES keys, or the binding, of the correlation-robust hash.
    HashKey = 2,
    /// AES keys, or the binding, that expand nodes of the trees.
    TreeKeys = 3,
    /// The session's half of the counter blocks, or the binding, that expand leaves.
    LeafSalt = 4,
    /// AES keys, or the binding, of the silent extension's hash.
    SilentHash = 5,
    /// AES keys from which those of the silent extension's trees come.
    SilentTrees = 6,
    /// AES keys that choose the columns of the silent extension's code.
    SilentColumns = 7,
    /// The AES key from which those of the wide OTs' hash come, or its binding.
    WideHash = 8,
}

impl Context {
    /// SHA-256 of a fixed prefix, the label, the context and the parts.
    ///
    /// Everything in front of the parts has a fixed length, and each label always takes parts of the same lengths, so
    /// no two different inputs give the same string.
    fn digest(&self, label: Label, parts: &[&[u8]]) -> [u8; 32] {
        let direction = match self.direction {
            Direction::ServerReceives => 0u8,
            Direction::ClientReceives => 1,
        };
        let mut sha = Sha256::new();
        sha.update(b"safenet-ot-v1");
        // What one suite takes from here is of no use in the other.
        sha.update([label as u8 | (self.suite.code() - 1) << 7, direction]);
        sha.update(self.client_nonce);
        sha.update(self.server_nonce);
        for part in parts {
            sha.update(part);
        }
        sha.finalize().into()
    }
}

/// The first 16 bytes of a hash.
fn first_half(digest: &[u8; 32]) -> Bytes {
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

/// Encrypts blocks in place, as many side by side as the processor's AES unit takes.
fn encrypt(cipher: &Aes128Enc, blocks: &mut [Bytes]) {
    cipher.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
}

/// Encrypts `from` to `to`. Both have the same length.
fn encrypt_into(cipher: &Aes128Enc, from: &[Bytes], to: &mut [Bytes]) {
    let result = cipher.encrypt_blocks_b2b(Array::cast_slice_from_core(from), Array::cast_slice_from_core_mut(to));
    debug_assert!(result.is_ok());
}

/// Encrypts blocks in place within a closure of the cipher's back end.
#[inline(always)]
fn encrypt_with<B: BlockCipherEncBackend<BlockSize = U16>>(backend: &B, blocks: &mut [Bytes]) {
    let (chunks, tail) = Array::slice_as_chunks_mut(Array::cast_slice_from_core_mut(blocks));
    for chunk in chunks {
        backend.encrypt_par_blocks_inplace(chunk);
    }
    backend.encrypt_tail_blocks_inplace(tail);
}

/// Encrypts `from` to `to`, of one length, within a closure of the cipher's back end.
#[inline(always)]
fn encrypt_into_with<B: BlockCipherEncBackend<BlockSize = U16>>(backend: &B, from: &[Bytes], to: &mut [Bytes]) {
    let (from, to) = (Array::cast_slice_from_core(from), Array::cast_slice_from_core_mut(to));
    let Ok(blocks) = InOutBuf::new(from, to) else { return };
    let (chunks, tail) = blocks.into_chunks();
    for chunk in chunks {
        backend.encrypt_par_blocks(chunk);
    }
    for block in tail {
        backend.encrypt_block(block);
    }
}

/// The words of blocks, for sums: processors without vectors add a word as fast as a byte.
#[inline(always)]
fn words(blocks: &[Bytes]) -> impl Iterator<Item = u32> {
    blocks.as_flattened().as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The words' places.
#[inline(always)]
fn words_mut(blocks: &mut [Bytes]) -> impl Iterator<Item = &mut [u8; 4]> {
    blocks.as_flattened_mut().as_chunks_mut().0.iter_mut()
}

/// Adds to a word at its place.
#[inline(always)]
fn add(place: &mut [u8; 4], word: u32) {
    *place = (u32::from_le_bytes(*place) ^ word).to_le_bytes();
}

/// XORs `b` into `a`, as far as both reach.
#[cfg(test)]
fn xor_into(a: &mut [Bytes], b: &[Bytes]) {
    for (a, b) in a.iter_mut().zip(b) {
        for (a, b) in a.iter_mut().zip(b) {
            *a ^= b;
        }
    }
}

/// The block of 16 bytes.
fn read_block(bytes: &[u8]) -> Block {
    let mut block = [0; 16];
    block.copy_from_slice(bytes);
    Block::from_le_bytes(block)
}

/// All ones if the low bit of `bit` is set, else zero.
#[inline]
fn mask(bit: u32) -> u128 {
    0u128.wrapping_sub(u128::from(bit & 1))
}

#[cfg(test)]
#[cfg(not(feature = "silent"))]
#[test]
fn without_the_silent_extension_no_one_can_choose_it() {
    let refused = Extension::Silent.check_built().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(refused.message().contains("built without the silent one"), "{refused}");
    assert_eq!(Extension::from_code(4).and_then(Extension::check_built).map(Extension::code), Ok(4));
}

#[cfg(test)]
pub(crate) fn test_context(direction: Direction) -> Context {
    Context { suite: Suite::Aes, direction, client_nonce: [7; 32], server_nonce: [9; 32] }
}
