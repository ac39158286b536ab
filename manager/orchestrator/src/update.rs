//! Rolls a changed service out, slot by slot, and back.
//!
//! In: the slots, the settings, the update's status, now. An update has no memory of its own: its tasks are
//! those made of its spec since it began in slots that held a task of an older content before. A slot is in flight
//! until that task has reached RUNNING or an end and the delay has passed; at most `parallelism` are.
//! A task of the update that ends before RUNNING, or within the monitor after it, is a failure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use skep_api::{
    ServiceId, TaskId, TaskState, Timestamp,
    object::{Service, Task, UpdateState, UpdateStatus},
    spec::{FailureAction, UpdateSettings},
};
use skep_store::{Change, Draft, View};

use crate::{
    Context, Reconciler,
    context::push,
    dirt::Differences,
    seats::{Seat, create, ended_itself, seats, shut_down},
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

impl Reconciler for Update {
    fn name(&self) -> &'static str {
        "update"
    }

    fn reconcile(&mut self, draft: &mut Draft, cx: &mut Context<'_>) {
        for id in cx.scope.services.clone() {
            if let Some(service) = draft.service(id).cloned() {
                reconcile_service(draft, cx, &service);
            }
        }
    }
}

fn reconcile_service(draft: &mut Draft, cx: &mut Context<'_>, service: &Service) {
    let seats = seats(draft, service.id);
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
    let progress = Progress::read(draft, service, &seats, began, is_rollback);
    if progress.dirty.is_empty() && began.is_none() {
        return;
    }
    let settings = if is_rollback { service.spec.rollback() } else { service.spec.update() };
    if began.is_none() {
        set_status(draft, service, UpdateState::Updating, "update in progress", None);
    }
    if let Some(failed) = progress.too_many_failed(&settings) {
        let state = if is_rollback { UpdateState::RollbackPaused } else { UpdateState::Paused };
        let words = format!("update paused due to failure or early termination of task {failed}");
        set_status(draft, service, state, &words, None);
        return;
    }
    let in_flight = progress.in_flight(draft, cx, service.id, &settings);
    let n_free = settings.parallelism.saturating_sub(in_flight);
    let n_free = usize::try_from(n_free).unwrap_or(usize::MAX);
    for slot in progress.dirty.iter().take(n_free) {
        replace(draft, cx, service, *slot, &seats[slot]);
    }
    if progress.dirty.is_empty() && in_flight == 0 {
        complete_when_due(draft, cx, service, &progress, &settings, is_rollback);
    }
}

fn replace(draft: &mut Draft, cx: &mut Context<'_>, service: &Service, slot: u64, seat: &Seat) {
    if let Some(old) = seat.counted() {
        shut_down(draft, old, "");
    }
    create(draft, cx, service, (slot, seat), draft.now());
}

/// How far an update came, as the stored tasks tell.
#[derive(Debug)]
struct Progress {
    /// Slots whose task is to be replaced.
    dirty: Vec<u64>,
    /// By slot, the task with which the update replaced another one.
    updated: BTreeMap<u64, Arc<Task>>,
}

impl Progress {
    fn read(
        view: &View,
        service: &Service,
        seats: &BTreeMap<u64, Seat>,
        began: Option<Timestamp>,
        is_rollback: bool,
    ) -> Self {
        let mut differences = Differences::new(service);
        let mut progress = Self { dirty: Vec::new(), updated: BTreeMap::new() };
        for (slot, seat) in seats {
            if seat.counted().is_some_and(|task| differences.is_dirty(view, task)) {
                progress.dirty.push(*slot);
            }
            let Some(began) = began else { continue };
            // Another manager's clock says when a rollback began, and its spec version is always a new one.
            let is_since = |task: &Task| is_rollback || task.meta.created_at >= began;
            let mut was_dirty = false;
            for task in &seat.tasks {
                if differences.is_dirty(view, task) {
                    was_dirty = true;
                } else if was_dirty
                    && task.spec_version == service.spec_version
                    && is_since(task)
                    && is_own(task)
                {
                    progress.updated.insert(*slot, Arc::clone(task));
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
            self.updated.len() + self.dirty.iter().filter(|slot| !self.updated.contains_key(slot)).count();
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
                    cx.wake(service, over);
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
    draft: &mut Draft,
    cx: &mut Context<'_>,
    service: &Service,
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
    let over = progress.last_arrival().map_or(draft.now(), |at| at.after(watch));
    if over > draft.now() {
        cx.wake(service.id, over);
        return;
    }
    let (state, words) = if is_rollback {
        (UpdateState::RollbackCompleted, "rollback completed")
    } else {
        (UpdateState::Completed, "update completed")
    };
    let now = draft.now();
    set_status(draft, service, state, words, Some(now));
}

fn set_status(
    draft: &mut Draft,
    service: &Service,
    state: UpdateState,
    message: &str,
    completed_at: Option<Timestamp>,
) {
    let is_running =
        |status: &&UpdateStatus| matches!(status.state, UpdateState::Updating | UpdateState::RollbackStarted);
    let started_at = service.update_status.as_ref().filter(is_running).map_or(draft.now(), |s| s.started_at);
    let status = UpdateStatus { state, started_at, completed_at, message: message.to_owned() };
    let new = Service { update_status: Some(status), ..service.clone() };
    push(draft, Change::PutService(Arc::new(new)));
}
