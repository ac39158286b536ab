//! A member's handle: bootstrap, propose, read, watch who leads, shut down.
//!
//! Cheap to clone, and usable from any tokio runtime. The member lives until it is shut down or the last
//! handle is dropped.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::rt::WatchReceiver;
use tokio::sync::{oneshot, watch};
use tokio::time::{Duration, Instant, sleep};

use crate::config::{Config, ENTRY_BYTES_MAX, LEADER_WAIT_MAX};
use crate::error::{BootstrapError, OpenError, ProposeError, ReadError};
use crate::host::{self, Core};
use crate::machine::StateMachine;
use crate::types::Command;

/// How long to wait before asking a member again that did not lead.
const RETRY_DELAY: Duration = Duration::from_millis(5);

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
    leadership: watch::Receiver<Leadership>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    stopped: watch::Receiver<bool>,
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
    pub async fn open(config: Config, machine: Arc<dyn StateMachine>) -> Result<Raft, OpenError> {
        let raft_id = config.raft_id;
        let opened = host::start(config, machine).await?;
        Ok(Raft(Arc::new(Inner {
            raft_id,
            core: opened.core,
            leadership: opened.leadership,
            stop: Mutex::new(Some(opened.stop)),
            stopped: opened.stopped,
        })))
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

    /// Commits `entry`, applies it here, and returns what [`StateMachine::apply`] returned. Waits up to
    /// a second for a leader. An entry that is proposed while others are being written shares its write
    /// with them.
    ///
    /// # Errors
    /// See [`ProposeError`]; after all but `Lost` the entry was not written.
    pub async fn propose(&self, entry: Vec<u8>) -> Result<Vec<u8>, ProposeError> {
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: entry.len(), max: ENTRY_BYTES_MAX });
        }
        let command = Command(Bytes::from(entry));
        let deadline = Instant::now() + LEADER_WAIT_MAX;
        loop {
            // Seen before sending: the entry cannot have been written. After, it may have been.
            if self.is_stopped() {
                return Err(ProposeError::Stopped);
            }
            match self.0.core.client_write(command.clone()).await {
                Ok(written) => return Ok(written.data),
                // Refused before it was written, so that to try again writes it once.
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                    if Instant::now() >= deadline {
                        return Err(ProposeError::NoLeader);
                    }
                    sleep(RETRY_DELAY).await;
                }
                Err(RaftError::APIError(
                    ClientWriteError::LogEntryDiscarded(_)
                    | ClientWriteError::ChangeMembershipError(_)
                    | ClientWriteError::PreconditionFailed(_),
                )) => return Err(ProposeError::Lost),
                Err(RaftError::Fatal(error)) => {
                    tracing::debug!(err = %error, "consensus stopped during a proposal");
                    return Err(ProposeError::Lost);
                }
            }
        }
    }

    /// Returns once this node has applied all that was committed when it was called, so that a read of
    /// the local state is linearizable. Waits up to a second for a leader.
    ///
    /// # Errors
    /// `NoLeader` if no leader is confirmed by a majority in that time; `Stopped`.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let deadline = Instant::now() + LEADER_WAIT_MAX;
        loop {
            match self.0.core.ensure_linearizable(ReadPolicy::ReadIndex).await {
                Ok(_) => return Ok(()),
                Err(RaftError::Fatal(_)) => return Err(ReadError::Stopped),
                Err(RaftError::APIError(
                    LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_),
                )) => {
                    if Instant::now() >= deadline {
                        return Err(ReadError::NoLeader);
                    }
                    sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    /// Follows whether this member leads. After a shutdown it says `Follower`, and then closes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
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

    fn is_stopped(&self) -> bool {
        self.0.core.metrics().borrow_watched().running_state.is_err()
    }
}
