//! What holds of those that make room for others.

use std::sync::Arc;

use skep_api::{NodeId, object::Task};
use skep_store::{Draft, View};

/// Who is stopped for another task is of a lower priority, and of use to it; and nobody of no higher priority gets what
/// a task waits for.
pub(super) fn check_preempted(draft: &Draft) {
    let (before, after) = (draft.base(), &**draft);
    for (other, task) in after.rooms() {
        let was_wanted = before.task(task.id).is_some_and(|old| old.is_wanted());
        // What stops anyway may be anybody's.
        let is_victim = was_wanted && !task.is_wanted() && task.status.err.starts_with("preempted by");
        let Some(other) = after.task(other).filter(|_| is_victim) else { continue };
        let (low, high) = (priority(after, task), priority(after, other));
        assert!(low < high, "a task of priority {low} made room for one of {high}");
        assert!(other.is_runnable(), "nobody makes room for what is not to run");
    }
    for (other, task) in before.rooms() {
        let Some(other) = after.task(other).filter(|other| other.is_runnable()) else { continue };
        let (Some(node), None) = (task.node_id, other.node_id) else { continue };
        let is_new = |task: &&Arc<Task>| {
            task.is_runnable() && before.task(task.id).is_none_or(|old| old.node_id.is_none())
        };
        let new: Vec<&Arc<Task>> = after.tasks_of_node(node).filter(is_new).collect();
        let awaits =
            |task: &Task| before.rooms().any(|(id, room)| id == task.id && room.node_id == Some(node));
        let may = |task: &Task| priority(after, task) > priority(after, other) || awaits(task);
        if new.iter().any(|task| may(task)) {
            continue;
        }
        let asked = cpus(other);
        let is_enough = free_of(before, node).is_some_and(|free| free >= asked);
        let is_left = free_of(after, node).is_none_or(|free| free >= asked);
        assert!(!is_enough || is_left || new.is_empty(), "{other:?} lost its room on {node} to {new:?}");
    }
}

fn priority(view: &View, task: &Task) -> u64 {
    view.service(task.service_id).map_or(0, |service| service.spec.priority())
}

fn cpus(task: &Task) -> i64 {
    task.spec.task_template.reservations().0
}

/// What is left of a node once all have stopped that are to.
fn free_of(view: &View, node: NodeId) -> Option<i64> {
    let wanted = view.tasks_of_node(node).filter(|task| task.is_runnable());
    Some(view.node(node)?.description.nano_cpus - wanted.map(|task| cpus(task)).sum::<i64>())
}
