//! A log made anew of all that one member has, and directories with every kind of damage explained.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::wal::record::{EntryRecord, Record};
use crate::{Alone, Config, Leadership, Raft};

/// Lines that were applied.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Lines {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl StateMachine for Lines {
    fn apply(&self, _index: u64, entry: &[u8]) -> Vec<u8> {
        self.0.lock().unwrap().push(String::from_utf8_lossy(entry).into_owned());
        Vec::new()
    }

    fn snapshot(&self) -> WriteState {
        let lines = self.all();
        Box::new(move |out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))
    }

    fn restore(&self, state: &mut (dyn Read + Send)) -> Result<(), String> {
        let mut text = String::new();
        state.read_to_string(&mut text).map_err(|e| e.to_string())?;
        *self.0.lock().unwrap() = text.lines().map(str::to_owned).collect();
        Ok(())
    }
}

/// The log of one of three members: `n` writes, of which the last `uncertain` are not known to be committed.
fn member(dir: &Path, n: u64, uncertain: u64) {
    let (wal, _) = Wal::open(Options::new(dir)).unwrap();
    let members = Membership::new_with_defaults::<Vec<u64>>(vec![BTreeSet::from([1, 2, 3])], vec![1, 2, 3]);
    let content = |index| match index {
        0 => Content::Members(codec::write_members(&members)),
        _ => Content::Command(Bytes::from(format!("write {index}"))),
    };
    let vote = VoteRecord { term: 5, raft_id: 2, committed: true };
    let mut records = vec![Record::from(Kind::Vote(vote))];
    records.extend((0..=n).map(|index| {
        let entry = EntryRecord { term: 4, index, content: Some(content(index)) };
        Record::from(Kind::Entry(entry))
    }));
    records.push(Kind::Committed(LogPosition { term: 4, index: n - uncertain }).into());
    let (done, written) = mpsc::channel();
    wal.write(records, Box::new(move |result| done.send(result).unwrap()));
    written.recv().unwrap().unwrap();
}

fn wants(n: u64) -> Vec<String> {
    (1..=n).map(|index| format!("write {index}")).collect()
}

fn keys(dir: &Path) -> Keys {
    Keys::open(dir, None).unwrap()
}

fn read_all(dir: &Path) -> (Held, Arc<Lines>) {
    let lines = Arc::new(Lines::default());
    let closed = lock(dir).unwrap();
    let held = read(dir, &closed, &keys(dir), &*lines, &mut |_, _| {}).unwrap();
    (held, lines)
}

#[test]
fn all_that_a_member_has_is_read_also_what_nobody_may_have_acknowledged() {
    let dir = TempDir::new().unwrap();
    member(dir.path(), 9, 3);
    let before = names_and_bytes(dir.path());
    let (held, lines) = read_all(dir.path());
    assert_eq!(lines.all(), wants(9));
    let voters = BTreeSet::from([1, 2, 3]);
    let expect = Held {
        term: 5,
        last: Some(9),
        last_term: 4,
        committed: Some(6),
        snapshot: None,
        voters,
        uncertain: 3,
    };
    assert_eq!(held, expect);
    assert_eq!(names_and_bytes(dir.path()), before, "reading changes nothing");
}

#[tokio::test]
async fn a_log_that_is_made_anew_has_one_member_and_goes_on() {
    let parent = TempDir::new().unwrap();
    let (old, new) = (parent.path().join("old"), parent.path().join("new"));
    member(&old, 9, 3);
    let (held, lines) = read_all(&old);
    write(&keys(&old).copy_to(&new).unwrap(), 77, &held, &lines.snapshot()).unwrap();
    assert_eq!(keys(&new).current().bytes, keys(&old).current().bytes);
    exchange(&old, &new).unwrap();
    assert_eq!(read_all(&new).1.all(), wants(9), "what was there is beside it");

    let lines = Arc::new(Lines::default());
    let raft = Raft::open(Config::new(&old, 77), lines.clone(), Arc::new(Alone)).await.unwrap();
    let mut leadership = raft.leadership();
    let leads = leadership.wait_for(|now| matches!(now, Leadership::Leader { .. }));
    let now = *tokio::time::timeout(Duration::from_secs(5), leads).await.unwrap().unwrap();
    assert!(matches!(now, Leadership::Leader { term } if term > held.term), "{now:?}");
    raft.propose("write 10".to_owned().into_bytes()).await.unwrap();
    assert_eq!(lines.all(), wants(10));
    assert_eq!(raft.status().borrow().voters, BTreeSet::from([77]));
    raft.shutdown().await;

    let (held, lines) = read_all(&old);
    assert_eq!((lines.all(), held.snapshot), (wants(10), Some(10)));
}

