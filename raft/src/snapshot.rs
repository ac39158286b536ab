//! Snapshots: the whole state at one place of the log, so that the log before it may go.
//!
//! One is kept, the newest. It is durable before the log is purged up to it, and a start begins with it.

mod file;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use prost::Message;

use crate::error::OpenError;
use crate::store::codec;
use crate::types::{LogId, SnapshotMeta, StoredMembership};
use crate::wal::record::{LogPosition, MembersRecord};
use crate::wal::seal::DataKey;

/// The largest state that a member takes over from another, in bytes: it is held in memory whole.
pub(crate) const STATE_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// A snapshot with its state machine's bytes.
#[derive(Clone, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) meta: SnapshotMeta,
    pub(crate) state: Bytes,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({:?}, {} bytes)", self.meta.last_log_id, self.state.len())
    }
}

/// Where a member keeps its snapshot.
pub(crate) trait Snapshots: fmt::Debug + Send + Sync + 'static {
    /// Keeps `snapshot` in place of any other; it is durable on return. May block.
    fn save(&self, snapshot: &Snapshot) -> io::Result<()>;
    /// The newest one. May block.
    fn current(&self) -> io::Result<Option<Snapshot>>;
    /// Whether this is a simulation, in which nothing may leave the thread.
    fn is_simulated(&self) -> bool;
}

/// What a snapshot is of.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetaRecord {
    #[prost(message, optional, tag = "1")]
    last: Option<LogPosition>,
    #[prost(message, optional, tag = "2")]
    members: Option<MembersRecord>,
    #[prost(message, optional, tag = "3")]
    members_at: Option<LogPosition>,
    #[prost(uint64, tag = "4")]
    pub(crate) state_bytes: u64,
}

impl MetaRecord {
    pub(crate) fn new(meta: &SnapshotMeta, state_bytes: usize) -> MetaRecord {
        MetaRecord {
            last: meta.last_log_id.map(codec::write_position),
            members: Some(codec::write_members(meta.last_membership.membership())),
            members_at: meta.last_membership.log_id().map(codec::write_position),
            state_bytes: u64::try_from(state_bytes).expect("a length fits in 64 bits"),
        }
    }

    pub(crate) fn read(&self) -> SnapshotMeta {
        let id =
            |position: &Option<LogPosition>| -> Option<LogId> { position.as_ref().map(codec::read_position) };
        let members = codec::read_members(self.members.clone().unwrap_or_default());
        SnapshotMeta {
            last_log_id: id(&self.last),
            last_membership: StoredMembership::new(id(&self.members_at), members),
        }
    }
}

/// Snapshots as sealed files beside the log.
#[derive(Debug)]
pub(crate) struct SnapshotDir {
    dir: PathBuf,
    key: DataKey,
    /// One change of the directory at a time.
    saving: Mutex<()>,
}

impl SnapshotDir {
    /// The snapshots in `dir`, which the log's lock protects.
    pub(crate) fn new(dir: &Path) -> Result<SnapshotDir, OpenError> {
        Ok(SnapshotDir { dir: dir.to_owned(), key: DataKey::load(dir, true)?, saving: Mutex::new(()) })
    }
}

impl Snapshots for SnapshotDir {
    fn save(&self, snapshot: &Snapshot) -> io::Result<()> {
        let _one = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let index = snapshot.meta.last_log_id.map_or(0, |id| id.index);
        // One that was being made while a newer one arrived has nothing to say any more.
        let newest = file::list(&self.dir)?.pop();
        if newest.is_some_and(|newest| newest > file::path(&self.dir, index)) {
            return Ok(());
        }
        let path = file::write(&self.dir, &self.key, snapshot).map_err(io::Error::other)?;
        file::remove_others(&self.dir, &path).map_err(io::Error::other)
    }

    fn current(&self) -> io::Result<Option<Snapshot>> {
        let _one = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        load(&self.dir, &self.key).map_err(io::Error::other)
    }

    fn is_simulated(&self) -> bool {
        false
    }
}

/// The newest snapshot in `dir`; changes nothing.
pub(crate) fn load(dir: &Path, key: &DataKey) -> Result<Option<Snapshot>, OpenError> {
    let newest = file::list(dir).map_err(OpenError::io("list", dir))?.pop();
    newest.map(|path| file::read(dir, &path, key)).transpose()
}

/// Whether `dir` holds any.
pub(crate) fn exists(dir: &Path) -> Result<bool, OpenError> {
    Ok(!file::list(dir).map_err(OpenError::io("list", dir))?.is_empty())
}
