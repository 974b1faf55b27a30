//! The C interface called as C programs call it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "api/blocking.rs"]
mod blocking;
mod common;

use common::{INPUTS, OUTPUTS, close, evaluate, image, tiny};
use safenet::client::*;
use safenet::model::*;
use safenet::options::*;
use safenet::server::*;
use safenet::stats::*;
use safenet::status::safenet_state::*;
use safenet::status::safenet_status::{self, *};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::zeroed;
use std::ptr::{null, null_mut};

/// A buffer for an error text.
struct Text([c_char; 512]);

impl Text {
    fn new() -> Self {
        Self([0; 512])
    }

    fn raw(&mut self) -> *mut c_char {
        self.0.as_mut_ptr()
    }

    fn get(&self) -> &str {
        unsafe { CStr::from_ptr(self.0.as_ptr()) }.to_str().unwrap()
    }
}

fn load_client(bytes: &[u8]) -> *mut safenet_client_model {
    let (mut model, mut text) = (null_mut(), Text::new());
    let status = unsafe { safenet_client_model_load(bytes.as_ptr(), bytes.len(), &mut model, text.raw(), 512) };
    assert_eq!(status, SAFENET_OK, "{}", text.get());
    model
}

fn load_server(bytes: &[u8]) -> *mut safenet_server_model {
    let (mut model, mut text) = (null_mut(), Text::new());
    let status = unsafe { safenet_server_model_load(bytes.as_ptr(), bytes.len(), null(), &mut model, text.raw(), 512) };
    assert_eq!(status, SAFENET_OK, "{}", text.get());
    model
}

fn new_client(model: *const safenet_client_model) -> *mut safenet_client {
    new_client_with(model, null())
}

fn new_client_with(model: *const safenet_client_model, options: *const safenet_options) -> *mut safenet_client {
    let mut client = null_mut();
    assert_eq!(unsafe { safenet_client_new(model, options, &mut client, null_mut(), 0) }, SAFENET_OK);
    client
}

fn new_server(model: *const safenet_server_model) -> *mut safenet_server {
    let mut server = null_mut();
    assert_eq!(unsafe { safenet_server_new(model, null(), &mut server, null_mut(), 0) }, SAFENET_OK);
    server
}

fn client_error(client: *const safenet_client) -> String {
    unsafe { CStr::from_ptr(safenet_client_error(client)) }.to_str().unwrap().to_owned()
}

fn server_error(server: *const safenet_server) -> String {
    unsafe { CStr::from_ptr(safenet_server_error(server)) }.to_str().unwrap().to_owned()
}

fn stats(read: impl FnOnce(*mut safenet_stats) -> safenet_status) -> safenet_stats {
    let mut stats = safenet_stats { size: size_of::<safenet_stats>(), ..Default::default() };
    assert_eq!(read(&mut stats), SAFENET_OK);
    stats
}

/// A client and a server in one thread, with the bytes under way between them.
struct Pair {
    client: *mut safenet_client,
    server: *mut safenet_server,
    up: Vec<u8>,
    down: Vec<u8>,
    /// Most bytes moved by one call.
    chunk: usize,
}

type Advance<S> = unsafe extern "C" fn(
    *mut S,
    *const u8,
    usize,
    *mut u8,
    usize,
    *mut usize,
    *mut usize,
    *mut safenet::status::safenet_state,
) -> safenet_status;

fn turn<S>(
    advance: Advance<S>,
    session: *mut S,
    input: &mut Vec<u8>,
    output: &mut Vec<u8>,
    chunk: usize,
) -> Result<safenet::status::safenet_state, safenet_status> {
    let mut buffer = vec![0; chunk];
    let (mut consumed, mut produced, mut state) = (usize::MAX, usize::MAX, SAFENET_CLOSED);
    let status = unsafe {
        advance(
            session,
            input.as_ptr(),
            input.len().min(chunk),
            buffer.as_mut_ptr(),
            chunk,
            &mut consumed,
            &mut produced,
            &mut state,
        )
    };
    if status != SAFENET_OK {
        assert_eq!((consumed, produced, state), (usize::MAX, usize::MAX, SAFENET_CLOSED), "outputs of a failed call");
        return Err(status);
    }
    input.drain(..consumed);
    output.extend_from_slice(&buffer[..produced]);
    Ok(state)
}

impl Pair {
    fn new(chunk: usize) -> Self {
        Self::with(chunk, null())
    }

    /// With a client's options.
    fn with(chunk: usize, options: *const safenet_options) -> Self {
        let file = tiny();
        let client_model = load_client(&file.public_bytes().unwrap());
        let server_model = load_server(&file.server_bytes().unwrap());
        let pair = Self {
            client: new_client_with(client_model, options),
            server: new_server(server_model),
            up: vec![],
            down: vec![],
            chunk,
        };
        // The sessions live on without their callers' handles of the models.
        unsafe {
            safenet_client_model_free(client_model);
            safenet_server_model_free(server_model);
        }
        pair
    }

