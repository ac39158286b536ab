//! The hard rules of placement: each can check a node and find words for its "no".

use skep_api::{object::NodeState, spec::Availability};

use crate::{NodeInfo, TaskGroup};

/// A rule that a node must pass, in the order in which they are asked (Swarm's, `SK:manager/scheduler/filter.go`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Filter {
    /// The node is there and takes new tasks.
    Ready,
    /// What the task reserves is free.
    Resources,
    /// All constraints hold.
    Constraints,
    /// The image is made for the node's platform.
    Platform,
    /// The ports that the task opens on its node are free there.
    HostPorts,
}

impl Filter {
    /// All, in order: the first that fails explains the node.
    pub const ORDER: [Self; 5] =
        [Self::Ready, Self::Resources, Self::Constraints, Self::Platform, Self::HostPorts];

    /// Whether the node may take a task of the group.
    #[must_use]
    pub fn check(self, group: &TaskGroup, info: &NodeInfo) -> bool {
        match self {
            Self::Ready => {
                info.node.status.state == NodeState::Ready
                    && info.node.spec.availability == Availability::Active
            }
            Self::Resources => has_cpus(group, info) && has_memory(group, info),
            Self::Constraints => {
                group.constraints.iter().all(|(constraint, _)| constraint.matches(&info.node))
            }
            Self::Platform => runs_on(group, info),
            Self::HostPorts => group.host_ports.iter().all(|port| !info.host_ports.contains(port)),
        }
    }

    /// Swarm's words for all nodes that this rule refused.
    #[must_use]
    pub fn explain(self, n_nodes: usize) -> String {
        let nodes = if n_nodes == 1 { "1 node".to_owned() } else { format!("{n_nodes} nodes") };
        match self {
            Self::Ready => format!("{nodes} not available for new tasks"),
            Self::Resources => format!("insufficient resources on {nodes}"),
            Self::Constraints => format!("scheduling constraints not satisfied on {nodes}"),
            Self::Platform => format!("unsupported platform on {nodes}"),
            Self::HostPorts => format!("host-mode port already in use on {nodes}"),
        }
    }

    /// Words for one node that this rule refuses. Without amounts: those change with each task that comes
    /// or goes, and each change would be written into every pending task.
    #[must_use]
    pub fn detail(self, group: &TaskGroup, info: &NodeInfo) -> String {
        match self {
            Self::Ready => match (info.node.status.state, info.node.spec.availability) {
                (NodeState::Down, _) => "down".to_owned(),
                (NodeState::Unknown, _) => "not heard of yet".to_owned(),
                (NodeState::Ready, availability) => format!("availability is {}", availability.as_str()),
            },
            Self::Resources => match (has_cpus(group, info), has_memory(group, info)) {
                (false, false) => "not enough CPU and memory".to_owned(),
                (false, true) => "not enough CPU".to_owned(),
                (true, _) => "not enough memory".to_owned(),
            },
            Self::Constraints => {
                let broken = group.constraints.iter().filter(|(c, _)| !c.matches(&info.node));
                let texts: Vec<&str> = broken.map(|(_, text)| text.as_str()).collect();
                format!("does not satisfy {}", texts.join(", "))
            }
            Self::Platform => {
                let (os, arch) = platform(info);
                format!("the image is not made for {os}/{arch}")
            }
            Self::HostPorts => {
                let taken = group.host_ports.iter().filter(|port| info.host_ports.contains(*port));
                let texts: Vec<String> = taken.map(|(protocol, port)| format!("{port}/{protocol}")).collect();
                format!("port {} in use", texts.join(", "))
            }
        }
    }
}

fn runs_on(group: &TaskGroup, info: &NodeInfo) -> bool {
    let (os, arch) = platform(info);
    let fits = |wanted: &str, own: &str| wanted.is_empty() || wanted == own;
    group.platforms.is_empty() || group.platforms.iter().any(|(o, a)| fits(o, os) && fits(go_arch(a), arch))
}

fn platform(info: &NodeInfo) -> (&str, &str) {
    (&info.node.description.os, go_arch(&info.node.description.arch))
}

/// The kernel's words for architectures in those of images (`SK:manager/scheduler/filter.go`).
fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn has_cpus(group: &TaskGroup, info: &NodeInfo) -> bool {
    group.nano_cpus <= 0 || group.nano_cpus <= info.nano_cpus
}

fn has_memory(group: &TaskGroup, info: &NodeInfo) -> bool {
    group.memory_bytes <= 0 || group.memory_bytes <= info.memory_bytes
}
