//! What the cluster wants of this node's mesh: plain values, as the agent's stream gives them.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The whole desired state of one node's mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The mesh revision that this is the state of; for the log alone, the content decides.
    pub revision: u64,
    /// This node's own address on the ingress network; none while nothing is published.
    pub ingress: Option<Ingress>,
    /// The other members.
    pub peers: Vec<Peer>,
    /// Where the ingress addresses of tasks on other nodes are; also of those that drain.
    pub remotes: Vec<Remote>,
    pub ports: Vec<PublishedPort>,
}

/// A node's place on the ingress network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    pub addr: Ipv4Addr,
    /// The length of the network's prefix in bits.
    pub prefix: u8,
}

/// Another member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub node: String,
    pub data_path_addr: Ipv4Addr,
    pub ingress_addr: Ipv4Addr,
}

/// An ingress address that another member carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    pub addr: Ipv4Addr,
    pub data_path_addr: Ipv4Addr,
}

/// A port that every node answers on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPort {
    pub protocol: Protocol,
    pub published: u16,
    pub target: u16,
    pub endpoints: Vec<Endpoint>,
}

/// A task that takes its share of a port's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub addr: Ipv4Addr,
    /// Its share is its weight of the sum of weights; 0 takes none.
    pub weight: u32,
}

/// The transports that a port can be published with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// Its number in an IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// A port of the node: what a published port is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortKey {
    pub(crate) protocol: Protocol,
    pub(crate) published: u16,
}
