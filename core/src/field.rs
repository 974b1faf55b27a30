//! Arithmetic in the prime field F_p, p just below 2^36, in which polynomial channels are evaluated.
//!
//! Constant time: no branch and no division depends on a value.

/// p: the plaintext prime of the slots, just below 2^36.
pub(crate) const P: u64 = crate::rlwe::SLOT_PRIME;

/// Bits of an element's encoding.
pub(crate) const P_BITS: u32 = 36;

/// p = 2^36 - 2^20 + 1, so that 2^36 = 2^20 - 1 modulo p.
const _: () = assert!(P == (1 << P_BITS) - (1 << 20) + 1);

/// A number below 2^20·(x / 2^36) + 2^36 that is x modulo p: its bits from 2^36 on moved down.
#[inline]
const fn fold(x: u64) -> u64 {
    let high = x >> P_BITS;
    (high << 20) - high + (x & ((1 << P_BITS) - 1))
}

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
#[inline]
pub(crate) const fn sub(a: u64, b: u64) -> u64 {
    debug_assert!(a < P && b < P);
    reduce_once(a + P - b)
}

/// a · b mod p, in halves of 18 bits: no product takes more than 64 bits, so that loops of it vectorise.
#[inline]
pub(crate) const fn mul(a: u64, b: u64) -> u64 {
    debug_assert!(a < P && b < P);
    const HALF: u64 = (1 << 18) - 1;
    let (a_1, a_0, b_1, b_0) = (a >> 18 & HALF, a & HALF, b >> 18 & HALF, b & HALF);
    let (high, middle, low) = (a_1 * b_1, a_1 * b_0 + a_0 * b_1, a_0 * b_0);
    // high·2^36 + middle·2^18 + low, below 2^56 + 2^55 + 2^36.
    let x = (high << 20) - high + (middle << 18) + low;
    // Below 2^57, below 2^41 + 2^36, below 33·2^20 + 2^36 < 2p.
    reduce_once(fold(fold(x)))
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
#[inline]
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
