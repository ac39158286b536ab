//! The thread that consensus lives on: its runtime, its openraft, its log, from opening to shutdown.
//!
//! A runtime of its own, so that nothing else can hold up a heartbeat. Handles reach openraft through
//! its channels; the host ends when the last of them is gone or asks for it, and only then is the
//! directory free again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::SnapshotPolicy;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::compact;
use crate::config::Config;
use crate::error::OpenError;
use crate::keys::Keys;
use crate::machine::{Machine, StateMachine};
use crate::network::Network;
use crate::raft::Leadership;
use crate::snapshot::{SnapshotDir, Snapshots};
use crate::space::{self, NoSpace};
use crate::status::{Follow, Heard, Status};
use crate::store::{Disk, LogStore};
use crate::transfer::Incoming;
use crate::transport::{Calls, Transport};
use crate::types::Types;
use crate::wal::recover::Recovered;
use crate::wal::{Hook, Options, Wal};

/// How many entries one append to a member carries at most; the log store bounds their bytes.
const PAYLOAD_ENTRIES_MAX: u64 = 512;

pub(crate) type Core = openraft::Raft<Types, Machine>;

/// What a handle is made of.
pub(crate) struct Opened {
    pub(crate) core: Core,
    pub(crate) calls: Calls,
    pub(crate) heard: Heard,
    pub(crate) incoming: Incoming,
    /// The index of the last entry applied.
    pub(crate) applied: watch::Receiver<Option<u64>>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Dropped or sent: the host shuts down.
    pub(crate) stop: oneshot::Sender<()>,
    /// True once the host has let go of everything.
    pub(crate) stopped: watch::Receiver<bool>,
    /// That there is no room for the log to go on.
    pub(crate) full: watch::Receiver<Option<NoSpace>>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) keys: Option<Keys>,
}

/// Starts the thread; answers once the log is open and what was committed is applied.
pub(crate) async fn start(
    config: Config,
    machine: Arc<dyn StateMachine>,
    transport: Arc<dyn Transport>,
) -> Result<Opened, OpenError> {
    let dir = config.dir.clone();
    let (ready, opened) = oneshot::channel();
    std::thread::Builder::new()
        .name("skep-raft".to_owned())
        .spawn(move || run(&config, machine, transport, ready))
        .map_err(OpenError::io("start the thread of consensus on", &dir))?;
    opened.await.unwrap_or_else(|_| {
        Err(OpenError::Consensus { reason: "its thread panicked; see the log above".to_owned() })
    })
}

fn run(
    config: &Config,
    machine: Arc<dyn StateMachine>,
    transport: Arc<dyn Transport>,
    ready: oneshot::Sender<Result<Opened, OpenError>>,
) {
    let full = Full::new(&config.dir);
    let opened = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(OpenError::io("make a runtime for", &config.dir))
        .and_then(|runtime| {
            let mut options = Options::new(&config.dir);
            options.hooks.full = full.hook();
            options.keys.clone_from(&config.keys);
            Wal::open(options).map(|opened| (runtime, opened))
        });
    let (runtime, (wal, recovered)) = match opened {
        Ok(opened) => opened,
        // The caller may be gone; then nobody is left to tell.
        Err(error) => return drop(ready.send(Err(error))),
    };
    let keys = wal.keys().clone();
    let wal = Arc::new(wal);
    let snapshots = match SnapshotDir::new(&config.dir, &keys) {
        Ok(snapshots) => Arc::new(snapshots),
        Err(error) => return drop(ready.send(Err(error))),
    };
    let storage = Storage { disk: Arc::clone(&wal) as _, snapshots, recovered, keys: Some(keys) };
    let (stopped, watch_stopped) = watch::channel(false);
    runtime.block_on(async {
        let served = serve(config, storage, machine, transport, watch_stopped).await;
        let (mut opened, mut stopping, mut follow) = match served {
            Ok(served) => served,
            Err(error) => return drop(ready.send(Err(error))),
        };
        opened.full = full.0.subscribe();
        let core = opened.core.clone();
        drop(ready.send(Ok(opened)));
        // Either way it is time to go.
        tokio::select! {
            _ = &mut stopping => {}
            _ = &mut follow => {
                full.after_a_stop();
                stopping.await.ok();
            }
        }
        if let Err(error) = core.shutdown().await {
            tracing::error!(err = %error, "consensus did not shut down cleanly");
        }
        if !follow.is_finished() {
            follow.await.ok();
        }
    });
    drop(runtime);
    wal.close();
    stopped.send_replace(true);
}

