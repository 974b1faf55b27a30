//! Random polynomials: secrets, errors and flooding in constant time; the public uniform halves from seeds.

use crate::prg::{Prg, Seed, Wiped};
use crate::simd::samples;
use alloc::{vec, vec::Vec};
use core::ops::Range;
use zeroize::Zeroize;

/// Coefficients uniform in {-1, 0, 1}, each within 2^-72 of uniform: 32 of them are the digits of a uniform fraction of 124 bits.
pub(super) fn ternary(count: usize, prg: &mut Prg) -> Wiped<i8> {
    draw(count, prg, samples::ternary)
}

/// Coefficients of the centred binomial distribution with eta = 21: in [-21, 21], variance 21/2.
///
/// The number of ones in 42 uniform bits, less 21: ones in the second half may be counted as its zeros, which have the same distribution.
pub(super) fn errors(count: usize, prg: &mut Prg) -> Wiped<i8> {
    draw(count, prg, samples::binomial)
}

/// Makes coefficients in batches from batches of uniform words.
fn draw<const WORDS: usize, const BATCH: usize>(
    count: usize,
    prg: &mut Prg,
    make: impl Fn(&mut [u64; WORDS], &mut [i8; BATCH]),
) -> Wiped<i8> {
    let mut out = Wiped::zeros(count.next_multiple_of(BATCH));
    // Some at a time: short of the first-level cache, long enough for the generator's widest form.
    let mut words = [[0; WORDS]; 4];
    for out in out.as_chunks_mut().0.chunks_mut(words.len()) {
        let words = &mut words[..out.len()];
        fill(words.as_flattened_mut(), prg, u64::from_le_bytes);
        for (out, words) in out.iter_mut().zip(words) {
            make(words, out);
        }
    }
    words.as_flattened_mut().zeroize();
    out.truncate(count);
    out
}

/// Flooding: integers uniform in [-2^bits, 2^bits), each low + mid·2^32 + top·2^63 - 2^bits, with 31 bits in mid and up to 23 in top.
pub(super) struct Flooding {
    pub(super) bits: u32,
    pub(super) low: Wiped<u32>,
    pub(super) mid: Wiped<u32>,
    pub(super) top: Wiped<u32>,
}

impl Flooding {
    /// Draws so many, bits from 32 to 85.
    pub(super) fn draw(count: usize, bits: u32, prg: &mut Prg) -> Self {
        debug_assert!((32..=85).contains(&bits));
        let [mut mid, mut top] = [0; 2].map(|_| Wiped::zeros(count));
        let low = words(count, prg);
        let parts = mid.iter_mut().zip(top.iter_mut());
        // The upper bits of a word: of one of 32 bits, if they suffice.
        let cut = |(mid, top): (&mut u32, &mut u32), word: u64| {
            let high = word >> (95 - bits);
            (*mid, *top) = (high as u32 & 0x7fff_ffff, (high >> 31) as u32);
        };
        match bits - 32 {
            0..32 => parts.zip(words(count, prg).iter()).for_each(|(parts, &word)| cut(parts, u64::from(word) << 32)),
            _ => parts.zip(words_64(count, prg).iter()).for_each(|(parts, &word)| cut(parts, word)),
        }
        Self { bits, low, mid, top }
    }
}

/// Uniform words.
pub(super) fn words(count: usize, prg: &mut Prg) -> Wiped<u32> {
    let mut out = Wiped::zeros(count);
    fill(&mut out, prg, u32::from_le_bytes);
    out
}

fn words_64(count: usize, prg: &mut Prg) -> Wiped<u64> {
    let mut out = Wiped::zeros(count);
    fill(&mut out, prg, u64::from_le_bytes);
    out
}

/// Draws values of so many bytes each.
fn fill<T, const BYTES: usize>(out: &mut [T], prg: &mut Prg, from: impl Fn([u8; BYTES]) -> T) {
    let mut bytes = [0; 4096];
    for out in out.chunks_mut(bytes.len() / BYTES) {
        let bytes = &mut bytes[..BYTES * out.len()];
        prg.fill(bytes);
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *out = from(*bytes);
        }
    }
    bytes[..].zeroize();
}

