//! The blocking helpers, over sockets.

use super::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

/// A pointer that a test moves to another thread, as C programs do.
struct Sent<T>(*mut T);
// SAFETY: handles may move between threads.
unsafe impl<T> Send for Sent<T> {}

impl<T> Sent<T> {
    fn get(self) -> *mut T {
        self.0
    }
}

unsafe extern "C" fn read(context: *mut c_void, buffer: *mut u8, size: usize) -> isize {
    let socket = unsafe { &mut *context.cast::<UnixStream>() };
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, size) };
    socket.read(buffer).map_or(-1, |count| count as isize)
}

unsafe extern "C" fn write(context: *mut c_void, buffer: *const u8, size: usize) -> isize {
    let socket = unsafe { &mut *context.cast::<UnixStream>() };
    // A part at a time, as sockets may.
    let buffer = unsafe { std::slice::from_raw_parts(buffer, size.min(5000)) };
    socket.write(buffer).map_or(-1, |count| count as isize)
}

fn run(client: *mut safenet_client, socket: &mut UnixStream) -> safenet_status {
    unsafe { safenet_client_run(client, Some(read), Some(write), std::ptr::from_mut(socket).cast()) }
}

#[test]
fn sessions_in_threads_share_a_model() {
    let file = tiny();
    let client_model = load_client(&file.public_bytes().unwrap());
    let server_model = load_server(&file.server_bytes().unwrap());
    let threads: Vec<_> = (0..3u8)
        .map(|i| {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            let (client, server) = (Sent(new_client(client_model)), Sent(new_server(server_model)));
            let serving = thread::spawn(move || {
                let server = server.get();
                let context = std::ptr::from_mut(&mut theirs).cast();
                let status = unsafe { safenet_server_run(server, Some(read), Some(write), context) };
                assert_eq!(status, SAFENET_OK, "{}", server_error(server));
                unsafe { safenet_server_free(server) };
            });
            let asking = thread::spawn(move || {
                let client = client.get();
                let input = image(i);
                let mut output = [0; OUTPUTS];
                unsafe {
                    assert_eq!(safenet_client_prepare(client, 1), SAFENET_OK);
                    assert_eq!(run(client, &mut ours), SAFENET_OK, "{}", client_error(client));
                    assert_eq!(safenet_client_infer_fixed(client, null(), input.as_ptr(), INPUTS), SAFENET_OK);
                    assert_eq!(run(client, &mut ours), SAFENET_OK, "{}", client_error(client));
                    assert_eq!(safenet_client_output_fixed(client, output.as_mut_ptr(), OUTPUTS), SAFENET_OK);
                    assert_eq!(safenet_client_close(client), SAFENET_OK);
                    assert_eq!(run(client, &mut ours), SAFENET_OK, "{}", client_error(client));
                    safenet_client_free(client);
                }
                assert!(close(&output, &evaluate(&tiny(), &input)), "{output:?}");
            });
            (serving, asking)
        })
        .collect();
    // Loaded models are counted: giving them back early takes nothing from the sessions.
    unsafe {
        safenet_client_model_free(client_model);
        safenet_server_model_free(server_model);
    }
    for (serving, asking) in threads {
        asking.join().unwrap();
        serving.join().unwrap();
    }
}

#[test]
fn a_peer_that_leaves_is_an_aborted_session() {
    let file = tiny();
    let (client_model, server_model) =
        (load_client(&file.public_bytes().unwrap()), load_server(&file.server_bytes().unwrap()));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let client = new_client(client_model);
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    unsafe {
        assert_eq!(safenet_client_prepare(client, 1), SAFENET_OK);
        assert_eq!(run(client, &mut ours), SAFENET_ERROR_ABORTED);
        assert_eq!(run(client, &mut ours), SAFENET_ERROR_ABORTED);
        safenet_client_free(client);
    }
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let server = new_server(server_model);
    drop(theirs);
    unsafe {
        let context = std::ptr::from_mut(&mut ours).cast();
        let status = safenet_server_run(server, Some(read), Some(write), context);
        assert_eq!(status, SAFENET_ERROR_ABORTED);
        assert!(server_error(server).contains("got its end"), "{}", server_error(server));
        safenet_server_free(server);
        safenet_client_model_free(client_model);
        safenet_server_model_free(server_model);
    }
}

