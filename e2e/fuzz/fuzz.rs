//! libFuzzer's program: the environment variable `SKEP_FUZZ` names the target. With `SKEP_FUZZ_SEEDS` it does nothing but
//! write what fuzzing begins with into that directory, in one of its own for each target.

#![no_main]

mod seeds;
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// No input is worth more memory at once: the largest piece of anything is a megabyte, and vectors double.
const ALLOCATION_MAX: usize = 16 << 20;

struct Bounded;

#[global_allocator]
static BOUNDED: Bounded = Bounded;

// SAFETY: all is the system's allocator's.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        assert!(layout.size() <= ALLOCATION_MAX, "{} bytes for so short an input", layout.size());
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller says.
        unsafe { System.dealloc(at, layout) }
    }
}

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("SKEP_FUZZ").expect("SKEP_FUZZ names a target");
    let found = targets::TARGETS.iter().find(|(known, _)| *known == name);
    found.expect("SKEP_FUZZ names a target of targets.rs").1
});

fn write_seeds() {
    let Some(dir) = std::env::var_os("SKEP_FUZZ_SEEDS") else { return };
    seeds::all(&mut |target, name, bytes| {
        let dir = Path::new(&dir).join(target);
        fs::create_dir_all(&dir).expect("the directory can be made");
        fs::write(dir.join(name), bytes).expect("the file can be written");
    });
    std::process::exit(0);
}

libfuzzer_sys::fuzz_target!(init: write_seeds(), |bytes: &[u8]| TARGET(bytes));