    /// Runs until the client's operation is done and the server has its last bytes.
    fn run(&mut self) -> Result<safenet::status::safenet_state, safenet_status> {
        loop {
            let state = turn(safenet_client_advance, self.client, &mut self.down, &mut self.up, self.chunk)?;
            let server = turn(safenet_server_advance, self.server, &mut self.up, &mut self.down, self.chunk)?;
            let done = matches!(state, SAFENET_IDLE | SAFENET_CLOSED) && self.up.is_empty();
            if done && server != SAFENET_HAS_OUTPUT {
                assert_eq!(server, if state == SAFENET_CLOSED { SAFENET_CLOSED } else { SAFENET_WANTS_INPUT });
                return Ok(state);
            }
        }
    }

    fn prepare(&mut self, count: u32) {
        assert_eq!(unsafe { safenet_client_prepare(self.client, count) }, SAFENET_OK, "{}", client_error(self.client));
        assert_eq!(self.run(), Ok(SAFENET_IDLE));
    }

    fn bundles(&self) -> usize {
        let mut count = 0;
        assert_eq!(unsafe { safenet_client_bundles(self.client, &mut count) }, SAFENET_OK);
        count
    }

    fn next_bundle(&self) -> safenet_bundle_id {
        let mut id = safenet_bundle_id { bytes: [0; 24] };
        assert_eq!(unsafe { safenet_client_next_bundle(self.client, &mut id) }, SAFENET_OK);
        id
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        unsafe {
            safenet_client_free(self.client);
            safenet_server_free(self.server);
        }
    }
}

#[test]
fn inferences_in_fixed_point_and_in_floats_are_right_whatever_the_buffers_sizes() {
    for chunk in [1 << 20, 4096, 61] {
        let mut pair = Pair::new(chunk);
        pair.prepare(2);
        assert_eq!(pair.bundles(), 2);
        let input = image(1);
        let exact = evaluate(&tiny(), &input);

        assert_eq!(unsafe { safenet_client_infer_fixed(pair.client, null(), input.as_ptr(), INPUTS) }, SAFENET_OK);
        assert_eq!(pair.run(), Ok(SAFENET_IDLE));
        let mut output = [i32::MIN; OUTPUTS];
        assert_eq!(unsafe { safenet_client_output_fixed(pair.client, output.as_mut_ptr(), OUTPUTS) }, SAFENET_OK);
        assert!(close(&output, &exact), "{output:?} {exact:?}");

        let floats: Vec<f32> = input.iter().map(|&v| v as f32 / 256.0).collect();
        let id = pair.next_bundle();
        assert_eq!(unsafe { safenet_client_infer(pair.client, &id, floats.as_ptr(), INPUTS) }, SAFENET_OK);
        assert_eq!(pair.run(), Ok(SAFENET_IDLE));
        let mut scores = [f32::NAN; OUTPUTS];
        assert_eq!(unsafe { safenet_client_output(pair.client, scores.as_mut_ptr(), OUTPUTS) }, SAFENET_OK);
        let output = scores.map(|s| (s * 256.0) as i32);
        assert!(close(&output, &exact), "{output:?} {exact:?}");
        assert_eq!(pair.bundles(), 0);

        let client = stats(|s| unsafe { safenet_client_stats(pair.client, s) });
        let server = stats(|s| unsafe { safenet_server_stats(pair.server, s) });
        assert_eq!((client.inferences, server.inferences), (2, 2));
        let total = |s: &safenet_stats| {
            [s.setup, s.prepare, s.infer].iter().fold((0, 0), |t, p| (t.0 + p.sent, t.1 + p.received))
        };
        let (sent, received) = total(&client);
        assert_eq!(total(&server), (received, sent));
        assert!(client.infer.sent > 0 && client.infer.rounds > 0 && client.prepare.received > 0);

        assert_eq!(unsafe { safenet_client_close(pair.client) }, SAFENET_OK);
        assert_eq!(pair.run(), Ok(SAFENET_CLOSED));
        assert_eq!(unsafe { safenet_client_prepare(pair.client, 1) }, SAFENET_ERROR_INVALID_STATE);
        assert_eq!(client_error(pair.client), "expected an open session, got one that was closed");
        assert_eq!(
            unsafe { safenet_client_infer(pair.client, null(), floats.as_ptr(), INPUTS) },
            SAFENET_ERROR_INVALID_STATE
        );
    }
}

