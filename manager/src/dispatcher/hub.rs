//! What all sessions share: who is connected, here and with other managers, the newest mesh, and who has
//! applied it.
//!
//! A mesh's revision is that of the applied entry that made it so, hence the same with every manager.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use skep_api::{
    NodeId, ServiceId, TaskId,
    object::{Service, Task},
    spec::PortConfig,
    wire,
};
use skep_store::{ObjectRef, View};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use super::{
    mesh::Mesh,
    roll::{Heard, Roll},
    terms::Terms,
};
use crate::{leader::sleep_until, machine::Listener};

/// A stopping task waits for the nodes' meshes at most this long (one of them may hang).
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// Messages that may wait for one agent besides its assignments and mesh (log requests, receipts).
pub(super) const ASIDE_MAX: usize = 256;

/// A sign of life that another agent's probe found counts for so long.
const PROBED_FOR: Duration = Duration::from_secs(1);

/// One connected agent.
#[derive(Debug)]
struct Connected {
    session: u64,
    wake: Arc<Notify>,
    aside: mpsc::Sender<wire::ManagerMessage>,
    /// The mesh revision that it has applied.
    applied: u64,
    /// Its last sign of life.
    heard: Instant,
    /// It said that it stops: what it still says is no return.
    stopping: bool,
}

/// What an agent's session works with.
#[derive(Debug)]
pub(super) struct Ties {
    pub(super) session: u64,
    pub(super) wake: Arc<Notify>,
    pub(super) mesh: watch::Receiver<Arc<Versioned>>,
    pub(super) terms: watch::Receiver<Arc<Terms>>,
}

/// The mesh at its revision.
#[derive(Debug, Default)]
pub(super) struct Versioned {
    pub(super) revision: u64,
    pub(super) mesh: Mesh,
}

/// A stopping task that was an endpoint.
#[derive(Debug)]
struct Left {
    node: Option<NodeId>,
    /// The mesh revision since which it is none.
    since: u64,
    /// When its drain waits for nobody any more.
    limit: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: BTreeMap<NodeId, Connected>,
    next_session: u64,
    /// How many sessions have applied which mesh.
    applied: BTreeMap<u64, usize>,
    left: BTreeMap<TaskId, Left>,
    roll: Roll,
    /// Nodes that another agent's probe found alive.
    probed: BTreeMap<NodeId, Instant>,
    /// Services that the mesh has ports of.
    publishing: BTreeSet<ServiceId>,
    /// The state after the last entry that the mesh depends on, until it is looked at.
    stale: Option<View>,
    /// The revision up to which the newest mesh is right.
    checked: u64,
}

impl Inner {
    fn move_applied(&mut self, from: Option<u64>, to: Option<u64>) {
        if let Some(from) = from
            && let Some(n) = self.applied.get_mut(&from)
        {
            *n -= 1;
            if *n == 0 {
                self.applied.remove(&from);
            }
        }
        if let Some(to) = to {
            *self.applied.entry(to).or_default() += 1;
        }
    }

    fn remove(&mut self, node: NodeId) -> Option<Connected> {
        let connected = self.sessions.remove(&node)?;
        self.move_applied(Some(connected.applied), None);
        Some(connected)
    }

    /// Whether a service has ports of the mesh, or had some until now.
    fn publishes(&mut self, id: ServiceId, view: &View) -> bool {
        let is_ingress = |service: &Arc<Service>| service.ports.iter().any(PortConfig::is_ingress);
        if view.service(id).is_some_and(is_ingress) {
            self.publishing.insert(id);
            true
        } else {
            self.publishing.remove(&id)
        }
    }

    fn is_anywhere(&self, node: NodeId) -> bool {
        self.sessions.contains_key(&node) || self.roll.holder(node).is_some()
    }
}

/// Where a node's session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whereabouts {
    /// With this manager.
    Here,
    /// With that one.
    With(NodeId),
    /// With none.
    Nowhere,
}

