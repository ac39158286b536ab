//! Sessions with agents: what each node is assigned, the mesh that it needs, and what it reports.
//!
//! A session recomputes its node's set only when a task of that node changed (the index by node), and
//! sends the difference. The mesh is computed once for all. Soft state: rebuilt from the sessions.

mod assignments;
mod collector;
mod hub;
mod leaderless;
mod mesh;
mod roll;
mod service;
mod session;
mod terms;

pub(crate) use collector::Collector;
pub(crate) use hub::{Hub, Whereabouts};
pub(crate) use leaderless::mind_leader;
pub(crate) use roll::Heard;
pub(crate) use service::{DispatcherService, Shared};
pub(crate) use session::{LEFT, check_data_path};
