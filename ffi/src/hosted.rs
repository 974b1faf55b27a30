//! What the library takes from a hosted system: a stop for panics and the system's randomness. The only module that uses
//! `std`.

extern crate std;

use crate::status::{Failure, safenet_status};
use alloc::{boxed::Box, format, string::String};
use core::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

std::thread_local! {
    /// Whether this thread is inside the library.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Where the last panic that is being stopped arose: in the thread that stops it, or in one that works for it.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Runs the body of an exported function. A panic in it becomes an error whose text names the place in the source.
///
/// The message of a panic may hold values that are secret, so it is neither kept nor printed.
pub(crate) fn guard<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    keep_panics_quiet();
    let outer = INSIDE.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(outer);
    result.unwrap_or_else(|_| {
        let place = place().take();
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
                *place() = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
            } else {
                previous(info);
            }
        }));
    });
}

fn place() -> MutexGuard<'static, Option<String>> {
    PLACE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells that the calling thread is the library's own: a panic in it is passed on to the thread that it works for.
pub(crate) fn stay_inside() {
    keep_panics_quiet();
    INSIDE.set(true);
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
    fn a_panic_in_a_thread_of_the_library_is_stopped_where_it_is_waited_for() {
        let failure = guard::<()>(|| {
            let thread = std::thread::spawn(|| {
                stay_inside();
                panic!("secret")
            });
            panic::resume_unwind(thread.join().unwrap_err())
        });
        assert!(failure.unwrap_err().text.contains("ffi/src/hosted.rs:"));
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
