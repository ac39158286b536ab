//! What a member knows of the swarm's consensus: who leads, who votes, who is behind, who is heard.
//!
//! A leader that has not heard a majority for the longest election timeout says that it does not lead:
//! openraft refuses writes then, and another one may lead by now.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::Instant as _;
use openraft::errors::Fatal;
use openraft::rt::WatchReceiver;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::host::Core;
use crate::raft::Leadership;
use crate::types::Types;

/// How a member sees the swarm. Watchers are woken by a change of any field but those that only
/// advance with time (`quorum_heard`, `Progress::acknowledged`), which are kept up to date all the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This member.
    pub raft_id: u64,
    /// The newest term seen.
    pub term: u64,
    /// Who leads, as far as this member knows.
    pub leader: Option<u64>,
    /// Members that vote; during a change, of the old and the new set.
    pub voters: BTreeSet<u64>,
    /// Members that only follow.
    pub learners: BTreeSet<u64>,
    /// That this member leads, a majority hears it, and all that was committed before is applied here.
    pub is_leader: bool,
    /// The index of the last entry applied here; 0 also if there is none.
    pub applied: u64,
    /// The index of the last entry known here to be committed.
    pub committed: u64,
    /// The index of the last entry in the log here.
    pub last: u64,
    /// On a leader: whether a majority answered within the longest election timeout. On others: whether
    /// a leader is known that was heard within that time.
    pub has_quorum: bool,
    /// On a leader: when the last request was sent that a majority answered. On others: when the leader
    /// was last heard.
    pub quorum_heard: Option<Instant>,
    /// That this member was told that it is no longer one.
    pub removed: bool,
    /// On a leader only: the other members.
    pub members: BTreeMap<u64, Progress>,
}

/// How far another member is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// The last entry known to be in its log; None if nothing is known.
    pub matched: Option<u64>,
    /// When the last request was sent that it answered.
    pub acknowledged: Option<Instant>,
}

impl Progress {
    /// Whether it answered a request of the last `within`.
    pub fn is_reachable(&self, now: Instant, within: Duration) -> bool {
        self.acknowledged.is_some_and(|at| now.saturating_duration_since(at) <= within)
    }
}

impl Status {
    pub(crate) fn new(raft_id: u64) -> Status {
        Status {
            raft_id,
            term: 0,
            leader: None,
            voters: BTreeSet::new(),
            learners: BTreeSet::new(),
            is_leader: false,
            applied: 0,
            committed: 0,
            last: 0,
            has_quorum: false,
            quorum_heard: None,
            removed: false,
            members: BTreeMap::new(),
        }
    }

    /// The status without what only advances with time.
    fn timeless(&self) -> Status {
        let still = |progress: &Progress| Progress { acknowledged: None, ..*progress };
        let members = self.members.iter().map(|(id, progress)| (*id, still(progress))).collect();
        Status { quorum_heard: None, members, ..self.clone() }
    }
}

/// What other parts tell the status.
#[derive(Debug)]
pub(crate) struct Heard {
    /// When a leader's append was last accepted here.
    pub(crate) leader: watch::Sender<Option<Instant>>,
    pub(crate) removed: watch::Sender<Option<Instant>>,
}

impl Default for Heard {
    fn default() -> Heard {
        Heard { leader: watch::Sender::new(None), removed: watch::Sender::new(None) }
    }
}

/// Keeps status and leadership up to date until consensus stops.
pub(crate) struct Follow {
    pub(crate) core: Core,
    /// A majority, or a leader, that was not heard for this long is lost.
    pub(crate) silence_max: Duration,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) heard_leader: watch::Receiver<Option<Instant>>,
    pub(crate) removed: watch::Receiver<Option<Instant>>,
    /// Since when this member has led in its present term.
    pub(crate) leads_since: Option<(u64, Instant)>,
}

