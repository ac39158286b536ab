//! What becomes of a task, as it is written.

use std::{sync::Arc, time::Duration};

use skep_api::{
    TaskState,
    object::{Task, TaskStatus},
};
use skep_scheduler::Given;
use skep_store::{Assigned, Change, Draft};

/// What a task says while it has no node.
const PENDING: &str = "pending task scheduling";
/// What it says that was given one.
pub(super) const PLACED: &str = "scheduler assigned task to node";
/// What it says whose node will do.
pub(super) const CONFIRMED: &str = "scheduler confirmed task can run on preassigned node";

pub(super) fn assign(draft: &mut Draft, task: &Task, given: Given, message: &str) {
    let status = said(draft, task, TaskState::Assigned, message, "");
    if draft.feature_level() >= 2 {
        let assigned = Assigned { node: given.node, status, given: given.generic };
        push(draft, Change::AssignTask(task.id, assigned));
    } else {
        push(draft, Change::PutTask(Arc::new(Task { node_id: Some(given.node), status, ..task.clone() })));
    }
}

/// Whether a task says so already.
pub(super) fn says(task: &Task, err: &str) -> bool {
    let status = &task.status;
    status.state == TaskState::Pending && status.message == *PENDING && status.err == *err
}

/// Says why a task has no node. Only where the words change, so that a quiet cluster drafts nothing.
pub(super) fn explain(draft: &mut Draft, task: &Task, err: &str) {
    let status = said(draft, task, TaskState::Pending, PENDING, err);
    push(draft, Change::PutTask(Arc::new(Task { status, ..task.clone() })));
}

fn said(draft: &Draft, task: &Task, state: TaskState, message: &str, err: &str) -> TaskStatus {
    let timestamp = draft.now().max(task.status.timestamp.after(Duration::from_nanos(1)));
    TaskStatus { state, timestamp, message: message.into(), err: err.into(), ..task.status.clone() }
}

pub(super) fn push(draft: &mut Draft, change: Change) {
    // The picture shows what is taken: a refusal is a bug that the draft keeps for its owner to tell.
    draft.push(change).ok();
}