#[test]
fn a_spent_bundle_is_refused_by_name_and_nothing_is_sent() {
    let mut pair = Pair::new(1 << 16);
    pair.prepare(2);
    let id = pair.next_bundle();
    let input = image(2);
    let infer = |pair: &Pair, id| unsafe { safenet_client_infer_fixed(pair.client, id, input.as_ptr(), INPUTS) };
    assert_eq!(infer(&pair, &id), SAFENET_OK);
    // While it runs, another operation is refused and does not spend the other bundle.
    assert_eq!(infer(&pair, null()), SAFENET_ERROR_INVALID_STATE);
    assert_eq!(pair.run(), Ok(SAFENET_IDLE));

    let before = stats(|s| unsafe { safenet_client_stats(pair.client, s) });
    assert_eq!(infer(&pair, &id), SAFENET_ERROR_BUNDLE_SPENT);
    let name: String = id.bytes.iter().map(|b| format!("{b:02x}")).collect();
    let text = client_error(pair.client);
    assert!(text.starts_with(&format!("bundle {name}: expected one")) && text.contains("used"), "{text}");
    assert_eq!(pair.run(), Ok(SAFENET_IDLE));
    assert_eq!(stats(|s| unsafe { safenet_client_stats(pair.client, s) }), before);
    assert_eq!(pair.bundles(), 1);

    assert_ne!(pair.next_bundle(), id);
    assert_eq!(infer(&pair, null()), SAFENET_OK);
    assert_eq!(pair.run(), Ok(SAFENET_IDLE));
    assert_eq!(infer(&pair, null()), SAFENET_ERROR_BUNDLE_SPENT);
    assert_eq!(client_error(pair.client), "expected a prepared inference, got none left: prepare first");
    let mut none = id;
    assert_eq!(unsafe { safenet_client_next_bundle(pair.client, &mut none) }, SAFENET_ERROR_BUNDLE_SPENT);
    assert_eq!(none, id, "outputs of a failed call");
}

#[test]
fn inputs_and_outputs_that_do_not_fit_are_refused_and_spend_nothing() {
    let mut pair = Pair::new(1 << 16);
    pair.prepare(1);
    let infer = |pair: &Pair, values: &[f32]| {
        (unsafe { safenet_client_infer(pair.client, null(), values.as_ptr(), values.len()) }, client_error(pair.client))
    };
    let (status, text) = infer(&pair, &[0.5; INPUTS - 1]);
    assert_eq!(status, SAFENET_ERROR_INVALID_ARGUMENT);
    assert_eq!(text, "input: expected 16 values (1x4x4), got 15");
    for bad in [1.5, -0.5, f32::NAN, f32::INFINITY, 1e30] {
        let mut values = [0.5; INPUTS];
        values[3] = bad;
        let (status, text) = infer(&pair, &values);
        assert_eq!(status, SAFENET_ERROR_INVALID_ARGUMENT);
        let expected =
            if bad.is_finite() { "expected 0 to 1, got one outside that range" } else { "expected a finite number" };
        assert_eq!(text, format!("input value 3: {expected}"));
    }
    assert_eq!(unsafe { safenet_client_infer(pair.client, null(), null(), 0) }, SAFENET_ERROR_INVALID_ARGUMENT);
    assert_eq!(pair.bundles(), 1);

    let mut output = [7; OUTPUTS];
    let read = |pair: &Pair, output: &mut [i32]| unsafe {
        safenet_client_output_fixed(pair.client, output.as_mut_ptr(), output.len())
    };
    assert_eq!(read(&pair, &mut output), SAFENET_ERROR_INVALID_STATE);
    assert_eq!(infer(&pair, &[0.5; INPUTS]).0, SAFENET_OK);
    assert_eq!(pair.run(), Ok(SAFENET_IDLE));
    assert_eq!(read(&pair, &mut output[..2]), SAFENET_ERROR_INVALID_ARGUMENT);
    assert_eq!(client_error(pair.client), "output: expected room for 3 values, got 2");
    assert_eq!(output, [7; OUTPUTS]);
    let mut larger = [7; OUTPUTS + 1];
    assert_eq!(read(&pair, &mut larger), SAFENET_OK);
    assert_eq!(larger[OUTPUTS], 7);
}

#[test]
fn an_ended_connection_ends_the_session_on_both_sides() {
    let mut pair = Pair::new(1 << 16);
    pair.prepare(1);
    assert_eq!(unsafe { safenet_client_input_ended(pair.client) }, SAFENET_OK);
    assert_eq!(unsafe { safenet_server_input_ended(pair.server) }, SAFENET_OK);
    assert_eq!(pair.run(), Err(SAFENET_ERROR_ABORTED));
    assert_eq!(pair.bundles(), 0);
    let input = image(3);
    assert_eq!(
        unsafe { safenet_client_infer_fixed(pair.client, null(), input.as_ptr(), INPUTS) },
        SAFENET_ERROR_ABORTED
    );
    assert!(client_error(pair.client).contains("got its end"), "{}", client_error(pair.client));
    let status = turn(safenet_server_advance, pair.server, &mut vec![], &mut vec![], 10);
    assert_eq!(status, Err(SAFENET_ERROR_ABORTED));
    assert!(server_error(pair.server).contains("got its end"), "{}", server_error(pair.server));
}

