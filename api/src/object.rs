//! Objects: a spec (the user's), what we decided, and what was observed.

mod cluster;
mod generic;
mod network;
mod node;
mod service;
mod task;
mod ticket;

pub use cluster::{CaRotation, Cluster};
pub use generic::{GENERIC_MAX, GenericResource, Plugin, check_kind};
pub use network::{Network, Subnet, ingress};
pub use node::{Node, NodeDescription, NodeState, NodeStatus, NodeTls};
pub use service::{JobRun, PastSpec, Service, UpdateState, UpdateStatus};
pub use task::{SeatKey, Task, TaskExtra, TaskStatus};
pub use ticket::{Revocation, TICKET_KEPT, Ticket, TicketOver, TicketUse};

use crate::Timestamp;

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
