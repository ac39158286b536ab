//! For simulations only: members on the simulation's own runtime and on disks that forget.
//!
//! A simulated disk is the log itself in files, written and synced at instants of simulated time. A crash
//! loses any subset of the sectors of what was being written, and all that waited behind it; a snapshot is
//! kept whole or not at all. Nothing that decides leaves the thread, so one seed gives one run.

mod files;
mod pieces;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use self::files::{Tearing, Unsynced};
use self::pieces::SimPieces;
use crate::config::Config;
use crate::error::OpenError;
use crate::host::{self, Storage};
use crate::machine::StateMachine;
use crate::raft::Raft;
use crate::runtime;
use crate::snapshot::{Sink, Snapshot, Snapshots};
use crate::store::Disk;
use crate::transport::Transport;
use crate::types::SnapshotMeta;
use crate::wal::open::{Found, begin};
use crate::wal::record::Record;
use crate::wal::recover::Recovered;
use crate::wal::writer::Writer;
use crate::wal::{Done, Hooks, Options};

/// How long a sync may take, and one in eight that is slow.
const SYNC_MAX_MICROS: u64 = 4_000;
const SLOW_SYNC_MAX_MICROS: u64 = 60_000;
/// Small, so that segments fill up, and are freed, all the time.
const SEGMENT_BYTES: u64 = 64 * 1024;

/// From now on the random numbers of members that run on this thread come from `seed`.
pub fn seed_this_thread(seed: u64) {
    runtime::seed_this_thread(seed);
}

/// The next of a row of random numbers; `state` is the row.
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a member keeps over crashes. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Platter>>);

struct Platter {
    dir: PathBuf,
    random: u64,
    /// Raised by each crash: what was being synced then is not any more.
    boot: u64,
    /// How many of the unsynced records are being written.
    writing: usize,
    /// By how much it is slower than usual.
    slower: u32,
    /// How often a start found what a crash had left of a write.
    torn: u64,
    log: Option<Log>,
    unsynced: Vec<(Record, Option<Done>)>,
    snapshot: Option<Snapshot>,
}

/// The log of a member that runs.
struct Log {
    writer: Writer,
    tearing: Arc<Tearing>,
    _lock: File,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

impl SimDisk {
    /// A disk whose files are in `dir`, best in memory; `seed` says how long its syncs take and what its
    /// crashes lose. An empty directory is an empty disk.
    pub fn new(seed: u64, dir: PathBuf) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(Platter {
            dir,
            random: seed,
            boot: 0,
            writing: 0,
            slower: 1,
            torn: 0,
            log: None,
            unsynced: Vec::new(),
            snapshot: None,
        })))
    }

    /// From now on each sync takes so many times as long.
    pub fn slow_down(&self, times: u32) {
        self.lock().slower = times.max(1);
    }

    /// Loses what a crash may lose, a snapshot that is being written among it. The member must be gone.
    pub fn crash(&self) {
        let mut platter = self.lock();
        let platter = &mut *platter;
        let log = platter.log.take();
        // Nobody is told of what was on its way.
        let lost = std::mem::take(&mut platter.unsynced);
        let written = lost.into_iter().take(platter.writing).map(|(record, _)| record).collect();
        if let Some(Log { mut writer, tearing, .. }) = log
            && platter.writing > 0
        {
            tearing.tear(random(&mut platter.random));
            // It fails, unless all of it came through.
            writer.write_here(written).ok();
        }
        platter.boot += 1;
        platter.writing = 0;
    }

    /// Whether a crash now would tear something.
    pub fn is_writing(&self) -> bool {
        self.lock().writing > 0
    }

    /// How many of its starts found what a crash had left of a write, and cut it.
    pub fn torn_tails(&self) -> u64 {
        self.lock().torn
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there after a crash, or after a member that has stopped.
    fn recover(&self) -> Result<Recovered, OpenError> {
        let mut platter = self.lock();
        platter.unsynced.clear();
        platter.log = None;
        platter.boot += 1;
        platter.writing = 0;
        let ignore: crate::wal::Hook = Arc::new(|_, _| {});
        let options = Options {
            segment_bytes: SEGMENT_BYTES,
            files: Arc::new(Unsynced),
            hooks: Hooks { full: ignore.clone(), fatal: ignore },
            ..Options::new(&platter.dir)
        };
        let mut found = Found::read(&options)?;
        platter.torn += u64::from(found.is_torn());
        found.take_snapshot(platter.snapshot.clone());
        found.check(&platter.dir)?;
        let (mut writer, lock, recovered) = begin(options, found)?;
        let tearing = Arc::new(Tearing::default());
        writer.files = tearing.clone();
        platter.log = Some(Log { writer, tearing, _lock: lock });
        Ok(recovered)
    }

    /// Syncs what there is after a while, and again while there is more.
    fn sync_soon(&self, platter: &mut Platter) {
        if platter.writing > 0 {
            return;
        }
        let (disk, boot) = (self.clone(), platter.boot);
        platter.writing = platter.unsynced.len();
        let is_slow = random(&mut platter.random).is_multiple_of(8);
        let max = if is_slow { SLOW_SYNC_MAX_MICROS } else { SYNC_MAX_MICROS };
        let takes = Duration::from_micros(random(&mut platter.random) % max) * platter.slower;
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            disk.synced(boot);
        });
    }

    fn synced(&self, boot: u64) {
        let mut platter = self.lock();
        if platter.boot != boot {
            return;
        }
        let n = std::mem::take(&mut platter.writing);
        let rest = platter.unsynced.split_off(n);
        let written = std::mem::replace(&mut platter.unsynced, rest);
        let (records, dones): (Vec<_>, Vec<_>) = written.into_iter().unzip();
        let log = platter.log.as_mut();
        let result = log.map_or_else(
            || Err(io::Error::other("the disk is not open")),
            |log| log.writer.write_here(records),
        );
        if platter.unsynced.iter().any(|(_, done)| done.is_some()) {
            self.sync_soon(&mut platter);
        }
        drop(platter);
        let again = || result.as_ref().map(drop).map_err(|error| io::Error::other(error.to_string()));
        dones.into_iter().flatten().for_each(|done| done(again()));
    }
}

