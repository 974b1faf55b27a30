//! Products in F_p on encrypted values, N = 8192 at a time.
//!
//! The client encrypts values C; the server, holding multipliers u, returns an encryption of u·C - wS for its fresh uniform wS; the client
//! decrypts wC. Then wC + wS = u·C in each slot. Slots are the values of the plaintext polynomial at the roots of X^N + 1 modulo p (Smart and
//! Vercauteren, 2014), so that one product of polynomials multiplies all of them.
//!
//! Noise before flooding: the multiplier polynomial has coefficients uniform modulo p, |w| < p/2, so by [`super::noise`] it is below
//! 8·sqrt((127/12)·N·p²/12) < 2^45.5, and flooding in [-2^85, 2^85) hides it to a statistical distance of 2^-40.5 per coefficient.

pub(in crate::rlwe) mod field;

use super::encode::{Element, decode_element};
use super::encrypt::{Ciphertext, hide};
use super::keys::{PublicKey, SecretKey, join, sealed_bytes};
use super::modulus::Modulus;
use super::params::{SLOT_PRIME, SLOTS};
use super::poly::{Coefficients, Poly, Values, check_length};
use super::switch::{self, Opening};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::{self, Prg, SecretVec, Wiped};
use crate::simd::residues::pointwise;
use alloc::vec;
use alloc::vec::Vec;
pub use field::SLOT_COUNT;
use zeroize::Zeroizing;

/// Bytes of a request: a seed and one element of R_q.
pub fn slot_request_bytes() -> usize {
    sealed_bytes(&SLOTS)
}

/// Bytes of an answer: both halves, all N coefficients, modulo q'.
pub fn slot_response_bytes() -> usize {
    switch::switched_bytes(&SLOTS, SLOTS.switched_bits, SLOT_COUNT)
}

/// Client: encrypts up to 8192 values of F_p; slots beyond them hold zero.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if the key is of another ring, or there are more values than slots, or one is not below p.
pub fn encrypt_slots(key: &SecretKey, values: &[u64], prg: &mut Prg) -> Result<Vec<u8>> {
    Ok(join(slot_request_bytes(), request(key, values.to_vec().into(), prg)?))
}

/// [`encrypt_slots`] piece by piece; the values are wiped before the first is taken.
///
/// # Errors
/// As [`encrypt_slots`].
pub(crate) fn request<'a>(
    key: &'a SecretKey,
    values: SecretVec<u64>,
    prg: &mut Prg,
) -> Result<impl Iterator<Item = Vec<u8>> + use<'a>> {
    key.expect(&SLOTS)?;
    check_values("slot values", &values)?;
    let mut slots = Zeroizing::new(vec![0; SLOT_COUNT]);
    slots[..values.len()].copy_from_slice(&values);
    drop(values);
    field::to_coefficients(&mut slots);
    // Of 36 bits each, as there are several such arrays at a time.
    let (mut low, mut high) = (Wiped::<u32>::zeros(SLOT_COUNT), Wiped::<u8>::zeros(SLOT_COUNT));
    for ((low, high), &m) in low.iter_mut().zip(high.iter_mut()).zip(slots.iter()) {
        let scaled = Element::scaled(m);
        (*low, *high) = (scaled as u32, (scaled >> 32) as u8);
    }
    drop(slots);
    let message = move |index, q: Modulus, part: &mut [u32]| {
        for (x, (&low, &high)) in part.iter_mut().zip(low.iter().zip(high.iter())) {
            let encoded = Element::of_scaled(u64::from(low) | u64::from(high) << 32);
            *x = q.add(*x, encoded.residue(index, q));
        }
    };
    Ok(key.seal(message, prg))
}

