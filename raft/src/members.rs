//! Changes of membership and planned moves of the lead: each one step, on the leader, safe to repeat.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::rt::WatchReceiver;
use openraft::{ChangeMembers, EmptyNode, Precondition};
use tokio::time::{Instant, timeout};

use crate::error::{ChangeError, TransferError};
use crate::raft::Raft;
use crate::status::Status;
use crate::types::Types;
use crate::wire::{self, Ask, Empty, Request};

/// How long a change may take to be committed; it may come to be later.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a learner may take to catch up, once it is to vote.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);
/// How long the snapshot for a new member may take to be made.
const SNAPSHOT_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long the log before it may take to go.
const PURGE_WAIT_MAX: Duration = Duration::from_millis(500);
/// A log of so many entries is sent as a snapshot to a new member.
const LONG_LOG: u64 = 1_000;
/// How many entries a learner may lack to count as caught up: they come with the next appends.
const LAG_MAX: u64 = 64;
/// A member that answered nothing for this long does not count for a quorum that is to be kept.
const REACHABLE_WITHIN: Duration = Duration::from_secs(2);
/// How long one that is to go may take to hear of it.
const HEAR_MAX: Duration = Duration::from_millis(300);
/// How long a planned move of the lead may take.
const TRANSFER_MAX: Duration = Duration::from_secs(2);
/// How long a removed member may take to answer that it has heard of it.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);

type Changes = ChangeMembers<u64, EmptyNode>;

