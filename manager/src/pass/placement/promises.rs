//! Rooms on nodes that tasks of higher priority wait for: until others have stopped there, nobody else gets them.
//!
//! Which task waits for which room stands in those tasks that stop ([`View::rooms`]): a pass makes these of it anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skep_api::{NodeId, ServiceId, TaskId, object::Task};
use skep_scheduler::{Amounts, Ask, Crowd, Tenant};
use skep_store::View;

use super::ask::host_ports;

/// Priorities of services; who is not there has none.
pub(super) type Ranks = BTreeMap<ServiceId, u64>;

/// What one pass promised so far.
#[derive(Debug, Default)]
pub(super) struct Promises {
    by_node: BTreeMap<NodeId, Vec<Promise>>,
    nodes: BTreeMap<TaskId, NodeId>,
}

#[derive(Debug)]
struct Promise {
    task: TaskId,
    service: ServiceId,
    ask: Arc<Ask>,
}

impl Promises {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn has(&self, task: TaskId) -> bool {
        self.nodes.contains_key(&task)
    }

    /// The nodes on which room is promised.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.by_node.keys().copied()
    }

    /// What will be there on a node.
    pub(super) fn on(&self, node: NodeId) -> impl Iterator<Item = &Ask> {
        self.by_node.get(&node).into_iter().flatten().map(|promise| &*promise.ask)
    }

    /// What that takes of it.
    pub(super) fn amounts(&self, node: NodeId) -> Amounts {
        self.on(node).fold(Amounts::default(), |sum, ask| sum.and(&ask.amounts))
    }

    pub(super) fn add(&mut self, task: &Task, ask: &Arc<Ask>, node: NodeId) {
        let promise = Promise { task: task.id, service: task.service_id, ask: Arc::clone(ask) };
        self.by_node.entry(node).or_default().push(promise);
        self.nodes.insert(task.id, node);
    }

    /// Takes a promise back: on which node it was.
    pub(super) fn remove(&mut self, task: TaskId) -> Option<NodeId> {
        let node = self.nodes.remove(&task)?;
        // The node stays known: it is to be shown as it is once more.
        self.by_node.entry(node).or_default().retain(|promise| promise.task != task);
        Some(node)
    }

    /// What a service has on the nodes with what it will have, and beside ports that are taken those that will be.
    pub(super) fn joined(&self, service: ServiceId, ask: &Ask, mut crowd: Crowd) -> Crowd {
        for (node, promises) in &self.by_node {
            for promise in promises {
                if promise.service == service {
                    *crowd.tasks.entry(*node).or_default() += 1;
                }
                if promise.ask.host_ports.iter().any(|port| ask.host_ports.contains(port)) {
                    crowd.port_holders.insert(*node);
                }
            }
        }
        crowd
    }
}

/// Priorities of all services that have one.
pub(super) fn ranks(view: &View) -> Ranks {
    view.ranked_services().map(|(priority, id)| (id, priority)).collect()
}

/// Tasks that wait for rooms, with the nodes on which these are.
pub(super) fn awaited(view: &View) -> BTreeMap<TaskId, BTreeSet<NodeId>> {
    let mut awaited: BTreeMap<TaskId, BTreeSet<NodeId>> = BTreeMap::new();
    for (other, task) in view.rooms() {
        if let Some(node) = task.node_id.filter(|_| is_waiting(view, other)) {
            awaited.entry(other).or_default().insert(node);
        }
    }
    awaited
}

/// Whether a task is still to get a node.
pub(super) fn is_waiting(view: &View, task: TaskId) -> bool {
    view.task(task).is_some_and(|task| task.is_runnable() && task.node_id.is_none())
}

/// The tasks of a node as one sees them that asks for their room.
pub(super) fn tenants(view: &View, ranks: &Ranks, ask: &Ask, node: NodeId) -> Vec<Tenant> {
    let tenant = |task: &Arc<Task>| {
        let (nano_cpus, memory_bytes) = task.spec.task_template.reservations();
        Tenant {
            task: task.id,
            priority: ranks.get(&task.service_id).copied().unwrap_or(0),
            since: task.meta.created_at,
            nano_cpus,
            memory_bytes,
            given: task.given().to_vec(),
            has_port: host_ports(&task.ports).any(|port| ask.host_ports.contains(&port)),
            is_leaving: !task.is_wanted(),
        }
    };
    view.tasks_of_node(node).filter(|task| task.is_live()).map(tenant).collect()
}

/// How that begins which a task says that waits for a room.
pub(super) const WAITS: &str = "waits for tasks to stop on ";

/// What a task says that waits for its room on a node.
pub(super) fn waits_on(view: &View, node: NodeId) -> String {
    format!("{WAITS}{}", name_of(view, node))
}

/// A node as people call it.
pub(super) fn name_of(view: &View, node: NodeId) -> String {
    let hostname = view.node(node).map_or("", |node| node.description.hostname.as_str());
    if hostname.is_empty() { node.to_string() } else { hostname.to_owned() }
}
