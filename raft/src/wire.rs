//! What members say to each other, as bytes: a version byte, then one protobuf message.
//!
//! Fields are added, never renumbered. A request names the member that it is meant for, as an address
//! may by now belong to another one.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::snapshot::MetaRecord;
use crate::store::codec;
use crate::types::{
    AppendRequest, AppendResponse, LogId, TransferError, TransferRequest, VoteRequest, VoteResponse,
};
use crate::wal::record::{EntryRecord, LogPosition, VoteRecord};

/// The format of the bytes; a member refuses others.
const VERSION: u8 = 1;

/// Why bytes were not understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("it is in format {0}, and this binary knows {VERSION}; run one version on all managers")]
    Version(u8),
    #[error("it is empty")]
    Empty,
    #[error("it cannot be decoded: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("a piece of a snapshot could not be written just now")]
    Unwritten,
}

/// One member asks another.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    /// The raft id of the member that is asked.
    #[prost(uint64, tag = "1")]
    pub(crate) to: u64,
    #[prost(oneof = "Ask", tags = "2, 3, 4, 5, 6, 7, 8, 9")]
    pub(crate) ask: Option<Ask>,
}

/// What it asks.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Ask {
    #[prost(message, tag = "2")]
    Append(AppendMsg),
    #[prost(message, tag = "3")]
    Vote(VoteMsg),
    /// Asks whether a vote would be granted.
    #[prost(message, tag = "4")]
    PreVote(VoteMsg),
    #[prost(message, tag = "5")]
    Transfer(TransferMsg),
    #[prost(message, tag = "6")]
    Snapshot(SnapshotPiece),
    /// An entry to be written by the leader, which is asked once: it never forwards.
    #[prost(bytes = "bytes", tag = "7")]
    Propose(Bytes),
    /// How far a reader must have applied.
    #[prost(message, tag = "8")]
    ReadIndex(Empty),
    /// Tells a member that it was removed.
    #[prost(message, tag = "9")]
    Removed(Empty),
}

/// The answer to a request.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(oneof = "Answer", tags = "2, 3, 4, 5, 6, 7, 8, 9, 15")]
    pub(crate) answer: Option<Answer>,
}

