//! Who is connected, here and with other managers.

use std::{collections::BTreeMap, sync::Arc};

use skep_api::{NodeId, wire};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use super::{Connected, Hub, Inner, Lost, PROBED_FOR, Ties, Whereabouts};
use crate::dispatcher::roll::Heard;

impl Hub {
    /// A session begins; an earlier one of the same node is over.
    pub(in crate::dispatcher) fn connect(
        &self,
        node: NodeId,
        aside: mpsc::Sender<wire::ManagerMessage>,
    ) -> Ties {
        let mut inner = self.lock();
        inner.next_session += 1;
        let (session, wake) = (inner.next_session, Arc::new(Notify::new()));
        if let Some(old) = inner.remove(node) {
            old.wake.notify_one();
        }
        inner.move_applied(None, Some(0));
        let heard = Instant::now();
        let connected = Connected { session, wake: wake.clone(), aside, applied: 0, heard, stopping: false };
        inner.sessions.insert(node, connected);
        self.moved.notify_one();
        Ties { session, wake, mesh: self.mesh.subscribe(), terms: self.terms.subscribe() }
    }

    /// Whether this session is still the node's.
    pub(in crate::dispatcher) fn is_current(&self, node: NodeId, session: u64) -> bool {
        self.lock().sessions.get(&node).is_some_and(|connected| connected.session == session)
    }

    /// A session is over. Says whether the node has none now, with any manager.
    pub(in crate::dispatcher) fn disconnect(&self, node: NodeId, session: u64) -> bool {
        let mut inner = self.lock();
        if inner.sessions.get(&node).is_some_and(|connected| connected.session == session) {
            inner.remove(node);
            self.wake_drains(&inner);
            self.fewer(&inner);
        }
        !inner.is_anywhere(node)
    }

    /// A node said that it stops.
    pub(in crate::dispatcher) fn stopping(&self, node: NodeId) {
        if let Some(connected) = self.lock().sessions.get_mut(&node) {
            connected.stopping = true;
        }
    }

    /// Whether a node's session here has said that it stops.
    pub(in crate::dispatcher) fn is_stopping(&self, node: NodeId) -> bool {
        self.lock().sessions.get(&node).is_some_and(|connected| connected.stopping)
    }

    /// Ends all sessions: this manager has no leader, others may. Agents dial again.
    pub(crate) fn end_all(&self) -> usize {
        let mut inner = self.lock();
        let sessions = std::mem::take(&mut inner.sessions);
        inner.applied.clear();
        for connected in sessions.values() {
            connected.wake.notify_one();
        }
        self.fewer(&inner);
        sessions.len()
    }

    /// An agent was heard, and which mesh it has applied: stopping tasks anywhere may wait for that.
    pub(in crate::dispatcher) fn heard(&self, node: NodeId, session: u64, revision: u64) {
        let mut inner = self.lock();
        let Some(connected) = inner.sessions.get_mut(&node).filter(|c| c.session == session) else { return };
        connected.heard = Instant::now();
        let before = connected.applied;
        if before >= revision {
            return;
        }
        connected.applied = revision;
        let lowest = inner.applied.keys().next().copied();
        inner.move_applied(Some(before), Some(revision));
        // Others are behind yet.
        let has_risen = inner.applied.keys().next().copied() != lowest;
        if has_risen && !inner.left.is_empty() {
            self.wake_drains(&inner);
            self.news.notify_one();
        }
    }

    /// Another agent's probe found this node alive.
    pub(in crate::dispatcher) fn probed(&self, node: NodeId) {
        self.lock().probed.insert(node, Instant::now());
        self.news.notify_one();
    }

    /// Hands a message to a node's session here; false when it has none or too many wait.
    pub(crate) fn send_aside(&self, node: NodeId, message: wire::manager_message::Message) -> bool {
        let inner = self.lock();
        let Some(connected) = inner.sessions.get(&node) else { return false };
        connected.aside.try_send(wire::ManagerMessage { message: Some(message) }).is_ok()
    }

