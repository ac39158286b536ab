//! When a snapshot is made and how much of the log before it goes: by entries as the state says, and by
//! bytes, as a few large entries fill memory and disk as well as many small ones.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::rt::WatchReceiver;

use crate::host::Core;
use crate::machine::StateMachine;
use crate::snapshot::Pieces;

/// A log of more bytes since the last snapshot is snapshotted, however few entries they are. Where the
/// snapshot itself is larger than that, as many bytes as it has: it is written no more often than the log.
pub(crate) const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Of the entries that stay in the log before a snapshot, no more bytes than about this.
pub(crate) const KEPT_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// How closely the bytes of the log are known.
const MARK_BYTES: u64 = 1024 * 1024;

/// When the log is compacted. The defaults are Swarm's (`SK:manager/state/raft/raft.go`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compaction {
    /// After how many entries a snapshot is made; 0: only for the bytes of the log.
    pub every: u64,
    /// How many entries before a snapshot stay in the log, for members that are only a little behind.
    pub keep: u64,
    /// How many snapshots older than the newest stay on disk.
    pub old_snapshots: u64,
}

impl Default for Compaction {
    fn default() -> Compaction {
        Compaction { every: 10_000, keep: 500, old_snapshots: 0 }
    }
}

/// How far the log reaches; an index is one more than that of the last entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Log {
    /// What was applied.
    pub(crate) applied: u64,
    /// What the newest snapshot has.
    pub(crate) snapshot: u64,
    /// What is gone from the log.
    pub(crate) purged: u64,
    /// Of the entries after the snapshot.
    pub(crate) bytes: u64,
    /// Of the snapshot.
    pub(crate) snapshot_bytes: u64,
    /// The first entry of which no more than [`KEPT_BYTES_MAX`] lie before the snapshot.
    pub(crate) light_from: u64,
}

/// What is to be done about a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Todo {
    /// A snapshot is made.
    pub(crate) snapshot: bool,
    /// All before this index goes.
    pub(crate) purge_to: u64,
}

/// Decides it.
pub(crate) fn todo(bounds: Compaction, log: &Log) -> Todo {
    let is_long = bounds.every > 0 && log.applied.saturating_sub(log.snapshot) >= bounds.every;
    let is_large = log.bytes > LOG_BYTES_MAX.max(log.snapshot_bytes);
    let purge_to = log.snapshot.saturating_sub(bounds.keep).max(log.light_from).min(log.snapshot);
    Todo { snapshot: (is_long || is_large) && log.applied > log.snapshot, purge_to: purge_to.max(log.purged) }
}

/// Counts the bytes of the entries that are applied; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extent(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    /// Of all entries applied since the opening.
    bytes: u64,
    /// How many those were that the newest snapshot has.
    in_snapshot: u64,
    snapshot_bytes: u64,
    /// Now and then, an index and the bytes before it.
    marks: VecDeque<(u64, u64)>,
}

impl Extent {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry of `bytes` was applied.
    pub(crate) fn applied(&self, index: u64, bytes: usize) {
        let mut counted = self.counted();
        if counted.marks.back().is_none_or(|(_, at)| counted.bytes - at >= MARK_BYTES) {
            let at = counted.bytes;
            counted.marks.push_back((index, at));
        }
        counted.bytes += u64::try_from(bytes).expect("a length fits in 64 bits");
    }

    /// The bytes of all entries up to now.
    pub(crate) fn bytes(&self) -> u64 {
        self.counted().bytes
    }

    /// A snapshot was kept that has the entries up to when there were `log_bytes`.
    pub(crate) fn kept(&self, pieces: &dyn Pieces, log_bytes: u64) {
        let mut counted = self.counted();
        // One that was late is not the newest.
        if log_bytes >= counted.in_snapshot {
            counted.in_snapshot = log_bytes;
            counted.snapshot_bytes = pieces.packed_bytes();
        }
    }

    fn fill(&self, log: &mut Log) {
        let mut counted = self.counted();
        while counted.marks.front().is_some_and(|(index, _)| *index < log.purged) {
            counted.marks.pop_front();
        }
        log.bytes = counted.bytes - counted.in_snapshot;
        log.snapshot_bytes = counted.snapshot_bytes;
        let heavy = |(_, at): &&(u64, u64)| at + KEPT_BYTES_MAX < counted.in_snapshot;
        let n_heavy = counted.marks.iter().take_while(heavy).count();
        log.light_from =
            if n_heavy == 0 { 0 } else { counted.marks.get(n_heavy).map_or(0, |(index, _)| *index) };
    }
}

