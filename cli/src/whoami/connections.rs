//! The open connections, so that a stop can tell running requests from idle keep-alives.
//!
//! A connection is fresh (nothing asked yet), idle (between requests) or busy (a request is running).
//! A stop ends idle ones at once, gives fresh ones a moment for the request that is surely under way,
//! and waits for busy ones.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a connection that has asked nothing yet may still ask after a stop: the client's request
/// follows its connect by one round trip at most.
const FRESH_WAIT_MAX: Duration = Duration::from_millis(25);
/// The longest that running requests hold the exit; the container's own grace period is usually shorter.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fresh,
    Idle,
    Busy,
}

#[derive(Default)]
struct Inner {
    next_id: u64,
    stopping: bool,
    open: BTreeMap<u64, (TcpStream, Phase)>,
}

impl Inner {
    fn n(&self, phase: Phase) -> usize {
        self.open.values().filter(|(_, p)| *p == phase).count()
    }

    /// Ends the reading side alone: a request that is already in the socket is still answered.
    fn end(&self, phase: Phase) {
        for (stream, _) in self.open.values().filter(|(_, p)| *p == phase) {
            // An error means that the client was faster.
            drop(stream.shutdown(Shutdown::Read));
        }
    }
}

/// All open connections of the server.
#[derive(Default)]
pub(crate) struct Connections {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Connections {
    /// Registers a new connection.
    pub(crate) fn add(&self, stream: &TcpStream) -> io::Result<u64> {
        let copy = stream.try_clone()?;
        let mut inner = self.lock();
        inner.next_id += 1;
        let id = inner.next_id;
        inner.open.insert(id, (copy, Phase::Fresh));
        Ok(id)
    }

    pub(crate) fn busy(&self, id: u64) {
        self.set(id, Phase::Busy);
    }

    pub(crate) fn idle(&self, id: u64) {
        self.set(id, Phase::Idle);
    }

    pub(crate) fn remove(&self, id: u64) {
        self.lock().open.remove(&id);
        self.changed.notify_all();
    }

    pub(crate) fn n_busy(&self) -> usize {
        self.lock().n(Phase::Busy)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Returns when no request runs any more, or after the limits above.
    pub(crate) fn stop(&self) {
        let mut inner = self.lock();
        inner.stopping = true;
        inner.end(Phase::Idle);
        let inner = self.wait(inner, FRESH_WAIT_MAX, |inner| inner.n(Phase::Fresh) == 0);
        inner.end(Phase::Fresh);
        drop(self.wait(inner, BUSY_WAIT_MAX, |inner| inner.n(Phase::Busy) == 0));
    }

    fn wait<'a>(
        &self,
        guard: MutexGuard<'a, Inner>,
        limit: Duration,
        done: impl Fn(&Inner) -> bool,
    ) -> MutexGuard<'a, Inner> {
        self.changed
            .wait_timeout_while(guard, limit, |inner| !done(inner))
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn set(&self, id: u64, phase: Phase) {
        if let Some((_, current)) = self.lock().open.get_mut(&id) {
            *current = phase;
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
