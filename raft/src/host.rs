//! The thread that consensus lives on: its runtime, its openraft, its log, from opening to shutdown.
//!
//! A runtime of its own, so that nothing else can hold up a heartbeat. Handles reach openraft through
//! its channels; the host ends when the last of them is gone or asks for it, and only then is the
//! directory free again.

use std::sync::Arc;
use std::time::Duration;

use openraft::SnapshotPolicy;
use openraft::rt::WatchReceiver;
use tokio::sync::{oneshot, watch};

use crate::config::Config;
use crate::error::OpenError;
use crate::machine::{Machine, StateMachine};
use crate::network::{Alone, Network};
use crate::raft::Leadership;
use crate::store::LogStore;
use crate::types::Types;
use crate::wal::{Options, Wal};

pub(crate) type Core = openraft::Raft<Types, Machine>;

/// What a handle is made of.
pub(crate) struct Opened {
    pub(crate) core: Core,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Dropped or sent: the host shuts down.
    pub(crate) stop: oneshot::Sender<()>,
    /// True once the host has let go of everything.
    pub(crate) stopped: watch::Receiver<bool>,
}

/// Starts the thread; answers once the log is open and what was committed is applied.
pub(crate) async fn start(config: Config, machine: Arc<dyn StateMachine>) -> Result<Opened, OpenError> {
    let dir = config.dir.clone();
    let (ready, opened) = oneshot::channel();
    std::thread::Builder::new()
        .name("skep-raft".to_owned())
        .spawn(move || run(&config, machine, ready))
        .map_err(OpenError::io("start the thread of consensus on", &dir))?;
    opened.await.unwrap_or_else(|_| {
        Err(OpenError::Consensus { reason: "its thread panicked; see the log above".to_owned() })
    })
}

fn run(config: &Config, machine: Arc<dyn StateMachine>, ready: oneshot::Sender<Result<Opened, OpenError>>) {
    let opened = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(OpenError::io("make a runtime for", &config.dir))
        .and_then(|runtime| Wal::open(Options::new(&config.dir)).map(|opened| (runtime, opened)));
    let (runtime, (wal, recovered)) = match opened {
        Ok(opened) => opened,
        // The caller may be gone; then nobody is left to tell.
        Err(error) => return drop(ready.send(Err(error))),
    };
    let wal = Arc::new(wal);
    let store = LogStore::new(Arc::clone(&wal), recovered);
    let (stopped, watch_stopped) = watch::channel(false);
    runtime.block_on(async {
        let core = match build(config, store, Machine::new(machine)).await {
            Ok(core) => core,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let (stop, stopping) = oneshot::channel();
        let (leadership, watch_leadership) = watch::channel(Leadership::Follower);
        let follow = tokio::spawn(follow_leadership(core.clone(), leadership));
        elect_if_alone(&core, config.raft_id).await;
        let opened =
            Opened { core: core.clone(), leadership: watch_leadership, stop, stopped: watch_stopped };
        drop(ready.send(Ok(opened)));
        // Either way it is time to go.
        stopping.await.ok();
        if let Err(error) = core.shutdown().await {
            tracing::error!(err = %error, "consensus did not shut down cleanly");
        }
        follow.await.ok();
    });
    drop(runtime);
    wal.close();
    stopped.send_replace(true);
}

async fn build(config: &Config, store: LogStore, machine: Machine) -> Result<Core, OpenError> {
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
        // No snapshots yet, and so no purge.
        snapshot_policy: SnapshotPolicy::Never,
        ..openraft::Config::default()
    };
    let settings = settings.validate().map_err(|e| OpenError::Consensus { reason: e.to_string() })?;
    Core::new(config.raft_id, Arc::new(settings), Network(Arc::new(Alone)), store, machine)
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

/// Tells of leadership, gained only when this term's blank entry is applied: before, the state may lack
/// what earlier leaders committed.
async fn follow_leadership(core: Core, leadership: watch::Sender<Leadership>) {
    let mut metrics = core.metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            if let Err(error) = &metrics.running_state {
                tracing::debug!(err = %error, "consensus has stopped");
                break;
            }
            let term = metrics.current_term;
            let caught_up = metrics.last_applied.as_ref().is_some_and(|id| id.leader_id.term == term);
            if metrics.state.is_leader() && caught_up {
                Leadership::Leader { term }
            } else {
                Leadership::Follower
            }
        };
        leadership.send_if_modified(|seen| std::mem::replace(seen, now) != now);
        if metrics.changed().await.is_err() {
            break;
        }
    }
    leadership.send_replace(Leadership::Follower);
}