    /// Which manager to ask for a word to a node.
    pub(crate) fn whereabouts(&self, node: NodeId) -> Whereabouts {
        let inner = self.lock();
        if inner.sessions.contains_key(&node) {
            return Whereabouts::Here;
        }
        inner.roll.holder(node).map_or(Whereabouts::Nowhere, Whereabouts::With)
    }

    /// Some nodes with a session, other than this one, for asking them to probe it: from a place on that
    /// differs by the node, so that it is not always the same ones that are asked.
    pub(crate) fn helpers(&self, node: NodeId, n: usize) -> Vec<NodeId> {
        let inner = self.lock();
        let here = inner.sessions.range(node..).chain(inner.sessions.range(..node)).map(|(id, _)| *id);
        here.chain(inner.roll.agents_from(node)).filter(|id| *id != node).take(n).collect()
    }

    /// Drains anywhere may have waited for those who are gone.
    fn fewer(&self, inner: &Inner) {
        let heard = if inner.left.is_empty() { &self.moved } else { &self.news };
        heard.notify_one();
    }

    /// Waits until other managers should hear of this one's sessions at once.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// Waits until they should hear of them soon.
    pub(crate) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// The sessions here, and whom their agents found alive, as other managers are told.
    pub(crate) fn to_tell(&self) -> wire::Told {
        let now = Instant::now();
        let mut inner = self.lock();
        let newest = self.mesh.borrow().clone();
        inner.probed.retain(|_, at| *at + PROBED_FOR > now);
        let age_ms = |at: Instant| u32::try_from((now - at).as_millis()).unwrap_or(u32::MAX);
        let heard = inner.sessions.iter().map(|(node, connected)| wire::Heard {
            node_id: node.to_bytes(),
            age_ms: age_ms(connected.heard),
            mesh_revision: newest.effective(connected.applied, inner.checked),
            skew_ms: 0,
        });
        let probed = inner.probed.iter().map(|(node, at)| wire::Heard {
            node_id: node.to_bytes(),
            age_ms: age_ms(*at),
            mesh_revision: 0,
            skew_ms: 0,
        });
        wire::Told { heard: heard.collect(), probed: probed.collect(), ..wire::Told::default() }
    }

    /// Takes another manager's list. Returns the nodes that lost their only session by it.
    pub(crate) fn take_told(&self, manager: NodeId, heard: &[Heard]) -> Vec<NodeId> {
        let mut inner = self.lock();
        let gone = inner.roll.take(manager, heard, Instant::now());
        if !inner.left.is_empty() {
            self.wake_drains(&inner);
        }
        gone.into_iter().filter(|node| !inner.is_anywhere(*node)).collect()
    }

    /// Forgets managers that tell nothing any more. Returns the nodes that lost their only session by it.
    pub(crate) fn forget_silent(&self) -> Lost {
        let mut inner = self.lock();
        let silent = inner.roll.forget_silent(Instant::now());
        let mut lost = Lost::default();
        if silent.is_empty() {
            return lost;
        }
        self.wake_drains(&inner);
        for (manager, agents) in silent {
            tracing::warn!(node.id = %manager, agents = agents.len(), "a manager is not heard any more");
            for node in agents.into_iter().filter(|node| !inner.is_anywhere(*node)) {
                if node == manager { lost.managers.push(node) } else { lost.agents.push(node) }
            }
        }
        lost
    }

    /// The agents that have not lost their manager, as far as this one knows, with their last signs of life:
    /// those here, those whose manager told of itself just now, and managers' own, which go with them.
    pub(crate) fn settled(&self) -> Vec<(NodeId, Instant)> {
        let now = Instant::now();
        let inner = self.lock();
        let mut newest: BTreeMap<NodeId, (Instant, bool)> = BTreeMap::new();
        let here = inner.sessions.iter().map(|(node, connected)| (*node, connected.heard, true));
        for (node, at, is_settled) in here.chain(inner.roll.agents(now)) {
            let known = newest.entry(node).or_insert((at, is_settled));
            if at > known.0 {
                *known = (at, is_settled);
            }
        }
        let settled = newest.into_iter().filter(|(_, (_, is_settled))| *is_settled);
        settled.map(|(node, (at, _))| (node, at)).collect()
    }
}
