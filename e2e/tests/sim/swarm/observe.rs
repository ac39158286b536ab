//! Looks at every new state of every manager, and at what every machine did, after each tick.

use std::collections::BTreeMap;

use skep_api::TaskId;
use skep_manager::View;

use super::world::{Known, State, World};
use crate::invariants::{
    i01_acknowledged_writes_survive as survive, i02_conflicts_and_names as conflicts, i03_never_back as back,
    i04_one_task_a_slot as slots, i09_own_tasks_alone as own, i10_tasks_run_on as run_on,
};

/// What must hold at any time; and the trace.
pub(crate) fn observe(world: &World) {
    let mut state = world.lock();
    let controls: Vec<_> = state.slots.iter().map(|(id, slot)| (*id, slot.control.clone())).collect();
    for (id, control) in controls {
        let Some(control) = control else { continue };
        let view = control.stale_view();
        if view.revision() == state.slots[&id].looked_at {
            continue;
        }
        state.slots.get_mut(&id).unwrap().looked_at = view.revision();
        state.trace.note(format!("n{id} at {}", view.revision()));
        look(&mut state, id, &view);
    }
    let done: Vec<_> = state.slots.iter().map(|(id, slot)| (*id, slot.machine.take_done())).collect();
    for (id, done) in done.into_iter().flat_map(|(id, done)| done.into_iter().map(move |done| (id, done))) {
        state.trace.note(format!("n{id} {done:?}"));
        own::did(&mut state, id, &done);
        run_on::did(&mut state, id, &done);
    }
    slots::containers(&mut state);
}

fn look(state: &mut State, id: u64, view: &View) {
    back::looks(state, id, view);
    survive::agree(state, id, view);
    if view.revision() <= state.newest.revision() {
        return;
    }
    conflicts::view(state, view);
    slots::view(state, view);
    learn(state, view);
    state.newest = view.clone();
    state.figures.revisions = view.revision();
}

/// Takes in what is new of tasks.
fn learn(state: &mut State, view: &View) {
    let mut lines = Vec::new();
    let revision = view.revision();
    let tasks: BTreeMap<TaskId, Known> = view
        .tasks()
        .map(|task| {
            let known = Known {
                revision,
                service: task.service_id,
                slot: task.slot,
                node: task.node_id,
                beside: task.beside(),
                state: task.status.state,
                desired: task.desired_state,
                is_gone: false,
            };
            (task.id, known)
        })
        .collect();
    for (id, known) in &mut state.tasks {
        if !known.is_gone && !tasks.contains_key(id) {
            (known.is_gone, known.revision) = (true, revision);
            lines.push(format!("{revision} {id} gone"));
        }
    }
    for (id, known) in tasks {
        let before = state.tasks.insert(id, known);
        if before.is_none() {
            state.figures.tasks += 1;
        }
        if before.is_none_or(|before| {
            (before.state, before.desired, before.node) != (known.state, known.desired, known.node)
        }) {
            let node = known.node.map(|node| node.to_string());
            lines.push(format!(
                "{revision} {id} {}.{} {:?} -> {:?} {node:?}",
                known.service, known.slot, known.state, known.desired
            ));
        }
    }
    for node in view.nodes() {
        let old = state.newest.node(node.id);
        if old.is_none_or(|old| {
            old.status != node.status || old.spec != node.spec || old.raft_id != node.raft_id
        }) {
            lines.push(format!(
                "{revision} node {} {} {:?} '{}' {:?} {:?} raft {}",
                node.description.hostname,
                node.id,
                node.status.state,
                node.status.message,
                node.spec.role,
                node.spec.availability,
                node.raft_id
            ));
        }
    }
    lines.into_iter().for_each(|line| state.trace.note(line));
}
