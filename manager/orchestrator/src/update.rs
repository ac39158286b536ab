//! Rolls a changed service out, slot by slot, and back.
//!
//! In: the slots, the settings, the update's status, now. An update has no memory of its own: its tasks are
//! those made of its spec since it began in slots that held a task of an older content before. A slot is in flight
//! until that task has reached RUNNING or an end and the delay has passed; at most `parallelism` are.
//! A task of the update that ends before RUNNING, or within the monitor after it, is a failure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use skep_api::{
    ServiceId, TaskId, TaskState, Timestamp,
    object::{SeatKey, Service, Task, UpdateState, UpdateStatus},
    spec::{FailureAction, UpdateSettings},
};
use skep_store::Draft;

use crate::{
    Context, NewTask, Seat, ServicePart, Situation, WakeKey, Why, dirt::Differences, seats::ended_itself,
};

/// A new task must stay up this long, if its failure counts, before the next slot is given up for it: what
/// fails, mostly fails at its start. Swarm has no such wait but needs 1.6 s a slot for other reasons.
const SETTLE: Duration = Duration::from_millis(100);

/// How long a slot stays in flight after its task has arrived.
fn settle(settings: &UpdateSettings) -> Duration {
    match settings.failure_action {
        FailureAction::Continue => settings.delay,
        FailureAction::Pause => settings.delay.max(settings.monitor.min(SETTLE)),
    }
}

/// Replaces tasks that are not what their service asks for any more.
#[derive(Clone, Copy, Debug)]
pub struct Update;

impl ServicePart for Update {
    fn name(&self) -> &'static str {
        "update"
    }

    fn is_by_seat(&self) -> bool {
        false
    }

    fn reconcile(&self, at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>) {
        let service = Arc::clone(at.service());
        let state = service.update_status.as_ref().map(|status| status.state);
        let began = match state {
            // Only the user's next change takes over.
            Some(UpdateState::Paused | UpdateState::RollbackPaused) => return,
            Some(UpdateState::Updating | UpdateState::RollbackStarted) => {
                service.update_status.as_ref().map(|status| status.started_at)
            }
            Some(UpdateState::Completed | UpdateState::RollbackCompleted) | None => None,
        };
        let is_rollback = state == Some(UpdateState::RollbackStarted);
        let progress = Progress::read(draft, at, began, is_rollback);
        if progress.dirty.is_empty() && began.is_none() {
            return;
        }
        let settings = if is_rollback { service.spec.rollback() } else { service.spec.update() };
        if began.is_none() {
            set_status(at, draft, UpdateState::Updating, "update in progress", None);
        }
        if let Some(failed) = progress.too_many_failed(&settings) {
            let state = if is_rollback { UpdateState::RollbackPaused } else { UpdateState::Paused };
            let words = format!("update paused due to failure or early termination of task {failed}");
            set_status(at, draft, state, &words, None);
            return;
        }
        let in_flight = progress.in_flight(draft, cx, service.id, &settings);
        let n_free = settings.parallelism.saturating_sub(in_flight);
        let n_free = usize::try_from(n_free).unwrap_or(usize::MAX);
        for key in progress.dirty.iter().take(n_free) {
            replace(at, draft, cx, *key);
        }
        if progress.dirty.is_empty() && in_flight == 0 {
            complete_when_due(at, draft, cx, &progress, &settings, is_rollback);
        }
    }
}

fn replace(at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>, key: SeatKey) {
    if let Some(old) = at.seat(key).and_then(Seat::counted).cloned() {
        at.shut_down(draft, &old, Why::Quiet);
    }
    at.create(draft, cx, key, NewTask::from(draft.now()));
}

/// How far an update came, as the stored tasks tell.
#[derive(Debug)]
struct Progress {
    /// Seats whose task is to be replaced.
    dirty: Vec<SeatKey>,
    /// By seat, the task with which the update replaced another one.
    updated: BTreeMap<SeatKey, Arc<Task>>,
}

impl Progress {
    fn read(draft: &Draft, at: &Situation, began: Option<Timestamp>, is_rollback: bool) -> Self {
        let service = at.service();
        let mut differences = Differences::default();
        let mut progress = Self { dirty: Vec::new(), updated: BTreeMap::new() };
        for (key, seat) in at.seats() {
            if seat.counted().is_some_and(|task| differences.is_dirty(draft, task, service)) {
                progress.dirty.push(key);
            }
            let Some(began) = began else { continue };
            // Another manager's clock says when a rollback began, and its spec version is always a new one.
            let is_since = |task: &Task| is_rollback || task.meta.created_at >= began;
            let mut was_dirty = false;
            for task in &seat.tasks {
                if differences.is_dirty(draft, task, service) {
                    was_dirty = true;
                } else if was_dirty
                    && task.spec_version == service.spec_version
                    && is_since(task)
                    && is_own(task)
                {
                    progress.updated.insert(key, Arc::clone(task));
                    break;
                }
            }
        }
        progress
    }

