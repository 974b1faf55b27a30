//! The allocator of a machine without an operating system: one stretch of memory, given once, and a mark of how much of it was
//! ever in use.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use talc::{DefaultBinning, TalcLock, source::Manual};

/// An allocator that has no memory until it is given some. Never gives any back.
pub(crate) struct Arena {
    heap: TalcLock<spin::Mutex<()>, Manual>,
    /// Where the memory starts and how long it is; (0, 0) before there is any.
    start: AtomicUsize,
    size: AtomicUsize,
    used: AtomicUsize,
    peak: AtomicUsize,
    /// The last size that did not fit.
    refused: AtomicUsize,
}

impl Arena {
    /// The smallest memory that can be given: what the allocator keeps there for itself, and a little.
    pub(crate) const LEAST: usize = talc::min_first_heap_size::<DefaultBinning>() + 64;

    pub(crate) const fn new() -> Self {
        Self {
            heap: TalcLock::new(Manual),
            start: AtomicUsize::new(0),
            size: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        }
    }

    /// Gives the arena its memory; whether it could take it. It takes some once only.
    ///
    /// # Safety
    /// `memory` is valid for `size` bytes for ever, and nothing else touches them.
    pub(crate) unsafe fn give(&self, memory: *mut u8, size: usize) -> bool {
        if memory.is_null() || size < Self::LEAST || memory.addr().checked_add(size).is_none() {
            return false;
        }
        if self.start.compare_exchange(0, memory.addr(), Relaxed, Relaxed).is_err() {
            return false;
        }
        // SAFETY: the caller's promise; a heap is claimed once, as only one caller gets here.
        if unsafe { self.heap.lock().claim(memory, size) }.is_none() {
            self.start.store(0, Relaxed);
            return false;
        }
        self.size.store(size, Relaxed);
        self.peak.store(talc::min_first_heap_size::<DefaultBinning>(), Relaxed);
        true
    }

    /// Bytes that were given; 0 before.
    pub(crate) fn size(&self) -> usize {
        self.size.load(Relaxed)
    }

    /// Bytes that are allocated now, without what the allocator adds to each piece.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// How far from its start memory was ever in use, with gaps and what the allocator itself takes.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }

    /// The last size that did not fit; 0 if all did.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }

    fn count(&self, pointer: *mut u8, freed: usize, layout: Layout) -> *mut u8 {
        if pointer.is_null() {
            self.refused.store(layout.size(), Relaxed);
        } else {
            self.used.fetch_add(layout.size(), Relaxed);
            self.used.fetch_sub(freed, Relaxed);
            self.peak.fetch_max(pointer.addr() + layout.size() - self.start.load(Relaxed), Relaxed);
        }
        pointer
    }
}

// SAFETY: the heap does the work and keeps the contract; the counters touch no memory of its.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.count(unsafe { self.heap.alloc(layout) }, 0, layout)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.used.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.heap.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise, which holds for the new layout too.
        unsafe {
            let new = Layout::from_size_align_unchecked(size, layout.align());
            self.count(self.heap.realloc(pointer, layout, size), layout.size(), new)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    #[test]
    fn it_has_no_memory_until_it_is_given_some_and_takes_it_once() {
        let (mut memory, arena) = ([0u64; 1024], Arena::new());
        let bytes = size_of_val(&memory);
        let pointer = memory.as_mut_ptr().cast::<u8>();
        unsafe {
            assert!(arena.alloc(layout(8)).is_null());
            for (pointer, size) in [(core::ptr::null_mut(), bytes), (pointer, Arena::LEAST - 1), (pointer, usize::MAX)]
            {
                assert!(!arena.give(pointer, size));
                assert_eq!(arena.size(), 0);
            }
            assert!(arena.give(pointer, bytes));
            assert!(!arena.give(pointer, bytes));
            assert_eq!(arena.size(), bytes);
            assert!(!arena.alloc(layout(8)).is_null());
        }
    }

    #[test]
    fn the_least_memory_is_enough_for_something_wherever_it_starts() {
        let mut memory = [0u64; 1024];
        for shift in 0..16 {
            let arena = Arena::new();
            unsafe {
                assert!(arena.give(memory.as_mut_ptr().cast::<u8>().add(shift), Arena::LEAST));
                assert!(!arena.alloc(layout(8)).is_null());
            }
        }
    }

    #[test]
    fn what_is_used_comes_and_goes_and_its_peak_stays() {
        let (mut memory, arena) = ([0u64; 4096], Arena::new());
        unsafe {
            assert!(arena.give(memory.as_mut_ptr().cast(), size_of_val(&memory)));
            let a = arena.alloc(layout(1000));
            let b = arena.alloc(layout(3000));
            assert_eq!((arena.used(), arena.refused()), (4000, 0));
            let peak = arena.peak();
            assert!((4000..4000 + Arena::LEAST + 64).contains(&peak), "{peak}");
            let a = arena.realloc(a, layout(1000), 500);
            assert_eq!(arena.used(), 3500);
            let b = arena.realloc(b, layout(3000), 6000);
            assert_eq!(arena.used(), 6500);
            assert!(arena.peak() >= peak + 3000);
            let peak = arena.peak();
            // What does not fit leaves what is there alone.
            assert!(arena.realloc(b, layout(6000), 1 << 20).is_null());
            assert_eq!((arena.used(), arena.refused(), arena.peak()), (6500, 1 << 20, peak));
            arena.dealloc(a, layout(500));
            arena.dealloc(b, layout(6000));
            assert_eq!((arena.used(), arena.peak()), (0, peak));
        }
    }
}