#[test]
fn a_message_that_is_none_ends_the_session_and_the_other_side_is_told() {
    let mut pair = Pair::new(1 << 16);
    pair.up = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    let mut answer = vec![];
    let status = loop {
        if let Err(status) = turn(safenet_server_advance, pair.server, &mut pair.up, &mut answer, 1 << 16) {
            break status;
        }
    };
    assert_eq!(status, SAFENET_ERROR_MALFORMED_MESSAGE);
    assert!(server_error(pair.server).contains("frame header"), "{}", server_error(pair.server));
    // The error frame, read by a client, is an error of the other party.
    assert_eq!(unsafe { safenet_client_prepare(pair.client, 1) }, SAFENET_OK);
    let status = loop {
        if let Err(status) = turn(safenet_client_advance, pair.client, &mut answer, &mut pair.up, 1 << 16) {
            break status;
        }
    };
    assert_eq!(status, SAFENET_ERROR_PEER);
    assert!(
        client_error(pair.client).contains("the other party reports: frame header"),
        "{}",
        client_error(pair.client)
    );
}

#[test]
fn another_model_is_a_mismatch_on_both_sides() {
    let mut pair = Pair::new(1 << 16);
    let mut other = tiny();
    other.architecture.name = "another".into();
    let model = load_client(&other.public_bytes().unwrap());
    unsafe { safenet_client_free(pair.client) };
    pair.client = new_client(model);
    unsafe { safenet_client_model_free(model) };
    assert_eq!(unsafe { safenet_client_prepare(pair.client, 1) }, SAFENET_OK);
    assert_eq!(pair.run(), Err(SAFENET_ERROR_MISMATCH));
    // Each side is called until it has its error.
    while turn(safenet_client_advance, pair.client, &mut pair.down, &mut pair.up, 1 << 16).is_ok() {}
    while turn(safenet_server_advance, pair.server, &mut pair.up, &mut pair.down, 1 << 16).is_ok() {}
    for text in [client_error(pair.client), server_error(pair.server)] {
        assert!(text.contains("model id: expected"), "{text}");
    }
}

#[test]
fn a_models_numbers_are_told() {
    let file = tiny();
    let (client, server) = (load_client(&file.public_bytes().unwrap()), load_server(&file.server_bytes().unwrap()));
    let mut infos: [safenet_model_info; 2] = unsafe { zeroed() };
    infos.iter_mut().for_each(|info| info.size = size_of::<safenet_model_info>());
    unsafe {
        assert_eq!(safenet_client_model_info(client, &mut infos[0], null_mut(), 0), SAFENET_OK);
        assert_eq!(safenet_server_model_info(server, &mut infos[1], null_mut(), 0), SAFENET_OK);
    }
    for info in infos {
        assert_eq!(info.size, size_of::<safenet_model_info>());
        assert_eq!(unsafe { CStr::from_ptr(info.name) }, c"tiny");
        assert_eq!((info.inputs, info.outputs), (INPUTS, OUTPUTS));
        assert_eq!((info.input_channels, info.input_height, info.input_width), (1, 4, 4));
        assert_eq!((info.output_channels, info.output_height, info.output_width), (3, 1, 1));
        assert_eq!((info.input_fraction_bits, info.output_fraction_bits), (8, 8));
        assert_eq!((info.input_min, info.input_max), (0, 256));
        assert_eq!(info.id, file.architecture.id().unwrap());
    }
    let mut text = Text::new();
    infos[0].size = 0;
    let status = unsafe { safenet_client_model_info(client, &mut infos[0], text.raw(), 512) };
    assert_eq!(status, SAFENET_ERROR_INVALID_ARGUMENT);
    assert!(text.get().starts_with("info: expected its field `size` set"), "{}", text.get());
    unsafe {
        safenet_client_model_free(client);
        safenet_server_model_free(server);
    }
}

#[test]
fn files_that_are_no_models_are_refused_with_a_text_cut_to_fit() {
    let file = tiny();
    let public = file.public_bytes().unwrap();
    let load = |bytes: &[u8], text: &mut Text, size| {
        let mut model = null_mut();
        let status =
            unsafe { safenet_server_model_load(bytes.as_ptr(), bytes.len(), null(), &mut model, text.raw(), size) };
        assert!(model.is_null());
        status
    };
    let mut text = Text::new();
    assert_eq!(load(b"", &mut text, 512), SAFENET_ERROR_MALFORMED_MODEL);
    assert_eq!(text.get(), "model file: magic: expected 8 more bytes, got 0");
    assert_eq!(load(b"", &mut text, 6), SAFENET_ERROR_MALFORMED_MODEL);
    assert_eq!(text.get(), "model");
    assert_eq!(load(&public, &mut text, 512), SAFENET_ERROR_MALFORMED_MODEL);
    assert!(text.get().contains("got the public part"), "{}", text.get());
    assert_eq!(load(&public[..public.len() - 1], &mut text, 512), SAFENET_ERROR_MALFORMED_MODEL);
}

unsafe extern "C" fn counting_random(context: *mut c_void, out: *mut u8, size: usize) -> c_int {
    let calls = unsafe { &mut *context.cast::<i32>() };
    *calls += 1;
    unsafe { out.write_bytes(*calls as u8, size) };
    if *calls > 1 { -5 } else { 0 }
}

