//! A seat is tried again as often as its restart policy allows, and never more often; then it is given up.

use std::collections::BTreeMap;

use skep_api::object::{SeatKey, Service, Task};
use skep_api::spec::RestartCondition;
use skep_api::{ServiceId, TaskState};
use skep_manager::View;

use crate::swarm::world::State;

/// A seat, and the version of the spec that was tried there.
type Tried = (ServiceId, SeatKey, u64);

/// What was seen of ends, whatever the state's history still holds.
#[derive(Default)]
pub(crate) struct Attempts {
    /// Of tasks that were wanted when they ended.
    sure: BTreeMap<Tried, u64>,
    /// Of all that ended by themselves: some were told to stop just before.
    at_most: BTreeMap<Tried, u64>,
    /// How many older tasks ran beside what failed, and were lost or ended after that: each is followed once more, as
    /// by Swarm.
    older: BTreeMap<Tried, u64>,
}

fn has_ended_itself(task: &Task) -> bool {
    matches!(task.status.state, TaskState::Complete | TaskState::Failed | TaskState::Rejected)
}

/// Whether a task was to move another one, and never ran: that tells nothing of its seat.
fn is_failed_move(task: &Task) -> bool {
    task.moved_from().is_some() && task.status.running_at.is_zero()
}

/// Counts the older tasks that are no more in a state, where newer ones were tried in vain.
fn count_older(state: &mut State, view: &View) {
    for task in view.tasks().filter(|task| !task.is_runnable()) {
        let known = state.tasks.get(&task.id);
        if known.is_some_and(|known| known.desired <= TaskState::Running && known.state <= TaskState::Running)
        {
            let newer = (task.service_id, task.seat(), task.spec_version.saturating_add(1));
            let last = (task.service_id, task.seat(), u64::MAX);
            for (tried, _) in state.attempts.sure.range(newer..=last) {
                *state.attempts.older.entry(*tried).or_default() += 1;
            }
        }
    }
}

/// Counts the ends that are new in a state.
pub(crate) fn view(state: &mut State, view: &View) {
    count_older(state, view);
    let mut wrong = Vec::new();
    for task in view.tasks().filter(|task| has_ended_itself(task) && !is_failed_move(task)) {
        let known = state.tasks.get(&task.id);
        let has_ended = |state: TaskState| state > TaskState::Running;
        if known.is_some_and(|known| has_ended(known.state)) {
            continue;
        }
        let tried = (task.service_id, task.seat(), task.spec_version);
        *state.attempts.at_most.entry(tried).or_default() += 1;
        let was_wanted = known.is_some_and(|known| known.desired <= TaskState::Complete) && task.is_wanted();
        let sure = state.attempts.sure.entry(tried).or_default();
        *sure += u64::from(was_wanted);
        let restart = task.spec.task_template.restart();
        let more = state.attempts.older.get(&tried).copied().unwrap_or(0);
        if restart.max_attempts > 0 && restart.window.is_zero() && *sure > restart.max_attempts + 1 + more {
            wrong.push(format!(
                "{:?} of {} was tried {sure} times with {:?}, at {}",
                task.seat(),
                task.spec.name,
                restart,
                view.revision()
            ));
        }
    }
    wrong.into_iter().for_each(|line| state.trace.fail(line));
}

/// Whether nothing more may come into a seat that no task fills, as the restart policy of what was tried last says.
pub(crate) fn is_given_up(state: &State, service: &Service, seat: SeatKey) -> bool {
    let mut tasks = state.newest.tasks_of_seat(service.id, seat);
    // Each iteration of a job begins anew.
    tasks.retain(|task| !service.spec.mode().is_job() || task.job_iteration() == service.job_iteration);
    let newest = tasks.iter().max_by_key(|task| (task.meta.created_at, task.id));
    let runs_once = |task: &Task| {
        task.spec.task_template.restart().condition == RestartCondition::None && !task.is_live()
    };
    if !service.spec.mode().is_job() && newest.is_some_and(|task| runs_once(task)) {
        // Whatever it ended by: a drain, say.
        return true;
    }
    tasks.retain(|task| task.desired_state < TaskState::Remove && has_ended_itself(task));
    let Some(last) = tasks.into_iter().max_by_key(|task| (task.meta.created_at, task.id)) else {
        return false;
    };
    let restart = last.spec.task_template.restart();
    let is_done = last.status.state == TaskState::Complete;
    let tried = (service.id, seat, last.spec_version);
    let is_used_up = || {
        let n = state.attempts.at_most.get(&tried).copied().unwrap_or(0);
        restart.max_attempts > 0 && n > restart.max_attempts
    };
    match restart.condition {
        RestartCondition::None => true,
        RestartCondition::OnFailure => is_done || is_used_up(),
        RestartCondition::Any => (is_done && service.spec.mode().is_job()) || is_used_up(),
    }
}
