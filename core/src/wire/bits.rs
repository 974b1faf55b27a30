//! Bit-packed words: how masked values, choice bits and ciphertext coefficients lie on the wire.
//!
//! Little-endian: the first value takes the lowest bits of the first byte. The last byte is filled up with zero bits,
//! and a reader refuses anything else there, so that every message has exactly one encoding.

use crate::error::{Error, ErrorKind, Result};
use alloc::vec::Vec;

/// Bytes that `count` values of `width` bits take.
pub const fn packed_bytes(count: usize, width: u32) -> usize {
    (count * width as usize).div_ceil(8)
}

/// Appends values of 0 to 64 bits each to a byte buffer.
#[derive(Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    /// Bits not yet in `bytes`: fewer than 8 between calls.
    pending: u128,
    filled: u32,
}

impl BitWriter {
    /// An empty writer with room for `bytes` bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), pending: 0, filled: 0 }
    }

    /// Appends the low `width` bits of `value`; higher bits must be zero. `width` is at most 64.
    #[inline]
    pub fn put(&mut self, value: u64, width: u32) {
        debug_assert!(width == 64 || value >> width == 0);
        // filled < 8 and width <= 64, so at most 71 bits are pending.
        self.pending |= u128::from(value) << self.filled;
        self.filled += width;
        let whole = (self.filled / 8) as usize;
        self.bytes.extend_from_slice(&self.pending.to_le_bytes()[..whole]);
        self.pending >>= 8 * whole;
        self.filled &= 7;
    }

    /// Appends the low `width` (at most 64) bits of each value; higher bits must be zero.
    pub fn put_all<T: Copy + Into<u64>>(&mut self, values: &[T], width: u32) {
        // From here on in words of 64 bits.
        let (mut word, mut filled) = (self.pending as u64, self.filled);
        // Not a byte more, or a buffer made as long as the message would grow.
        self.bytes.reserve((filled as usize + values.len() * width as usize) / 8);
        for &value in values {
            let value = value.into();
            debug_assert!(width == 64 || value >> width == 0);
            word |= value << filled;
            filled += width;
            if filled >= 64 {
                self.bytes.extend_from_slice(&word.to_le_bytes());
                filled -= 64;
                // What did not fit; all of it if nothing did.
                word = value.checked_shr(width - filled).unwrap_or(0);
            }
        }
        let whole = (filled / 8) as usize;
        self.bytes.extend_from_slice(&word.to_le_bytes()[..whole]);
        (self.pending, self.filled) = (u128::from(word >> (8 * whole)), filled % 8);
    }

    /// Fills the last byte up with zero bits and returns the buffer.
    pub fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}

/// Takes values of 0 to 64 bits each from a byte buffer.
pub struct BitReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> BitReader<'a> {
    /// A reader at the first bit of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Takes the next `width` (at most 64) bits; bits past the end of the buffer read as zero, and [`Self::finish`] reports them.
    #[inline]
    pub fn take(&mut self, width: u32) -> u64 {
        let byte = (self.position / 8).min(self.bytes.len());
        let shift = self.position % 8;
        let mut window = [0u8; 16];
        let available = (self.bytes.len() - byte).min(16);
        window[..available].copy_from_slice(&self.bytes[byte..byte + available]);
        self.position += width as usize;
        let bits = (u128::from_le_bytes(window) >> shift) as u64;
        if width == 64 { bits } else { bits & ((1 << width) - 1) }
    }

    /// Takes the next values of `width` (at most 64) bits each; past the end of the buffer as [`Self::take`].
    pub fn take_all<T>(&mut self, width: u32, values: &mut [T], from: impl Fn(u64) -> T) {
        let mask = u64::MAX.checked_shr(64 - width).unwrap_or(0);
        // A value begins in some byte and ends within the nine from there on.
        let reach = |position: usize| position.div_ceil(8).saturating_add(9) <= self.bytes.len();
        let mut whole = values.len();
        while whole > 0 && !reach(self.position + (whole - 1) * width as usize) {
            whole -= 1;
        }
        let (sure, rest) = values.split_at_mut(whole);
        let start = self.position;
        for (i, value) in sure.iter_mut().enumerate() {
            let at = start + i * width as usize;
            let window = &self.bytes[at / 8..at / 8 + 9];
            let (low, high) = (window.first_chunk().copied().map_or(0, u64::from_le_bytes), u64::from(window[8]));
            let shift = at % 8;
            *value = from((low >> shift | high << 1 << (63 - shift)) & mask);
        }
        self.position += whole * width as usize;
        rest.iter_mut().for_each(|value| *value = from(self.take(width)));
    }

    /// Checks that exactly the whole buffer was taken and that the filling bits are zero.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedMessage`] otherwise.
    pub fn finish(mut self) -> Result<()> {
        let expected = self.position.div_ceil(8);
        if expected != self.bytes.len() {
            return Err(Error::new(
                ErrorKind::MalformedMessage,
                alloc::format!("packed values: expected {expected} bytes, got {}", self.bytes.len()),
            ));
        }
        let filling = (8 - self.position % 8) % 8;
        match self.take(filling as u32) {
            0 => Ok(()),
            _ => Err(Error::new(
                ErrorKind::MalformedMessage,
                "packed values: expected zero bits after the last value, got others",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(values in prop::collection::vec((any::<u64>(), 0u32..=64), 0..200)) {
            let cut = |v: u64, w: u32| if w == 64 { v } else { v & ((1 << w) - 1) };
            let mut writer = BitWriter::default();
            for &(v, w) in &values {
                writer.put(cut(v, w), w);
            }
            let bytes = writer.finish();
            let bits: usize = values.iter().map(|&(_, w)| w as usize).sum();
            prop_assert_eq!(bytes.len(), bits.div_ceil(8));
            let mut reader = BitReader::new(&bytes);
            for &(v, w) in &values {
                prop_assert_eq!(reader.take(w), cut(v, w));
            }
            reader.finish().unwrap();
        }
    }

    proptest! {
        #[test]
        fn many_values_are_packed_as_one_by_one(
            values in prop::collection::vec(any::<u64>(), 0..200), width in 0u32..=64, before in 0u32..20,
        ) {
            let values: Vec<u64> = values.iter().map(|&v| v & u64::MAX.checked_shr(64 - width).unwrap_or(0)).collect();
            let (mut one_by_one, mut all) = (BitWriter::default(), BitWriter::default());
            one_by_one.put(0, before);
            all.put(0, before);
            values.iter().for_each(|&v| one_by_one.put(v, width));
            all.put_all(&values, width);
            one_by_one.put(5, 3);
            all.put(5, 3);
            let bytes = one_by_one.finish();
            prop_assert_eq!(&all.finish(), &bytes);
            let (mut reader, mut taken) = (BitReader::new(&bytes), vec![7; values.len()]);
            reader.take(before);
            reader.take_all(width, &mut taken, |value| value);
            prop_assert_eq!(taken, values);
            prop_assert_eq!(reader.take(3), 5);
            reader.finish().unwrap();
        }
    }

    #[test]
    fn a_short_a_long_and_a_dirty_buffer_are_refused() {
        for (bytes, ok) in
            [(&[0xff, 0x03][..], true), (&[0xff][..], false), (&[0xff, 0x03, 0][..], false), (&[0xff, 0x07][..], false)]
        {
            let mut reader = BitReader::new(bytes);
            reader.take(10);
            assert_eq!(reader.finish().is_ok(), ok, "{bytes:?}");
        }
    }
}
