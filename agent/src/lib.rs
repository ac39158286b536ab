//! What this node was assigned, and what it does about it.
//!
//! A session with a manager brings assignment sets; a worker keeps one runner a task; each runner asks the
//! pure `step` what is next and does it through two seams: `Engine` (containers) and `Network` (the mesh).
//! Statuses go back in batches. Invariants: a task's state never goes back; a task is started at most once,
//! whatever happens to this daemon; tasks run on while managers, or the daemon itself, are away.

mod agent;
mod api_socket;
mod assignment;
mod board;
mod docker;
mod embedded;
mod engine;
mod logs;
mod mesh;
mod netmesh;
mod network;
mod prober;
mod records;
mod reporter;
#[cfg(test)]
mod rig;
mod session;
#[doc(hidden)]
pub mod sim;
mod task;
mod ties;
mod worker;

pub use agent::{Agent, AgentError, Config, StopReason, TaskEngine};
pub use docker::{About as DockerAbout, DockerEngine, DockerError, OtherSwarm, SANDBOX_LABEL};
pub use records::RecordsError;
/// The embedded engine, which the daemon opens and also serves images from.
pub use skep_runtime as runtime;
pub use ties::{NodeRole, Trust};
