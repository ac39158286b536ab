//! Deletes what is no longer worth keeping: tasks to be removed that have stopped, and old history.

use std::{cmp, sync::Arc};

use skep_api::{TaskId, object::Task, spec::SwarmSpec};
use skep_store::Draft;

use crate::{Context, Seat, ServicePart, Situation, moves, seats::is_stopped, update::judged};

/// Finds old tasks; they are deleted at the end of the pass.
#[derive(Clone, Copy, Debug)]
pub struct Reaper;

impl ServicePart for Reaper {
    fn name(&self) -> &'static str {
        "reaper"
    }

    fn is_by_seat(&self) -> bool {
        true
    }

    fn reconcile(&self, at: &mut Situation, draft: &mut Draft, cx: &mut Context<'_>) {
        let default = SwarmSpec::default();
        let n_max = draft.cluster().map_or(&default, |cluster| &cluster.spec).task_history_max();
        for (_, seat) in at.seats() {
            let gone = seat.leaving.iter().filter(|task| is_stopped(draft, task));
            // How an update goes is told by the first task that it made.
            let told = judged(at.service(), seat)
                .filter(|_| at.service().is_updating() || at.service().is_update_paused());
            let told = told.map(|task| task.id);
            let old = superfluous(seat, n_max)
                .filter(|task| Some(task.id) != told && !moves::is_remembered(task, draft.now(), cx));
            let ids: Vec<TaskId> = gone.chain(old).map(|task| task.id).collect();
            cx.reaped.extend(ids);
        }
    }
}

/// The oldest tasks beyond the limit, of those that have ended and that something followed. Without a limit
/// there are none.
fn superfluous(seat: &Seat, n_max: Option<usize>) -> impl Iterator<Item = &Arc<Task>> {
    let newest = seat.newest();
    // Restarts are counted in the history: enough of it is kept to see that they are used up.
    let max_attempts = newest.map_or(0, |task| task.spec.task_template.restart().max_attempts);
    let max_attempts = usize::try_from(max_attempts).unwrap_or(usize::MAX);
    // What runs meanwhile is no attempt.
    let is_newest = |task: &Task| newest.is_some_and(|newest| newest.id == task.id);
    let n_beside = seat.tasks.iter().filter(|task| task.is_live() && !is_newest(task)).count();
    let kept_attempts = max_attempts.saturating_add(1).saturating_add(n_beside);
    let n_kept = n_max.map_or(usize::MAX, |n_max| cmp::max(n_max, kept_attempts));
    // What follows in the seat is told by these.
    let (newest, last) = (newest.map(|task| task.id), seat.last().map(|task| task.id));
    let is_told = move |task: &&Arc<Task>| Some(task.id) == newest || Some(task.id) == last;
    let ended = seat.tasks.iter().filter(move |task| !task.is_live() && !is_told(task));
    ended.take(seat.tasks.len().saturating_sub(n_kept))
}
