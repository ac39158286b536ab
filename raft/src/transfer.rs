//! A snapshot on its way to another member: sent in pieces, put together, installed whole.
//!
//! What arrived of one is held in memory and forgotten with the process; the sender begins anew.

use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError};
use openraft::raft::SnapshotResponse;
use openraft::type_config::alias::SnapshotOf;

use crate::network::{Peer, not_understood};
use crate::raft::Raft;
use crate::snapshot::{MetaRecord, STATE_BYTES_MAX, Snapshot};
use crate::store::codec;
use crate::types::{Types, Vote};
use crate::wire::{Answer, Ask, SnapshotAnswer, SnapshotPiece, WireError};

/// What one message carries of the state.
const PIECE_BYTES: usize = 1024 * 1024;
/// How long a piece may take.
const PIECE_LIMIT: Duration = Duration::from_secs(5);
/// How long the last piece may take, with which the receiver installs the state.
const INSTALL_LIMIT: Duration = Duration::from_secs(60);

/// Sends `snapshot` to the end, unless openraft calls it off.
pub(crate) async fn send(
    peer: &Peer,
    vote: Vote,
    snapshot: SnapshotOf<Types, Bytes>,
    cancel: impl Future<Output = ReplicationClosed>,
) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
    let mut cancel = pin!(cancel);
    let state = snapshot.snapshot;
    let meta = MetaRecord::new(&snapshot.meta, state.len());
    let mut offset = 0;
    loop {
        let end = state.len().min(offset + PIECE_BYTES);
        let piece = SnapshotPiece {
            vote: Some(codec::write_vote(&vote)),
            meta: Some(meta.clone()),
            offset: u64::try_from(offset).expect("a length fits in 64 bits"),
            bytes: state.slice(offset..end),
        };
        let limit = if end == state.len() { INSTALL_LIMIT } else { PIECE_LIMIT };
        let answer = tokio::select! {
            biased;
            closed = &mut cancel => return Err(closed.into()),
            answer = peer.call(Ask::Snapshot(piece), limit) => answer?,
        };
        let Answer::Snapshot(answer) = answer else {
            return Err(not_understood(WireError::Missing("the answer to a piece of a snapshot")).into());
        };
        if let Some(vote) = &answer.vote {
            return Ok(SnapshotResponse::new(codec::read_vote(vote)));
        }
        if answer.taken != u64::try_from(end).expect("a length fits in 64 bits") || end == state.len() {
            let error = RPCError::Network(NetworkError::from_string("it lost what it had of the snapshot"));
            return Err(error.into());
        }
        offset = end;
    }
}

/// What has arrived of a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Incoming(Mutex<Option<Partial>>);

#[derive(Debug)]
struct Partial {
    vote: Option<crate::wal::record::VoteRecord>,
    meta: MetaRecord,
    state: Vec<u8>,
}

impl Incoming {
    /// Takes one piece. Either how much is there by now, or the whole.
    fn take(&self, piece: SnapshotPiece) -> Result<Result<u64, Snapshot>, WireError> {
        let meta = piece.meta.ok_or(WireError::Missing("what a snapshot is of"))?;
        let total = usize::try_from(meta.state_bytes).unwrap_or(usize::MAX);
        if total > STATE_BYTES_MAX {
            return Err(WireError::Missing("a limit on the snapshot's size"));
        }
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if piece.offset == 0 {
            *slot = Some(Partial { vote: piece.vote.clone(), meta: meta.clone(), state: Vec::new() });
        }
        let Some(partial) =
            slot.as_mut().filter(|partial| partial.meta == meta && partial.vote == piece.vote)
        else {
            return Ok(Ok(0));
        };
        let have = u64::try_from(partial.state.len()).expect("a length fits in 64 bits");
        if piece.offset != have || partial.state.len() + piece.bytes.len() > total {
            return Ok(Ok(have));
        }
        partial.state.extend_from_slice(&piece.bytes);
        if partial.state.len() < total {
            return Ok(Ok(have + u64::try_from(piece.bytes.len()).expect("a length fits in 64 bits")));
        }
        let state = std::mem::take(&mut partial.state);
        *slot = None;
        Ok(Err(Snapshot { meta: meta.read(), state: Bytes::from(state) }))
    }
}

impl Raft {
    /// Takes one piece of a snapshot, and installs it with the last one. None: consensus has stopped.
    pub(crate) async fn take_piece(&self, piece: SnapshotPiece) -> Result<Option<Answer>, WireError> {
        let vote = piece.vote.as_ref().map(codec::read_vote).ok_or(WireError::Missing("a vote"))?;
        let snapshot = match self.incoming().take(piece)? {
            Ok(taken) => return Ok(Some(Answer::Snapshot(SnapshotAnswer { taken, vote: None }))),
            Err(whole) => whole,
        };
        let taken = u64::try_from(snapshot.state.len()).expect("a length fits in 64 bits");
        let snapshot = SnapshotOf::<Types, Bytes> { meta: snapshot.meta, snapshot: snapshot.state };
        let installed = self.core().install_full_snapshot(vote, snapshot).await.ok();
        Ok(installed.map(|answer| {
            Answer::Snapshot(SnapshotAnswer { taken, vote: Some(codec::write_vote(&answer.vote)) })
        }))
    }
}
