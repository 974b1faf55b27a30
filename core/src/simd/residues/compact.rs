//! The transform for processors of 32 bits with little memory: instead of a table of all roots two of their factors, and few instructions.
//!
//! **Roots.** An index i of 13 bits in two parts, i = 64·h + l: its reversed bits are the sum of those of 64·h and of l, so psi^rev(i) is the product of an entry of 128 and one
//! of 64. Every root of a transform is used in one block only, so these products are N of N/2·log2 N.
//!
//! **Products** are Montgomery's with addition: (y·w + m·q)/2^32 with m = -y·w/q mod 2^32, for w below q and any y of 32 bits, is below 2q: one multiplication into 64 bits,
//! one of low words, and one more into 64 bits that adds.
//!
//! **Ranges.** q is just below 2^31, so 2q is just below 2^32, and what an addition carries out, or a subtraction borrows, says when 2q is to be taken
//! off or added. In the forward transform any word of 32 bits will do: x + t with t < 2q is below 2^32 + 2q, and less 2q where it carries; x - t is above -2q, and more
//! by 2q where it borrows. In the inverse transform all values are below 2q.
//!
//! **Passes** over memory do two stages each.

use super::modulus::Modulus;
use super::roots::{MAX_DEGREE, primitive_root};

/// Places of the lower part of an index.
const LOW: usize = 64;

/// With psi as in [`super::roots::Roots`], factors of psi^rev(i), times 2^32 modulo q. Public.
#[derive(Debug)]
pub(crate) struct Factors {
    /// psi^rev(l), l below 64.
    low: [u32; LOW],
    /// psi^rev(64·h).
    high: [u32; MAX_DEGREE / LOW],
}

impl Factors {
    /// Those of a prime that is 1 modulo 2·[`MAX_DEGREE`].
    pub(crate) const fn new(q: Modulus) -> Self {
        let (psi, prime) = (primitive_root(q), q.value() as u64);
        let mut out = Self { low: [0; LOW], high: [0; MAX_DEGREE / LOW] };
        let mut i = 0;
        while i < MAX_DEGREE / LOW {
            if i < LOW {
                out.low[i] = Self::entry(psi, prime, i, q);
            }
            out.high[i] = Self::entry(psi, prime, i * LOW, q);
            i += 1;
        }
        out
    }

    const fn entry(psi: u32, prime: u64, index: usize, q: Modulus) -> u32 {
        let reversed = (index as u32).reverse_bits() >> (32 - MAX_DEGREE.trailing_zeros());
        (((q.pow_vartime(psi, reversed as u64) as u64) << 32) % prime) as u32
    }
}

/// One prime's arithmetic.
#[derive(Clone, Copy)]
struct Field {
    q: u32,
    /// -q^-1 mod 2^32.
    inverse: u32,
}

impl Field {
    /// y·w/2^32 modulo q, below 2q: for w below q and any y.
    #[inline(always)]
    fn product(self, y: u32, w: u32) -> u32 {
        debug_assert!(w < self.q);
        let product = u64::from(y) * u64::from(w);
        let m = (product as u32).wrapping_mul(self.inverse);
        ((product + u64::from(m) * u64::from(self.q)) >> 32) as u32
    }

    /// 2q if `when`, else 0.
    #[inline(always)]
    fn twice_if(self, when: bool) -> u32 {
        (2 * self.q) & u32::from(when).wrapping_neg()
    }

    /// x + t, for t below 2q.
    #[inline(always)]
    fn add(self, x: u32, t: u32) -> u32 {
        let (sum, carries) = x.overflowing_add(t);
        sum.wrapping_sub(self.twice_if(carries))
    }

    /// x - t, for t of at most 2q; below 2q if x is.
    #[inline(always)]
    fn sub(self, x: u32, t: u32) -> u32 {
        let (difference, borrows) = x.overflowing_sub(t);
        difference.wrapping_add(self.twice_if(borrows))
    }

    /// x mod q for x below 2q.
    #[inline(always)]
    fn reduce_once(self, x: u32) -> u32 {
        let (difference, borrows) = x.overflowing_sub(self.q);
        difference.wrapping_add(self.q & u32::from(borrows).wrapping_neg())
    }

    /// (x + w·y, x - w·y), of any words.
    #[inline(always)]
    fn forward(self, x: u32, y: u32, w: u32) -> (u32, u32) {
        let t = self.product(y, w);
        (self.add(x, t), self.sub(x, t))
    }