/// Compacts the log of a member until its consensus stops.
pub(crate) async fn run(core: Core, machine: Arc<dyn StateMachine>, extent: Extent) {
    let mut metrics = core.metrics();
    // A snapshot that was asked for is being made until it is there, and a purge waits while a member is
    // sent what it would remove: neither is asked for twice.
    let (mut asked, mut purged) = (None, 0);
    loop {
        let mut log = {
            let now = metrics.borrow_watched();
            let after = |id: &Option<crate::types::LogId>| id.map_or(0, |id| id.index + 1);
            Log {
                applied: after(&now.last_applied),
                snapshot: after(&now.snapshot),
                purged: after(&now.purged),
                ..Log::default()
            }
        };
        extent.fill(&mut log);
        asked = asked.filter(|at| log.snapshot < *at);
        let todo = todo(machine.compaction(), &log);
        let trigger = core.trigger();
        let mut done = Ok(());
        if todo.snapshot && asked.is_none() {
            asked = Some(log.applied);
            done = trigger.snapshot().await;
        }
        if todo.purge_to > log.purged.max(purged) {
            purged = todo.purge_to;
            done = done.and(trigger.purge_log(purged - 1).await);
        }
        if done.is_err() || metrics.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Compaction = Compaction { every: 100, keep: 10, old_snapshots: 0 };

    #[test]
    fn entries_and_bytes_both_make_a_snapshot() {
        let log = Log { applied: 150, snapshot: 51, purged: 41, ..Log::default() };
        let made = |bounds, log: Log| todo(bounds, &log).snapshot;
        assert!(!made(BOUNDS, log));
        assert!(made(BOUNDS, Log { applied: 151, ..log }));
        assert!(!made(Compaction { every: 0, ..BOUNDS }, Log { applied: 999, ..log }));
        assert!(made(BOUNDS, Log { bytes: LOG_BYTES_MAX + 1, ..log }));
        let large = Log { bytes: LOG_BYTES_MAX + 1, snapshot_bytes: 2 * LOG_BYTES_MAX, ..log };
        assert!(!made(BOUNDS, large), "less than the snapshot has");
        assert!(made(BOUNDS, Log { bytes: 3 * LOG_BYTES_MAX, ..large }));
        let waits = Log { applied: 300, snapshot: 151, purged: 41, ..Log::default() };
        assert!(made(BOUNDS, waits), "a purge that waits holds up no snapshot");
    }

    #[test]
    fn what_is_kept_is_bounded_by_entries_and_bytes() {
        let log = Log { applied: 120, snapshot: 101, purged: 41, ..Log::default() };
        let purged = |bounds, log: Log| todo(bounds, &log).purge_to;
        assert_eq!(purged(BOUNDS, log), 91);
        assert_eq!(purged(Compaction { keep: 200, ..BOUNDS }, log), 41);
        assert_eq!(purged(BOUNDS, Log { light_from: 99, ..log }), 99);
        assert_eq!(purged(BOUNDS, Log { light_from: 110, ..log }), 101, "no more than the snapshot has");
    }

    #[test]
    fn bytes_are_counted_from_the_snapshot_on() {
        #[derive(Debug)]
        struct OfSize(u64);
        impl Pieces for OfSize {
            fn id(&self) -> crate::snapshot::SnapshotId {
                [0; 16]
            }
            fn count(&self) -> u64 {
                0
            }
            fn packed_bytes(&self) -> u64 {
                self.0
            }
            fn piece(&self, _: u64) -> Result<bytes::Bytes, crate::error::OpenError> {
                unreachable!("nobody reads it")
            }
            fn keep(self: Arc<Self>, _: u64) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (extent, entry) = (Extent::default(), 4 * 1024 * 1024);
        (0..20).for_each(|index| extent.applied(index, entry));
        let mut log = Log { applied: 20, ..Log::default() };
        extent.fill(&mut log);
        assert_eq!((log.bytes, log.light_from), (80 * 1024 * 1024, 0), "nothing is in a snapshot");
        assert!(todo(Compaction::default(), &log).snapshot);
        let at = extent.bytes();
        extent.applied(20, entry);
        extent.kept(&OfSize(7), at);
        log = Log { applied: 21, snapshot: 20, ..Log::default() };
        extent.fill(&mut log);
        assert_eq!((log.bytes, log.snapshot_bytes), (4 * 1024 * 1024, 7));
        let done = Todo { snapshot: false, purge_to: 12 };
        assert_eq!(todo(Compaction::default(), &log), done, "eight entries of 4 MiB stay");
        log.purged = 12;
        extent.fill(&mut log);
        assert_eq!(todo(Compaction::default(), &log), done);
    }
}