impl Raft {
    /// Makes `id` a member that follows and does not vote. Done already if it is any member.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn add_learner(&self, id: u64) -> Result<(), ChangeError> {
        let status = self.settled().await?;
        if status.voters.contains(&id) || status.learners.contains(&id) {
            return Ok(());
        }
        self.shorten_log().await;
        self.change(Changes::AddNodes([(id, EmptyNode {})].into()), true).await.map(drop)
    }

    /// Makes the learner `id` a voter, once it has caught up; waits some seconds for that. Done already
    /// if it is one.
    ///
    /// # Errors
    /// See [`ChangeError`]: `NotMember` if it is no learner, `NotCaughtUp`.
    pub async fn add_voter(&self, id: u64) -> Result<(), ChangeError> {
        let status = self.settled().await?;
        if status.voters.contains(&id) {
            return Ok(());
        }
        if !status.learners.contains(&id) {
            return Err(ChangeError::NotMember { id });
        }
        self.caught_up(id, status.last).await?;
        self.change(Changes::AddVoterIds([id].into()), true).await.map(drop)
    }

    /// Removes the member `id`, voter or learner. Done already if it is none. A leader does not remove
    /// itself: it moves its lead first.
    ///
    /// # Errors
    /// See [`ChangeError`]: `WouldLoseQuorum` if too few of the other voters answer.
    pub async fn remove(&self, id: u64) -> Result<(), ChangeError> {
        let status = self.settled().await?;
        if !status.voters.contains(&id) && !status.learners.contains(&id) {
            return Ok(());
        }
        if status.voters.contains(&id) {
            keeps_quorum(&status, id, Instant::now())?;
            if id == self.raft_id() {
                return Err(ChangeError::Leads);
            }
            // As a learner first: it hears of that, and stands for no election from then on.
            let index = self.change(Changes::RemoveVoters([id].into()), true).await?;
            self.heard_by(id, index).await;
        }
        self.change(Changes::RemoveNodes([id].into()), true).await?;
        self.bid_farewell(id);
        Ok(())
    }

    /// Moves the lead to the voter `to`, or to the one that is furthest of those that answer. Returns when
    /// this member leads no more; done already if it does not lead.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), TransferError> {
        if to == Some(self.raft_id()) {
            return Ok(());
        }
        self.hand_over(|id| to.is_none_or(|to| to == id)).await
    }

    /// Moves the lead to the furthest of the other voters that answer and that `may` take it.
    async fn hand_over(&self, may: impl Fn(u64) -> bool + Send) -> Result<(), TransferError> {
        if self.is_stopped() {
            return Err(TransferError::Stopped);
        }
        if !self.core().is_leader() {
            return Ok(());
        }
        let (now, id) = (Instant::now(), self.raft_id());
        let mut status = self.status_ref().clone();
        let target = {
            let status = status.borrow();
            let able = status.members.iter().filter(|(other, progress)| {
                let votes = **other != id && status.voters.contains(other) && may(**other);
                votes && progress.is_reachable(now, REACHABLE_WITHIN)
            });
            able.map(|(other, progress)| (progress.matched, *other)).max()
        };
        let (_, target) = target.ok_or(TransferError::NobodyElse)?;
        self.core().trigger().transfer_leader(target).await.map_err(|_| TransferError::Stopped)?;
        let moved = status.wait_for(|status| status.leader.is_some_and(|leader| leader != id));
        match timeout(TRANSFER_MAX, moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(TransferError::Stopped),
            Err(_) => Err(TransferError::TimedOut),
        }
    }

    /// Before a shutdown: moves the lead away if there is somebody to take it, so that the stop costs the
    /// others no election timeout. Takes a second or two at most.
    pub async fn step_down(&self) {
        match self.transfer_leadership(None).await {
            Ok(()) | Err(TransferError::NobodyElse | TransferError::Stopped) => {}
            Err(error @ TransferError::TimedOut) => tracing::warn!(err = %error, "stopping as the leader"),
        }
    }

    /// The members as they are, this one leading and no change under way. A change that an earlier
    /// leader left half done is brought to its end first; one that ends with this member out is left to
    /// another leader: who leads has to be a voter, and nothing would ever come to a leader's log from
    /// elsewhere, so it could not become one again.
    async fn settled(&self) -> Result<Status, ChangeError> {
        if self.is_stopped() {
            return Err(ChangeError::Stopped);
        }
        let mut status = self.status_ref().borrow().clone();
        if !status.is_leader {
            return Err(ChangeError::NotLeader);
        }
        let (is_joint, end) = self.end_of_change();
        if !end.contains(&self.raft_id()) {
            return match self.hand_over(|id| end.contains(&id)).await {
                Ok(()) => Err(ChangeError::NotLeader),
                Err(TransferError::Stopped) => Err(ChangeError::Stopped),
                Err(TransferError::NobodyElse | TransferError::TimedOut) => Err(ChangeError::Unknown),
            };
        }
        if is_joint {
            self.change(Changes::AddVoterIds(BTreeSet::new()), true).await?;
        }
        let metrics = self.core().metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        (status.voters, status.learners) =
            (membership.voter_ids().collect(), membership.learner_ids().collect());
        Ok(status)
    }

    /// Whether a change is half done, and the voters at its end.
    fn end_of_change(&self) -> (bool, BTreeSet<u64>) {
        let metrics = self.core().metrics();
        let metrics = metrics.borrow_watched();
        let configs = metrics.membership_config.membership().get_joint_config();
        (configs.len() > 1, configs.last().cloned().unwrap_or_default())
    }

    /// Waits a moment until a member that is to go has the entry that says so, if it answers at all: nobody
    /// replicates to it afterwards.
    async fn heard_by(&self, id: u64, index: u64) {
        let mut status = self.status_ref().clone();
        let heard = |status: &Status| {
            let progress = status.members.get(&id).copied().unwrap_or_default();
            let is_there = progress.is_reachable(Instant::now(), REACHABLE_WITHIN);
            !is_there || progress.matched.is_some_and(|matched| matched >= index)
        };
        // However it ends, it goes.
        timeout(HEAR_MAX, status.wait_for(heard)).await.ok();
    }

    /// Proposes a change made from the present membership, and returns the index of its last entry; it goes
    /// on to its end if the caller does not wait for it.
    async fn change(&self, changes: Changes, retain: bool) -> Result<u64, ChangeError> {
        let core = self.core().clone();
        let last = *core.metrics().borrow_watched().membership_config.log_id();
        let guard = Precondition::<Types>::LastMembershipLogId { last_membership_log_id: last };
        let task =
            self.calls().spawn(async move { core.change_membership_if(changes, retain, [guard]).await });
        let Ok(Ok(outcome)) = timeout(CHANGE_WAIT_MAX, task).await else {
            return Err(if self.is_stopped() { ChangeError::Stopped } else { ChangeError::Unknown });
        };
        match outcome {
            Ok(changed) => Ok(changed.log_id.index),
            Err(RaftError::Fatal(_)) => Err(ChangeError::Stopped),
            Err(RaftError::APIError(error)) => Err(match error {
                ClientWriteError::ForwardToLeader(_) => ChangeError::NotLeader,
                ClientWriteError::LogEntryDiscarded(_) => ChangeError::Unknown,
                ClientWriteError::PreconditionFailed(_) => ChangeError::InProgress,
                ClientWriteError::ChangeMembershipError(error) => match error {
                    ChangeMembershipError::InProgress(_)
                    | ChangeMembershipError::UncommittedLeaderLog(_)
                    | ChangeMembershipError::UnsupportedMembershipTransition(_) => ChangeError::InProgress,
                    ChangeMembershipError::LearnerNotFound(error) => {
                        ChangeError::NotMember { id: error.node_id }
                    }
                    ChangeMembershipError::NodeMetadataChanged(error) => {
                        ChangeError::NotMember { id: error.node_id }
                    }
                    ChangeMembershipError::EmptyMembership(_) => {
                        ChangeError::WouldLoseQuorum { reachable: 0, voters: 0 }
                    }
                },
            }),
        }
    }

    /// Makes a snapshot for a member that has nothing yet, if it is quicker to send than the log. Should
    /// it take too long, the log does as well.
    async fn shorten_log(&self) {
        let mut metrics = self.core().metrics();
        let (last, first) = {
            let now = metrics.borrow_watched();
            (now.last_applied.map_or(0, |id| id.index), now.purged.map_or(0, |id| id.index))
        };
        if last < first + LONG_LOG || self.core().trigger().snapshot().await.is_err() {
            return;
        }
        let made = async {
            while metrics.borrow_watched().snapshot.is_none_or(|id| id.index < last) {
                if metrics.changed().await.is_err() {
                    break;
                }
            }
        };
        if timeout(SNAPSHOT_WAIT_MAX, made).await.is_err() {
            tracing::warn!("a snapshot for the new member is late; it gets the log");
            return;
        }
        // A log that is being sent to somebody is not purged: it is before anybody gets it, or not at all.
        let gone = async {
            while metrics.borrow_watched().purged.map_or(0, |id| id.index) <= first {
                if metrics.changed().await.is_err() {
                    break;
                }
            }
        };
        timeout(PURGE_WAIT_MAX, gone).await.ok();
    }

    async fn caught_up(&self, id: u64, last: u64) -> Result<(), ChangeError> {
        let mut status = self.status_ref().clone();
        let near = |status: &Status| {
            let matched = status.members.get(&id).and_then(|member| member.matched);
            !status.is_leader || matched.is_some_and(|matched| matched + LAG_MAX >= last)
        };
        match timeout(CATCH_UP_MAX, status.wait_for(near)).await {
            Ok(Ok(status)) if status.is_leader => Ok(()),
            Ok(Ok(_)) => Err(ChangeError::NotLeader),
            Ok(Err(_)) => Err(ChangeError::Stopped),
            Err(_) => Err(ChangeError::NotCaughtUp { id }),
        }
    }

    /// Tells a removed member, which nobody replicates to any more. It may be gone.
    fn bid_farewell(&self, id: u64) {
        let calls = self.calls().clone();
        let body = wire::encode(&Request { to: id, ask: Some(Ask::Removed(Empty {})) });
        self.calls().spawn(async move {
            if let Err(error) = calls.call(id, body, FAREWELL_LIMIT).await {
                tracing::debug!(member = id, err = %error, "a removed member was not told");
            }
        });
    }
}

/// Whether a majority of the voters other than `leaving` answers.
fn keeps_quorum(status: &Status, leaving: u64, now: Instant) -> Result<(), ChangeError> {
    let rest: BTreeSet<u64> = status.voters.iter().copied().filter(|id| *id != leaving).collect();
    let answers = |id: &&u64| {
        let member = status.members.get(id);
        **id == status.raft_id || member.is_some_and(|member| member.is_reachable(now, REACHABLE_WITHIN))
    };
    let reachable = rest.iter().filter(answers).count();
    if reachable > rest.len() / 2 {
        Ok(())
    } else {
        Err(ChangeError::WouldLoseQuorum { reachable, voters: rest.len() })
    }
}