/// Server: multiplies an encryption of C by the multipliers u and masks the products with fresh uniform wS, written to `share`.
///
/// The answer encrypts u·C - wS. Slots beyond the multipliers are multiplied and masked by uniform values that nobody needs.
/// The multipliers must be uniform in F_p: the noise bound rests on it.
///
/// # Errors
/// [`ErrorKind::MalformedMessage`] if the request is not one; [`ErrorKind::InvalidArgument`] if the key is of another ring, the multipliers are
/// not values of F_p, more than the slots, or not as many as `share` has room for. `share` is written only on success.
pub fn multiply_slots(
    key: &PublicKey,
    request: &[u8],
    multipliers: &[u64],
    prg: &mut Prg,
    share: &mut [u64],
) -> Result<Vec<u8>> {
    let answer = hidden_products(key, request, multipliers, prg, share)?;
    Ok(switch::write(&answer.c0, &answer.c1, SLOTS.switched_bits, &(0..SLOT_COUNT), 0..SLOT_COUNT))
}

/// The answer of [`multiply_slots`] before it is switched.
pub(super) fn hidden_products(
    key: &PublicKey,
    request: &[u8],
    multipliers: &[u64],
    prg: &mut Prg,
    share: &mut [u64],
) -> Result<Ciphertext<Coefficients>> {
    key.expect(&SLOTS)?;
    check_values("multipliers", multipliers)?;
    if share.len() != multipliers.len() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            alloc::format!("shares: expected room for {}, got {}", multipliers.len(), share.len()),
        ));
    }
    let sum = products(request, multipliers, prg)?;
    let mask = |c0: &mut Poly<Coefficients>, prg: &mut Prg| {
        let mut negated = Zeroizing::new(vec![0; SLOT_COUNT]);
        for slot in negated.iter_mut() {
            *slot = prg.below(SLOT_PRIME);
        }
        for (share, &slot) in share.iter_mut().zip(negated.iter()) {
            // p - slot is in [1, p].
            *share = field::reduce_once(SLOT_PRIME - slot);
        }
        add_encoded(c0, negated);
    };
    Ok(hide(sum, key, SLOTS.flooding_bits, &(0..SLOT_COUNT), mask, prg))
}

/// The request times the multipliers, not yet hidden.
pub(super) fn products(request: &[u8], multipliers: &[u64], prg: &mut Prg) -> Result<Ciphertext<Values>> {
    let request = Ciphertext::read(&SLOTS, request).map_err(|e| e.context("slot request"))?;
    let mut slots = Zeroizing::new(vec![0; SLOT_COUNT]);
    let (used, unused) = slots.split_at_mut(multipliers.len());
    used.copy_from_slice(multipliers);
    for slot in unused {
        *slot = prg.below(SLOT_PRIME);
    }
    field::to_coefficients(&mut slots);
    let mut w = Poly::<Coefficients>::zero(&SLOTS);
    let centred = prg::collect(SLOT_COUNT, slots.iter().map(|&slot| field::centred(slot)));
    for (prime, part) in w.parts_mut() {
        pointwise::residues_wide(prime.modulus, part, &centred);
    }
    let mut sum = Ciphertext::zero(&SLOTS);
    sum.add_product(&request, &w.into_values().into_factors());
    Ok(sum)
}

/// Client: decrypts wC = u·C - wS of the first `out.len()` slots.
///
/// # Errors
/// [`ErrorKind::MalformedMessage`] if the answer is not [`slot_response_bytes`] long; [`ErrorKind::InvalidArgument`] if the key is of
/// another ring or `out` is longer than the slots. `out` is written only on success.
pub fn decrypt_slots(key: &SecretKey, response: &[u8], out: &mut [u64]) -> Result<()> {
    check_length("slot answer", slot_response_bytes(), response)?;
    let (mut answer, mut rest) = (Answer::new(key, out.len())?, response);
    for bytes in pieces() {
        let (piece, later) = rest.split_at(bytes);
        answer.absorb(piece)?;
        rest = later;
    }
    answer.finish(out);
    Ok(())
}

/// Bytes of the pieces in which an answer is taken.
pub(crate) fn pieces() -> impl Iterator<Item = usize> + Clone {
    switch::pieces(&SLOTS, SLOTS.switched_bits, SLOT_COUNT)
}

