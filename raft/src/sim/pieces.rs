//! Snapshots of a simulated member: whole and in memory, or not there.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::SimDisk;
use crate::error::OpenError;
use crate::snapshot::{Pieces, Sink, Snapshot, SnapshotId};
use crate::types::SnapshotMeta;

/// A snapshot on a simulated disk, or on its way there.
pub(super) struct SimPieces {
    pub(super) disk: SimDisk,
    /// What was begun before a crash cannot be kept after it.
    pub(super) boot: u64,
    pub(super) meta: SnapshotMeta,
    pub(super) id: SnapshotId,
    pub(super) pieces: Vec<Bytes>,
}

impl fmt::Debug for SimPieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimPieces").field("pieces", &self.pieces.len()).finish_non_exhaustive()
    }
}

impl Sink for SimPieces {
    fn push(&mut self, packed: &[u8]) -> io::Result<()> {
        self.pieces.push(Bytes::copy_from_slice(packed));
        Ok(())
    }

    fn count(&self) -> u64 {
        u64::try_from(self.pieces.len()).expect("a length fits in 64 bits")
    }

    fn finish(self: Box<Self>) -> io::Result<Snapshot> {
        Ok(Snapshot { meta: self.meta.clone(), pieces: Arc::from(self as Box<dyn Pieces>) })
    }
}

impl Pieces for SimPieces {
    fn id(&self) -> SnapshotId {
        self.id
    }

    fn count(&self) -> u64 {
        Sink::count(self)
    }

    fn packed_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::try_from(piece.len()).expect("a length fits in 64 bits")).sum()
    }

    fn in_memory(&self) -> bool {
        true
    }

    fn piece(&self, number: u64) -> Result<Bytes, OpenError> {
        let piece = usize::try_from(number).ok().and_then(|number| self.pieces.get(number));
        let reason = || format!("the snapshot has no piece {number}");
        piece.cloned().ok_or_else(|| OpenError::Consensus { reason: reason() })
    }

    fn keep(self: Arc<Self>, _old: u64) -> io::Result<()> {
        let mut platter = self.disk.lock();
        if platter.boot != self.boot {
            return Err(io::Error::other("the machine has crashed meanwhile"));
        }
        let index = |meta: &SnapshotMeta| meta.last_log_id.map(|id| id.index);
        if platter.snapshot.as_ref().is_none_or(|newest| index(&newest.meta) <= index(&self.meta)) {
            let meta = self.meta.clone();
            platter.snapshot = Some(Snapshot { meta, pieces: Arc::clone(&self) as _ });
        }
        Ok(())
    }
}
