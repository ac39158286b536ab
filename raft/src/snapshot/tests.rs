//! Snapshots against crashes between their steps, damage, and wrong keys.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::stream::read_state;
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

fn meta(index: u64) -> SnapshotMeta {
    let membership = Membership::new_with_defaults::<Vec<u64>>(vec![[1, 2].into()], vec![1, 2, 3]);
    SnapshotMeta {
        last_log_id: Some(log_id(1, index)),
        last_membership: StoredMembership::new(Some(log_id(1, 0)), membership),
    }
}

/// A state that no compression makes small.
fn state(index: u64, bytes: usize) -> Vec<u8> {
    let mut row = index;
    std::iter::repeat_with(|| crate::sim::random(&mut row).to_le_bytes()).flatten().take(bytes).collect()
}

/// A snapshot that is whole and not kept.
fn built(snapshots: &dyn Snapshots, index: u64, bytes: usize) -> Snapshot {
    let write: WriteState = Box::new(move |out| out.write_all(&state(index, bytes)));
    build(snapshots, &meta(index), &write).unwrap()
}

fn save(snapshots: &dyn Snapshots, index: u64, bytes: usize) -> Snapshot {
    let snapshot = built(snapshots, index, bytes);
    Arc::clone(&snapshot.pieces).keep(0).unwrap();
    snapshot
}

fn read(snapshot: &Snapshot) -> Result<Vec<u8>, OpenError> {
    read_state(&*snapshot.pieces, |reader| {
        let mut state = Vec::new();
        reader.read_to_end(&mut state).map(|_| state).map_err(|e| e.to_string())
    })
}

/// Opens log and snapshot as a member does, which reads all of it.
fn open_whole(dir: &Path) -> Result<(Recovered, Option<Vec<u8>>), OpenError> {
    let (_, recovered) = open(dir)?;
    let state = recovered.snapshot.as_ref().map(read).transpose()?;
    Ok((recovered, state))
}

fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    all.filter(|path| path.to_string_lossy().ends_with(end)).collect()
}

fn snapshots_in(dir: &Path) -> SnapshotDir {
    SnapshotDir::new(dir, &Keys::open(dir, None).unwrap()).unwrap()
}

/// A log of entries 0 to 9, and the snapshots beside it.
fn sample(dir: &Path) -> SnapshotDir {
    let (wal, _) = open(dir).unwrap();
    write(&wal, (0..10).map(entry));
    snapshots_in(dir)
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
        let saved = save(&snapshots, index, bytes);
        assert_eq!(saved.pieces.count(), u64::try_from(bytes.div_ceil(PIECE_BYTES)).unwrap());
        let current = snapshots.current().unwrap();
        assert_eq!((&current, read(&current).unwrap()), (&saved, state(index, bytes)));
        let (recovered, found) = open_whole(dir.path()).unwrap();
        assert_eq!((recovered.snapshot, found), (Some(saved), Some(state(index, bytes))));
        only_file(dir.path());
    }
    let newest = snapshots.current().unwrap();
    save(&snapshots, 2, 7);
    assert_eq!(snapshots.current().unwrap(), newest, "an older one that was late changes nothing");
    assert_eq!(files(dir.path(), ".new").len(), 0, "and leaves nothing");
}

#[test]
fn one_that_is_read_lives_on_when_a_newer_one_takes_its_place_and_old_ones_stay_as_asked() {
    let dir = TempDir::new().unwrap();
    let snapshots = sample(dir.path());
    // More pieces than are read ahead.
    let old = save(&snapshots, 1, 8_000_000);
    let read = read_state(&*old.pieces, |reader| {
        let mut read = vec![0; 1_000];
        reader.read_exact(&mut read).unwrap();
        for index in 2..6 {
            Arc::clone(&built(&snapshots, index, 10).pieces).keep(2).unwrap();
        }
        assert_eq!(file::list(dir.path()).unwrap().len(), 3);
        reader.read_to_end(&mut read).unwrap();
        Ok(read)
    });
    assert_eq!(read.unwrap(), state(1, 8_000_000));
    save(&snapshots, 6, 10);
    only_file(dir.path());
}

#[test]
fn one_that_is_not_kept_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let snapshots = sample(dir.path());
    let mut sink = snapshots.begin(&meta(3)).unwrap();
    sink.push(b"a piece").unwrap();
    assert_eq!(files(dir.path(), ".new").len(), 1);
    drop(sink);
    let whole = built(&snapshots, 3, 100);
    assert_eq!(files(dir.path(), ".new").len(), 1);
    drop(whole);
    assert_eq!(files(dir.path(), ".new").len(), 0);
    assert_eq!(snapshots.current(), None);
    let failing: WriteState = Box::new(|_| Err(io::ErrorKind::StorageFull.into()));
    build(&snapshots, &meta(3), &failing).unwrap_err();
    assert_eq!(files(dir.path(), ".new").len(), 0);
}

