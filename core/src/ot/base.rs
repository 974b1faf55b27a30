//! The base OTs: some hundred random OTs ([`Direction::base_ots`](super::Direction::base_ots)) on the Ristretto group by "The Simplest Protocol for Oblivious Transfer"
//! (Chou and Orlandi, LATINCRYPT 2015, figure 1), used with semi-honest parties.
//!
//! With G the group's generator: the sender sends A = a·G; the receiver answers B_i = b_i·G + c_i·A for its choice c_i;
//! the keys are k_i0 = H(a·B_i), k_i1 = H(a·(B_i − A)), and the receiver knows k_ic = H(b_i·A). B_i is uniform whatever
//! c_i is; knowing both keys takes solving a Diffie-Hellman problem. H is SHA-256 bound to the session, the direction,
//! the index and all points of the OT, cut to 128 bits.

use super::{Block, Context, Direction, Label, first_half};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::{Prg, SecretVec};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{Identity, IsIdentity};
use subtle::{Choice, ConditionallySelectable};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of the sender's message: one point.
pub const SENDER_BYTES: usize = 32;

/// Bytes of the receiver's reply: one point for each base OT.
pub const fn receiver_bytes(direction: Direction) -> usize {
    direction.base_ots() * 32
}

/// Both keys of each base OT. Used once, by the setup of the extension.
pub type SenderKeys = SecretVec<[Block; 2]>;

/// The chosen key of each base OT. Used once, by the setup of the extension.
pub type ReceiverKeys = SecretVec<Block>;

/// The sender between its message and the reply: holds the secret a. The party that will receive the random OTs plays
/// it.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct BaseSender {
    a: Scalar,
    #[zeroize(skip)]
    context: Context,
    #[zeroize(skip)]
    message: [u8; SENDER_BYTES],
}

impl BaseSender {
    /// Draws a and gives the message A = a·G.
    pub fn new(context: &Context, prg: &mut Prg) -> (Self, [u8; SENDER_BYTES]) {
        let a = random_scalar(prg);
        let message = RistrettoPoint::mul_base(&a).compress().to_bytes();
        (Self { a, context: *context, message }, message)
    }

    /// Derives both keys of every OT from the receiver's reply. Consumes and wipes a.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedMessage`] if the reply has another length than [`receiver_bytes`], or a point in it is no
    /// valid encoding, or one that makes a key known to everyone (the identity, or A); an honest receiver meets the
    /// latter with probability 2^-245.
    pub fn finish(self, reply: &[u8]) -> Result<SenderKeys> {
        let expected = receiver_bytes(self.context.direction);
        if reply.len() != expected {
            return Err(Error::new(
                ErrorKind::MalformedMessage,
                format!("base OT reply: expected {expected} bytes, got {}", reply.len()),
            ));
        }
        // a·(B − A) = a·B − a·A, and a·A is the same for all.
        let a_times_own = Zeroizing::new(RistrettoPoint::mul_base(&Zeroizing::new(self.a * self.a)));
        let mut keys = Zeroizing::new(vec![[0; 2]; reply.len() / 32]);
        for (i, (keys, encoding)) in keys.iter_mut().zip(reply.chunks_exact(32)).enumerate() {
            let point = decode(encoding, format_args!("base OT reply, point {i}"))?;
            if encoding == self.message {
                return Err(Error::new(
                    ErrorKind::MalformedMessage,
                    format!("base OT reply, point {i}: expected a fresh point, got the sender's own"),
                ));
            }
            let product = Zeroizing::new(self.a * point);
            let shared = Zeroizing::new([*product, *product - *a_times_own]);
            for (key, shared) in keys.iter_mut().zip(shared.iter()) {
                *key = derive(&self.context, i, &self.message, encoding, shared);
            }
        }
        Ok(keys)
    }
}

