//! The log against what a disk may do to it: torn and lost writes, failed syncs, damage, wrong keys.

mod crash;
mod damage;
mod disk;
mod full;
mod model;
mod purge;
mod torn;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::open::Found;
use super::record::{Content, EntryRecord, Kind, LogPosition, Record, TruncateRecord, VoteRecord};
use super::recover::{Recovered, Scan, scan};
use super::*;
use crate::error::OpenError;

/// How long a thread behind the log may take on a busy machine.
const BEHIND_MAX: Duration = Duration::from_secs(20);
/// Small, so that tests roll over many segments and are quick.
const TEST_SEGMENT_BYTES: u64 = 16 * 1024;

/// What the disk does is played by changing the files; syncing them for real would only take time.
struct Unsynced;

impl Files for Unsynced {
    fn sync(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// A disk whose syncs do what a test says.
struct Syncing<F>(F);

impl<F: Fn(&File) -> io::Result<()> + Send + Sync> Files for Syncing<F> {
    fn sync(&self, file: &File) -> io::Result<()> {
        (self.0)(file)
    }
}

fn options(dir: &Path) -> Options {
    with_files(dir, Arc::new(Unsynced))
}

fn with_files(dir: &Path, files: Arc<dyn Files>) -> Options {
    let panics: Hook = Arc::new(|file, e| panic!("{}: {e}", file.display()));
    let hooks = Hooks { full: Arc::clone(&panics), fatal: panics };
    Options { dir: dir.to_owned(), segment_bytes: TEST_SEGMENT_BYTES, files, hooks, keys: None }
}

fn open(dir: &Path) -> Result<(Wal, Recovered), OpenError> {
    open_with(options(dir))
}

/// As a member does it, but that no snapshot has to stand for what is purged.
fn open_with(options: Options) -> Result<(Wal, Recovered), OpenError> {
    let found = Found::read(&options)?;
    Wal::go_on(options, found)
}

fn rescan(dir: &Path) -> Result<Scan, OpenError> {
    let numbers = segment::list(dir).unwrap();
    scan(dir, &Keys::open(dir, None)?, &numbers)
}

fn entry(term: u64, index: u64, len: usize) -> Record {
    let fill = u8::try_from(index % 251).unwrap();
    let content = Some(Content::Command(Bytes::from(vec![fill; len])));
    Kind::Entry(EntryRecord { term, index, content }).into()
}

fn vote(term: u64) -> Record {
    Kind::Vote(VoteRecord { term, raft_id: 7, committed: true }).into()
}

/// Writes and waits, so that the records are a batch of their own.
fn write(wal: &Wal, records: Vec<Record>) {
    let (done, written) = mpsc::channel();
    wal.write(records, Box::new(move |result| done.send(result).unwrap()));
    written.recv().unwrap().unwrap();
}

/// A log with a vote and then one batch an entry: entries 0 to `n - 1` of `len` bytes.
fn sample(dir: &Path, n: u64, len: usize) {
    let (wal, _) = open(dir).unwrap();
    write(&wal, vec![vote(1)]);
    (0..n).for_each(|index| write(&wal, vec![entry(1, index, len)]));
}

/// What is in the directory of a log that nobody has open: an open one's spare segment comes and goes.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |file: fs::DirEntry| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap());
    fs::read_dir(dir).unwrap().map(|file| read(file.unwrap())).collect()
}

/// Where each batch of a segment begins, but for the first.
fn batches(dir: &Path, number: u64) -> Vec<usize> {
    let keys = Keys::open(dir, None).unwrap();
    let segment = segment::Loaded::read(dir, &keys, number).unwrap();
    let mut at = segment.begins_at;
    let mut found = Vec::new();
    while let batch::Found::Batch { disk_len, .. } = batch::decode(&segment.seal, &segment.bytes[at..]) {
        found.push(at);
        at += disk_len;
    }
    found
}

#[test]
fn keeps_all_records_over_many_segments_and_openings() {
    let dir = TempDir::new().unwrap();
    let mut next = 0;
    for term in 1..=4 {
        let (wal, recovered) = open(dir.path()).unwrap();
        assert_eq!(u64::try_from(recovered.entries.len()).unwrap(), next);
        write(&wal, vec![vote(term)]);
        // More than one segment holds in one job, and lazy marks in between.
        write(&wal, (next..next + 40).map(|index| entry(term, index, 700)).collect());
        wal.write_lazily(Kind::Committed(LogPosition { term, index: next + 39 }).into());
        next += 40;
    }
    assert!(segment::list(dir.path()).unwrap().len() > 2);
    let (_wal, recovered) = open(dir.path()).unwrap();
    assert_eq!(recovered.said.vote.unwrap().term, 4);
    assert_eq!(
        recovered.said.committed,
        Some(LogPosition { term: 4, index: 159 }),
        "closing writes lazy records"
    );
    let got: Vec<Record> = recovered.entries.into_values().map(|e| Kind::Entry(e).into()).collect();
    let want: Vec<Record> = (0..160).map(|index| entry(index / 40 + 1, index, 700)).collect();
    assert_eq!(got, want);
}

#[test]
fn truncation_is_kept() {
    let dir = TempDir::new().unwrap();
    sample(dir.path(), 10, 20);
    {
        let (wal, _) = open(dir.path()).unwrap();
        write(&wal, vec![Kind::Truncate(TruncateRecord { keep_to: Some(4) }).into(), entry(2, 5, 9)]);
    }
    let terms = |r: Recovered| r.entries.into_values().map(|e| e.term).collect::<Vec<_>>();
    let (wal, recovered) = open(dir.path()).unwrap();
    assert_eq!(terms(recovered), [1, 1, 1, 1, 1, 2]);
    write(&wal, vec![Kind::Truncate(TruncateRecord { keep_to: None }).into()]);
    drop(wal);
    assert_eq!(terms(open(dir.path()).unwrap().1), [0; 0]);
}

#[test]
fn what_queues_up_shares_a_sync_and_is_called_back_in_order() {
    let dir = TempDir::new().unwrap();
    let (n_syncs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(())));
    let (count, wait) = (Arc::clone(&n_syncs), Arc::clone(&gate));
    let files = Syncing(move |_: &File| {
        // Those of the spare segment are another thread's.
        if std::thread::current().name() == Some("skep-wal") {
            count.fetch_add(1, Ordering::SeqCst);
            drop(wait.lock().unwrap());
        }
        Ok(())
    });
    let (wal, _) = open_with(with_files(dir.path(), Arc::new(files))).unwrap();
    let (done, order) = mpsc::channel();
    let held = gate.lock().unwrap();
    for index in 0..50 {
        let done = done.clone();
        wal.write(vec![entry(1, index, 10)], Box::new(move |_| done.send(index).unwrap()));
    }
    assert!(order.try_recv().is_err(), "nothing is acknowledged before it is synced");
    drop(held);
    assert_eq!(order.iter().take(50).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    assert!(n_syncs.load(Ordering::SeqCst) <= 3, "one for what was first, one for the rest");
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_is_fatal() {
    let dir = TempDir::new().unwrap();
    let (failing, fatal) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (fails, count) = (Arc::clone(&failing), Arc::clone(&fatal));
    let files = Syncing(move |file: &File| {
        let is_log = std::thread::current().name() == Some("skep-wal");
        if is_log && fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("disk on fire"));
        }
        file.sync_data()
    });
    let mut options = with_files(dir.path(), Arc::new(files));
    options.hooks.fatal = Arc::new(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let (wal, _) = open_with(options).unwrap();
    write(&wal, vec![entry(1, 0, 10)]);
    failing.store(true, Ordering::SeqCst);
    let (done, results) = mpsc::channel();
    for index in 1..4 {
        let done = done.clone();
        wal.write(vec![entry(1, index, 10)], Box::new(move |result| done.send(result).unwrap()));
    }
    assert!(results.iter().take(3).all(|result| result.is_err()));
    failing.store(false, Ordering::SeqCst);
    let later = done;
    wal.write(vec![entry(1, 4, 10)], Box::new(move |result| later.send(result).unwrap()));
    assert!(results.recv().unwrap().is_err(), "a later sync that works proves nothing");
    assert_eq!(fatal.load(Ordering::SeqCst), 1);
    drop(wal);
    assert!(!open(dir.path()).unwrap().1.entries.is_empty(), "what was acknowledged is there");
}

#[test]
fn is_private_sealed_and_opened_once() {
    let dir = TempDir::new().unwrap();
    let raft = dir.path().join("a/raft");
    let (wal, _) = open(&raft).unwrap();
    let secret = b"correct horse battery staple";
    let content = Some(Content::Command(Bytes::from_static(secret)));
    write(&wal, vec![Kind::Entry(EntryRecord { term: 1, index: 0, content }).into()]);
    assert!(matches!(open(&raft), Err(OpenError::Locked { .. })));
    // While the log is open, another thread makes the spare segment and renames it.
    drop(wal);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&raft), 0o700);
    for (name, bytes) in files(&raft) {
        assert_eq!(mode(&raft.join(&name)), 0o600, "{name}");
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{name} shows the entry");
    }
    open(&raft).unwrap();
}