/// Client: an answer being decrypted, piece by piece ([`pieces`]).
pub(crate) struct Answer<'a> {
    opening: Opening<'a>,
    /// Coefficients of the first half that have come, and as many that are decrypted.
    done: usize,
}

impl<'a> Answer<'a> {
    /// For the first `count` slots.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if there are fewer, or the key is of another ring.
    pub(crate) fn new(key: &'a SecretKey, count: usize) -> Result<Self> {
        key.expect(&SLOTS)?;
        check_count("slots to decrypt", count)?;
        Ok(Self { opening: Opening::new(key, SLOTS.switched_bits), done: 0 })
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedMessage`] if it has another length.
    pub(crate) fn absorb(&mut self, piece: &[u8]) -> Result<()> {
        let run = self.done..SLOT_COUNT.min(self.done + switch::PIECE);
        let Some(c0) = self.opening.absorb(piece, run.len()).map_err(|e| e.context("slot answer"))? else {
            return Ok(());
        };
        if run.start == 0 {
            self.opening.lift_all();
        }
        let values = self.opening.lifted();
        for (value, c0) in values[run.clone()].iter_mut().zip(c0.iter()) {
            *value = decode_element(c0.wrapping_add(*value) & (u64::MAX >> (64 - SLOTS.switched_bits)));
        }
        self.done = run.end;
        Ok(())
    }

    /// Writes the first slots, once all pieces are there.
    pub(crate) fn finish(mut self, out: &mut [u64]) {
        let values = self.opening.lifted();
        field::to_slots(values);
        out.copy_from_slice(&values[..out.len()]);
    }
}

/// Adds the encoding of the polynomial with these slots.
fn add_encoded(message: &mut Poly<Coefficients>, mut slots: SecretVec<u64>) {
    field::to_coefficients(&mut slots);
    for (i, &m) in slots.iter().enumerate() {
        let encoded = Element::new(m);
        message.add_at(i, |prime, q| encoded.residue(prime, q));
    }
}

fn check_count(what: &str, count: usize) -> Result<()> {
    if count <= SLOT_COUNT {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidArgument, alloc::format!("{what}: expected at most {SLOT_COUNT}, got {count}")))
}

fn check_values(what: &str, values: &[u64]) -> Result<()> {
    check_count(what, values.len())?;
    // Over all values, whatever they are: the time tells nothing about a value.
    if values.iter().fold(true, |ok, &v| ok & (v < SLOT_PRIME)) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        alloc::format!("{what}: expected values below {SLOT_PRIME}, got others"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prg::Seed;

    fn setup(n: u8) -> (SecretKey, PublicKey, Prg) {
        let mut prg = Prg::new(&Seed::from_bytes([n; 32]));
        let key = SecretKey::generate(&SLOTS, &mut prg);
        let public = PublicKey::from_bytes(&SLOTS, &key.public_key(&mut prg)).unwrap();
        (key, public, prg)
    }

    #[test]
    fn products_are_right_in_every_slot() {
        let (key, public, mut prg) = setup(1);
        let extremes = [0, 1, 2, SLOT_PRIME / 2, SLOT_PRIME / 2 + 1, SLOT_PRIME - 2, SLOT_PRIME - 1];
        for count in [8192, 8191, 49, 1, 0] {
            let mut values: Vec<u64> = (0..count).map(|_| prg.below(SLOT_PRIME)).collect();
            let mut multipliers: Vec<u64> = (0..count).map(|_| prg.below(SLOT_PRIME)).collect();
            for (i, (v, u)) in values.iter_mut().zip(&mut multipliers).enumerate().take(49) {
                (*v, *u) = (extremes[i % 7], extremes[i / 7]);
            }
            let request = encrypt_slots(&key, &values, &mut prg).unwrap();
            assert_eq!(request.len(), slot_request_bytes());
            let (mut ours, mut theirs) = (vec![0; count], vec![0; count]);
            let response = multiply_slots(&public, &request, &multipliers, &mut prg, &mut theirs).unwrap();
            assert_eq!(response.len(), slot_response_bytes());
            decrypt_slots(&key, &response, &mut ours).unwrap();
            for i in 0..count {
                let product = u128::from(values[i]) * u128::from(multipliers[i]) % u128::from(SLOT_PRIME);
                assert_eq!(u128::from((ours[i] + theirs[i]) % SLOT_PRIME), product, "slot {i} of {count}");
            }
        }
    }

    #[test]
    fn the_largest_multiplier_polynomials_stay_right() {
        // All slots p/2 and all values p/2: a constant polynomial; and a multiplier polynomial with all coefficients p/2.
        let (key, public, mut prg) = setup(2);
        let mut worst = vec![SLOT_PRIME / 2; SLOT_COUNT];
        field::to_slots(&mut worst);
        for multipliers in [vec![SLOT_PRIME / 2; SLOT_COUNT], worst] {
            let values: Vec<u64> = (0..SLOT_COUNT).map(|_| prg.below(SLOT_PRIME)).collect();
            let request = encrypt_slots(&key, &values, &mut prg).unwrap();
            let (mut ours, mut theirs) = (vec![0; SLOT_COUNT], vec![0; SLOT_COUNT]);
            let response = multiply_slots(&public, &request, &multipliers, &mut prg, &mut theirs).unwrap();
            decrypt_slots(&key, &response, &mut ours).unwrap();
            for i in 0..SLOT_COUNT {
                let product = u128::from(values[i]) * u128::from(multipliers[i]) % u128::from(SLOT_PRIME);
                assert_eq!(u128::from((ours[i] + theirs[i]) % SLOT_PRIME), product, "slot {i}");
            }
        }
    }

    #[test]
    fn unused_slots_are_masked_too() {
        let (key, public, mut prg) = setup(3);
        let request = encrypt_slots(&key, &[5], &mut prg).unwrap();
        let response = multiply_slots(&public, &request, &[7], &mut prg, &mut [0]).unwrap();
        let mut slots = vec![0; SLOT_COUNT];
        decrypt_slots(&key, &response, &mut slots).unwrap();
        let mean = slots.iter().sum::<u64>() / SLOT_COUNT as u64;
        // Six standard deviations of p/sqrt(12·8192).
        assert!(mean.abs_diff(SLOT_PRIME / 2) < 6 * SLOT_PRIME / 313);
        slots.sort_unstable();
        slots.dedup();
        assert!(slots.len() > SLOT_COUNT - 4);
    }

    #[test]
    fn malformed_messages_and_arguments_are_refused() {
        let (key, public, mut prg) = setup(4);
        let request = encrypt_slots(&key, &[1, 2, 3], &mut prg).unwrap();
        let response = multiply_slots(&public, &request, &[1, 2, 3], &mut prg, &mut [0; 3]).unwrap();
        let long = |m: &[u8]| [m, &[0]].concat();
        let mut above = request.clone();
        above[32..36].fill(0xff);
        for bad in [&[][..], &request[1..], &long(&request), &above] {
            let mut share = [9; 3];
            let error = multiply_slots(&public, bad, &[1, 2, 3], &mut prg, &mut share).unwrap_err();
            assert_eq!((error.kind(), share), (ErrorKind::MalformedMessage, [9; 3]));
        }
        for bad in [&[][..], &response[1..], &long(&response)] {
            let mut out = [9; 3];
            let error = decrypt_slots(&key, bad, &mut out).unwrap_err();
            assert_eq!((error.kind(), out), (ErrorKind::MalformedMessage, [9; 3]));
        }
        let refused = |r: Result<Vec<u8>>| assert_eq!(r.unwrap_err().kind(), ErrorKind::InvalidArgument);
        refused(encrypt_slots(&key, &[SLOT_PRIME], &mut prg));
        refused(encrypt_slots(&key, &[0; SLOT_COUNT + 1], &mut prg));
        refused(multiply_slots(&public, &request, &[SLOT_PRIME], &mut prg, &mut [0]));
        refused(multiply_slots(&public, &request, &[1], &mut prg, &mut [0; 2]));
        assert!(decrypt_slots(&key, &response, &mut [0; SLOT_COUNT + 1]).is_err());
    }
}
