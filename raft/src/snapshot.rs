//! Snapshots: the whole state at one place of the log, so that the log before it may go.
//!
//! A state is written and read in pieces, each compressed by itself: nothing holds it whole. The newest
//! snapshot is durable before the log is purged up to it, and a start begins with it.

mod file;
pub(crate) mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

pub(crate) use self::file::{MAGIC, SnapshotDir};
use self::stream::PieceWriter;
use crate::error::OpenError;
use crate::keys::Keys;
use crate::machine::WriteState;
use crate::store::codec;
use crate::types::{LogId, SnapshotMeta, StoredMembership};
use crate::wal::record::{LogPosition, MembersRecord};

/// How much of the state a piece holds, before it is compressed.
pub(crate) const PIECE_BYTES: usize = 1024 * 1024;
/// What a piece may have when it is compressed: zstd's own bound is a 256th more, and a little.
pub(crate) const PACKED_BYTES_MAX: usize = PIECE_BYTES + PIECE_BYTES / 128;
/// The largest state that a member takes over from another, in pieces (and MiB): a limit on what a broken
/// peer can fill our disk with.
pub(crate) const PIECES_MAX: u64 = 64 * 1024;

/// Tells one snapshot from any other, also from one of the same entries that another member made.
pub(crate) type SnapshotId = [u8; 16];

/// A snapshot's state, in compressed pieces numbered from 0. It can be read for as long as it is held, also
/// when a newer one has taken its place.
pub(crate) trait Pieces: fmt::Debug + Send + Sync + 'static {
    fn id(&self) -> SnapshotId;
    /// How many there are.
    fn count(&self) -> u64;
    /// How many bytes they have together.
    fn packed_bytes(&self) -> u64;
    /// Whether reading one does not block.
    fn in_memory(&self) -> bool {
        false
    }
    /// One of them. May block.
    fn piece(&self, number: u64) -> Result<Bytes, OpenError>;
    /// Makes it its member's newest snapshot, durable on return; of older ones the last `old` stay. One that
    /// is older than the newest goes. May block.
    fn keep(self: Arc<Self>, old: u64) -> io::Result<()>;
}

/// A snapshot that is being written. Dropped before it is finished, it leaves nothing.
pub(crate) trait Sink: fmt::Debug + Send {
    /// Takes the next piece. May block.
    fn push(&mut self, packed: &[u8]) -> io::Result<()>;
    /// How many pieces it has.
    fn count(&self) -> u64;
    /// The snapshot, on disk, but not yet the newest: dropped before it is kept, it goes. May block.
    fn finish(self: Box<Self>) -> io::Result<Snapshot>;
}

/// Where a member keeps its snapshots.
pub(crate) trait Snapshots: fmt::Debug + Send + Sync + 'static {
    /// Begins to write one. May block.
    fn begin(&self, meta: &SnapshotMeta) -> io::Result<Box<dyn Sink>>;
    /// The newest one.
    fn current(&self) -> Option<Snapshot>;
    /// In a simulation, in which nothing may leave the thread: how long its disk takes.
    fn simulated(&self) -> Option<Duration>;
}

/// Writes a state into a snapshot, which is not kept yet. Blocks.
pub(crate) fn build(
    snapshots: &dyn Snapshots,
    meta: &SnapshotMeta,
    state: &WriteState,
) -> io::Result<Snapshot> {
    let mut sink = snapshots.begin(meta)?;
    let mut writer = PieceWriter::new(&mut *sink)?;
    state(&mut writer)?;
    writer.end()?;
    sink.finish()
}

/// A snapshot: what it is of, and its state.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) meta: SnapshotMeta,
    pub(crate) pieces: Arc<dyn Pieces>,
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Snapshot) -> bool {
        self.meta == other.meta && self.pieces.id() == other.pieces.id()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({:?}, {} pieces)", self.meta.last_log_id, self.pieces.count())
    }
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
}

impl MetaRecord {
    pub(crate) fn new(meta: &SnapshotMeta) -> MetaRecord {
        MetaRecord {
            last: meta.last_log_id.map(codec::write_position),
            members: Some(codec::write_members(meta.last_membership.membership())),
            members_at: meta.last_membership.log_id().map(codec::write_position),
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

/// The newest snapshot in `dir`, whose pieces are checked when they are read; changes nothing.
pub(crate) fn load(dir: &Path, keys: &Keys) -> Result<Option<Snapshot>, OpenError> {
    file::newest(&SnapshotDir::at(dir, keys), keys)
}

/// All in `dir`, the newest last.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    file::list(dir)
}

/// One of them; changes nothing.
pub(crate) fn open(dir: &Path, path: &Path, keys: &Keys) -> Result<Snapshot, OpenError> {
    file::open(&SnapshotDir::at(dir, keys), path.to_owned(), keys)
}

/// Whether `dir` holds any.
pub(crate) fn exists(dir: &Path) -> Result<bool, OpenError> {
    Ok(!file::list(dir).map_err(OpenError::io("list", dir))?.is_empty())
}
