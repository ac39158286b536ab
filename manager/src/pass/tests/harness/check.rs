//! What holds after each pass.

use std::collections::BTreeSet;

use skep_api::object::Task;
use skep_store::{Change, View};

use super::Swarm;

impl Swarm {
    pub(super) fn check(&mut self) {
        let view = self.view();
        check_invariants(&view);
        for service in view.services() {
            let n_running = self.running(service.id).len();
            let n_wanted = usize::try_from(service.spec.replicas()).unwrap();
            self.n_missing_max = self.n_missing_max.max(n_wanted.saturating_sub(n_running));
        }
    }
}

/// Design invariants 2 and 4, and that nothing is reserved twice.
fn check_invariants(view: &View) {
    let mut slots = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for task in view.tasks() {
        if task.is_runnable() {
            let seat = task.seat();
            let is_alone = slots.insert((task.service_id, seat));
            assert!(is_alone || is_overlap(view, task), "two runnable tasks in {seat:?}");
        }
        if let Some(address) = task.ingress_addr.filter(|_| task.is_live()) {
            assert!(addresses.insert(address), "{address} is given twice");
        }
    }
    let mut ports = BTreeSet::new();
    for port in view.services().flat_map(|service| service.ports.iter()).filter(|port| port.is_ingress()) {
        assert!(ports.insert((port.protocol().to_owned(), port.published_port)), "{port:?} is given twice");
    }
    for node in view.nodes() {
        if let Some(address) = node.ingress_addr {
            assert!(addresses.insert(address), "{address} is given twice");
        }
        let reserved = view.tasks_of_node(node.id).filter(|task| task.is_live());
        let (cpus, memory) = reserved
            .map(|task| task.spec.task_template.reservations())
            .fold((0, 0), |(cpus, memory), (c, m)| (cpus + c, memory + m));
        assert!(cpus <= node.description.nano_cpus && memory <= node.description.memory_bytes);
        let load = view.node_load(node.id);
        assert_eq!((load.nano_cpus, load.memory_bytes), (cpus, memory), "the index of loads is right");
    }
}

/// Whether the runnable tasks of a seat are two, of which one takes over from the other.
fn is_overlap(view: &View, task: &Task) -> bool {
    let mut tasks = view.tasks_of_seat(task.service_id, task.seat());
    tasks.retain(|task| task.is_runnable());
    match tasks.as_slice() {
        [one, other] => one.beside() == Some(other.id) || other.beside() == Some(one.id),
        _ => false,
    }
}

/// Changes without the words of tasks that wait: a pass over everything may word those anew.
pub(super) fn explained(changes: &[Change]) -> Vec<Change> {
    let pending = |change: &&Change| {
        let Change::PutTask(task) = change else { return true };
        task.node_id.is_some() || task.status.err.is_empty()
    };
    changes.iter().filter(pending).cloned().collect()
}
