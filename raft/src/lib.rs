//! Consensus on opaque bytes: what is proposed on the leader is applied, in one order, on every member.
//!
//! Wraps openraft, which no other crate names, and keeps its log in a write-ahead log of our own
//! (`wal`). For now a swarm has one member; members' traffic enters at the `network::Transport` seam.
//!
//! Invariants: an entry is acknowledged only after it is on disk; entries are applied in log order,
//! from the first one at each start (there are no snapshots yet, so nothing is ever purged); what is
//! damaged on disk is never served. This crate knows nothing of what the entries mean.

mod config;
mod error;
mod host;
mod machine;
mod network;
mod raft;
mod store;
mod types;
mod wal;

pub use config::{Config, ENTRY_BYTES_MAX};
pub use error::{BootstrapError, OpenError, ProposeError, ReadError};
pub use machine::StateMachine;
pub use raft::{Leadership, Raft};
