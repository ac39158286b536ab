//! Deletes what is no longer worth keeping: tasks to be removed that have stopped, and old history.

use std::{
    cmp,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skep_api::{TaskId, object::Task, spec::SwarmSpec};
use skep_store::Draft;

use crate::{
    Context, Seat, ServicePart, Situation, moves, restart::is_attempt, seats::is_stopped, update::judged,
};

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
            cx.reaped.extend(gone.map(|task| task.id));
            let n_kept = n_max.map_or(usize::MAX, |n| n.saturating_sub(seat.tasks.len()));
            let past = seat.past.iter().take(seat.past.len().saturating_sub(n_kept));
            cx.reaped.extend(past.map(|task| task.id));
            if seat.tasks.len() < 2 {
                // The newest stays, and it is all there is.
                continue;
            }
            // How an update goes is told by the first task that it made.
            let told = judged(at.service(), seat)
                .filter(|_| at.service().is_updating() || at.service().is_update_paused());
            let told = told.map(|task| task.id);
            let old = superfluous(seat, n_max)
                .filter(|task| Some(task.id) != told && !moves::is_remembered(task, draft.now(), cx));
            let ids: Vec<TaskId> = old.map(|task| task.id).collect();
            cx.reaped.extend(ids);
        }
    }
}

/// The oldest tasks beyond the limit, of those that have ended and that something followed. Without a limit
/// there are none.
fn superfluous(seat: &Seat, n_max: Option<usize>) -> impl Iterator<Item = &Arc<Task>> {
    let newest = seat.newest();
    // Restarts are counted in the history: where they are limited, as much of it is kept as tells that they are used up,
    // whatever the limit (`SK:manager/orchestrator/taskreaper/task_reaper.go`).
    let kept_attempts = newest.map(|task| n_attempts(task)).filter(|n| *n > 1);
    // What runs meanwhile is no attempt.
    let is_newest = |task: &Task| newest.is_some_and(|newest| newest.id == task.id);
    let n_beside = seat.tasks.iter().filter(|task| task.is_live() && !is_newest(task)).count();
    let at_least = kept_attempts.unwrap_or(1).saturating_add(n_beside);
    let n_kept = kept_attempts.or(n_max).map_or(usize::MAX, |n| cmp::max(n, at_least));
    let counted = attempts(seat);
    // What follows in the seat is told by these.
    let (newest, last) = (newest.map(|task| task.id), seat.last().map(|task| task.id));
    let is_told = move |task: &&Arc<Task>| Some(task.id) == newest || Some(task.id) == last;
    let ended = seat.tasks.iter().filter(move |task| !task.is_live() && !is_told(task));
    let oldest = ended.take(seat.tasks.len().saturating_sub(n_kept));
    oldest.filter(move |task| !counted.contains(&task.id))
}

/// Of each version by which the seat may still be judged so many of the last attempts as tell whether another one is
/// allowed, whatever stands between them: a drain is no attempt, and many of them would push these out.
fn attempts(seat: &Seat) -> BTreeSet<TaskId> {
    let judges = seat.runnable().chain(seat.newest()).chain(seat.last());
    let versions: BTreeMap<u64, usize> = judges.map(|task| (task.spec_version, n_attempts(task))).collect();
    let limited = versions.into_iter().filter(|(_, n)| *n > 1);
    let of_version = |(version, n): (u64, usize)| {
        seat.tasks.iter().rev().filter(move |task| is_attempt(task, version)).take(n)
    };
    limited.flat_map(of_version).map(|task| task.id).collect()
}

/// How many attempts a task's restart policy looks at: one more than it allows.
fn n_attempts(task: &Task) -> usize {
    let max = task.spec.task_template.restart().max_attempts;
    usize::try_from(max).unwrap_or(usize::MAX).saturating_add(1)
}
