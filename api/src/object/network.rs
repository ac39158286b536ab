//! A network, and the one that every swarm has.

use std::net::Ipv4Addr;

use super::Meta;
use crate::{NetworkId, cidr::Cidr, spec::NetworkSpec};

/// A network of the swarm.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Version and times.
    pub meta: Meta,
    /// What the user wants.
    pub spec: NetworkSpec,
    /// Its address ranges, as given.
    pub subnets: Vec<Subnet>,
    /// Its VXLAN id; 0: none.
    pub vni: u32,
}

/// An address range of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    /// All of it.
    pub subnet: Cidr,
    /// Its own address on it.
    pub gateway: Ipv4Addr,
    /// What tasks are given addresses from; `None`: all of it.
    pub ip_range: Option<Cidr>,
}

/// The ingress network: 10.255.0.0/16, Swarm's first default. Tasks and nodes take from disjoint halves,
/// so that a node's address is never one that a task could get.
pub mod ingress {
    use std::net::Ipv4Addr;

    use crate::cidr::Cidr;

    /// What users call it.
    pub const NAME: &str = "ingress";
    /// Its VXLAN id: the first of Swarm's.
    pub const VNI: u32 = 4096;

    /// UDP port of the VXLAN that carries it (Swarm's).
    pub const DATA_PATH_PORT: u32 = 4789;
    /// Prefix length of the network.
    pub const PREFIX: u8 = 16;
    /// Its addresses.
    pub const SUBNET: Cidr = Cidr::new(Ipv4Addr::new(10, 255, 0, 0), PREFIX);
    /// First address given to a task; 10.255.0.1 is kept free.
    pub const TASKS_FIRST: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
    /// Last address given to a task.
    pub const TASKS_LAST: Ipv4Addr = Ipv4Addr::new(10, 255, 127, 254);
    /// First address given to a node.
    pub const NODES_FIRST: Ipv4Addr = Ipv4Addr::new(10, 255, 128, 1);
    /// Last address given to a node.
    pub const NODES_LAST: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 254);
}
