//! The seam to the mesh: what a task's network needs of it, and what the agent tells it of the cluster.

use std::{fmt, net::Ipv4Addr, path::PathBuf};

use async_trait::async_trait;
use skep_api::{TaskId, spec::PortConfig, wire};

/// What the agent asks of the network.
#[async_trait]
pub(crate) trait Network: Send + Sync + fmt::Debug {
    /// Gives the task a network namespace with its interfaces. Done again, it finds what is there.
    async fn attach(&self, task: TaskId, attach: Attach) -> Result<Attached, NetworkError>;
    /// Takes it all away. A task that has none is no error.
    async fn detach(&self, task: TaskId) -> Result<(), NetworkError>;
    /// Tasks that have a network on this node.
    async fn attached(&self) -> Result<Vec<TaskId>, NetworkError>;
    /// Converges this node's part of the mesh.
    async fn apply(&self, mesh: &wire::MeshState) -> Result<(), NetworkError>;
    /// Takes away all that this node has of the mesh.
    async fn teardown(&self) -> Result<(), NetworkError>;
}

/// The network did not do it. Its words are shown in the task's status.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NetworkError(pub(crate) String);

/// What a task needs of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attach {
    /// Its address on the ingress network.
    pub(crate) ingress: Option<Ipv4Addr>,
    /// Ports of this node that lead to it.
    pub(crate) host_ports: Vec<PortConfig>,
    /// A process that runs in its namespace already: the namespace is kept, not made.
    pub(crate) pid: Option<u32>,
}

/// What a task got from the network.
#[derive(Debug, Clone)]
pub(crate) struct Attached {
    /// To be joined by the container.
    pub(crate) netns: PathBuf,
    /// The task's address on its node's bridge.
    pub(crate) bridge_addr: Ipv4Addr,
    /// Host-mode ports as opened.
    pub(crate) host_ports: Vec<PortConfig>,
}