#[test]
fn one_that_runs_is_left_alone() {
    let dir = TempDir::new().unwrap();
    member(dir.path(), 1, 0);
    let held = Wal::open(Options::new(dir.path())).unwrap();
    assert!(matches!(lock(dir.path()), Err(OpenError::Locked { .. })));
    drop(held);
    assert!(lock(dir.path()).is_ok());
    let nothing = TempDir::new().unwrap();
    assert!(lock(nothing.path()).is_err());
    assert!(names_and_bytes(nothing.path()).is_empty());
}

fn names_and_bytes(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// A member's directory with a snapshot and a log after it.
fn sample() -> TempDir {
    let parent = TempDir::new().unwrap();
    let old = parent.path().join("old");
    member(&old, 9, 0);
    let (held, lines) = read_all(&old);
    let keys = keys(&old).copy_to(&parent.path().join("raft")).unwrap();
    write(&keys, 1, &held, &lines.snapshot()).unwrap();
    parent
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], at).unwrap();
}

/// Damages a directory in the way of this name.
fn damage(dir: &Path, name: &str) {
    let key = Keys::path(dir);
    let snapshot = snapshot::list(dir).unwrap().pop().unwrap();
    let last = segment::path(dir, *segment::list(dir).unwrap().last().unwrap());
    match name {
        "none" => {}
        "no key" => fs::remove_file(key).unwrap(),
        "short key" => fs::write(key, "x").unwrap(),
        "other key" => fs::write(key, crate::keys::plain_file([7; 32])).unwrap(),
        "a bit of the segment's header" => flip(&last, 50),
        "a bit of a batch" => flip(&last, 4096 + 40),
        "a bit of the snapshot" => flip(&snapshot, 130),
        "no snapshot" => fs::remove_file(snapshot).unwrap(),
        other => panic!("{other}"),
    }
}

#[test]
fn each_kind_of_damage_is_named_by_its_file() {
    use Verdict::{Damaged, Missing, Ok};
    for (name, file, verdict, words) in [
        ("none", "", Ok, "the log as a whole"),
        ("no key", "keys", Missing, "put it back"),
        ("short key", "keys", Damaged, "too short"),
        ("other key", ".seg", Damaged, "was not sealed under"),
        ("a bit of the segment's header", ".seg", Damaged, "at byte 0"),
        ("a bit of a batch", ".seg", Damaged, "at byte 4096"),
        ("a bit of the snapshot", ".snap", Damaged, "at byte"),
        ("no snapshot", "raft", Damaged, "the snapshot that has it is missing"),
    ] {
        let parent = sample();
        let dir = parent.path().join("raft");
        damage(&dir, name);
        let before = names_and_bytes(&dir);
        let findings = examine(&dir, None);
        let is_it = |finding: &&Finding| {
            let path = finding.path.to_string_lossy();
            path.ends_with(file) && finding.verdict == verdict && finding.words.contains(words)
        };
        assert!(findings.iter().any(|finding| is_it(&finding)), "{name}: {findings:#?}");
        let is_fine = findings.iter().all(|finding| finding.verdict == Ok);
        assert_eq!(is_fine, name == "none", "{name}: {findings:#?}");
        assert_eq!(names_and_bytes(&dir), before, "{name}: nothing is changed");
    }
}
