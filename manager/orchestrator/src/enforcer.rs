//! Takes tasks off nodes that are lost, gone, drained, or no longer what the tasks ask for.
//!
//! Losing a node is not a task's failure: the successor comes at once, and does not count as an attempt. Where the node is
//! the seat, it comes once the node will do again. Only a policy that restarts nothing is kept, as by Swarm: what is to run
//! once is not run twice.

use std::{sync::Arc, time::Duration};

use skep_api::{
    TaskState,
    object::{Node, NodeState, SeatKey, Service, Task},
    spec::Availability,
};
use skep_store::{Draft, View};

use crate::{
    Context, Fit, NewTask, Seat, ServicePart, Situation, WakeKey, Why,
    moves::is_no_more_than_a_move,
    restart::runs_once,
    room::{has_all, has_room},
    seats::{NO_LONGER_MEETS, said},
};

/// Nobody will say any more what became of a task whose node is down for so long
/// (`SK:manager/dispatcher/dispatcher.go`).
const ORPHANED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Swarm's words for a task whose node was removed (`SK:manager/controlapi/node.go`).
const NODE_DELETED: &str = "Task belonged to a node that has been deleted";

/// What a task says that the node no longer allows (`SK:manager/orchestrator/constraintenforcer`).
const REJECTED_BY_ENFORCER: &str = "task rejected by constraint enforcer";

/// Replaces tasks whose node will not do any more.
#[derive(Clone, Copy, Debug)]
pub struct Enforcer;

/// Why a task leaves its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    Down,
    Drained,
    /// The service asks for other nodes by now; where nodes are the seats.
    Elsewhere,
    /// The node has changed, in its labels or in what it has.
    Rejected,
}

impl Reason {
    /// What the task says of it.
    fn why(self) -> Why<'static> {
        match self {
            Self::Down | Self::Drained | Self::Elsewhere => Why::Quiet,
            Self::Rejected => Why::Words(NO_LONGER_MEETS),
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
        let service = at.service();
        let keys = at.keys(|seat| seat.all().any(|task| is_odd(draft, cx, task, service)));
        if keys.is_empty() {
            return;
        }
        orphan(at, draft, cx, &keys);
        reject(at, draft, &keys);
        let fit = Fit::of(at, cx);
        for key in keys {
            let Some(task) = at.seat(key).and_then(Seat::counted).cloned() else { continue };
            let Some(node) = task.node_id.or(task.for_node()) else { continue };
            let Some(reason) = reason(draft, cx, draft.node(node), &task, at.service()) else { continue };
            send_away(at, draft, cx, &fit, &task, reason.why());
            if draft.node(node).is_some_and(|node| !has_all(draft, node)) {
                // Who was to go because of this task may stay by now, and take the room of one that was to stay: of this
                // service or of another one, and looked at before.
                cx.wake(WakeKey::Node(node), draft.now());
            }
        }
    }
}

/// Stops a task that has to leave its node. It has not failed: what follows comes at once.
pub(crate) fn send_away(
    at: &mut Situation,
    draft: &mut Draft,
    cx: &mut Context<'_>,
    fit: &Fit,
    task: &Task,
    why: Why<'_>,
) {
    let key = task.seat();
    let is_counted = at.seat(key).and_then(Seat::counted).is_some_and(|counted| counted.id == task.id);
    // What was still to take over has not run: that it comes once more is no second run.
    let has_run = !task.status.running_at.is_zero();
    let is_to_take_over =
        !has_run && at.seat(key).and_then(Seat::pair).is_some_and(|(_, new)| new.id == task.id);
    let may_follow = is_to_take_over || !runs_once(at, task);
    at.shut_down(draft, task, why);
    // Who runs beside another one leaves the seat to that one.
    let is_replaced = is_counted && may_follow && !is_no_more_than_a_move(task, at.seat(key));
    if is_replaced && fit.may_fill(draft, key) {
        let new = NewTask::instead_of(task, at.seat(key), draft.now());
        at.create(draft, cx, key, new);
    }
}

