//! The log as openraft sees it: entries and vote in memory, each made durable through the WAL.
//!
//! The log is held in memory whole, from the last purge on. Order is kept by the WAL's queue: a record is durable only after all queued before it.

pub(crate) mod codec;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use crate::types::{Entry, LogId, Payload, Types, Vote};
use crate::wal::record::{Kind, Record, TruncateRecord};
use crate::wal::recover::Recovered;
use crate::wal::{Done, Wal};

/// What makes records durable: the log's files, or a simulated disk.
pub(crate) trait Disk: Debug + Send + Sync + 'static {
    /// Queues `records`; `done` is called once they and all before them are durable.
    fn write(&self, records: Vec<Record>, done: Done);
    /// Queues a record that may become durable with any later write.
    fn write_lazily(&self, record: Record);
    /// Has what is written from now on be sealed under the newest data key; `done` is called then.
    fn cut(&self, done: Done) {
        done(Ok(()));
    }
}

impl Disk for Wal {
    fn write(&self, records: Vec<Record>, done: Done) {
        Wal::write(self, records, done);
    }

    fn write_lazily(&self, record: Record) {
        Wal::write_lazily(self, record);
    }

    fn cut(&self, done: Done) {
        Wal::cut(self, done);
    }
}

/// What one append to a member carries at most, if it carries more than one entry: it stays far below
/// what one message between nodes may have.
const APPEND_BYTES_MAX: usize = 8 * 1024 * 1024;

fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(command) => command.0.len(),
        Payload::Blank | Payload::Membership(_) => 0,
    }
}

/// A handle on the log; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    memory: Arc<Mutex<Memory>>,
    disk: Arc<dyn Disk>,
}

#[derive(Debug, Default)]
struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

impl LogStore {
    /// The log that the WAL held when it was opened.
    pub(crate) fn new(disk: Arc<dyn Disk>, recovered: Recovered) -> LogStore {
        let memory = Memory {
            vote: recovered.said.vote.as_ref().map(codec::read_vote),
            committed: recovered.said.committed.as_ref().map(codec::read_position),
            purged: recovered.said.purged.as_ref().map(codec::read_position),
            entries: recovered.entries.into_iter().map(|(i, e)| (i, codec::read_entry(e))).collect(),
        };
        LogStore { memory: Arc::new(Mutex::new(memory)), disk }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Each holder makes one whole change, so a panicked one has left nothing half done.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one record and waits until it is durable.
    async fn write(&self, kind: Kind) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        // The receiver is gone only if the caller was cancelled.
        let done = move |result| drop(done.send(result));
        self.disk.write(vec![Record::from(kind)], Box::new(done));
        written.await.unwrap_or_else(|_| Err(io::Error::other("the log's writer is gone")))
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        Ok(self.memory().entries.range(bounds).map(|(_, entry)| entry.clone()).collect())
    }

    /// What goes into one append to a member: at least one entry, and no more once they are large.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let mut bytes = 0;
        let fits = |(_, entry): &(&u64, &Entry)| {
            let fits = bytes == 0 || bytes + entry_bytes(entry) <= APPEND_BYTES_MAX;
            bytes += entry_bytes(entry).max(1);
            fits
        };
        Ok(self.memory().entries.range(start..end).take_while(fits).map(|(_, e)| e.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.memory().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let memory = self.memory();
        let last = memory.entries.values().next_back().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last.or(memory.purged) })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.write(Kind::Vote(codec::write_vote(vote))).await?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.memory().committed = committed;
        // Lost with a crash, it only makes the next start wait for its leader before it applies the
        // rest; so it need not cost a sync.
        if let Some(committed) = committed {
            self.disk.write_lazily(Kind::Committed(codec::write_position(committed)).into());
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        {
            let mut memory = self.memory();
            for entry in entries {
                records.push(Record::from(Kind::Entry(codec::write_entry(&entry))));
                memory.entries.insert(entry.log_id.index, entry);
            }
        }
        self.disk.write(records, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let keep_to = last_log_id.map(|id| id.index);
        self.memory().entries.split_off(&keep_to.map_or(0, |index| index + 1));
        self.write(Kind::Truncate(TruncateRecord { keep_to })).await
    }

    /// Forgets entries that a snapshot has.
    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        {
            let mut memory = self.memory();
            memory.purged = Some(log_id);
            memory.entries = memory.entries.split_off(&(log_id.index + 1));
        }
        // The log frees the disk of what no entry is left of.
        self.write(Kind::Purged(codec::write_position(log_id))).await
    }
}
