//! What the library takes from a hosted system: a stop for panics and the system's randomness. The only module that uses
//! `std`.

extern crate std;

use crate::status::{Failure, safenet_status};
use alloc::{boxed::Box, format, string::String};
use core::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

std::thread_local! {
    /// Whether this thread is inside the library.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Where the panic that is being stopped arose.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs the body of an exported function. A panic in it becomes an error whose text names the place in the source.
///
/// The message of a panic may hold values that are secret, so it is neither kept nor printed.
pub(crate) fn guard<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    keep_panics_quiet();
    let outer = INSIDE.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(outer);
    result.unwrap_or_else(|_| {
        let place = PLACE.try_with(Cell::take).ok().flatten();
        let place = place.as_deref().unwrap_or("an unknown place");
        Err(Failure::new(
            safenet_status::SAFENET_ERROR_PANIC,
            format!("fault in the library at {place}: please report it"),
        ))
    })
}

/// The library prints nothing: while a thread is inside it, a panic is recorded instead of printed.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if INSIDE.get() {
                let place = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
                // A thread that is being torn down has no place left to note it.
                let _ = PLACE.try_with(|slot| slot.set(place));
            } else {
                previous(info);
            }
        }));
    });
}

/// Fills a buffer from the operating system's generator.
pub(crate) fn system_random(out: &mut [u8]) -> Result<(), Failure> {
    getrandom::fill(out).map_err(|error| {
        Failure::new(
            safenet_status::SAFENET_ERROR_RANDOMNESS,
            format!("the system's source of randomness: expected {} bytes, it failed: {error}", out.len()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_names_its_place_and_not_its_message() {
        let failure = guard::<()>(|| panic!("secret {}", 42)).unwrap_err();
        assert_eq!(failure.status, safenet_status::SAFENET_ERROR_PANIC);
        assert!(failure.text.contains("ffi/src/hosted.rs:"), "{}", failure.text);
        assert!(!failure.text.contains("secret"), "{}", failure.text);
    }

    #[test]
    fn guards_nest() {
        let outer = guard(|| {
            assert!(guard::<()>(|| panic!()).is_err());
            assert!(INSIDE.get());
            Ok(7)
        });
        assert_eq!(outer.unwrap(), 7);
        assert!(!INSIDE.get());
    }
}
