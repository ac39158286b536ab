//! What can go wrong in the mesh, in words for the log and for a task's status.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::desired::Protocol;
use crate::linux::netlink::NetlinkError;

/// Why the mesh could not do what was asked; nothing half made is left behind by `attach`.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    #[error("cannot {what}; the daemon needs root and nf_tables, vxlan, bridge and veth in the kernel")]
    Kernel { what: String, source: NetlinkError },
    #[error("cannot {what}")]
    Io { what: String, source: io::Error },
    #[error("the mesh's record {path} is damaged; remove it once no task of this node runs")]
    Record { path: PathBuf, source: serde_json::Error },
    #[error("the mesh's record {path} has format {format}, written by a newer version; upgrade this one")]
    RecordFormat { path: PathBuf, format: u32 },
    #[error("host port {published}/{protocol} is in use on this node")]
    PortTaken { protocol: Protocol, published: u16, source: io::Error },
    #[error("no {protocol} port from 32768 on is free on this node")]
    NoFreePort { protocol: Protocol },
    #[error("the node's bridge subnet {network}/{prefix} has no free address")]
    NoFreeAddress { network: Ipv4Addr, prefix: u8 },
    #[error("task {task} publishes, but this node is not on the ingress network yet")]
    NoIngress { task: String },
    #[error("process {pid} of task {task} is in the node's own network namespace")]
    ForeignNamespace { task: String, pid: u32 },
    #[error("{task:?} cannot be a task's id: 1 to 128 letters, digits, '-', '_' or '.'")]
    BadTaskId { task: String },
    #[error("the mesh's work was interrupted")]
    Interrupted,
}

/// Says what was being done when the kernel refused.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, MeshError>;
}

impl<T> Doing<T> for Result<T, NetlinkError> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, MeshError> {
        self.map_err(|source| MeshError::Kernel { what: what(), source })
    }
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, MeshError> {
        self.map_err(|source| MeshError::Io { what: what(), source })
    }
}
