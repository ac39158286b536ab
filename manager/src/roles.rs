//! Who is a raft member: what users want of each node (its spec) brought about, one step at a time.
//!
//! `decide` says the next step from the store and from what raft says of itself; the shell here, which the
//! leader runs beside its passes, takes it. Never two at once, and never one that would lose the quorum.

mod decide;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use skep_api::{NodeId, object::Node, spec::Role};
use skep_raft::Status;
use skep_store::{Change, Guard, GuardKind, View};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{dispatcher::Shared, write::WriteError};
use decide::{Picture, Step, next};

/// Swarm's words (`SK:manager/controlapi/node.go`).
pub(crate) const LOSS_OF_QUORUM: &str =
    "can't remove member from the raft: this would result in a loss of quorum";

/// A manager that did not answer for this long counts as unreachable: many heartbeats, and more than one
/// election.
pub(crate) const REACHABLE_WITHIN: Duration = Duration::from_millis(1500);
/// A learner this close to the leader has what it needs to vote.
const LAG_MAX: u64 = 64;
/// After a step that failed, the same one is not tried again for this long; nor is waited longer for what
/// only time brings.
const RETRY: Duration = Duration::from_millis(300);
/// A step that takes longer is given up; what came of it shows in raft's status.
const STEP_MAX: Duration = Duration::from_secs(10);

/// What the store says of members.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Wishes {
    /// Raft ids of nodes that are to be managers.
    wanted: BTreeSet<u64>,
    /// Raft ids of nodes that are not.
    unwanted: BTreeMap<u64, NodeId>,
}

impl Wishes {
    fn of(view: &View) -> Self {
        let mut wishes = Self::default();
        for node in view.nodes().filter(|node| node.raft_id != 0) {
            match node.spec.role {
                Role::Manager => {
                    wishes.wanted.insert(node.raft_id);
                }
                Role::Worker => {
                    wishes.unwanted.insert(node.raft_id, node.id);
                }
            }
        }
        wishes
    }
}

fn picture(wishes: &Wishes, status: &Status, now: Instant) -> Picture {
    let answers = |id: &&u64| {
        let progress = status.members.get(*id).copied().unwrap_or_default();
        **id == status.raft_id || progress.is_reachable(now, REACHABLE_WITHIN)
    };
    let members = || status.voters.iter().chain(&status.learners);
    let is_near = |id: &&u64| {
        let matched = status.members.get(*id).and_then(|progress| progress.matched);
        matched.is_some_and(|matched| matched.saturating_add(LAG_MAX) >= status.last)
    };
    Picture {
        own: status.raft_id,
        wanted: wishes.wanted.clone(),
        unwanted: wishes.unwanted.clone(),
        voters: status.voters.clone(),
        learners: status.learners.clone(),
        reachable: members().filter(answers).copied().collect(),
        caught_up: members().filter(is_near).copied().collect(),
    }
}

/// Takes steps for as long as this member leads; dropping it ends that.
pub(crate) async fn converge(shared: &Shared) {
    let mut nodes = shared.machine.nodes_changed();
    let mut raft = shared.raft.status();
    let mut failed: BTreeMap<Step, Instant> = BTreeMap::new();
    let mut known = *nodes.borrow_and_update();
    let mut wishes = Wishes::of(&shared.machine.view());
    loop {
        let revision = *nodes.borrow_and_update();
        if revision != known {
            known = revision;
            wishes = Wishes::of(&shared.machine.view());
        }
        let now = Instant::now();
        failed.retain(|_, until| *until > now);
        let picture = picture(&wishes, &raft.borrow_and_update(), now);
        let skip = failed.keys().copied().collect();
        if let Some(step) = next(&picture, &skip) {
            tracing::info!(%step, "changing the managers");
            let outcome = timeout(STEP_MAX, take(shared, step)).await;
            if let Err(why) = outcome.unwrap_or_else(|_| Err("it takes too long".to_owned())) {
                tracing::warn!(%step, err = why, "could not change the managers; trying again");
                failed.insert(step, Instant::now() + RETRY);
            }
            continue;
        }
        // What is left to do waits for news, or for a peer that answers again, which is none.
        let again = (!picture.is_settled()).then(|| now + RETRY);
        tokio::select! {
            changed = nodes.changed() => if changed.is_err() { return },
            changed = raft.changed() => if changed.is_err() { return },
            () = async { match again { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {}
        }
    }
}

async fn take(shared: &Shared, step: Step) -> Result<(), String> {
    let raft = &shared.raft;
    match step {
        Step::AddLearner(id) => raft.add_learner(id).await.map_err(|e| e.to_string()),
        Step::AddVoter(id) => raft.add_voter(id).await.map_err(|e| e.to_string()),
        Step::Remove(id) => raft.remove(id).await.map_err(|e| e.to_string()),
        Step::Transfer(to) => raft.transfer_leadership(Some(to)).await.map_err(|e| e.to_string()),
        Step::Clear(raft_id, node) => clear(shared, node, raft_id).await.map_err(|e| e.to_string()),
    }
}

/// Records that a node is no raft member any more.
async fn clear(shared: &Shared, id: NodeId, raft_id: u64) -> Result<(), WriteError> {
    let view = shared.machine.view();
    let Some(node) = view.node(id).filter(|node| node.raft_id == raft_id) else { return Ok(()) };
    let guard = Guard { kind: GuardKind::Node, id: id.0, version: node.meta.version };
    let new = Node { raft_id: 0, advertise_addr: String::new(), ..(**node).clone() };
    match shared.write(vec![guard], vec![Change::PutNode(Arc::new(new))]).await {
        // It is looked at again, as it has changed.
        Ok(()) | Err(WriteError::Stale) => Ok(()),
        Err(error) => Err(error),
    }
}

impl Shared {
    /// Whether a manager answers, as far as this one knows.
    pub(crate) fn is_reachable(&self, status: &Status, node: &Node) -> bool {
        let now = Instant::now();
        if node.raft_id == status.raft_id {
            return true;
        }
        if status.is_leader {
            let progress = status.members.get(&node.raft_id);
            return progress.is_some_and(|progress| progress.is_reachable(now, REACHABLE_WITHIN));
        }
        if status.leader == Some(node.raft_id) {
            return status.has_quorum;
        }
        // Followers hear of each other by what each manager tells all others.
        let heard = self.book.last_heard(node.id);
        heard.is_some_and(|at| now.saturating_duration_since(at) <= REACHABLE_WITHIN)
    }

    /// Whether the managers that are left without this one have a quorum that answers (Swarm's rule,
    /// `SK:manager/state/raft/raft.go:CanRemoveMember`). True for what is no voter.
    pub(crate) fn may_remove(&self, view: &View, node: &Node) -> bool {
        let status = self.raft.status().borrow().clone();
        if !status.voters.contains(&node.raft_id) {
            return true;
        }
        let rest = status.voters.len() - 1;
        let others =
            view.nodes().filter(|other| other.id != node.id && status.voters.contains(&other.raft_id));
        let n_reachable = others.filter(|other| self.is_reachable(&status, other)).count();
        rest > 0 && n_reachable > rest / 2
    }
}
