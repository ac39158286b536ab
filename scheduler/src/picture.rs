//! The nodes as placement sees them, and the placement of one group on them.
//!
//! A group costs one look at each node and then a heap operation a task. Spread preferences come in
//! here: a tree of node sets, each with a heap like this one.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
};

use skep_api::{NodeId, object::Node};

use crate::{Filter, TaskGroup};

/// A node and what is left of it.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// Tasks that run there or are to.
    pub n_tasks: u64,
    /// Not reserved yet: 1e-9 CPUs. Negative when the node shrank.
    pub nano_cpus: i64,
    /// Not reserved yet: bytes. Negative when the node shrank.
    pub memory_bytes: i64,
    /// Ports open on the node: protocol and number.
    pub host_ports: BTreeSet<(String, u16)>,
}

/// All nodes; each placement takes from them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Picture {
    nodes: BTreeMap<NodeId, NodeInfo>,
}

/// Where the tasks of a group go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    /// A node for each task that fits, in the order in which they were given.
    pub nodes: Vec<NodeId>,
    /// Why the rest does not fit.
    pub refusal: Option<Refusal>,
}

/// Why there is no node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refusal {
    /// Which rule each node failed, and how, in the order of ids.
    pub by_node: BTreeMap<NodeId, (Filter, String)>,
}

/// The best node is the least: not failing, fewest tasks of the service, fewest tasks, lowest id.
type Rank = (bool, u64, u64, NodeId);

impl Picture {
    /// A picture of these nodes.
    #[must_use]
    pub fn new(nodes: impl IntoIterator<Item = NodeInfo>) -> Self {
        Self { nodes: nodes.into_iter().map(|info| (info.node.id, info)).collect() }
    }

    /// A node of the picture.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeInfo> {
        self.nodes.get(&id)
    }

    /// Takes what a task of a group needs from the one node that it may run on.
    ///
    /// # Errors
    /// What refuses it there.
    pub fn confirm(&mut self, group: &TaskGroup, id: NodeId) -> Result<(), Filter> {
        let info = self.nodes.get_mut(&id).ok_or(Filter::Ready)?;
        match refused_by(group, info) {
            Some(filter) => Err(filter),
            None => {
                info.take(group);
                Ok(())
            }
        }
    }

    /// Places up to `n_tasks` of a group and takes what they need from the picture.
    pub fn place(&mut self, group: &TaskGroup, n_tasks: usize) -> Placement {
        let mut refusal = Refusal::default();
        let mut heap: BinaryHeap<Reverse<Rank>> = BinaryHeap::new();
        for (id, info) in &self.nodes {
            match refused_by(group, info) {
                Some(filter) => {
                    refusal.by_node.insert(*id, (filter, filter.detail(group, info)));
                }
                None => {
                    let n_own = group.n_tasks.get(id).copied().unwrap_or(0);
                    heap.push(Reverse((group.is_failing_on(*id), n_own, info.n_tasks, *id)));
                }
            }
        }
        let mut nodes = Vec::with_capacity(n_tasks);
        while nodes.len() < n_tasks
            && let Some(Reverse((failing, n_own, n_all, id))) = heap.pop()
        {
            let info = self.nodes.get_mut(&id).expect("the heap was filled from this map");
            // Only the tasks of this group have changed the node since it was checked.
            if let Some(filter) = refused_by(group, info) {
                refusal.by_node.insert(id, (filter, filter.detail(group, info)));
                continue;
            }
            info.take(group);
            nodes.push(id);
            heap.push(Reverse((failing, n_own + 1, n_all + 1, id)));
        }
        let refusal = (nodes.len() < n_tasks).then_some(refusal);
        Placement { nodes, refusal }
    }
}

fn refused_by(group: &TaskGroup, info: &NodeInfo) -> Option<Filter> {
    Filter::ORDER.into_iter().find(|filter| !filter.check(group, info))
}

impl NodeInfo {
    fn take(&mut self, group: &TaskGroup) {
        self.n_tasks += 1;
        self.nano_cpus -= group.nano_cpus.max(0);
        self.memory_bytes -= group.memory_bytes.max(0);
        self.host_ports.extend(group.host_ports.iter().cloned());
    }
}

impl Refusal {
    /// Swarm's words: each rule with its number of nodes, the most frequent first.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut counts: BTreeMap<Filter, usize> = BTreeMap::new();
        for (filter, _) in self.by_node.values() {
            *counts.entry(*filter).or_default() += 1;
        }
        let mut counts: Vec<(Filter, usize)> = counts.into_iter().collect();
        counts.sort_by_key(|(filter, n)| (Reverse(*n), *filter));
        let parts: Vec<String> = counts.into_iter().map(|(filter, n)| filter.explain(n)).collect();
        if parts.is_empty() {
            "no suitable node".to_owned()
        } else {
            format!("no suitable node ({})", parts.join("; "))
        }
    }
}
