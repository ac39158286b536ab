//! The control plane: what a manager does. Composes the replicated store, the leader's pass, the
//! dispatcher and the calls of users; serves nodes over mTLS.
//!
//! Boundary: knows nothing of agents' insides nor of HTTP.

mod auth;
mod ca;
mod clocks;
mod control;
mod dispatcher;
#[doc(hidden)]
pub mod fuzz;
mod ids;
mod join;
mod leader;
mod level;
mod liveness;
mod logs;
mod machine;
mod members;
mod names;
pub mod pass;
mod peers;
pub mod recovery;
#[cfg(test)]
mod rig;
mod roles;
mod server;
#[doc(hidden)]
pub mod sim;
mod tell;
mod unlock;
mod write;

pub use control::{
    Control, CreatedNetwork, CreatedService, ManagerStatus, RegistryAuth, RollOut, Rotation, TicketAsked,
    network_note,
};
pub use ids::SystemIds;
pub use logs::{LogItem, LogQuery};
pub use members::{EnterError, Entrance, depart};
pub use pass::{Move, Plan, Rebalance, Waiting};
pub use server::{InitParams, Manager, ManagerConfig, ManagerError};
pub use skep_orchestrator::Differences;
pub use skep_raft::{Keys, NoSpace, OpenError, UnlockKey};
pub use skep_scheduler::{Explanation, Filter, NodeAnswer};
pub use skep_store::{FEATURE_LEVEL, View};
pub use unlock::{NodeKeyBox, parse_unlock_key, unlock_key_text};
