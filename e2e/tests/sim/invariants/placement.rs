//! A task comes to a node that is what it asks for, has room for it, and takes tasks; nothing is reserved twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_api::NodeId;
use skep_api::constraint::Constraint;
use skep_api::object::{Node, Task};
use skep_api::spec::Availability;
use skep_manager::View;

use crate::swarm::world::State;
use crate::trace::now;

/// For how long what was decided before a node changed may still come: it is on its way to the log then. The next pass
/// takes it off the node again.
const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// Nodes as they were before somebody changed them, and when that was.
#[derive(Default)]
pub(crate) struct Nodes(BTreeMap<NodeId, Vec<(Duration, Arc<Node>)>>);

impl Nodes {
    fn remember(&mut self, old: &View, new: &View) {
        let changed = |node: &&Arc<Node>| new.node(node.id).is_none_or(|new| new.spec != node.spec);
        for node in old.nodes().filter(changed) {
            self.0.entry(node.id).or_default().push((now(), Arc::clone(node)));
        }
        for nodes in self.0.values_mut() {
            nodes.retain(|(until, _)| *until + ON_ITS_WAY > now());
        }
    }

    fn of(&self, id: NodeId) -> impl Iterator<Item = &Arc<Node>> {
        self.0.get(&id).into_iter().flatten().map(|(_, node)| node)
    }
}

/// What is wrong with where a state has its tasks.
pub(crate) fn view(state: &mut State, view: &View) {
    let mut wrong = Vec::new();
    state.nodes.remember(&state.newest, view);
    for node in view.nodes() {
        let live = view.tasks_of_node(node.id).filter(|task| task.is_live());
        let reserved: i64 = live.map(|task| task.spec.task_template.reservations().0).sum();
        if reserved > node.description.nano_cpus {
            wrong.push(format!("{reserved} of {} is reserved", node.description.hostname));
        }
    }
    for task in view.tasks() {
        let was_placed = state.tasks.get(&task.id).is_some_and(|known| known.node.is_some());
        if let Some(node) = task.node_id.filter(|_| !was_placed && task.is_runnable()) {
            let mut nodes = view.node(node).into_iter().chain(state.nodes.of(node));
            if view.node(node).is_some() && !nodes.any(|node| takes(node, task)) {
                wrong.push(format!("{} of {} is on {node}, which refuses it", task.id, task.spec.name));
            }
            let max = task.spec.task_template.max_replicas();
            let was_there =
                |other: &Task| state.tasks.get(&other.id).is_some_and(|known| known.node.is_some());
            // Tasks of later versions come after it in a pass, and need not heed what it asks for.
            let counts = |other: &&Arc<Task>| {
                other.node_id == Some(node)
                    && other.is_runnable()
                    && (other.spec_version <= task.spec_version || was_there(other))
            };
            let n = view.tasks_of_service(task.service_id).filter(counts).count();
            if max > 0 && u64::try_from(n).unwrap() > max {
                wrong.push(format!("{n} tasks of {} are on {node}, not {max}", task.spec.name));
            }
        }
    }
    let at = view.revision();
    wrong.into_iter().for_each(|line| state.trace.fail(format!("{line}, at {at}")));
}

fn takes(node: &Node, task: &Task) -> bool {
    node.spec.availability == Availability::Active && meets(node, task.spec.task_template.constraints())
}

/// Whether a node is what constraints ask for.
pub(crate) fn meets(node: &Node, constraints: &[String]) -> bool {
    let parsed = Constraint::parse_all(constraints).unwrap();
    parsed.iter().all(|constraint| constraint.matches(node))
}
