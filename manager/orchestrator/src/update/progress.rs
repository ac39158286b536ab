//! How far an update came, as the stored tasks tell.
//!
//! A task says which update made it. A seat is taken up once it has a task of the update, and is judged by the first
//! one: later ones are restarts. So nothing hangs on clocks, and on no history but that one task, which the reaper
//! leaves alone as long as the update goes on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use skep_api::{
    ServiceId, TaskId, TaskState, Timestamp,
    object::{SeatKey, Service, Task},
    spec::{FailureAction, SkepLabel, UpdateSettings},
};
use skep_store::{Draft, View};

use crate::{
    Context, Fit, Seat, Situation, WakeKey,
    dirt::Differences,
    seats::{ended_itself, is_told},
};

/// A new task must stay up this long, if its failure counts, before the next slot is given up for it: what
/// fails, mostly fails at its start. Swarm has no such wait but needs 1.6 s a slot for other reasons.
const SETTLE: Duration = Duration::from_millis(100);

/// Whether the update that goes on, or was the last, made a task.
pub(crate) fn is_of_update(view: &View, service: &Service, task: &Task) -> bool {
    if view.feature_level() >= 2 {
        service.updates != 0 && task.update == service.updates
    } else {
        task.spec_version == service.spec_version
    }
}

/// The task that a seat is judged by: the first that the update made and that we did not stop ourselves.
pub(crate) fn judged<'a>(view: &View, service: &Service, seat: &'a Seat) -> Option<&'a Arc<Task>> {
    seat.tasks
        .iter()
        .find(|task| is_of_update(view, service, task) && (task.is_runnable() || ended_itself(task)))
}

/// How far an update came.
#[derive(Debug)]
pub(super) struct Progress {
    /// Seats to be taken up in which nothing may come to run.
    pub(super) empty: Vec<SeatKey>,
    /// The other seats to be taken up: first those where nothing runs.
    pub(super) filled: Vec<SeatKey>,
    /// By seat that was taken up, the task that it is judged by.
    taken: BTreeMap<SeatKey, Arc<Task>>,
    settings: UpdateSettings,
    deadline: Option<Duration>,
    now: Timestamp,
}

/// A failure that the action is due for.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) task: TaskId,
    /// It did not run within that.
    pub(super) deadline: Option<Duration>,
    /// How many there are.
    pub(super) n: u32,
}

impl Progress {
    pub(super) fn read(draft: &Draft, at: &Situation, settings: UpdateSettings) -> Self {
        let service = at.service();
        let mut differences = Differences::default();
        let fit = Fit::of(at);
        let mut is_dirty = |task: &Arc<Task>| differences.is_dirty(draft, task, service);
        let (mut empty, mut filled, mut taken) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (key, seat) in at.seats() {
            if let Some(task) = judged(draft, service, seat) {
                taken.insert(key, Arc::clone(task));
                continue;
            }
            if !fit.may_fill(draft, key) {
                continue;
            }
            if seat.tasks.iter().any(|task| is_of_update(draft, service, task)) {
                continue;
            }
            match seat.counted() {
                // What is up to date takes over by itself.
                Some(task) if is_dirty(task) => {
                    let runs = seat.runnable().any(|task| task.status.state == TaskState::Running);
                    filled.push((runs, key));
                }
                Some(_) => {}
                None if seat.newest().is_some_and(&mut is_dirty) => empty.push(key),
                None => {}
            }
        }
        filled.sort();
        let filled = filled.into_iter().map(|(_, key)| key).collect();
        let deadline = service.spec.label_span(SkepLabel::ProgressDeadline);
        Self { empty, filled, taken, settings, deadline, now: draft.now() }
    }

    /// Whether no seat is left to be taken up.
    pub(super) fn is_all_taken(&self) -> bool {
        self.empty.is_empty() && self.filled.is_empty()
    }

    /// How many seats it is about.
    pub(super) fn n_slots(&self) -> u32 {
        u32::try_from(self.empty.len() + self.filled.len() + self.taken.len()).unwrap_or(u32::MAX)
    }

