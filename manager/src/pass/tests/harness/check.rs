//! What holds after each pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skep_api::{
    NodeId, TaskState,
    object::{SeatKey, Service, Task},
    spec::Mode,
};
use skep_store::{Change, View};

use super::Swarm;

impl Swarm {
    pub(super) fn check(&mut self) {
        let view = self.view();
        check_invariants(&view, &self.shrunk);
        for service in view.services() {
            let n_running = self.running(service.id).len();
            let n_wanted = match service.spec.mode() {
                Mode::Replicated { replicas } => usize::try_from(replicas).unwrap(),
                Mode::Global | Mode::ReplicatedJob { .. } | Mode::GlobalJob => 0,
            };
            self.check_in_flight(&view, service);
            self.n_missing_max = self.n_missing_max.max(n_wanted.saturating_sub(n_running));
        }
    }
}

impl Swarm {
    /// At most `parallelism` seats of an update wait for a task of its own to run; more only when somebody lowered it.
    fn check_in_flight(&mut self, view: &View, service: &Service) {
        if !service.is_updating() {
            return;
        }
        let is_rollback = service.update_status.as_ref().is_some_and(|status| status.state.is_rollback());
        let settings = if is_rollback { service.spec.rollback() } else { service.spec.update() };
        let mut first: BTreeMap<SeatKey, &Arc<Task>> = BTreeMap::new();
        let mut own: Vec<&Arc<Task>> = view
            .tasks_of_service(service.id)
            .filter(|task| task.update == service.updates && task.desired_state < TaskState::Remove)
            .filter(|task| {
                let has_run = !task.status.running_at.is_zero();
                task.is_runnable() || has_run || task.status.state != TaskState::Shutdown
            })
            .collect();
        own.sort_by_key(|task| (task.meta.created_at, task.is_runnable()));
        for task in own.iter().copied() {
            first.entry(task.seat()).or_insert(task);
        }
        // What waited for a node for longer than a pass holds up nothing but what runs.
        let waiting = own.iter().filter(|task| task.is_runnable() && task.node_id.is_none());
        self.waited.extend(waiting.map(|task| task.id));
        let is_coming = |task: &&&Arc<Task>| {
            task.is_runnable() && task.status.running_at.is_zero() && !self.waited.contains(&task.id)
        };
        let n = first.values().filter(is_coming).count();
        let before = self.in_flight.insert((service.id, service.updates), n).unwrap_or(0);
        let n_max = usize::try_from(settings.parallelism).unwrap_or(usize::MAX);
        assert!(n <= n_max.max(before), "{n} seats are in flight, not {n_max}: {service:?}");
    }
}

/// Design invariants 2 and 4, and that nothing is reserved twice.
fn check_invariants(view: &View, shrunk: &BTreeSet<NodeId>) {
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
        // Where a node shrank, what has to leave holds its part until it has stopped.
        let is_over = cpus > node.description.nano_cpus || memory > node.description.memory_bytes;
        let is_leaving = view.tasks_of_node(node.id).any(|task| task.is_live() && !task.is_wanted());
        assert!(!is_over || (shrunk.contains(&node.id) && is_leaving), "{} has too much", node.id);
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
