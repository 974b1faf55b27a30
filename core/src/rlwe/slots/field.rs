//! The prime field F_p of the slots, p = [`SLOT_PRIME`] < 2^36, and its transform of 8192 points, in constant time.
//!
//! The transform is that of [`crate::rlwe::ntt`], over p and with 64-bit words: slot i of a polynomial is its value
//! at psi^(2·rev(i) + 1). Ranges are wide here (p < 2^36 in 64 bits), so butterflies are as lazy as Harvey's.

use crate::rlwe::params::SLOT_PRIME;

const P: u64 = SLOT_PRIME;

/// Number of slots, N.
pub const SLOT_COUNT: usize = 8192;

/// A constant factor w of [0, p) with floor(w·2^64 / p).
#[derive(Clone, Copy, Debug)]
pub(in crate::rlwe) struct Factor {
    value: u64,
    quotient: u64,
}

/// Prepares the constant factor w of [0, p). Divides: for public constants only.
pub(in crate::rlwe) const fn factor(w: u64) -> Factor {
    Factor { value: w, quotient: (((w as u128) << 64) / P as u128) as u64 }
}

/// A representative in [0, 2p) of w·y, for any y.
#[inline(always)]
fn mul_lazy(y: u64, w: Factor) -> u64 {
    let high = ((u128::from(y) * u128::from(w.quotient)) >> 64) as u64;
    // The difference of the full products is in [0, 2p), so its low 64 bits are all of it.
    w.value.wrapping_mul(y).wrapping_sub(high.wrapping_mul(P))
}

/// w·y mod p, for any y.
#[inline(always)]
pub(in crate::rlwe) fn mul(y: u64, w: Factor) -> u64 {
    reduce_once(mul_lazy(y, w))
}

/// x mod `bound` for x in [0, 2·bound), bound < 2^62.
#[inline(always)]
fn reduce_by(x: u64, bound: u64) -> u64 {
    debug_assert!(x < 2 * bound);
    let d = x.wrapping_sub(bound);
    d.wrapping_add(bound & ((d as i64) >> 63) as u64)
}

/// x mod p for x in [0, 2p).
#[inline(always)]
pub(in crate::rlwe) fn reduce_once(x: u64) -> u64 {
    reduce_by(x, P)
}

/// The representative in [-(p - 1)/2, (p - 1)/2] of x in [0, p).
#[inline(always)]
pub(in crate::rlwe) fn centred(x: u64) -> i64 {
    debug_assert!(x < P);
    let above = (((P / 2) as i64 - x as i64) >> 63) as u64;
    x.wrapping_sub(P & above) as i64
}

const COUNT_INVERSE: Factor = factor(pow(SLOT_COUNT as u64, P - 2));

const fn pow(base: u64, exponent: u64) -> u64 {
    let (mut result, mut square, mut left) = (1u128, base as u128, exponent);
    while left > 0 {
        if left & 1 == 1 {
            result = result * square % P as u128;
        }
        square = square * square % P as u128;
        left >>= 1;
    }
    result as u64
}

/// A primitive root of unity of order 2N.
const fn primitive_root() -> u64 {
    let mut base = 2;
    loop {
        let root = pow(base, (P - 1) / (2 * SLOT_COUNT as u64));
        if pow(root, SLOT_COUNT as u64) == P - 1 {
            return root;
        }
        base += 1;
    }
}

/// Reverses the bits of an index.
const fn reverse(index: usize) -> u64 {
    ((index as u32).reverse_bits() >> (32 - SLOT_COUNT.trailing_zeros())) as u64
}

#[cfg(not(compact_roots))]
use table::{roots, times};

/// All roots, with what products by them need.
#[cfg(any(test, not(compact_roots)))]
mod table {
    use super::{Factor, P, SLOT_COUNT, factor, mul_lazy, primitive_root, reverse};

    /// psi^rev(i) and Shoup quotients.
    struct Table {
        values: [u64; SLOT_COUNT],
        quotients: [u64; SLOT_COUNT],
    }