impl Disk for SimDisk {
    fn write(&self, records: Vec<Record>, done: Done) {
        let mut platter = self.lock();
        let mut records: Vec<_> = records.into_iter().map(|record| (record, None)).collect();
        match records.last_mut() {
            Some(last) => last.1 = Some(done),
            None => return done(Ok(())),
        }
        platter.unsynced.extend(records);
        self.sync_soon(&mut platter);
    }

    fn write_lazily(&self, record: Record) {
        self.lock().unsynced.push((record, None));
    }
}

impl Snapshots for SimDisk {
    fn begin(&self, meta: &SnapshotMeta) -> io::Result<Box<dyn Sink>> {
        let mut platter = self.lock();
        let id = [random(&mut platter.random), random(&mut platter.random)].map(u64::to_be_bytes).concat();
        let id = id.try_into().expect("twice eight bytes");
        let boot = platter.boot;
        Ok(Box::new(SimPieces { disk: self.clone(), boot, meta: meta.clone(), id, pieces: Vec::new() }))
    }

    fn current(&self) -> Option<Snapshot> {
        self.lock().snapshot.clone()
    }

    /// A crash within this time loses what was to be written.
    fn simulated(&self) -> Option<Duration> {
        let mut platter = self.lock();
        Some(Duration::from_micros(random(&mut platter.random) % SYNC_MAX_MICROS) * platter.slower)
    }
}

impl Raft {
    /// Opens a member on the runtime that this is called on. `config.dir` is not used.
    ///
    /// # Errors
    /// As [`Raft::open`].
    pub async fn open_simulated(
        config: Config,
        machine: Arc<dyn StateMachine>,
        transport: Arc<dyn Transport>,
        disk: &SimDisk,
    ) -> Result<Raft, OpenError> {
        let storage = Storage {
            keys: None,
            disk: Arc::new(disk.clone()),
            snapshots: Arc::new(disk.clone()),
            recovered: disk.recover()?,
        };
        let (stopped, watch_stopped) = watch::channel(false);
        let (opened, stopping, follow) =
            host::serve(&config, storage, machine, transport, watch_stopped).await?;
        let core = opened.core.clone();
        tokio::spawn(async move {
            // Either way it is time to go.
            stopping.await.ok();
            if let Err(error) = core.shutdown().await {
                tracing::error!(err = %error, "consensus did not shut down cleanly");
            }
            follow.await.ok();
            stopped.send_replace(true);
        });
        Ok(Raft::new(config.raft_id, opened))
    }
}
