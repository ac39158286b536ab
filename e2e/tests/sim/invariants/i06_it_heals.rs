//! Promise 6: once faults stop, observed equals desired in bounded time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_api::object::{NodeState, SeatKey, Service, Task};
use skep_api::spec::{Availability, Mode, Role};
use skep_api::{ServiceId, TaskState};

use super::{attempts, i07_mesh_tables as mesh, placement};
use crate::consensus::member::Machine;
use crate::consensus::world::World;
use crate::swarm;

/// One leader, the voters that were asked for, nothing left to apply, and the same bytes everywhere.
pub(crate) fn consensus_has_healed(world: &World) -> bool {
    let state = world.lock();
    let members: Vec<_> = state.slots.iter().filter(|(id, _)| state.target.contains(id)).collect();
    let Some(up) = members.iter().map(|(_, slot)| slot.up.as_ref()).collect::<Option<Vec<_>>>() else {
        return false;
    };
    let statuses: Vec<_> = up.iter().map(|(raft, _)| raft.status().borrow().clone()).collect();
    let leaders = statuses.iter().filter(|status| status.is_leader).count();
    let agree = statuses.iter().all(|status| {
        status.leader == statuses[0].leader
            && status.applied == status.last
            && status.last == statuses[0].last
            && status.voters == state.target
            && status.learners.is_empty()
    });
    if state.n_clients > 0 || leaders != 1 || !agree {
        return false;
    }
    let written = |machine: &Machine| {
        let mut bytes = Vec::new();
        machine.store().write(&mut bytes).map(|()| bytes).unwrap()
    };
    let first = written(&up[0].1);
    up.iter().all(|(_, machine)| written(machine) == first)
}

/// What is not yet as users want it; `None` once the machines run what they should, and nothing else.
pub(crate) fn what_ails_the_swarm(world: &swarm::world::World) -> Option<String> {
    let state = world.lock();
    if state.n_users > 0 {
        return Some(format!("{} users wait", state.n_users));
    }
    let view = &state.newest;
    for (id, slot) in state.slots.iter().filter(|(_, slot)| !slot.is_removed) {
        let Some(node) = slot.node.and_then(|node| view.node(node)) else {
            return Some(format!("n{id} is not in the swarm"));
        };
        let is_manager = node.spec.role == Role::Manager;
        let behind = slot.control.as_ref().map(|c| c.stale_view().revision() < view.revision());
        if node.status.state != NodeState::Ready || node.spec.availability != Availability::Active {
            return Some(format!("n{id} is {:?} {:?}", node.status, node.spec.availability));
        }
        if is_manager != slot.control.is_some() || is_manager != (node.raft_id != 0) || behind == Some(true) {
            return Some(format!(
                "n{id} is to be {:?}, raft {}, behind {behind:?}",
                node.spec.role, node.raft_id
            ));
        }
    }
    let running = match what_runs(&state) {
        Ok(running) => running,
        Err(words) => return Some(words),
    };
    let none = BTreeSet::new();
    for service in view.services() {
        let seats = running.get(&service.id).unwrap_or(&none);
        if let Some(words) = what_ails_a_service(&state, service, seats) {
            return Some(format!("{}: {words}", service.spec.name));
        }
    }
    mesh::what_is_wrong(&state)
}

/// The seats of which a task runs on some machine, if all that runs is wanted.
fn what_runs(state: &swarm::world::State) -> Result<BTreeMap<ServiceId, BTreeSet<SeatKey>>, String> {
    let mut seats: BTreeMap<ServiceId, BTreeSet<SeatKey>> = BTreeMap::new();
    for (id, slot) in &state.slots {
        for seen in slot.machine.containers().into_iter().filter(|seen| seen.runs) {
            let Some(known) = state.tasks.get(&seen.task) else {
                return Err(format!("n{id} runs {seen:?}"));
            };
            let service = state.newest.service(known.service);
            let image =
                service.and_then(|service| service.spec.container()).map(|container| &container.image);
            let is_as_wanted = known.state == TaskState::Running && known.desired == TaskState::Running;
            let is_first = seats.entry(known.service).or_default().insert(known.seat);
            // What was to take over may have been given up.
            let is_newest = || {
                image == Some(&seen.image)
                    || service.is_some_and(|service| attempts::is_given_up(state, service, known.seat))
            };
            if !is_as_wanted || !is_first || !is_newest() {
                return Err(format!("n{id} runs {seen:?}, {known:?}, and {image:?} is wanted"));
            }
        }
    }
    Ok(seats)
}

/// A service whose update is over, and each of whose seats runs, or has completed, or was given up.
fn what_ails_a_service(
    state: &swarm::world::State,
    service: &Service,
    running: &BTreeSet<SeatKey>,
) -> Option<String> {
    let view = &state.newest;
    if service.is_updating() || service.is_update_paused() {
        return Some(format!("{:?}", service.update_status));
    }
    let mode = service.spec.mode();
    let seats: BTreeSet<SeatKey> = match mode {
        Mode::Global | Mode::GlobalJob => {
            let asked = service.spec.task_template.constraints();
            // A join whose answer was lost leaves a node that no machine is.
            view.nodes()
                .filter(|node| node.status.state == NodeState::Ready && placement::meets(node, asked))
                .map(|node| SeatKey::Node(node.id))
                .collect()
        }
        Mode::Replicated { replicas: n } | Mode::ReplicatedJob { total: n, .. } => {
            // What earlier iterations of a job left is history.
            let is_asked_for = |task: &&Arc<Task>| {
                task.desired_state < TaskState::Remove
                    && (!mode.is_job() || task.job_iteration() == service.job_iteration)
            };
            let kept = view.tasks_of_service(service.id).filter(is_asked_for);
            let seats: BTreeSet<SeatKey> = kept.map(|task| task.seat()).collect();
            if u64::try_from(seats.len()) != Ok(n) {
                return Some(format!("it has {} seats of {n}", seats.len()));
            }
            seats
        }
    };
    if let Some(other) = running.difference(&seats).next() {
        return Some(format!("{other:?} runs, and should not"));
    }
    let is_good = |seat: &SeatKey| {
        let has_completed = || {
            view.tasks_of_seat(service.id, *seat).into_iter().any(|task| {
                task.status.state == TaskState::Complete && task.job_iteration() == service.job_iteration
            })
        };
        running.contains(seat)
            || (mode.is_job() && has_completed())
            || attempts::is_given_up(state, service, *seat)
    };
    seats.iter().find(|seat| !is_good(seat)).map(|seat| format!("nothing in {seat:?}"))
}

/// How many seats were given up.
pub(crate) fn n_given_up(state: &swarm::world::State) -> u64 {
    let seats = state.newest.services().map(|service| {
        let tasks = state.newest.tasks_of_service(service.id);
        let seats: BTreeSet<SeatKey> = tasks.map(|task| task.seat()).collect();
        let is_empty = |seat: &SeatKey| {
            state.newest.tasks_of_seat(service.id, *seat).iter().all(|task| !task.is_wanted())
        };
        seats.iter().filter(|seat| is_empty(seat)).count()
    });
    u64::try_from(seats.sum::<usize>()).unwrap()
}
