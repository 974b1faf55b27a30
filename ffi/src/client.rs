//! The client's session.

use crate::model::safenet_client_model;
use crate::options::{self, safenet_options};
use crate::pointer::{self, Out, SizedOut};
use crate::session::{self, Buffers, Handle};
use crate::stats::{safenet_phase, safenet_stats};
use crate::status::{Failure, safenet_state, safenet_status};
use crate::transport::{self, safenet_read, safenet_write};
use alloc::boxed::Box;
use alloc::format;
use core::ffi::{c_char, c_void};
use safenet_core::session::{BundleId, Client, ClientModel, Progress, Session, Status};
use safenet_core::{ErrorKind, Result as CoreResult};
use zeroize::Zeroizing;

/// A client's session with one server over one connection: owns the input, learns the output.
///
/// It does one operation at a time: safenet_client_prepare, _infer, _stream (or _infer_fixed, _stream_fixed) and _close each start one, and
/// safenet_client_run or repeated calls of safenet_client_advance carry it out, until the session is idle again (closed,
/// after _close). One thread at a time may use a session; a second call while one runs is refused with
/// SAFENET_ERROR_INVALID_STATE.
pub struct safenet_client {
    handle: Handle<Party>,
}

/// Names one prepared inference of one session. Never reused.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct safenet_bundle_id {
    /// The name's bytes; they hold no secret.
    pub bytes: [u8; 24],
}

struct Party {
    client: Client,
    model: ClientModel,
    /// Whether the goodbye was asked for.
    closed: bool,
}

const _: () = {
    const fn movable<T: Send>() {}
    movable::<safenet_client>();
};

impl Session for Party {
    fn advance(&mut self, input: &[u8], output: &mut [u8]) -> CoreResult<Progress> {
        let mut progress = self.client.advance(input, output)?;
        if self.closed && progress.status == Status::Idle {
            progress.status = Status::Closed;
        }
        Ok(progress)
    }

    fn input_ended(&mut self) {
        self.client.input_ended();
    }
}

impl Party {
    fn check_open(&self) -> Result<(), Failure> {
        if self.closed {
            let text = "expected an open session, got one that was closed";
            return Err(Failure::new(safenet_status::SAFENET_ERROR_INVALID_STATE, text));
        }
        Ok(())
    }

    fn infer(&mut self, bundle: Option<BundleId>, input: &[i32]) -> Result<(), Failure> {
        self.check_open()?;
        let oldest = || self.client.bundles().first().copied();
        match bundle.or_else(oldest) {
            Some(bundle) => Ok(self.client.infer(bundle, input)?),
            None => {
                // The library checks the session and the input in its own order; an id that names nothing comes last.
                match self.client.infer(BundleId::from_bytes([0; 24]), input) {
                    Err(error) if error.kind() != ErrorKind::BundleSpent => Err(error.into()),
                    _ => Err(none_left()),
                }
            }
        }
    }

    fn stream(&mut self, input: &[i32]) -> Result<(), Failure> {
        self.check_open()?;
        Ok(self.client.stream(input)?)
    }

    fn output(&self) -> Result<&[i32], Failure> {
        self.client.output().ok_or_else(|| {
            Failure::new(
                safenet_status::SAFENET_ERROR_INVALID_STATE,
                "output: expected an inference that is done, got none",
            )
        })
    }
}

fn none_left() -> Failure {
    Failure::new(
        safenet_status::SAFENET_ERROR_BUNDLE_SPENT,
        "expected a prepared inference, got none left: prepare first",
    )
}

/// Runs the body of an exported function on the session of a handle.
///
/// # Safety
/// `client` is NULL or not yet freed.
unsafe fn call(client: *const safenet_client, body: impl FnOnce(&mut Party) -> Result<(), Failure>) -> safenet_status {
    // SAFETY: the caller's promise.
    Handle::call(unsafe { client.as_ref() }.map(|client| &client.handle), body)
}

/// Makes a session for a model. Nothing is sent before safenet_client_prepare. `options` may be NULL. On success `*client`
/// is to be freed with safenet_client_free; the model may be freed before it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_new(
    model: *const safenet_client_model,
    options: *const safenet_options,
    client: *mut *mut safenet_client,
    error: *mut c_char,
    error_size: usize,
) -> safenet_status {
    let body = || {
        // SAFETY: what the header asks of callers.
        let model = unsafe { pointer::object(model, "model") }?;
        let out = Out::new(client, "client")?;
        // SAFETY: what the header asks of callers.
        let (threads, (options, seed)) = unsafe { (options::threads(options)?, options::read(options)?) };
        let public = model.model.clone().with_threads(threads);
        let party = Party { client: Client::new(&public, options, seed), model: public, closed: false };
        // SAFETY: what the header asks of callers.
        unsafe { out.write(Box::into_raw(Box::new(safenet_client { handle: Handle::new(party) }))) };
        Ok(())
    };
    // SAFETY: what the header asks of callers.
    unsafe { pointer::call(error, error_size, body) }
}