    /// A failed task of the update, if more than the share that is tolerated of `n_slots` failed.
    pub(super) fn failure(&self, n_slots: u32, n_before: u32) -> Option<Failure> {
        if self.settings.failure_action == FailureAction::Continue {
            return None;
        }
        let failed: Vec<&Arc<Task>> = self.taken.values().filter(|task| self.has_failed(task)).collect();
        let last = failed.iter().max_by_key(|task| (task.status.timestamp, task.id))?;
        let n = u32::try_from(failed.len()).unwrap_or(u32::MAX).max(n_before);
        let share = f64::from(n) / f64::from(n_slots.max(1));
        let deadline = self.deadline.filter(|_| !ended_itself(last));
        (share > self.settings.max_failure_ratio).then_some(Failure { task: last.id, deadline, n })
    }

    /// It ended before it ran, or within the monitor after; or it did not come to run in time.
    fn has_failed(&self, task: &Task) -> bool {
        if !ended_itself(task) {
            return self.is_overdue(task);
        }
        let running_at = task.status.running_at;
        running_at.is_zero() || task.status.timestamp.since(running_at) <= self.window(task)
    }

    /// For how long after it ran the end of a task counts. Once the last slot is taken up, Swarm watches longer than
    /// a delay that outlasts the monitor (`SK:manager/orchestrator/update/updater.go`).
    fn window(&self, task: &Task) -> Duration {
        let last_taken = self.taken.values().map(|task| task.meta.created_at).max();
        let is_last = self.is_all_taken() && last_taken.is_some_and(|at| task.status.timestamp >= at);
        if is_last { self.watch() } else { self.settings.monitor }
    }

    /// For how long is watched after the delay of the last slot.
    fn watch(&self) -> Duration {
        let UpdateSettings { delay, monitor, .. } = self.settings;
        if delay >= monitor { delay + Duration::from_secs(1) } else { monitor }
    }

    fn is_overdue(&self, task: &Task) -> bool {
        let due = self.due(task);
        task.status.state < TaskState::Running && due.is_some_and(|due| due <= self.now)
    }

    fn due(&self, task: &Task) -> Option<Timestamp> {
        self.deadline.map(|deadline| task.meta.created_at.after(deadline))
    }

    /// When a task reached RUNNING, or its end or its deadline without that.
    fn arrived_at(&self, task: &Task) -> Option<Timestamp> {
        if !task.status.running_at.is_zero() {
            Some(task.status.running_at)
        } else if task.status.state >= TaskState::Running {
            Some(task.status.timestamp)
        } else {
            self.due(task).filter(|due| *due <= self.now)
        }
    }

    /// How many seats wait for their task to run.
    pub(super) fn n_coming(&self) -> u64 {
        count(self.taken.values().filter(|task| self.arrived_at(task).is_none()))
    }

    /// How many seats are in flight: until their task ran, and the delay after. Asks to be woken when one is not.
    pub(super) fn n_in_flight(&self, cx: &mut Context<'_>, service: ServiceId) -> u64 {
        let settle = match self.settings.failure_action {
            FailureAction::Continue => self.settings.delay,
            FailureAction::Pause | FailureAction::Rollback => {
                self.settings.delay.max(self.settings.monitor.min(SETTLE))
            }
        };
        count(self.taken.values().filter(|task| match self.arrived_at(task) {
            Some(at) => !self.is_past(cx, service, at, settle),
            None => {
                if let Some(due) = self.due(task) {
                    cx.wake(WakeKey::Service(service), due);
                }
                true
            }
        }))
    }

    /// Whether the watch after the last slot is over; asks to be woken then.
    pub(super) fn is_watched(&self, cx: &mut Context<'_>, service: ServiceId) -> bool {
        let span = self.settings.delay + self.watch();
        let arrived = self.taken.values().filter_map(|task| self.arrived_at(task));
        let last = arrived.filter(|at| is_told(*at, self.now)).max();
        last.is_none_or(|at| self.is_past(cx, service, at, span))
    }

    fn is_past(&self, cx: &mut Context<'_>, service: ServiceId, at: Timestamp, span: Duration) -> bool {
        let over = at.after(span);
        let is_past = over <= self.now || !is_told(at, self.now);
        if !is_past {
            cx.wake(WakeKey::Service(service), over);
        }
        is_past
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    u64::try_from(items.count()).unwrap_or(u64::MAX)
}
