//! The hard rules of placement, their order and their words.

use skep_api::{
    object::{Node, NodeState, Plugin},
    spec::Availability,
};

use crate::{Ask, Crowd, NodeInfo};

/// A rule that a node must pass, in the order in which they are asked (Swarm's, `SK:manager/scheduler/filter.go`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Filter {
    /// The node is there and takes new tasks.
    Ready,
    /// What the task reserves is free.
    Resources,
    /// The node's engine has the plugins.
    Plugin,
    /// All constraints hold.
    Constraints,
    /// The image is made for the node's platform.
    Platform,
    /// The ports that the task opens on its node are free there.
    HostPorts,
    /// The node has not as many tasks of the service as it may have.
    MaxReplicas,
}

impl Filter {
    /// All, in order: the first that fails explains the node.
    pub const ORDER: [Self; 7] = [
        Self::Ready,
        Self::Resources,
        Self::Plugin,
        Self::Constraints,
        Self::Platform,
        Self::HostPorts,
        Self::MaxReplicas,
    ];

    /// Those that look at nothing that a placement changes, but for [`Filter::Ready`].
    const STATIC: [Self; 3] = [Self::Plugin, Self::Constraints, Self::Platform];

    /// Whether a node takes one more task, after `n_more` that it is given besides what the picture says.
    #[must_use]
    pub fn check(self, ask: &Ask, crowd: &Crowd, info: &NodeInfo, n_more: u64) -> bool {
        let node = &*info.node;
        match self {
            Self::Ready => is_taking(node),
            Self::Resources => info.has_room(&ask.amounts, n_more),
            Self::Plugin => ask.plugins.iter().all(|plugin| has_plugin(node, plugin)),
            Self::Constraints => ask.constraints.iter().all(|(constraint, _)| constraint.matches(node)),
            Self::Platform => runs_on(ask, node),
            Self::HostPorts => {
                ask.host_ports.is_empty() || n_more == 0 && !crowd.port_holders.contains(&node.id)
            }
            Self::MaxReplicas => ask.max_replicas == 0 || crowd.n_own(node.id) + n_more < ask.max_replicas,
        }
    }

    /// The first rule that refuses a node.
    #[must_use]
    pub fn first(ask: &Ask, crowd: &Crowd, info: &NodeInfo, n_more: u64) -> Option<Self> {
        Self::ORDER.into_iter().find(|filter| !filter.check(ask, crowd, info, n_more))
    }

    /// The first rule that refuses all nodes that are like this one.
    pub(crate) fn first_static(ask: &Ask, node: &NodeInfo) -> Option<Self> {
        let crowd = Crowd::default();
        Self::STATIC.into_iter().find(|filter| !filter.check(ask, &crowd, node, 0))
    }

    /// Swarm's words for all nodes that this rule refused.
    #[must_use]
    pub fn explain(self, n_nodes: usize) -> String {
        let nodes = if n_nodes == 1 { "1 node".to_owned() } else { format!("{n_nodes} nodes") };
        match self {
            Self::Ready => format!("{nodes} not available for new tasks"),
            Self::Resources => format!("insufficient resources on {nodes}"),
            Self::Plugin => format!("missing plugin on {nodes}"),
            Self::Constraints => format!("scheduling constraints not satisfied on {nodes}"),
            Self::Platform => format!("unsupported platform on {nodes}"),
            Self::HostPorts => format!("host-mode port already in use on {nodes}"),
            Self::MaxReplicas => "max replicas per node limit exceed".to_owned(),
        }
    }
}

pub(crate) fn is_taking(node: &Node) -> bool {
    node.status.state == NodeState::Ready && node.spec.availability == Availability::Active
}

/// A node that tells of no plugins has what is built in, and nobody knows that better than its engine. One that tells
/// of none of the kind of logs does not know the kind yet (`SK:manager/scheduler/filter.go`).
pub(crate) fn has_plugin(node: &Node, wanted: &Plugin) -> bool {
    let plugins = &node.description.plugins;
    let is_it = |plugin: &&Plugin| {
        plugin.kind == wanted.kind
            && plugin
                .name
                .strip_prefix(wanted.name.as_str())
                .is_some_and(|rest| matches!(rest, "" | ":latest"))
    };
    let is_silent = || wanted.kind == "Log" && plugins.iter().all(|plugin| plugin.kind != "Log");
    plugins.is_empty() || plugins.iter().find(is_it).is_some() || is_silent()
}

fn runs_on(ask: &Ask, node: &Node) -> bool {
    let (os, arch) = platform(node);
    let fits = |wanted: &str, own: &str| wanted.is_empty() || wanted == own;
    ask.platforms.is_empty() || ask.platforms.iter().any(|(o, a)| fits(o, os) && fits(go_arch(a), arch))
}

pub(crate) fn platform(node: &Node) -> (&str, &str) {
    (&node.description.os, go_arch(&node.description.arch))
}

/// The kernel's words for architectures in those of images (`SK:manager/scheduler/filter.go`).
fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