    static TABLE: Table = table();

    const fn table() -> Table {
        let mut out = Table { values: [0; SLOT_COUNT], quotients: [0; SLOT_COUNT] };
        let (psi, mut power) = (primitive_root(), 1u64);
        let mut i = 0;
        while i < SLOT_COUNT {
            let entry = factor(power);
            out.values[reverse(i) as usize] = entry.value;
            out.quotients[reverse(i) as usize] = entry.quotient;
            power = (power as u128 * psi as u128 % P as u128) as u64;
            i += 1;
        }
        out
    }

    /// The roots of a stage with `blocks` blocks.
    pub(super) fn roots(blocks: usize) -> impl DoubleEndedIterator<Item = Factor> {
        let range = blocks..2 * blocks;
        TABLE.values[range.clone()]
            .iter()
            .zip(&TABLE.quotients[range])
            .map(|(&value, &quotient)| Factor { value, quotient })
    }

    /// A representative in [0, 2p) of w·y, for any y.
    #[inline(always)]
    pub(super) fn times(y: u64, w: Factor) -> u64 {
        mul_lazy(y, w)
    }
}

#[cfg(compact_roots)]
use compact::{roots, times};

/// Roots as they are used, as in the transform of residues for little memory.
#[cfg(any(test, compact_roots))]
mod compact {
    use super::{SLOT_COUNT, pow, primitive_root, reverse};

    /// Places of the lower part of an index.
    const LOW: usize = 64;

    /// psi^rev(l), l below 64, and psi^rev(64·h): their products are all roots.
    static FACTORS: ([u64; LOW], [u64; SLOT_COUNT / LOW]) = factors();

    const fn factors() -> ([u64; LOW], [u64; SLOT_COUNT / LOW]) {
        let (mut low, mut high) = ([0; LOW], [0; SLOT_COUNT / LOW]);
        let psi = primitive_root();
        let mut i = 0;
        while i < SLOT_COUNT / LOW {
            if i < LOW {
                low[i] = pow(psi, reverse(i));
            }
            high[i] = pow(psi, reverse(i * LOW));
            i += 1;
        }
        (low, high)
    }

    /// The roots of a stage with `blocks` blocks, below 2p.
    pub(super) fn roots(blocks: usize) -> impl DoubleEndedIterator<Item = u64> {
        let (low, high) = &FACTORS;
        (blocks..2 * blocks).map(|index| times(high[index / LOW], low[index % LOW]))
    }

    /// A representative in [0, 2p) of w·y, for y below 4p and w below 2p.
    #[inline(always)]
    pub(super) fn times(y: u64, w: u64) -> u64 {
        debug_assert!(y < 1 << 38 && w < 1 << 37);
        let product = u128::from(y) * u128::from(w);
        // Below 2^59 + 2^36, then below 2^43 + 2^36, then below 2^36 + 2^28.
        fold(fold(fold_parts((product >> 36) as u64, product as u64)))
    }

    #[inline(always)]
    fn fold(x: u64) -> u64 {
        fold_parts(x >> 36, x)
    }

    /// high·2^36 and the low 36 bits of another word: 2^36 = 2^20 - 1 modulo p.
    #[inline(always)]
    fn fold_parts(high: u64, low: u64) -> u64 {
        (high << 20) - high + (low & ((1 << 36) - 1))
    }
}

/// Coefficients to slots, in place, [0, p) to [0, p).
pub(in crate::rlwe) fn to_slots(a: &mut [u64]) {
    debug_assert_eq!(a.len(), SLOT_COUNT);
    let mut blocks = 1;
    // Between stages values are in [0, 4p).
    while blocks < SLOT_COUNT {
        let half = SLOT_COUNT / (2 * blocks);
        for (block, w) in a.chunks_exact_mut(2 * half).zip(roots(blocks)) {
            let (low, high) = block.split_at_mut(half);
            for (x, y) in low.iter_mut().zip(high) {
                let (u, v) = (reduce_by(*x, 2 * P), times(*y, w));
                (*x, *y) = (u + v, u + 2 * P - v);
            }
        }
        blocks *= 2;
    }
    for x in a {
        *x = reduce_once(reduce_by(*x, 2 * P));
    }
}

