//! Objects: a spec (the user's), what we decided, and what was observed.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use crate::{
    ClusterId, ContainerId, Id, NetworkId, NodeId, Secret, ServiceId, TaskId, TaskState, Text, Timestamp,
    cidr::Cidr,
    spec::{NetworkSpec, NodeSpec, PortConfig, ServiceSpec, SwarmSpec},
};

/// Version and times of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// The store revision of the last change that decisions guard on (the API's `Version.Index`).
    pub version: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A service.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// Version and times.
    pub meta: Meta,
    /// What the user wants.
    pub spec: Arc<ServiceSpec>,
    /// What the user wanted before; one version is kept.
    pub previous_spec: Option<Arc<ServiceSpec>>,
    /// The revision at which `spec` was set: tasks refer to it.
    pub spec_version: u64,
    /// The same of `previous_spec`.
    pub previous_spec_version: u64,
    /// The ports as allocated.
    pub ports: Arc<[PortConfig]>,
    /// How the update goes, if there was one.
    pub update_status: Option<UpdateStatus>,
    /// For pulls of the spec's image: `X-Registry-Auth` as the client sent it. Never shown.
    pub registry_auth: Secret,
    /// The same for the previous spec.
    pub previous_registry_auth: Secret,
}

/// How an update or rollback goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpdateStatus {
    /// In which state it is.
    pub state: UpdateState,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Swarm's words.
    pub message: String,
}

/// The states of an update (`SK:api/objects.proto`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpdateState {
    /// Slots are being replaced.
    Updating,
    /// Stopped after a failure; a new update takes over.
    Paused,
    /// Done.
    Completed,
    /// Going back.
    RollbackStarted,
    /// Going back failed.
    RollbackPaused,
    /// Went back.
    RollbackCompleted,
}

impl UpdateState {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Updating,
        Self::Paused,
        Self::Completed,
        Self::RollbackStarted,
        Self::RollbackPaused,
        Self::RollbackCompleted,
    ];

    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Updating => "updating",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::RollbackStarted => "rollback_started",
            Self::RollbackPaused => "rollback_paused",
            Self::RollbackCompleted => "rollback_completed",
        }
    }

    /// Whether it goes back.
    #[must_use]
    pub fn is_rollback(self) -> bool {
        matches!(self, Self::RollbackStarted | Self::RollbackPaused | Self::RollbackCompleted)
    }
}

/// What was observed of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskStatus {
    /// How far it came.
    pub state: TaskState,
    /// When it came there.
    pub timestamp: Timestamp,
    /// What happened, for a person.
    pub message: Text,
    /// What went wrong; empty when nothing.
    pub err: Text,
    /// The container's id; empty before there is one.
    pub container_id: ContainerId,
    /// Its first process; 0 before there is one.
    pub pid: u32,
    /// Set once it has ended.
    pub exit_code: Option<i32>,
    /// Host-mode ports as opened.
    pub host_ports: Arc<[PortConfig]>,
    /// When RUNNING was first reached; zero for never.
    pub running_at: Timestamp,
}

impl Default for TaskStatus {
    fn default() -> Self {
        Self {
            state: TaskState::New,
            timestamp: Timestamp::ZERO,
            message: Text::default(),
            err: Text::default(),
            container_id: ContainerId::default(),
            pid: 0,
            exit_code: None,
            host_ports: Arc::default(),
            running_at: Timestamp::ZERO,
        }
    }
}

/// One attempt to run. Never moves to another node, never runs twice.
#[derive(Clone, PartialEq, Debug)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Version and times.
    pub meta: Meta,
    /// Whose task it is.
    pub service_id: ServiceId,
    /// Its seat, 1..n.
    pub slot: u64,
    /// Where it runs, once decided.
    pub node_id: Option<NodeId>,
    /// Which version of the service's spec it runs.
    pub spec_version: u64,
    /// That spec: shared by all tasks of the version.
    pub spec: Arc<ServiceSpec>,
    /// Where we want it to go.
    pub desired_state: TaskState,
    /// Where it is.
    pub status: TaskStatus,
    /// The service's ports when it was made.
    pub ports: Arc<[PortConfig]>,
    /// Its address on the ingress network.
    pub ingress_addr: Option<Ipv4Addr>,
    /// It is not started before this (restart delay); zero for at once.
    pub not_before: Timestamp,
}