/// Nodes that lost their only session with the manager that held it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Lost {
    /// They may find another manager.
    pub(crate) agents: Vec<NodeId>,
    /// The managers themselves.
    pub(crate) managers: Vec<NodeId>,
}

/// Shared by all sessions.
#[derive(Debug)]
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    mesh: watch::Sender<Arc<Versioned>>,
    terms: watch::Sender<Arc<Terms>>,
    mesh_stale: Notify,
    news: Notify,
}

impl Hub {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            mesh: watch::channel(Arc::default()).0,
            terms: watch::channel(Arc::default()).0,
            mesh_stale: Notify::new(),
            news: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins; an earlier one of the same node is over.
    pub(super) fn connect(&self, node: NodeId, aside: mpsc::Sender<wire::ManagerMessage>) -> Ties {
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
        self.news.notify_one();
        Ties { session, wake, mesh: self.mesh.subscribe(), terms: self.terms.subscribe() }
    }

    /// Whether this session is still the node's.
    pub(super) fn is_current(&self, node: NodeId, session: u64) -> bool {
        self.lock().sessions.get(&node).is_some_and(|connected| connected.session == session)
    }

    /// A session is over. Says whether the node has none now, with any manager.
    pub(super) fn disconnect(&self, node: NodeId, session: u64) -> bool {
        let mut inner = self.lock();
        if inner.sessions.get(&node).is_some_and(|connected| connected.session == session) {
            inner.remove(node);
            self.wake_drains(&inner);
            self.news.notify_one();
        }
        !inner.is_anywhere(node)
    }

    /// A node said that it stops.
    pub(super) fn stopping(&self, node: NodeId) {
        if let Some(connected) = self.lock().sessions.get_mut(&node) {
            connected.stopping = true;
        }
    }

    /// Whether a node's session here has said that it stops.
    pub(super) fn is_stopping(&self, node: NodeId) -> bool {
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
        self.news.notify_one();
        sessions.len()
    }

    /// An agent was heard, and which mesh it has applied: stopping tasks anywhere may wait for that.
    pub(super) fn heard(&self, node: NodeId, session: u64, revision: u64) {
        let mut inner = self.lock();
        let Some(connected) = inner.sessions.get_mut(&node).filter(|c| c.session == session) else { return };
        connected.heard = Instant::now();
        let before = connected.applied;
        if before >= revision {
            return;
        }
        connected.applied = revision;
        inner.move_applied(Some(before), Some(revision));
        if !inner.left.is_empty() {
            self.wake_drains(&inner);
            self.news.notify_one();
        }
    }

    /// Another agent's probe found this node alive.
    pub(super) fn probed(&self, node: NodeId) {
        self.lock().probed.insert(node, Instant::now());
        self.news.notify_one();
    }

    /// Sessions of nodes whose tasks wait for other nodes' meshes look again.
    fn wake_drains(&self, inner: &Inner) {
        for left in inner.left.values() {
            if let Some(connected) = left.node.and_then(|node| inner.sessions.get(&node)) {
                connected.wake.notify_one();
            }
        }
    }

