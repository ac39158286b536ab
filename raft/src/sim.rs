//! For simulations only: members on the simulation's own runtime and on disks that forget.
//!
//! A simulated disk keeps records in order. A crash loses any number of the last ones that were not
//! acknowledged yet, and no other; a log that begins anew does so whole or not at all. Nothing leaves the thread, so one seed gives one run.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::error::OpenError;
use crate::host::{self, Storage};
use crate::machine::StateMachine;
use crate::raft::Raft;
use crate::runtime;
use crate::snapshot::{Snapshot, Snapshots};
use crate::store::Disk;
use crate::transport::Transport;
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

/// What a crash leaves whole or not at all.
enum Unit {
    One(Record),
    /// In the place of all before.
    Anew(Vec<Record>),
}

struct Platter {
    random: u64,
    /// Raised by each crash: what was being synced then is not any more.
    boot: u64,
    is_syncing: bool,
    durable: Vec<Record>,
    unsynced: Vec<(Unit, Option<Done>)>,
    snapshot: Option<Snapshot>,
}

impl Platter {
    fn keep(&mut self, unit: Unit) {
        match unit {
            Unit::One(record) => self.durable.push(record),
            Unit::Anew(records) => self.durable = records,
        }
    }
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

    /// Loses what a crash may lose. The member must be gone.
    pub fn crash(&self) {
        let mut platter = self.lock();
        let platter = &mut *platter;
        let n = u64::try_from(platter.unsynced.len()).expect("a length fits in 64 bits");
        let kept = usize::try_from(random(&mut platter.random) % (n + 1)).expect("it is at most a length");
        // Nobody is told of what was on its way.
        let lost = std::mem::take(&mut platter.unsynced);
        lost.into_iter().take(kept).for_each(|(unit, _)| platter.keep(unit));
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
        for (unit, done) in written {
            platter.keep(unit);
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
        let mut records: Vec<_> = records.into_iter().map(|record| (Unit::One(record), None)).collect();
        match records.last_mut() {
            Some(last) => last.1 = Some(done),
            None => return done(Ok(())),
        }
        platter.unsynced.extend(records);
        self.sync_soon(&mut platter);
    }

    fn write_lazily(&self, record: Record) {
        self.lock().unsynced.push((Unit::One(record), None));
    }

    fn begin_anew(&self, records: Vec<Record>) {
        self.lock().unsynced.push((Unit::Anew(records), None));
    }
}

impl Snapshots for SimDisk {
    fn save(&self, snapshot: &Snapshot) -> io::Result<()> {
        let mut platter = self.lock();
        let index = |snapshot: &Snapshot| snapshot.meta.last_log_id.map(|id| id.index);
        if platter.snapshot.as_ref().is_none_or(|newest| index(newest) <= index(snapshot)) {
            platter.snapshot = Some(snapshot.clone());
        }
        Ok(())
    }

    fn current(&self) -> io::Result<Option<Snapshot>> {
        Ok(self.lock().snapshot.clone())
    }

    fn is_simulated(&self) -> bool {
        true
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
