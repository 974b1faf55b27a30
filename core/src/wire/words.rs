//! Fields of many words of few bits: how the messages of activation layers are made up.
//!
//! A field of n values takes n · width bits, rounded up to whole bytes. The first 32 · C of them, C = floor(n / 32), are packed in
//! C columns ([`crate::simd::words::pack`]), so that vectors of words can be packed at once; the others follow one after
//! another, the first in the lowest bits. Filling bits are zero, and a reader refuses others.

use super::bits::packed_bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::simd::words::pack::{ROWS, pack, unpack};
use alloc::vec::Vec;

/// Appends fields to a message.
#[derive(Default)]
pub(crate) struct FieldWriter {
    bytes: Vec<u8>,
}

impl FieldWriter {
    /// An empty writer with room for `bytes` bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    /// Appends the low `width` (at most 32) bits of each value.
    pub(crate) fn put(&mut self, values: &[u32], width: u32) {
        let start = self.bytes.len();
        self.bytes.resize(start + packed_bytes(values.len(), width), 0);
        let (columns, rest) = values.split_at(values.len() / ROWS * ROWS);
        let (packed, tail) = self.bytes[start..].split_at_mut(packed_bytes(columns.len(), width));
        pack(columns, width, packed.as_chunks_mut().0);
        let (mut pending, mut filled, mut tail) = (0u64, 0, tail.iter_mut());
        for &value in rest {
            pending |= (u64::from(value) & ((1 << width) - 1)) << filled;
            filled += width;
            while filled >= 8 {
                tail.next().into_iter().for_each(|byte| *byte = pending as u8);
                (pending, filled) = (pending >> 8, filled - 8);
            }
        }
        tail.next().into_iter().for_each(|byte| *byte = pending as u8);
    }

    /// The message.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes fields from a message.
pub(crate) struct FieldReader<'a> {
    bytes: &'a [u8],
    sound: bool,
}

impl<'a> FieldReader<'a> {
    /// A reader at the start of a message.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, sound: true }
    }

    /// Takes the next values of `width` (at most 32) bits each. Past the end of the message they are zero, which
    /// [`Self::finish`] reports.
    pub(crate) fn take(&mut self, width: u32, values: &mut [u32]) {
        let Some((field, rest)) = self.bytes.split_at_checked(packed_bytes(values.len(), width)) else {
            (self.bytes, self.sound) = (&[], false);
            return values.fill(0);
        };
        self.bytes = rest;
        let (columns, rest) = values.split_at_mut(values.len() / ROWS * ROWS);
        let (packed, tail) = field.split_at(packed_bytes(columns.len(), width));
        unpack(packed.as_chunks().0, width, columns);
        let (mut pending, mut filled, mut tail) = (0u64, 0, tail.iter());
        for value in rest {
            while filled < width {
                pending |= u64::from(tail.next().copied().unwrap_or(0)) << filled;
                filled += 8;
            }
            *value = (pending & ((1 << width) - 1)) as u32;
            (pending, filled) = (pending >> width, filled - width);
        }
        self.sound &= pending == 0;
    }

    /// Checks that the whole message was taken and that all filling bits were zero.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedMessage`] otherwise.
    pub(crate) fn finish(self) -> Result<()> {
        if self.sound && self.bytes.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::MalformedMessage,
            "fields of a message: expected its whole length and zero bits after the last value of each, got others",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(fields in prop::collection::vec((0usize..150, 0u32..=32, any::<u32>()), 0..8)) {
            let value = |seed: u32, i: usize| (seed ^ i as u32).wrapping_mul(0x9e37_79b9);
            let values = |&(count, _, seed): &(usize, u32, u32)| -> Vec<u32> { (0..count).map(|i| value(seed, i)).collect() };
            let mut writer = FieldWriter::default();
            fields.iter().for_each(|field| writer.put(&values(field), field.1));
            let bytes = writer.finish();
            prop_assert_eq!(bytes.len(), fields.iter().map(|&(count, width, _)| packed_bytes(count, width)).sum::<usize>());
            let mut reader = FieldReader::new(&bytes);
            for field in &fields {
                let mut taken = vec![u32::MAX; field.0];
                reader.take(field.1, &mut taken);
                let ones = ((1u64 << field.1) - 1) as u32;
                prop_assert!(taken.iter().zip(values(field)).all(|(&got, value)| got == value & ones));
            }
            reader.finish().unwrap();
        }
    }

    #[test]
    fn a_short_a_long_and_a_dirty_message_are_refused() {
        for (bytes, sound) in
            [(&[0xff, 0x03][..], true), (&[0xff][..], false), (&[0xff, 0x03, 0][..], false), (&[0xff, 0x07][..], false)]
        {
            let mut reader = FieldReader::new(bytes);
            reader.take(5, &mut [0; 2]);
            assert_eq!(reader.finish().is_ok(), sound, "{bytes:?}");
        }
    }
}
