//! For simulations only: members on the simulation's own runtime and on disks that forget.
//!
//! A simulated disk keeps records in order. A crash loses any number of the last ones that were not
//! acknowledged yet, and no other; a snapshot is kept whole or not at all. Nothing leaves the thread, so one
//! seed gives one run.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::config::Config;
use crate::error::OpenError;
use crate::host::{self, Storage};
use crate::machine::StateMachine;
use crate::raft::Raft;
use crate::runtime;
use crate::snapshot::{Pieces, Sink, Snapshot, SnapshotId, Snapshots};
use crate::store::Disk;
use crate::transport::Transport;
use crate::types::SnapshotMeta;
use crate::wal::Done;
use crate::wal::record::Record;
use crate::wal::recover::Recovered;

/// How long a sync may take, and one in eight that is slow.
const SYNC_MAX_MICROS: u64 = 4_000;
const SLOW_SYNC_MAX_MICROS: u64 = 60_000;

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
    random: u64,
    /// Raised by each crash: what was being synced then is not any more.
    boot: u64,
    is_syncing: bool,
    durable: Vec<Record>,
    unsynced: Vec<(Record, Option<Done>)>,
    snapshot: Option<Snapshot>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

impl SimDisk {
    /// An empty disk; `seed` says how long its syncs take and what its crashes lose.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(Platter {
            random: seed,
            boot: 0,
            is_syncing: false,
            durable: Vec::new(),
            unsynced: Vec::new(),
            snapshot: None,
        })))
    }

    /// Loses what a crash may lose, a snapshot that is being written among it. The member must be gone.
    pub fn crash(&self) {
        let mut platter = self.lock();
        let platter = &mut *platter;
        let n = u64::try_from(platter.unsynced.len()).expect("a length fits in 64 bits");
        let kept = usize::try_from(random(&mut platter.random) % (n + 1)).expect("it is at most a length");
        // Nobody is told of what was on its way.
        let lost = std::mem::take(&mut platter.unsynced);
        platter.durable.extend(lost.into_iter().take(kept).map(|(record, _)| record));
        platter.boot += 1;
        platter.is_syncing = false;
    }

    /// Whether a member has ever written here.
    pub fn is_empty(&self) -> bool {
        let platter = self.lock();
        platter.durable.is_empty() && platter.snapshot.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recover(&self) -> Result<Recovered, OpenError> {
        let platter = self.lock();
        let mut recovered = Recovered { snapshot: platter.snapshot.clone(), ..Recovered::default() };
        for record in &platter.durable {
            recovered.take(record.clone()).map_err(|reason| OpenError::Consensus { reason })?;
        }
        recovered.check(std::path::Path::new("simulated"))?;
        Ok(recovered)
    }

    /// Syncs what there is after a while, and again while there is more.
    fn sync_soon(&self, platter: &mut Platter) {
        if std::mem::replace(&mut platter.is_syncing, true) {
            return;
        }
        let (disk, boot) = (self.clone(), platter.boot);
        let n = platter.unsynced.len();
        let is_slow = random(&mut platter.random).is_multiple_of(8);
        let max = if is_slow { SLOW_SYNC_MAX_MICROS } else { SYNC_MAX_MICROS };
        let takes = Duration::from_micros(random(&mut platter.random) % max);
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            disk.synced(boot, n);
        });
    }

    fn synced(&self, boot: u64, n: usize) {
        let mut platter = self.lock();
        if platter.boot != boot {
            return;
        }
        let rest = platter.unsynced.split_off(n);
        let written = std::mem::replace(&mut platter.unsynced, rest);
        platter.is_syncing = false;
        let mut dones = Vec::new();
        for (record, done) in written {
            platter.durable.push(record);
            dones.extend(done);
        }
        if platter.unsynced.iter().any(|(_, done)| done.is_some()) {
            self.sync_soon(&mut platter);
        }
        drop(platter);
        dones.into_iter().for_each(|done| done(Ok(())));
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
        Some(Duration::from_micros(random(&mut platter.random) % SYNC_MAX_MICROS))
    }
}

/// A snapshot on a simulated disk, or on its way there.
struct SimPieces {
    disk: SimDisk,
    /// What was begun before a crash cannot be kept after it.
    boot: u64,
    meta: SnapshotMeta,
    id: SnapshotId,
    pieces: Vec<Bytes>,
}

impl fmt::Debug for SimPieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPieces").field("pieces", &self.pieces.len()).finish_non_exhaustive()
    }
}

impl Sink for SimPieces {
    fn push(&mut self, packed: &[u8]) -> io::Result<()> {
        self.pieces.push(Bytes::copy_from_slice(packed));
        Ok(())
    }

    fn count(&self) -> u64 {
        u64::try_from(self.pieces.len()).expect("a length fits in 64 bits")
    }

    fn finish(self: Box<Self>) -> io::Result<Snapshot> {
        Ok(Snapshot { meta: self.meta.clone(), pieces: Arc::from(self as Box<dyn Pieces>) })
    }
}

impl Pieces for SimPieces {
    fn id(&self) -> SnapshotId {
        self.id
    }

    fn count(&self) -> u64 {
        Sink::count(self)
    }

    fn packed_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::try_from(piece.len()).expect("a length fits in 64 bits")).sum()
    }

    fn in_memory(&self) -> bool {
        true
    }

    fn piece(&self, number: u64) -> Result<Bytes, OpenError> {
        let piece = usize::try_from(number).ok().and_then(|number| self.pieces.get(number));
        let reason = || format!("the snapshot has no piece {number}");
        piece.cloned().ok_or_else(|| OpenError::Consensus { reason: reason() })
    }

    fn keep(self: Arc<Self>, _old: u64) -> io::Result<()> {
        let mut platter = self.disk.lock();
        if platter.boot != self.boot {
            return Err(io::Error::other("the machine has crashed meanwhile"));
        }
        let index = |meta: &SnapshotMeta| meta.last_log_id.map(|id| id.index);
        if platter.snapshot.as_ref().is_none_or(|newest| index(&newest.meta) <= index(&self.meta)) {
            let meta = self.meta.clone();
            platter.snapshot = Some(Snapshot { meta, pieces: Arc::clone(&self) as _ });
        }
        Ok(())
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
