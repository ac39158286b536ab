//! One pass of the leader: all reconcilers and the scheduler, in a fixed order, on one draft.
//!
//! In: a view, what changed, now, fresh ids. Out: a draft, and when to look at which service again.
//! It looks only at what is dirty; within one service it decides from that service's whole state.
//! Invariants: same input, same draft; stored state is the only memory; a quiet cluster drafts nothing.

mod placement;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use skep_api::{ServiceId, TaskId, Timestamp, id::IdSource, object::Task};
use skep_orchestrator::{Context, Scope, after_placement, before_placement};
use skep_store::{Dirty, Draft, View};

/// What a pass decided.
#[derive(Debug)]
pub struct Pass {
    /// The changes.
    pub draft: Draft,
    /// When to look at a service again even if nothing changes. A service that was looked at and is not
    /// in it waits for nothing.
    pub wakes: BTreeMap<ServiceId, Timestamp>,
}

/// Runs one pass. Services whose wake-up came due belong into `dirty.services`.
#[must_use]
pub fn pass(view: View, dirty: &Dirty, now: Timestamp, ids: &mut dyn IdSource) -> Pass {
    let scope = scope(&view, dirty);
    let is_room_freed = is_room_freed(&view, dirty);
    let mut draft = Draft::new(view, now);
    let mut cx = Context::new(ids, scope);
    for mut reconciler in before_placement() {
        reconciler.reconcile(&mut draft, &mut cx);
    }
    placement::place(&mut draft, &cx.scope, is_room_freed);
    for mut reconciler in after_placement() {
        reconciler.reconcile(&mut draft, &mut cx);
    }
    Pass { draft, wakes: cx.wakes }
}

/// What a pass looks at: what changed, and the services that have tasks on nodes that changed.
fn scope(view: &View, dirty: &Dirty) -> Scope {
    if dirty.all {
        let services = view.services().map(|service| service.id).chain(view.services_with_tasks()).collect();
        return Scope { services, nodes: view.nodes().map(|node| node.id).collect() };
    }
    let mut scope = Scope { services: dirty.services.clone(), nodes: dirty.nodes.clone() };
    for node in &dirty.nodes {
        scope
            .services
            .extend(view.tasks_of_node(*node).filter(|task| task.is_live()).map(|task| task.service_id));
    }
    if dirty.services.iter().any(|id| view.service(*id).is_none()) {
        // A service is gone; others may wait for its ports.
        scope.services.extend(view.unplaced_tasks().map(|task| task.service_id));
    }
    scope
}

/// Whether a task that found no node may find one now.
fn is_room_freed(view: &View, dirty: &Dirty) -> bool {
    let has_ended = |id: &TaskId| !view.task(*id).is_some_and(|task: &std::sync::Arc<Task>| task.is_live());
    dirty.all || !dirty.nodes.is_empty() || dirty.tasks.iter().any(has_ended)
}
