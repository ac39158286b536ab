//! What a member is started with, and the limits of this crate.

use std::path::PathBuf;
use std::time::Duration;

use crate::keys::Keys;

/// The largest entry that may be proposed, in bytes: two of them fit in a WAL segment with room to
/// spare, and one is replicated well within an election timeout.
pub const ENTRY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long a write or a read waits for a leader: it must fail within a second when there is none.
pub(crate) const LEADER_WAIT_MAX: Duration = Duration::from_millis(900);

/// How a member is started.
#[derive(Clone, Debug)]
pub struct Config {
    /// Holds the log and its key; made with mode 0700 if missing, and locked while open.
    pub dir: PathBuf,
    /// This member's id: a random number that no earlier member of the swarm has had.
    pub raft_id: u64,
    /// The time between a leader's heartbeats.
    pub heartbeat: Duration,
    /// A follower that hears nothing for a random time between these two stands for election.
    pub election: (Duration, Duration),
    /// The keys of the directory. None: the plain ones that it holds, or fresh ones with a fresh log.
    pub keys: Option<Keys>,
}

impl Config {
    /// The default timing: heartbeats of 50 ms, elections after 250 to 500 ms.
    pub fn new(dir: impl Into<PathBuf>, raft_id: u64) -> Config {
        Config {
            dir: dir.into(),
            raft_id,
            heartbeat: Duration::from_millis(50),
            election: (Duration::from_millis(250), Duration::from_millis(500)),
            keys: None,
        }
    }
}
