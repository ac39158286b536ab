//! Decides what follows a task that has ended, and when its successor may run.
//!
//! In: the tasks of a slot, their restart policy, now. A task is never started again: a new one takes its
//! slot, wanted READY until its delay has passed and the one before it has stopped, then RUNNING.
//! Attempts are counted in the slot's stored history, for each spec version.

use std::sync::Arc;

use skep_api::{
    TaskState, Timestamp,
    object::{Service, Task},
    spec::{RestartCondition, RestartSettings},
};
use skep_store::{Change, Draft};

use crate::{
    Context, Reconciler,
    context::push,
    dirt::is_dirty,
    seats::{Seat, create, ended_itself, seats, shut_down},
};

/// Replaces ended tasks as their policy says, and lets waiting ones run when their time has come.
#[derive(Clone, Copy, Debug)]
pub struct Restart;

impl Reconciler for Restart {
    fn name(&self) -> &'static str {
        "restart"
    }

    fn reconcile(&mut self, draft: &mut Draft, cx: &mut Context<'_>) {
        for id in cx.scope.services.clone() {
            let Some(service) = draft.service(id).cloned() else { continue };
            for (slot, seat) in seats(draft, id) {
                match seat.counted() {
                    Some(task) if task.desired_state < TaskState::Running => {
                        start_when_due(draft, cx, &seat, task)
                    }
                    Some(_) => {}
                    None => succeed(draft, cx, &service, slot, &seat),
                }
            }
        }
    }
}

fn start_when_due(draft: &mut Draft, cx: &mut Context<'_>, seat: &Seat, task: &Arc<Task>) {
    let start = seat.start_at(draft, task.id, task.not_before, task.meta.created_at);
    if start > draft.now() {
        cx.wake(task.service_id, start);
        return;
    }
    let new = Task { desired_state: TaskState::Running, ..(**task).clone() };
    push(draft, Change::PutTask(Arc::new(new)));
}

/// What follows in a slot that no task fills.
fn succeed(draft: &mut Draft, cx: &mut Context<'_>, service: &Service, slot: u64, seat: &Seat) {
    let Some(last) = seat.newest() else { return };
    let now = draft.now();
    let is_handled = last.desired_state > TaskState::Running;
    // Another try of what is no longer asked for would tell nothing: a change of the service ends the delay.
    let is_outdated = is_dirty(draft, last, service);
    if !is_handled && !is_outdated && last.not_before > now {
        // It ended while it was being prepared (an image that no node has): its delay is the successor's
        // too, or the slot would spin.
        cx.wake(service.id, last.not_before);
        return;
    }
    let not_before = if is_handled {
        // Ended by itself and nothing followed: its policy gave up, until the service is updated.
        // Else we stopped it and what should follow is missing.
        if ended_itself(last) && last.spec_version == service.spec_version {
            return;
        }
        Some(now)
    } else if is_outdated || last.status.state == TaskState::Orphaned {
        Some(now)
    } else {
        let settings = last.spec.task_template.restart();
        may_restart(&settings, seat, last).then(|| now.after(settings.delay))
    };
    if !is_handled {
        shut_down(draft, last, "");
    }
    if let Some(not_before) = not_before {
        create(draft, cx, service, (slot, seat), not_before);
    }
}

fn may_restart(settings: &RestartSettings, seat: &Seat, last: &Task) -> bool {
    let allowed = match settings.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => last.status.state != TaskState::Complete,
        RestartCondition::Any => true,
    };
    if !allowed || settings.max_attempts == 0 {
        return allowed;
    }
    // Each earlier end of this version led to one restart.
    let counts = |task: &&Arc<Task>| {
        task.id != last.id
            && task.spec_version == last.spec_version
            && ended_itself(task)
            && (settings.window.is_zero()
                || is_within(last.status.timestamp, task.status.timestamp, settings))
    };
    let n_restarts = seat.tasks.iter().filter(counts).count();
    u64::try_from(n_restarts).is_ok_and(|n| n < settings.max_attempts)
}

fn is_within(end: Timestamp, earlier: Timestamp, settings: &RestartSettings) -> bool {
    end.since(earlier) < settings.window
}
