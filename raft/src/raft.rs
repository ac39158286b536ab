//! A member's handle: open, bootstrap, watch who leads, shut down. What it writes and reads is in
//! `client`, what others ask of it in `serve`, how members change in `members`.
//!
//! Cheap to clone, and usable from any tokio runtime. The member lives until it is shut down or the last
//! handle is dropped.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::errors::RaftError;
use openraft::rt::WatchReceiver;
use tokio::sync::{oneshot, watch};

use crate::config::Config;
use crate::error::{BootstrapError, OpenError};
use crate::host::{self, Core, Opened};
use crate::keys::Keys;
use crate::machine::StateMachine;
use crate::space::NoSpace;
use crate::status::{Heard, Status};
use crate::store::Disk;
use crate::transfer::Incoming;
use crate::transport::{Calls, Transport};

/// Whether this member leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leadership {
    /// It does, and all that earlier leaders committed is applied here.
    Leader {
        /// The term: higher for each leader of the swarm.
        term: u64,
    },
    /// It does not, or not yet.
    Follower,
}

/// A handle on this process's member.
#[derive(Clone)]
pub struct Raft(Arc<Inner>);

struct Inner {
    raft_id: u64,
    core: Core,
    calls: Calls,
    heard: Heard,
    incoming: Incoming,
    applied: watch::Receiver<Option<u64>>,
    status: watch::Receiver<Status>,
    leadership: watch::Receiver<Leadership>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    stopped: watch::Receiver<bool>,
    full: watch::Receiver<Option<NoSpace>>,
    disk: Arc<dyn Disk>,
    keys: Option<Keys>,
}

impl fmt::Debug for Raft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leadership = *self.0.leadership.borrow();
        f.debug_struct("Raft").field("raft_id", &self.0.raft_id).field("leadership", &leadership).finish()
    }
}

impl Raft {
    /// Opens or creates the log in `config.dir`, and applies all that it knows to be committed. The only
    /// member of a swarm then elects itself at once, and applies the rest.
    ///
    /// # Errors
    /// See [`OpenError`]: among others a directory that is in use, and a log that is damaged.
    pub async fn open(
        config: Config,
        machine: Arc<dyn StateMachine>,
        transport: Arc<dyn Transport>,
    ) -> Result<Raft, OpenError> {
        let raft_id = config.raft_id;
        Ok(Raft::new(raft_id, host::start(config, machine, transport).await?))
    }

    pub(crate) fn new(raft_id: u64, opened: Opened) -> Raft {
        Raft(Arc::new(Inner {
            raft_id,
            core: opened.core,
            calls: opened.calls,
            heard: opened.heard,
            incoming: opened.incoming,
            applied: opened.applied,
            status: opened.status,
            leadership: opened.leadership,
            stop: Mutex::new(Some(opened.stop)),
            stopped: opened.stopped,
            full: opened.full,
            disk: opened.disk,
            keys: opened.keys,
        }))
    }

    /// This member's id.
    pub fn raft_id(&self) -> u64 {
        self.0.raft_id
    }

    /// Whether this node is a member of a swarm; false also once it is shut down.
    pub async fn is_initialized(&self) -> bool {
        self.0.core.is_initialized().await.unwrap_or(false)
    }

    /// Makes this node the first and only member of a new swarm. Its leadership follows at once.
    ///
    /// # Errors
    /// `AlreadyInitialized` if it has a log or a vote; `Stopped`.
    pub async fn bootstrap(&self) -> Result<(), BootstrapError> {
        let members = BTreeSet::from([self.0.raft_id]);
        self.0.core.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(_) => BootstrapError::AlreadyInitialized,
            RaftError::Fatal(_) => BootstrapError::Stopped,
        })?;
        host::elect_if_alone(&self.0.core, self.0.raft_id).await;
        Ok(())
    }

    /// Follows whether this member leads. After a shutdown it says `Follower`, and then closes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Follows what this member knows of the swarm. After a shutdown it knows no leader, and closes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.clone()
    }

    /// Follows whether there is room for the log to go on. Once there is none, a little more can be written
    /// at most: move the lead away ([`Raft::step_down`]), shut this member down, and open it again when
    /// it has room ([`has_room`](crate::has_room)).
    pub fn no_space(&self) -> watch::Receiver<Option<NoSpace>> {
        self.0.full.clone()
    }

    /// Stops this member and frees its directory; returns when both are done. All handles are of no
    /// further use. Calling it again waits for the same end.
    pub async fn shutdown(&self) {
        let stop = self.0.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(stop);
        let mut stopped = self.0.stopped.clone();
        // An error means that the host's thread is gone, which is as good.
        stopped.wait_for(|stopped| *stopped).await.ok();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.0.core.metrics().borrow_watched().running_state.is_err()
    }

    pub(crate) fn core(&self) -> &Core {
        &self.0.core
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.0.disk
    }

    pub(crate) fn keys_ref(&self) -> Option<&Keys> {
        self.0.keys.as_ref()
    }

    pub(crate) fn calls(&self) -> &Calls {
        &self.0.calls
    }

    pub(crate) fn heard(&self) -> &Heard {
        &self.0.heard
    }

    pub(crate) fn incoming(&self) -> &Incoming {
        &self.0.incoming
    }

    pub(crate) fn status_ref(&self) -> &watch::Receiver<Status> {
        &self.0.status
    }

    pub(crate) fn applied_ref(&self) -> &watch::Receiver<Option<u64>> {
        &self.0.applied
    }

    /// Returns once this member has lost a lead that it has, or gets while this waits.
    pub(crate) async fn deposed(&self) {
        let mut leadership = self.leadership();
        let leads = |now: &Leadership| matches!(now, Leadership::Leader { .. });
        // A closed channel has `Follower` for its last word.
        leadership.wait_for(leads).await.ok();
        leadership.wait_for(|now| !leads(now)).await.ok();
    }
}