/// Fills `out` with residues uniform in [0, q), from a stream that both parties know.
///
/// 31 bits of every four bytes, refused if not below q: variable time, the values are public. As many bytes as the residues take (in little
/// memory 1024 at a time too), then 1024 at a time while some are missing.
pub(super) fn uniform_residues_vartime(q: u32, out: &mut [u32], prg: &mut Prg) {
    let mut bytes = vec![0u8; if cfg!(feature = "small") { 1024 } else { (4 * out.len()).next_multiple_of(1024) }];
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

/// The uniform element that a public seed expands to, prime by prime, as [`uniform_residues_vartime`] gives it. In little memory there is a
/// block of it at a time.
pub(super) struct Uniform {
    prg: Prg,
    block: Vec<u8>,
}

/// Residues of a block.
const BLOCK: usize = 256;

impl Uniform {
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        Self { prg: public_prg(seed), block: vec![] }
    }

    /// The `count` residues modulo the next prime q, run by run.
    pub(super) fn residues(&mut self, q: u32, count: usize, mut each: impl FnMut(Range<usize>, &[u32])) {
        if !cfg!(feature = "small") {
            let mut residues = vec![0; count];
            uniform_residues_vartime(q, &mut residues, &mut self.prg);
            return each(0..count, &residues);
        }
        let (mut residues, mut used) = ([0; BLOCK], 1024);
        self.block.resize(1024, 0);
        for start in (0..count).step_by(BLOCK) {
            let run = start..count.min(start + BLOCK);
            let residues = &mut residues[..run.len()];
            let mut filled = 0;
            while filled < residues.len() {
                if used == self.block.len() {
                    self.prg.fill(&mut self.block);
                    used = 0;
                }
                let (words, _) = self.block[used..].as_chunks::<4>();
                for word in words {
                    let candidate = u32::from_le_bytes(*word) >> 1;
                    used += 4;
                    if candidate < q {
                        residues[filled] = candidate;
                        filled += 1;
                    }
                    if filled == residues.len() {
                        break;
                    }
                }
            }
            each(run, residues);
        }
    }
}

/// The generator that expands a public seed.
pub(super) fn public_prg(seed: &[u8; 32]) -> Prg {
    Prg::new(&Seed::from_bytes(*seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rlwe::params::PRIMES;

    fn prg(n: u8) -> Prg {
        Prg::new(&Seed::from_bytes([n; 32]))
    }

    /// Their definition: 32 low bits from the first words, the others from the tops of the next.
    #[test]
    fn flooding_is_uniform_bits_less_a_power_of_two() {
        for bits in [32, 58, 63, 64, 74, 85] {
            let (count, mut prg, mut same) = (4096, prg(3), prg(3));
            let flooding = Flooding::draw(count, bits, &mut prg);
            let low: Vec<u32> = (0..count).map(|_| same.next_u32()).collect();
            for (i, low) in low.into_iter().enumerate() {
                let high = if bits < 64 { u64::from(same.next_u32()) << 32 } else { same.next_u64() };
                let expected = u128::from(high >> (95 - bits)) << 32 | u128::from(low);
                assert!(expected < 1 << (bits + 1) && flooding.mid[i] < 1 << 31 && flooding.top[i] < 1 << 23);
                let parts = [(flooding.low[i], 0), (flooding.mid[i], 32), (flooding.top[i], 63)];
                assert_eq!(parts.map(|(x, at)| u128::from(x) << at).iter().sum::<u128>(), expected, "{bits}");
            }
            assert_eq!(prg.next_u32(), same.next_u32());
        }
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
            // Run by run, and goes on with the next part as that does.
            let (mut uniform, mut prg) = (Uniform::new(&[7; 32]), public_prg(&[7; 32]));
            for count in [5000, 4096, 8192, 100] {
                let mut next = 0;
                a.resize(count, 0);
                uniform_residues_vartime(q, &mut a, &mut prg);
                uniform.residues(q, count, |run, residues| {
                    assert_eq!(run.start, next);
                    assert_eq!(residues, &a[run.clone()]);
                    next = run.end;
                });
                assert_eq!(next, count);
            }
            a.clone_from(&b);
            assert!(a.iter().all(|&x| x < q));
            let mean = a.iter().map(|&x| u64::from(x)).sum::<u64>() / 5000;
            // Six standard deviations of q/sqrt(12·5000).
            assert!(mean.abs_diff(u64::from(q) / 2) < 6 * u64::from(q) / 244, "{mean}");
        }
    }
}
