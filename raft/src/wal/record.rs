//! What a batch carries: entries, votes, truncations, purges, commit marks and new beginnings, as protobuf.
//!
//! Fields are added, never renumbered.
//! A record of a kind that this binary does not know decodes to no kind at all, and is refused.

use bytes::Bytes;
use prost::Message;

/// One record of the log.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub(crate) kind: Option<Kind>,
}

/// The kinds of records.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Kind {
    #[prost(message, tag = "1")]
    Entry(EntryRecord),
    #[prost(message, tag = "2")]
    Vote(VoteRecord),
    #[prost(message, tag = "3")]
    Truncate(TruncateRecord),
    #[prost(message, tag = "4")]
    Committed(LogPosition),
    /// This entry and all before it are gone: a snapshot has them.
    #[prost(message, tag = "5")]
    Purged(LogPosition),
    /// The first record of a segment: its batch says all that counted before it, so that older segments
    /// are of no use any more.
    #[prost(message, tag = "6")]
    Anew(AnewRecord),
}

/// Says nothing more.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AnewRecord {}

/// The records of one batch with which a log begins anew.
pub(crate) fn anew(
    vote: Option<VoteRecord>,
    purged: Option<LogPosition>,
    entries: impl IntoIterator<Item = EntryRecord>,
    committed: Option<LogPosition>,
) -> Vec<Record> {
    let before = [Some(Kind::Anew(AnewRecord {})), vote.map(Kind::Vote), purged.map(Kind::Purged)];
    let entries = entries.into_iter().map(Kind::Entry);
    let kinds = before.into_iter().flatten().chain(entries).chain(committed.map(Kind::Committed));
    kinds.map(Record::from).collect()
}

/// An entry of the log; its index is one more than the last one's.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EntryRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) index: u64,
    /// None is a blank entry, which a new leader writes.
    #[prost(oneof = "Content", tags = "3, 4")]
    pub(crate) content: Option<Content>,
}

/// What an entry holds.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Content {
    #[prost(bytes = "bytes", tag = "3")]
    Command(Bytes),
    #[prost(message, tag = "4")]
    Members(MembersRecord),
}

/// The members from this entry on: one set of voters, or two while they change.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MembersRecord {
    #[prost(message, repeated, tag = "1")]
    pub(crate) voters: Vec<VoterSet>,
    /// All members: voters and learners.
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) members: Vec<u64>,
}

/// One set of voters, by raft id.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct VoterSet {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) ids: Vec<u64>,
}

/// For whom this member voted last, or whom it follows.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct VoteRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) raft_id: u64,
    /// That a majority granted it.
    #[prost(bool, tag = "3")]
    pub(crate) committed: bool,
}

/// Entries after `keep_to` are gone; none is kept if it is absent.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TruncateRecord {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) keep_to: Option<u64>,
}

/// Which entry is known to be committed, with all before it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogPosition {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) index: u64,
}

impl From<Kind> for Record {
    fn from(kind: Kind) -> Record {
        Record { kind: Some(kind) }
    }
}

/// The bytes that `record` takes in a batch.
pub(crate) fn encoded_len(record: &Record) -> usize {
    let len = record.encoded_len();
    len + prost::length_delimiter_len(len)
}

/// Appends `record` to a batch's plain text.
pub(crate) fn encode(record: &Record, body: &mut Vec<u8>) {
    record.encode_length_delimited(body).expect("a Vec grows as needed");
}

/// All records of a batch's plain text.
pub(crate) fn decode_all(plain: &[u8]) -> Result<Vec<Record>, prost::DecodeError> {
    let mut rest = plain;
    let mut records = Vec::new();
    while !rest.is_empty() {
        records.push(Record::decode_length_delimited(&mut rest)?);
    }
    Ok(records)
}
