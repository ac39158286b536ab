//! How far an update came, as the stored tasks tell.
//!
//! A task says which update made it. A seat is taken up once it has a task of the update, and is judged by the first
//! one: later ones are restarts. So nothing hangs on clocks, and on no history but that one task, which the reaper
//! leaves alone as long as the update goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use skep_api::{
    ServiceId, TaskId, TaskState, Timestamp,
    object::{SeatKey, Service, Task},
    spec::{FailureAction, SkepLabel, UpdateSettings},
};
use skep_store::Draft;

use crate::{
    Context, Fit, Seat, Situation, WakeKey,
    seats::{ended_itself, is_told},
};

/// A new task must stay up this long, if its failure counts, before the next slot is given up for it: what
/// fails, mostly fails at its start. Swarm has no such wait but needs 1.6 s a slot for other reasons.
const SETTLE: Duration = Duration::from_millis(100);

/// Whether the update that goes on, or was the last, made a task. One that began at feature level 1 has no serial, also
/// when the level was raised since.
pub(crate) fn is_of_update(service: &Service, task: &Task) -> bool {
    match service.updates {
        0 => task.spec_version == service.spec_version,
        serial => task.update == serial,
    }
}

/// The task that a seat is judged by: the first that the update made, but for those that we stopped ourselves before
/// they ran (their node was drained, or lost): what follows them is still to come.
pub(crate) fn judged<'a>(service: &Service, seat: &'a Seat) -> Option<&'a Arc<Task>> {
    let tells = |task: &Task| task.is_runnable() || ended_itself(task) || !task.status.running_at.is_zero();
    seat.tasks.iter().find(|task| is_of_update(service, task) && tells(task))
}

