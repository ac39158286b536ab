//! What both simulations are made of: a state that all parts share, steps until something holds, and pairs of
//! machines.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use turmoil::Sim;

use crate::trace::{Trace, step};

/// A simulation's shared state. Clones are the same one.
pub(crate) struct Shared<S>(Arc<Mutex<S>>);

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Shared<S> {
        Shared(Arc::clone(&self.0))
    }
}

/// What each state has.
pub(crate) trait Base {
    /// The row of its random numbers.
    fn random(&mut self) -> &mut u64;
    fn trace(&mut self) -> &mut Trace;

    /// A random number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        skep_raft::sim::random(self.random()) % n
    }

    /// One of them.
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let n = u64::try_from(of.len()).unwrap();
        of[usize::try_from(self.below(n)).unwrap()]
    }
}

impl<S: Base> Shared<S> {
    pub(crate) fn new(state: S) -> Shared<S> {
        Shared(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, S> {
        self.0.lock().expect("a simulation has one thread")
    }

    pub(crate) fn below(&self, n: u64) -> u64 {
        self.lock().below(n)
    }

    pub(crate) fn pick<T: Copy>(&self, of: &[T]) -> T {
        self.lock().pick(of)
    }

    pub(crate) fn note(&self, line: String) {
        self.lock().trace().note(line);
    }

    pub(crate) fn fail(&self, line: String) {
        self.lock().trace().fail(line);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.lock().trace().has_failed()
    }

    /// Runs until `wanted`, at most for `limit`, and has `observe` look after each step. False after a failure, too.
    pub(crate) fn run_until(
        &self,
        sim: &mut Sim<'_>,
        limit: Duration,
        observe: impl Fn(&Shared<S>),
        wanted: impl Fn(&Shared<S>) -> bool,
    ) -> bool {
        let end = sim.elapsed() + limit;
        while sim.elapsed() < end {
            if let Err(error) = step(sim) {
                self.fail(format!("a machine failed: {error}"));
                return false;
            }
            observe(self);
            if self.has_failed() {
                return false;
            }
            if wanted(self) {
                return true;
            }
        }
        false
    }
}

/// All but one.
pub(crate) fn others(ids: &[u64], one: u64) -> impl Iterator<Item = u64> {
    ids.iter().copied().filter(move |id| *id != one)
}

/// Each two of them, once.
pub(crate) fn pairs(ids: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    ids.iter().flat_map(|one| ids.iter().map(move |other| (*one, *other))).filter(|(one, other)| one < other)
}
