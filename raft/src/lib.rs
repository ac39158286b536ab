//! Consensus on opaque bytes: what is proposed on the leader is applied, in one order, on every member.
//!
//! Wraps openraft, which no other crate names, and keeps its log in a write-ahead log of our own
//! (`wal`). Members talk through a [`Transport`], which the caller gives.
//!
//! Invariants: an entry is acknowledged only after it is on disk; entries are applied in log order,
//! at each start from the newest snapshot on; the log is purged only up to a snapshot that is on disk; what
//! is damaged on disk is never served. This crate knows nothing of what the entries mean.

mod client;
mod compact;
mod config;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod host;
mod keys;
mod machine;
mod members;
mod network;
mod raft;
pub mod recover;
mod relock;
mod runtime;
mod seal;
mod serve;
#[doc(hidden)]
pub mod sim;
mod snapshot;
mod space;
mod status;
mod store;
mod transfer;
mod transport;
mod types;
mod wal;
mod wire;

pub use compact::Compaction;
pub use config::{Config, ENTRY_BYTES_MAX};
pub use error::{
    BootstrapError, ChangeError, HandleError, OpenError, ProposeError, ReadError, TransferError,
};
pub use keys::{Followed, KeyHeld, Keys, SealedSecret, UnlockKey};
pub use machine::{StateMachine, WriteState};
pub use raft::{Leadership, Raft};
pub use space::{NoSpace, has_room};
pub use status::{Progress, Status};
pub use transport::{Alone, Transport, TransportError};
