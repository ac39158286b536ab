//! Adapts the store to the scheduler: shows it the nodes, asks for each group of like tasks, writes the answers.

mod ask;
mod explain;
mod rebalance;
mod write;

use std::{collections::BTreeMap, sync::Arc};

use skep_api::{
    NodeId, ServiceId,
    object::{Node, Task},
};
use skep_orchestrator::{Scope, assign_ports};
use skep_scheduler::{Ask, GenericFree, NodeInfo, Picture};
use skep_store::{Draft, GenericLoad, NodeLoad, View};

pub use self::explain::{Plan, Waiting};
pub(super) use self::rebalance::rebalance;
pub use self::rebalance::{Move, Rebalance};
use self::write::{CONFIRMED, PLACED, assign, explain};
pub(crate) use self::{
    explain::{plan, waiting},
    rebalance::plan_rebalance,
};

/// The nodes as the last pass left them: a pass looks at those again that have changed since.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    picture: Picture,
    /// What the picture shows; `None` for nothing yet.
    at: Option<View>,
}

impl Kept {
    /// Brings the picture to a view.
    fn show(&mut self, view: &View) -> &mut Picture {
        match self.at.take() {
            None => self.picture = picture(view),
            Some(old) => {
                for id in view.nodes_touched_since(&old) {
                    match view.node(id) {
                        Some(node) => self.picture.put(node_info(node, &view.node_load(id))),
                        None => self.picture.remove(id),
                    }
                }
            }
        }
        &mut self.picture
    }
}

/// Gives nodes to tasks that have none: those of the scope, or all when room was freed.
pub(super) fn place(draft: &mut Draft, scope: &Scope, is_room_freed: bool, kept: &mut Kept) {
    let services: Vec<ServiceId> = if is_room_freed {
        draft.services_with_unplaced().collect()
    } else {
        scope.services.keys().copied().collect()
    };
    let mut groups: BTreeMap<(ServiceId, u64), Vec<Arc<Task>>> = BTreeMap::new();
    for task in services.iter().flat_map(|id| draft.unplaced_of_service(*id)) {
        groups.entry((task.service_id, task.spec_version)).or_default().push(Arc::clone(task));
    }
    if groups.is_empty() {
        return;
    }
    let picture = kept.show(draft);
    for mut tasks in groups.into_values() {
        tasks.sort_by_key(|task| (task.seat(), task.id));
        place_group(draft, picture, tasks);
    }
    // With all that was placed, as the picture has it.
    kept.at = Some(draft.nodes_only());
}

fn place_group(draft: &mut Draft, picture: &mut Picture, tasks: Vec<Arc<Task>>) {
    let no_ports = tasks.first().and_then(|task| lacks_ports(draft, task));
    let (mut ready, mut waiting) = (Vec::with_capacity(tasks.len()), Vec::new());
    for task in tasks {
        match no_ports.clone().or_else(|| lacks_address(&task)) {
            None => ready.push(task),
            Some(err) => waiting.push((task, err)),
        }
    }
    for (task, err) in waiting {
        explain(draft, &task, err);
    }
    let Some(first) = ready.first() else { return };
    let ask = match ask::ask(draft, first) {
        Ok(ask) => ask,
        Err(err) => {
            for task in ready {
                explain(draft, &task, err.clone());
            }
            return;
        }
    };
    let (own, any): (Vec<_>, Vec<_>) = ready.into_iter().partition(|task| task.for_node().is_some());
    for task in own {
        place_on_its_node(draft, picture, &ask, &task);
    }
    place_anywhere(draft, picture, &ask, &any);
}

fn place_anywhere(draft: &mut Draft, picture: &mut Picture, ask: &Ask, tasks: &[Arc<Task>]) {
    let Some(first) = tasks.first() else { return };
    let crowd = ask::crowd(draft, ask, first, draft.now());
    let placement = picture.place(ask, &crowd, tasks.len());
    let n_placed = placement.nodes.len();
    for (task, given) in tasks.iter().zip(placement.nodes) {
        assign(draft, task, given, PLACED);
    }
    if let Some(refused) = placement.refused {
        let err = refused.explain();
        for task in &tasks[n_placed..] {
            explain(draft, task, err.clone());
        }
    }
}

fn place_on_its_node(draft: &mut Draft, picture: &mut Picture, ask: &Ask, task: &Task) {
    let Some(node) = task.for_node() else { return };
    let crowd = ask::crowd_of_node(draft, ask, task, node);
    match picture.place_on(ask, &crowd, node) {
        Ok(given) => assign(draft, task, given, CONFIRMED),
        // Swarm does not say `no suitable node` of these (`SK:manager/scheduler/scheduler.go:taskFitNode`).
        Err(filter) => explain(draft, task, filter.explain(1)),
    }
}

/// The address that a task still waits for before it can have a node.
fn lacks_address(task: &Task) -> Option<String> {
    let lacks = task.uses_ingress() && task.ingress_addr.is_none();
    lacks.then(|| "no free address in the ingress network".to_owned())
}

/// The port that a service still waits for.
fn lacks_ports(view: &View, task: &Task) -> Option<String> {
    let service = view.service(task.service_id)?;
    assign_ports(view, service.id, &service.spec, &service.ports).err().map(|error| error.to_string())
}

/// A picture of all nodes.
fn picture(view: &View) -> Picture {
    Picture::new(view.nodes_with_load().map(|(node, load)| node_info(node, load)))
}

fn node_info(node: &Arc<Node>, load: &NodeLoad) -> NodeInfo {
    let about = &node.description;
    let none = GenericLoad::default();
    let given = load.generic.as_deref().unwrap_or(&none);
    NodeInfo {
        node: Arc::clone(node),
        n_tasks: load.n_tasks,
        nano_cpus: about.nano_cpus.saturating_sub(load.nano_cpus),
        memory_bytes: about.memory_bytes.saturating_sub(load.memory_bytes),
        generic: GenericFree::new(&about.generic, &given.amounts, &given.named),
    }
}

/// Nodes on which a host port that is asked for is taken.
fn port_holders(view: &View, ask: &Ask) -> impl Iterator<Item = NodeId> {
    ask.host_ports.iter().flat_map(|(protocol, port)| view.nodes_with_host_port(protocol, *port))
}
