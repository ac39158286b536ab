//! What like tasks ask of a node, and what their service has on the nodes already.

use std::collections::{BTreeMap, BTreeSet};

use skep_api::{
    NodeId,
    constraint::{Constraint, Subject},
    object::{Node, Plugin},
};

/// Failures of a service's spec version after which a node is tried last (`SK:manager/scheduler/nodeinfo.go`).
pub(crate) const FAILURES_MAX: u64 = 5;

/// A share that is greater counts as that.
const WEIGHT_MAX: u64 = 1_000_000;

/// What each task of one service and spec version asks for: they are alike, so they are placed together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ask {
    /// All must hold; with their texts, for explanations.
    pub constraints: Vec<(Constraint, String)>,
    /// Operating system and architecture, empty for any: one must be the node's. None at all: any will do.
    pub platforms: Vec<(String, String)>,
    /// All must be there.
    pub plugins: Vec<Plugin>,
    /// What each task reserves.
    pub amounts: Amounts,
    /// Ports that each task opens on its node: protocol and number.
    pub host_ports: Vec<(String, u16)>,
    /// Tasks of the service that a node may have; 0 for any number.
    pub max_replicas: u64,
    /// What the tasks are spread over, the most important first.
    pub spread: Vec<Descriptor>,
    /// Which nodes come first.
    pub strategy: Strategy,
    /// The label that says what share of the tasks is a node's, a whole number; `None`: all are alike.
    pub weight: Option<Descriptor>,
    /// Should hold.
    pub soft: Vec<Soft>,
}

/// Which of the nodes that take a task comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Strategy {
    /// The one with the fewest tasks of the service, and then of all.
    #[default]
    Spread,
    /// The one of which most is reserved, and then with the most tasks: others stay empty.
    Binpack,
}

/// A constraint that may be missed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Soft {
    /// What should hold.
    pub constraint: Constraint,
    /// As it was written.
    pub text: String,
    /// Nodes come the later the more they miss of these.
    pub weight: u32,
}

/// What a task reserves of its node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Amounts {
    /// 1e-9 CPUs.
    pub nano_cpus: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// How many of each kind.
    pub generic: BTreeMap<String, i64>,
}

/// What a service has on the nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Crowd {
    /// How many tasks of it a node has; absent for none.
    pub tasks: BTreeMap<NodeId, u64>,
    /// How often this spec version failed on a node lately; absent for never.
    pub failures: BTreeMap<NodeId, u64>,
    /// Nodes on which somebody has a host port that the tasks ask for.
    pub port_holders: BTreeSet<NodeId>,
}

/// What tasks are spread over: the values of a label.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Descriptor {
    /// That the user gave the node.
    NodeLabel(String),
    /// That the node's daemon was started with.
    EngineLabel(String),
}

impl Descriptor {
    /// Reads `node.labels.zone`; anything but labels is no descriptor, and spreads nothing
    /// (`SK:manager/scheduler/nodeset.go`).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::of(Subject::of(text)).filter(|(Self::NodeLabel(key) | Self::EngineLabel(key))| !key.is_empty())
    }

    /// The label that a constraint or a preference is about, if it is about one.
    pub(crate) fn of(subject: Subject<'_>) -> Option<Self> {
        match subject {
            Subject::NodeLabel(key) => Some(Self::NodeLabel(key.to_owned())),
            Subject::EngineLabel(key) => Some(Self::EngineLabel(key.to_owned())),
            Subject::Id
            | Subject::Hostname
            | Subject::Address
            | Subject::Role
            | Subject::Os
            | Subject::Arch
            | Subject::Unknown => None,
        }
    }

    /// The node's branch: nodes without the label are one, too.
    #[must_use]
    pub fn value<'a>(&self, node: &'a Node) -> &'a str {
        let found = match self {
            Self::NodeLabel(key) => node.spec.labels.get(key),
            Self::EngineLabel(key) => node.description.engine_labels.get(key),
        };
        found.map_or("", String::as_str)
    }
}

impl Ask {
    /// Whether nodes come in an order that only this ask has: an even spread is not what it is for.
    #[must_use]
    pub fn has_own_order(&self) -> bool {
        self.strategy != Strategy::Spread || self.weight.is_some() || !self.soft.is_empty()
    }

    /// The share of a node among others: 1 where no label says another one.
    pub(crate) fn weight_of(&self, node: &Node) -> u64 {
        let written = self.weight.as_ref().map(|label| label.value(node).trim());
        written.and_then(|text| text.parse().ok()).unwrap_or(1).min(WEIGHT_MAX)
    }

    /// What a node misses of what should hold.
    pub(crate) fn missed<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Soft> {
        self.soft.iter().filter(|soft| !soft.constraint.matches(node))
    }

    /// Whether a constraint names what differs from node to node.
    pub(crate) fn is_pinned(&self) -> bool {
        self.constraints.iter().any(|(constraint, _)| {
            matches!(constraint.subject(), Subject::Id | Subject::Hostname | Subject::Address)
        })
    }

    /// Whether each node that will do is looked at by itself.
    pub(crate) fn is_one_by_one(&self) -> bool {
        self.is_pinned() || self.has_own_order()
    }

    /// The one node that may do, if a constraint names it.
    pub(crate) fn only_node(&self) -> Option<NodeId> {
        self.constraints.iter().find_map(|(constraint, _)| constraint.node_id())
    }
}

impl Amounts {
    /// These and others.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.nano_cpus = self.nano_cpus.max(0).saturating_add(other.nano_cpus.max(0));
        self.memory_bytes = self.memory_bytes.max(0).saturating_add(other.memory_bytes.max(0));
        for (kind, amount) in &other.generic {
            let sum = self.generic.entry(kind.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
        self
    }
}

impl Crowd {
    pub(crate) fn n_own(&self, node: NodeId) -> u64 {
        if self.tasks.is_empty() { 0 } else { self.tasks.get(&node).copied().unwrap_or(0) }
    }

    /// How many failures count against a node: none as long as they are few.
    pub(crate) fn n_failing(&self, node: NodeId) -> u64 {
        let n = if self.failures.is_empty() { None } else { self.failures.get(&node).copied() };
        n.filter(|n| *n >= FAILURES_MAX).unwrap_or_default()
    }
}
