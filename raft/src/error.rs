//! Why this crate refuses or fails: one enum for each family of operations.

use std::io;
use std::path::{Path, PathBuf};

use crate::space::NoSpace;

/// Why a member could not be opened. Nothing on disk was changed, but for `Io` while writing.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another handle in this one) has the directory open.
    #[error("{} is in use by another process; stop it first", dir.display())]
    Locked {
        /// The directory of the log.
        dir: PathBuf,
    },
    /// The log lost something that was acknowledged, or was altered.
    #[error(
        "{} is damaged at byte {offset}: {reason}; nothing was changed; restore this directory from a \
         backup, or move it away and let this node join again", file.display()
    )]
    Damaged {
        /// The file of the log.
        file: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What was found there.
        reason: String,
    },
    /// The log was sealed under another data key.
    #[error(
        "{} was not sealed under a key in {}; put back the key file that belongs to this log; \
         nothing was changed", file.display(), key.display()
    )]
    WrongKey {
        /// The file of the log.
        file: PathBuf,
        /// The key file that was tried.
        key: PathBuf,
    },
    /// There is a log, but no key to open it.
    #[error("{} is missing, and the log beside it is sealed under it; put it back; nothing was changed", key.display())]
    MissingKey {
        /// Where the key file should be.
        key: PathBuf,
    },
    /// The key file is not one, or was altered.
    #[error(
        "{} is damaged at byte {offset}: {reason}; put back the right key file; nothing was changed", key.display()
    )]
    DamagedKeys {
        /// The key file.
        key: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What was found there.
        reason: String,
    },
    /// The key file is wrapped, and no unlock key was given.
    #[error("{} is locked: the unlock key of the swarm is needed", key.display())]
    KeyLocked {
        /// The key file.
        key: PathBuf,
    },
    /// The key file is wrapped under another unlock key.
    #[error("{} was locked with another unlock key; nothing was changed", key.display())]
    WrongUnlockKey {
        /// The key file.
        key: PathBuf,
    },
    /// A newer binary wrote this.
    #[error("{} has format version {version}, and this binary knows {known}; start a newer binary", file.display())]
    NewerFormat {
        /// The file of the log.
        file: PathBuf,
        /// The version that it states.
        version: u32,
        /// The newest version that this binary knows.
        known: u32,
    },
    /// The timing asked for makes no sense, or the state found cannot be served.
    #[error("consensus cannot start: {reason}")]
    Consensus {
        /// What openraft said.
        reason: String,
    },
    /// There is no room for the log to go on. It is whole.
    #[error(transparent)]
    NoSpace(NoSpace),
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// For `map_err`: what was tried, and on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.to_owned();
        move |source| OpenError::Io { action, path, source }
    }
}

/// Why a member did not become the first one of a new swarm.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// It has a log or a vote already: it is a member of a swarm.
    #[error("this node is a member of a swarm already; leave it first")]
    AlreadyInitialized,
    /// The member was shut down, or failed.
    #[error("consensus is stopped on this node")]
    Stopped,
}

/// Why a proposal was not acknowledged.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Nobody leads, or not this member; the entry was not written.
    #[error("this node is not the leader of the swarm; it is possible that too few managers are online")]
    NoLeader,
    /// The entry was not written.
    #[error("an entry of {bytes} bytes is over the limit of {max}")]
    TooLarge {
        /// The entry's length.
        bytes: usize,
        /// [`ENTRY_BYTES_MAX`](crate::ENTRY_BYTES_MAX).
        max: usize,
    },
    /// The member was shut down, or failed; the entry was not written.
    #[error("consensus is stopped on this node")]
    Stopped,
    /// The entry may be committed, or come to be, or not: ask again only with the same request id.
    #[error("the outcome of the proposal is unknown: leadership or the node was lost while it was in flight")]
    Lost,
}

/// Why a linearizable read is not possible now.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads, or a majority of the members does not answer.
    #[error("no leader confirmed the read; it is possible that too few managers are online")]
    NoLeader,
    /// The member was shut down, or failed.
    #[error("consensus is stopped on this node")]
    Stopped,
}

/// Why a request of another member was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandleError {
    /// The caller has an old address for it.
    #[error("this is raft member {raft_id}, and the request is for member {meant}")]
    NotForMe {
        /// For whom the request is.
        meant: u64,
        /// Who this is.
        raft_id: u64,
    },
    /// It was not understood.
    #[error("a request of another manager was not understood: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
}

/// Why the members were not changed. Every change may be asked for again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeError {
    /// Only the leader changes members.
    #[error("this node is not the leader of the swarm")]
    NotLeader,
    /// The leader itself is to go: it moves its lead first, and the new leader is asked.
    #[error("this node leads the swarm; it moves its lead to another manager first")]
    Leads,
    /// Another change is not finished.
    #[error("another change of the managers is in progress; try again")]
    InProgress,
    /// Too few voters would be left that answer.
    #[error("this would result in a loss of quorum: {reachable} of the {voters} remaining managers answer")]
    WouldLoseQuorum {
        /// Remaining voters that answered lately.
        reachable: usize,
        /// Remaining voters.
        voters: usize,
    },
    /// It is no member, or no learner.
    #[error("raft member {id} is not known")]
    NotMember {
        /// The raft id.
        id: u64,
    },
    /// It lacks too much of the log to vote.
    #[error("raft member {id} has not caught up with the leader")]
    NotCaughtUp {
        /// The raft id.
        id: u64,
    },
    /// The change may be made, or come to be.
    #[error("the outcome of the change is unknown: leadership or a majority was lost while it was in flight")]
    Unknown,
    /// The member was shut down, or failed.
    #[error("consensus is stopped on this node")]
    Stopped,
}

/// Why the lead was not moved.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransferError {
    /// No voter that could take it answers.
    #[error("no other manager can take the lead now")]
    NobodyElse,
    /// Nobody has taken it in time; somebody may yet.
    #[error("no other manager has taken the lead in time")]
    TimedOut,
    /// The member was shut down, or failed.
    #[error("consensus is stopped on this node")]
    Stopped,
}
