//! Many multiples of one point in little memory: the comb of Lim and Lee ("More Flexible Exponentiation with Precomputation",
//! CRYPTO 1994). A quarter of the doublings of a multiplication without a table are left, for 2.4 KiB.

use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

/// The comb's teeth, and their distance in bits. Together they reach over every scalar.
const TEETH: usize = 4;
const DISTANCE: usize = 64;
/// Sums of some of the teeth, but for the empty one.
const SUMS: usize = (1 << TEETH) - 1;

/// Sums of some of P, 2^64·P, 2^128·P and 2^192·P: those that the bits of m say, for m from 1 to 15. P is public.
pub(super) struct Comb([RistrettoPoint; SUMS]);

impl Comb {
    pub(super) fn new(point: &RistrettoPoint) -> Self {
        let mut sums = [*point; SUMS];
        let mut power = *point;
        for tooth in 0..TEETH {
            // Those with this tooth and none above it: alone, then with each sum of those below.
            let (below, own) = sums.split_at_mut((1 << tooth) - 1);
            own[0] = power;
            for (own, below) in own[1..].iter_mut().zip(below) {
                *own = power + *below;
            }
            if tooth < TEETH - 1 {
                (0..DISTANCE).for_each(|_| power = power + power);
            }
        }
        Self(sums)
    }

    /// b·P. Takes the same steps whatever b is.
    pub(super) fn times(&self, b: &Scalar) -> RistrettoPoint {
        let bytes = b.as_bytes();
        let bit = |k: usize| (bytes[k / 8] >> (k % 8)) & 1;
        let mut sum = Zeroizing::new(RistrettoPoint::identity());
        let mut chosen = Zeroizing::new(RistrettoPoint::identity());
        for column in (0..DISTANCE).rev() {
            let m = (0..TEETH).fold(0, |m, tooth| m | bit(column + DISTANCE * tooth) << tooth);
            *chosen = RistrettoPoint::identity();
            for (own, point) in (1u8..).zip(&self.0) {
                chosen.conditional_assign(point, own.ct_eq(&m));
            }
            *sum = *sum + *sum + *chosen;
        }
        *sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::base::random_scalar;
    use super::*;
    use crate::prg::{Prg, Seed};

    #[test]
    fn it_multiplies_as_the_curve_does() {
        let mut prg = Prg::new(&Seed::from_bytes([31; 32]));
        for _ in 0..4 {
            let point = RistrettoPoint::mul_base(&random_scalar(&mut prg));
            let comb = Comb::new(&point);
            let random: [Scalar; 8] = core::array::from_fn(|_| random_scalar(&mut prg));
            let powers = (0..8).map(|k| Scalar::from(1u128 << (k * 16)));
            for b in powers.chain(random).chain([Scalar::ZERO, Scalar::ONE, -Scalar::ONE]) {
                assert_eq!(comb.times(&b), b * point);
            }
        }
    }
}
