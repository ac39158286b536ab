//! A client that opens a new connection for each request, all along, and counts what fails.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::http::get;
use crate::wait::{Stopwatch, pause};

/// What the client saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests answered with 200.
    pub n_ok: usize,
    /// Every other outcome, with the second at which it came.
    pub failures: Vec<String>,
}

/// A client running in the background until [`Load::stop`].
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Asks the addresses in turn, one request after the other, about 100 a second.
    #[must_use]
    pub fn start(addresses: &[Ipv4Addr], port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let thread = std::thread::spawn({
            let (stop, seen, addresses) = (Arc::clone(&stop), Arc::clone(&seen), addresses.to_vec());
            move || {
                let watch = Stopwatch::start();
                let mut turn = addresses.iter().cycle();
                while !stop.load(Ordering::Relaxed) {
                    let Some(address) = turn.next() else { return };
                    let result = get(*address, port, "/");
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(answer) if answer.status == 200 => seen.n_ok += 1,
                        Ok(answer) => {
                            let at = watch.elapsed().as_secs_f64();
                            seen.failures.push(format!("{at:.3} s {address}: status {}", answer.status));
                        }
                        Err(err) => {
                            let at = watch.elapsed().as_secs_f64();
                            seen.failures.push(format!("{at:.3} s {address}: {err}"));
                        }
                    }
                    drop(seen);
                    pause();
                }
            }
        });
        Self { stop, seen, thread: Some(thread) }
    }

    /// Requests answered so far.
    #[must_use]
    pub fn n_ok(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).n_ok
    }

    /// Ends the client and says what it saw.
    #[must_use]
    pub fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in the thread shows as too few requests.
            let _ = thread.join();
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
