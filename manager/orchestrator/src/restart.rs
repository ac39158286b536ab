//! Decides what follows a task that has ended, and when its successor may run.
//!
//! In: the tasks of a slot, their restart policy, now. A task is never started again: a new one takes its
//! slot, wanted READY until its delay has passed and the one before it has stopped, then RUNNING.
//! Attempts are counted in the slot's stored history, for each spec version.

use std::sync::Arc;

use skep_api::{
    TaskState, Timestamp,
    object::{SeatKey, Task},
    spec::{RestartCondition, RestartSettings},
};
use skep_store::Draft;

use crate::{
    Context, NewTask, Seat, ServicePart, Situation, WakeKey, Why,
    dirt::Differences,
    seats::{ended_itself, is_told},
};

/// Replaces ended tasks as their policy says, and lets waiting ones run when their time has come.
#[derive(Clone, Copy, Debug)]
pub struct Restart;

impl ServicePart for Restart {
    fn name(&self) -> &'static str {
        "restart"
    }

    fn is_by_seat(&self) -> bool {
        true
    }

    fn reconcile(&self, at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>) {
        let mut differences = Differences::default();
        for key in at.keys() {
            let Some(seat) = at.seat(key) else { continue };
            match seat.counted().cloned() {
                Some(task) if task.desired_state < TaskState::Running => {
                    start_when_due(at, draft, cx, key, &task)
                }
                Some(_) => {}
                None => succeed(at, draft, cx, key, &mut differences),
            }
        }
    }
}

fn start_when_due(
    at: &mut Situation,
    draft: &mut Draft,
    cx: &mut Context<'_>,
    key: SeatKey,
    task: &Arc<Task>,
) {
    let Some(seat) = at.seat(key) else { return };
    let created = task.meta.created_at;
    let start = if is_told(created, draft.now()) {
        seat.start_at(draft, task, created)
    } else {
        // Its delay is of a clock that was ahead; what has to stop before it is waited for.
        seat.start_at(draft, &Task { not_before: Timestamp::ZERO, ..(**task).clone() }, created)
    };
    if start > draft.now() {
        cx.wake(WakeKey::Service(task.service_id), start);
        return;
    }
    let new = Task { desired_state: at.mode().goal(), ..(**task).clone() };
    at.put(draft, new);
}

/// What follows in a seat that no task fills.
fn succeed(
    at: &mut Situation,
    draft: &mut Draft,
    cx: &mut Context<'_>,
    key: SeatKey,
    differences: &mut Differences,
) {
    let Some(seat) = at.seat(key) else { return };
    let Some(last) = seat.newest().cloned() else { return };
    let now = draft.now();
    let is_handled = !last.is_wanted();
    // Another try of what is no longer asked for would tell nothing: a change of the service ends the delay.
    let is_outdated = differences.is_dirty(draft, &last, at.service());
    if is_outdated && !at.service().is_update_paused() && !at.mode().is_job() {
        // The update takes the seat up, as one of so many at the same time.
        return;
    }
    if !is_handled && !is_outdated && last.not_before > now {
        // It ended while it was being prepared (an image that no node has): its delay is the successor's
        // too, or the slot would spin.
        cx.wake(WakeKey::Service(last.service_id), last.not_before);
        return;
    }
    let not_before = if is_handled {
        // Ended by itself and nothing followed: its policy gave up, until something else is asked for.
        // Else we stopped it and what should follow is missing.
        if ended_itself(&last) && !is_outdated {
            return;
        }
        Some(now)
    } else if is_outdated || last.status.state == TaskState::Orphaned {
        Some(now)
    } else {
        let settings = last.spec.task_template.restart();
        may_restart(&settings, seat, &last).then(|| now.after(settings.delay))
    };
    if !is_handled {
        at.shut_down(draft, &last, Why::Quiet);
    }
    if let Some(not_before) = not_before {
        at.create(draft, cx, key, NewTask::from(not_before));
    }
}

pub(crate) fn may_restart(settings: &RestartSettings, seat: &Seat, last: &Task) -> bool {
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
