//! Promise 4: never two counted tasks in a slot, or of a node where that is the seat, on live nodes, but for start-first overlap or a partition.
//!
//! What a cut-off machine runs on is not counted: the state has given its tasks up.

use std::collections::BTreeMap;

use skep_api::object::SeatKey;
use skep_api::{ServiceId, TaskId, TaskState};
use skep_manager::View;

use crate::swarm::world::State;

/// In a state no seat has two tasks that are wanted.
pub(crate) fn view(state: &mut State, view: &View) {
    let mut counted: BTreeMap<(ServiceId, SeatKey), TaskId> = BTreeMap::new();
    let is_beside =
        |task: TaskId, other: TaskId| view.task(task).is_some_and(|task| task.beside() == Some(other));
    for task in view.tasks().filter(|task| task.is_runnable()) {
        if let Some(other) = counted.insert((task.service_id, task.seat()), task.id) {
            if is_beside(task.id, other) || is_beside(other, task.id) {
                continue;
            }
            let line = format!(
                "tasks {other} and {} both count for {:?} of {} at {}",
                task.id,
                task.seat(),
                task.service_id,
                view.revision()
            );
            state.trace.fail(line);
        }
    }
}

/// Of the containers that run now, no two are of one seat and both wanted; and no task runs on two machines.
pub(crate) fn containers(state: &mut State) {
    let mut running: BTreeMap<(ServiceId, SeatKey), TaskId> = BTreeMap::new();
    let mut of_task: BTreeMap<TaskId, u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (id, slot) in &state.slots {
        for seen in slot.machine.containers().into_iter().filter(|seen| seen.runs) {
            if let Some(other) = of_task.insert(seen.task, *id) {
                wrong.push(format!("task {} runs on n{other} and on n{id}", seen.task));
            }
            let Some(known) = state.tasks.get(&seen.task) else { continue };
            if known.is_gone || known.desired > TaskState::Running {
                continue;
            }
            if let Some(other) = running.insert((known.service, known.seat), seen.task) {
                let is_beside = state.tasks.get(&other).is_some_and(|task| task.beside == Some(seen.task));
                if is_beside || known.beside == Some(other) {
                    continue;
                }
                wrong.push(format!(
                    "{other} and {} both run in {:?} of {}",
                    seen.task, known.seat, known.service
                ));
            }
        }
    }
    wrong.into_iter().for_each(|line| state.trace.fail(line));
}
