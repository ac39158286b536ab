//! Moves running tasks to other nodes, so that nodes are even.
//!
//! Which task goes, and where to, is said by who knows the nodes. One task of a service moves at a time, and only while
//! all else of it runs: beside the old one, which the takeover ends; after it where both want one volume. How many
//! moved of late is told by the tasks themselves, so another leader counts the same.

use std::time::Duration;

use skep_api::{
    ServiceId, TaskId, TaskState, Timestamp,
    object::{Service, Task},
    spec::Mode,
};
use skep_store::{Draft, View};

use crate::{
    Context, Differences, Look, NewTask, Seat, Situation, WakeKey, Why,
    seats::{is_stopped, is_told},
    update::share_volumes,
};

/// What a label's number of moves is of.
const MINUTE: Duration = Duration::from_secs(60);

/// For how long the history remembers a move: as long as a failure counts against its node.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);

/// Why no task of a service may be moved now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// It never may.
    Never(&'static str),
    /// The service is not at rest: whatever ends that is a change.
    Busy(&'static str),
    /// As many moved as may in a minute.
    Until(Timestamp),
}

/// Whether a task of a service may be moved now.
///
/// # Errors
/// Why not.
pub fn may_move(view: &View, service: &Service, a_minute: u64, now: Timestamp) -> Result<(), Hold> {
    if view.feature_level() < 2 {
        return Err(Hold::Never("moving tasks needs feature level 2"));
    }
    match service.spec.mode() {
        Mode::Replicated { .. } => {}
        Mode::Global | Mode::ReplicatedJob { .. } | Mode::GlobalJob => {
            return Err(Hold::Never("only tasks of replicated services can be moved"));
        }
    }
    if service.is_updating() || service.is_update_paused() {
        return Err(Hold::Busy("an update is under way or paused"));
    }
    if view.unplaced_of_service(service.id).next().is_some() {
        // Most often it is this while a service comes up: said before all its tasks are looked at.
        return Err(Hold::Busy("a task waits for a node"));
    }
    let mut differences = Differences::default();
    let mut seats = Vec::new();
    let mut moved = Vec::new();
    for task in view.tasks_of_service(service.id) {
        if task.moved_from().is_some() {
            moved.push(task.meta.created_at);
        }
        if task.is_runnable() {
            let runs = task.status.state == TaskState::Running && task.desired_state == TaskState::Running;
            if !runs || is_stopped(view, task) {
                return Err(Hold::Busy("a task does not run yet"));
            }
            if differences.is_dirty(view, task, service) {
                return Err(Hold::Busy("a task is still to be updated"));
            }
            seats.push(task.seat());
        } else if !is_stopped(view, task) {
            return Err(Hold::Busy("a task is still stopping"));
        } else if task.is_wanted() {
            return Err(Hold::Busy("a task waits for its restart"));
        }
    }
    let n_running = seats.len();
    seats.sort();
    seats.dedup();
    if seats.len() < n_running {
        return Err(Hold::Busy("a task takes over from another one"));
    }
    if n_running < 2 {
        return Err(Hold::Busy("no other task runs"));
    }
    is_within(moved, a_minute, now)
}

/// Whether another move is within so many a minute.
fn is_within(mut moved: Vec<Timestamp>, a_minute: u64, now: Timestamp) -> Result<(), Hold> {
    moved.retain(|at| at.after(MINUTE) > now && is_told(*at, now));
    moved.sort();
    let Some(n_over) = u64::try_from(moved.len()).unwrap_or(u64::MAX).checked_sub(a_minute) else {
        return Ok(());
    };
    let last = usize::try_from(n_over).ok().and_then(|at| moved.get(at));
    last.map_or(Err(Hold::Never("no move is allowed")), |at| Err(Hold::Until(at.after(MINUTE))))
}

/// Has a running task go: makes the one that takes its place, which is still to be given its node.
pub fn begin_move(draft: &mut Draft, cx: &mut Context<'_>, task: &Task) -> Option<TaskId> {
    let look = Look::Seats([task.seat()].into());
    let mut at = Situation::read(draft, task.service_id, &look)?;
    // Ports of nodes do not clash: it goes to another one.
    let is_beside = !share_volumes(&task.spec, &at.service().spec);
    if !is_beside {
        at.shut_down(draft, task, Why::Quiet);
    }
    let beside = is_beside.then_some(task.id);
    // Its delays have grown as its own ones would have.
    let restarts = task.extra.as_ref().map_or(0, |extra| extra.restarts);
    let new = NewTask { beside, moved_from: task.node_id, restarts, ..NewTask::from(draft.now()) };
    Some(at.create(draft, cx, task.seat(), new))
}

/// What somebody asked for is done.
pub fn end_moves(draft: &mut Draft, id: ServiceId) {
    let Some(service) = draft.service(id).filter(|service| !service.balance_asked.is_zero()) else { return };
    let new = Service { balance_asked: Timestamp::ZERO, ..(**service).clone() };
    if let Some(mut at) = Situation::read(draft, id, &Look::Seats([].into())) {
        at.put_service(draft, new);
    }
}

/// Whether what had to leave its node was only there to move another task of its seat, which runs on.
pub(crate) fn is_no_more_than_a_move(task: &Task, seat: Option<&Seat>) -> bool {
    let old = seat.and_then(Seat::counted);
    task.moved_from().is_some() && old.is_some_and(|old| task.beside() == Some(old.id))
}

/// Whether a task was to move another one and never came to run: the seat is not judged by it.
pub(crate) fn is_failed_move(task: &Task) -> bool {
    task.moved_from().is_some() && task.status.running_at.is_zero() && !task.is_live()
}

/// Whether a task is kept for what it tells of moves. Asks to be woken when it is not.
pub(crate) fn is_remembered(task: &Task, now: Timestamp, cx: &mut Context<'_>) -> bool {
    let until = task.meta.created_at.after(REMEMBERED);
    let is_it = task.moved_from().is_some() && until > now && is_told(task.meta.created_at, now);
    if is_it {
        cx.wake(WakeKey::Service(task.service_id), until);
    }
    is_it
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_counted_by_the_minute() {
        let at = |seconds: i64| Timestamp(seconds * 1_000_000_000);
        let held = |moved: &[i64], a_minute, now| {
            is_within(moved.iter().map(|seconds| at(*seconds)).collect(), a_minute, at(now))
        };
        assert_eq!(held(&[], 1, 100), Ok(()));
        assert_eq!(held(&[50], 1, 100), Err(Hold::Until(at(110))));
        assert_eq!(held(&[50], 1, 110), Ok(()));
        assert_eq!(held(&[60, 50], 2, 100), Err(Hold::Until(at(110))));
        // The number was lowered: the next one goes when few enough are left.
        assert_eq!(held(&[70, 60, 50], 2, 100), Err(Hold::Until(at(120))));
        assert_eq!(held(&[70, 60, 50], 4, 100), Ok(()));
        // Of a clock that was ahead.
        assert_eq!(held(&[900], 1, 100), Ok(()));
    }
}
