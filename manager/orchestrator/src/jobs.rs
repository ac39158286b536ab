//! Runs the tasks of jobs: of an iteration so many at the same time until so many have completed.
//!
//! Each update of a job is a new iteration, and what is left of older ones goes; what ended in slots of these stays as
//! history, which Swarm keeps without a limit. A slot whose task completed is done; one whose restart policy gave up is
//! not tried again in this iteration (`SK:manager/orchestrator/jobs`, which does try it again, at once and for ever).

use std::sync::Arc;

use skep_api::{
    TaskState, Timestamp,
    object::{SeatKey, Task},
    spec::Mode,
};
use skep_store::Draft;

use crate::{
    Context, NewTask, Seat, ServicePart, Situation, WakeKey,
    seats::{STOP_WAIT_MAX, is_stopped},
};

/// Clears older iterations away, and fills the slots of replicated jobs.
#[derive(Clone, Copy, Debug)]
pub struct Jobs;

impl ServicePart for Jobs {
    fn name(&self) -> &'static str {
        "jobs"
    }

    fn is_by_seat(&self) -> bool {
        true
    }

    fn reconcile(&self, at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>) {
        if !at.mode().is_job() {
            return;
        }
        let iteration = at.service().job_iteration;
        let is_old = |task: &&Arc<Task>| task.job_iteration() != iteration;
        let old: Vec<Arc<Task>> =
            at.seats().flat_map(|(_, seat)| seat.tasks.iter().filter(is_old)).cloned().collect();
        old.iter().for_each(|task| at.remove(draft, task));
        match at.mode() {
            Mode::ReplicatedJob { concurrent, total } if at.is_whole() && !at.service().is_between_runs() => {
                fill(at, draft, cx, concurrent, total);
            }
            // Nodes are the seats of a global one.
            Mode::ReplicatedJob { .. } | Mode::GlobalJob | Mode::Replicated { .. } | Mode::Global => {}
        }
    }
}

/// New tasks: as many as may run besides those that do, and as there are slots left.
fn fill(at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>, concurrent: u64, total: u64) {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let n_used = count(at.seats().filter(|(_, seat)| seat.is_occupied()).count());
    let n_running = count(at.seats().filter(|(_, seat)| is_under_way(seat)).count());
    let stopping = still_stopping(at, draft);
    if let Some(first) = stopping.first() {
        cx.wake(WakeKey::Service(at.service().id), *first);
    }
    let n_running = n_running + count(stopping.len());
    let n_new = concurrent.saturating_sub(n_running).min(total.saturating_sub(n_used));
    let mut slot = 0;
    for _ in 0..n_new {
        while at.seat(SeatKey::Slot(slot)).is_some_and(Seat::is_occupied) {
            slot += 1;
        }
        at.create(draft, cx, SeatKey::Slot(slot), NewTask::from(draft.now()));
    }
}

/// Until when tasks of earlier runs of a scheduled job that still stop count beside those of this one: a run that takes
/// the place of another is no more at the same time than it may be. What is updated by hand does not wait, as in Swarm.
fn still_stopping(at: &Situation, draft: &Draft) -> Vec<Timestamp> {
    if !at.service().spec.is_scheduled() {
        return Vec::new();
    }
    let leaving = at.seats().flat_map(|(_, seat)| &seat.leaving).filter(|task| !is_stopped(draft, task));
    let mut until: Vec<Timestamp> = leaving.map(|task| task.meta.updated_at.after(STOP_WAIT_MAX)).collect();
    until.retain(|until| *until > draft.now());
    until.sort_unstable();
    until
}

/// Whether its task runs or is to, or has failed and something may follow.
pub(crate) fn is_under_way(seat: &Seat) -> bool {
    seat.newest().is_some_and(|task| task.is_wanted() && task.status.state != TaskState::Complete)
}
