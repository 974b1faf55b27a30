//! Random polynomials: secrets, errors and flooding in constant time; the public uniform halves from seeds.

use crate::prg::{Prg, SecretVec, Seed};
use alloc::vec;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// Bytes of randomness of one error coefficient: 42 of 48 bits are used.
const ERROR_BYTES: usize = 6;

/// Coefficients uniform in {-1, 0, 1}, each within 3·2^-64 of uniform.
pub(super) fn ternary(count: usize, prg: &mut Prg) -> SecretVec<i8> {
    let bytes = secret_bytes(8 * count, prg);
    let digit = |c: &[u8; 8]| ((u128::from(u64::from_le_bytes(*c)) * 3) >> 64) as i8 - 1;
    Zeroizing::new(bytes.as_chunks().0.iter().map(digit).collect())
}

/// Coefficients of the centred binomial distribution with eta = 21: in [-21, 21], variance 21/2.
pub(super) fn errors(count: usize, prg: &mut Prg) -> SecretVec<i8> {
    let bytes = secret_bytes(ERROR_BYTES * count, prg);
    let error = |c: &[u8; ERROR_BYTES]| {
        let bits = c.iter().rev().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
        let ones = |word: u64| (word & 0x1f_ffff).count_ones() as i8;
        ones(bits) - ones(bits >> 21)
    };
    Zeroizing::new(bytes.as_chunks().0.iter().map(error).collect())
}

/// A value uniform in [0, 2^bits), bits at most 96.
pub(super) fn uniform_bits(bits: u32, prg: &mut Prg) -> u128 {
    debug_assert!(bits <= 96);
    let wide = u128::from(prg.next_u64()) | u128::from(prg.next_u64()) << 64;
    wide & ((1 << bits) - 1)
}

/// Fills `out` with residues uniform in [0, q), from a stream that both parties know.
///
/// 31 bits of every four bytes, refused if not below q: variable time, the values are public.
pub(super) fn uniform_residues_vartime(q: u32, out: &mut [u32], prg: &mut Prg) {
    let mut bytes = [0u8; 1024];
    let mut words = [0u32; 256];
    let mut next = words.len();
    for x in out {
        *x = loop {
            if next == words.len() {
                prg.fill(&mut bytes);
                for (word, c) in words.iter_mut().zip(bytes.as_chunks().0) {
                    *word = u32::from_le_bytes(*c) >> 1;
                }
                next = 0;
            }
            let candidate = words[next];
            next += 1;
            if candidate < q {
                break candidate;
            }
        };
    }
}

/// The generator that expands a public seed.
pub(super) fn public_prg(seed: &[u8; 32]) -> Prg {
    Prg::new(&Seed::from_bytes(*seed))
}

fn secret_bytes(count: usize, prg: &mut Prg) -> SecretVec<u8> {
    let mut bytes: Vec<u8> = vec![0; count];
    prg.fill(&mut bytes);
    Zeroizing::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rlwe::params::PRIMES;

    fn prg(n: u8) -> Prg {
        Prg::new(&Seed::from_bytes([n; 32]))
    }

    #[test]
    fn ternary_values_are_equally_frequent() {
        let mut count = [0u32; 3];
        for &x in ternary(300_000, &mut prg(1)).iter() {
            count[(x + 1) as usize] += 1;
        }
        // Six standard deviations of 258.
        assert!(count.iter().all(|&n| n.abs_diff(100_000) < 1550), "{count:?}");
    }

    #[test]
    fn errors_are_centred_with_variance_ten_and_a_half() {
        let sample = errors(1 << 20, &mut prg(2));
        assert!(sample.iter().all(|x| x.abs() <= 21));
        let sum: i64 = sample.iter().map(|&x| i64::from(x)).sum();
        let squares: i64 = sample.iter().map(|&x| i64::from(x) * i64::from(x)).sum();
        // Standard deviations: 2^10·3.24 for the sum, about 2^10·10.5·sqrt(2) for the squares.
        assert!(sum.abs() < 6 * 3319, "{sum}");
        assert!((squares - 11_010_048).abs() < 6 * 15_206, "{squares}");
    }

    #[test]
    fn uniform_residues_are_below_the_prime_and_follow_the_seed() {
        for q in PRIMES {
            let (mut a, mut b) = (vec![0; 5000], vec![0; 5000]);
            uniform_residues_vartime(q, &mut a, &mut public_prg(&[7; 32]));
            uniform_residues_vartime(q, &mut b, &mut public_prg(&[7; 32]));
            assert_eq!(a, b);
            assert!(a.iter().all(|&x| x < q));
            let mean = a.iter().map(|&x| u64::from(x)).sum::<u64>() / 5000;
            // Six standard deviations of q/sqrt(12·5000).
            assert!(mean.abs_diff(u64::from(q) / 2) < 6 * u64::from(q) / 244, "{mean}");
        }
    }
}