    /// (x + y, (y - x)·w): from below 2q to below 2q.
    #[inline(always)]
    fn inverse(self, x: u32, y: u32, w: u32) -> (u32, u32) {
        // x + y as x - (2q - y): not below 2q if y is 0, but then it borrows and gives x.
        (self.sub(x, 2 * self.q - y), self.product(self.sub(y, x), w))
    }

    /// psi^rev(index), below q.
    #[inline(always)]
    fn root(self, factors: &Factors, index: usize) -> u32 {
        self.reduce_once(self.product(factors.high[index / LOW % (MAX_DEGREE / LOW)], factors.low[index % LOW]))
    }

    /// Those of a block of two stages: of an index, and of twice that and the next.
    #[inline(always)]
    fn roots(self, factors: &Factors, index: usize) -> [u32; 3] {
        // (A map would become a loop.)
        [self.root(factors, index), self.root(factors, 2 * index), self.root(factors, 2 * index + 1)]
    }
}

/// Coefficients to values, in place, as [`super::Transform::forward`]. The length is a power of two from 16 to [`MAX_DEGREE`].
pub(super) fn forward(q: Modulus, factors: &Factors, a: &mut [u32]) {
    let field = Field { q: q.value(), inverse: q.inverse().wrapping_neg() };
    let mut blocks = 1;
    if a.len().trailing_zeros() % 2 == 1 {
        let w = field.root(factors, 1);
        let (low, high) = a.split_at_mut(a.len() / 2);
        for (x, y) in low.iter_mut().zip(high) {
            (*x, *y) = field.forward(*x, *y, w);
        }
        blocks = 2;
    }
    while 4 * blocks < a.len() {
        let quarter = a.len() / (4 * blocks);
        for (block, index) in a.chunks_exact_mut(4 * quarter).zip(blocks..) {
            let w = field.roots(factors, index);
            each_four(block, |four| forward_four(field, four, w));
        }
        blocks *= 4;
    }
    for (four, index) in a.as_chunks_mut().0.iter_mut().zip(blocks..) {
        let [x0, x1, x2, x3] = forward_four(field, *four, field.roots(factors, index));
        // Any words, so 2q is taken off first. (A map would become a loop.)
        let reduce = |x: u32| field.reduce_once(field.sub(x, 2 * field.q));
        *four = [reduce(x0), reduce(x1), reduce(x2), reduce(x3)];
    }
}

/// Values to coefficients, in place: the inverse of [`forward`]. `degree_inverse` is N^-1 mod q.
pub(super) fn inverse(q: Modulus, factors: &Factors, degree_inverse: u32, a: &mut [u32]) {
    let field = Field { q: q.value(), inverse: q.inverse().wrapping_neg() };
    let mut blocks = a.len() / 4;
    // Entry m + i of the inverse roots stands, negated, at 2m - 1 - i.
    let roots = |blocks: usize, i: usize| field.roots(factors, 2 * blocks - 1 - i);
    for (i, four) in a.as_chunks_mut().0.iter_mut().enumerate() {
        *four = inverse_four(field, *four, roots(blocks, i));
    }
    while blocks >= 4 {
        blocks /= 4;
        let quarter = a.len() / (4 * blocks);
        for (i, block) in a.chunks_exact_mut(4 * quarter).enumerate() {
            let w = roots(blocks, i);
            each_four(block, |four| inverse_four(field, four, w));
        }
    }
    if blocks == 2 {
        let w = field.root(factors, 1);
        let (low, high) = a.split_at_mut(a.len() / 2);
        for (x, y) in low.iter_mut().zip(high) {
            (*x, *y) = field.inverse(*x, *y, w);
        }
    }
    let scale = q.to_montgomery(degree_inverse);
    for x in a {
        *x = field.reduce_once(field.product(*x, scale));
    }
}

/// Has `work` change the elements of the four quarters of a block that stand at the same place in them.
#[inline(always)]
fn each_four(block: &mut [u32], work: impl Fn([u32; 4]) -> [u32; 4]) {
    let (first, second) = block.split_at_mut(block.len() / 2);
    let ((x0, x1), (x2, x3)) = (first.split_at_mut(first.len() / 2), second.split_at_mut(second.len() / 2));
    for ((x0, x1), (x2, x3)) in x0.iter_mut().zip(x1).zip(x2.iter_mut().zip(x3)) {
        [*x0, *x1, *x2, *x3] = work([*x0, *x1, *x2, *x3]);
    }
}

