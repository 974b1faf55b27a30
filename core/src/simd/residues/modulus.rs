//! Arithmetic modulo a prime below 2^31, in constant time.
//!
//! Values are `u32` and products `u64`, so that the same code vectorises on every instruction set with 32-bit multiplies.
//! Corrections are masks, never comparisons: a difference d of two values in [0, 2q), q < 2^31, read as `i32`, is
//! negative exactly if the subtraction borrowed, and `d >> 31` is then the mask of all ones.

/// A prime q, 2^31 - 2^19 < q < 2^31 - 2^16, with what reductions modulo it need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Modulus {
    q: u32,
    /// q^-1 mod 2^32.
    inverse: u32,
    /// 2^32, 2^64 and 2^96 modulo q.
    limbs: [u32; 3],
}

/// A constant factor w of [0, q) with floor(w·2^32 / q), after Shoup (in Harvey, "Faster arithmetic for
/// number-theoretic transforms", 2014): a product by it takes one high and two low multiplies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factor {
    pub(crate) value: u32,
    pub(crate) quotient: u32,
}

impl Modulus {
    pub(crate) const fn new(q: u32) -> Self {
        assert!(q > (1 << 31) - (1 << 19) && q < (1 << 31) - (1 << 16) && q % 2 == 1);
        // Newton's iteration doubles the number of right bits: 3, 6, 12, 24, 48.
        let mut inverse = q;
        let mut step = 0;
        while step < 4 {
            inverse = inverse.wrapping_mul(2u32.wrapping_sub(q.wrapping_mul(inverse)));
            step += 1;
        }
        let two_32 = ((1u64 << 32) % q as u64) as u32;
        let two_64 = ((two_32 as u64 * two_32 as u64) % q as u64) as u32;
        let two_96 = ((two_64 as u64 * two_32 as u64) % q as u64) as u32;
        Self { q, inverse, limbs: [two_32, two_64, two_96] }
    }

    pub(crate) const fn value(self) -> u32 {
        self.q
    }

    /// q^-1 mod 2^32.
    #[cfg(any(test, compact_roots, target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")))]
    pub(super) const fn inverse(self) -> u32 {
        self.inverse
    }

    /// 2^32, 2^64 and 2^96 modulo q.
    #[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")))]
    pub(super) const fn limbs(self) -> [u32; 3] {
        self.limbs
    }

    /// x mod q for x in [0, 2q).
    #[inline(always)]
    pub(crate) fn reduce_once(self, x: u32) -> u32 {
        debug_assert!(x < 2 * self.q);
        let d = x.wrapping_sub(self.q);
        d.wrapping_add(self.q & mask(d))
    }

    /// a + b mod q for a, b in [0, q).
    #[inline(always)]
    pub(crate) fn add(self, a: u32, b: u32) -> u32 {
        debug_assert!(a < self.q && b < self.q);
        self.reduce_once(a + b)
    }

    /// a - b mod q for a, b in [0, q).
    #[inline(always)]
    pub(crate) fn sub(self, a: u32, b: u32) -> u32 {
        debug_assert!(a < self.q && b < self.q);
        let d = a.wrapping_sub(b);
        d.wrapping_add(self.q & mask(d))
    }

    /// x·2^-32 mod q for x in [0, q·2^32) (Montgomery 1985, with subtraction).
    #[inline(always)]
    pub(crate) fn montgomery(self, x: u64) -> u32 {
        debug_assert!(x >> 32 < u64::from(self.q));
        let m = (x as u32).wrapping_mul(self.inverse);
        let mq = (u64::from(m) * u64::from(self.q)) >> 32;
        // Both halves are in [0, q), the low halves cancel; the difference is in (-q, q).
        let d = ((x >> 32) as u32).wrapping_sub(mq as u32);
        d.wrapping_add(self.q & mask(d))
    }