/// The receiver's whole part: from its choices (bit i is bit i % 8 of byte i / 8) and the sender's message, the reply
/// ([`receiver_bytes`]) and the chosen keys. The party that will send the random OTs plays it, with its secret Δ as the
/// choices.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if there are more or fewer choices than base OTs; [`ErrorKind::MalformedMessage`] if the
/// sender's message is no valid encoding of a point or encodes the identity.
pub fn base_receive(
    context: &Context,
    choices: &[u8],
    sender_message: &[u8; SENDER_BYTES],
    prg: &mut Prg,
) -> Result<(Vec<u8>, ReceiverKeys)> {
    let count = context.direction.base_ots();
    if 8 * choices.len() != count {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("base OTs: expected {count} choices, got {}", 8 * choices.len()),
        ));
    }
    let a_point = decode(sender_message, "base OT message")?;
    let (times_g, times_a) = multipliers(&a_point);
    let mut reply = Vec::with_capacity(32 * count);
    let mut keys = Zeroizing::new(vec![0; count]);
    for (i, key) in keys.iter_mut().enumerate() {
        let choice = Choice::from((choices[i / 8] >> (i % 8)) & 1);
        let b = Zeroizing::new(random_scalar(prg));
        let offset = Zeroizing::new(RistrettoPoint::conditional_select(&RistrettoPoint::identity(), &a_point, choice));
        let encoding = (times_g(&b) + *offset).compress().to_bytes();
        let shared = Zeroizing::new(times_a(&b));
        *key = derive(context, i, sender_message, &encoding, &shared);
        reply.extend_from_slice(&encoding);
    }
    Ok((reply, keys))
}

/// What multiplies by G and by A: tables of 30 KiB, which cost less than so many multiplications without.
#[cfg(all(feature = "curve-tables", not(feature = "small")))]
fn multipliers(a: &RistrettoPoint) -> (impl Fn(&Scalar) -> RistrettoPoint, impl Fn(&Scalar) -> RistrettoPoint) {
    let a = curve25519_dalek::ristretto::RistrettoBasepointTable::create(a);
    (RistrettoPoint::mul_base, move |b: &Scalar| b * &a)
}

/// What multiplies by G and by A.
#[cfg(not(all(feature = "curve-tables", not(feature = "small"))))]
fn multipliers(a: &RistrettoPoint) -> (impl Fn(&Scalar) -> RistrettoPoint, impl Fn(&Scalar) -> RistrettoPoint) {
    let [g, a] = [&curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT, a].map(super::comb::Comb::new);
    (move |b: &Scalar| g.times(b), move |b: &Scalar| a.times(b))
}

/// A uniform scalar, within statistical distance 2^-259 (512 bits reduced modulo the group's order of 253 bits).
pub(super) fn random_scalar(prg: &mut Prg) -> Scalar {
    Scalar::from_bytes_mod_order_wide(&Zeroizing::new(prg.array()))
}

/// The point of an encoding from the wire, not the identity. Points are public: this may branch on them.
fn decode(encoding: &[u8], what: impl core::fmt::Display) -> Result<RistrettoPoint> {
    let malformed = |got| {
        Error::new(ErrorKind::MalformedMessage, format!("{what}: expected an encoding of a Ristretto point, got {got}"))
    };
    let point = CompressedRistretto::from_slice(encoding)
        .ok()
        .and_then(|compressed| compressed.decompress())
        .ok_or_else(|| malformed("something else"))?;
    if point.is_identity() {
        return Err(malformed("that of the identity"));
    }
    Ok(point)
}

/// The key of one OT from the shared point.
fn derive(context: &Context, index: usize, a: &[u8], b: &[u8], shared: &RistrettoPoint) -> Block {
    let index = (index as u64).to_le_bytes();
    let shared = Zeroizing::new(shared.compress().to_bytes());
    let digest = Zeroizing::new(context.digest(Label::BaseKey, &[&index, a, b, &*shared]));
    Block::from_le_bytes(first_half(&digest))
}

#[cfg(test)]
mod tests {
    use super::super::{Direction, test_context};
    use super::*;
    use crate::prg::Seed;
    use curve25519_dalek::constants::RISTRETTO_BASEPOINT_COMPRESSED;
    use std::collections::BTreeSet;

    extern crate std;

    fn prg(n: u8) -> Prg {
        Prg::new(&Seed::from_bytes([n; 32]))
    }

