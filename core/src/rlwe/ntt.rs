//! The transform of each prime of a ring between coefficients and values.

use super::modulus::Modulus;
use super::params::PRIMES;
use crate::simd::residues::{MAX_DEGREE, Table, Transform};

/// A prime q_i of a ring's modulus with its transform of the ring's degree. Public.
///
/// The transform of a polynomial a of degree below N is its values a(psi^(2·rev(i) + 1)), i = 0..N, with psi a primitive 2N-th root of unity
/// modulo q_i and rev reversing log2 N bits; multiplication modulo X^N + 1 is then multiplication of values.
#[derive(Debug)]
pub struct RnsPrime {
    pub(super) modulus: Modulus,
    transform: Transform,
}

static ROOTS: [Table; 4] = [roots(0), roots(1), roots(2), roots(3)];

const fn roots(index: usize) -> Table {
    Table::new(Modulus::new(PRIMES[index]))
}

impl RnsPrime {
    pub(super) const fn new(index: usize, degree: usize) -> Self {
        let modulus = Modulus::new(PRIMES[index]);
        assert!((PRIMES[index] - 1).is_multiple_of(2 * MAX_DEGREE as u32));
        Self { modulus, transform: Transform::new(modulus, &ROOTS[index], degree) }
    }

    /// Its transform.
    #[cfg(test)]
    pub(crate) fn transform(&self) -> &Transform {
        &self.transform
    }

    /// The prime.
    pub fn value(&self) -> u32 {
        self.modulus.value()
    }

    /// Coefficients to values, in place: N residues in [0, q_i) to N residues in [0, q_i).
    ///
    /// # Panics
    /// If `a` does not hold N residues.
    pub fn forward(&self, a: &mut [u32]) {
        self.transform.forward(a);
    }

    /// Values to coefficients, in place: the inverse of [`Self::forward`].
    ///
    /// # Panics
    /// If `a` does not hold N residues.
    pub fn inverse(&self, a: &mut [u32]) {
        self.transform.inverse(a);
    }
}

#[cfg(test)]
mod tests {
    use crate::rlwe::params::{LINEAR, SLOTS};
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn schoolbook(q: u32, a: &[u32], b: &[u32]) -> Vec<u32> {
        let (n, q) = (a.len(), u64::from(q));
        let mut out = vec![0u64; n];
        for (i, &x) in a.iter().enumerate().filter(|(_, x)| **x != 0) {
            for (j, &y) in b.iter().enumerate() {
                let product = u64::from(x) * u64::from(y) % q;
                let term = if i + j < n { product } else { q - product };
                out[(i + j) % n] = (out[(i + j) % n] + term) % q;
            }
        }
        out.iter().map(|&x| x as u32).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn product_of_values_is_the_negacyclic_product(
            seed: u64, sparse in prop::collection::vec((0usize..8192, any::<u32>()), 1..20), ring in 0usize..2, which in 0usize..3,
        ) {
            let params = [&LINEAR, &SLOTS][ring];
            let (n, prime) = (params.degree, &params.primes[which]);
            let q = prime.value();
            let mut a = vec![0u32; n];
            for &(i, x) in &sparse {
                a[i % n] = x % q;
            }
            let b: Vec<u32> = (0..n as u64)
                .map(|i| ((seed ^ i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % q).collect();
            let expected = schoolbook(q, &a, &b);
            let (mut x, mut y) = (a.clone(), b.clone());
            prime.forward(&mut x);
            prime.forward(&mut y);
            for (x, y) in x.iter_mut().zip(&y) {
                *x = prime.modulus.montgomery_mul(prime.modulus.to_montgomery(*x), *y);
            }
            prime.inverse(&mut x);
            prop_assert_eq!(x, expected);
            prime.inverse(&mut y);
            prop_assert_eq!(y, b);
        }
    }

    #[test]
    fn extreme_residues_survive_the_round_trip() {
        for params in [&LINEAR, &SLOTS] {
            for prime in params.primes {
                let full = vec![prime.value() - 1; params.degree];
                let mut a = full.clone();
                prime.forward(&mut a);
                prime.inverse(&mut a);
                assert_eq!(a, full);
            }
        }
    }

    #[test]
    fn values_are_in_the_documented_order() {
        for params in [&LINEAR, &SLOTS] {
            let n = params.degree;
            for prime in params.primes {
                let q = prime.modulus;
                let psi = prime.transform.root();
                assert_eq!(q.pow_vartime(psi, n as u64), q.value() - 1);
                let mut x = vec![0; n];
                x[1] = 1;
                prime.forward(&mut x);
                for (i, &value) in x.iter().enumerate() {
                    let rev = (i as u64).reverse_bits() >> (64 - n.trailing_zeros());
                    assert_eq!(value, q.pow_vartime(psi, 2 * rev + 1));
                }
            }
        }
    }
}
