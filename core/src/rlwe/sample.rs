//! Random polynomials: secrets, errors and flooding in constant time; the public uniform halves from seeds.

use crate::prg::{Prg, SecretVec, Seed};
use crate::simd::samples;
use alloc::vec;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// Coefficients uniform in {-1, 0, 1}, each within 2^-72 of uniform: 32 of them are the digits of a uniform fraction of 124 bits.
pub(super) fn ternary(count: usize, prg: &mut Prg) -> SecretVec<i8> {
    draw(count, prg, samples::ternary)
}

/// Coefficients of the centred binomial distribution with eta = 21: in [-21, 21], variance 21/2.
///
/// The number of ones in 42 uniform bits, less 21: ones in the second half may be counted as its zeros, which have the same distribution.
pub(super) fn errors(count: usize, prg: &mut Prg) -> SecretVec<i8> {
    draw(count, prg, samples::binomial)
}

/// Makes coefficients in batches from batches of uniform words.
fn draw<const WORDS: usize, const BATCH: usize>(
    count: usize,
    prg: &mut Prg,
    make: impl Fn(&mut [u64; WORDS], &mut [i8; BATCH]),
) -> SecretVec<i8> {
    let batches = count.div_ceil(BATCH);
    let random = words_64(batches * WORDS, prg);
    let mut out = Zeroizing::new(vec![0; batches * BATCH]);
    let mut batch = Zeroizing::new([0; WORDS]);
    for (out, words) in out.as_chunks_mut().0.iter_mut().zip(random.as_chunks::<WORDS>().0) {
        *batch = *words;
        make(&mut batch, out);
    }
    out.truncate(count);
    out
}

/// Values uniform in [-2^bits, 2^bits), bits from 32 to 85, in two halves: low + high·2^32.
pub(super) fn flooding(count: usize, bits: u32, prg: &mut Prg) -> (SecretVec<u32>, SecretVec<i64>) {
    debug_assert!((32..=85).contains(&bits));
    let centred = |word: u64| (word >> (63 - (bits - 32))) as i64 - (1 << (bits - 32));
    let low = words(count, prg);
    let high = match bits - 32 {
        // The upper half of a word of 64 bits suffices.
        0..32 => words(count, prg).iter().map(|&word| centred(u64::from(word) << 32)).collect::<Vec<_>>(),
        _ => words_64(count, prg).iter().map(|&word| centred(word)).collect(),
    };
    (low, Zeroizing::new(high))
}

/// Uniform words.
pub(super) fn words(count: usize, prg: &mut Prg) -> SecretVec<u32> {
    let bytes = secret_bytes(4 * count, prg);
    Zeroizing::new(bytes.as_chunks().0.iter().map(|c| u32::from_le_bytes(*c)).collect())
}

fn words_64(count: usize, prg: &mut Prg) -> SecretVec<u64> {
    let bytes = secret_bytes(8 * count, prg);
    Zeroizing::new(bytes.as_chunks().0.iter().map(|c| u64::from_le_bytes(*c)).collect())
}

/// Fills `out` with residues uniform in [0, q), from a stream that both parties know.
///
/// 31 bits of every four bytes, refused if not below q: variable time, the values are public. As many bytes as the residues take, then 1024
/// at a time while some are missing.
pub(super) fn uniform_residues_vartime(q: u32, out: &mut [u32], prg: &mut Prg) {
    let mut bytes = vec![0u8; (4 * out.len()).next_multiple_of(1024)];
    let mut filled = 0;
    while filled < out.len() {
        prg.fill(&mut bytes);
        for group in bytes.as_chunks::<4>().0.as_chunks::<32>().0 {
            let candidates = group.map(|c| u32::from_le_bytes(c) >> 1);
            match out[filled..].first_chunk_mut() {
                // Almost always all are good.
                Some(chunk) if candidates.iter().fold(true, |good, &x| good & (x < q)) => {
                    *chunk = candidates;
                    filled += chunk.len();
                }
                _ => {
                    for (x, candidate) in out[filled..].iter_mut().zip(candidates.into_iter().filter(|&x| x < q)) {
                        *x = candidate;
                        filled += 1;
                    }
                }
            }
        }
        bytes.truncate(1024);
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
