//! What a task asks for, and what its service has on the nodes already.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skep_api::{
    NodeId, TaskState, Timestamp,
    constraint::Constraint,
    object::{Plugin, SeatKey, Service, Task},
    spec::{PortConfig, ServiceSpec, SkepLabel},
};
use skep_orchestrator::FAILURES_WINDOW;
use skep_scheduler::{Amounts, Ask, Crowd, Descriptor, Soft, Strategy};
use skep_store::View;

use super::port_holders;

/// What a task asks for.
///
/// # Errors
/// A constraint that cannot be read, in words for the task.
pub(super) fn ask(view: &View, service: Option<&Service>, task: &Task) -> Result<Ask, String> {
    // Labels of the service change without its tasks.
    let labels = service.map_or(&task.spec, |service| &service.spec);
    Ok(with_labels(of_template(view, &task.spec, &task.ports)?, labels))
}

/// What each task of a spec asks for that has these ports.
///
/// # Errors
/// A constraint that cannot be read, in words for the task.
pub(super) fn of_spec(view: &View, spec: &ServiceSpec, ports: &[PortConfig]) -> Result<Ask, String> {
    Ok(with_labels(of_template(view, spec, ports)?, spec))
}

/// What skep's own labels of a service ask for.
fn with_labels(ask: Ask, spec: &ServiceSpec) -> Ask {
    let strategy = match spec.label(SkepLabel::Strategy) {
        Some("binpack") => Strategy::Binpack,
        Some(_) | None => Strategy::Spread,
    };
    let weight = spec.label(SkepLabel::SpreadWeight).and_then(Descriptor::parse);
    let soft = spec.soft().map(|soft| Soft {
        constraint: soft.constraint,
        text: soft.text.to_owned(),
        weight: soft.weight,
    });
    Ask { strategy, weight, soft: soft.collect(), ..ask }
}

fn of_template(view: &View, spec: &ServiceSpec, ports: &[PortConfig]) -> Result<Ask, String> {
    let template = &spec.task_template;
    let parse = |text: &String| {
        let parsed = Constraint::parse(text).map_err(|error| format!("no suitable node ({error})"))?;
        Ok::<_, String>((parsed, text.clone()))
    };
    Ok(Ask {
        constraints: template.constraints().iter().map(parse).collect::<Result<_, _>>()?,
        platforms: template.platforms(),
        plugins: plugins(view, spec),
        amounts: amounts(spec),
        host_ports: host_ports(ports).collect(),
        max_replicas: template.max_replicas(),
        spread: template.spread().filter_map(Descriptor::parse).collect(),
        ..Ask::default()
    })
}

/// What each task of a spec reserves.
pub(super) fn amounts(spec: &ServiceSpec) -> Amounts {
    let template = &spec.task_template;
    let (nano_cpus, memory_bytes) = template.reservations();
    let generic = template.generic().map(|(kind, amount)| (kind.to_owned(), amount)).collect();
    Amounts { nano_cpus, memory_bytes, generic }
}

/// Ports that a task opens on its node under a number that the user chose.
pub(super) fn host_ports(ports: &[PortConfig]) -> impl Iterator<Item = (String, u16)> {
    let held = ports.iter().filter(|port| !port.is_ingress() && port.published_port != 0);
    held.map(|port| (port.protocol().to_owned(), port.published_port))
}

/// Drivers that the node's engine needs (`SK:manager/scheduler/filter.go`).
fn plugins(view: &View, spec: &ServiceSpec) -> Vec<Plugin> {
    let plugin = |kind: &str, name: &str| Plugin { kind: kind.to_owned(), name: name.to_owned() };
    let mounts = spec.container().and_then(|container| container.mounts.as_deref()).unwrap_or(&[]);
    let drivers = mounts
        .iter()
        .filter(|mount| mount.kind == "volume")
        .filter_map(|mount| mount.volume_options.as_ref()?.driver_config.as_ref()?.name.as_deref());
    let volumes = drivers.filter(|name| !matches!(*name, "" | "local")).map(|name| plugin("Volume", name));
    let networks = spec.network_ids().filter_map(|id| view.network(id));
    let networks = networks.filter(|network| !network.spec.driver.is_empty());
    let networks = networks.map(|network| plugin("Network", &network.spec.driver));
    let log = spec.task_template.log_driver.as_ref().and_then(|driver| driver.name.as_deref());
    let log = log.filter(|name| !matches!(*name, "" | "none")).map(|name| plugin("Log", name));
    volumes.chain(networks).chain(log).collect()
}

/// What the service of a task has on all nodes.
pub(super) fn crowd(view: &View, ask: &Ask, task: &Task, now: Timestamp) -> Crowd {
    crowd_of(view.tasks_of_service(task.service_id), view, ask, task.spec_version, now)
}

/// What a service that has these tasks has on all nodes, as tasks of a version see it.
pub(super) fn crowd_of<'a>(
    tasks: impl Iterator<Item = &'a Arc<Task>>,
    view: &View,
    ask: &Ask,
    version: u64,
    now: Timestamp,
) -> Crowd {
    let mut nodes: Vec<NodeId> = Vec::new();
    // Each is known to the tasks that follow it in its seat, too.
    let mut failures: BTreeSet<(NodeId, SeatKey, Timestamp)> = BTreeSet::new();
    for task in tasks {
        nodes.extend(task.node_id.filter(|_| task.is_runnable()));
        if task.spec_version == version {
            failures.extend(failed_lately(task, now).map(|(node, at)| (node, task.seat(), at)));
        }
    }
    // Sorted they are counted without a search for each.
    nodes.sort_unstable();
    let failed: Vec<NodeId> = failures.into_iter().map(|(node, ..)| node).collect();
    let port_holders = port_holders(view, ask).collect();
    Crowd { tasks: counted(&nodes), failures: counted(&failed), port_holders }
}

/// How often each node comes in a list that is sorted.
fn counted(nodes: &[NodeId]) -> BTreeMap<NodeId, u64> {
    let same = nodes.chunk_by(|a, b| a == b);
    same.map(|same| (same[0], u64::try_from(same.len()).unwrap_or(u64::MAX))).collect()
}

/// What the service of a task has on the node that it is for.
pub(super) fn crowd_of_node(view: &View, ask: &Ask, task: &Task, node: NodeId) -> Crowd {
    let is_held =
        |(protocol, port): &(String, u16)| view.host_port_holders(node, protocol, *port).next().is_some();
    let own = view.tasks_of_seat(task.service_id, SeatKey::Node(node));
    let n_own = own.iter().filter(|other| other.node_id.is_some() && other.is_runnable()).count();
    Crowd {
        tasks: [(node, u64::try_from(n_own).unwrap_or(u64::MAX))].into(),
        port_holders: ask.host_ports.iter().any(is_held).then_some(node).into_iter().collect(),
        ..Crowd::default()
    }
}

/// Where and when a task failed, or some before it in its seat, that still counts.
pub(super) fn failed_lately(task: &Task, now: Timestamp) -> impl Iterator<Item = (NodeId, Timestamp)> {
    task.failures().filter(move |(_, at)| now.since(*at) < FAILURES_WINDOW)
}

/// Whether it completed so lately that it would still count, had it failed.
pub(super) fn completed_lately(task: &Task, now: Timestamp) -> bool {
    task.status.state == TaskState::Complete && now.since(task.status.timestamp) < FAILURES_WINDOW
}