    /// a·b·2^-32 mod q for any a and b in [0, q).
    #[inline(always)]
    pub(crate) fn montgomery_mul(self, a: u32, b: u32) -> u32 {
        debug_assert!(b < self.q);
        self.montgomery(u64::from(a) * u64::from(b))
    }

    /// a·2^32 mod q for a in [0, q): `montgomery_mul` by the result is multiplication by a.
    #[inline(always)]
    pub(crate) fn to_montgomery(self, a: u32) -> u32 {
        self.montgomery_mul(a, self.limbs[1])
    }

    /// A representative in [0, 2q) of w·y, for any y.
    #[inline(always)]
    pub(crate) fn mul_lazy(self, y: u32, w: Factor) -> u32 {
        let high = ((u64::from(y) * u64::from(w.quotient)) >> 32) as u32;
        // w·y - high·q is in [0, q + q·y/2^32), below 2^32, so its low 32 bits are all of it.
        w.value.wrapping_mul(y).wrapping_sub(high.wrapping_mul(self.q))
    }

    /// w·y mod q for any y.
    #[inline(always)]
    pub(crate) fn mul(self, y: u32, w: Factor) -> u32 {
        self.reduce_once(self.mul_lazy(y, w))
    }

    /// x mod q for x in [0, q·2^32): two Montgomery reductions.
    #[inline(always)]
    pub(crate) fn reduce_narrow(self, x: u64) -> u32 {
        self.montgomery_mul(self.montgomery(x), self.limbs[1])
    }

    /// low + high·2^32 mod q, for low in [0, q·2^32) and high in [0, (q - 1)·2^32].
    #[inline(always)]
    pub(crate) fn reduce_halves(self, low: u64, high: u64) -> u32 {
        // (low·2^-32 + high) times 2^32.
        self.montgomery_mul(self.montgomery(high + u64::from(self.montgomery(low))), self.limbs[2])
    }

    /// What limbs of numbers times 2^32 weigh: 2^32, 2^64 and 2^95. The first is below 2^20.
    #[inline(always)]
    const fn weights(self) -> [u32; 3] {
        let [two_32, two_64, two_96] = self.limbs;
        // Half of 2^96, as an integer: of it or of it plus q, which is odd.
        [two_32, two_64, (two_96 + self.q * (two_96 % 2)) / 2]
    }

    /// low + mid·2^32 + top·2^63 mod q for mid below 2^31 and top below 2^29, and with less·2^-32 besides, less below 2^61.
    #[inline(always)]
    pub(crate) fn reduce_limbs(self, [low, mid, top]: [u32; 3], less: u64) -> u32 {
        debug_assert!(mid < 1 << 31 && top < 1 << 29 && less < 1 << 61);
        let [a, b, c] = self.weights();
        // Below 2^52 + (2^31 - 1)·q + 2^60 + 2^61, which is below q·2^32 ~ 2^63.
        let sum = u64::from(low) * u64::from(a) + u64::from(mid) * u64::from(b) + u64::from(top) * u64::from(c);
        self.montgomery(sum + less)
    }

    /// The residue of a small signed value, |x| < q.
    #[inline(always)]
    pub(crate) fn residue(self, x: i32) -> u32 {
        debug_assert!(x.unsigned_abs() < self.q);
        (x as u32).wrapping_add(self.q & mask(x as u32))
    }

    /// The residue of a signed value with |x| <= 2^61.
    #[inline(always)]
    pub(crate) fn residue_wide(self, x: i64) -> u32 {
        debug_assert!(x.unsigned_abs() <= 1 << 61);
        // q·2^31 is above 2^61 and below 2^62: the sum is in [0, q·2^32).
        self.reduce_narrow((x as u64).wrapping_add(u64::from(self.q) << 31))
    }

    /// Prepares the constant factor w of [0, q). Divides: for public constants only.
    pub(crate) const fn factor(self, w: u32) -> Factor {
        Factor { value: w, quotient: (((w as u64) << 32) / self.q as u64) as u32 }
    }

