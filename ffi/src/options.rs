//! What a session, or a server's model, may be told when it is made.

use crate::platform;
use crate::pointer::{self, Growing};
use crate::status::{Failure, safenet_status};
use alloc::format;
use core::ffi::{c_int, c_void};
use core::mem::offset_of;
use safenet_core::ot::{Extension, Suite};
use safenet_core::prg::{SEED_BYTES, Seed};
use safenet_core::session::{Options, RoundTrips};
use safenet_core::threads::Threads;
use zeroize::Zeroizing;

/// A source of cryptographic randomness: fills `size` bytes at `out` with uniform secret bytes that it never gives twice,
/// and returns 0; anything else reports that it failed.
pub type safenet_random = Option<unsafe extern "C" fn(context: *mut c_void, out: *mut u8, size: usize) -> c_int>;

/// For `ot_extension` of safenet_options.
pub const SAFENET_OT_SILENT: u32 = 1;

/// For `ot_hash` of safenet_options.
pub const SAFENET_HASH_AES: u32 = 1;

/// For `ot_hash` of safenet_options.
pub const SAFENET_HASH_CHACHA: u32 = 2;

/// What a session, or a server's model, may be told when it is made. Set `size` and leave the rest 0 for what suits most; NULL
/// instead of a pointer to it means the same.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct safenet_options {
    /// sizeof(safenet_options).
    pub size: usize,
    /// Client: the oblivious-transfer extension. SAFENET_OT_SILENT sends least and takes some 10 MB of memory at either party, if the
    /// server accepts it; 2, 4 or 8 is the depth of one that takes none: more sends less and computes more. 0 means 4.
    pub ot_extension: u32,
    /// Client: 2 or 3, the round trips of a ReLU of at most 13 bits. 2 sends more than twice the bytes; it pays on links on which a round
    /// trip takes longer than these (safenet_client_model_round_trips tells). 0 means 3.
    pub relu_round_trips: u32,
    /// Server: most inferences that one session may have prepared and not yet used; a client that asks for more is
    /// refused. 0 means 64.
    pub max_bundles: u32,
    /// Where the session's randomness comes from: called once, while the session is made, for 32 bytes, from which
    /// everything random in the session is expanded. NULL means the operating system, and fails where there is none.
    pub random: safenet_random,
    /// Passed to `random`.
    pub random_context: *mut c_void,
    /// Client, and safenet_server_model_load (a server's sessions use their model's): how many threads compute, at most 256. 0
    /// means 1, the caller's own. With more, the library starts as many, which compute while the caller's waits. They end when the
    /// client is freed, or the last of a model and its sessions. Bytes and outputs do not depend on the number. The threads have
    /// the signal mask of the one that starts them; fork() leaves them behind, so the child must not use the client or model.
    pub threads: u32,
    /// Client: most bytes of memory that the session and its model may take of the heap. How much is worked on at a time, and the depth of
    /// the OT extension, are chosen so that they fit; safenet_client_prepare fails with SAFENET_ERROR_MEMORY where a prepared
    /// inference does not, safenet_client_stream where nothing fits. 0 means that any amount will do.
    pub memory: usize,
    /// Client: what hashes and expands in oblivious transfers, SAFENET_HASH_AES or SAFENET_HASH_CHACHA; a server may refuse the latter. 0 means
    /// what is faster on the client's processor: AES where there are instructions for it (x86-64, AArch64), else ChaCha.
    pub ot_hash: u32,
}

// SAFETY: integers, a pointer and a nullable function pointer, the first a usize.
unsafe impl Growing for safenet_options {
    const NAME: &'static str = "options";
    const FIRST: usize = offset_of!(Self, threads);
}

/// The threads that options from C ask for.
///
/// # Safety
/// `pointer` is NULL or points to options.
pub(crate) unsafe fn threads(pointer: *const safenet_options) -> Result<Threads, Failure> {
    let count = match pointer.is_null() {
        true => 0,
        // SAFETY: the caller's promise.
        false => unsafe { pointer::read_sized(pointer) }?.threads,
    };
    Ok(Threads::with_start(count.max(1) as usize, platform::stay_inside)?)
}

/// Options from C, with a session's seed drawn as they say.
///
/// # Safety
/// `pointer` is NULL or points to options whose callback keeps its contract.
pub(crate) unsafe fn read(pointer: *const safenet_options) -> Result<(Options, Seed), Failure> {
    let mut options = Options::default();
    let mut bytes = Zeroizing::new([0; SEED_BYTES]);
    if pointer.is_null() {
        platform::system_random(&mut *bytes)?;
        return Ok((options, Seed::from_bytes(*bytes)));
    }
    // SAFETY: the caller's promise.
    let given = unsafe { pointer::read_sized(pointer) }?;
    if given.ot_extension != 0 {
        options.extension = Extension::from_code(given.ot_extension)?.check_built()?;
    }
    if given.ot_hash != 0 {
        options.suite = Suite::from_code(given.ot_hash)?;
    }
    if given.relu_round_trips != 0 {
        options.round_trips = RoundTrips::of_count(given.relu_round_trips)?;
    }
    if given.memory != 0 {
        options.memory = Some(given.memory as u64);
    }
    if given.max_bundles != 0 {
        options.max_bundles = given.max_bundles;
    }
    match given.random {
        None => platform::system_random(&mut *bytes)?,
        // SAFETY: the callback's contract.
        Some(random) => match unsafe { random(given.random_context, bytes.as_mut_ptr(), SEED_BYTES) } {
            0 => {}
            code => {
                return Err(Failure::new(
                    safenet_status::SAFENET_ERROR_RANDOMNESS,
                    format!("random callback: expected 0 and {SEED_BYTES} bytes, got {code}"),
                ));
            }
        },
    }
    Ok((options, Seed::from_bytes(*bytes)))
}
