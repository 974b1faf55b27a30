//! What stands in for an operating system where there is none: memory and a way to stop, both given by the caller.
//!
//! A panic cannot be stopped without unwinding, which bare-metal targets do not have: it ends in the caller's fault
//! handler. So does running out of memory, which `alloc` reports by a panic.
//!
//! Where in the source a panic arose is told with the feature `fault-place` alone. Without it nothing reads what a panic says of
//! itself, and the linker's optimiser drops all of it: texts, file names, line numbers and what would format them.

use crate::arena::Arena;
use crate::fault::Text;
use crate::pointer;
use crate::status::{Failure, safenet_status};
use core::ffi::{c_char, c_void};
use core::panic::PanicInfo;
use spin::Mutex;

#[global_allocator]
static ARENA: Arena = Arena::new();

/// Where the library ends if it cannot go on: it has run out of memory, or has a fault. `text` says which, and is ended by a
/// NUL; it holds no secret. The function must not return, nor leave by longjmp(): stop or reset the machine. Secrets are not wiped
/// before it is called. If it is NULL, or returns, the library waits for ever.
pub type safenet_fault = Option<unsafe extern "C" fn(context: *mut c_void, text: *const c_char)>;

struct Fault {
    function: safenet_fault,
    context: *mut c_void,
}

// SAFETY: a pointer that is handed back as it came.
unsafe impl Send for Fault {}

static FAULT: Mutex<Fault> = Mutex::new(Fault { function: None, context: core::ptr::null_mut() });

/// Bare metal: gives the library the memory in which everything lives that it allocates, `size` bytes at `memory`, which are
/// its own from then on. Call it once, before anything else: other calls fail with SAFENET_ERROR_INVALID_STATE until then.
/// `fault` is called with `fault_context` if the library cannot go on. An interrupt handler must not call the library.
///
/// Fails with SAFENET_ERROR_INVALID_STATE if the library has memory already and SAFENET_ERROR_INVALID_ARGUMENT if that is too
/// little even for its allocator (some hundred bytes).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_arena_set(
    memory: *mut c_void,
    size: usize,
    fault: safenet_fault,
    fault_context: *mut c_void,
    error: *mut c_char,
    error_size: usize,
) -> safenet_status {
    let refuse = |status, text: &'static str| Err(Failure::new(status, text));
    let result = if ARENA.size() != 0 {
        refuse(safenet_status::SAFENET_ERROR_INVALID_STATE, "memory: expected to be given it once, got it again")
    } else if memory.is_null() {
        refuse(safenet_status::SAFENET_ERROR_NULL_POINTER, "memory: expected a pointer, got NULL")
    // SAFETY: what the header asks of callers.
    } else if unsafe { ARENA.give(memory.cast(), size) } {
        *FAULT.lock() = Fault { function: fault, context: fault_context };
        Ok(())
    } else {
        refuse(safenet_status::SAFENET_ERROR_INVALID_ARGUMENT, "memory: expected a kilobyte or more, got less")
    };
    // SAFETY: what the header asks of callers.
    unsafe { pointer::report(error, error_size, result) }
}

/// Bare metal: how many bytes are allocated now, without what the allocator adds to them.
#[unsafe(no_mangle)]
pub extern "C" fn safenet_arena_used() -> usize {
    ARENA.used()
}

/// Bare metal: how many bytes from the start of the memory were ever in use, with gaps between them. Memory of that size and a
/// few hundredths more will do for the same work. 0 before safenet_arena_set.
#[unsafe(no_mangle)]
pub extern "C" fn safenet_arena_peak() -> usize {
    ARENA.peak()
}

/// Runs the body of an exported function, if there is memory to run it in.
pub(crate) fn guard<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    if ARENA.size() == 0 {
        return Err(Failure::new(
            safenet_status::SAFENET_ERROR_INVALID_STATE,
            "expected safenet_arena_set before any other call, got none",
        ));
    }
    body()
}

/// What a thread of the library's own would begin with; there are none.
pub(crate) fn stay_inside() {}

/// There is no system to ask.
pub(crate) fn system_random(_: &mut [u8]) -> Result<(), Failure> {
    Err(Failure::new(
        safenet_status::SAFENET_ERROR_RANDOMNESS,
        "options: expected a source of randomness in `random`, as there is no operating system, got none",
    ))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let text = match ARENA.refused() {
        0 => Text::of_fault(info),
        size => Text::new(format_args!(
            "out of memory: expected room for {size} more bytes, got {} bytes of which {} are in use",
            ARENA.size(),
            ARENA.used()
        )),
    };
    if let Some(fault) = FAULT.try_lock()
        && let Some(function) = fault.function
    {
        // SAFETY: the callback's contract.
        unsafe { function(fault.context, text.as_c_str().as_ptr()) };
    }
    loop {
        core::hint::spin_loop();
    }
}