#[test]
fn options_are_checked_and_the_random_callback_is_used() {
    let model = load_client(&tiny().public_bytes().unwrap());
    let mut calls = 0i32;
    let mut options = safenet_options {
        size: size_of::<safenet_options>(),
        ot_extension: 0,
        relu_round_trips: 0,
        max_bundles: 0,
        random: Some(counting_random),
        random_context: (&raw mut calls).cast(),
        threads: 0,
        ot_hash: 0,
        memory: 0,
    };
    let new = |options: &safenet_options| {
        let (mut client, mut text) = (null_mut(), Text::new());
        let status = unsafe { safenet_client_new(model, options, &mut client, text.raw(), 512) };
        assert_eq!(client.is_null(), status != SAFENET_OK);
        unsafe { safenet_client_free(client) };
        (status, text.get().to_owned())
    };
    assert_eq!(new(&options), (SAFENET_OK, String::new()));
    assert_eq!(calls, 1);
    let (status, text) = new(&options);
    assert_eq!(status, SAFENET_ERROR_RANDOMNESS);
    assert_eq!(text, "random callback: expected 0 and 32 bytes, got -5");
    options.random = None;
    for extension in [2, 4, 8, SAFENET_OT_SILENT] {
        options.ot_extension = extension;
        assert_eq!(new(&options).0, SAFENET_OK);
    }
    options.ot_extension = 3;
    let (status, text) = new(&options);
    assert_eq!(status, SAFENET_ERROR_INVALID_ARGUMENT);
    assert!(text.contains("or 1 for the silent one, got 3"), "{text}");
    options.ot_extension = 0;
    options.relu_round_trips = 2;
    assert_eq!(new(&options).0, SAFENET_OK);
    options.relu_round_trips = 4;
    let (status, text) = new(&options);
    assert_eq!(status, SAFENET_ERROR_INVALID_ARGUMENT);
    assert!(text.contains("expected 2 or 3, got 4"), "{text}");
    options.relu_round_trips = 0;
    for hash in [SAFENET_HASH_AES, SAFENET_HASH_CHACHA] {
        options.ot_hash = hash;
        assert_eq!(new(&options).0, SAFENET_OK);
    }
    options.ot_hash = 3;
    let (status, text) = new(&options);
    assert_eq!(status, SAFENET_ERROR_INVALID_ARGUMENT);
    assert!(text.contains("expected 1 for AES or 2 for ChaCha, got 3"), "{text}");
    options.ot_hash = 0;
    options.size = 8;
    assert_eq!(new(&options).0, SAFENET_ERROR_INVALID_ARGUMENT);
    unsafe { safenet_client_model_free(model) };
}

/// Options with so many threads.
fn with_threads(threads: u32) -> safenet_options {
    safenet_options { size: size_of::<safenet_options>(), threads, ..unsafe { zeroed() } }
}

#[test]
fn as_many_threads_as_the_options_say_and_no_absurd_number() {
    let file = tiny();
    let (bytes, public) = (file.server_bytes().unwrap(), load_client(&file.public_bytes().unwrap()));
    let make = |options: &safenet_options| {
        let (mut model, mut client, mut texts) = (null_mut(), null_mut(), [Text::new(), Text::new()]);
        let [a, b] = texts.each_mut().map(Text::raw);
        let statuses = unsafe {
            [
                safenet_server_model_load(bytes.as_ptr(), bytes.len(), options, &mut model, a, 512),
                safenet_client_new(public, options, &mut client, b, 512),
            ]
        };
        assert_eq!(model.is_null(), statuses[0] != SAFENET_OK);
        assert_eq!(client.is_null(), statuses[1] != SAFENET_OK);
        unsafe {
            safenet_client_free(client);
            safenet_server_model_free(model);
        }
        statuses.into_iter().zip(texts.map(|text| text.get().to_owned())).collect::<Vec<_>>()
    };
    for threads in [0, 1, 2, 256] {
        assert_eq!(make(&with_threads(threads)), vec![(SAFENET_OK, String::new()); 2], "{threads}");
    }
    for threads in [257, 1 << 31, u32::MAX] {
        let text = format!("threads: expected 1 to 256, got {threads}");
        assert_eq!(make(&with_threads(threads)), vec![(SAFENET_ERROR_INVALID_ARGUMENT, text); 2]);
    }
    // A program that does not know the field yet.
    let older = safenet_options { size: std::mem::offset_of!(safenet_options, threads), ..with_threads(u32::MAX) };
    assert_eq!(make(&older), vec![(SAFENET_OK, String::new()); 2]);
    unsafe { safenet_client_model_free(public) };
}

