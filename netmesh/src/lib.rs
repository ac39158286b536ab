//! Published ports and task networks of one node.
//!
//! Desired state (ports, endpoints, members) x observed state (what the kernel has of ours) -> an ordered
//! plan -> applied, the rules' part in one transaction. [`Mesh`] is all that others see.
//!
//! - `desired`, `slots`, `pool`, `plan` decide and do no I/O; `linux` and `proxy` do I/O and decide nothing.
//! - Nothing is touched that is not ours: the table `skep`, links named `skep*` and `skb*`/`ski*`, and the
//!   files of the configured directory.
//! - What the kernel holds outlives the daemon: a restarted one adopts it, and connections go on.

mod attach;
mod config;
mod desired;
mod error;
mod linux;
mod mesh;
mod plan;
mod pool;
mod proxy;
mod record;
mod slots;

pub use config::{Attach, Attachment, Config, HostPort};
pub use desired::{Desired, Endpoint, Ingress, Peer, Protocol, PublishedPort, Remote};
pub use error::MeshError;
pub use linux::netlink::NetlinkError;
pub use mesh::Mesh;
