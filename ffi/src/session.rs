//! What a client's and a server's handle have in common: one call at a time, the last error's text, an end after a fault.

use crate::platform;
use crate::pointer::{self, Out};
use crate::status::{Failure, safenet_state, safenet_status};
use alloc::boxed::Box;
use alloc::ffi::CString;
use core::ffi::c_char;
use safenet_core::session::{Session, Status};
use spin::Mutex;

/// A session as C holds it.
pub(crate) struct Handle<S>(Mutex<State<S>>);

struct State<S> {
    /// Taken out for the time of a call, so that a panic leaves none behind.
    session: Option<S>,
    error: CString,
}

impl<S> Handle<S> {
    pub(crate) fn new(session: S) -> Self {
        Self(Mutex::new(State { session: Some(session), error: CString::default() }))
    }

    /// Runs the body of an exported function on a session and keeps the text of its error.
    ///
    /// `handle` is none where C gave NULL.
    pub(crate) fn call(handle: Option<&Self>, body: impl FnOnce(&mut S) -> Result<(), Failure>) -> safenet_status {
        let Some(handle) = handle else { return safenet_status::SAFENET_ERROR_NULL_POINTER };
        let result = platform::guard(|| {
            // Never waits: who holds the lock may be a caller further up this very stack.
            let mut state = handle.0.try_lock().ok_or_else(|| {
                Failure::new(
                    safenet_status::SAFENET_ERROR_INVALID_STATE,
                    "expected one call on a session at a time, got one while another runs",
                )
            })?;
            let mut session = state.session.take().ok_or_else(|| {
                Failure::new(
                    safenet_status::SAFENET_ERROR_PANIC,
                    "expected a session, got one that an earlier fault in the library has ended",
                )
            })?;
            let result = body(&mut session);
            state.session = Some(session);
            result
        });
        match result {
            Ok(()) => safenet_status::SAFENET_OK,
            Err(failure) => {
                if let Some(mut state) = handle.0.try_lock() {
                    let mut text = failure.text.into_owned().into_bytes();
                    text.retain(|&byte| byte != 0);
                    state.error = CString::new(text).unwrap_or_default();
                }
                failure.status
            }
        }
    }

    /// The text of the last error, as long as the handle has no other.
    pub(crate) fn error(handle: Option<&Self>) -> *const c_char {
        match handle.map(|handle| handle.0.try_lock()) {
            Some(Some(state)) => state.error.as_ptr(),
            Some(None) => c"expected one call on a session at a time, got one while another runs".as_ptr(),
            None => c"session: expected a pointer, got NULL".as_ptr(),
        }
    }

    /// Whether no call is running.
    fn is_free(&self) -> bool {
        self.0.try_lock().is_some()
    }
}

/// Frees an object that holds a session.
///
/// # Safety
/// `object` is NULL, or came from [`Box::into_raw`] and is not used again.
pub(crate) unsafe fn free<T, S>(object: *mut T, handle: impl FnOnce(&T) -> &Handle<S>) {
    // An error here has no one to be told to.
    let _ = platform::guard(|| {
        // SAFETY: the caller's promise. From one of the session's own callbacks it is better to leak the session than to pull
        // it from under the call that runs.
        if unsafe { object.as_ref() }.is_some_and(|object| handle(object).is_free()) {
            // SAFETY: the caller's promise.
            drop(unsafe { Box::from_raw(object) });
        }
        Ok(())
    });
}

/// The buffers and results of one call that moves bytes.
pub(crate) struct Buffers {
    pub(crate) input: *const u8,
    pub(crate) input_size: usize,
    pub(crate) output: *mut u8,
    pub(crate) output_size: usize,
    pub(crate) consumed: *mut usize,
    pub(crate) produced: *mut usize,
    pub(crate) state: *mut safenet_state,
}

impl Buffers {
    /// Moves bytes and runs the session.
    ///
    /// # Safety
    /// Each pointer is NULL or valid for what its name says.
    pub(crate) unsafe fn advance(self, session: &mut impl Session) -> Result<(), Failure> {
        let consumed = Out::new(self.consumed, "consumed")?;
        let produced = Out::new(self.produced, "produced")?;
        let state = Out::new(self.state, "state")?;
        // Two slices of the same bytes may not exist at once, so this comes before they do.
        if pointer::overlap((self.input, self.input_size), (self.output.cast_const(), self.output_size)) {
            return Err(Failure::new(
                safenet_status::SAFENET_ERROR_INVALID_ARGUMENT,
                "input and output: expected buffers that do not overlap, got two that do",
            ));
        }
        // SAFETY: the caller's promise, and they do not overlap.
        let (input, output) = unsafe {
            (
                pointer::input(self.input, self.input_size, "input")?,
                pointer::output(self.output, self.output_size, "output")?,
            )
        };
        let progress = session.advance(input, output)?;
        // SAFETY: the caller's promise.
        unsafe {
            consumed.write(progress.consumed);
            produced.write(progress.produced);
            state.write(match progress.status {
                Status::WantsInput => safenet_state::SAFENET_WANTS_INPUT,
                Status::HasOutput => safenet_state::SAFENET_HAS_OUTPUT,
                Status::Idle => safenet_state::SAFENET_IDLE,
                Status::Closed => safenet_state::SAFENET_CLOSED,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<S>(handle: &Handle<S>) -> &str {
        unsafe { core::ffi::CStr::from_ptr(Handle::error(Some(handle))) }.to_str().unwrap()
    }

    #[test]
    fn a_panic_ends_the_session_and_every_later_call_says_so() {
        let handle = Handle::new(7);
        assert_eq!(Handle::call(Some(&handle), |_| Ok(())), safenet_status::SAFENET_OK);
        let status = Handle::call(Some(&handle), |_| panic!("secret"));
        assert_eq!(status, safenet_status::SAFENET_ERROR_PANIC);
        assert!(text(&handle).contains("session.rs:"), "{}", text(&handle));
        let status = Handle::call(Some(&handle), |_| Ok(()));
        assert_eq!(status, safenet_status::SAFENET_ERROR_PANIC);
        assert!(text(&handle).contains("earlier fault"));
    }

    #[test]
    fn a_call_within_a_call_is_refused_and_leaves_the_outer_one_alone() {
        let handle = Handle::new(7);
        let status = Handle::call(Some(&handle), |_| {
            assert_eq!(Handle::call(Some(&handle), |_| Ok(())), safenet_status::SAFENET_ERROR_INVALID_STATE);
            assert!(text(&handle).contains("one call on a session at a time"));
            Ok(())
        });
        assert_eq!(status, safenet_status::SAFENET_OK);
        assert_eq!(text(&handle), "");
    }
}
