//! The server's session.

use crate::model::safenet_server_model;
use crate::options::{self, safenet_options};
use crate::pointer::{self, Out, SizedOut};
use crate::session::{self, Buffers, Handle};
use crate::stats::safenet_stats;
use crate::status::{Failure, safenet_state, safenet_status};
use crate::transport::{self, safenet_read, safenet_write};
use alloc::boxed::Box;
use core::ffi::{c_char, c_void};
use safenet_core::session::{Server, Session};

/// A server's session with one client over one connection: owns the weights, learns nothing.
///
/// It does what the client asks until the client closes it. One thread at a time may use a session; a second call while one
/// runs is refused with SAFENET_ERROR_INVALID_STATE.
pub struct safenet_server {
    handle: Handle<Server>,
}

const _: () = {
    const fn movable<T: Send>() {}
    movable::<safenet_server>();
};

/// Runs the body of an exported function on the session of a handle.
///
/// # Safety
/// `server` is NULL or not yet freed.
unsafe fn call(server: *const safenet_server, body: impl FnOnce(&mut Server) -> Result<(), Failure>) -> safenet_status {
    // SAFETY: the caller's promise.
    Handle::call(unsafe { server.as_ref() }.map(|server| &server.handle), body)
}

/// Makes a session for a model: one for each connection. `options` may be NULL. On success `*server` is to be freed with
/// safenet_server_free; the model may be freed before it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_server_new(
    model: *const safenet_server_model,
    options: *const safenet_options,
    server: *mut *mut safenet_server,
    error: *mut c_char,
    error_size: usize,
) -> safenet_status {
    let body = || {
        // SAFETY: what the header asks of callers.
        let model = unsafe { pointer::object(model, "model") }?;
        let out = Out::new(server, "server")?;
        // SAFETY: what the header asks of callers.
        let (options, seed) = unsafe { options::read(options) }?;
        let session = Server::new(&model.model, options, seed);
        // SAFETY: what the header asks of callers.
        unsafe { out.write(Box::into_raw(Box::new(safenet_server { handle: Handle::new(session) }))) };
        Ok(())
    };
    // SAFETY: what the header asks of callers.
    unsafe { pointer::call(error, error_size, body) }
}

/// Moves bytes and works, in inflate()'s manner: takes bytes that came from the client from the front of `input`, puts bytes
/// for the client at the front of `output`, and returns when it needs more of either, or is done. `*consumed` and
/// `*produced` say how many of each, `*state` what comes next. Call again with what was not consumed in front of what came
/// since. The buffers must not overlap. It never waits; any sizes will do, larger ones save calls.
///
/// An error ends the session, and everything prepared is erased; the client learns of it first, so the error comes when
/// there is no output left. Every later call returns it again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_server_advance(
    server: *mut safenet_server,
    input: *const u8,
    input_size: usize,
    output: *mut u8,
    output_size: usize,
    consumed: *mut usize,
    produced: *mut usize,
    state: *mut safenet_state,
) -> safenet_status {
    let buffers = Buffers { input, input_size, output, output_size, consumed, produced, state };
    // SAFETY: what the header asks of callers.
    unsafe { call(server, |session| buffers.advance(session)) }
}

/// Tells the session that the connection has ended: no more input will come. Everything prepared is erased, and
/// later calls fail with SAFENET_ERROR_ABORTED, or the error that ended the session before. Without effect on a session that
/// is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_server_input_ended(server: *mut safenet_server) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe {
        call(server, |session| {
            session.input_ended();
            Ok(())
        })
    }
}

/// Serves the session to its end over a blocking connection: calls `read` and `write` with `context` until the client has
/// closed it. The callbacks must return (no longjmp, no exception) and not call functions of the same session.
///
/// Fails with SAFENET_ERROR_TRANSPORT if a callback does and SAFENET_ERROR_ABORTED if the connection ends before the client
/// has closed the session; else as safenet_server_advance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_server_run(
    server: *mut safenet_server,
    read: safenet_read,
    write: safenet_write,
    context: *mut c_void,
) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe { call(server, |session| transport::run(session, read, write, context)) }
}

/// Tells what the session has cost so far. Set `stats->size` to sizeof *stats first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_server_stats(
    server: *const safenet_server,
    stats: *mut safenet_stats,
) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe {
        call(server, |session| {
            SizedOut::new(stats)?.write(&safenet_stats::new(&session.meter()));
            Ok(())
        })
    }
}

/// The text of the last error on this session: what was expected, what came. UTF-8, one line, empty if there was none, never
/// NULL. Owned by the session; valid until the next call on it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_server_error(server: *const safenet_server) -> *const c_char {
    // SAFETY: what the header asks of callers.
    Handle::error(unsafe { server.as_ref() }.map(|server| &server.handle))
}

/// Erases and frees a session. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_server_free(server: *mut safenet_server) {
    // SAFETY: what the header asks of callers.
    unsafe { session::free(server, |server| &server.handle) }
}