/// How far an update came.
#[derive(Debug)]
pub(super) struct Progress {
    /// Seats to be taken up in which nothing runs, but for the next ones.
    idle: Vec<SeatKey>,
    /// Seats to be taken up whose task has found no node.
    waiting: Vec<SeatKey>,
    /// Seats to be taken up in which a task runs.
    running: Vec<SeatKey>,
    /// By seat that was taken up, the task that it is judged by.
    taken: BTreeMap<SeatKey, Arc<Task>>,
    /// Of these, tasks that found no node in seats that had none before either.
    in_vain: BTreeSet<TaskId>,
    settings: UpdateSettings,
    deadline: Option<Duration>,
    now: Timestamp,
    /// What the leader's clock shows by now: behind, where another one was ahead.
    clock: Timestamp,
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
    pub(super) fn read(
        draft: &Draft,
        cx: &mut Context<'_>,
        at: &Situation,
        settings: UpdateSettings,
    ) -> Self {
        let service = at.service();
        let fit = Fit::of(at, cx);
        let mut is_dirty = |task: &Arc<Task>| cx.differences.is_dirty(draft, task, service);
        let (mut idle, mut waiting, mut running, mut taken) =
            (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
        let mut in_vain = BTreeSet::new();
        for (key, seat) in at.seats() {
            if let Some(task) = judged(service, seat) {
                taken.insert(key, Arc::clone(task));
                let mut before = seat.tasks.iter().filter(|task| !is_of_update(service, task)).peekable();
                // One update after the other that finds no node must not take down what runs, seat by seat.
                let is_vain = before.peek().is_some() && before.all(|task| task.node_id.is_none());
                if waits(task) && is_vain {
                    in_vain.insert(task.id);
                }
                continue;
            }
            if !fit.may_fill(draft, key) {
                continue;
            }
            if seat.tasks.iter().any(|task| is_of_update(service, task)) {
                continue;
            }
            match seat.counted() {
                // What is up to date takes over by itself.
                Some(task) if is_dirty(task) => {
                    if seat.runnable().any(|task| task.status.state == TaskState::Running) {
                        running.push(key);
                    } else if task.node_id.is_none() {
                        waiting.push(key);
                    } else {
                        idle.push(key);
                    }
                }
                Some(_) => {}
                None if seat.last().is_some_and(&mut is_dirty) => idle.push(key),
                None => {}
            }
        }
        let deadline = service.spec.label_span(SkepLabel::ProgressDeadline);
        let (now, clock) = (draft.now(), cx.clock(draft.now()));
        Self { idle, waiting, running, taken, in_vain, settings, deadline, now, clock }
    }

    /// Whether no seat is left to be taken up.
    pub(super) fn is_all_taken(&self) -> bool {
        self.idle.is_empty() && self.waiting.is_empty() && self.running.is_empty()
    }

    /// The seats to be taken up, in no order of importance.
    pub(super) fn left(&self) -> Vec<SeatKey> {
        [&self.idle, &self.waiting, &self.running].into_iter().flatten().copied().collect()
    }

    /// How many seats it is about.
    pub(super) fn n_slots(&self) -> u32 {
        let n_left = self.idle.len() + self.waiting.len() + self.running.len();
        u32::try_from(n_left + self.taken.len()).unwrap_or(u32::MAX)
    }

    /// The seats to be taken up now, while so many are in flight.
    ///
    /// Nothing is lost where nothing runs: such a seat comes first, waits for no delay, and for no task that waits for a
    /// node itself. Of those whose tasks wait for one no more come along at a time: the new ones may find one, and then
    /// they are in flight; if they do not, the next ones follow in the next pass. What runs is given up only as long as
    /// fewer than `parallelism` are in flight, whatever those wait for: Swarm's updater has no limit on how long a task
    /// may wait either (`SK:manager/orchestrator/update/updater.go`), and what finds no node now may never find one.
    /// But what waits where nothing had a node before holds nothing up: it may be just that update that makes room.
    pub(super) fn next(&self, n_in_flight: u64) -> Vec<SeatKey> {
        let free =
            |n: u64| usize::try_from(self.settings.parallelism.saturating_sub(n)).unwrap_or(usize::MAX);
        let coming = || self.taken.values().filter(|task| self.arrived_at(task).is_none());
        let n_placed = count(coming().filter(|task| !waits(task)));
        let mut next: Vec<SeatKey> = self.idle.iter().copied().take(free(n_placed)).collect();
        next.extend(self.waiting.iter().take(free(n_placed + count(next.iter()))));
        let n_in_vain = count(coming().filter(|task| self.in_vain.contains(&task.id)));
        let n_flying = n_in_flight.saturating_sub(n_in_vain).saturating_add(count(next.iter()));
        next.extend(self.running.iter().take(free(n_flying)));
        next
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
        let status = &task.status;
        let ran_from = self.in_our_time(status.running_at).max(task.meta.created_at);
        let ended_at = self.in_our_time(status.timestamp);
        status.running_at.is_zero() || ended_at.since(ran_from) <= self.window(task)
    }

    /// For how long after it ran the end of a task counts. Once the last slot is taken up, Swarm watches longer than
    /// a delay that outlasts the monitor (`SK:manager/orchestrator/update/updater.go`).
    fn window(&self, task: &Task) -> Duration {
        let last_taken = self.taken.values().map(|task| task.meta.created_at).max();
        let ended_at = self.in_our_time(task.status.timestamp);
        let is_last = self.is_all_taken() && last_taken.is_some_and(|at| ended_at >= at);
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

    /// A time of the leader's clock, as reports have it, in the time of passes: that goes on from what was stored under
    /// clocks that were ahead, and the clock does not. What is ahead of the clock is of such a one itself.
    fn in_our_time(&self, at: Timestamp) -> Timestamp {
        if at.is_zero() || at > self.clock { at } else { at.after(self.now.since(self.clock)) }
    }

    /// When a task reached RUNNING, or its end or its deadline without that.
    fn arrived_at(&self, task: &Task) -> Option<Timestamp> {
        let said = if !task.status.running_at.is_zero() {
            task.status.running_at
        } else if task.status.state >= TaskState::Running {
            task.status.timestamp
        } else {
            return self.due(task).filter(|due| *due <= self.now);
        };
        let said = self.in_our_time(said);
        let is_sound = is_told(said, self.now) && said >= task.meta.created_at;
        // By a clock that was wrong, and not known to be when it was told. The task is watched from when that was
        // stored, by the leader's clock: else the watch would be over before it ran, or never.
        let stored = self.in_our_time(task.meta.updated_at);
        Some(if is_sound {
            said
        } else if is_told(stored, self.now) {
            stored
        } else {
            said.min(stored)
        })
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

/// Whether placement found no node for a task; of one that it has not come to yet it said nothing.
fn waits(task: &Arc<Task>) -> bool {
    task.node_id.is_none() && !task.status.err.is_empty()
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    u64::try_from(items.count()).unwrap_or(u64::MAX)
}