#[test]
fn parties_with_threads_agree_with_the_plain_network() {
    let file = tiny();
    let (bytes, public) = (file.server_bytes().unwrap(), load_client(&file.public_bytes().unwrap()));
    let mut pair = Pair::new(1 << 16);
    let (mut model, options) = (null_mut(), with_threads(3));
    unsafe {
        safenet_client_free(pair.client);
        safenet_server_free(pair.server);
        let status = safenet_server_model_load(bytes.as_ptr(), bytes.len(), &options, &mut model, null_mut(), 0);
        assert_eq!(status, SAFENET_OK);
        assert_eq!(safenet_server_new(model, &options, &mut pair.server, null_mut(), 0), SAFENET_OK);
        assert_eq!(safenet_client_new(public, &options, &mut pair.client, null_mut(), 0), SAFENET_OK);
        safenet_client_model_free(public);
        safenet_server_model_free(model);
    }
    pair.prepare(2);
    for seed in [5, 6] {
        let input = image(seed);
        assert_eq!(unsafe { safenet_client_infer_fixed(pair.client, null(), input.as_ptr(), INPUTS) }, SAFENET_OK);
        assert_eq!(pair.run(), Ok(SAFENET_IDLE));
        let mut output = [0; OUTPUTS];
        assert_eq!(unsafe { safenet_client_output_fixed(pair.client, output.as_mut_ptr(), OUTPUTS) }, SAFENET_OK);
        assert!(close(&output, &evaluate(&file, &input)), "{output:?}");
    }
}

#[test]
fn a_server_holds_no_more_than_its_option_says() {
    let mut pair = Pair::new(1 << 16);
    let model = load_server(&tiny().server_bytes().unwrap());
    let options = safenet_options { size: size_of::<safenet_options>(), max_bundles: 2, ..unsafe { zeroed() } };
    unsafe {
        safenet_server_free(pair.server);
        assert_eq!(safenet_server_new(model, &options, &mut pair.server, null_mut(), 0), SAFENET_OK);
        safenet_server_model_free(model);
    }
    pair.prepare(2);
    assert_eq!(unsafe { safenet_client_prepare(pair.client, 1) }, SAFENET_ERROR_INVALID_ARGUMENT);
    assert!(client_error(pair.client).contains("at most 2 prepared"), "{}", client_error(pair.client));
    // Nothing was sent, and what is prepared is good.
    let input = image(4);
    assert_eq!(unsafe { safenet_client_infer_fixed(pair.client, null(), input.as_ptr(), INPUTS) }, SAFENET_OK);
    assert_eq!(pair.run(), Ok(SAFENET_IDLE));
    pair.prepare(1);
}