/// The variant of the request.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Answer {
    #[prost(message, tag = "2")]
    Append(AppendAnswer),
    #[prost(message, tag = "3")]
    Vote(VoteAnswer),
    #[prost(message, tag = "4")]
    PreVote(VoteAnswer),
    #[prost(message, tag = "5")]
    Transfer(TransferAnswer),
    #[prost(message, tag = "6")]
    Snapshot(SnapshotAnswer),
    #[prost(message, tag = "7")]
    Propose(ProposeAnswer),
    #[prost(message, tag = "8")]
    ReadIndex(ReadAnswer),
    #[prost(message, tag = "9")]
    Removed(Empty),
    /// Consensus is stopped on the member that was asked, or stopped meanwhile.
    #[prost(message, tag = "15")]
    Stopped(Empty),
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AppendMsg {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    previous: Option<LogPosition>,
    #[prost(message, optional, tag = "3")]
    committed: Option<LogPosition>,
    #[prost(message, repeated, tag = "4")]
    entries: Vec<EntryRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AppendAnswer {
    #[prost(oneof = "Appended", tags = "1, 2, 3, 4")]
    appended: Option<Appended>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Appended {
    #[prost(message, tag = "1")]
    All(Empty),
    #[prost(message, tag = "2")]
    UpTo(MaybePosition),
    #[prost(message, tag = "3")]
    Conflict(Empty),
    #[prost(message, tag = "4")]
    HigherVote(VoteRecord),
}

#[derive(Clone, PartialEq, Message)]
struct MaybePosition {
    #[prost(message, optional, tag = "1")]
    position: Option<LogPosition>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct VoteMsg {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    last: Option<LogPosition>,
    #[prost(bool, tag = "3")]
    leadership_transfer: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct VoteAnswer {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    last: Option<LogPosition>,
    #[prost(bool, tag = "3")]
    granted: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TransferMsg {
    #[prost(message, optional, tag = "1")]
    from: Option<VoteRecord>,
    #[prost(uint64, tag = "2")]
    to: u64,
    #[prost(message, optional, tag = "3")]
    last: Option<LogPosition>,
}

/// Taken, unless it says why not.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TransferAnswer {
    #[prost(oneof = "NotTaken", tags = "1, 2")]
    not_taken: Option<NotTaken>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum NotTaken {
    #[prost(message, tag = "1")]
    VoteChanged(VotePair),
    #[prost(message, tag = "2")]
    NotFlushed(PositionPair),
}

#[derive(Clone, PartialEq, Message)]
struct VotePair {
    #[prost(message, optional, tag = "1")]
    expected: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    actual: Option<VoteRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct PositionPair {
    #[prost(message, optional, tag = "1")]
    expected: Option<LogPosition>,
    #[prost(message, optional, tag = "2")]
    actual: Option<LogPosition>,
}

/// A piece of a snapshot, compressed, or its end.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotPiece {
    #[prost(message, optional, tag = "1")]
    pub(crate) vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    pub(crate) meta: Option<MetaRecord>,
    /// Which snapshot it is of.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) id: Bytes,
    #[prost(uint64, tag = "4")]
    pub(crate) number: u64,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) bytes: Bytes,
    /// There were `number` pieces.
    #[prost(bool, tag = "6")]
    pub(crate) is_end: bool,
}

/// The piece that is wanted next; the receiver's vote once all is installed, or refused.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotAnswer {
    #[prost(uint64, tag = "1")]
    pub(crate) taken: u64,
    #[prost(message, optional, tag = "2")]
    pub(crate) vote: Option<VoteRecord>,
}

/// The outcome of a forwarded proposal.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ProposeAnswer {
    #[prost(oneof = "Outcome", tags = "1, 2, 3")]
    pub(crate) outcome: Option<Outcome>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Outcome {
    #[prost(message, tag = "1")]
    Written(WrittenMsg),
    /// This member does not lead, or its lead is not confirmed: certainly not written.
    #[prost(message, tag = "2")]
    Refused(Empty),
    /// It may be written, or come to be.
    #[prost(message, tag = "3")]
    Lost(Empty),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WrittenMsg {
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) response: Bytes,
}

/// The index that a reader must have applied; none if this member is not a confirmed leader.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct ReadAnswer {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) index: Option<u64>,
}

/// The bytes of a request or an answer.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(VERSION);
    message.encode(&mut bytes).expect("a buffer grows as needed");
    bytes.freeze()
}

/// What `encode` was given.
pub(crate) fn decode<M: Message + Default>(mut bytes: Bytes) -> Result<M, WireError> {
    if bytes.is_empty() {
        return Err(WireError::Empty);
    }
    let version = bytes.split_to(1)[0];
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    Ok(M::decode(bytes)?)
}

fn vote(record: Option<&VoteRecord>) -> Result<crate::types::Vote, WireError> {
    record.map(codec::read_vote).ok_or(WireError::Missing("a vote"))
}

fn position(id: Option<LogId>) -> Option<LogPosition> {
    id.map(codec::write_position)
}

fn id(position: Option<&LogPosition>) -> Option<LogId> {
    position.map(codec::read_position)
}

impl AppendMsg {
    pub(crate) fn new(rpc: &AppendRequest) -> AppendMsg {
        AppendMsg {
            vote: Some(codec::write_vote(&rpc.vote)),
            previous: position(rpc.prev_log_id),
            committed: position(rpc.leader_commit),
            entries: rpc.entries.iter().map(codec::write_entry).collect(),
        }
    }

    pub(crate) fn read(self) -> Result<AppendRequest, WireError> {
        Ok(AppendRequest {
            vote: vote(self.vote.as_ref())?,
            prev_log_id: id(self.previous.as_ref()),
            leader_commit: id(self.committed.as_ref()),
            entries: self.entries.into_iter().map(codec::read_entry).collect(),
        })
    }
}

impl AppendAnswer {
    pub(crate) fn new(answer: &AppendResponse) -> AppendAnswer {
        let appended = match answer {
            AppendResponse::Success => Appended::All(Empty {}),
            AppendResponse::PartialSuccess(to) => Appended::UpTo(MaybePosition { position: position(*to) }),
            AppendResponse::Conflict => Appended::Conflict(Empty {}),
            AppendResponse::HigherVote(vote) => Appended::HigherVote(codec::write_vote(vote)),
        };
        AppendAnswer { appended: Some(appended) }
    }

    pub(crate) fn read(&self) -> Result<AppendResponse, WireError> {
        Ok(match self.appended.as_ref().ok_or(WireError::Missing("the outcome of an append"))? {
            Appended::All(Empty {}) => AppendResponse::Success,
            Appended::UpTo(to) => AppendResponse::PartialSuccess(id(to.position.as_ref())),
            Appended::Conflict(Empty {}) => AppendResponse::Conflict,
            Appended::HigherVote(vote) => AppendResponse::HigherVote(codec::read_vote(vote)),
        })
    }
}

impl VoteMsg {
    pub(crate) fn new(rpc: &VoteRequest) -> VoteMsg {
        VoteMsg {
            vote: Some(codec::write_vote(&rpc.vote)),
            last: position(rpc.last_log_id),
            leadership_transfer: rpc.leadership_transfer,
        }
    }

    pub(crate) fn read(&self) -> Result<VoteRequest, WireError> {
        let mut rpc = VoteRequest::new(vote(self.vote.as_ref())?, id(self.last.as_ref()));
        rpc.leadership_transfer = self.leadership_transfer;
        Ok(rpc)
    }
}

impl VoteAnswer {
    pub(crate) fn new(answer: &VoteResponse) -> VoteAnswer {
        VoteAnswer {
            vote: Some(codec::write_vote(&answer.vote)),
            last: position(answer.last_log_id),
            granted: answer.vote_granted,
        }
    }

    pub(crate) fn read(&self) -> Result<VoteResponse, WireError> {
        Ok(VoteResponse::new(vote(self.vote.as_ref())?, id(self.last.as_ref()), self.granted))
    }
}

impl TransferMsg {
    pub(crate) fn new(rpc: &TransferRequest) -> TransferMsg {
        TransferMsg {
            from: Some(codec::write_vote(rpc.from_leader())),
            to: *rpc.to_node_id(),
            last: position(rpc.last_log_id().copied()),
        }
    }

    pub(crate) fn read(&self) -> Result<TransferRequest, WireError> {
        Ok(TransferRequest::new(vote(self.from.as_ref())?, self.to, id(self.last.as_ref())))
    }
}

impl TransferAnswer {
    pub(crate) fn new(answer: &Result<(), TransferError>) -> TransferAnswer {
        let not_taken = answer.as_ref().err().map(|error| match error {
            TransferError::VoteChanged { expected, actual } => NotTaken::VoteChanged(VotePair {
                expected: Some(codec::write_vote(expected)),
                actual: Some(codec::write_vote(actual)),
            }),
            TransferError::LogNotFlushed { expected, actual } => NotTaken::NotFlushed(PositionPair {
                expected: position(*expected),
                actual: position(*actual),
            }),
        });
        TransferAnswer { not_taken }
    }

    pub(crate) fn read(&self) -> Result<Result<(), TransferError>, WireError> {
        Ok(match &self.not_taken {
            None => Ok(()),
            Some(NotTaken::VoteChanged(pair)) => Err(TransferError::VoteChanged {
                expected: vote(pair.expected.as_ref())?,
                actual: vote(pair.actual.as_ref())?,
            }),
            Some(NotTaken::NotFlushed(pair)) => Err(TransferError::LogNotFlushed {
                expected: id(pair.expected.as_ref()),
                actual: id(pair.actual.as_ref()),
            }),
        })
    }
}
