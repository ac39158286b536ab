//! Runs jobs by their schedules.
//!
//! A planned time begins an iteration of the job, unless the one before still runs: then it is left out, or takes its
//! place, as the service says. What was missed while nobody led is made up for by one run. All that is known is stored
//! in the service: the planned time that was dealt with last, and the runs that are over.

use std::cmp::max;

use skep_api::{
    TaskState, Timestamp,
    object::{JobRun, SeatKey, Service},
    spec::{Mode, Schedule, SkepLabel},
};
use skep_store::Draft;

use crate::{Context, Seat, ServicePart, Situation, WakeKey, jobs::is_under_way, seats::is_told};

/// Begins and ends the runs of scheduled jobs.
#[derive(Clone, Copy, Debug)]
pub struct Scheduled;

impl ServicePart for Scheduled {
    fn name(&self) -> &'static str {
        "cron"
    }

    fn is_by_seat(&self) -> bool {
        false
    }

    fn reconcile(&self, at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>) {
        let Mode::ReplicatedJob { concurrent, total } = at.mode() else { return };
        let Some(schedule) = Schedule::of(&at.service().spec).filter(|_| draft.feature_level() >= 2) else {
            return;
        };
        if !at.service().is_between_runs() && is_over(at, concurrent, total) {
            end(at, draft);
        }
        let now = draft.now();
        let service = at.service();
        let since = if service.cron_last.is_zero() || !is_told(service.cron_last, now) {
            now
        } else {
            service.cron_last
        };
        match schedule.next(since) {
            Some(next) if next <= now => {
                // Of several that were missed the last one alone.
                let planned = max(next, schedule.last(now).unwrap_or(next));
                begin(at, draft, planned);
                if let Some(next) = schedule.next(planned) {
                    cx.wake(WakeKey::Service(at.service().id), next);
                }
            }
            Some(next) => {
                cx.wake(WakeKey::Service(service.id), next);
                if service.cron_last.is_zero() {
                    let new = Service { cron_last: now, ..(**service).clone() };
                    at.put_service(draft, new);
                }
            }
            None => {}
        }
    }
}

/// Whether all slots of the iteration have come to an end.
fn is_over(at: &Situation, concurrent: u64, total: u64) -> bool {
    let own = || at.seats().filter(|(_, seat)| is_of_run(at, seat));
    let n_used = u64::try_from(own().count()).unwrap_or(u64::MAX);
    (n_used >= total || concurrent == 0) && !own().any(|(_, seat)| is_under_way(seat))
}

/// Whether a seat has a task of the iteration that it is at.
fn is_of_run(at: &Situation, seat: &Seat) -> bool {
    seat.newest().is_some_and(|task| task.job_iteration() == at.service().job_iteration)
}

/// The present iteration as one that is over.
fn run(at: &Situation, now: Timestamp) -> JobRun {
    let seats: Vec<(SeatKey, &Seat)> = at.seats().filter(|(_, seat)| is_of_run(at, seat)).collect();
    let is_done = |seat: &Seat| seat.newest().is_some_and(|task| task.status.state == TaskState::Complete);
    let completed = seats.iter().filter(|(_, seat)| is_done(seat)).count();
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    JobRun {
        iteration: at.service().job_iteration,
        started: at.service().last_execution,
        ended: now,
        completed: count(completed),
        failed: count(seats.len() - completed),
    }
}

/// Notes that the present run is over.
fn end(at: &mut Situation, draft: &mut Draft) {
    let new = ended(at, draft.now());
    at.put_service(draft, new);
}

fn ended(at: &Situation, now: Timestamp) -> Service {
    let old = at.service();
    // The newest says that it is over, whether it is shown or not.
    let n_max = max(old.n_runs_max(), 1);
    let runs = [run(at, now)].into_iter().chain(old.runs.iter().copied()).take(n_max).collect();
    Service { runs, ..(**old).clone() }
}

/// Deals with a planned time.
fn begin(at: &mut Situation, draft: &mut Draft, planned: Timestamp) {
    let now = draft.now();
    let is_free = at.service().is_between_runs();
    let may_replace = at.service().spec.label(SkepLabel::CronOverlap) == Some("replace");
    let old = if is_free || !may_replace { (**at.service()).clone() } else { ended(at, now) };
    let new = if is_free || may_replace {
        // The first run of all is iteration 0.
        let job_iteration = old.job_iteration + u64::from(!old.last_execution.is_zero());
        Service { job_iteration, last_execution: now, cron_last: planned, ..old }
    } else {
        Service { cron_last: planned, ..old }
    };
    at.put_service(draft, new);
}