    /// base^exponent mod q. Variable time: for public constants only.
    pub(crate) const fn pow_vartime(self, base: u32, exponent: u64) -> u32 {
        let q = self.q as u64;
        let (mut result, mut square, mut left) = (1u64, base as u64 % q, exponent);
        while left > 0 {
            if left & 1 == 1 {
                result = result * square % q;
            }
            square = square * square % q;
            left >>= 1;
        }
        result as u32
    }

    /// x^-1 mod q, for x not divisible by q (Fermat). Variable time: for public constants only.
    pub(crate) const fn invert_vartime(self, x: u32) -> u32 {
        self.pow_vartime(x, self.q as u64 - 2)
    }
}

/// All ones if the top bit of a difference is set, else zero.
#[inline(always)]
fn mask(d: u32) -> u32 {
    ((d as i32) >> 31) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rlwe::params::PRIMES;
    use proptest::prelude::*;

    fn moduli() -> impl Strategy<Value = Modulus> {
        (0..PRIMES.len()).prop_map(|i| Modulus::new(PRIMES[i]))
    }

    proptest! {
        #[test]
        fn reductions_agree_with_division(m in moduli(), x: u64, y: u64, s: i64) {
            let q = u64::from(m.value());
            let (a, b) = ((x % q) as u32, (y % q) as u32);
            prop_assert_eq!(u64::from(m.add(a, b)), (u64::from(a) + u64::from(b)) % q);
            prop_assert_eq!(u64::from(m.sub(a, b)), (u64::from(a) + q - u64::from(b)) % q);
            prop_assert_eq!(u64::from(m.reduce_narrow(x >> 2)), (x >> 2) % q);
            let halves = u128::from(x >> 2) + (u128::from(y >> 2) << 32);
            prop_assert_eq!(u128::from(m.reduce_halves(x >> 2, y >> 2)), halves % u128::from(q));
            let product = u64::from(a) * u64::from(b) % q;
            prop_assert_eq!(u64::from(m.montgomery_mul(m.to_montgomery(a), b)), product);
            prop_assert_eq!(u64::from(m.mul(a, m.factor(b))), product);
            prop_assert_eq!(u64::from(m.mul(y as u32, m.factor(b))), u64::from(y as u32) * u64::from(b) % q);
            let s = s >> 2;
            prop_assert_eq!(i64::from(m.residue_wide(s)), s.rem_euclid(q as i64));
            let small = (s % q as i64) as i32;
            prop_assert_eq!(i64::from(m.residue(small)), i64::from(small).rem_euclid(q as i64));
        }
    }

    #[test]
    fn extremes_of_every_range() {
        for q in PRIMES {
            let m = Modulus::new(q);
            let top = q - 1;
            assert_eq!(m.add(top, top), q - 2);
            assert_eq!(m.sub(0, top), 1);
            assert_eq!(m.reduce_once(2 * q - 1), top);
            assert_eq!(u64::from(m.mul(u32::MAX, m.factor(top))), u64::from(u32::MAX) * u64::from(top) % u64::from(q));
            assert_eq!(m.residue(-(top as i32)), 1);
            for s in [-(1i64 << 61), 1 << 61, -1, 0] {
                assert_eq!(i64::from(m.residue_wide(s)), s.rem_euclid(i64::from(q)));
            }
            let extreme = (u64::from(q) << 32) - 1;
            assert_eq!(m.reduce_narrow(extreme), q - 1);
            let high = u64::from(q - 1) << 32;
            let halves = u128::from(extreme) + (u128::from(high) << 32);
            assert_eq!(u128::from(m.reduce_halves(extreme, high)), halves % u128::from(q));
            let expected = (u128::from(extreme) * u128::from(m.invert_vartime(m.limbs[0]))) % u128::from(q);
            assert_eq!(u128::from(m.montgomery(extreme)), expected);
        }
    }
}