/// Whether there may be something to do about a task: true of few, and all of them are asked in one go.
fn is_odd(view: &View, cx: &mut Context<'_>, task: &Task, service: &Service) -> bool {
    let Some(id) = task.node_id.or(task.for_node()).filter(|_| task.is_live()) else {
        return is_to_be_rejected(task);
    };
    let node = view.node(id);
    node.is_none_or(|node| node.status.state == NodeState::Down)
        || (task.is_runnable() && reason(view, cx, node, task, service).is_some())
}

fn reason(
    view: &View,
    cx: &mut Context<'_>,
    node: Option<&Arc<Node>>,
    task: &Task,
    service: &Service,
) -> Option<Reason> {
    // Tasks of removed nodes are orphaned before, so there is always a node.
    let node = node?;
    if node.status.state == NodeState::Down {
        return Some(Reason::Down);
    }
    match node.spec.availability {
        Availability::Drain => return Some(Reason::Drained),
        // What is there stays, whatever becomes of the node.
        Availability::Pause => return None,
        Availability::Active => {}
    }
    // The task was placed under its own constraints, so the node has changed when they fail; what the service asks by
    // now may still allow it.
    let differences = &mut cx.differences;
    if !differences.is_met(node, service.spec_version, &service.spec) {
        let meets_own = differences.is_met(node, task.spec_version, &task.spec);
        if !meets_own || is_rolled_out(service, node) {
            return Some(Reason::Rejected);
        }
        if matches!(task.seat(), SeatKey::Node(_)) {
            return Some(Reason::Elsewhere);
        }
    }
    (task.node_id.is_some() && !has_room(view, node, task)).then_some(Reason::Rejected)
}

/// Whether what the service asks by now is asked of all its tasks, so that it is the node that changed when one does
/// not meet it. Else it is the update's business, and where nodes are the seats nobody's fault.
fn is_rolled_out(service: &Service, node: &Node) -> bool {
    match service.update_status {
        Some(_) => !service.is_updating() && !service.is_update_paused(),
        // A change that touched no task begins no update.
        None => node.meta.version > service.meta.version,
    }
}

/// What had to leave its node shows so once it has stopped: before, it still holds what it has there.
fn reject(at: &mut Situation, draft: &mut Draft, keys: &[SeatKey]) {
    let tasks = keys.iter().filter_map(|key| at.seat(*key)).flat_map(|seat| &seat.tasks);
    let stopped: Vec<Arc<Task>> = tasks.filter(|task| is_to_be_rejected(task)).cloned().collect();
    for task in stopped {
        let status =
            said(&task.status, draft.now(), TaskState::Rejected, REJECTED_BY_ENFORCER, NO_LONGER_MEETS);
        at.put(draft, Task { status, ..(*task).clone() });
    }
}

fn is_to_be_rejected(task: &Task) -> bool {
    task.status.state == TaskState::Shutdown && task.status.err.as_str() == NO_LONGER_MEETS
}

/// Nobody will ever report what became of the tasks of a node that was removed, or is down for too long.
fn orphan(at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>, keys: &[SeatKey]) {
    let now = draft.now();
    let mut lost: Vec<(Arc<Task>, Option<&str>)> = Vec::new();
    for task in keys.iter().filter_map(|key| at.seat(*key)).flat_map(Seat::all) {
        let Some(id) = task.node_id.filter(|_| task.is_live()) else { continue };
        match draft.node(id) {
            None => lost.push((Arc::clone(task), Some(NODE_DELETED))),
            Some(node) if node.status.state == NodeState::Down && !node.status.since.is_zero() => {
                let due = node.status.since.after(ORPHANED_AFTER);
                if due <= now {
                    lost.push((Arc::clone(task), None));
                } else {
                    cx.wake(WakeKey::Service(task.service_id), due);
                }
            }
            Some(_) => {}
        }
    }
    for (task, message) in lost {
        let old = &task.status;
        let message = message.unwrap_or(old.message.as_str());
        let status = said(old, now, TaskState::Orphaned, message, old.err.as_str());
        at.put(draft, Task { status, ..(*task).clone() });
    }
}