    #[test]
    fn the_receiver_gets_the_chosen_key_and_not_the_other_at_every_index() {
        let context = test_context(Direction::ServerReceives);
        let mut seen = BTreeSet::new();
        for (seed, choices) in [(10, [0; 31]), (20, [0xff; 31]), (30, prg(1).array())] {
            let (sender, message) = BaseSender::new(&context, &mut prg(seed));
            let (reply, chosen) = base_receive(&context, &choices, &message, &mut prg(seed + 1)).unwrap();
            assert_eq!(reply.len(), receiver_bytes(context.direction));
            let keys = sender.finish(&reply).unwrap();
            for i in 0..context.direction.base_ots() {
                let c = usize::from(choices[i / 8] >> (i % 8) & 1);
                assert_eq!(chosen[i], keys[i][c], "OT {i}");
                assert_ne!(chosen[i], keys[i][1 - c], "OT {i}");
                seen.insert(keys[i][1 - c]);
            }
        }
        assert_eq!(seen.len(), 3 * context.direction.base_ots());
    }

    #[test]
    fn a_key_is_the_known_answer() {
        // From tests/known-answers/ot.py: index 3, points 01…01 and 02…02 and the shared point the group's generator.
        let generator = RistrettoPoint::mul_base(&Scalar::ONE);
        let key = derive(&test_context(Direction::ServerReceives), 3, &[1; 32], &[2; 32], &generator);
        assert_eq!(key, u128::swap_bytes(0xa696db035119842fac3e05bdfa12128e));
    }

    #[test]
    fn keys_depend_on_direction_nonces_and_index() {
        let context = test_context(Direction::ServerReceives);
        let (_, message) = BaseSender::new(&context, &mut prg(2));
        let choices = |context: &Context| alloc::vec![0; context.direction.base_ots() / 8];
        let keys = |context: &Context| base_receive(context, &choices(context), &message, &mut prg(3)).unwrap().1;
        let reference = keys(&context);
        let others = [
            Context { direction: Direction::ClientReceives, ..context },
            Context { client_nonce: [8; 32], ..context },
            Context { server_nonce: [8; 32], ..context },
            // Swapped nonces must not give the same string.
            Context { client_nonce: context.server_nonce, server_nonce: context.client_nonce, ..context },
        ];
        for other in others {
            assert!(keys(&other).iter().zip(reference.iter()).all(|(a, b)| a != b), "{other:?}");
        }
        let point = RistrettoPoint::mul_base(&Scalar::from(5u64));
        assert_ne!(derive(&context, 0, &message, &message, &point), derive(&context, 1, &message, &message, &point));
    }

    #[test]
    fn points_that_are_invalid_or_the_identity_or_the_senders_own_are_refused() {
        let context = test_context(Direction::ServerReceives);
        // RFC 9496 A.3: a non-canonical field element, a negative one, and one that is no square.
        let mut non_canonical = [0xff; 32];
        non_canonical[0] = 0;
        non_canonical[31] = 0x7f;
        let mut negative = [0; 32];
        negative[0] = 1;
        let bad = [[0; 32], [0xff; 32], non_canonical, negative];
        for encoding in bad {
            let Err(e) = base_receive(&context, &[0; 31], &encoding, &mut prg(3)) else { panic!("{encoding:?}") };
            assert_eq!(e.kind(), ErrorKind::MalformedMessage);
        }
        let (_, message) = BaseSender::new(&context, &mut prg(2));
        let (reply, _) = base_receive(&context, &[0; 31], &message, &mut prg(3)).unwrap();
        for count in [0, 16, 30, 32] {
            let wrong = base_receive(&context, &alloc::vec![0; count], &message, &mut prg(3));
            assert_eq!(wrong.err().unwrap().kind(), ErrorKind::InvalidArgument);
        }
        for encoding in bad.iter().chain([&message]) {
            for i in [0, 63, 127] {
                let mut reply = reply.clone();
                reply[32 * i..][..32].copy_from_slice(encoding);
                let Err(e) = BaseSender::new(&context, &mut prg(2)).0.finish(&reply) else { panic!("{encoding:?}") };
                assert_eq!(e.kind(), ErrorKind::MalformedMessage);
                assert!(e.message().contains(&format!("point {i}")), "{e}");
            }
        }
        let right = receiver_bytes(context.direction);
        for length in [0, right - 1, right + 1, right + 32] {
            let mut reply = reply.clone();
            reply.resize(length, 0);
            assert!(BaseSender::new(&context, &mut prg(2)).0.finish(&reply).is_err());
        }
        // A valid point that nobody expected only gives keys that do not agree.
        let mut other = reply;
        other[..32].copy_from_slice(RISTRETTO_BASEPOINT_COMPRESSED.as_bytes());
        assert!(BaseSender::new(&context, &mut prg(2)).0.finish(&other).is_ok());
    }
}
