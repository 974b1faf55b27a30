//! What is told of a fault where panics cannot be stopped: a text, built where nothing can be allocated.

use core::ffi::CStr;
use core::fmt::{self, Arguments, Write};
use core::panic::PanicInfo;

/// A text that ends with a NUL. What does not fit is left out.
pub(crate) struct Text {
    bytes: [u8; 160],
    length: usize,
}

impl Text {
    pub(crate) fn new(text: Arguments<'_>) -> Self {
        let mut new = Self { bytes: [0; 160], length: 0 };
        // Writing to it cannot fail.
        let _ = new.write_fmt(text);
        new
    }

    /// The message of a panic may hold values that are secret: its place is told, not the message; on bare metal, where texts are
    /// too large, with the feature `fault-place` alone.
    pub(crate) fn of_fault(info: &PanicInfo<'_>) -> Self {
        let told = cfg!(any(feature = "fault-place", target_family = "wasm"));
        match info.location().filter(|_| told) {
            Some(at) => {
                Self::new(format_args!("fault in the library at {}:{}: please report it", at.file(), at.line()))
            }
            None => Self::new(format_args!("fault in the library: please report it")),
        }
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - 1 - self.length;
        let part = &text.as_bytes()[..text.len().min(room)];
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len();
        Ok(())
    }
}
