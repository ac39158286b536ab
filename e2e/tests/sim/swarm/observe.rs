//! Looks at every new state of every manager, and at what every machine did, after each tick.

use std::collections::BTreeMap;

use skep_api::TaskId;
use skep_api::object::{Service, UpdateState};
use skep_manager::View;

use super::specs::{Kind, number_of};
use super::world::{Figures, Known, State, World};
use crate::invariants::{
    attempts, i01_acknowledged_writes_survive as survive, i02_conflicts_and_names as conflicts,
    i03_never_back as back, i04_one_task_a_slot as slots, i05_parallelism as parallelism,
    i09_own_tasks_alone as own, i10_tasks_run_on as run_on, jobs, placement,
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
    parallelism::view(state, view);
    attempts::view(state, view);
    jobs::view(state, view);
    placement::view(state, view);
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
                seat: task.seat(),
                version: task.spec_version,
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
                "{revision} {id} {}.{:?} v{} {:?} -> {:?} {node:?}",
                known.service, known.seat, known.version, known.state, known.desired
            ));
        }
    }
    lines.extend(services(state, view));
    for node in view.nodes() {
        let old = state.newest.node(node.id);
        if old.is_none_or(|old| {
            old.status != node.status || old.spec != node.spec || old.raft_id != node.raft_id
        }) {
            lines.push(format!(
                "{revision} node {} {} {:?} '{}' {:?} {:?} {:?} raft {}",
                node.description.hostname,
                node.id,
                node.status.state,
                node.status.message,
                node.spec.role,
                node.spec.availability,
                node.spec.labels,
                node.raft_id
            ));
        }
    }
    lines.into_iter().for_each(|line| state.trace.note(line));
}

/// What is new of services: which write they are of, and how their updates go.
fn services(state: &mut State, view: &View) -> Vec<String> {
    let mut lines = Vec::new();
    for service in view.services() {
        let old = state.newest.service(service.id);
        let status = |service: &Service| service.update_status.as_ref().map(|status| status.state);
        if old.is_some_and(|old| old.spec == service.spec && status(old) == status(service)) {
            continue;
        }
        let spec = &service.spec;
        let (number, now) = (number_of(spec), status(service));
        let image = spec.container().map(|container| container.image.as_str());
        let (update, rollback) = (spec.update(), spec.rollback());
        lines.push(format!(
            "{} {} {} is {number} v{}: {image:?} {:?} {now:?}",
            view.revision(),
            spec.name,
            service.id,
            service.spec_version,
            spec.mode()
        ));
        if old.is_none_or(|old| old.spec != service.spec) {
            let template = &spec.task_template;
            lines.push(format!(
                "  {:?} {:?} {:?} {:?}",
                template.restart(),
                template.constraints(),
                template.max_replicas(),
                template.reservations()
            ));
            lines.push(format!("  {update:?} {rollback:?}"));
        }
        let is_new = old.is_none();
        count(&mut state.figures, is_new.then(|| Kind::of(spec)), now);
    }
    lines
}

fn count(figures: &mut Figures, made: Option<Kind>, update: Option<UpdateState>) {
    match made {
        Some(Kind::Replicated) => figures.replicated += 1,
        Some(Kind::Global) => figures.global += 1,
        Some(Kind::ReplicatedJob) => figures.replicated_jobs += 1,
        Some(Kind::GlobalJob) => figures.global_jobs += 1,
        None => {}
    }
    match update {
        Some(UpdateState::RollbackStarted) => figures.rollbacks += 1,
        Some(UpdateState::Paused | UpdateState::RollbackPaused) => figures.paused += 1,
        Some(UpdateState::Completed | UpdateState::RollbackCompleted) => figures.completed += 1,
        Some(UpdateState::Updating) | None => {}
    }
}
