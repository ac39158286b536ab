//! Work on the directory of a member that no process has open: what it holds, and a log made anew of it.
//!
//! Reading changes nothing. A new log is written into a directory of its own, which takes the place of the old
//! one in a single step of the file system ([`exchange`]): whenever it is cut off, there is the old or the new.

mod examine;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use rustix::fs::FlockOperation;

pub use self::examine::{Finding, Verdict, examine};
use crate::error::OpenError;
use crate::keys::Keys;
use crate::machine::{self, StateMachine, WriteState};
use crate::seal;
use crate::snapshot::{self, Snapshot, SnapshotDir};
use crate::space;
use crate::store::codec;
use crate::types::{Membership, SnapshotMeta, StoredMembership, log_id};
use crate::wal::record::{Content, Kind, LogPosition, VoteRecord};
use crate::wal::recover::{Recovered, scan};
use crate::wal::{Hooks, Options, Wal, segment};

/// How far a log reaches.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// The newest term that this member has seen.
    pub term: u64,
    /// The index of the last entry; None of an empty log.
    pub last: Option<u64>,
    /// The term of that entry.
    pub last_term: u64,
    /// The last entry that this member knows a majority to have.
    pub committed: Option<u64>,
    /// The last entry that is in the snapshot.
    pub snapshot: Option<u64>,
    /// Those who vote, by raft id, as far as the log says.
    pub voters: BTreeSet<u64>,
    /// How many entries are after the last that is known to be committed, but for those of consensus itself.
    pub uncertain: u64,
}

/// Keeps others from opening a directory for as long as it is held.
#[derive(Debug)]
pub struct Closed {
    _lock: File,
}

/// Locks the directory of a stopped member.
///
/// # Errors
/// [`OpenError::Locked`] if a process has it open; `Io` if there is no log.
pub fn lock(dir: &Path) -> Result<Closed, OpenError> {
    let path = dir.join("lock");
    // Opened for reading: nothing is made where nothing is.
    let lock = File::open(&path).map_err(OpenError::io("open", &path))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Closed { _lock: lock }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { dir: dir.to_owned() }),
        Err(e) => Err(OpenError::io("lock", &path)(e.into())),
    }
}

/// Gives all that a directory holds to `machine`, also the entries that are not known to be committed: whoever
/// may have acknowledged them is asked no more. `each` sees every entry after the snapshot. Changes nothing.
///
/// # Errors
/// As of an opening ([`crate::Raft::open`]).
pub fn read(
    dir: &Path,
    _closed: &Closed,
    keys: &Keys,
    machine: &dyn StateMachine,
    each: &mut dyn FnMut(u64, &[u8]),
) -> Result<Held, OpenError> {
    let numbers = segment::list(dir).map_err(OpenError::io("list", dir))?;
    let mut recovered = scan(dir, keys, &numbers)?.recovered;
    recovered.snapshot = snapshot::load(dir, keys)?;
    recovered.check(dir)?;
    if let Some(snapshot) = &recovered.snapshot {
        machine::restore(machine, &*snapshot.pieces)?;
    }
    let mut held = held(&recovered);
    let from = held.snapshot.map_or(0, |last| last + 1);
    for (index, entry) in recovered.entries.range(from..) {
        match &entry.content {
            Some(Content::Command(command)) => {
                held.uncertain += u64::from(held.committed.is_none_or(|committed| *index > committed));
                machine.apply(*index, command);
                each(*index, command);
            }
            Some(Content::Members(members)) => {
                held.voters = codec::read_members(members.clone()).voter_ids().collect();
            }
            None => {}
        }
    }
    Ok(held)
}

fn held(recovered: &Recovered) -> Held {
    let said = &recovered.said;
    let snapshot = recovered.snapshot.as_ref().map(|Snapshot { meta, .. }| meta);
    let in_snapshot = snapshot.and_then(|meta| meta.last_log_id);
    let newest = recovered.entries.values().next_back().map(|entry| (entry.index, entry.term));
    let newest = newest.max(in_snapshot.map(|id| (id.index, id.leader_id.term)));
    let last_term = newest.map_or(0, |(_, term)| term);
    Held {
        term: said.vote.as_ref().map_or(0, |vote| vote.term).max(last_term),
        last: newest.map(|(index, _)| index),
        last_term,
        committed: said.committed.as_ref().map(|at| at.index).max(in_snapshot.map(|id| id.index)),
        snapshot: in_snapshot.map(|id| id.index),
        voters: snapshot
            .map(|meta| meta.last_membership.membership().voter_ids().collect())
            .unwrap_or_default(),
        uncertain: 0,
    }
}

/// Makes the log of a member that is the only one, `raft_id`, in the directory of `keys`; its state is `state`, after
/// all that `held` has seen. Durable on return.
///
/// # Errors
/// [`OpenError`]; what there is of it is to be removed.
pub fn write(keys: &Keys, raft_id: u64, held: &Held, state: &WriteState) -> Result<(), OpenError> {
    let dir = keys.dir();
    let at = LogPosition { term: held.term + 1, index: held.last.map_or(1, |last| last + 1) };
    let id = log_id(at.term, at.index);
    let members = Membership::new_with_defaults::<Vec<u64>>(vec![BTreeSet::from([raft_id])], vec![raft_id]);
    let meta =
        SnapshotMeta { last_log_id: Some(id), last_membership: StoredMembership::new(Some(id), members) };
    let snapshots = SnapshotDir::new(dir, keys)?;
    snapshot::build(&snapshots, &meta, state)
        .and_then(|built| built.pieces.keep(0))
        .map_err(|source| match source.downcast::<OpenError>() {
            Ok(error) => error,
            Err(source) => OpenError::io("write a snapshot in", dir)(source),
        })
        .map_err(|error| space::no_space(error, dir))?;
    drop(snapshots);
    let vote = VoteRecord { term: at.term, raft_id, committed: false };
    write_log(dir, keys, vec![Kind::Vote(vote), Kind::Purged(at.clone()), Kind::Committed(at)])
}

/// A log with nothing but these records.
fn write_log(dir: &Path, keys: &Keys, kinds: Vec<Kind>) -> Result<(), OpenError> {
    let quiet = Arc::new(|_: &Path, _: &io::Error| {});
    let hooks = Hooks { full: quiet.clone(), fatal: quiet };
    let keys = Some(keys.clone());
    let (wal, _) = Wal::open(Options { hooks, keys, ..Options::new(dir) })?;
    let (done, written) = mpsc::channel();
    // The receiver is below.
    let tell = move |result| done.send(result).unwrap_or_default();
    wal.write(kinds.into_iter().map(Into::into).collect(), Box::new(tell));
    let result = written.recv().unwrap_or_else(|_| Err(io::Error::other("the log's writer is gone")));
    wal.close();
    result.map_err(OpenError::io("write the log in", dir)).map_err(|error| space::no_space(error, dir))
}

/// Gives two directories of one parent each other's name, in one step that a crash does not halve.
///
/// # Errors
/// What the system said: a few network file systems cannot do it.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let parent = one.parent().ok_or_else(|| io::Error::other("a directory without a parent"))?;
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        one,
        rustix::fs::CWD,
        other,
        rustix::fs::RenameFlags::EXCHANGE,
    )?;
    seal::sync_dir(parent)
}
