//! Writes and linearizable reads, on any member: done here on the leader, else asked of the leader once.

use std::time::Duration;

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use tokio::time::{Instant, sleep, timeout};

use crate::config::{ENTRY_BYTES_MAX, LEADER_WAIT_MAX};
use crate::error::{ProposeError, ReadError};
use crate::raft::Raft;
use crate::transport::TransportError;
use crate::types::Command;
use crate::wire::{self, Answer, Ask, Empty, Outcome, ProposeAnswer, Request, Response};

/// How long to wait before looking for a leader again.
const RETRY_DELAY: Duration = Duration::from_millis(5);
/// How long a write may take once a leader has it; beyond, its outcome is unknown.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long this member may take to apply what the leader has committed.
const APPLY_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a leader tries to have a read confirmed that another member asked for.
pub(crate) const READ_INDEX_LIMIT: Duration = Duration::from_millis(500);

/// The outcome of one attempt to write.
pub(crate) enum Attempt {
    /// Committed, and applied where it was tried.
    Written { index: u64, response: Vec<u8> },
    /// Certainly not written: nobody leads, or not there.
    Refused,
    /// It may be written, or come to be.
    Lost,
    /// Certainly not written: consensus is stopped.
    Stopped,
}

impl Raft {
    /// Commits `entry`, applies it here, and returns what [`StateMachine::apply`](crate::StateMachine::apply)
    /// returned on the leader. On a member that does not lead, the leader is asked once, and the answer
    /// comes when the entry is applied here too. Waits up to a second for a leader. An entry that is
    /// proposed while others are being written shares its write with them.
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
            let attempt = match self.other_leader() {
                Some(leader) => self.forward(leader, command.clone(), deadline).await,
                None => attempt(self, command.clone()).await,
            };
            match attempt {
                Attempt::Written { index, response } => {
                    let applied = self.applied(index, APPLY_WAIT_MAX).await;
                    return if applied { Ok(response) } else { Err(ProposeError::Lost) };
                }
                Attempt::Lost => return Err(ProposeError::Lost),
                Attempt::Stopped => return Err(ProposeError::Stopped),
                Attempt::Refused if Instant::now() >= deadline => return Err(ProposeError::NoLeader),
                Attempt::Refused => sleep(RETRY_DELAY).await,
            }
        }
    }

    /// As [`Raft::propose`], but only if this member leads: what one leader decided must not be written by
    /// the next one, which knows better. Waits for nobody to lead.
    ///
    /// # Errors
    /// As [`Raft::propose`].
    pub async fn propose_as_leader(&self, entry: Vec<u8>) -> Result<Vec<u8>, ProposeError> {
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: entry.len(), max: ENTRY_BYTES_MAX });
        }
        match attempt(self, Command(Bytes::from(entry))).await {
            Attempt::Written { response, .. } => Ok(response),
            Attempt::Refused => Err(ProposeError::NoLeader),
            Attempt::Lost => Err(ProposeError::Lost),
            Attempt::Stopped => Err(ProposeError::Stopped),
        }
    }

    /// Returns once this member has applied all that was committed in the swarm when it was called, so
    /// that a read of the local state is linearizable. Waits up to a second for a leader.
    ///
    /// # Errors
    /// `NoLeader` if no leader is confirmed by a majority in that time, or its state does not come here;
    /// `Stopped`.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let deadline = Instant::now() + LEADER_WAIT_MAX;
        loop {
            if self.is_stopped() {
                return Err(ReadError::Stopped);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let index = match self.other_leader() {
                Some(leader) => self.ask_read_index(leader, left).await,
                None => self.own_read_index(left).await?,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(index) = index {
                let applied = self.applied(index, left).await;
                return if applied { Ok(()) } else { Err(ReadError::NoLeader) };
            }
            if left.is_zero() {
                return Err(ReadError::NoLeader);
            }
            sleep(RETRY_DELAY).await;
        }
    }

    /// The leader, if it is another member.
    fn other_leader(&self) -> Option<u64> {
        let leader = self.status_ref().borrow().leader;
        leader.filter(|id| *id != self.raft_id() && !self.is_stopped())
    }

    /// Asks `leader` to write, once.
    async fn forward(&self, leader: u64, command: Command, deadline: Instant) -> Attempt {
        let answer = self.ask(leader, Ask::Propose(command.0), COMMIT_WAIT_MAX).await;
        match answer {
            Ok(Answer::Propose(ProposeAnswer { outcome: Some(outcome) })) => match outcome {
                Outcome::Written(written) => {
                    Attempt::Written { index: written.index, response: written.response.into() }
                }
                Outcome::Refused(Empty {}) => Attempt::Refused,
                Outcome::Lost(Empty {}) => Attempt::Lost,
            },
            Ok(_) => Attempt::Lost,
            Err(TransportError::Unreachable(reason)) => {
                tracing::debug!(leader, reason, "the leader cannot be reached");
                // It is not found elsewhere before an election.
                let left = deadline.saturating_duration_since(Instant::now());
                self.leader_changed(leader, left).await;
                Attempt::Refused
            }
            Err(TransportError::NoAnswer(reason)) => {
                tracing::debug!(leader, reason, "the outcome of a forwarded proposal is unknown");
                Attempt::Lost
            }
        }
    }

    async fn ask_read_index(&self, leader: u64, limit: Duration) -> Option<u64> {
        match self.ask(leader, Ask::ReadIndex(Empty {}), limit).await {
            Ok(Answer::ReadIndex(answer)) => answer.index,
            Ok(_) | Err(_) => None,
        }
    }

    async fn own_read_index(&self, limit: Duration) -> Result<Option<u64>, ReadError> {
        match timeout(limit, self.core().get_read_linearizer(ReadPolicy::ReadIndex)).await {
            Ok(Ok(linearizer)) => Ok(Some(linearizer.read_log_id().index())),
            Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
            Ok(Err(RaftError::APIError(
                LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_),
            )))
            | Err(_) => Ok(None),
        }
    }

    /// Asks a leader; gives up as soon as another one leads, as the first may never answer.
    async fn ask(&self, leader: u64, ask: Ask, limit: Duration) -> Result<Answer, TransportError> {
        let body = wire::encode(&Request { to: leader, ask: Some(ask) });
        let answer = tokio::select! {
            biased;
            answer = self.calls().call(leader, body, limit) => answer?,
            () = self.leader_changed(leader, limit) => {
                return Err(TransportError::NoAnswer("it leads no more".to_owned()));
            }
        };
        match wire::decode::<Response>(answer) {
            Ok(Response { answer: Some(answer) }) => Ok(answer),
            Ok(Response { answer: None }) => Err(TransportError::NoAnswer("it answered nothing".to_owned())),
            Err(error) => Err(TransportError::NoAnswer(format!("its answer: {error}"))),
        }
    }

    /// Returns when another member than `leader` leads, or after `limit`.
    async fn leader_changed(&self, leader: u64, limit: Duration) {
        let mut status = self.status_ref().clone();
        let changed = status.wait_for(|status| status.leader.is_some_and(|now| now != leader));
        // However it ends, the caller looks again.
        timeout(limit, changed).await.ok();
    }

    /// Waits until the entry `index` is applied here; false if that takes too long or consensus stops.
    async fn applied(&self, index: u64, limit: Duration) -> bool {
        let mut applied = self.applied_ref().clone();
        let reached = applied.wait_for(|applied| applied.is_some_and(|applied| applied >= index));
        matches!(timeout(limit, reached).await, Ok(Ok(_)))
    }
}

/// Writes if this member leads.
pub(crate) async fn attempt(raft: &Raft, command: Command) -> Attempt {
    // Seen before sending: the entry cannot have been written. After, it may have been.
    if raft.is_stopped() {
        return Attempt::Stopped;
    }
    let written = tokio::select! {
        biased;
        written = raft.core().client_write(command) => written,
        () = raft.deposed() => return Attempt::Lost,
        () = sleep(COMMIT_WAIT_MAX) => return Attempt::Lost,
    };
    match written {
        Ok(written) => Attempt::Written { index: written.log_id.index, response: written.data },
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Attempt::Refused,
        Err(RaftError::APIError(
            ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_),
        )) => Attempt::Lost,
        Err(RaftError::Fatal(error)) => {
            tracing::debug!(err = %error, "consensus stopped during a proposal");
            Attempt::Lost
        }
    }
}