#[test]
fn null_is_an_error_of_every_function_and_never_a_crash() {
    use safenet_status::SAFENET_ERROR_NULL_POINTER as NULL;
    let file = tiny();
    let bytes = file.server_bytes().unwrap();
    let (client_model, server_model) = (load_client(&bytes), load_server(&bytes));
    let (client, server) = (new_client(client_model), new_server(server_model));
    let mut text = Text::new();
    let mut count = 0;
    let mut id = safenet_bundle_id { bytes: [0; 24] };
    let mut state = SAFENET_IDLE;
    let mut buffer = [0u8; 16];
    let mut output = [0i32; 16];
    let mut floats = [0f32; 16];
    let mut info = safenet_model_info { size: size_of::<safenet_model_info>(), ..unsafe { zeroed() } };
    let mut stats = safenet_stats { size: size_of::<safenet_stats>(), ..Default::default() };
    let (mut a, mut b) = (null_mut(), null_mut());
    unsafe extern "C" fn read(_: *mut c_void, _: *mut u8, _: usize) -> isize {
        0
    }
    unsafe extern "C" fn write(_: *mut c_void, _: *const u8, size: usize) -> isize {
        size as isize
    }
    let e = text.raw();
    unsafe {
        // Models.
        assert_eq!(safenet_client_model_load(null(), 9, &mut a, e, 512), NULL);
        let mut trips = 0;
        assert_eq!(safenet_client_model_round_trips(null(), 0.1, 1e6, &mut trips, e, 512), NULL);
        assert_eq!(safenet_client_model_round_trips(client_model, 0.1, 1e6, null_mut(), e, 512), NULL);
        assert_eq!(safenet_client_model_load(null(), 0, &mut a, e, 512), SAFENET_ERROR_MALFORMED_MODEL);
        assert_eq!(safenet_client_model_load(bytes.as_ptr(), bytes.len(), null_mut(), e, 512), NULL);
        assert_eq!(safenet_client_model_load(bytes.as_ptr(), bytes.len(), &mut a, null_mut(), 512), NULL);
        assert_eq!(safenet_client_model_info(null(), &mut info, e, 512), NULL);
        assert_eq!(safenet_client_model_info(client_model, null_mut(), e, 512), NULL);
        assert_eq!(safenet_client_model_info(client_model, &mut info, null_mut(), 1), NULL);
        assert_eq!(safenet_server_model_load(null(), 9, null(), &mut b, e, 512), NULL);
        assert_eq!(safenet_server_model_load(null(), 0, null(), &mut b, e, 512), SAFENET_ERROR_MALFORMED_MODEL);
        assert_eq!(safenet_server_model_load(bytes.as_ptr(), bytes.len(), null(), null_mut(), e, 512), NULL);
        assert_eq!(safenet_server_model_load(bytes.as_ptr(), bytes.len(), null(), &mut b, null_mut(), 512), NULL);
        assert_eq!(safenet_server_model_info(null(), &mut info, e, 512), NULL);
        assert_eq!(safenet_server_model_info(server_model, null_mut(), e, 512), NULL);
        assert_eq!(safenet_server_model_info(server_model, &mut info, null_mut(), 1), NULL);
        assert!(a.is_null() && b.is_null());
        safenet_client_model_free(null_mut());
        safenet_server_model_free(null_mut());

        // Making sessions.
        let (mut c, mut s) = (null_mut(), null_mut());
        assert_eq!(safenet_client_new(null(), null(), &mut c, e, 512), NULL);
        assert_eq!(text.get(), "model: expected a pointer, got NULL");
        let e = text.raw();
        assert_eq!(safenet_client_new(client_model, null(), null_mut(), e, 512), NULL);
        assert_eq!(safenet_client_new(client_model, null(), &mut c, null_mut(), 512), NULL);
        assert_eq!(safenet_server_new(null(), null(), &mut s, e, 512), NULL);
        assert_eq!(safenet_server_new(server_model, null(), null_mut(), e, 512), NULL);
        assert_eq!(safenet_server_new(server_model, null(), &mut s, null_mut(), 512), NULL);
        assert!(c.is_null() && s.is_null());
        safenet_client_free(null_mut());
        safenet_server_free(null_mut());

        // No session.
        let n: *mut safenet_client = null_mut();
        assert_eq!(safenet_client_prepare(n, 1), NULL);
        assert_eq!(safenet_client_bundles(n, &mut count), NULL);
        assert_eq!(safenet_client_next_bundle(n, &mut id), NULL);
        assert_eq!(safenet_client_infer(n, null(), floats.as_ptr(), 16), NULL);
        assert_eq!(safenet_client_infer_fixed(n, null(), output.as_ptr(), 16), NULL);
        assert_eq!(safenet_client_output(n, floats.as_mut_ptr(), 16), NULL);
        assert_eq!(safenet_client_output_fixed(n, output.as_mut_ptr(), 16), NULL);
        assert_eq!(safenet_client_close(n), NULL);
        assert_eq!(safenet_client_input_ended(n), NULL);
        assert_eq!(safenet_client_run(n, Some(read), Some(write), null_mut()), NULL);
        assert_eq!(safenet_client_stats(n, &mut stats), NULL);
        assert_eq!(client_error(n), "session: expected a pointer, got NULL");
        let (mut x, mut y) = (0, 0);
        assert_eq!(
            safenet_client_advance(n, buffer.as_ptr(), 8, buffer[8..].as_mut_ptr(), 8, &mut x, &mut y, &mut state),
            NULL
        );
        let m: *mut safenet_server = null_mut();
        assert_eq!(
            safenet_server_advance(m, buffer.as_ptr(), 8, buffer[8..].as_mut_ptr(), 8, &mut x, &mut y, &mut state),
            NULL
        );
        assert_eq!(safenet_server_input_ended(m), NULL);
        assert_eq!(safenet_server_run(m, Some(read), Some(write), null_mut()), NULL);
        assert_eq!(safenet_server_stats(m, &mut stats), NULL);
        assert_eq!(server_error(m), "session: expected a pointer, got NULL");

        // Sessions.
        assert_eq!(safenet_client_bundles(client, null_mut()), NULL);
        assert_eq!(client_error(client), "count: expected a pointer, got NULL");
        assert_eq!(safenet_client_next_bundle(client, null_mut()), NULL);
        assert_eq!(safenet_client_infer(client, null(), null(), 16), NULL);
        assert_eq!(safenet_client_infer_fixed(client, null(), null(), 16), NULL);
        assert_eq!(safenet_client_run(client, None, Some(write), null_mut()), NULL);
        assert_eq!(safenet_client_run(client, Some(read), None, null_mut()), NULL);
        assert_eq!(safenet_client_stats(client, null_mut()), NULL);
        assert_eq!(safenet_server_run(server, None, Some(write), null_mut()), NULL);
        assert_eq!(safenet_server_run(server, Some(read), None, null_mut()), NULL);
        assert_eq!(safenet_server_stats(server, null_mut()), NULL);
        let (p, q) = (buffer.as_ptr(), buffer.as_mut_ptr().add(8));
        assert_eq!(safenet_client_advance(client, null(), 8, q, 8, &mut x, &mut y, &mut state), NULL);
        assert_eq!(safenet_client_advance(client, p, 8, null_mut(), 8, &mut x, &mut y, &mut state), NULL);
        assert_eq!(safenet_client_advance(client, p, 8, q, 8, null_mut(), &mut y, &mut state), NULL);
        assert_eq!(safenet_client_advance(client, p, 8, q, 8, &mut x, null_mut(), &mut state), NULL);
        assert_eq!(safenet_client_advance(client, p, 8, q, 8, &mut x, &mut y, null_mut()), NULL);
        assert_eq!(safenet_client_advance(client, null(), 0, null_mut(), 0, &mut x, &mut y, &mut state), SAFENET_OK);
        assert_eq!((x, y, state), (0, 0, SAFENET_IDLE));
        assert_eq!(safenet_server_advance(server, null(), 8, q, 8, &mut x, &mut y, &mut state), NULL);
        assert_eq!(safenet_server_advance(server, p, 8, null_mut(), 8, &mut x, &mut y, &mut state), NULL);
        assert_eq!(safenet_server_advance(server, p, 8, q, 8, null_mut(), &mut y, &mut state), NULL);
        assert_eq!(safenet_server_advance(server, p, 8, q, 8, &mut x, null_mut(), &mut state), NULL);
        assert_eq!(safenet_server_advance(server, p, 8, q, 8, &mut x, &mut y, null_mut()), NULL);
        assert_eq!(safenet_server_advance(server, null(), 0, null_mut(), 0, &mut x, &mut y, &mut state), SAFENET_OK);
        assert_eq!((x, y, state), (0, 0, SAFENET_WANTS_INPUT));
        // Buffers that overlap.
        let status = safenet_server_advance(server, p, 9, q, 8, &mut x, &mut y, &mut state);
        assert_eq!(status, SAFENET_ERROR_INVALID_ARGUMENT);
        let status = safenet_client_advance(client, q, 8, q, 8, &mut x, &mut y, &mut state);
        assert_eq!(status, SAFENET_ERROR_INVALID_ARGUMENT);

        safenet_client_free(client);
        safenet_server_free(server);
        safenet_client_model_free(client_model);
        safenet_server_model_free(server_model);
    }
}

