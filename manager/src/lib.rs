//! The control plane: what a manager does. Composes the replicated store, the leader's pass, the
//! dispatcher and the calls of users; serves nodes over mTLS.
//!
//! Boundary: knows nothing of agents' insides nor of HTTP.

mod control;
mod dispatcher;
mod ids;
mod join;
mod leader;
mod liveness;
mod logs;
mod machine;
mod names;
pub mod pass;
mod peers;
mod server;
mod tell;

pub use control::{Control, CreatedNetwork, CreatedService, ManagerStatus, Rotation, network_note};
pub use ids::SystemIds;
pub use logs::{LogItem, LogQuery};
pub use server::{InitParams, Manager, ManagerConfig, ManagerError};
pub use skep_store::View;
