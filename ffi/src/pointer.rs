//! The rules for pointers from C, in one place: (NULL, 0) is an empty buffer, NULL elsewhere is an error; outputs are
//! written only on success; a struct that may grow says its size.

use crate::status::{Failure, safenet_status};
use alloc::format;
use core::ffi::c_char;
use core::mem::{MaybeUninit, size_of};

/// A struct longer than this is taken for one whose size was never set.
const STRUCT_LIMIT: usize = 4096;

fn null(name: &str) -> Failure {
    Failure::new(safenet_status::SAFENET_ERROR_NULL_POINTER, format!("{name}: expected a pointer, got NULL"))
}

fn invalid(text: alloc::string::String) -> Failure {
    Failure::new(safenet_status::SAFENET_ERROR_INVALID_ARGUMENT, text)
}

/// A handle or another object that the caller lends.
///
/// # Safety
/// `pointer` is NULL or valid for reads while the result lives.
pub(crate) unsafe fn object<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, Failure> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(name))
}

fn checked_len<T>(pointer: *const T, len: usize, name: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(null(name));
    }
    if !pointer.is_aligned() {
        return Err(invalid(format!(
            "{name}: expected a pointer aligned to {} bytes, got one that is not",
            align_of::<T>()
        )));
    }
    match len.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(invalid(format!("{name}: expected a length that memory can hold, got {len}"))),
    }
}

/// An input buffer.
///
/// # Safety
/// `pointer` is valid for reads of `len` values while the result lives, or NULL.
pub(crate) unsafe fn input<'a, T>(pointer: *const T, len: usize, name: &str) -> Result<&'a [T], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    checked_len(pointer, len, name)?;
    // SAFETY: not NULL, of a possible length; the rest is the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts(pointer, len) })
}

/// An output buffer.
///
/// # Safety
/// `pointer` is valid for writes of `len` values that nothing else touches while the result lives, or NULL.
pub(crate) unsafe fn output<'a, T>(pointer: *mut T, len: usize, name: &str) -> Result<&'a mut [T], Failure> {
    if len == 0 {
        return Ok(&mut []);
    }
    checked_len(pointer, len, name)?;
    // SAFETY: not NULL, of a possible length; the rest is the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts_mut(pointer, len) })
}

/// Whether two buffers, each a start and a length, share a byte.
pub(crate) fn overlap(a: (*const u8, usize), b: (*const u8, usize)) -> bool {
    let end = |(start, len): (*const u8, usize)| start.addr().saturating_add(len);
    a.1 > 0 && b.1 > 0 && a.0.addr() < end(b) && b.0.addr() < end(a)
}

/// A place for a result, checked before the work and written after it.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    pub(crate) fn new(pointer: *mut T, name: &str) -> Result<Self, Failure> {
        if pointer.is_null() { Err(null(name)) } else { Ok(Self(pointer)) }
    }

    /// # Safety
    /// The pointer is valid for a write.
    pub(crate) unsafe fn write(self, value: T) {
        // SAFETY: not NULL; the rest is the caller's promise.
        unsafe { self.0.write(value) }
    }
}

/// A `#[repr(C)]` struct whose first field is its size in bytes, as the program that passes it knows it.
///
/// # Safety
/// The type is `repr(C)`, begins with a `usize`, and all zero bytes are a value of it.
pub(crate) unsafe trait Growing: Copy {
    /// What C calls it.
    const NAME: &'static str;
    /// Size of the first version of the struct.
    const FIRST: usize;
}

fn checked_size<T: Growing>(size: usize) -> Result<usize, Failure> {
    if (T::FIRST..=STRUCT_LIMIT).contains(&size) {
        return Ok(size);
    }
    Err(invalid(format!(
        "{}: expected its field `size` set to the struct's size, {}, got {size}",
        T::NAME,
        size_of::<T>()
    )))
}

/// Reads a struct of this or another version of the interface. Fields that the program does not know are zero; fields that
/// the library does not know must be.
///
/// # Safety
/// `pointer` is NULL or valid for reads of its first field, and of as many bytes as that says.
pub(crate) unsafe fn read_sized<T: Growing>(pointer: *const T) -> Result<T, Failure> {
    if pointer.is_null() {
        return Err(null(T::NAME));
    }
    // SAFETY: the first field is a usize.
    let size = checked_size::<T>(unsafe { pointer.cast::<usize>().read() })?;
    // SAFETY: the struct has that many bytes.
    let bytes = unsafe { core::slice::from_raw_parts(pointer.cast::<MaybeUninit<u8>>(), size) };
    let known = size.min(size_of::<T>());
    // SAFETY: fields beyond those that the library knows are set by a program that set the size; padding is not part of them.
    if bytes[known..].iter().any(|byte| unsafe { byte.assume_init_read() } != 0) {
        return Err(invalid(format!("{}: expected 0 in fields newer than this library, got another value", T::NAME)));
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: both have `known` bytes and do not overlap; zero bytes are a value, and so are the program's own fields.
    unsafe {
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast(), known);
        Ok(value.assume_init())
    }
}

/// Where to write a struct of this or another version of the interface.
pub(crate) struct SizedOut<T> {
    pointer: *mut T,
    size: usize,
}

