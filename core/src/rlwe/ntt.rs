//! The negacyclic number-theoretic transform over one prime, portable.
//!
//! With psi a primitive 2N-th root of unity modulo q, the transform of a polynomial a of degree below N is its values
//! a(psi^(2·rev(i) + 1)), i = 0..N, where rev reverses log2 N bits; multiplication modulo X^N + 1 is then multiplication of values.
//! Cooley-Tukey butterflies forward and Gentleman-Sande back, the powers of psi merged in (Longa and Naehrig, CANS 2016),
//! products by constants after Shoup and lazy ranges after Harvey (J. Symb. Comp. 2014).
//!
//! One table of psi^rev(i) serves every N up to [`MAX_DEGREE`] (a shorter transform uses its beginning) and both
//! directions: in the inverse, psi^-rev(m + i) = -psi^rev(2m - 1 - i), for m a power of two and i < m.

use super::modulus::{Factor, Modulus};
use super::params::PRIMES;

/// Largest degree the tables serve.
pub const MAX_DEGREE: usize = 8192;

/// A prime q_i of a ring's modulus with its transform of the ring's degree. Public.
#[derive(Debug)]
pub struct RnsPrime {
    pub(super) modulus: Modulus,
    table: &'static Table,
    degree: usize,
    /// N^-1 mod q_i.
    degree_inverse: Factor,
}

/// psi^rev(i) and its Shoup quotients, structure of arrays.
#[derive(Debug)]
struct Table {
    values: [u32; MAX_DEGREE],
    quotients: [u32; MAX_DEGREE],
}

/// Blocks of this length are transformed to the end one after the other: loops of fixed length.
const TAIL: usize = 8;

impl Table {
    #[inline(always)]
    fn factor(&self, index: usize) -> Factor {
        Factor { value: self.values[index], quotient: self.quotients[index] }
    }
}

static TABLES: [Table; 4] = [table(PRIMES[0]), table(PRIMES[1]), table(PRIMES[2]), table(PRIMES[3])];

const fn table(prime: u32) -> Table {
    let q = Modulus::new(prime);
    let psi = primitive_root(q);
    let mut out = Table { values: [0; MAX_DEGREE], quotients: [0; MAX_DEGREE] };
    let mut power = 1u32;
    let mut i = 0u32;
    while (i as usize) < MAX_DEGREE {
        let place = (i.reverse_bits() >> (32 - MAX_DEGREE.trailing_zeros())) as usize;
        let factor = q.factor(power);
        out.values[place] = factor.value;
        out.quotients[place] = factor.quotient;
        power = (power as u64 * psi as u64 % prime as u64) as u32;
        i += 1;
    }
    out
}

/// A primitive root of unity of order 2·[`MAX_DEGREE`]: its [`MAX_DEGREE`]-th power is -1.
const fn primitive_root(q: Modulus) -> u32 {
    let mut base = 2;
    loop {
        let root = q.pow_vartime(base, (q.value() as u64 - 1) / (2 * MAX_DEGREE as u64));
        if q.pow_vartime(root, MAX_DEGREE as u64) == q.value() - 1 {
            return root;
        }
        base += 1;
    }
}

impl RnsPrime {
    pub(super) const fn new(index: usize, degree: usize) -> Self {
        assert!(degree.is_power_of_two() && degree >= 16 && degree <= MAX_DEGREE);
        let modulus = Modulus::new(PRIMES[index]);
        let degree_inverse = modulus.factor(modulus.invert_vartime(degree as u32));
        Self { modulus, table: &TABLES[index], degree, degree_inverse }
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
        assert_eq!(a.len(), self.degree);
        let q = self.modulus;
        let table = self.table;
        let (mut blocks, mut half) = (1, self.degree / 2);
        // Between stages values are in [0, 2q).
        while half >= TAIL {
            let roots = table.values[blocks..2 * blocks].iter().zip(&table.quotients[blocks..2 * blocks]);
            for (block, (&value, &quotient)) in a.chunks_exact_mut(2 * half).zip(roots) {
                let w = Factor { value, quotient };
                let (low, high) = block.split_at_mut(half);
                for (x, y) in low.iter_mut().zip(high) {
                    (*x, *y) = forward_butterfly(q, *x, *y, w);
                }
            }
            blocks *= 2;
            half /= 2;
        }
        for (i, tile) in a.as_chunks_mut::<TAIL>().0.iter_mut().enumerate() {
            let (mut inner, mut half) = (1, TAIL / 2);
            while half >= 1 {
                for j in 0..inner {
                    let w = table.factor((blocks + i) * inner + j);
                    for k in 2 * j * half..(2 * j + 1) * half {
                        (tile[k], tile[k + half]) = forward_butterfly(q, tile[k], tile[k + half], w);
                    }
                }
                inner *= 2;
                half /= 2;
            }
            *tile = tile.map(|x| q.reduce_once(x));
        }
    }

    /// Values to coefficients, in place: the inverse of [`Self::forward`].
    ///
    /// # Panics
    /// If `a` does not hold N residues.
    pub fn inverse(&self, a: &mut [u32]) {
        assert_eq!(a.len(), self.degree);
        let q = self.modulus;
        let table = self.table;
        let (mut blocks, mut half) = (self.degree / (2 * TAIL), TAIL);
        // Between stages values are in [0, q).
        for (i, tile) in a.as_chunks_mut::<TAIL>().0.iter_mut().enumerate() {
            let (mut inner, mut half) = (TAIL / 2, 1);
            while inner >= 1 {
                // Entry m + i of the inverse roots stands, negated, at 2m - 1 - i.
                let last = (4 * blocks - 1 - i) * inner + inner - 1;
                for j in 0..inner {
                    let w = table.factor(last - j);
                    for k in 2 * j * half..(2 * j + 1) * half {
                        (tile[k], tile[k + half]) = inverse_butterfly(q, tile[k], tile[k + half], w);
                    }
                }
                inner /= 2;
                half *= 2;
            }
        }
        while blocks >= 1 {
            let roots = table.values[blocks..2 * blocks].iter().zip(&table.quotients[blocks..2 * blocks]).rev();
            for (block, (&value, &quotient)) in a.chunks_exact_mut(2 * half).zip(roots) {
                let w = Factor { value, quotient };
                let (low, high) = block.split_at_mut(half);
                for (x, y) in low.iter_mut().zip(high) {
                    (*x, *y) = inverse_butterfly(q, *x, *y, w);
                }
            }
            blocks /= 2;
            half *= 2;
        }
        for x in a {
            *x = q.mul(*x, self.degree_inverse);
        }
    }
}

/// (x + w·y, x - w·y): from [0, 2q) to [0, 2q).
#[inline(always)]
fn forward_butterfly(q: Modulus, x: u32, y: u32, w: Factor) -> (u32, u32) {
    let x = q.reduce_once(x);
    let wy = q.mul(y, w);
    (x + wy, x + q.value() - wy)
}

/// (x + y, (y - x)·w): from [0, q) to [0, q). The root -w stands in the table as w, hence y - x.
#[inline(always)]
fn inverse_butterfly(q: Modulus, x: u32, y: u32, w: Factor) -> (u32, u32) {
    // y + q - x is in (0, 2q), and a product by a constant takes any factor below 2^32.
    (q.add(x, y), q.mul(y + q.value() - x, w))
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
                // The table's entry N/2 of a transform of N is psi itself: rev(N/2) = 1.
                let psi = prime.table.values[n / 2];
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
