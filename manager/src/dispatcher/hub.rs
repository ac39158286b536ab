//! What all sessions share: who is connected, the newest mesh, and who has applied it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use skep_api::{NodeId, TaskId, object::Task, wire};
use skep_store::{ObjectRef, View};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use super::mesh::Mesh;
use crate::{leader::sleep_until, machine::Listener};

/// A stopping task waits for the nodes' meshes at most this long (one of them may hang).
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// Messages that may wait for one agent besides its assignments and mesh (log requests, receipts).
pub(super) const ASIDE_MAX: usize = 256;

/// One connected agent.
#[derive(Debug)]
struct Connected {
    session: u64,
    wake: Arc<Notify>,
    aside: mpsc::Sender<wire::ManagerMessage>,
    /// The mesh revision that it has applied.
    applied: u64,
}

/// The mesh at its revision.
#[derive(Debug, Default)]
pub(super) struct Versioned {
    pub(super) revision: u64,
    pub(super) mesh: Mesh,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: BTreeMap<NodeId, Connected>,
    next_session: u64,
    /// Stopping tasks that were endpoints: the mesh revision since which they are none, and when a drain
    /// waits for nobody any more.
    left: BTreeMap<TaskId, (u64, Instant)>,
}

/// Shared by all sessions.
#[derive(Debug)]
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    mesh: watch::Sender<Arc<Versioned>>,
    mesh_stale: Notify,
}

impl Hub {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            mesh: watch::channel(Arc::default()).0,
            mesh_stale: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins; an earlier one of the same node is over.
    pub(super) fn connect(
        &self,
        node: NodeId,
        aside: mpsc::Sender<wire::ManagerMessage>,
    ) -> (u64, Arc<Notify>, watch::Receiver<Arc<Versioned>>) {
        let mut inner = self.lock();
        inner.next_session += 1;
        let (session, wake) = (inner.next_session, Arc::new(Notify::new()));
        if let Some(old) =
            inner.sessions.insert(node, Connected { session, wake: wake.clone(), aside, applied: 0 })
        {
            old.wake.notify_one();
        }
        (session, wake, self.mesh.subscribe())
    }

    /// Whether this session is still the node's.
    pub(super) fn is_current(&self, node: NodeId, session: u64) -> bool {
        self.lock().sessions.get(&node).is_some_and(|connected| connected.session == session)
    }

    /// A session is over. Says whether the node has none now.
    pub(super) fn disconnect(&self, node: NodeId, session: u64) -> bool {
        let mut inner = self.lock();
        if inner.sessions.get(&node).is_some_and(|connected| connected.session == session) {
            inner.sessions.remove(&node);
        }
        let is_gone = !inner.sessions.contains_key(&node);
        drop(inner);
        self.wake_all();
        is_gone
    }

    /// A node is given up: nobody waits for it any more, and its session ends. An agent that lives dials again.
    pub(crate) fn end(&self, node: NodeId) {
        let ended = self.lock().sessions.remove(&node);
        if let Some(connected) = ended {
            connected.wake.notify_one();
            self.wake_all();
        }
    }

    /// An agent has applied a mesh: stopping tasks elsewhere may wait for that.
    pub(super) fn mesh_applied(&self, node: NodeId, revision: u64) {
        let mut inner = self.lock();
        let Some(connected) = inner.sessions.get_mut(&node).filter(|connected| connected.applied < revision)
        else {
            return;
        };
        connected.applied = revision;
        let waiting = !inner.left.is_empty();
        drop(inner);
        if waiting {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        for connected in self.lock().sessions.values() {
            connected.wake.notify_one();
        }
    }

    /// Whether every connected node has applied a mesh without this task.
    pub(super) fn is_drained(&self, task: &Task) -> bool {
        if !task.uses_ingress() {
            return true;
        }
        if self.mesh.borrow().mesh.members.contains(&task.id) {
            return false;
        }
        let inner = self.lock();
        let Some((since, limit)) = inner.left.get(&task.id) else { return true };
        *limit <= Instant::now() || inner.sessions.values().all(|connected| connected.applied >= *since)
    }

    /// Hands a message to a node's session; false when it has none or too many wait.
    pub(crate) fn send_aside(&self, node: NodeId, message: wire::manager_message::Message) -> bool {
        let inner = self.lock();
        let Some(connected) = inner.sessions.get(&node) else { return false };
        connected.aside.try_send(wire::ManagerMessage { message: Some(message) }).is_ok()
    }

    /// When the next drain stops waiting.
    fn next_drain_limit(&self) -> Option<Instant> {
        let now = Instant::now();
        self.lock().left.values().map(|(_, limit)| *limit).filter(|limit| *limit > now).min()
    }

    /// Computes the mesh anew whenever what it depends on changed. Runs while the manager does.
    pub(crate) async fn keep_mesh(&self, view: impl Fn() -> View) {
        loop {
            let view = view();
            let mesh = Mesh::of(&view);
            if mesh != self.mesh.borrow().mesh {
                let revision = view.revision();
                let mut inner = self.lock();
                let old = self.mesh.borrow().clone();
                for id in old.mesh.members.difference(&mesh.members) {
                    inner.left.insert(*id, (revision, Instant::now() + DRAIN_MAX));
                }
                inner.left.retain(|id, _| {
                    !mesh.members.contains(id) && view.task(*id).is_some_and(|task| task.is_live())
                });
                drop(inner);
                self.mesh.send_replace(Arc::new(Versioned { revision, mesh }));
                self.wake_all();
            }
            let limit = self.next_drain_limit();
            tokio::select! {
                () = self.mesh_stale.notified() => {}
                () = sleep_until(limit) => self.wake_all(),
            }
        }
    }
}

impl Listener for Hub {
    fn applied(&self, view: &View, changed: &[ObjectRef]) {
        let mut mesh_stale = false;
        let inner = self.lock();
        for object in changed {
            match object {
                ObjectRef::Task(id, _, node) => {
                    if let Some(connected) = node.and_then(|node| inner.sessions.get(&node)) {
                        connected.wake.notify_one();
                    }
                    mesh_stale |= view.task(*id).is_none_or(|task| task.uses_ingress());
                }
                ObjectRef::Node(id) => {
                    // Its role may be another one, or it is removed.
                    if let Some(connected) = inner.sessions.get(id) {
                        connected.wake.notify_one();
                    }
                    mesh_stale = true;
                }
                ObjectRef::Service(_) | ObjectRef::Cluster => mesh_stale = true,
                ObjectRef::Network(_) => {}
            }
        }
        drop(inner);
        if mesh_stale {
            self.mesh_stale.notify_one();
        }
    }
}
