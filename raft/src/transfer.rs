//! A snapshot on its way to another member: sent in pieces, written as they come, installed whole.
//!
//! Neither end holds more than a piece in memory. The receiver says which piece it wants next: what it has
//! of a snapshot is not sent again for as long as it runs. A start forgets it, file and all.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError};
use openraft::raft::SnapshotResponse;
use openraft::rt::WatchReceiver;
use openraft::type_config::alias::SnapshotOf;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::machine::elsewhere;
use crate::network::{Peer, not_understood};
use crate::raft::Raft;
use crate::snapshot::{
    MetaRecord, PACKED_BYTES_MAX, PIECES_MAX, Pieces, Sink, Snapshot, SnapshotId, Snapshots,
};
use crate::store::codec;
use crate::types::{Types, Vote};
use crate::wire::{Answer, Ask, SnapshotAnswer, SnapshotPiece, WireError};

/// How long a piece may take.
const PIECE_LIMIT: Duration = Duration::from_secs(5);
/// How long the last message may take, with which the receiver installs the state.
const INSTALL_LIMIT: Duration = Duration::from_secs(60);
/// How often in a row a message may bring nothing before openraft decides how to go on.
const FRUITLESS_MAX: u32 = 5;
/// Between a message that was lost and the next.
const PAUSE: Duration = Duration::from_millis(100);
/// After a piece that could not be written no other one is taken for so long: the disk is full, as a rule, and
/// the sender begins anew each time.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

/// Sends `snapshot` to the end, unless openraft calls it off.
pub(crate) async fn send(
    peer: &Peer,
    vote: Vote,
    snapshot: SnapshotOf<Types, Arc<dyn Pieces>>,
    cancel: impl Future<Output = ReplicationClosed>,
) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
    let meta = MetaRecord::new(&snapshot.meta);
    let send = send_all(peer, vote, &meta, &snapshot.snapshot);
    tokio::select! {
        biased;
        closed = pin!(cancel) => Err(closed.into()),
        sent = send => Ok(sent?),
    }
}

async fn send_all(
    peer: &Peer,
    vote: Vote,
    meta: &MetaRecord,
    pieces: &Arc<dyn Pieces>,
) -> Result<SnapshotResponse<Types>, RPCError<Types>> {
    let (mut next, mut fruitless) = (0, 0);
    loop {
        let answer = send_one(peer, vote, meta, pieces, next).await;
        let fruit = match &answer {
            Ok(SnapshotAnswer { vote: Some(vote), .. }) => {
                return Ok(SnapshotResponse::new(codec::read_vote(vote)));
            }
            // It may also have less than it had: a start forgets all.
            Ok(answer) => {
                let before = std::mem::replace(&mut next, answer.taken.min(pieces.count()));
                before < next
            }
            Err(_) => false,
        };
        fruitless = if fruit { 0 } else { fruitless + 1 };
        match answer {
            Err(error) if fruitless >= FRUITLESS_MAX => return Err(error),
            Ok(_) if fruitless >= FRUITLESS_MAX => {
                let error = NetworkError::from_string("it does not take the snapshot");
                return Err(RPCError::Network(error));
            }
            Err(RPCError::Unreachable(error)) => return Err(RPCError::Unreachable(error)),
            Err(_) => tokio::time::sleep(PAUSE).await,
            Ok(_) => {}
        }
    }
}

async fn send_one(
    peer: &Peer,
    vote: Vote,
    meta: &MetaRecord,
    pieces: &Arc<dyn Pieces>,
    number: u64,
) -> Result<SnapshotAnswer, RPCError<Types>> {
    let is_end = number == pieces.count();
    let bytes = if is_end { Bytes::new() } else { read(pieces, number).await? };
    let piece = SnapshotPiece {
        vote: Some(codec::write_vote(&vote)),
        meta: Some(meta.clone()),
        id: Bytes::copy_from_slice(&pieces.id()),
        number,
        bytes,
        is_end,
    };
    let limit = if is_end { INSTALL_LIMIT } else { PIECE_LIMIT };
    let Answer::Snapshot(answer) = peer.call(Ask::Snapshot(piece), limit).await? else {
        return Err(not_understood(WireError::Missing("the answer to a piece of a snapshot")));
    };
    Ok(answer)
}

async fn read(pieces: &Arc<dyn Pieces>, number: u64) -> Result<Bytes, RPCError<Types>> {
    let failed = |error: String| RPCError::Network(NetworkError::from_string(error));
    if pieces.in_memory() {
        return pieces.piece(number).map_err(|e| failed(e.to_string()));
    }
    let pieces = Arc::clone(pieces);
    let read = tokio::task::spawn_blocking(move || pieces.piece(number)).await;
    let read = read.map_err(|e| failed(e.to_string()))?;
    read.map_err(|error| {
        tracing::error!(err = %error, "this manager's snapshot cannot be read, and no other manager gets it");
        failed(error.to_string())
    })
}

/// What has arrived of a snapshot; one at a time.
#[derive(Debug)]
pub(crate) struct Incoming {
    snapshots: Arc<dyn Snapshots>,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    partial: Option<Partial>,
    /// When a piece could not be written.
    failed: Option<Instant>,
}

#[derive(Debug)]
struct Partial {
    id: SnapshotId,
    sink: Box<dyn Sink>,
}

/// What came of a message.
enum Taken {
    /// The piece that is wanted next.
    Next(u64),
    All(Snapshot),
}

impl Incoming {
    pub(crate) fn new(snapshots: Arc<dyn Snapshots>) -> Incoming {
        Incoming { snapshots, slot: Mutex::default() }
    }

