//! Promise 6: once faults stop, observed equals desired in bounded time.

use std::collections::{BTreeMap, BTreeSet};

use skep_api::object::NodeState;
use skep_api::spec::{Availability, Role};
use skep_api::{ServiceId, TaskState};

use super::i07_mesh_tables as mesh;
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
    let mut slots: BTreeMap<ServiceId, BTreeSet<u64>> = BTreeMap::new();
    for (id, slot) in &state.slots {
        for seen in slot.machine.containers().into_iter().filter(|seen| seen.runs) {
            let Some(known) = state.tasks.get(&seen.task) else {
                return Some(format!("n{id} runs {seen:?}"));
            };
            let service = view.service(known.service);
            let image =
                service.and_then(|service| service.spec.container()).map(|container| &container.image);
            let is_as_wanted = known.state == TaskState::Running && known.desired == TaskState::Running;
            let is_first = slots.entry(known.service).or_default().insert(known.slot);
            if !is_as_wanted || !is_first || image != Some(&seen.image) {
                return Some(format!("n{id} runs {seen:?}, {known:?}, and {image:?} is wanted"));
            }
        }
    }
    for service in view.services() {
        let running = slots.get(&service.id).map_or(0, BTreeSet::len);
        if u64::try_from(running) != Ok(service.spec.replicas()) {
            return Some(format!("{} runs {running} of {}", service.spec.name, service.spec.replicas()));
        }
    }
    mesh::what_is_wrong(&state)
}