    /// Whether every node with a session has applied a mesh without this task.
    pub(super) fn is_drained(&self, task: &Task) -> bool {
        if !task.uses_ingress() {
            return true;
        }
        if self.mesh.borrow().mesh.members.contains(&task.id) {
            return false;
        }
        let inner = self.lock();
        let Some(left) = inner.left.get(&task.id) else { return true };
        let lowest = inner.applied.keys().next().copied().unwrap_or(u64::MAX);
        left.limit <= Instant::now() || lowest >= left.since && inner.roll.have_applied(left.since)
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

    /// Waits until other managers should hear of this one's sessions at once.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// The sessions here, and whom their agents found alive, as other managers are told.
    pub(crate) fn to_tell(&self) -> wire::Told {
        let now = Instant::now();
        let newest = self.mesh.borrow().revision;
        let mut inner = self.lock();
        inner.probed.retain(|_, at| *at + PROBED_FOR > now);
        let age_ms = |at: Instant| u32::try_from((now - at).as_millis()).unwrap_or(u32::MAX);
        // What has the newest mesh has what is right up to where it was checked.
        let effective = |applied: u64| if applied >= newest { applied.max(inner.checked) } else { applied };
        let heard = inner.sessions.iter().map(|(node, connected)| wire::Heard {
            node_id: node.to_bytes(),
            age_ms: age_ms(connected.heard),
            mesh_revision: effective(connected.applied),
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

    /// When the next drain stops waiting.
    fn next_drain_limit(&self) -> Option<Instant> {
        let now = Instant::now();
        self.lock().left.values().map(|left| left.limit).filter(|limit| *limit > now).min()
    }

    /// Computes the mesh and the terms of sessions anew whenever what they depend on changed. Runs while the
    /// manager does; `view` is asked once, at the start.
    pub(crate) async fn keep_mesh(&self, view: impl FnOnce() -> View) {
        let first = view();
        {
            let mut inner = self.lock();
            for service in first.services() {
                inner.publishes(service.id, &first);
            }
        }
        self.refresh(&first);
        loop {
            let limit = self.next_drain_limit();
            tokio::select! {
                () = self.mesh_stale.notified() => {}
                () = sleep_until(limit) => self.wake_drains(&self.lock()),
            }
            let stale = self.lock().stale.take();
            if let Some(view) = stale.filter(|view| view.revision() >= first.revision()) {
                self.refresh(&view);
            }
        }
    }

    fn refresh(&self, view: &View) {
        let terms = Terms::of(view);
        self.terms.send_if_modified(|known| {
            let is_new = **known != terms;
            if is_new {
                *known = Arc::new(terms);
            }
            is_new
        });
        let (mesh, revision) = (Mesh::of(view), view.revision());
        let mut inner = self.lock();
        inner.checked = revision;
        let old = self.mesh.borrow().clone();
        if mesh == old.mesh {
            if !inner.left.is_empty() {
                // Other managers' drains may wait to hear that nothing changed here.
                self.news.notify_one();
            }
            return;
        }
        let limit = Instant::now() + DRAIN_MAX;
        for id in old.mesh.members.difference(&mesh.members) {
            let node = view.task(*id).and_then(|task| task.node_id);
            inner.left.insert(*id, Left { node, since: revision, limit });
        }
        inner
            .left
            .retain(|id, _| !mesh.members.contains(id) && view.task(*id).is_some_and(|task| task.is_live()));
        self.wake_drains(&inner);
        drop(inner);
        // Sessions follow it by themselves.
        self.mesh.send_replace(Arc::new(Versioned { revision, mesh }));
    }
}

impl Listener for Hub {
    fn applied(&self, view: &View, changed: &[ObjectRef]) {
        let mut mesh_stale = false;
        let mut inner = self.lock();
        for object in changed {
            match object {
                ObjectRef::Task(id, _, node) => {
                    if let Some(connected) = node.and_then(|node| inner.sessions.get(&node)) {
                        connected.wake.notify_one();
                    }
                    mesh_stale |= view.task(*id).is_none_or(|task| task.uses_ingress());
                }
                ObjectRef::Node(id) => {
                    // Its role may be another one, or it is given up or removed.
                    if let Some(connected) = inner.sessions.get(id) {
                        connected.wake.notify_one();
                    }
                    mesh_stale = true;
                }
                ObjectRef::Service(id) => mesh_stale |= inner.publishes(*id, view),
                ObjectRef::Cluster => mesh_stale = true,
                ObjectRef::Network(_) => {}
            }
        }
        if mesh_stale {
            inner.stale = Some(view.clone());
            self.mesh_stale.notify_one();
        }
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
