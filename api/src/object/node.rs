//! A node: what the user wants of it, what it says of itself, and whether it is there.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{GenericResource, Meta, Plugin};
use crate::{
    NodeId, Timestamp,
    spec::{NodeSpec, Role},
};

/// What a node says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeDescription {
    /// Not unique.
    pub hostname: String,
    /// linux.
    pub os: String,
    /// x86_64, aarch64, as the kernel says.
    pub arch: String,
    /// 1e-9 CPUs.
    pub nano_cpus: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Ours.
    pub engine_version: String,
    /// From the daemon's settings.
    pub engine_labels: BTreeMap<String, String>,
    /// What its certificate stands on; `None` until it has said so.
    pub tls: Option<NodeTls>,
    /// Resources that only their kinds tell.
    pub generic: Vec<GenericResource>,
    /// Of its engine.
    pub plugins: Vec<Plugin>,
}

impl NodeDescription {
    /// What a swarm at this feature level can keep of it: managers of an older build would drop the rest.
    #[must_use]
    pub fn at_level(mut self, feature_level: u32) -> Self {
        if feature_level < 2 {
            self.generic.clear();
            self.plugins.clear();
        }
        self
    }
}

/// What a node's certificate stands on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeTls {
    /// DER of the issuer's name.
    pub issuer_subject: Vec<u8>,
    /// DER of the issuer's public key, with its kind.
    pub issuer_public_key: Vec<u8>,
    /// SHA-256 of the root that the node trusts.
    pub root_digest: Vec<u8>,
}

/// Whether a node is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NodeState {
    /// Not known since the leader changed.
    #[default]
    Unknown,
    /// Its beats are missing.
    Down,
    /// It is there.
    Ready,
}

impl NodeState {
    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Down => "down",
            Self::Ready => "ready",
        }
    }
}

/// What was observed of a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeStatus {
    /// Whether it is there.
    pub state: NodeState,
    /// Why it is not.
    pub message: String,
    /// The address from which it speaks to us.
    pub addr: String,
    /// When its daemon said that it restarts; zero: it did not.
    pub restarting_since: Timestamp,
    /// When the state became this; zero: not known. Set when it is applied.
    pub since: Timestamp,
}

/// A member of the swarm.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Version and times.
    pub meta: Meta,
    /// What the user wants of it.
    pub spec: NodeSpec,
    /// What it says of itself.
    pub description: NodeDescription,
    /// What was observed.
    pub status: NodeStatus,
    /// `host:port` of a manager's listener; empty for a worker.
    pub advertise_addr: String,
    /// Of its VXLAN.
    pub data_path_addr: String,
    /// Its own address on the ingress network.
    pub ingress_addr: Option<Ipv4Addr>,
    /// The raft member that this node is or is about to be; 0: none.
    pub raft_id: u64,
    /// `host:port` where its agent answers probes; empty: nowhere.
    pub probe_addr: String,
    /// A manager that the swarm was made anew without: its certificate is good, and it stays out all the same.
    pub dropped: bool,
    /// Of a manager: the highest feature level that its build can.
    pub feature_level: u32,
}

impl Node {
    /// What it is, whatever is wanted of it: who is promoted is a manager at once, and who is demoted once it is no raft
    /// member any more (`SK:manager/role_manager.go`).
    #[must_use]
    pub fn role(&self) -> Role {
        if self.raft_id == 0 { self.spec.role } else { Role::Manager }
    }

    /// `host:port` where it is called back; empty: nowhere. A manager that moved says so as a manager, before its agent
    /// has a session to say it in.
    #[must_use]
    pub fn called_at(&self) -> &str {
        let is_reached = self.raft_id != 0 && !self.advertise_addr.is_empty();
        if is_reached { &self.advertise_addr } else { &self.probe_addr }
    }
}
