//! For people: why tasks wait, and where those of a service that is not there yet would go. Decides nothing.

use std::{collections::BTreeMap, sync::Arc};

use skep_api::{
    NodeId, ServiceId, Timestamp,
    object::{Service, Task},
    spec::{Mode, ServiceSpec},
};
use skep_orchestrator::assign_ports;
use skep_scheduler::{Crowd, Explanation};
use skep_store::View;

use super::{ask, lacks_address, lacks_ports, picture};

/// Tasks of one spec that wait for a node, and why.
#[derive(Clone, PartialEq, Debug)]
pub struct Waiting {
    /// They are alike, but for their seats.
    pub tasks: Vec<Arc<Task>>,
    /// Swarm's words, of all nodes together.
    pub err: String,
    /// What each node says; of tasks that wait for something else, nothing.
    pub explanation: Explanation,
}

/// Where the tasks of a service would go.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// How many each node would get.
    pub nodes: BTreeMap<NodeId, u64>,
    /// How many would wait.
    pub n_waiting: u64,
    /// Why; empty if none would.
    pub err: String,
    /// What each node says to the next one.
    pub explanation: Explanation,
}

/// Why tasks of a service wait.
pub(crate) fn waiting(view: &View, service: ServiceId, now: Timestamp) -> Vec<Waiting> {
    let mut groups: BTreeMap<(u64, Option<NodeId>), Vec<Arc<Task>>> = BTreeMap::new();
    for task in view.unplaced_of_service(service) {
        groups.entry((task.spec_version, task.for_node())).or_default().push(Arc::clone(task));
    }
    if groups.is_empty() {
        return Vec::new();
    }
    let picture = picture(view);
    let one = |((_, node), mut tasks): ((u64, Option<NodeId>), Vec<Arc<Task>>)| {
        tasks.sort_by_key(|task| (task.seat(), task.id));
        let said = |err: String, explanation| Waiting { tasks: tasks.clone(), err, explanation };
        let first = tasks.first()?;
        if let Some(err) = lacks_ports(view, first).or_else(|| lacks_address(first)) {
            return Some(said(err, Explanation::default()));
        }
        let ask = match ask::ask(view, first) {
            Ok(ask) => ask,
            Err(err) => return Some(said(err, Explanation::default())),
        };
        let crowd = ask::crowd(view, &ask, first, now);
        let mut explanation = picture.explain(&ask, &crowd);
        if let Some(node) = node {
            explanation.nodes.retain(|answer| answer.node == node);
            explanation.remedies.clear();
        }
        let err = explanation.refused().explain();
        Some(said(err, explanation))
    };
    groups.into_iter().filter_map(one).collect()
}

/// Where the tasks of a new service would go.
pub(crate) fn plan(view: &View, spec: &ServiceSpec) -> Plan {
    let service = Service { spec: Arc::new(spec.clone()), ..Service::default() };
    let ports = match assign_ports(view, service.id, spec, &[]) {
        Ok(ports) => ports,
        Err(error) => {
            return Plan { n_waiting: n_wanted(view, spec), err: error.to_string(), ..Plan::default() };
        }
    };
    let ask = match ask::of_spec(view, spec, &ports) {
        Ok(ask) => ask,
        Err(err) => return Plan { n_waiting: n_wanted(view, spec), err, ..Plan::default() },
    };
    let mut crowd = Crowd { port_holders: super::port_holders(view, &ask).collect(), ..Crowd::default() };
    let mut picture = picture(view);
    let mut plan = Plan::default();
    match spec.mode() {
        Mode::Replicated { .. } | Mode::ReplicatedJob { .. } => {
            let n_tasks = n_wanted(view, spec);
            let placement = picture.place(&ask, &crowd, usize::try_from(n_tasks).unwrap_or(usize::MAX));
            for given in &placement.nodes {
                *plan.nodes.entry(given.node).or_default() += 1;
            }
            plan.n_waiting = n_tasks - plan.nodes.values().sum::<u64>();
            plan.err = placement.refused.map(|refused| refused.explain()).unwrap_or_default();
        }
        // A node that does not take its task is not asked for one.
        Mode::Global | Mode::GlobalJob => {
            for node in view.nodes().map(|node| node.id) {
                if picture.place_on(&ask, &crowd, node).is_ok() {
                    plan.nodes.insert(node, 1);
                }
            }
        }
    }
    crowd.tasks.clone_from(&plan.nodes);
    if !ask.host_ports.is_empty() {
        crowd.port_holders.extend(plan.nodes.keys());
    }
    plan.explanation = picture.explain(&ask, &crowd);
    plan
}

/// How many tasks there would be at once.
fn n_wanted(view: &View, spec: &ServiceSpec) -> u64 {
    match spec.mode() {
        Mode::Replicated { replicas } => replicas,
        Mode::ReplicatedJob { concurrent, total } => concurrent.min(total),
        Mode::Global | Mode::GlobalJob => u64::try_from(view.n_nodes()).unwrap_or(u64::MAX),
    }
}
