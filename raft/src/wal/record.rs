//! What a batch carries: entries, votes, truncations, purges, commit marks and bases, as protobuf.
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
    /// The first record of a segment, and nowhere else.
    #[prost(message, tag = "6")]
    Base(BaseRecord),
}

/// Where the log stands as a segment begins. With it, as records of their own, come the vote, the last
/// purged entry and the commit mark: nothing but entries is ever read from an older segment.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BaseRecord {
    /// The index of the next entry.
    #[prost(uint64, tag = "1")]
    pub(crate) next: u64,
}

/// All that the log says but for its entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Said {
    pub(crate) vote: Option<VoteRecord>,
    /// The last entry known to be committed.
    pub(crate) committed: Option<LogPosition>,
    /// The last entry that was purged.
    pub(crate) purged: Option<LogPosition>,
    /// The index of the next entry.
    pub(crate) next: u64,
}

impl Said {
    /// The index of the first entry that is not purged.
    pub(crate) fn first(&self) -> u64 {
        self.purged.as_ref().map_or(0, |purged| purged.index + 1)
    }

    /// Takes in the next record of the log.
    pub(crate) fn take(&mut self, record: &Record) {
        match &record.kind {
            Some(Kind::Entry(entry)) => self.next = entry.index + 1,
            Some(Kind::Vote(vote)) => self.vote = Some(vote.clone()),
            Some(Kind::Truncate(truncate)) => {
                self.next = self.next.min(truncate.first_gone()).max(self.first());
            }
            Some(Kind::Committed(position)) => self.committed = Some(position.clone()),
            Some(Kind::Purged(position)) => {
                self.purged = Some(position.clone());
                self.next = self.next.max(self.first());
            }
            Some(Kind::Base(base)) => self.next = base.next,
            None => {}
        }
    }

    /// The records that a segment begins with.
    pub(crate) fn records(&self) -> Vec<Record> {
        let kinds = [
            Some(Kind::Base(BaseRecord { next: self.next })),
            self.vote.clone().map(Kind::Vote),
            self.purged.clone().map(Kind::Purged),
            self.committed.clone().map(Kind::Committed),
        ];
        kinds.into_iter().flatten().map(Record::from).collect()
    }

    /// The plain text of those.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.records().iter().for_each(|record| encode(record, &mut body));
        body
    }
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

impl TruncateRecord {
    /// The index of the first entry that is gone.
    pub(crate) fn first_gone(&self) -> u64 {
        self.keep_to.map_or(0, |last| last + 1)
    }
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

impl Record {
    /// Of the entry that it is about.
    fn index(&self) -> Option<u64> {
        match self.kind.as_ref()? {
            Kind::Entry(entry) => Some(entry.index),
            Kind::Truncate(truncate) => truncate.keep_to,
            Kind::Committed(position) | Kind::Purged(position) => Some(position.index),
            Kind::Base(base) => Some(base.next),
            Kind::Vote(_) => None,
        }
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

/// All records of a batch's plain text; else what is wrong with them.
pub(crate) fn decode_all(plain: Bytes) -> Result<Vec<Record>, String> {
    // From `Bytes`, entries are slices of the text, not copies.
    let mut rest = plain;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let record = Record::decode_length_delimited(&mut rest).map_err(|error| error.to_string())?;
        // After each entry there may be another one.
        if record.index() == Some(u64::MAX) {
            return Err("an index is beyond all that there can be".to_owned());
        }
        records.push(record);
    }
    Ok(records)
}
