//! The leader: one value with one loop, gained with leadership and dropped with it.
//!
//! Loop: wait for a change, a timer or the end of leadership; one pass on one draft; propose it, one
//! proposal in flight. A refused proposal is dropped and what it touched is looked at again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use skep_api::{ServiceId, Timestamp};
use skep_raft::{ProposeError, Raft};
use skep_store::{Change, Dirty, Proposal, ProposalError, View, decode_result};
use tokio::time::Instant;

use crate::{SystemIds, machine::Machine, pass};

/// How long the loop rests after a lost proposal before it looks again.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// What the loop needs; dropping the future ends the leader.
pub(crate) struct Leader {
    pub(crate) raft: Raft,
    pub(crate) machine: Arc<Machine>,
    pub(crate) clock: fn() -> i64,
}

impl Leader {
    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        tracing::info!("leading");
        self.passes().await;
    }

    async fn passes(&self) {
        let mut ids = SystemIds::default();
        let mut wakes: BTreeMap<ServiceId, Timestamp> = BTreeMap::new();
        let mut dirty = Dirty::everything();
        let mut last = newest(&self.machine.view());
        loop {
            dirty.merge(self.machine.take_dirty());
            let view = self.machine.view();
            let now = self.now(&view, last);
            last = now;
            let due: Vec<ServiceId> = wakes.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
            dirty.services.extend(due);
            if dirty.all {
                wakes.clear();
            }
            for service in &dirty.services {
                wakes.remove(service);
            }
            if !dirty.is_empty() && view.cluster().is_some() {
                let result = pass::pass(view, &dirty, now, &mut ids);
                wakes.extend(result.wakes);
                for refusal in result.draft.refusals() {
                    tracing::warn!(err = %refusal, "a pass drafted what its own state refuses: a bug");
                }
                dirty = self.propose_all(result.draft.into_proposals()).await;
            }
            if !dirty.is_empty() {
                tokio::time::sleep(RETRY_DELAY).await;
                continue;
            }
            let next = wakes.values().min().map(|at| at.since(Timestamp((self.clock)()).max(last)));
            tokio::select! {
                () = self.machine.changed() => {}
                () = sleep_or_forever(next) => {}
            }
        }
    }

    /// The wall clock, but never at or before an earlier pass, nor before the start of the swarm.
    fn now(&self, view: &View, last: Timestamp) -> Timestamp {
        let stored = view.cluster().map_or(Timestamp::ZERO, |cluster| cluster.meta.updated_at);
        Timestamp((self.clock)()).max(stored).max(Timestamp(last.0.saturating_add(1)))
    }

    /// Proposes in order; at the first refusal the rest is dropped. Returns what to look at again.
    async fn propose_all(&self, proposals: Vec<Proposal>) -> Dirty {
        let mut again = Dirty::default();
        for proposal in proposals {
            if !again.is_empty() {
                mark(&mut again, &proposal, &self.machine.view());
                continue;
            }
            match self.raft.propose_as_leader(proposal.encode()).await {
                Ok(answer) => {
                    if let Err(error) = decode_result(&answer) {
                        report(&error);
                        mark(&mut again, &proposal, &self.machine.view());
                    }
                }
                Err(ProposeError::Stopped) => return Dirty::default(),
                Err(error) => {
                    tracing::warn!(err = %error, "a pass's proposal was lost");
                    mark(&mut again, &proposal, &self.machine.view());
                }
            }
        }
        again
    }
}

/// The newest time that is stored: a new leader's clock may be behind the last one's.
fn newest(view: &View) -> Timestamp {
    let services = view.services().map(|service| service.meta.updated_at);
    let tasks = view.tasks().map(|task| task.meta.updated_at);
    services.chain(tasks).max().unwrap_or_default()
}

async fn sleep_or_forever(span: Option<Duration>) {
    match span {
        Some(span) => tokio::time::sleep(span).await,
        None => std::future::pending().await,
    }
}

/// Sleeps until then; for ever without a deadline.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn report(error: &ProposalError) {
    // A stale draft is routine: a user's write came between.
    tracing::debug!(err = %error, "a pass's proposal was refused; drafting anew");
}

fn mark(dirty: &mut Dirty, proposal: &Proposal, view: &View) {
    for change in &proposal.changes {
        match change {
            Change::PutService(service) => {
                dirty.services.insert(service.id);
            }
            Change::DeleteService(id) => {
                dirty.services.insert(*id);
            }
            Change::PutTask(task) => {
                dirty.services.insert(task.service_id);
                dirty.tasks.insert(task.id);
            }
            Change::DeleteTask(id) | Change::TaskStatus(id, _) => {
                dirty.services.extend(view.task(*id).map(|task| task.service_id));
            }
            Change::PutNode(node) => {
                dirty.nodes.insert(node.id);
            }
            Change::DeleteNode(id) | Change::NodeStatus(id, _) => {
                dirty.nodes.insert(*id);
            }
            Change::PutCluster(_) => dirty.all = true,
            // A pass decides nothing of them.
            Change::PutNetwork(_) | Change::DeleteNetwork(_) => {}
        }
    }
}