/// Starts to prepare `count` inferences: all that does not depend on their inputs. The first call also opens the session
/// (and does only that if `count` is 0). Inferences that are prepared and not used may be no more than the server's option
/// max_bundles says.
///
/// Fails with SAFENET_ERROR_INVALID_ARGUMENT if they would be more (in the first call, which cannot know yet, carrying it out
/// fails, and the session is over), with SAFENET_ERROR_INVALID_STATE while an operation runs, or with the error that ended
/// the session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_prepare(client: *mut safenet_client, count: u32) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe {
        call(client, |party| {
            party.check_open()?;
            Ok(party.client.prepare(count)?)
        })
    }
}

/// Tells how many prepared inferences are left; 0 while an operation runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_bundles(client: *const safenet_client, count: *mut usize) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe {
        call(client, |party| {
            Out::new(count, "count")?.write(party.client.bundles().len());
            Ok(())
        })
    }
}

/// Tells which prepared inference is the oldest. Asked for by this name, an inference is never done twice: a program that
/// is unsure whether it has used one may try again and gets SAFENET_ERROR_BUNDLE_SPENT.
///
/// Fails with SAFENET_ERROR_BUNDLE_SPENT if none is left.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_next_bundle(
    client: *const safenet_client,
    bundle: *mut safenet_bundle_id,
) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe {
        call(client, |party| {
            let out = Out::new(bundle, "bundle")?;
            let oldest = party.client.bundles().first().copied().ok_or_else(none_left)?;
            out.write(safenet_bundle_id { bytes: oldest.to_bytes() });
            Ok(())
        })
    }
}

/// Starts an inference on real numbers: `input` holds `input_count` values, as many as the model's `inputs`, in the order
/// that safenet_model_info states. They are rounded to the model's fraction bits, and copied. `bundle` names the prepared
/// inference to use, NULL the oldest; it is spent from this moment.
///
/// Fails with SAFENET_ERROR_BUNDLE_SPENT if it is not there and SAFENET_ERROR_INVALID_ARGUMENT if the input does not fit the
/// model (a wrong count, a value outside the model's range, a NaN): then nothing was sent or spent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_infer(
    client: *mut safenet_client,
    bundle: *const safenet_bundle_id,
    input: *const f32,
    input_count: usize,
) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe {
        call(client, |party| {
            let encoded = party.model.encode(pointer::input(input, input_count, "input")?)?;
            party.infer(bundle.as_ref().map(|id| BundleId::from_bytes(id.bytes)), &encoded)
        })
    }
}

/// As safenet_client_infer, on integers: `input` holds round(x * 2^input_fraction_bits) for each real x.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_infer_fixed(
    client: *mut safenet_client,
    bundle: *const safenet_bundle_id,
    input: *const i32,
    input_count: usize,
) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe {
        call(client, |party| {
            let input = pointer::input(input, input_count, "input")?;
            party.infer(bundle.as_ref().map(|id| BundleId::from_bytes(id.bytes)), input)
        })
    }
}

/// Starts an inference in a stream, on real numbers as for safenet_client_infer; the first operation of a session also opens it. Nothing
/// need be prepared: each layer is prepared when it is reached, in parts, used and forgotten. So it takes the least memory, and the
/// option `memory` may leave no other way; but all its time passes after the input is known, and each part takes round trips of its own.
///
/// Fails with SAFENET_ERROR_INVALID_ARGUMENT if the input does not fit the model, with SAFENET_ERROR_MEMORY if the model does not fit the
/// option `memory`: then nothing was sent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_stream(
    client: *mut safenet_client,
    input: *const f32,
    input_count: usize,
) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe {
        call(client, |party| {
            let encoded = party.model.encode(pointer::input(input, input_count, "input")?)?;
            party.stream(&encoded)
        })
    }
}

/// As safenet_client_stream, on integers: `input` holds round(x * 2^input_fraction_bits) for each real x.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_stream_fixed(
    client: *mut safenet_client,
    input: *const i32,
    input_count: usize,
) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe { call(client, |party| party.stream(pointer::input(input, input_count, "input")?)) }
}

