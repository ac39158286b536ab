//! What all sessions share: who is connected, here and with other managers, the newest mesh, and who has
//! applied it.
//!
//! A mesh's revision is that of the applied entry that made it so, hence the same with every manager.

mod drains;
mod sessions;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use skep_api::{
    NodeId, ServiceId, TaskId,
    object::Service,
    spec::PortConfig,
    wire::{self, manager_message::Message as Out},
};
use skep_store::{ObjectRef, View};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use super::{
    mesh::{Mesh, MeshStep, Peers},
    roll::Roll,
    terms::Terms,
};
use crate::machine::Listener;

/// A stopping task waits for the nodes' meshes at most this long (one of them may hang).
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// Steps of the mesh that are kept for agents that were told of one before the newest; others are told all of it.
const STEPS_MAX: usize = 64;

/// Between two meshes, for each agent that is told: in a large swarm many changes go out as one. To tell an agent takes
/// about a tenth of it.
const PAUSE_EACH: Duration = Duration::from_micros(300);
/// And at most: no node is to have a stale entry for a second.
const PAUSE_MAX: Duration = Duration::from_millis(500);

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

/// Which mesh a session was told last: by the revision here, and by that which it came under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Told {
    pub(super) own: u64,
    told: u64,
    peers: Peers,
}

/// The mesh at its revision.
#[derive(Debug, Default)]
pub(super) struct Versioned {
    pub(super) revision: u64,
    /// The revision at which an endpoint left last, from 1 on.
    left_at: u64,
    pub(super) mesh: Mesh,
    /// The last steps that led here, at most [`STEPS_MAX`].
    steps: Vec<Arc<MeshStep>>,
}

impl Versioned {
    /// What a node is told, and under which revision it has this mesh then. `checked` is the revision up to which
    /// this mesh is right: another manager may have told the node of one that it found later. `takes_few_peers` is
    /// the agent's word.
    pub(super) fn news(
        &self,
        node: NodeId,
        takes_few_peers: bool,
        sent: Option<Told>,
        checked: u64,
    ) -> (Vec<Out>, Told) {
        // Who knows of all is told of all as long as the session lasts: its next task is there soon.
        let knows_all = sent.is_some_and(|sent| sent.peers == Peers::All);
        let wanted = if takes_few_peers && !knows_all { self.mesh.peers_of(node) } else { Peers::All };
        let begin = sent.filter(|sent| sent.peers == wanted).and_then(|sent| {
            let at = self.steps.iter().position(|step| step.from == sent.own)?;
            Some((at, sent))
        });
        let Some((at, sent)) = begin else {
            let told = checked.max(self.revision);
            let state = self.mesh.for_node(node, wanted, told, self.left_at);
            return (vec![Out::Mesh(state)], Told { own: self.revision, told, peers: wanted });
        };
        let mut sent = Told { own: self.revision, ..sent };
        let mut changes = Vec::new();
        for step in self.steps[at..].iter().filter(|step| step.concerns(node, sent.peers)) {
            let change = step.for_node(node, sent.peers, &self.mesh);
            changes.push(Out::MeshChange(wire::MeshChange { applies_to: sent.told, ..change }));
            sent.told = step.to;
        }
        (changes, sent)
    }

    /// Up to which revision a node that has applied this one has no endpoint that left.
    fn effective(&self, applied: u64, checked: u64) -> u64 {
        if applied >= self.left_at { applied.max(checked) } else { applied }
    }

    /// The next one.
    fn then(&self, revision: u64, mesh: Mesh) -> Self {
        let has_left = self.mesh.members.difference(&mesh.members).next().is_some();
        // What this manager has seen leave begins with its first mesh.
        let left_at = if has_left || self.left_at == 0 { revision } else { self.left_at };
        let step = MeshStep::between((self.revision, &self.mesh), (revision, &mesh), left_at);
        let skip = (self.steps.len() + 1).saturating_sub(STEPS_MAX);
        let steps =
            self.steps[skip.min(self.steps.len())..].iter().cloned().chain([Arc::new(step)]).collect();
        Self { revision, left_at, mesh, steps }
    }
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
    /// Somebody waits for it with another manager.
    news: Notify,
    /// A session opened or ended; nobody waits.
    moved: Notify,
}

impl Hub {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            mesh: watch::channel(Arc::default()).0,
            terms: watch::channel(Arc::default()).0,
            mesh_stale: Notify::new(),
            news: Notify::new(),
            moved: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
                ObjectRef::Network(_) | ObjectRef::Ticket(_) => {}
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
