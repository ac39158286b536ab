//! openraft's own suite on the log store, and what a restart must find.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{OptionalSend, RaftLogReader, RaftSnapshotBuilder, SnapshotMeta, StorageError};
use tempfile::TempDir;

use super::*;
use crate::types::{Command, Membership, Payload, StoredMembership, log_id};
use crate::wal::Options;

fn open(dir: &TempDir) -> LogStore {
    let options = Options { segment_bytes: 64 * 1024, ..Options::new(dir.path()) };
    let (wal, recovered) = Wal::open(options).unwrap();
    LogStore::new(Arc::new(wal), recovered)
}

struct Builder;

impl StoreBuilder<Types, LogStore, MemoryMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, MemoryMachine), StorageError<Types>> {
        let dir = TempDir::new().unwrap();
        let store = open(&dir);
        Ok((dir, store, MemoryMachine::default()))
    }
}

#[tokio::test]
async fn passes_the_suite_of_openraft() {
    Suite::test_all(Builder).await.unwrap();
}

/// The suite asks for snapshots too, which ours refuses: so it gets the least machine that has them.
#[derive(Clone, Default)]
struct MemoryMachine {
    applied: (Option<LogId>, StoredMembership),
    snapshot: Option<SnapshotMetaOf<Types>>,
    /// A builder's result is seen by the machine that it came from.
    built: Arc<Mutex<Option<SnapshotMetaOf<Types>>>>,
}

impl RaftStateMachine<Types> for MemoryMachine {
    type SnapshotData = ();
    type SnapshotBuilder = MemoryMachine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(self.applied.clone())
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let entry = next?.0;
            self.applied.0 = Some(entry.log_id);
            if let Payload::Membership(membership) = entry.payload {
                self.applied.1 = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> MemoryMachine {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types>, _data: ()) -> Result<(), io::Error> {
        self.applied = (meta.last_log_id, meta.last_membership.clone());
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
        let meta = self.built.lock().unwrap().clone().or_else(|| self.snapshot.clone());
        Ok(meta.map(|meta| SnapshotOf::<Types, ()> { meta, snapshot: () }))
    }
}

impl RaftSnapshotBuilder<Types> for MemoryMachine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, ()>, io::Error> {
        let (last_log_id, last_membership) = self.applied.clone();
        let meta = SnapshotMeta { last_log_id, last_membership };
        *self.built.lock().unwrap() = Some(meta.clone());
        Ok(SnapshotOf::<Types, ()> { meta, snapshot: () })
    }
}

async fn append(store: &mut LogStore, entries: Vec<Entry>) {
    let (done, flushed) = Types::oneshot();
    let n_before = store.memory().entries.len();
    let n = entries.len();
    store.append(entries, IOFlushed::Signal(done)).await.unwrap();
    assert_eq!(store.memory().entries.len(), n_before + n, "readable when append returns");
    flushed.await.unwrap().unwrap();
}

fn entry(term: u64, index: u64, payload: Payload) -> Entry {
    Entry { log_id: log_id(term, index), payload }
}

#[tokio::test]
async fn a_restart_finds_entries_vote_and_commit_mark() {
    let dir = TempDir::new().unwrap();
    let joint = vec![[1, u64::MAX].into(), [2].into()];
    let entries = vec![
        entry(0, 0, Payload::Membership(Membership::new_with_defaults(joint, [9]))),
        entry(3, 1, Payload::Blank),
        entry(3, 2, Payload::Normal(Command(Bytes::from_static(b"a")))),
        entry(3, 3, Payload::Normal(Command(Bytes::new()))),
    ];
    {
        let mut store = open(&dir);
        append(&mut store, entries.clone()).await;
        store.save_vote(&Vote::new(3, u64::MAX)).await.unwrap();
        store.save_vote(&Vote::new_committed(3, u64::MAX)).await.unwrap();
        store.save_committed(Some(log_id(3, 2))).await.unwrap();
    }
    {
        let mut store = open(&dir);
        assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new_committed(3, u64::MAX)));
        assert_eq!(store.read_committed().await.unwrap(), Some(log_id(3, 2)));
        assert_eq!(store.try_get_log_entries(..).await.unwrap(), entries);
        store.truncate_after(Some(log_id(3, 2))).await.unwrap();
        append(&mut store, vec![entry(4, 3, Payload::Blank)]).await;
    }
    let mut store = open(&dir);
    let last = store.get_log_state().await.unwrap().last_log_id;
    assert_eq!(last, Some(log_id(4, 3)));
    assert_eq!(store.try_get_log_entries(..3).await.unwrap(), entries[..3]);
}

#[tokio::test]
async fn a_purge_frees_the_disk_and_a_restart_finds_what_is_left() {
    let dir = TempDir::new().unwrap();
    let n_segments = || crate::wal::segment::list(dir.path()).unwrap().len();
    let large = |index| entry(3, index, Payload::Normal(Command(Bytes::from(vec![b'x'; 4000]))));
    let mut store = open(&dir);
    store.save_vote(&Vote::new_committed(3, 7)).await.unwrap();
    for index in 0..100 {
        append(&mut store, vec![large(index)]).await;
    }
    store.save_committed(Some(log_id(3, 99))).await.unwrap();
    assert!(n_segments() > 5, "{}", n_segments());
    let meta =
        SnapshotMeta { last_log_id: Some(log_id(3, 90)), last_membership: StoredMembership::default() };
    let snapshots =
        crate::snapshot::SnapshotDir::new(dir.path(), &crate::keys::Keys::open(dir.path(), None).unwrap())
            .unwrap();
    let state: crate::WriteState = Box::new(|_| Ok(()));
    crate::snapshot::build(&snapshots, &meta, &state).unwrap().pieces.keep(0).unwrap();
    // What is left is more than one segment holds.
    store.purge(log_id(3, 60)).await.unwrap();
    append(&mut store, vec![large(100)]).await;
    drop(store);
    assert!(n_segments() <= 5, "{}", n_segments());
    let mut store = open(&dir);
    assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new_committed(3, 7)));
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(3, 99)));
    assert_eq!(store.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(3, 60)));
    let left: Vec<Entry> = (61..=100).map(large).collect();
    assert_eq!(store.try_get_log_entries(..).await.unwrap(), left);
}

#[test]
fn a_command_never_prints_its_bytes() {
    let payload = entry(1, 1, Payload::Normal(Command(Bytes::from_static(b"hunter2"))));
    assert!(!format!("{payload:?} {payload}").contains("hunter2"));
}