impl Follow {
    pub(crate) async fn run(mut self) {
        let mut metrics = self.core.metrics();
        while let Some(next) = self.observe() {
            let silent_at = next.quorum_heard.filter(|_| next.has_quorum).map(|at| at + self.silence_max);
            self.publish(next);
            // While nothing is heard there is no deadline, only news.
            let silence = async {
                match silent_at {
                    Some(at) => sleep_until(at + Duration::from_millis(1)).await,
                    None => std::future::pending().await,
                }
            };
            let had_quorum = silent_at.is_some();
            tokio::select! {
                biased;
                changed = metrics.changed() => if changed.is_err() { break },
                // Each append is heard; only the first one after a silence is news.
                Ok(()) = self.heard_leader.changed(), if !had_quorum => {}
                Ok(()) = self.removed.changed() => {}
                () = silence => {}
            }
        }
        self.leadership.send_replace(Leadership::Follower);
        self.status.send_modify(|status| {
            status.is_leader = false;
            status.has_quorum = false;
            status.leader = None;
        });
    }

    /// The status now; None once consensus has stopped.
    fn observe(&mut self) -> Option<Status> {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        if let Err(error) = &metrics.running_state {
            match error {
                Fatal::Stopped => {}
                Fatal::StorageError(_) | Fatal::Panicked => tracing::error!(
                    err = %error, "consensus has stopped by itself on this manager; restart its daemon"
                ),
            }
            return None;
        }
        let term = metrics.current_term;
        let leads = metrics.state.is_leader();
        let now = Instant::now();
        self.leads_since = match self.leads_since {
            Some((in_term, since)) if leads && in_term == term => Some((term, since)),
            Some(_) | None => leads.then_some((term, now)),
        };
        let mut status = read(&metrics);
        let alone = status.voters.iter().eq([&metrics.id]);
        status.quorum_heard = if !leads {
            *self.heard_leader.borrow_and_update()
        } else if alone {
            Some(now)
        } else {
            // Right after an election nobody can have answered yet.
            metrics
                .last_quorum_acked
                .as_ref()
                .map(|at| ago(at.elapsed()))
                .max(self.leads_since.map(|(_, since)| since))
        };
        let lost = |at: Instant| now.saturating_duration_since(at) > self.silence_max;
        status.has_quorum =
            status.quorum_heard.is_some_and(|at| !lost(at)) && (leads || status.leader.is_some());
        let caught_up = metrics.last_applied.as_ref().is_some_and(|id| id.leader_id.term == term);
        status.is_leader = leads && caught_up && status.has_quorum;
        if leads && !status.has_quorum {
            status.leader = None;
        }
        status.removed = self.removed.borrow_and_update().is_some();
        Some(status)
    }

    fn publish(&self, next: Status) {
        let now = if next.is_leader { Leadership::Leader { term: next.term } } else { Leadership::Follower };
        self.status.send_if_modified(|seen| {
            let news = seen.timeless() != next.timeless();
            *seen = next;
            news
        });
        self.leadership.send_if_modified(|seen| std::mem::replace(seen, now) != now);
    }
}

/// When that was: openraft's own instants only tell their age.
fn ago(elapsed: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(elapsed).unwrap_or(now)
}

/// What openraft's metrics say by themselves.
fn read(metrics: &openraft::RaftMetrics<Types>) -> Status {
    let membership = metrics.membership_config.membership();
    let mut status = Status {
        term: metrics.current_term,
        leader: metrics.current_leader,
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
        applied: metrics.last_applied.as_ref().map_or(0, |id| id.index),
        committed: metrics.local_committed.as_ref().map_or(0, |id| id.index),
        last: metrics.last_log_index.unwrap_or_default(),
        ..Status::new(metrics.id)
    };
    for (id, matched) in metrics.replication.iter().flatten() {
        status.members.entry(*id).or_default().matched = matched.as_ref().map(|id| id.index);
    }
    for (id, at) in metrics.heartbeat.iter().flatten() {
        status.members.entry(*id).or_default().acknowledged = at.as_ref().map(|at| ago(at.elapsed()));
    }
    status.members.remove(&metrics.id);
    status
}