/// Two stages: the root of the first, and those of the second.
#[inline(always)]
fn forward_four(field: Field, [x0, x1, x2, x3]: [u32; 4], w: [u32; 3]) -> [u32; 4] {
    let (x0, x2) = field.forward(x0, x2, w[0]);
    let (x1, x3) = field.forward(x1, x3, w[0]);
    let (x0, x1) = field.forward(x0, x1, w[1]);
    let (x2, x3) = field.forward(x2, x3, w[2]);
    [x0, x1, x2, x3]
}

/// Two stages: the root of the second, and those of the first, that of the second pair before that of the first.
#[inline(always)]
fn inverse_four(field: Field, [x0, x1, x2, x3]: [u32; 4], w: [u32; 3]) -> [u32; 4] {
    let (x0, x1) = field.inverse(x0, x1, w[2]);
    let (x2, x3) = field.inverse(x2, x3, w[1]);
    let (x0, x2) = field.inverse(x0, x2, w[0]);
    let (x1, x3) = field.inverse(x1, x3, w[0]);
    [x0, x1, x2, x3]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prg::{Prg, Seed};
    use crate::rlwe::params::{LINEAR, SLOTS};
    use alloc::vec;
    use alloc::vec::Vec;

    /// On random residues and on extremes, for which ranges would overflow first.
    #[test]
    fn residues_are_those_of_the_table() {
        let mut prg = Prg::new(&Seed::from_bytes([7; 32]));
        for t in [&LINEAR, &SLOTS].into_iter().flat_map(|ring| ring.primes()).map(|prime| prime.transform()) {
            let (q, degree) = (t.modulus.value(), t.degree);
            let factors = Factors::new(t.modulus);
            let random = |prg: &mut Prg| (0..degree).map(|_| prg.below(u64::from(q)) as u32).collect::<Vec<_>>();
            let steps = |length: usize| (0..degree).map(|i| [0, q - 1][(i / length) % 2]).collect::<Vec<_>>();
            let mut inputs =
                vec![vec![0; degree], vec![q - 1; degree], steps(1), steps(2), steps(64), steps(degree / 2)];
            inputs.extend((0..8).map(|_| random(&mut prg)));
            for a in inputs {
                let [mut forth, mut expected_forth, mut back, mut expected_back] = [(); 4].map(|()| a.clone());
                forward(t.modulus, &factors, &mut forth);
                t.forward(&mut expected_forth);
                assert!(forth == expected_forth, "{q}: forward");
                inverse(t.modulus, &factors, t.degree_inverse.value, &mut back);
                t.inverse(&mut expected_back);
                assert!(back == expected_back, "{q}: inverse");
            }
        }
    }

    /// Of all words at the ends of ranges: what the ranges claim, and the residues.
    #[test]
    fn butterflies_keep_their_ranges() {
        for prime in SLOTS.primes() {
            let m = prime.transform().modulus;
            let (q, wide) = (m.value(), u64::from(m.value()));
            let field = Field { q, inverse: m.inverse().wrapping_neg() };
            let shift = m.pow_vartime(2, 32);
            let ends = [0, 1, q - 1, q, q + 1, 2 * q - 1, 2 * q, u32::MAX - 1, u32::MAX];
            for (x, y) in ends.into_iter().flat_map(|x| ends.map(|y| (x, y))) {
                for w in [0, 1, q / 2, q - 1] {
                    let t = field.product(y, w);
                    assert!(t < 2 * q);
                    assert_eq!(u64::from(t) * u64::from(shift) % wide, u64::from(y) * u64::from(w) % wide);
                    let (sum, difference) = field.forward(x, y, w);
                    let (x_wide, t_wide) = (u64::from(x), u64::from(t));
                    assert_eq!(u64::from(sum) % wide, (x_wide + t_wide) % wide);
                    assert_eq!(u64::from(difference) % wide, (x_wide + 2 * wide - t_wide) % wide);
                    if x < 2 * q && y < 2 * q {
                        let (sum, product) = field.inverse(x, y, w);
                        assert!(sum < 2 * q && product < 2 * q);
                        assert_eq!(u64::from(sum) % wide, (x_wide + u64::from(y)) % wide);
                        let difference = (u64::from(y) + 2 * wide - x_wide) % wide;
                        assert_eq!(u64::from(product) * u64::from(shift) % wide, difference * u64::from(w) % wide);
                    }
                }
                assert_eq!(field.reduce_once(field.sub(x, 2 * q)), x % q);
            }
        }
    }
}
