//! Which nodes are there: last beats and their deadlines. Soft state of the leader, rebuilt from sessions.
//!
//! A node is down when 3 s have passed since its last beat; a broken stream never shortens that.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use skep_api::{
    NodeId,
    object::{NodeState, NodeStatus},
};
use skep_store::{Change, View};
use tokio::{sync::Notify, time::Instant};

/// How often an agent beats.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// Without a beat for this long a node is down (Swarm: three beats of 5 s).
pub(crate) const DOWN_AFTER: Duration = Duration::from_secs(3);
/// A new leader gives every node this long to find it: an agent pauses for at most 3 s, a dial takes at most 5 s.
const RECONNECT_WINDOW: Duration = Duration::from_secs(10);

/// Deadlines by node.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    deadlines: Mutex<BTreeMap<NodeId, Instant>>,
    changed: Notify,
}

impl Liveness {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A leader begins: every node that counts as there must be heard within the window.
    pub(crate) fn begin(&self, view: &View) {
        let deadline = Instant::now() + RECONNECT_WINDOW;
        let mut deadlines = self.lock();
        for node in view.nodes().filter(|node| node.status.state != NodeState::Down) {
            deadlines.entry(node.id).or_insert(deadline);
        }
    }

    /// A node was heard.
    pub(crate) fn beat(&self, node: NodeId) {
        let is_new = self.lock().insert(node, Instant::now() + DOWN_AFTER).is_none();
        if is_new {
            self.changed.notify_one();
        }
    }

    /// This manager itself did not run for a while: what nodes said meanwhile is not read yet.
    pub(crate) fn grant_all(&self) {
        let deadline = Instant::now() + DOWN_AFTER;
        for at in self.lock().values_mut() {
            *at = deadline.max(*at);
        }
    }

    /// A node said that it leaves, or was removed: nothing is expected of it any more.
    pub(crate) fn forget(&self, node: NodeId) {
        self.lock().remove(&node);
    }

    /// Recording these nodes as lost failed: come back to them soon.
    pub(crate) fn expect_again(&self, nodes: &[NodeId]) {
        let deadline = Instant::now() + BEAT;
        let mut deadlines = self.lock();
        for node in nodes {
            deadlines.entry(*node).or_insert(deadline);
        }
    }

    /// Waits until a node is expected that was not before.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// When the next node would be down.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.lock().values().min().copied()
    }

    /// Nodes whose time is up; they are not expected any more.
    pub(crate) fn take_expired(&self, now: Instant) -> Vec<NodeId> {
        let mut deadlines = self.lock();
        let expired: Vec<NodeId> =
            deadlines.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for id in &expired {
            deadlines.remove(id);
        }
        expired
    }

    /// What to record of nodes that are lost.
    pub(crate) fn down_changes(view: &View, lost: &[NodeId]) -> Vec<Change> {
        lost.iter()
            .filter_map(|id| view.node(*id))
            .filter(|node| node.status.state != NodeState::Down)
            .map(|node| {
                tracing::warn!(node.id = %node.id, "node is down: no beat for {DOWN_AFTER:?}");
                let message = "heartbeat failure".to_owned();
                let status = NodeStatus { state: NodeState::Down, message, addr: node.status.addr.clone() };
                Change::NodeStatus(node.id, status)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use skep_api::Id;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_is_down_three_seconds_after_its_last_beat() {
        let liveness = Liveness::default();
        let node = NodeId(Id(1));
        liveness.beat(node);
        tokio::time::advance(Duration::from_secs(2)).await;
        liveness.beat(node);
        tokio::time::advance(Duration::from_millis(2_999)).await;
        assert!(liveness.take_expired(Instant::now()).is_empty());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(liveness.take_expired(Instant::now()), [node]);
        assert_eq!(liveness.next_deadline(), None);
    }
}