/// Tells once that there is no room.
#[derive(Clone)]
struct Full(watch::Sender<Option<NoSpace>>, PathBuf);

impl Full {
    fn new(dir: &Path) -> Full {
        Full(watch::Sender::new(None), dir.to_owned())
    }

    /// What the log calls.
    fn hook(&self) -> Hook {
        let full = self.clone();
        Arc::new(move |file, error| full.tell(format!("cannot write {}: {error}", file.display())))
    }

    /// Consensus has stopped by itself. A snapshot that found no room stops it too.
    fn after_a_stop(&self) {
        if !space::has_room(&self.1) {
            self.tell("what came from another manager could not be kept".to_owned());
        }
    }

    fn tell(&self, reason: String) {
        let dir = self.1.clone();
        self.0.send_if_modified(|full| {
            let is_news = full.is_none();
            full.get_or_insert(NoSpace { dir, reason });
            is_news
        });
    }
}

/// What a member keeps, and what it found there.
pub(crate) struct Storage {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) snapshots: Arc<dyn Snapshots>,
    pub(crate) recovered: Recovered,
    /// None in a simulation, whose disk is not sealed.
    pub(crate) keys: Option<Keys>,
}

/// Starts openraft on the runtime that this is called on.
pub(crate) async fn serve(
    config: &Config,
    storage: Storage,
    machine: Arc<dyn StateMachine>,
    transport: Arc<dyn Transport>,
    stopped: watch::Receiver<bool>,
) -> Result<(Opened, oneshot::Receiver<()>, JoinHandle<()>), OpenError> {
    let Storage { disk, snapshots, mut recovered, keys } = storage;
    let incoming = Incoming::new(Arc::clone(&snapshots));
    let state = Arc::clone(&machine);
    let machine = Machine::new(machine, snapshots, recovered.snapshot.take())?;
    let extent = machine.extent();
    let store = LogStore::new(Arc::clone(&disk), recovered);
    let applied = machine.applied();
    let core = build(config, store, machine, Arc::clone(&transport)).await?;
    let (stop, stopping) = oneshot::channel();
    let heard = Heard::default();
    let (status, watch_status) = watch::channel(Status::new(config.raft_id));
    let (leadership, watch_leadership) = watch::channel(Leadership::Follower);
    let follow = Follow {
        core: core.clone(),
        silence_max: config.election.1,
        status,
        leadership,
        heard_leader: heard.leader.subscribe(),
        removed: heard.removed.subscribe(),
        leads_since: None,
    };
    let follow = tokio::spawn(follow.run());
    tokio::spawn(compact::run(core.clone(), state, extent));
    elect_if_alone(&core, config.raft_id).await;
    let opened = Opened {
        core,
        calls: Calls::new(transport, Handle::current()),
        heard,
        incoming,
        applied,
        status: watch_status,
        leadership: watch_leadership,
        stop,
        stopped,
        full: watch::Sender::new(None).subscribe(),
        disk,
        keys,
    };
    Ok((opened, stopping, follow))
}

async fn build(
    config: &Config,
    store: LogStore,
    machine: Machine,
    transport: Arc<dyn Transport>,
) -> Result<Core, OpenError> {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let settings = openraft::Config {
        cluster_name: "skep".to_owned(),
        heartbeat_interval: millis(config.heartbeat),
        election_timeout_min: millis(config.election.0),
        election_timeout_max: millis(config.election.1),
        enable_pre_vote: Some(true),
        // A restarted leader would lead on in its old term, on a state that may lack what it had
        // acknowledged: the commit mark is written lazily. A new term's blank entry proves it complete.
        enable_leader_restore: Some(false),
        max_payload_entries: PAYLOAD_ENTRIES_MAX,
        // A member that is back is written to soon: it counts for a majority again only then.
        backoff: "20ms 40ms 80ms 160ms ...250ms".to_owned(),
        // `compact` decides both, by settings that may change.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..openraft::Config::default()
    };
    let settings = settings.validate().map_err(|e| OpenError::Consensus { reason: e.to_string() })?;
    Core::new(config.raft_id, Arc::new(settings), Network(transport), store, machine)
        .await
        .map_err(|e| OpenError::Consensus { reason: e.to_string() })
}

/// The only voter need not wait for an election timeout: nobody else can lead.
pub(crate) async fn elect_if_alone(core: &Core, raft_id: u64) {
    if core.voter_ids().eq([raft_id])
        && let Err(error) = core.trigger().elect(false).await
    {
        tracing::error!(err = %error, "consensus stopped before its first election");
    }
}
