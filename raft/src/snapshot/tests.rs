//! Snapshots against crashes between their steps, damage, and wrong keys.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::types::{Membership, log_id};
use crate::wal::record::{EntryRecord, Kind, LogPosition, Record};
use crate::wal::recover::Recovered;
use crate::wal::{Options, Wal};

fn open(dir: &Path) -> Result<(Wal, Recovered), OpenError> {
    Wal::open(Options { segment_bytes: 64 * 1024, ..Options::new(dir) })
}

fn write(wal: &Wal, kinds: impl IntoIterator<Item = Kind>) {
    let (done, written) = std::sync::mpsc::channel();
    wal.write(
        kinds.into_iter().map(Record::from).collect(),
        Box::new(move |result| done.send(result).unwrap()),
    );
    written.recv().unwrap().unwrap();
}

fn entry(index: u64) -> Kind {
    Kind::Entry(EntryRecord { term: 1, index, content: None })
}

fn snapshot(index: u64, bytes: usize) -> Snapshot {
    let membership = Membership::new_with_defaults::<Vec<u64>>(vec![[1, 2].into()], vec![1, 2, 3]);
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(1, index)),
        last_membership: StoredMembership::new(Some(log_id(1, 0)), membership),
    };
    let fill = u8::try_from(index % 251).unwrap();
    Snapshot { meta, state: Bytes::from(vec![fill; bytes]) }
}

/// A log of entries 0 to 9, and the snapshots beside it.
fn sample(dir: &Path) -> SnapshotDir {
    let (wal, _) = open(dir).unwrap();
    write(&wal, (0..10).map(entry));
    SnapshotDir::new(dir).unwrap()
}

fn only_file(dir: &Path) -> PathBuf {
    let mut files = file::list(dir).unwrap();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

#[test]
fn is_read_back_whatever_its_size() {
    let dir = TempDir::new().unwrap();
    let snapshots = sample(dir.path());
    for (index, bytes) in [(1, 0), (2, 1), (3, 1024 * 1024), (4, 1024 * 1024 + 1), (5, 3 * 1024 * 1024)] {
        let snapshot = snapshot(index, bytes);
        snapshots.save(&snapshot).unwrap();
        assert_eq!(snapshots.current().unwrap(), Some(snapshot.clone()));
        assert_eq!(open(dir.path()).unwrap().1.snapshot, Some(snapshot));
        only_file(dir.path());
    }
    let newest = snapshots.current().unwrap();
    snapshots.save(&snapshot(2, 7)).unwrap();
    assert_eq!(snapshots.current().unwrap(), newest, "an older one that was late changes nothing");
}

#[test]
fn a_crash_between_any_two_steps_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let snapshots = sample(dir);
    let (old, new) = (snapshot(3, 100), snapshot(8, 3_000_000));
    snapshots.save(&old).unwrap();
    // Within the writing of the file: it is there in part, or whole, under its first name.
    let (new_path, path) = file::write_new(dir, &snapshots.key, &new).unwrap();
    let whole = fs::read(&new_path).unwrap();
    for len in [0, 50, 100, 2_000_000, whole.len()] {
        fs::write(&new_path, &whole[..len]).unwrap();
        let (_, recovered) = open(dir).unwrap();
        assert_eq!(recovered.snapshot, Some(old.clone()));
        assert_eq!(recovered.entries.len(), 10);
    }
    // It has its name, and the older one is still there.
    fs::rename(&new_path, &path).unwrap();
    assert_eq!(file::list(dir).unwrap().len(), 2);
    let (_, recovered) = open(dir).unwrap();
    assert_eq!(recovered.snapshot, Some(new.clone()));
    assert_eq!(recovered.entries.len(), 10);
    // The older one is gone, and the log is not purged yet; then it is.
    file::remove_others(dir, &path).unwrap();
    let (wal, recovered) = open(dir).unwrap();
    assert_eq!((recovered.snapshot, recovered.entries.len()), (Some(new.clone()), 10));
    write(&wal, [Kind::Purged(LogPosition { term: 1, index: 6 })]);
    drop(wal);
    let (wal, recovered) = open(dir).unwrap();
    assert_eq!(recovered.entries.keys().copied().collect::<Vec<_>>(), [7, 8, 9]);
    assert_eq!((recovered.snapshot, recovered.purged.unwrap().index), (Some(new), 6));
    // The log goes on, also right after a purge of all that it had.
    write(&wal, [entry(10), Kind::Committed(LogPosition { term: 1, index: 10 })]);
    drop(wal);
    assert_eq!(open(dir).unwrap().1.entries.len(), 4);
}

