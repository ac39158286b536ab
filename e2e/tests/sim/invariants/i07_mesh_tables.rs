//! Promise 7: DNS, VIP and port tables equal the healthy endpoints in bounded time.
//!
//! Ports are all that there is yet; DNS and VIPs come with overlay networks.

use std::collections::{BTreeMap, BTreeSet};

use skep_api::TaskState;

use crate::swarm::world::State;

/// What is wrong with a machine's table, by the newest state.
pub(crate) fn what_is_wrong(state: &State) -> Option<String> {
    let mut expect: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for service in state.newest.services() {
        for port in service.ports.iter().filter(|port| port.is_ingress()) {
            let tasks = state.newest.tasks_of_service(service.id);
            let endpoints = tasks
                .filter(|task| {
                    task.status.state == TaskState::Running && task.desired_state <= TaskState::Running
                })
                .filter_map(|task| task.ingress_addr.map(u32::from));
            expect.entry(u32::from(port.published_port)).or_default().extend(endpoints);
        }
    }
    for (id, slot) in state.slots.iter().filter(|(_, slot)| !slot.is_removed) {
        let found: BTreeMap<u32, BTreeSet<u32>> = slot
            .machine
            .mesh()
            .map(|mesh| mesh.ports)
            .unwrap_or_default()
            .into_iter()
            .map(|port| (port.published, port.endpoints.into_iter().collect()))
            .collect();
        if found != expect {
            return Some(format!("n{id} has ports {found:?}, not {expect:?}"));
        }
    }
    None
}
