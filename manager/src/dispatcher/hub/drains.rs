//! The newest mesh, and the stopping tasks that wait until all nodes have applied it.

use std::sync::Arc;

use skep_api::object::Task;
use skep_store::View;
use tokio::time::Instant;

use super::{DRAIN_MAX, Hub, Inner, Left, Versioned};
use crate::{
    dispatcher::{mesh::Mesh, terms::Terms},
    leader::sleep_until,
};

impl Hub {
    /// Sessions of nodes whose tasks wait for other nodes' meshes look again.
    pub(super) fn wake_drains(&self, inner: &Inner) {
        for left in inner.left.values() {
            if let Some(connected) = left.node.and_then(|node| inner.sessions.get(&node)) {
                connected.wake.notify_one();
            }
        }
    }

    /// Whether every node with a session has applied a mesh without this task.
    pub(in crate::dispatcher) fn is_drained(&self, task: &Task) -> bool {
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

    pub(super) fn refresh(&self, view: &View) {
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