#[test]
fn a_crash_between_any_two_steps_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let snapshots = sample(dir);
    let old = save(&snapshots, 3, 100);
    // Within the writing of the file: it is there in part, or whole, under its first name.
    let new = built(&snapshots, 8, 3_000_000);
    let new_path = files(dir, ".new").remove(0);
    let whole = fs::read(&new_path).unwrap();
    for len in [0, 50, 100, 2_000_000, whole.len()] {
        fs::write(&new_path, &whole[..len]).unwrap();
        let (recovered, found) = open_whole(dir).unwrap();
        assert_eq!((recovered.snapshot, found), (Some(old.clone()), Some(state(3, 100))));
        assert_eq!(recovered.entries.len(), 10);
    }
    // It has its name, and the older one is still there.
    Arc::clone(&new.pieces).keep(1).unwrap();
    assert_eq!(file::list(dir).unwrap().len(), 2);
    let (_, recovered) = open(dir).unwrap();
    assert_eq!(recovered.snapshot, Some(new.clone()));
    assert_eq!(recovered.entries.len(), 10);
    // The older one is gone, and the log is not purged yet; then it is. Half of one goes with the opening.
    fs::remove_file(&file::list(dir).unwrap()[0]).unwrap();
    fs::write(dir.join("snapshot-0000000000000009-00.new"), b"half").unwrap();
    snapshots_in(dir);
    assert_eq!(files(dir, ".new").len(), 0);
    let (wal, recovered) = open(dir).unwrap();
    assert_eq!((recovered.snapshot, recovered.entries.len()), (Some(new.clone()), 10));
    write(&wal, [Kind::Purged(LogPosition { term: 1, index: 6 })]);
    drop(wal);
    let (wal, recovered) = open(dir).unwrap();
    assert_eq!(recovered.entries.keys().copied().collect::<Vec<_>>(), [7, 8, 9]);
    assert_eq!((recovered.snapshot, recovered.said.purged.unwrap().index), (Some(new), 6));
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
    save(&snapshots, 100, 5);
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
    save(&snapshots, 9, 2_500_000);
    let path = only_file(dir);
    let whole = fs::read(&path).unwrap();
    for at in [0, 9, 17, 30, 60, 74, 80, 200, 1_500_000, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        match open_whole(dir) {
            Err(OpenError::Damaged { file, offset, .. }) => {
                assert_eq!(file, path);
                assert!(offset <= u64::try_from(at).unwrap(), "byte {at} said to be at {offset}");
            }
            Err(OpenError::NewerFormat { .. }) if (8..12).contains(&at) => {}
            other => panic!("byte {at}: {other:?}"),
        }
    }
    // Also where a piece ends: the end is a frame of its own, of 5 + 8 + 16 bytes.
    for len in [0, 40, 90, 1_000_000, whole.len() - 29, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(matches!(open(dir), Err(OpenError::Damaged { .. })), "cut to {len}");
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(matches!(open(dir), Err(OpenError::Damaged { .. })));
    fs::write(&path, &whole).unwrap();
    open_whole(dir).unwrap();
}

#[test]
fn is_sealed_under_this_members_key_and_may_not_go_missing() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (ours, theirs) = (sample(dir.path()), sample(other.path()));
    let text: WriteState = Box::new(|out| out.write_all(b"a state that could be read"));
    for snapshots in [&ours, &theirs] {
        Arc::clone(&build(snapshots, &meta(9), &text).unwrap().pieces).keep(0).unwrap();
    }
    let path = only_file(dir.path());
    let bytes = fs::read(&path).unwrap();
    assert!(!bytes.windows(8).any(|window| window == b"a state "), "the state is not readable");
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
    fn begin(&self, meta: &SnapshotMeta) -> io::Result<Box<dyn Sink>> {
        if !self.1.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.begin(meta)
    }

    fn current(&self) -> Option<Snapshot> {
        self.0.current()
    }

    fn simulated(&self) -> Option<Duration> {
        None
    }
}

struct State;

impl crate::StateMachine for State {
    fn apply(&self, _: u64, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    fn snapshot(&self) -> WriteState {
        Box::new(|out| out.write_all(b"state"))
    }

    fn restore(&self, state: &mut (dyn Read + Send)) -> Result<(), String> {
        let mut read = Vec::new();
        state.read_to_end(&mut read).map_err(|error| error.to_string())?;
        if read == b"state" { Ok(()) } else { Err("it is no state".to_owned()) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_waited_out() {
    use openraft::{RaftSnapshotBuilder as _, storage::RaftStateMachine as _};
    let dir = TempDir::new().unwrap();
    let full = Full(sample(dir.path()), false.into());
    let mut machine = crate::machine::Machine::new(Arc::new(State), Arc::new(full), None).unwrap();
    let built = machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let kept = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(kept.snapshot.id(), built.snapshot.id());
    assert_eq!(read(&Snapshot { meta: kept.meta, pieces: kept.snapshot }).unwrap(), b"state");
}

#[tokio::test]
async fn one_that_is_no_state_takes_the_place_of_none() {
    use openraft::storage::RaftStateMachine as _;
    let dir = TempDir::new().unwrap();
    let snapshots = Arc::new(sample(dir.path()));
    let of = |index, text: &'static [u8]| {
        let write: WriteState = Box::new(|out| out.write_all(text));
        build(&*snapshots, &meta(index), &write).unwrap()
    };
    let mut machine =
        crate::machine::Machine::new(Arc::new(State), Arc::clone(&snapshots) as _, None).unwrap();
    let (good, bad) = (of(3, b"state"), of(8, b"from a build that knows more"));
    machine.install_snapshot(&good.meta, Arc::clone(&good.pieces)).await.unwrap();
    machine.install_snapshot(&bad.meta, Arc::clone(&bad.pieces)).await.unwrap_err();
    assert_eq!(snapshots.current(), Some(good));
    drop(bad);
    only_file(dir.path());
}