impl<T: Growing> SizedOut<T> {
    /// # Safety
    /// `pointer` is NULL or valid for a read of its first field.
    pub(crate) unsafe fn new(pointer: *mut T) -> Result<Self, Failure> {
        if pointer.is_null() {
            return Err(null(T::NAME));
        }
        // SAFETY: the first field is a usize.
        Ok(Self { pointer, size: checked_size::<T>(unsafe { pointer.cast::<usize>().read() })? })
    }

    /// Writes all fields but the size; fields that the library does not know become zero.
    ///
    /// # Safety
    /// The pointer is valid for writes of as many bytes as its first field says.
    pub(crate) unsafe fn write(self, value: &T) {
        let head = size_of::<usize>();
        let known = self.size.min(size_of::<T>());
        let target = self.pointer.cast::<u8>();
        // SAFETY: both have `known` bytes, the target `size`; the value is the library's own.
        unsafe {
            let source = core::ptr::from_ref(value).cast::<u8>();
            core::ptr::copy_nonoverlapping(source.add(head), target.add(head), known - head);
            target.add(known).write_bytes(0, self.size - known);
        }
    }
}

/// Runs the body of an exported function that has no session to keep its error text: the text goes to the caller's buffer.
///
/// # Safety
/// `error` is valid for writes of `error_size` bytes, or NULL.
pub(crate) unsafe fn call(
    error: *mut c_char,
    error_size: usize,
    body: impl FnOnce() -> Result<(), Failure>,
) -> safenet_status {
    let checked = || {
        // SAFETY: the caller's promise; the borrow ends here.
        unsafe { output(error, error_size, "error") }?;
        body()
    };
    // SAFETY: the caller's promise.
    unsafe { report(error, error_size, crate::platform::guard(checked)) }
}

/// The status of a result, after its text, if it has one, has gone to the caller's buffer.
///
/// # Safety
/// `error` is valid for writes of `error_size` bytes, or NULL.
pub(crate) unsafe fn report(error: *mut c_char, error_size: usize, result: Result<(), Failure>) -> safenet_status {
    match result {
        Ok(()) => safenet_status::SAFENET_OK,
        Err(failure) => {
            // SAFETY: the caller's promise.
            if let Ok(buffer @ [_, ..]) = unsafe { output(error.cast::<u8>(), error_size, "error") } {
                write_text(buffer, &failure.text);
            }
            failure.status
        }
    }
}

/// Writes a text that ends with a NUL, cut where it does not fit, between characters.
fn write_text(buffer: &mut [u8], text: &str) {
    let most = text.len().min(buffer.len() - 1);
    let end = (0..=most).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    for (to, &from) in buffer.iter_mut().zip(&text.as_bytes()[..end]) {
        // A NUL would end the text early.
        *to = if from == 0 { b' ' } else { from };
    }
    buffer[end] = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Newer {
        size: usize,
        a: u32,
        b: u32,
        c: u64,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Known {
        size: usize,
        a: u32,
        b: u32,
    }

    // SAFETY: integers, the first a usize.
    unsafe impl Growing for Known {
        const NAME: &'static str = "known";
        const FIRST: usize = 12;
    }

    #[test]
    fn structs_of_older_and_newer_programs_are_read() {
        let newer = |size, c| Newer { size, a: 1, b: 2, c };
        let read = |value: &Newer| unsafe { read_sized(core::ptr::from_ref(value).cast::<Known>()) };
        assert_eq!(read(&newer(16, 9)).unwrap(), Known { size: 16, a: 1, b: 2 });
        assert_eq!(read(&newer(12, 9)).unwrap(), Known { size: 12, a: 1, b: 0 });
        assert_eq!(read(&newer(24, 0)).unwrap(), Known { size: 24, a: 1, b: 2 });
        assert!(read(&newer(24, 1)).unwrap_err().text.contains("newer"));
        for size in [0, 11, 4097, usize::MAX] {
            assert!(read(&newer(size, 0)).unwrap_err().text.contains("field `size`"));
        }
    }

    #[test]
    fn structs_of_older_and_newer_programs_are_written_as_far_as_they_go() {
        let value = Known { size: 0, a: 1, b: 2 };
        let write = |size| {
            let mut target = Newer { size, a: 7, b: 7, c: 7 };
            unsafe {
                let out = SizedOut::new((&raw mut target).cast::<Known>()).unwrap();
                out.write(&value);
            }
            (target.size, target.a, target.b, target.c)
        };
        assert_eq!(write(12), (12, 1, 7, 7));
        assert_eq!(write(16), (16, 1, 2, 7));
        assert_eq!(write(24), (24, 1, 2, 0));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let mut buffer = [9; 5];
        write_text(&mut buffer, "abä\0x");
        assert_eq!(buffer, *b"ab\xc3\xa4\0");
        write_text(&mut buffer, "abcä");
        assert_eq!(buffer, *b"abc\0\0");
        write_text(&mut buffer[..1], "abc");
        assert_eq!(buffer[0], 0);
        write_text(&mut buffer, "a\0c");
        assert_eq!(&buffer[..4], b"a c\0");
    }

    #[test]
    fn lengths_that_memory_cannot_hold_are_refused() {
        let value = 0u32;
        let failure = unsafe { input(&raw const value, usize::MAX / 2, "x") }.unwrap_err();
        assert_eq!(failure.status, safenet_status::SAFENET_ERROR_INVALID_ARGUMENT);
    }
}