    /// A failed task of the update, if so many failed that the action is due.
    fn too_many_failed(&self, settings: &UpdateSettings) -> Option<TaskId> {
        match settings.failure_action {
            FailureAction::Continue => return None,
            FailureAction::Pause => {}
        }
        let failed: Vec<&Arc<Task>> =
            self.updated.values().filter(|task| has_failed(task, settings.monitor)).collect();
        let last = failed.iter().max_by_key(|task| (task.status.timestamp, task.id))?;
        let n_slots =
            self.updated.len() + self.dirty.iter().filter(|key| !self.updated.contains_key(key)).count();
        let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        (count(failed.len()) / count(n_slots) > settings.max_failure_ratio).then_some(last.id)
    }

    /// How many slots are in flight; asks to be woken when the delay of one ends.
    fn in_flight(
        &self,
        draft: &Draft,
        cx: &mut Context<'_>,
        service: ServiceId,
        settings: &UpdateSettings,
    ) -> u64 {
        let mut n = 0;
        for task in self.updated.values() {
            match arrived_at(task).map(|at| at.after(settle(settings))) {
                Some(over) if over <= draft.now() => {}
                Some(over) => {
                    n += 1;
                    cx.wake(WakeKey::Service(service), over);
                }
                None => n += 1,
            }
        }
        n
    }

    /// When the last slot's task arrived; `None` without one.
    fn last_arrival(&self) -> Option<Timestamp> {
        self.updated.values().filter_map(|task| arrived_at(task)).max()
    }
}

/// Whether a task still speaks for the update: one that we stopped ourselves says nothing.
fn is_own(task: &Task) -> bool {
    task.is_runnable() || ended_itself(task)
}

/// When a task reached RUNNING, or its end without that.
fn arrived_at(task: &Task) -> Option<Timestamp> {
    if !task.status.running_at.is_zero() {
        Some(task.status.running_at)
    } else if task.status.state >= TaskState::Running {
        Some(task.status.timestamp)
    } else {
        None
    }
}

fn has_failed(task: &Task, monitor: Duration) -> bool {
    let running_at = task.status.running_at;
    ended_itself(task) && (running_at.is_zero() || task.status.timestamp.since(running_at) <= monitor)
}

/// After the last slot its monitor is waited for; nobody watches when failures change nothing.
fn complete_when_due(
    at: &mut Situation,
    draft: &mut Draft,
    cx: &mut Context<'_>,
    progress: &Progress,
    settings: &UpdateSettings,
    is_rollback: bool,
) {
    let watch = match settings.failure_action {
        FailureAction::Continue => settings.delay,
        // Swarm's rule for a delay that outlasts the monitor (`SK:manager/orchestrator/update/updater.go`).
        FailureAction::Pause if settings.delay >= settings.monitor => settings.delay + Duration::from_secs(1),
        FailureAction::Pause => settings.delay + settings.monitor,
    };
    let over = progress.last_arrival().map_or(draft.now(), |arrival| arrival.after(watch));
    if over > draft.now() {
        cx.wake(WakeKey::Service(at.service().id), over);
        return;
    }
    let (state, words) = if is_rollback {
        (UpdateState::RollbackCompleted, "rollback completed")
    } else {
        (UpdateState::Completed, "update completed")
    };
    let now = draft.now();
    set_status(at, draft, state, words, Some(now));
}

fn set_status(
    at: &mut Situation,
    draft: &mut Draft,
    state: UpdateState,
    message: &str,
    completed_at: Option<Timestamp>,
) {
    let running = at
        .service()
        .update_status
        .clone()
        .filter(|status| matches!(status.state, UpdateState::Updating | UpdateState::RollbackStarted));
    let before = running.unwrap_or_else(|| UpdateStatus::new(state, draft.now(), message));
    let status = UpdateStatus { state, completed_at, message: message.to_owned(), ..before };
    let new = Service { update_status: Some(status), ..(**at.service()).clone() };
    at.put_service(draft, new);
}
