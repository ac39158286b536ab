//! Runs jobs by their schedules.
//!
//! A planned time begins an iteration of the job, unless the one before still runs: then it is left out, or takes its
//! place, as the service says. What was missed while nobody led is made up for by one run. All that is known is stored
//! in the service: the planned time that was dealt with last, and the runs that are over.
//!
//! Planned times are those of the leader's clock. A pass's time may be ahead of that for good, once a clock was.

use std::cmp::max;

use skep_api::{
    TaskState, Timestamp,
    object::{JobRun, Service},
    spec::{Mode, Schedule, ServiceSpec, SkepLabel},
};
use skep_store::Draft;

use crate::{Context, Seat, ServicePart, Situation, WakeKey, jobs::is_under_way};

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
        if let Some(run) = cut_off(at, draft.now()) {
            let new = noted(at, run);
            at.put_service(draft, new);
        }
        if !at.service().is_between_runs() && is_over(at, concurrent, total) {
            end(at, draft);
        }
        let clock = cx.clock(draft.now());
        let service = at.service();
        let dealt_with = service.cron_last;
        // What a clock has dealt with that was ahead by more than a run is not waited for.
        let is_ahead = schedule.next(clock).is_some_and(|next| next < dealt_with);
        let is_new = dealt_with.is_zero() || is_ahead;
        match schedule.next(if is_new { clock } else { dealt_with }) {
            Some(next) if next <= clock => {
                // Of several that were missed the last one alone.
                let planned = max(next, schedule.last(clock).unwrap_or(next));
                begin(at, draft, planned);
                if let Some(next) = schedule.next(planned) {
                    cx.wake(WakeKey::Service(at.service().id), next.after(cx.ahead));
                }
            }
            Some(next) => {
                cx.wake(WakeKey::Service(service.id), next.after(cx.ahead));
                if is_new {
                    let new = Service { cron_last: clock, ..(**service).clone() };
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
    seat.newest_of(at.service().job_iteration).is_some()
}

/// An iteration that began then as one that is over. `n_asked` is how many slots it was to have when it is cut off: what
/// it did not come to has failed as well.
fn run(at: &Situation, iteration: u64, n_asked: u64, started: Timestamp, ended: Timestamp) -> JobRun {
    let last = at.seats().filter_map(|(_, seat)| seat.newest_of(iteration));
    let states: Vec<TaskState> = last.map(|task| task.status.state).collect();
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let completed = count(states.iter().filter(|state| **state == TaskState::Complete).count());
    let failed = max(count(states.len()), n_asked).saturating_sub(completed);
    JobRun { iteration, started, ended, completed, failed }
}

/// How many slots a job is to complete.
fn n_slots(spec: &ServiceSpec) -> u64 {
    match spec.mode() {
        Mode::ReplicatedJob { total, .. } => total,
        Mode::GlobalJob | Mode::Replicated { .. } | Mode::Global => 0,
    }
}

/// The run that was under way when somebody asked for another one by hand: its tasks are still there, and none of that
/// one.
fn cut_off(at: &Situation, now: Timestamp) -> Option<JobRun> {
    let before = at.service().job_iteration.checked_sub(1)?;
    let is_known = at.service().runs.first().is_some_and(|run| run.iteration >= before);
    if is_known || at.seats().any(|(_, seat)| is_of_run(at, seat)) {
        return None;
    }
    let own = at.tasks().filter(|task| task.job_iteration() == before);
    let started = own.map(|task| task.meta.created_at).min()?;
    let n_asked = at.service().previous_spec.as_ref().map_or(0, |spec| n_slots(spec));
    Some(run(at, before, n_asked, started, now))
}

/// Notes that the present run is over.
fn end(at: &mut Situation, draft: &mut Draft) {
    let new = ended(at, 0, draft.now());
    at.put_service(draft, new);
}

fn ended(at: &Situation, n_asked: u64, now: Timestamp) -> Service {
    let service = at.service();
    noted(at, run(at, service.job_iteration, n_asked, service.last_execution, now))
}

fn noted(at: &Situation, run: JobRun) -> Service {
    let old = at.service();
    // The newest says that it is over, whether it is shown or not.
    let n_max = max(old.n_runs_max(), 1);
    let runs = [run].into_iter().chain(old.runs.iter().copied()).take(n_max).collect();
    Service { runs, ..(**old).clone() }
}

/// Deals with a planned time.
fn begin(at: &mut Situation, draft: &mut Draft, planned: Timestamp) {
    let now = draft.now();
    let is_free = at.service().is_between_runs();
    let may_replace = at.service().spec.label(SkepLabel::CronOverlap) == Some("replace");
    let old = if is_free || !may_replace {
        (**at.service()).clone()
    } else {
        ended(at, n_slots(&at.service().spec), now)
    };
    let new = if is_free || may_replace {
        // The first run of all is iteration 0.
        let job_iteration = old.job_iteration + u64::from(!old.last_execution.is_zero());
        Service { job_iteration, last_execution: now, cron_last: planned, ..old }
    } else {
        Service { cron_last: planned, ..old }
    };
    at.put_service(draft, new);
}