impl Task {
    /// A new task of a service's current spec.
    #[must_use]
    pub fn new(id: TaskId, service: &Service, slot: u64) -> Self {
        Self {
            id,
            meta: Meta::default(),
            service_id: service.id,
            slot,
            node_id: None,
            spec_version: service.spec_version,
            spec: Arc::clone(&service.spec),
            desired_state: TaskState::Running,
            status: TaskStatus::default(),
            ports: Arc::clone(&service.ports),
            ingress_addr: None,
            not_before: Timestamp::ZERO,
        }
    }

    /// Whether it may come to run or runs: wanted at most RUNNING and not past it.
    #[must_use]
    pub fn is_runnable(&self) -> bool {
        self.desired_state <= TaskState::Running && self.status.state <= TaskState::Running
    }

    /// Whether something of it may exist on its node.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.status.state <= TaskState::Running
    }

    /// Its name as Docker shows it: `service.slot.id`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}.{}", self.spec.name, self.slot, self.id)
    }

    /// Whether it publishes a port through the mesh.
    #[must_use]
    pub fn uses_ingress(&self) -> bool {
        self.ports.iter().any(PortConfig::is_ingress)
    }
}

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

/// The swarm.
#[derive(Clone, PartialEq, Default)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Version and times.
    pub meta: Meta,
    /// The user's settings.
    pub spec: SwarmSpec,
    /// Root certificate: the one that nodes trust.
    pub ca_cert_pem: String,
    /// Root key; empty: an external CA signs.
    pub ca_key_pem: String,
    /// The root certificate, signed by the root before it; empty: it is the first. A node that missed the end
    /// of a rotation knows the managers by it.
    pub ca_cross_pem: String,
    /// The next root, while nodes change to it.
    pub ca_rotation: Option<CaRotation>,
    /// The `ForceRotate` of the last rotation that was asked for.
    pub ca_forced: u64,
    /// The secret part of the token for workers.
    pub worker_token_secret: String,
    /// The secret part of the token for managers.
    pub manager_token_secret: String,
    /// UDP port of the VXLAN.
    pub data_path_port: u32,
    /// Pools from which networks are cut.
    pub default_addr_pool: Vec<String>,
    /// Their prefix length.
    pub subnet_size: u32,
    /// Which rules the managers apply: what all of their builds can. It never falls.
    pub feature_level: u32,
    /// What the managers' key files are wrapped under; none: autolock is off.
    pub unlock_key: Secret,
    /// Counts the changes of the unlock key.
    pub unlock_version: u64,
}

/// A root that nodes change to.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct CaRotation {
    /// Its certificate.
    pub cert_pem: String,
    /// Its key; empty: an external CA signs.
    pub key_pem: String,
    /// Its certificate, signed by the current root.
    pub cross_pem: String,
}

impl std::fmt::Debug for CaRotation {
    /// The key is never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaRotation").field("has_key", &!self.key_pem.is_empty()).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The id of the swarm's ingress network: told apart from the swarm's own, and the same on every manager.
    #[must_use]
    pub fn ingress_id(&self) -> NetworkId {
        const MARK: u128 = 0x696e_6772_6573_732d_6e65_7477_6f72_6b00;
        NetworkId(Id(self.id.0.0 ^ MARK))
    }
}

impl std::fmt::Debug for Cluster {
    /// Keys and tokens are never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("id", &self.id).field("meta", &self.meta).finish_non_exhaustive()
    }
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
