//! The one place that waits and reads a clock.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Time since it was made.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "real clusters live in real time; this is the only clock here"
    )]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Waits until `condition` gives a value.
///
/// # Panics
/// When it has not within `limit`; `what` tells which condition that was.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, condition: impl FnMut() -> Option<T>) -> T {
    let Some(value) = try_wait_for(limit, condition) else {
        panic!("{what}: not within {:.1} s", limit.as_secs_f64());
    };
    value
}

/// As [`wait_for`], and says `None` at the limit.
pub fn try_wait_for<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let watch = Stopwatch::start();
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if watch.elapsed() >= limit {
            return None;
        }
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one sleep: between two looks at a condition, or two requests of a client"
)]
pub(crate) fn pause() {
    std::thread::sleep(POLL);
}
