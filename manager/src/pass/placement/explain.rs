//! For people: why tasks wait, and where those of a service that is not there yet would go. Decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skep_api::{
    NodeId, ServiceId, Timestamp,
    object::{SeatKey, Service, Task},
    spec::{Mode, ServiceSpec},
};
use skep_orchestrator::{Fit, assign_ports};
use skep_scheduler::{Ask, Crowd, Explanation, Filter, Picture, Refused};
use skep_store::View;

use super::{NO_ADDRESS, ask, lacks_address, lacks_ports, picture};

/// What is said of a task that fits somewhere: the leader has not come to it.
const NOT_YET: &str = "not placed yet";

/// Tasks of one spec that wait for a node, and why.
#[derive(Clone, PartialEq, Debug)]
pub struct Waiting {
    /// They are alike, but for their seats.
    pub tasks: Vec<Arc<Task>>,
    /// Swarm's words, of all nodes together or of the one that they are for.
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
    /// What each node says to the next one; of tasks that are for one node each, those nodes on which they would wait.
    pub explanation: Explanation,
}

/// Why tasks of a service wait: in the words that they say themselves, unless the state has moved on.
pub(crate) fn waiting(view: &View, service: ServiceId, now: Timestamp) -> Vec<Waiting> {
    let mut tasks: Vec<Arc<Task>> = view.unplaced_of_service(service).cloned().collect();
    if tasks.is_empty() {
        return Vec::new();
    }
    let picture = picture(view);
    tasks.sort_by_key(|task| (task.spec_version, task.for_node(), task.seat(), task.id));
    let mut out = Vec::new();
    for alike in tasks.chunk_by(|a, b| a.spec_version == b.spec_version) {
        let ask = ask::ask(view, view.service(service).map(|service| &**service), &alike[0]);
        for tasks in alike.chunk_by(|a, b| a.for_node() == b.for_node()) {
            let (err, explanation) = said_of(view, &picture, &ask, &tasks[0], now);
            out.push(Waiting { tasks: tasks.to_vec(), err, explanation });
        }
    }
    out
}

fn said_of(
    view: &View,
    picture: &Picture,
    ask: &Result<Ask, String>,
    task: &Task,
    now: Timestamp,
) -> (String, Explanation) {
    let no_ports = view.service(task.service_id).and_then(|service| lacks_ports(view, service));
    if let Some(err) = no_ports {
        return (err.to_string(), Explanation::default());
    }
    if lacks_address(task) && *task.status.err == *NO_ADDRESS {
        return (NO_ADDRESS.to_owned(), Explanation::default());
    }
    let ask = match ask {
        Ok(ask) => ask,
        Err(err) => return (err.clone(), Explanation::default()),
    };
    let (explanation, err) = match task.for_node() {
        Some(node) => {
            let explanation = picture.explain_on(ask, &ask::crowd_of_node(view, ask, task, node), node);
            let first = explanation.nodes.first().and_then(|answer| answer.refusals.first());
            let err = first.map_or(Filter::Ready, |(filter, _)| *filter).explain(1);
            (explanation, err)
        }
        None => {
            let explanation = picture.explain(ask, &ask::crowd(view, ask, task, now));
            let err = explanation.refused().explain();
            (explanation, err)
        }
    };
    let err = if explanation.fits_somewhere() { NOT_YET.to_owned() } else { err };
    (err, explanation)
}

/// Where the tasks of a new service would go.
pub(crate) fn plan(view: &View, spec: &ServiceSpec) -> Plan {
    let service = Service { spec: Arc::new(spec.clone()), ..Service::default() };
    let ports = assign_ports(view, service.id, spec, &[]).map_err(|error| error.to_string());
    let ask = match ports.and_then(|ports| ask::of_spec(view, spec, &ports)) {
        Ok(ask) => ask,
        Err(err) => return Plan { n_waiting: n_wanted(view, spec), err, ..Plan::default() },
    };
    let crowd = Crowd { port_holders: super::port_holders(view, &ask).collect(), ..Crowd::default() };
    match spec.mode() {
        Mode::Replicated { .. } | Mode::ReplicatedJob { .. } => plan_anywhere(view, spec, &ask, crowd),
        Mode::Global | Mode::GlobalJob => plan_on_each(view, spec, &ask, &crowd),
    }
}

fn plan_anywhere(view: &View, spec: &ServiceSpec, ask: &Ask, mut crowd: Crowd) -> Plan {
    let (mut picture, mut plan) = (picture(view), Plan::default());
    let n_tasks = n_wanted(view, spec);
    let placement = picture.place(ask, &crowd, usize::try_from(n_tasks).unwrap_or(usize::MAX));
    for given in &placement.nodes {
        *plan.nodes.entry(given.node).or_default() += 1;
    }
    plan.n_waiting = n_tasks - plan.nodes.values().sum::<u64>();
    plan.err = placement.refused.map(|refused| refused.explain()).unwrap_or_default();
    crowd.tasks.clone_from(&plan.nodes);
    if !ask.host_ports.is_empty() {
        crowd.port_holders.extend(plan.nodes.keys());
    }
    plan.explanation = picture.explain(ask, &crowd);
    plan
}

/// Nodes that the service asks for get a task, and it waits there if it does not fit; others get none.
fn plan_on_each(view: &View, spec: &ServiceSpec, ask: &Ask, crowd: &Crowd) -> Plan {
    let (mut picture, mut plan) = (picture(view), Plan::default());
    let mut refused = Refused::default();
    for node in asked_for(view, spec) {
        match picture.place_on(ask, crowd, node) {
            Ok(_) => {
                plan.nodes.insert(node, 1);
            }
            Err(filter) => *refused.0.entry(filter).or_default() += 1,
        }
    }
    plan.n_waiting = refused.0.values().sum::<usize>().try_into().unwrap_or(u64::MAX);
    plan.err = refused.counts();
    let waits: BTreeSet<NodeId> = asked_for(view, spec).filter(|id| !plan.nodes.contains_key(id)).collect();
    plan.explanation = picture.explain(ask, crowd);
    plan.explanation.nodes.retain(|answer| waits.contains(&answer.node));
    plan.explanation.remedies.clear();
    plan
}

fn asked_for(view: &View, spec: &ServiceSpec) -> impl Iterator<Item = NodeId> {
    let fit = Fit::asked(spec);
    view.nodes().map(|node| node.id).filter(move |id| fit.may_fill(view, SeatKey::Node(*id)))
}

/// How many tasks there would be at once.
fn n_wanted(view: &View, spec: &ServiceSpec) -> u64 {
    match spec.mode() {
        Mode::Replicated { replicas } => replicas,
        Mode::ReplicatedJob { concurrent, total } => concurrent.min(total),
        Mode::Global | Mode::GlobalJob => u64::try_from(asked_for(view, spec).count()).unwrap_or(u64::MAX),
    }
}
