//! The slots of a service with their tasks, and the writes that all reconcilers share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use skep_api::{
    ServiceId, TaskId, TaskState, Timestamp,
    object::{NodeState, Service, Task, TaskStatus},
};
use skep_store::{Change, Draft, View};

use crate::{Context, context::push};

/// How long a successor waits for the task before it to stop (`SK:manager/orchestrator/restart/restart.go`).
pub(crate) const STOP_WAIT_MAX: Duration = Duration::from_secs(60);

/// What a new task says of itself until it has a node.
pub(crate) const PENDING_MESSAGE: &str = "pending task scheduling";

/// The tasks of one slot, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seat {
    /// Those that the slot is judged by.
    pub(crate) tasks: Vec<Arc<Task>>,
    /// Those to be removed altogether: no history, but they may still run.
    pub(crate) leaving: Vec<Arc<Task>>,
}

/// The slots of a service that have tasks.
pub(crate) fn seats(view: &View, service: ServiceId) -> BTreeMap<u64, Seat> {
    let mut seats: BTreeMap<u64, Seat> = BTreeMap::new();
    for task in view.tasks_of_service(service) {
        let seat = seats.entry(task.slot).or_default();
        let list = if task.desired_state >= TaskState::Remove { &mut seat.leaving } else { &mut seat.tasks };
        list.push(Arc::clone(task));
    }
    for seat in seats.values_mut() {
        // Of two tasks made at the same time the one that may run is the newer.
        seat.tasks.sort_by_key(|task| (task.meta.created_at, task.is_runnable(), task.id));
    }
    seats
}

impl Seat {
    /// Whether anything but leaving tasks is in it.
    pub(crate) fn is_occupied(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// The task that fills it.
    pub(crate) fn counted(&self) -> Option<&Arc<Task>> {
        self.tasks.iter().rev().find(|task| task.is_runnable())
    }

    /// The task that was made last.
    pub(crate) fn newest(&self) -> Option<&Arc<Task>> {
        self.tasks.last()
    }

    /// When a task of this seat may run: after its delay, and after all others have stopped or had their time.
    pub(crate) fn start_at(
        &self,
        view: &View,
        task: TaskId,
        not_before: Timestamp,
        created: Timestamp,
    ) -> Timestamp {
        let mut others = self.tasks.iter().chain(&self.leaving).filter(|other| other.id != task);
        if others.all(|other| is_stopped(view, other)) {
            not_before
        } else {
            not_before.max(created.after(STOP_WAIT_MAX))
        }
    }
}

/// Whether nothing of the task runs as far as anybody can know: what a lost node does is not waited for.
pub(crate) fn is_stopped(view: &View, task: &Task) -> bool {
    task.status.state.is_terminal() || !is_on_live_node(view, task)
}

/// Whether the task has a node that is there.
pub(crate) fn is_on_live_node(view: &View, task: &Task) -> bool {
    let node = task.node_id.and_then(|id| view.node(id));
    node.is_some_and(|node| node.status.state != NodeState::Down)
}

/// Whether the task came to an end by itself, not because we wanted it.
pub(crate) fn ended_itself(task: &Task) -> bool {
    matches!(task.status.state, TaskState::Complete | TaskState::Failed | TaskState::Rejected)
}

/// Wants a task stopped; it stays as history.
pub(crate) fn shut_down(draft: &mut Draft, task: &Task, reason: &str) {
    let mut new = task.clone();
    new.desired_state = new.desired_state.max(TaskState::Shutdown);
    if new.node_id.is_none() && new.is_live() {
        // No agent knows of it, so nobody else will say that it ended.
        new.status = said(&task.status, draft.now(), TaskState::Shutdown, "shutdown", reason);
    } else if !reason.is_empty() && new.is_live() {
        new.status = said(&task.status, draft.now(), task.status.state, &task.status.message, reason);
    }
    push(draft, Change::PutTask(Arc::new(new)));
}

/// Wants a task gone: at once when nothing of it runs.
pub(crate) fn remove(draft: &mut Draft, task: &Task) {
    if is_stopped(draft, task) {
        push(draft, Change::DeleteTask(task.id));
    } else if task.desired_state < TaskState::Remove {
        let new = Task { desired_state: TaskState::Remove, ..task.clone() };
        push(draft, Change::PutTask(Arc::new(new)));
    }
}

/// Adds a task to a slot: to run once `not_before` has passed and what is in the slot has stopped.
pub(crate) fn create(
    draft: &mut Draft,
    cx: &mut Context<'_>,
    service: &Service,
    (slot, seat): (u64, &Seat),
    not_before: Timestamp,
) {
    let now = draft.now();
    let mut task = Task::new(TaskId(cx.ids.next_id()), service, slot);
    let start = seat.start_at(draft, task.id, not_before, now);
    if start > now {
        task.desired_state = TaskState::Ready;
        task.not_before = not_before;
        cx.wake(service.id, start);
    }
    task.status = said(&task.status, now, TaskState::Pending, PENDING_MESSAGE, "");
    push(draft, Change::PutTask(Arc::new(task)));
}

/// A status of the manager's own: later than what it replaces, so that it wins the merge.
pub(crate) fn said(
    old: &TaskStatus,
    now: Timestamp,
    state: TaskState,
    message: &str,
    err: &str,
) -> TaskStatus {
    TaskStatus {
        state,
        timestamp: now.max(old.timestamp.after(Duration::from_nanos(1))),
        message: message.into(),
        err: err.into(),
        ..old.clone()
    }
}
