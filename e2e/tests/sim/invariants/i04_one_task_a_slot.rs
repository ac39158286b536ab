//! Promise 4: never two counted tasks in a slot on live nodes, but for start-first overlap or a partition.
//!
//! No update here starts first. What a cut-off machine runs on is not counted: the state has given its tasks up.

use std::collections::BTreeMap;

use skep_api::{ServiceId, TaskId, TaskState};
use skep_manager::View;

use crate::swarm::world::State;

/// In a state no slot has two tasks that are wanted.
pub(crate) fn view(state: &mut State, view: &View) {
    let mut counted: BTreeMap<(ServiceId, u64), TaskId> = BTreeMap::new();
    for task in view.tasks().filter(|task| task.desired_state <= TaskState::Running) {
        if let Some(other) = counted.insert((task.service_id, task.slot), task.id) {
            let line = format!(
                "tasks {other} and {} both count for slot {} of {} at {}",
                task.id,
                task.slot,
                task.service_id,
                view.revision()
            );
            state.trace.fail(line);
        }
    }
}

/// Of the containers that run now, no two are of one slot and both wanted; and no task runs on two machines.
pub(crate) fn containers(state: &mut State) {
    let mut running: BTreeMap<(ServiceId, u64), TaskId> = BTreeMap::new();
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
            if let Some(other) = running.insert((known.service, known.slot), seen.task) {
                wrong.push(format!(
                    "{other} and {} both run in slot {} of {}",
                    seen.task, known.slot, known.service
                ));
            }
        }
    }
    wrong.into_iter().for_each(|line| state.trace.fail(line));
}
