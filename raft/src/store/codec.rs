//! Between openraft's types and the records of the WAL.

use openraft::EmptyNode;

use crate::types::{Command, Entry, LogId, Membership, Payload, Vote, log_id};
use crate::wal::record::{Content, EntryRecord, LogPosition, MembersRecord, VoteRecord, VoterSet};

pub(crate) fn write_vote(vote: &Vote) -> VoteRecord {
    VoteRecord { term: vote.leader_id.term, raft_id: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn read_vote(record: &VoteRecord) -> Vote {
    let mut vote = Vote::new(record.term, record.raft_id);
    vote.committed = record.committed;
    vote
}

pub(crate) fn write_position(id: LogId) -> LogPosition {
    LogPosition { term: id.leader_id.term, index: id.index }
}

pub(crate) fn read_position(record: &LogPosition) -> LogId {
    log_id(record.term, record.index)
}

pub(crate) fn write_entry(entry: &Entry) -> EntryRecord {
    let content = match &entry.payload {
        Payload::Blank => None,
        Payload::Normal(command) => Some(Content::Command(command.0.clone())),
        Payload::Membership(membership) => Some(Content::Members(write_members(membership))),
    };
    EntryRecord { term: entry.log_id.leader_id.term, index: entry.log_id.index, content }
}

pub(crate) fn read_entry(record: EntryRecord) -> Entry {
    let payload = match record.content {
        None => Payload::Blank,
        Some(Content::Command(bytes)) => Payload::Normal(Command(bytes)),
        Some(Content::Members(members)) => Payload::Membership(read_members(members)),
    };
    Entry { log_id: log_id(record.term, record.index), payload }
}

pub(crate) fn write_members(membership: &Membership) -> MembersRecord {
    let set = |ids: &std::collections::BTreeSet<u64>| VoterSet { ids: ids.iter().copied().collect() };
    MembersRecord {
        voters: membership.get_joint_config().iter().map(set).collect(),
        members: membership.nodes().map(|(id, _)| *id).collect(),
    }
}

pub(crate) fn read_members(record: MembersRecord) -> Membership {
    let voters = record.voters.into_iter().map(|set| set.ids.into_iter().collect()).collect();
    Membership::new_with_defaults::<Vec<u64>>(voters, record.members)
}

/// That a node record is empty is what lets `MembersRecord` leave it out.
const _: EmptyNode = EmptyNode {};
