//! What like tasks ask of a node.

use std::collections::BTreeMap;

use skep_api::{NodeId, constraint::Constraint};

/// Failures of a service's spec version after which a node is tried last (`SK:manager/scheduler/nodeinfo.go`).
pub(crate) const FAILURES_MAX: u64 = 5;

/// Tasks of one service and spec version: they ask for the same, so they are placed together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskGroup {
    /// All must hold; with their texts, for explanations.
    pub constraints: Vec<(Constraint, String)>,
    /// Operating system and architecture, empty for any: one must be the node's. None at all: any will do.
    pub platforms: Vec<(String, String)>,
    /// Reserved by each task: 1e-9 CPUs.
    pub nano_cpus: i64,
    /// Reserved by each task: bytes.
    pub memory_bytes: i64,
    /// Ports that each task opens on its node: protocol and number.
    pub host_ports: Vec<(String, u16)>,
    /// How many tasks of the service a node has; absent for none.
    pub n_tasks: BTreeMap<NodeId, u64>,
    /// How often this spec version failed on a node lately; absent for never.
    pub n_failures: BTreeMap<NodeId, u64>,
}

impl TaskGroup {
    pub(crate) fn is_failing_on(&self, node: NodeId) -> bool {
        self.n_failures.get(&node).is_some_and(|n| *n >= FAILURES_MAX)
    }
}
