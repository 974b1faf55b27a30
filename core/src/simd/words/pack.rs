//! Packing of words of few bits, column by column, so that whole vectors of words are shifted alike.

use super::super::multiversion;

/// Values that a column has, so that it takes a whole number of words whatever their width.
pub(crate) const ROWS: usize = 32;

/// The low `width` (at most 32) bits set.
#[inline(always)]
const fn ones(width: u32) -> u32 {
    ((1u64 << width) - 1) as u32
}

multiversion! {
    /// Packs the low `width` bits of C · [`ROWS`] values, C any number, into C · `width` words: value r · C + c takes bits
    /// r · `width` on of column c, and bit 32 · j + i of a column is bit i of word j · C + c.
    pub(crate) fn pack(values: &[u32], width: u32, words: &mut [[u8; 4]]) {
        // A constant number of columns saves the inner loops their counting.
        match values.len() / ROWS {
            16 => pack_columns(values, width, words, 16),
            columns => pack_columns(values, width, words, columns),
        }
    }

    /// Takes the values from their packed form.
    pub(crate) fn unpack(words: &[[u8; 4]], width: u32, values: &mut [u32]) {
        match values.len() / ROWS {
            16 => unpack_columns(words, width, values, 16),
            columns => unpack_columns(words, width, values, columns),
        }
    }
}

#[inline(always)]
fn pack_columns(values: &[u32], width: u32, words: &mut [[u8; 4]], columns: usize) {
    debug_assert!(values.len() == ROWS * columns && words.len() == width as usize * columns);
    words.fill([0; 4]);
    if columns == 0 || width == 0 {
        return;
    }
    for (row, values) in values.chunks_exact(columns).enumerate() {
        let at = row as u32 * width;
        let (first, shift) = ((at / 32) as usize * columns, at % 32);
        for (word, &value) in words[first..first + columns].iter_mut().zip(values) {
            *word = (u32::from_le_bytes(*word) | (value & ones(width)) << shift).to_le_bytes();
        }
        if shift + width > 32 {
            let next = first + columns;
            for (word, &value) in words[next..next + columns].iter_mut().zip(values) {
                *word = ((value & ones(width)) >> (32 - shift)).to_le_bytes();
            }
        }
    }
}

#[inline(always)]
fn unpack_columns(words: &[[u8; 4]], width: u32, values: &mut [u32], columns: usize) {
    debug_assert!(values.len() == ROWS * columns && words.len() == width as usize * columns);
    if columns == 0 || width == 0 {
        return values.fill(0);
    }
    for (row, values) in values.chunks_exact_mut(columns).enumerate() {
        let at = row as u32 * width;
        let (first, shift) = ((at / 32) as usize * columns, at % 32);
        let low = &words[first..first + columns];
        if shift + width > 32 {
            let high = &words[first + columns..first + 2 * columns];
            for ((value, &low), &high) in values.iter_mut().zip(low).zip(high) {
                let bits = u32::from_le_bytes(low) >> shift | u32::from_le_bytes(high) << (32 - shift);
                *value = bits & ones(width);
            }
        } else {
            for (value, &low) in values.iter_mut().zip(low) {
                *value = u32::from_le_bytes(low) >> shift & ones(width);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::at_each_level;
    use super::*;
    use alloc::{vec, vec::Vec};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_is_its_definition(columns in 0usize..20, width in 0u32..=32, seed in any::<u32>()) {
            let values: Vec<u32> = (0..32 * columns as u32).map(|i| (seed ^ i).wrapping_mul(0x9e37_79b9)).collect();
            at_each_level(|level| {
                let mut words = vec![[0xff; 4]; width as usize * columns];
                pack(&values, width, &mut words);
                for (index, &value) in values.iter().enumerate() {
                    let (row, column) = (index / columns, index % columns);
                    for bit in 0..width as usize {
                        let at = row * width as usize + bit;
                        let word = u32::from_le_bytes(words[at / 32 * columns + column]);
                        assert_eq!(word >> (at % 32) & 1, value >> bit & 1, "{level:?}");
                    }
                }
                let mut back = vec![u32::MAX; values.len()];
                unpack(&words, width, &mut back);
                assert!(back.iter().zip(&values).all(|(&got, &value)| got == value & ones(width)), "{level:?}");
            });
        }
    }
}
