//! Specs: what the user asked, shaped exactly as the Engine API's JSON.
//!
//! A field that this build honours is a typed field. Every other key, known or not, stays in `extra`
//! and goes out as it came in; `validate` refuses by name the known ones that ask for something.
//! Keys are matched without regard to case, as Go's decoder does (`json::parse`).

mod container;
mod extra;
mod label;
mod mode;
mod network;
mod placement;
mod ports;
mod same;
mod schedule;
mod service;
mod swarm;
mod task;
mod update;

pub use container::*;
pub use extra::Extra;
pub use label::*;
pub use mode::*;
pub use network::*;
pub use placement::*;
pub use ports::*;
pub use schedule::Schedule;
pub use service::*;
pub use swarm::*;
pub use task::*;
pub use update::*;

/// User labels: ordered, so that what is printed and hashed does not depend on chance.
pub type Labels = std::collections::BTreeMap<String, String>;
