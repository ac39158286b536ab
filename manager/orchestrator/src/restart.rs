//! Decides what follows a task that has ended, and when its successor may run.
//!
//! In: the tasks of a slot, their restart policy, now. A task is never started again: a new one takes its
//! slot, wanted READY until its delay has passed and the one before it has stopped, then RUNNING.
//! Attempts are counted in the slot's stored history, for each spec version.

use std::{sync::Arc, time::Duration};

use skep_api::{
    TaskState, Timestamp,
    object::{SeatKey, Service, Task, UpdateState},
    spec::{RestartCondition, RestartSettings, SkepLabel},
};
use skep_store::{Draft, View};

use crate::{
    Context, Fit, NewTask, Seat, ServicePart, Situation, WakeKey, Why,
    moves::is_failed_move,
    seats::{ended_itself, is_told},
    update::is_of_update,
};

/// Delays are not doubled more often: the longest one is reached long before.
const DOUBLINGS_MAX: u32 = 30;

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
        let fit = Fit::of(at, cx);
        let waits = |task: &Arc<Task>| task.desired_state < TaskState::Running;
        for key in at.keys(|seat| seat.counted().is_none_or(waits)) {
            let Some(seat) = at.seat(key) else { continue };
            match seat.counted().cloned() {
                Some(task) if task.desired_state < TaskState::Running => {
                    start_when_due(at, draft, cx, key, &task)
                }
                Some(_) => {}
                None => succeed(at, draft, cx, key, &fit),
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
fn succeed(at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>, key: SeatKey, fit: &Fit) {
    let Some(seat) = at.seat(key) else { return };
    let Some(last) = seat.last().cloned() else { return };
    if at.mode().is_job() && last.status.state == TaskState::Complete {
        // That is what was wanted of it.
        return;
    }
    let now = draft.now();
    let is_handled = !last.is_wanted();
    // Another try of what is no longer asked for would tell nothing: a change of the service ends the delay. While an
    // update is paused it is its own policy that decides, as it does in Swarm.
    let is_paused = at.service().is_update_paused();
    let is_outdated = !is_paused && cx.differences.is_dirty(draft, &last, at.service()) && {
        // What the update tried here already, in vain, it does not try again: then it is the policy's again.
        let service = Arc::clone(at.service());
        let is_of_it = |task: &&Arc<Task>| is_of_update(&service, task);
        !seat.tasks.iter().filter(is_of_it).any(|task| !cx.differences.is_dirty(draft, task, &service))
    };
    // Where the node is the seat, it came back.
    let is_back = is_handled && at.mode().is_global() && !ended_itself(&last);
    let is_lost = last.status.state == TaskState::Orphaned;
    let is_move = is_failed_move(&last);
    let runs_once = runs_once(at, &last) && !is_move;
    if is_outdated && (runs_once || !is_back && !is_lost) && !at.mode().is_job() {
        // The update takes the seat up, as one of so many at the same time; what its node took with it is no matter
        // of the update.
        if !at.is_whole() {
            // It looks at all seats.
            cx.wake(WakeKey::Service(last.service_id), now);
        }
        return;
    }
    if !is_handled && !is_outdated && last.not_before > now {
        // It ended while it was being prepared (an image that no node has): its delay is the successor's
        // too, or the slot would spin.
        cx.wake(WakeKey::Service(last.service_id), last.not_before);
        return;
    }
    let settings = last.spec.task_template.restart();
    let has_failed = !is_handled && !is_outdated && !is_lost && !is_move;
    // A run of a job goes on as it is, whatever its next one is to be.
    let is_asked_for = !is_outdated || at.mode().is_job();
    let is_judged = has_failed || (ended_itself(&last) && is_asked_for && !is_move);
    // A rollback ends with all that there was, whatever became of it meanwhile.
    let is_brought_back = is_before_rollback(at.service(), &last);
    let has_given_up = (runs_once || is_judged && !may_restart(&settings, seat, &last)) && !is_brought_back;
    let delay = if has_failed { delay(draft, at.service(), &last) } else { Duration::ZERO };
    if !is_handled {
        at.shut_down(draft, &last, Why::Quiet);
    }
    if !has_given_up && fit.may_fill(draft, key) {
        let restarts = if has_failed { n_restarts(draft, at.service(), &last) } else { 0 };
        // What a lost task was to do for an update is still to be done.
        let update = if is_lost { last.update } else { 0 };
        at.create(draft, cx, key, NewTask { restarts, update, ..NewTask::from(now.after(delay)) });
    }
}

/// Whether nothing follows a task, whatever it ends by: its node was lost or drained, say. A policy that restarts nothing
/// keeps one from running twice (`SK:manager/orchestrator/restart/restart.go`); a job runs until it is done.
pub(crate) fn runs_once(at: &Situation, task: &Task) -> bool {
    !at.mode().is_job() && task.spec.task_template.restart().condition == RestartCondition::None
}

/// Whether a task was there before the rollback began that goes on (`UpdatableTasksInSlot` of
/// `SK:manager/orchestrator/restart/restart.go`).
fn is_before_rollback(service: &Service, task: &Task) -> bool {
    let state = service.update_status.as_ref().map(|status| status.state);
    // Not by times: leaders' clocks differ. A rollback sets the spec anew, so all that it makes is of a later version.
    state == Some(UpdateState::RollbackStarted) && task.spec_version < service.spec_version
}

/// How long the successor of a task that ended waits: as the policy says, or doubled with each end where the service
/// asks for that.
pub(crate) fn delay(view: &View, service: &Service, last: &Task) -> Duration {
    let settings = last.spec.task_template.restart();
    let Some(max) = service.spec.label_span(SkepLabel::BackoffMax) else { return settings.delay };
    let n = n_restarts(view, service, last).saturating_sub(1).min(DOUBLINGS_MAX);
    settings.delay.saturating_mul(1 << n).min(max.max(settings.delay))
}

/// How many ends led to what follows a task. Only where delays grow with them; one that ran longer than the longest
/// delay was a good one, and counting begins anew.
pub(crate) fn n_restarts(view: &View, service: &Service, last: &Task) -> u32 {
    if view.feature_level() < 2 {
        // Older managers would drop it.
        return 0;
    }
    let Some(max) = service.spec.label_span(SkepLabel::BackoffMax) else { return 0 };
    let (running_at, end) = (last.status.running_at, last.status.timestamp);
    let was_good = !running_at.is_zero() && end.since(running_at) > max;
    let before = last.extra.as_ref().map_or(0, |extra| extra.restarts);
    if was_good { 1 } else { before.saturating_add(1) }
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
            && is_attempt(task, last.spec_version)
            && (settings.window.is_zero()
                || is_within(last.status.timestamp, task.status.timestamp, settings))
    };
    let n_restarts = seat.tasks.iter().filter(counts).count();
    u64::try_from(n_restarts).is_ok_and(|n| n < settings.max_attempts)
}

/// Whether a task's end counts where attempts at a version are limited.
pub(crate) fn is_attempt(task: &Task, version: u64) -> bool {
    task.spec_version == version && ended_itself(task) && !is_failed_move(task)
}

fn is_within(end: Timestamp, earlier: Timestamp, settings: &RestartSettings) -> bool {
    end.since(earlier) < settings.window
}
