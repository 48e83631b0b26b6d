//! An allocator that counts: how many bytes are held, and the most since a moment.
//!
//! A test program makes it its `#[global_allocator]`; the counts are those of all threads together.
#![allow(unsafe_code, reason = "an allocator is unsafe by its nature; this one passes every call on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system allocator, which remembers the most bytes that were held at once.
pub struct Held;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Returns the bytes that are held now.
pub fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

/// Returns the most bytes that were held at once since the last call, and starts anew.
pub fn reset_peak() -> usize {
    PEAK.swap(held(), Ordering::Relaxed)
}

// SAFETY: every call goes to the system allocator unchanged; counting touches atomics alone.
unsafe impl GlobalAlloc for Held {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's obligations are those of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the pointer came from `alloc` above, that is from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}