unsafe extern "C" fn too_much(_: *mut c_void, _: *mut u8, size: usize) -> isize {
    size as isize + 1
}

unsafe extern "C" fn failing(_: *mut c_void, _: *const u8, _: usize) -> isize {
    -1
}

#[test]
fn callbacks_that_fail_or_lie_are_transport_errors() {
    let model = load_client(&tiny().public_bytes().unwrap());
    let client = new_client(model);
    unsafe {
        assert_eq!(safenet_client_prepare(client, 1), SAFENET_OK);
        let status = safenet_client_run(client, Some(too_much), Some(failing), null_mut());
        assert_eq!(status, SAFENET_ERROR_TRANSPORT);
        assert!(client_error(client).starts_with("write callback: expected 1 to "), "{}", client_error(client));
        safenet_client_free(client);
        let client = new_client(model);
        assert_eq!(safenet_client_prepare(client, 1), SAFENET_OK);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut ours = ours;
        let context = std::ptr::from_mut(&mut ours).cast();
        let status = safenet_client_run(client, Some(too_much), Some(write), context);
        assert_eq!(status, SAFENET_ERROR_TRANSPORT);
        assert_eq!(client_error(client), "read callback: expected 0 to 65536, got 65537");
        // The session is over.
        assert_eq!(safenet_client_prepare(client, 1), SAFENET_ERROR_ABORTED);
        safenet_client_free(client);
        safenet_client_model_free(model);
    }
}

/// What a callback finds out about the session that called it.
struct Inside {
    client: *mut safenet_client,
    status: Option<safenet_status>,
}

unsafe extern "C" fn reentrant(context: *mut c_void, _: *mut u8, _: usize) -> isize {
    let inside = unsafe { &mut *context.cast::<Inside>() };
    inside.status = Some(unsafe { safenet_client_prepare(inside.client, 1) });
    // Refused too, and the session stays whole.
    unsafe { safenet_client_free(inside.client) };
    -1
}

unsafe extern "C" fn ignoring(_: *mut c_void, _: *const u8, size: usize) -> isize {
    size as isize
}

#[test]
fn a_callback_that_uses_its_own_session_is_refused() {
    let model = load_client(&tiny().public_bytes().unwrap());
    let client = new_client(model);
    let mut inside = Inside { client, status: None };
    unsafe {
        assert_eq!(safenet_client_prepare(client, 1), SAFENET_OK);
        let status = safenet_client_run(client, Some(reentrant), Some(ignoring), (&raw mut inside).cast());
        assert_eq!(status, SAFENET_ERROR_TRANSPORT);
        assert_eq!(inside.status, Some(SAFENET_ERROR_INVALID_STATE));
        safenet_client_free(client);
        safenet_client_model_free(model);
    }
}

unsafe extern "C" fn play_back(context: *mut c_void, buffer: *mut u8, size: usize) -> isize {
    let data = unsafe { &mut *context.cast::<Vec<u8>>() };
    let count = size.min(data.len());
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), buffer, count) };
    data.drain(..count);
    count as isize
}

unsafe extern "C" fn refuse(_: *mut c_void, _: *const u8, _: usize) -> isize {
    -1
}

/// A session that fails, and whose connection is gone when it would say so, reports its own error all the same.
#[test]
fn a_sessions_own_error_is_not_hidden_by_the_transports() {
    let pair = Pair::new(64);
    let mut opening = vec![1u8, 0, 0, 0, 5, 0, 0, 0];
    opening.extend_from_slice(b"hello");
    let context = (&raw mut opening).cast();
    assert_eq!(
        unsafe { safenet_server_run(pair.server, Some(play_back), Some(refuse), context) },
        SAFENET_ERROR_MISMATCH
    );
    assert!(server_error(pair.server).contains("expected a SAFENet client"), "{}", server_error(pair.server));
}
