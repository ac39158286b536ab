//! The system's allocator, with a count of the bytes that are out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

static BYTES: AtomicU64 = AtomicU64::new(0);

/// Counts and passes on.
pub(crate) struct Counting;

/// Bytes asked for and not given back.
pub(crate) fn bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}

#[expect(unsafe_code, reason = "an allocator is unsafe to write; each call goes to the system's unchanged")]
// SAFETY: all is done by `System`; the count changes nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(u64::try_from(layout.size()).unwrap_or_default(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.fetch_sub(u64::try_from(layout.size()).unwrap_or_default(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
}
