//! The words of the cluster: ids, specs as the Docker Engine API shapes them, objects, constraints,
//! validation and the wire messages. No I/O, no clock, no chance: `now` and ids are arguments.

pub mod api_error;
pub mod cidr;
pub mod constraint;
pub mod convert;
pub mod id;
pub mod json;
pub mod object;
mod secret;
pub mod span;
pub mod spec;
pub mod state;
pub mod template;
mod text;
pub mod time;
pub mod validate;

pub use api_error::{ApiError, ErrorKind};
pub use id::{ClusterId, Id, NetworkId, NodeId, RequestId, ServiceId, TaskId, TicketId};
pub use secret::Secret;
pub use state::TaskState;
pub use text::{ContainerId, Text};
pub use time::Timestamp;

/// The generated protobuf messages: stored forms and what nodes say to each other.
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/skep.v1.rs"));
}
