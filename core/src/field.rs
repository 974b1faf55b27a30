//! Arithmetic in the prime field F_p, p just below 2^36, in which polynomial channels are evaluated.
//!
//! Constant time: no branch and no division depends on a value.

/// p: the plaintext prime of the slots, just below 2^36.
pub(crate) const P: u64 = crate::rlwe::SLOT_PRIME;

/// Bits of an element's encoding.
pub(crate) const P_BITS: u32 = 36;

/// floor(2^72 / p), for Barrett reduction.
const MU: u128 = (1 << 72) / P as u128;

/// x mod p for x < 2p.
#[inline]
const fn reduce_once(x: u64) -> u64 {
    let d = x.wrapping_sub(P);
    // The sign bit of d tells x < p, since x < 2p < 2^63.
    d.wrapping_add(P & ((d >> 63).wrapping_neg()))
}

/// a + b mod p.
#[inline]
pub(crate) const fn add(a: u64, b: u64) -> u64 {
    debug_assert!(a < P && b < P);
    reduce_once(a + b)
}

/// a - b mod p.
#[cfg(test)]
pub(crate) const fn sub(a: u64, b: u64) -> u64 {
    debug_assert!(a < P && b < P);
    reduce_once(a + P - b)
}

/// a · b mod p, by Barrett reduction (Menezes, van Oorschot, Vanstone, Handbook of Applied Cryptography, algorithm 14.42).
#[inline]
pub(crate) const fn mul(a: u64, b: u64) -> u64 {
    debug_assert!(a < P && b < P);
    let x = a as u128 * b as u128;
    // x < 2^72: with q = floor(floor(x / 2^35) · MU / 2^37), floor(x / p) - 2 <= q <= floor(x / p).
    let q = (((x >> 35) * MU) >> 37) as u64;
    // x - q·p < 3p < 2^38: its low 64 bits are all of it.
    reduce_once(reduce_once((x as u64).wrapping_sub(q.wrapping_mul(P))))
}

/// The element of a signed integer, |v| < 2^61.
#[inline]
pub(crate) const fn from_i64(v: i64) -> u64 {
    debug_assert!(v.unsigned_abs() < 1 << 61);
    // v + 2^26·p lies in (0, 2^63); reducing it is mul's work, split so that both factors are below p.
    let x = (v + ((P as i64) << 26)) as u64;
    add(mul(x >> 30, 1 << 30), x & ((1 << 30) - 1))
}

/// [`from_i64`] for |v| < p.
#[cfg(test)]
pub(crate) const fn from_near(v: i64) -> u64 {
    debug_assert!(v.unsigned_abs() < P);
    (v + (P as i64 & (v >> 63))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn p_is_a_prime_of_the_stated_form() {
        assert!((1 << 35..1 << 36).contains(&P));
        assert_eq!(P % (1 << 20), 1);
        let mut divisor = 3;
        assert_eq!(P % 2, 1);
        while divisor * divisor <= P {
            assert_ne!(P % divisor, 0, "{divisor}");
            divisor += 2;
        }
    }

    proptest! {
        #[test]
        fn operations_agree_with_wide_integers(a in 0..P, b in 0..P, v in -(1i64 << 61) + 1..(1i64 << 61)) {
            let wide = |x: u128| (x % u128::from(P)) as u64;
            prop_assert_eq!(add(a, b), wide(u128::from(a) + u128::from(b)));
            prop_assert_eq!(sub(a, b), wide(u128::from(a + P - b)));
            prop_assert_eq!(mul(a, b), wide(u128::from(a) * u128::from(b)));
            prop_assert_eq!(from_near(a as i64), a);
            prop_assert_eq!(from_near(-(a as i64)), sub(0, a));
            prop_assert_eq!(from_i64(v), i128::from(v).rem_euclid(i128::from(P)) as u64);
        }
    }

    #[test]
    fn extremes() {
        for (a, b) in [(P - 1, P - 1), (0, P - 1), (1, P - 1), (P - 1, 1), (0, 0)] {
            assert_eq!(mul(a, b), (u128::from(a) * u128::from(b) % u128::from(P)) as u64);
            assert_eq!(add(a, b), (a + b) % P);
        }
        assert_eq!(from_i64(-1), P - 1);
    }
}
