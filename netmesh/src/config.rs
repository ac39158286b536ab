//! What a mesh is started with, and what a task asks of it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::desired::Protocol;

/// What a mesh is started with; the same for each start of a node's daemon.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the network namespaces of tasks are pinned, one file a task.
    pub netns_dir: PathBuf,
    /// The address under which the other members carry the mesh's traffic to this node.
    pub data_path_addr: Ipv4Addr,
    /// The subnet of the node's own bridge; its first address is the gateway.
    pub bridge_subnet: (Ipv4Addr, u8),
    /// The UDP port of the tunnel between members, the same on all.
    pub vxlan_port: u16,
    /// The network identifier of the ingress network, the same on all members.
    pub vni: u32,
    /// Remembers which task was given which address.
    pub state_file: PathBuf,
}

impl Config {
    /// The defaults for a node with this data path address and state directory.
    pub fn new(state_dir: &Path, data_path_addr: Ipv4Addr) -> Config {
        Config {
            netns_dir: state_dir.join("netns"),
            data_path_addr,
            bridge_subnet: (Ipv4Addr::new(172, 30, 0, 0), 16),
            vxlan_port: 4789,
            vni: 4096,
            state_file: state_dir.join("netmesh.json"),
        }
    }

    /// The node's own address on its bridge.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        let (network, prefix) = self.bridge_subnet;
        Ipv4Addr::from((u32::from(network) & crate::pool::netmask(prefix)).saturating_add(1))
    }
}

/// What network a task wants.
#[derive(Debug, Clone, Default)]
pub struct Attach {
    /// The task's address on the ingress network, if its service publishes a port there.
    pub ingress: Option<Ipv4Addr>,
    /// Ports of this node that lead to the task alone.
    pub host_ports: Vec<HostPort>,
    /// The first process of the task's container if it runs already: a restarted daemon that does not find
    /// the pinned namespace any more finds it again there.
    pub pid: Option<u32>,
}

/// A port of the node that leads to a port of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    pub protocol: Protocol,
    /// 0 asks for any free one from 32768 on.
    pub published: u16,
    pub target: u16,
}

/// The network that a task has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The network namespace, as a file to join.
    pub netns: PathBuf,
    /// The task's address on the node's bridge.
    pub bridge_addr: Ipv4Addr,
    /// As asked for, with each published port filled in.
    pub host_ports: Vec<HostPort>,
}