/// Slots to coefficients, in place, [0, p) to [0, p): the inverse of [`to_slots`].
pub(in crate::rlwe) fn to_coefficients(a: &mut [u64]) {
    debug_assert_eq!(a.len(), SLOT_COUNT);
    let mut blocks = SLOT_COUNT / 2;
    // Between stages values are in [0, 2p). The root -w stands in the table as w, hence y - x.
    while blocks >= 1 {
        let half = SLOT_COUNT / (2 * blocks);
        for (block, w) in a.chunks_exact_mut(2 * half).zip(roots(blocks).rev()) {
            let (low, high) = block.split_at_mut(half);
            for (x, y) in low.iter_mut().zip(high) {
                (*x, *y) = (reduce_by(*x + *y, 2 * P), times(*y + 2 * P - *x, w));
            }
        }
        blocks /= 2;
    }
    for x in a {
        *x = mul(*x, COUNT_INVERSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prg::{Prg, Seed};
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn slots_multiply_as_polynomials_do() {
        let mut prg = Prg::new(&Seed::from_bytes([9; 32]));
        let mut a = vec![0u64; SLOT_COUNT];
        for position in [0, 1, 77, 4096, 8191] {
            a[position] = prg.below(P);
        }
        let b: Vec<u64> = (0..SLOT_COUNT).map(|i| if i % 3 == 0 { P - 1 } else { prg.below(P) }).collect();
        let product = |x: u64, y: u64| (u128::from(x) * u128::from(y) % u128::from(P)) as u64;
        let mut expected = vec![0u64; SLOT_COUNT];
        for (i, &x) in a.iter().enumerate().filter(|(_, x)| **x != 0) {
            for (j, &y) in b.iter().enumerate() {
                let term = if i + j < SLOT_COUNT { product(x, y) } else { P - product(x, y) };
                let sum = &mut expected[(i + j) % SLOT_COUNT];
                *sum = (*sum + term) % P;
            }
        }
        let (mut x, mut y) = (a, b.clone());
        to_slots(&mut x);
        to_slots(&mut y);
        for (x, &y) in x.iter_mut().zip(&y) {
            *x = product(*x, y);
        }
        to_coefficients(&mut x);
        assert_eq!(x, expected);
        to_coefficients(&mut y);
        assert_eq!(y, b);
    }

    #[test]
    fn roots_made_as_they_are_used_are_those_of_the_table() {
        let ends = [0, 1, P - 1, P, 2 * P, 4 * P - 1, (1 << 38) - 1];
        for blocks in (0..13).map(|stage| 1 << stage) {
            for (made, read) in compact::roots(blocks).zip(table::roots(blocks)) {
                assert!(made < 2 * P);
                assert_eq!(made % P, read.value);
                for y in ends {
                    let product = compact::times(y, made);
                    assert!(product < 2 * P);
                    assert_eq!(product % P, table::times(y, read) % P);
                }
            }
        }
        let most = compact::times((1 << 38) - 1, 2 * P - 1);
        assert_eq!(u128::from(most % P), ((1 << 38) - 1) * u128::from(2 * P - 1) % u128::from(P));
    }

    #[test]
    fn constants_multiply_and_centre_exactly() {
        for y in [0, 1, P - 1, P, 4 * P, u64::MAX] {
            for w in [0, 1, P / 2, P - 1] {
                assert_eq!(u128::from(mul(y, factor(w))), u128::from(y) * u128::from(w) % u128::from(P));
            }
        }
        assert_eq!([0, P / 2, P / 2 + 1, P - 1].map(centred), [0, (P / 2) as i64, -((P / 2) as i64), -1]);
    }
}
