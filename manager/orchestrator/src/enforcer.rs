//! Takes tasks off nodes that are lost, gone, drained, or no longer what the tasks ask for.
//!
//! Losing a node is not a task's failure: the successor comes at once, whatever the restart policy says,
//! and does not count as an attempt.

use std::sync::Arc;

use skep_api::{
    ServiceId, TaskState,
    object::{Node, NodeState, Service, Task},
    spec::Availability,
};
use skep_store::{Change, Draft};

use crate::{
    Context, Reconciler,
    context::push,
    dirt::satisfies,
    seats::{create, said, seats, shut_down},
};

/// Replaces tasks whose node will not do any more.
#[derive(Clone, Copy, Debug)]
pub struct Enforcer;

/// Why a task leaves its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    Down,
    Drained,
    Constraints,
}

impl Reason {
    /// What the task says of it.
    fn words(self) -> &'static str {
        match self {
            Self::Down | Self::Drained => "",
            Self::Constraints => "assigned node no longer meets constraints",
        }
    }
}

impl Reconciler for Enforcer {
    fn name(&self) -> &'static str {
        "enforcer"
    }

    fn reconcile(&mut self, draft: &mut Draft, cx: &mut Context<'_>) {
        for id in cx.scope.services.clone() {
            orphan(draft, id);
            let Some(service) = draft.service(id).cloned() else { continue };
            for (slot, seat) in seats(draft, id) {
                let Some(task) = seat.counted() else { continue };
                let Some(node) = task.node_id else { continue };
                let Some(reason) = reason(draft.node(node), task, &service) else { continue };
                shut_down(draft, task, reason.words());
                create(draft, cx, &service, (slot, &seat), draft.now());
            }
        }
    }
}

fn reason(node: Option<&Arc<Node>>, task: &Task, service: &Service) -> Option<Reason> {
    // Tasks of removed nodes are orphaned before, so there is always a node.
    let node = node?;
    if node.status.state == NodeState::Down {
        return Some(Reason::Down);
    }
    if node.spec.availability == Availability::Drain {
        return Some(Reason::Drained);
    }
    // The task was placed under its own constraints, so the node has changed when they fail; what the
    // service asks by now may still allow it, and a change of the service is the update's business.
    let lost = !satisfies(node, &task.spec.task_template) && !satisfies(node, &service.spec.task_template);
    lost.then_some(Reason::Constraints)
}

/// Nobody will ever report what became of the tasks of a removed node.
fn orphan(draft: &mut Draft, service: ServiceId) {
    let lost = |task: &&Arc<Task>| task.is_live() && task.node_id.is_some_and(|id| draft.node(id).is_none());
    let lost: Vec<Arc<Task>> = draft.tasks_of_service(service).filter(lost).cloned().collect();
    for task in lost {
        let status = said(&task.status, draft.now(), TaskState::Orphaned, "orphaned", "its node was removed");
        push(draft, Change::PutTask(Arc::new(Task { status, ..(*task).clone() })));
    }
}
