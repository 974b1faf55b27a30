//! What stands in for an operating system in a WebAssembly module. Memory is the module's own, which grows as it is needed; its
//! host gives randomness and takes the text of a fault, by two functions that the module imports from `safenet`.
//!
//! A panic cannot be stopped: it ends in the host's `fault`, which throws, and so does running out of memory. The module must
//! not be called again after that.

use crate::fault::Text;
use crate::status::{Failure, safenet_status};
use alloc::format;
use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use talc::wasm::{WasmDynamicTalc, new_wasm_dynamic_allocator};

/// What the host gives. Not the header's business:
/// cbindgen:ignore
mod host {
    #[link(wasm_import_module = "safenet")]
    unsafe extern "C" {
        /// Fills `size` bytes at `out` with uniform secret bytes; 0 if it did.
        pub(super) safe fn random(out: *mut u8, size: usize) -> i32;
        /// Throws an error with a text that is ended by a NUL.
        pub(super) safe fn fault(text: *const core::ffi::c_char) -> !;
    }
}

/// The module's memory; remembers what did not fit.
struct Memory {
    heap: WasmDynamicTalc,
    /// The last size that did not fit; 0 if all did.
    refused: AtomicUsize,
}

impl Memory {
    fn look(&self, pointer: *mut u8, size: usize) -> *mut u8 {
        if pointer.is_null() {
            self.refused.store(size, Relaxed);
        }
        pointer
    }
}

// SAFETY: the heap does the work and keeps the contract.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.look(unsafe { self.heap.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.heap.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.look(unsafe { self.heap.realloc(pointer, layout, size) }, size)
    }
}

#[global_allocator]
static MEMORY: Memory = Memory { heap: new_wasm_dynamic_allocator(), refused: AtomicUsize::new(0) };

/// Runs the body of an exported function.
pub(crate) fn guard<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    body()
}

/// What a thread of the library's own would begin with; there are none.
pub(crate) fn stay_inside() {}

/// Fills a buffer from the host's generator.
pub(crate) fn system_random(out: &mut [u8]) -> Result<(), Failure> {
    match host::random(out.as_mut_ptr(), out.len()) {
        0 => Ok(()),
        code => Err(Failure::new(
            safenet_status::SAFENET_ERROR_RANDOMNESS,
            format!("the host's source of randomness: expected 0 and {} bytes, got {code}", out.len()),
        )),
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let text = match MEMORY.refused.load(Relaxed) {
        0 => Text::of_fault(info),
        size => Text::new(format_args!(
            "out of memory: expected room for {size} more bytes, got {} KiB of memory that cannot grow so far",
            64 * core::arch::wasm32::memory_size::<0>()
        )),
    };
    host::fault(text.as_c_str().as_ptr())
}
