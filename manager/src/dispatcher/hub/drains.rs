//! The newest mesh, and the stopping tasks that wait until all nodes have applied it.

use std::sync::Arc;

use skep_api::{TaskId, TaskState, object::Task};
use skep_store::View;
use tokio::time::Instant;

use super::{DRAIN_MAX, Hub, Inner, Left, PAUSE_EACH, PAUSE_MAX, Versioned};
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

    /// The newest mesh, and the revision up to which it is right.
    pub(in crate::dispatcher) fn newest(&self) -> (Arc<Versioned>, u64) {
        let inner = self.lock();
        (self.mesh.borrow().clone(), inner.checked)
    }

    /// Whether every node with a session has applied a mesh without this task.
    pub(in crate::dispatcher) fn is_drained(&self, task: &Task) -> bool {
        if !task.uses_ingress() {
            return true;
        }
        let inner = self.lock();
        let newest = self.mesh.borrow().clone();
        if newest.mesh.members.contains(&task.id) {
            return false;
        }
        let Some(left) = inner.left.get(&task.id) else {
            // It was no endpoint when it was told to stop; before that was looked at, nobody knows.
            return inner.checked >= task.meta.version;
        };
        let lowest = inner.applied.keys().next().copied().unwrap_or(u64::MAX);
        let is_out_here = newest.effective(lowest, inner.checked) >= left.since;
        left.limit <= Instant::now() || is_out_here && inner.roll.have_applied(left.since)
    }

    /// When the next drain stops waiting, after those that were woken for it by then.
    fn next_drain_limit(&self, woken: Instant) -> Option<Instant> {
        self.lock().left.values().map(|left| left.limit).filter(|limit| *limit > woken).min()
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
        let (mut woken, mut rest) = (Instant::now(), None);
        loop {
            let limit = self.next_drain_limit(woken);
            tokio::select! {
                () = self.mesh_stale.notified(), if rest.is_none() => {}
                () = sleep_until(rest), if rest.is_some() => rest = None,
                () = sleep_until(limit) => {
                    woken = Instant::now();
                    self.wake_drains(&self.lock());
                }
            }
            if rest.is_some() {
                continue;
            }
            let stale = self.lock().stale.take();
            if let Some(view) = stale.filter(|view| view.revision() >= first.revision())
                && self.refresh(&view)
            {
                let n = u32::try_from(self.lock().sessions.len()).unwrap_or(u32::MAX);
                rest = Some(Instant::now() + PAUSE_EACH.saturating_mul(n).min(PAUSE_MAX));
            }
        }
    }

    /// Says whether the mesh is another one now.
    pub(super) fn refresh(&self, view: &View) -> bool {
        let terms = Terms::of(view);
        self.terms.send_if_modified(|known| {
            let is_new = **known != terms;
            if is_new {
                *known = Arc::new(terms);
            }
            is_new
        });
        let (mesh, revision) = (Mesh::of(view), view.revision());
        let old = self.mesh.borrow().clone();
        let left: Vec<TaskId> = old.mesh.members.difference(&mesh.members).copied().collect();
        // Other managers may have told their agents of it as of an endpoint, where this one rested.
        let stopping = view.tasks_with_address().filter(|task| is_stopping(task)).map(|task| task.id);
        let left: Vec<TaskId> = left.into_iter().chain(stopping).collect();
        let next = (mesh != old.mesh).then(|| Arc::new(old.then(revision, mesh)));
        let limit = Instant::now() + DRAIN_MAX;
        let mut inner = self.lock();
        inner.checked = revision;
        for id in left {
            let node = view.task(id).and_then(|task| task.node_id);
            inner.left.entry(id).or_insert(Left { node, since: revision, limit });
        }
        let members = &next.as_ref().unwrap_or(&old).mesh.members;
        inner.left.retain(|id, _| !members.contains(id) && view.task(*id).is_some_and(|task| task.is_live()));
        if !inner.left.is_empty() {
            self.wake_drains(&inner);
            // Other managers' drains may wait to hear how far this one is.
            self.news.notify_one();
        }
        // Sessions follow it by themselves. Under the lock: who reads up to where it is right reads this mesh too.
        let is_new = next.is_some();
        if let Some(next) = next {
            self.mesh.send_replace(next);
        }
        is_new
    }
}

/// Its container may take connections yet.
fn is_stopping(task: &Task) -> bool {
    task.status.state == TaskState::Running && !task.is_wanted()
}