/// Copies the output of the last inference that is done as real numbers. `output` has room for `output_count` values, at least as many as
/// the model's `outputs`; as many as that are written.
///
/// Fails with SAFENET_ERROR_INVALID_STATE if no inference is done and SAFENET_ERROR_INVALID_ARGUMENT if there is too little
/// room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_output(
    client: *const safenet_client,
    output: *mut f32,
    output_count: usize,
) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe { call(client, |party| copy(&Zeroizing::new(party.model.decode(party.output()?)), output, output_count)) }
}

/// As safenet_client_output, in integers: v stands for the real number v / 2^output_fraction_bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_output_fixed(
    client: *const safenet_client,
    output: *mut i32,
    output_count: usize,
) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe { call(client, |party| copy(party.output()?, output, output_count)) }
}

/// # Safety
/// `target` is NULL or valid for writes of `count` values.
unsafe fn copy<T: Copy>(values: &[T], target: *mut T, count: usize) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let target = unsafe { pointer::output(target, count, "output") }?;
    match target.get_mut(..values.len()) {
        Some(target) => target.copy_from_slice(values),
        None => {
            return Err(Failure::new(
                safenet_status::SAFENET_ERROR_INVALID_ARGUMENT,
                format!("output: expected room for {} values, got {count}", values.len()),
            ));
        }
    }
    Ok(())
}

/// Starts to end the session: the server is told, and what is left of prepared inferences is erased. Without it the server
/// reports an aborted session.
///
/// Fails with SAFENET_ERROR_INVALID_STATE while an operation runs, or with the error that ended the session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_close(client: *mut safenet_client) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe {
        call(client, |party| {
            party.check_open()?;
            party.client.close()?;
            party.closed = true;
            Ok(())
        })
    }
}

/// Moves bytes and works, in inflate()'s manner: takes bytes that came from the server from the front of `input`, puts bytes
/// for the server at the front of `output`, and returns when it needs more of either, or is done. `*consumed` and
/// `*produced` say how many of each, `*state` what comes next. Call again with what was not consumed in front of what came
/// since. The buffers must not overlap. It never waits; any sizes will do, larger ones save calls.
///
/// An error ends the session, and everything prepared is erased; the server learns of it first, so the error comes when
/// there is no output left. Every later call returns it again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_advance(
    client: *mut safenet_client,
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
    unsafe { call(client, |party| buffers.advance(party)) }
}

/// Tells the session that the connection has ended: no more input will come. Everything prepared is erased, and every later
/// operation fails with SAFENET_ERROR_ABORTED, or the error that ended the session before. Without effect on a session
/// that was closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_input_ended(client: *mut safenet_client) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe {
        call(client, |party| {
            party.input_ended();
            Ok(())
        })
    }
}

/// Carries out the operation that was started, over a blocking connection: calls `read` and `write` with `context` until it
/// is done. The callbacks must return (no longjmp, no exception) and not call functions of the same session.
///
/// Fails with SAFENET_ERROR_TRANSPORT if a callback does; else as safenet_client_advance. After a failure the session is
/// over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_run(
    client: *mut safenet_client,
    read: safenet_read,
    write: safenet_write,
    context: *mut c_void,
) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe { call(client, |party| transport::run(party, read, write, context)) }
}

/// Tells what the session has cost so far. Set `stats->size` to sizeof *stats first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_stats(
    client: *const safenet_client,
    stats: *mut safenet_stats,
) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe {
        call(client, |party| {
            SizedOut::new(stats)?.write(&safenet_stats::new(&party.client.meter()));
            Ok(())
        })
    }
}

/// Tells in which phase the session is, or its last operation ended. In a stream both phases of an inference alternate; a call of
/// safenet_client_advance works in the phase in which the session is before it, mostly.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_phase(
    client: *const safenet_client,
    phase: *mut safenet_phase,
) -> safenet_status {
    // SAFETY: what the header asks of callers.
    unsafe {
        call(client, |party| {
            Out::new(phase, "phase")?.write(party.client.place().phase.into());
            Ok(())
        })
    }
}

/// The text of the last error on this session: what was expected, what came. UTF-8, one line, empty if there was none, never
/// NULL. Owned by the session; valid until the next call on it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_error(client: *const safenet_client) -> *const c_char {
    // SAFETY: what the header asks of callers.
    Handle::error(unsafe { client.as_ref() }.map(|client| &client.handle))
}

/// Erases and frees a session. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_free(client: *mut safenet_client) {
    // SAFETY: what the header asks of callers.
    unsafe { session::free(client, |client| &client.handle) }
}