#[test]
fn one_from_another_member_is_taken_over_an_older_log() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let snapshots = sample(dir);
    snapshots.save(&snapshot(100, 5)).unwrap();
    // A crash here: the log ends before the snapshot, and it may say already what is committed.
    {
        let (wal, recovered) = open(dir).unwrap();
        assert_eq!(recovered.entries.len(), 10);
        write(&wal, [Kind::Committed(LogPosition { term: 1, index: 100 })]);
    }
    let (wal, _) = open(dir).unwrap();
    write(&wal, [Kind::Purged(LogPosition { term: 1, index: 100 }), entry(101)]);
    drop(wal);
    let (_, recovered) = open(dir).unwrap();
    assert_eq!(recovered.entries.keys().copied().collect::<Vec<_>>(), [101]);
}

#[test]
fn damage_is_named_by_file_and_place() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let snapshots = sample(dir);
    snapshots.save(&snapshot(9, 2_500_000)).unwrap();
    let path = only_file(dir);
    let whole = fs::read(&path).unwrap();
    for at in [0, 9, 17, 30, 60, 74, 80, 200, 1_500_000, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        match open(dir) {
            Err(OpenError::Damaged { file, offset, .. }) => {
                assert_eq!(file, path);
                assert!(offset <= u64::try_from(at).unwrap(), "byte {at} said to be at {offset}");
            }
            Err(OpenError::NewerFormat { .. }) if (8..12).contains(&at) => {}
            other => panic!("byte {at}: {other:?}"),
        }
    }
    for len in [0, 40, 90, 1_000_000, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(matches!(open(dir), Err(OpenError::Damaged { .. })), "cut to {len}");
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(matches!(open(dir), Err(OpenError::Damaged { .. })));
    fs::write(&path, &whole).unwrap();
    open(dir).unwrap();
}

#[test]
fn is_sealed_under_this_members_key_and_may_not_go_missing() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (ours, theirs) = (sample(dir.path()), sample(other.path()));
    ours.save(&snapshot(9, 100_000)).unwrap();
    theirs.save(&snapshot(9, 100_000)).unwrap();
    let path = only_file(dir.path());
    let bytes = fs::read(&path).unwrap();
    assert!(!bytes.windows(16).any(|window| window == [9; 16]), "the state is not readable");
    fs::copy(only_file(other.path()), &path).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::WrongKey { .. })));
    fs::write(&path, bytes).unwrap();
    let (wal, _) = open(dir.path()).unwrap();
    write(&wal, [Kind::Purged(LogPosition { term: 1, index: 5 })]);
    drop(wal);
    fs::remove_file(&path).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::Damaged { .. })), "the log begins after entry 5");
}

/// Has no room the first time.
#[derive(Debug)]
struct Full(SnapshotDir, std::sync::atomic::AtomicBool);

impl Snapshots for Full {
    fn save(&self, snapshot: &Snapshot) -> io::Result<()> {
        if !self.1.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.save(snapshot)
    }

    fn current(&self) -> io::Result<Option<Snapshot>> {
        self.0.current()
    }

    fn is_simulated(&self) -> bool {
        false
    }
}

struct State;

impl crate::StateMachine for State {
    fn apply(&self, _: u64, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        Box::new(|| b"state".to_vec())
    }

    fn restore(&self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_waited_out() {
    use openraft::{RaftSnapshotBuilder as _, storage::RaftStateMachine as _};
    let dir = TempDir::new().unwrap();
    let full = Full(sample(dir.path()), false.into());
    let mut machine =
        crate::machine::Machine::new(std::sync::Arc::new(State), std::sync::Arc::new(full), None).unwrap();
    let built = machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    assert_eq!(built.snapshot, Bytes::from_static(b"state"));
    let kept = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(kept.snapshot, built.snapshot);
}