#[test]
fn inferences_are_counted_however_many_round_trips_a_relu_takes() {
    let mut rounds = vec![];
    for relu_round_trips in [3, 2] {
        let mut options: safenet_options = unsafe { zeroed() };
        (options.size, options.relu_round_trips) = (size_of::<safenet_options>(), relu_round_trips);
        let mut pair = Pair::with(1 << 16, &options);
        pair.prepare(3);
        let input = image(1);
        for done in 1..=3 {
            assert_eq!(unsafe { safenet_client_infer_fixed(pair.client, null(), input.as_ptr(), INPUTS) }, SAFENET_OK);
            assert_eq!(pair.run(), Ok(SAFENET_IDLE));
            let client = stats(|s| unsafe { safenet_client_stats(pair.client, s) });
            let server = stats(|s| unsafe { safenet_server_stats(pair.server, s) });
            assert_eq!((client.inferences, server.inferences), (done, done));
            rounds.push(client.infer.rounds / done);
        }
    }
    // Input and output, the ReLUs, and the scores' truncation.
    assert_eq!(rounds, [5, 5, 5, 4, 4, 4]);
}

#[test]
fn the_round_trips_that_suit_a_connection_are_told() {
    let model = load_client(&tiny().public_bytes().unwrap());
    let told = |seconds, rate| {
        let mut count = 0;
        let status = unsafe { safenet_client_model_round_trips(model, seconds, rate, &mut count, null_mut(), 0) };
        assert_eq!(status, SAFENET_OK);
        count
    };
    // A few kilobytes more, for one round trip less.
    assert_eq!([told(0.04, 1e6), told(0.04, 1e3), told(0.0, 1e9)], [2, 3, 3]);
    assert_eq!([told(f64::NAN, 1e6), told(0.04, 0.0), told(0.04, f64::NAN)], [3, 3, 3]);
    unsafe { safenet_client_model_free(model) };
}

#[test]
fn an_inference_that_fails_is_not_counted() {
    let mut pair = Pair::new(1 << 20);
    pair.prepare(1);
    let input = image(1);
    assert_eq!(unsafe { safenet_client_infer_fixed(pair.client, null(), input.as_ptr(), INPUTS) }, SAFENET_OK);
    // The input, then four replies (three rounds of ReLU, one of the output), the last of them damaged.
    for message in 0..5 {
        turn(safenet_client_advance, pair.client, &mut pair.down, &mut pair.up, 1 << 20).unwrap();
        if message == 4 {
            pair.up[0] = 200;
        }
        turn(safenet_server_advance, pair.server, &mut pair.up, &mut pair.down, 1 << 20).unwrap();
    }
    let failed = turn(safenet_server_advance, pair.server, &mut pair.up, &mut pair.down, 1 << 20);
    assert_eq!(failed, Err(SAFENET_ERROR_MALFORMED_MESSAGE));
    assert_eq!(stats(|s| unsafe { safenet_server_stats(pair.server, s) }).inferences, 0);
}
