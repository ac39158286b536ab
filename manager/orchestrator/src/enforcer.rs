//! Takes tasks off nodes that are lost, gone, drained, or no longer what the tasks ask for.
//!
//! Losing a node is not a task's failure: the successor comes at once, whatever the restart policy says,
//! and does not count as an attempt.

use std::sync::Arc;

use skep_api::{
    TaskState,
    object::{Node, NodeState, Service, Task},
    spec::Availability,
};
use skep_store::Draft;

use crate::{Context, NewTask, Seat, ServicePart, Situation, Why, dirt::satisfies, seats::said};

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
    fn why(self) -> Why {
        match self {
            Self::Down | Self::Drained => Why::Quiet,
            Self::Constraints => Why::Words("assigned node no longer meets constraints"),
        }
    }
}

impl ServicePart for Enforcer {
    fn name(&self) -> &'static str {
        "enforcer"
    }

    fn is_by_seat(&self) -> bool {
        true
    }

    fn reconcile(&self, at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>) {
        orphan(at, draft);
        for key in at.keys() {
            let Some(task) = at.seat(key).and_then(Seat::counted).cloned() else { continue };
            let Some(node) = task.node_id else { continue };
            let Some(reason) = reason(draft.node(node), &task, at.service()) else { continue };
            at.shut_down(draft, &task, reason.why());
            let new = NewTask::instead_of(&task, at.seat(key), draft.now());
            at.create(draft, cx, key, new);
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
fn orphan(at: &mut Situation, draft: &mut Draft) {
    let is_lost =
        |task: &&Arc<Task>| task.is_live() && task.node_id.is_some_and(|id| draft.node(id).is_none());
    let tasks = at.seats().flat_map(|(_, seat)| seat.tasks.iter().chain(&seat.leaving));
    let lost: Vec<Arc<Task>> = tasks.filter(is_lost).cloned().collect();
    for task in lost {
        let status = said(&task.status, draft.now(), TaskState::Orphaned, "orphaned", "its node was removed");
        at.put(draft, Task { status, ..(*task).clone() });
    }
}
