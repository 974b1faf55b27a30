//! Small random coefficients from uniform words, in constant time.

use super::multiversion;

/// Words of a batch that are worked on side by side.
const LANES: usize = 64;

/// Digits of a fraction in base three that are taken: 3^32 < 2^51.
const DIGITS: usize = 32;

/// Low bits of a word that are used: times three, plus two, fits 64 bits.
const LIMB: u32 = 62;

multiversion! {
    /// Coefficients in {-1, 0, 1}, the first 32 digits in base three of uniform fractions in [0, 1) of 124 bits, less one.
    ///
    /// Any 32 digits have the probability 3^-32 up to 2^-124, so each is within 3^32·2^-124 < 2^-73 of uniform, given all others.
    pub(crate) fn ternary(words: &mut [u64; 2 * LANES], out: &mut [i8; DIGITS * LANES]) {
        let mask = (1u64 << LIMB) - 1;
        let (high, low) = words.split_at_mut(LANES);
        for word in high.iter_mut().chain(low.iter_mut()) {
            *word &= mask;
        }
        for out in out.as_chunks_mut::<LANES>().0 {
            for ((out, high), low) in out.iter_mut().zip(high.iter_mut()).zip(low.iter_mut()) {
                // The integer part of three times the fraction is the digit.
                let below = *low + 2 * *low;
                *low = below & mask;
                let above = *high + 2 * *high + (below >> LIMB);
                *high = above & mask;
                *out = (above >> LIMB) as i8 - 1;
            }
        }
    }

    /// Numbers of ones among 42 uniform bits, less 21.
    pub(crate) fn binomial(words: &mut [u64; 2 * LANES], out: &mut [i8; 3 * LANES]) {
        const USED: u64 = (1 << 42) - 1;
        let (first, second) = words.split_at(LANES);
        let (a, rest) = out.split_at_mut(LANES);
        let (b, c) = rest.split_at_mut(LANES);
        for i in 0..LANES {
            let (x, y) = (first[i], second[i]);
            // 22 bits that are left of the one and 20 of the 22 of the other.
            let rest = x >> 42 | y >> 44 << 22;
            for (out, bits) in [(&mut a[i], x & USED), (&mut b[i], y & USED), (&mut c[i], rest)] {
                *out = bits.count_ones() as i8 - 21;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prg::{Prg, Seed};
    use crate::simd::at_each_level;

    #[test]
    fn batches_are_as_defined_at_each_level() {
        let mut prg = Prg::new(&Seed::from_bytes([4; 32]));
        for extreme in [None, Some(0), Some(u64::MAX)] {
            let words: [u64; 2 * LANES] = core::array::from_fn(|_| extreme.unwrap_or(prg.next_u64()));
            at_each_level(|level| {
                let (mut trits, mut errors) = ([7; DIGITS * LANES], [99; 3 * LANES]);
                ternary(&mut words.clone(), &mut trits);
                binomial(&mut words.clone(), &mut errors);
                for i in 0..LANES {
                    let [x, y] = [words[i], words[LANES + i]];
                    let mut fraction = u128::from(x << 2 >> 2) << LIMB | u128::from(y << 2 >> 2);
                    for d in 0..DIGITS {
                        fraction *= 3;
                        assert_eq!(trits[d * LANES + i], (fraction >> (2 * LIMB)) as i8 - 1, "{level:?}");
                        fraction &= (1 << (2 * LIMB)) - 1;
                    }
                    let ones = |bits: u64| bits.count_ones() as i8;
                    let all = [0, 1, 2].map(|part| errors[part * LANES + i] + 21);
                    assert_eq!(all[0], ones(x << 22), "{level:?}");
                    assert_eq!(all[1], ones(y << 22), "{level:?}");
                    assert_eq!(all[2], ones(x >> 42) + ones(y >> 44), "{level:?}");
                }
            });
        }
    }
}
