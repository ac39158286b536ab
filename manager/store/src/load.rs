//! What the tasks of a node take of it.

use std::collections::{BTreeMap, BTreeSet};

use skep_api::object::{GenericResource, Task};

/// What the tasks of a node take of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeLoad {
    /// Tasks that run there or are to.
    pub n_tasks: u64,
    /// Reserved by live tasks, also by those being stopped: 1e-9 CPUs.
    pub nano_cpus: i64,
    /// Reserved by live tasks, also by those being stopped: bytes.
    pub memory_bytes: i64,
    /// Given to live tasks, also to those being stopped; `None` for nothing, as on most nodes.
    pub generic: Option<Box<GenericLoad>>,
}

/// What the tasks of a node have of its generic resources.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GenericLoad {
    /// How much, by kind.
    pub amounts: BTreeMap<String, i64>,
    /// Which of the named ones: kind and name.
    pub named: BTreeSet<(String, String)>,
}

impl NodeLoad {
    /// Adds what a task takes. False, and nothing is added, if it has a named resource that another one has.
    pub(crate) fn add(&mut self, task: &Task) -> bool {
        let taken = Taken::by(task);
        if !taken.given.is_empty() {
            let mut generic = self.generic.clone().unwrap_or_default();
            if !generic.add(taken.given) {
                return false;
            }
            self.generic = Some(generic);
        }
        self.n_tasks += taken.n_tasks;
        self.nano_cpus = self.nano_cpus.saturating_add(taken.nano_cpus);
        self.memory_bytes = self.memory_bytes.saturating_add(taken.memory_bytes);
        true
    }

    pub(crate) fn subtract(&mut self, task: &Task) {
        let taken = Taken::by(task);
        self.n_tasks =
            self.n_tasks.checked_sub(taken.n_tasks).expect("each task was counted when it was put");
        self.nano_cpus = self.nano_cpus.saturating_sub(taken.nano_cpus);
        self.memory_bytes = self.memory_bytes.saturating_sub(taken.memory_bytes);
        if let Some(generic) = self.generic.as_mut().filter(|_| !taken.given.is_empty()) {
            generic.subtract(taken.given);
            if **generic == GenericLoad::default() {
                self.generic = None;
            }
        }
    }
}

/// What a task on a node takes of it.
struct Taken<'a> {
    n_tasks: u64,
    nano_cpus: i64,
    memory_bytes: i64,
    given: &'a [GenericResource],
}

impl<'a> Taken<'a> {
    fn by(task: &'a Task) -> Self {
        let is_live = task.is_live();
        let (nano_cpus, memory_bytes) = if is_live { task.spec.task_template.reservations() } else { (0, 0) };
        let given = if is_live { task.given() } else { &[] };
        Self { n_tasks: u64::from(task.is_runnable()), nano_cpus, memory_bytes, given }
    }
}

impl GenericLoad {
    fn add(&mut self, given: &[GenericResource]) -> bool {
        for resource in given {
            match resource {
                GenericResource::Named { kind, value } => {
                    if !self.named.insert((kind.clone(), value.clone())) {
                        return false;
                    }
                }
                GenericResource::Discrete { kind, amount } => {
                    let sum = self.amounts.entry(kind.clone()).or_default();
                    *sum = sum.saturating_add(*amount);
                }
            }
        }
        true
    }

    fn subtract(&mut self, given: &[GenericResource]) {
        for resource in given {
            match resource {
                GenericResource::Named { kind, value } => {
                    self.named.remove(&(kind.clone(), value.clone()));
                }
                GenericResource::Discrete { kind, amount } => {
                    if let Some(sum) = self.amounts.get_mut(kind) {
                        *sum = sum.saturating_sub(*amount);
                        if *sum == 0 {
                            self.amounts.remove(kind);
                        }
                    }
                }
            }
        }
    }
}
