//! Whether a node still has what its tasks reserved. On one that shrank the newest tasks go first
//! (`SK:manager/orchestrator/constraintenforcer` takes them as they come).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skep_api::object::{GenericResource, Node, Task};
use skep_store::{GenericLoad, View};

/// Whether a task still has what it reserved of its node.
pub(crate) fn has_room(view: &View, node: &Node, task: &Task) -> bool {
    if task.given().is_empty() && !reserves(task) {
        // It takes nothing that others may lack.
        return true;
    }
    if has_all(view, node) {
        return true;
    }
    let mut left = Left::of(node);
    let mut tasks: Vec<&Arc<Task>> =
        view.tasks_of_node(node.id).filter(|other| other.is_runnable()).collect();
    tasks.sort_by_key(|other| (other.meta.created_at, other.id));
    for other in tasks {
        let is_kept = left.take(other);
        if other.id == task.id {
            return is_kept;
        }
    }
    true
}

/// Whether a node has all that its tasks have of it: else which of them keep their part hangs on all that are there.
pub(crate) fn has_all(view: &View, node: &Node) -> bool {
    let load = view.node_load(node.id);
    let about = &node.description;
    let is_there = load.nano_cpus <= about.nano_cpus && load.memory_bytes <= about.memory_bytes;
    // Of nearly every node nothing was given.
    is_there && load.generic.as_deref().is_none_or(|load| Left::of(node).has(load))
}

fn reserves(task: &Task) -> bool {
    let (nano_cpus, memory_bytes) = task.spec.task_template.reservations();
    nano_cpus > 0 || memory_bytes > 0
}

/// What is left of a node beside the tasks that keep their part.
struct Left<'a> {
    nano_cpus: i64,
    memory_bytes: i64,
    amounts: BTreeMap<&'a str, i64>,
    named: BTreeSet<(&'a str, &'a str)>,
}

impl<'a> Left<'a> {
    fn of(node: &'a Node) -> Self {
        let about = &node.description;
        let (mut amounts, mut named) = (BTreeMap::new(), BTreeSet::new());
        for resource in &about.generic {
            match resource {
                GenericResource::Named { kind, value } => {
                    named.insert((kind.as_str(), value.as_str()));
                }
                GenericResource::Discrete { kind, amount } => {
                    amounts.insert(kind.as_str(), *amount);
                }
            }
        }
        Self { nano_cpus: about.nano_cpus, memory_bytes: about.memory_bytes, amounts, named }
    }

    /// Whether it has all that is given.
    fn has(&self, load: &GenericLoad) -> bool {
        let amount = |kind: &String| self.amounts.get(kind.as_str()).copied().unwrap_or(0);
        load.amounts.iter().all(|(kind, given)| *given <= amount(kind))
            && load.named.iter().all(|(kind, value)| self.named.contains(&(kind.as_str(), value.as_str())))
    }

    /// Takes the part of a task off, if it is there.
    fn take(&mut self, task: &'a Task) -> bool {
        let (nano_cpus, memory_bytes) = task.spec.task_template.reservations();
        let fits = |asked: i64, left: i64| asked <= 0 || asked <= left;
        let is_there = |resource: &GenericResource| match resource {
            GenericResource::Named { kind, value } => self.named.contains(&(kind.as_str(), value.as_str())),
            GenericResource::Discrete { kind, amount } => {
                self.amounts.get(kind.as_str()).is_some_and(|left| amount <= left)
            }
        };
        let is_kept = fits(nano_cpus, self.nano_cpus)
            && fits(memory_bytes, self.memory_bytes)
            && task.given().iter().all(is_there);
        if is_kept {
            self.nano_cpus -= nano_cpus.max(0);
            self.memory_bytes -= memory_bytes.max(0);
            for resource in task.given() {
                match resource {
                    GenericResource::Named { kind, value } => {
                        self.named.remove(&(kind.as_str(), value.as_str()));
                    }
                    GenericResource::Discrete { kind, amount } => {
                        *self.amounts.entry(kind.as_str()).or_default() -= amount;
                    }
                }
            }
        }
        is_kept
    }
}