    /// Takes one piece. What cannot be written is forgotten: the sender begins anew, after a while.
    async fn take(&self, piece: SnapshotPiece) -> Result<Taken, WireError> {
        let meta = piece.meta.as_ref().ok_or(WireError::Missing("what a snapshot is of"))?.read();
        let id = SnapshotId::try_from(&*piece.id).map_err(|_| WireError::Missing("a snapshot's id"))?;
        if piece.bytes.len() > PACKED_BYTES_MAX || piece.number > PIECES_MAX {
            return Err(WireError::Missing("a limit on the snapshot's size"));
        }
        let mut slot = self.slot.lock().await;
        if slot.failed.is_some_and(|at| at.elapsed() < WRITE_AGAIN) {
            return Err(WireError::Unwritten);
        }
        let partial = match slot.partial.take() {
            Some(partial) if partial.id == id => Some(partial),
            // Another one that is on its way is of no use any more: its sender leads no more, or has a newer.
            Some(_) | None => None,
        };
        let written = elsewhere(&self.snapshots, move |snapshots| {
            let mut partial = match partial {
                Some(partial) => partial,
                None => Partial { id, sink: snapshots.begin(&meta)? },
            };
            let wanted = partial.sink.count();
            if piece.number != wanted {
                return Ok((Some(partial), Taken::Next(wanted)));
            }
            if piece.is_end {
                return Ok((None, Taken::All(partial.sink.finish()?)));
            }
            partial.sink.push(&piece.bytes)?;
            Ok((Some(partial), Taken::Next(wanted + 1)))
        })
        .await;
        let (partial, taken) = written.map_err(|error| {
            tracing::error!(
                err = %error, "a snapshot from another manager cannot be written; trying again in {WRITE_AGAIN:?}"
            );
            slot.failed = Some(Instant::now());
            WireError::Unwritten
        })?;
        slot.partial = partial;
        Ok(taken)
    }
}

impl Raft {
    /// Takes one piece of a snapshot, and installs it with the last one. None: consensus has stopped.
    pub(crate) async fn take_piece(&self, piece: SnapshotPiece) -> Result<Option<Answer>, WireError> {
        let raft = self.clone();
        // To its end, also when the caller is gone: what came of a piece is not lost.
        let taken = tokio::spawn(async move { raft.take_whole_piece(piece).await }).await;
        taken.unwrap_or(Ok(None))
    }

    async fn take_whole_piece(&self, piece: SnapshotPiece) -> Result<Option<Answer>, WireError> {
        let vote = piece.vote.as_ref().map(codec::read_vote).ok_or(WireError::Missing("a vote"))?;
        let last = piece.meta.as_ref().and_then(|meta| meta.read().last_log_id);
        let answer = |taken, vote: Option<Vote>| {
            let vote = vote.as_ref().map(codec::write_vote);
            Ok(Some(Answer::Snapshot(SnapshotAnswer { taken, vote })))
        };
        let (seen, applied) = {
            let now = self.core().metrics();
            let now = now.borrow_watched();
            (now.vote, now.last_applied)
        };
        // Who sends it leads no more; or it is here, as the answer to the last message was lost.
        if seen.leader_id.term > vote.leader_id.term || applied >= last {
            return answer(piece.number, Some(seen));
        }
        let snapshot = match self.incoming().take(piece).await? {
            Taken::Next(number) => return answer(number, None),
            Taken::All(snapshot) => snapshot,
        };
        let taken = snapshot.pieces.count();
        let snapshot = SnapshotOf::<Types, _> { meta: snapshot.meta, snapshot: snapshot.pieces };
        match self.core().install_full_snapshot(vote, snapshot).await {
            Ok(installed) => answer(taken, Some(installed.vote)),
            Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;
    use crate::types::SnapshotMeta;

    /// A disk on which there is room for some pieces; how many were written in all.
    #[derive(Clone, Debug)]
    struct Small(u64, Arc<Mutex<u64>>);

    #[derive(Debug)]
    struct SmallFile(Small, u64);

    impl Snapshots for Small {
        fn begin(&self, _: &SnapshotMeta) -> io::Result<Box<dyn Sink>> {
            Ok(Box::new(SmallFile(self.clone(), 0)))
        }

        fn current(&self) -> Option<Snapshot> {
            None
        }

        fn simulated(&self) -> Option<Duration> {
            Some(Duration::ZERO)
        }
    }

    impl Sink for SmallFile {
        fn push(&mut self, _: &[u8]) -> io::Result<()> {
            if self.1 == self.0.0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.1 += 1;
            *self.0.1.lock().unwrap() += 1;
            Ok(())
        }

        fn count(&self) -> u64 {
            self.1
        }

        fn finish(self: Box<Self>) -> io::Result<Snapshot> {
            unreachable!("there is no room for all of it")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_is_not_sent_over_and_over() {
        let disk = Small(20, Arc::default());
        let incoming = Incoming::new(Arc::new(disk.clone()));
        let piece = |number| SnapshotPiece {
            vote: None,
            meta: Some(MetaRecord::new(&SnapshotMeta::default())),
            id: Bytes::from_static(&[7; 16]),
            number,
            bytes: Bytes::from_static(b"a piece"),
            is_end: false,
        };
        // As the sender does it, however often it was told no.
        let (began, mut next) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            next = match incoming.take(piece(next)).await {
                Ok(Taken::Next(wanted)) => wanted,
                Ok(Taken::All(_)) => unreachable!("there is no room for all of it"),
                Err(_) => 0,
            };
        }
        let written = *disk.1.lock().unwrap();
        assert!((100..=140).contains(&written), "{written} pieces in a minute");
    }
}
