//! The key file against damage, wrong keys and crashes between its operations; data keys that come and go.

use std::fs::File;
use std::sync::mpsc;

use tempfile::TempDir;

use super::*;
use crate::wal::record::{EntryRecord, Kind, LogPosition, Record};
use crate::wal::{Options, Wal};

fn key(fill: u8) -> UnlockKey {
    UnlockKey::new([fill; 32])
}

fn bytes(dir: &Path) -> Vec<u8> {
    fs::read(Keys::path(dir)).unwrap()
}

fn current(keys: &Keys) -> [u8; 32] {
    keys.current().bytes
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_wrapped_file_opens_with_its_unlock_key_alone() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    assert!(matches!(Keys::open(dir, None), Err(OpenError::MissingKey { .. })));
    assert!(!Keys::are_wrapped(dir).unwrap());
    let keys = Keys::create(dir, None).unwrap();
    let plain = current(&keys);
    assert!(holds(&bytes(dir), &plain), "a plain file is plain");
    assert_eq!(keys.follow(Some(key(1)), 3).unwrap(), Followed::Locked);
    assert!(Keys::are_wrapped(dir).unwrap());
    assert_ne!(current(&keys), plain, "whoever read the disk before has the old one");
    for data_key in [plain, current(&keys)] {
        assert!(!holds(&bytes(dir), &data_key));
    }
    assert!(!holds(&bytes(dir), key(1).reveal()));
    assert!(matches!(Keys::open(dir, None), Err(OpenError::KeyLocked { .. })));
    assert!(matches!(Keys::open(dir, Some(&key(2))), Err(OpenError::WrongUnlockKey { .. })));
    assert!(matches!(Keys::open(dir, Some(&UnlockKey::new(*b"x"))), Err(OpenError::WrongUnlockKey { .. })));
    let opened = Keys::open(dir, Some(&key(1))).unwrap();
    assert_eq!((opened.numbers(), opened.lock(), current(&opened)), (vec![1, 2], (true, 3), current(&keys)));
    let mode = fs::metadata(Keys::path(dir)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(format!("{:?} {:?}", key(1), keys.current()), "UnlockKey(redacted) DataKey(2, redacted)");
    assert_eq!(format!("{keys:?}"), "Keys { numbers: [1, 2], is_wrapped: true, lock_version: 3, .. }");
}

#[test]
fn the_swarms_changes_are_followed_once_and_in_their_order() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let keys = Keys::create(dir, Some((key(1), 1))).unwrap();
    assert_eq!((keys.numbers(), keys.lock()), (vec![1], (true, 1)));
    let data_key = current(&keys);
    for (unlock, version, expect, is_wrapped) in [
        (Some(key(2)), 4, Followed::Rewrapped, true),
        // The log is read anew at each start: what was is passed by again.
        (Some(key(1)), 1, Followed::Nothing, true),
        (None, 3, Followed::Nothing, true),
        (Some(key(2)), 4, Followed::Nothing, true),
        (None, 5, Followed::Rewrapped, false),
    ] {
        assert_eq!(keys.follow(unlock, version).unwrap(), expect);
        assert_eq!((Keys::are_wrapped(dir).unwrap(), current(&keys)), (is_wrapped, data_key));
    }
    assert_eq!(keys.follow(Some(key(3)), 6).unwrap(), Followed::Locked);
    assert_ne!(current(&keys), data_key);
    let opened = Keys::create(dir, Some((key(3), 6))).unwrap();
    assert_eq!(opened.numbers(), [1, 2], "keys that are there stay");
}

#[test]
fn every_byte_counts() {
    for lock in [None, Some((key(1), 7))] {
        let dir = TempDir::new().unwrap();
        let dir = dir.path();
        Keys::create(dir, lock.clone()).unwrap();
        let unlock = lock.as_ref().map(|(unlock, _)| unlock);
        let whole = bytes(dir);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(Keys::path(dir), &bytes).unwrap();
            let error = Keys::open(dir, unlock).unwrap_err();
            assert!(matches!(error, OpenError::DamagedKeys { .. }), "byte {at}: {error}");
            assert!(matches!(Keys::are_wrapped(dir), Err(OpenError::DamagedKeys { .. })), "byte {at}");
            fs::write(Keys::path(dir), &whole[..at]).unwrap();
            let error = Keys::open(dir, unlock).unwrap_err();
            assert!(matches!(error, OpenError::DamagedKeys { .. }), "cut to {at}: {error}");
            // Whoever makes the checksum fit still does not get past the seal.
            if lock.is_some() {
                let crc_at = whole.len() - 4;
                let mut bytes = whole.clone();
                bytes[at] ^= 0x10;
                let crc = crc32fast::hash(&bytes[..crc_at]);
                bytes[crc_at..].copy_from_slice(&crc.to_le_bytes());
                fs::write(Keys::path(dir), &bytes).unwrap();
                assert!(at >= crc_at || Keys::open(dir, unlock).is_err(), "byte {at}");
            }
        }
        fs::write(Keys::path(dir), &whole).unwrap();
        Keys::open(dir, unlock).unwrap();
    }
}

#[test]
fn a_newer_format_is_said() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    Keys::create(dir, None).unwrap();
    let mut bytes = bytes(dir);
    bytes[8] = 9;
    let crc_at = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..crc_at]);
    bytes[crc_at..].copy_from_slice(&crc.to_le_bytes());
    fs::write(Keys::path(dir), &bytes).unwrap();
    assert!(matches!(Keys::open(dir, None), Err(OpenError::NewerFormat { version: 9, known: 1, .. })));
}

/// A disk that stops before the operation of a number, and loses a written file that was not synced.
struct Stopping(std::sync::atomic::AtomicUsize);

impl Stopping {
    fn step(&self) -> io::Result<()> {
        use std::sync::atomic::Ordering;
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        left.map(drop).map_err(|_| io::Error::other("the power is cut"))
    }
}

impl Files for Stopping {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.step()?;
        RealFiles.create(path)
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        // Half of it is there, whatever comes.
        RealFiles.write(file, &bytes[..bytes.len() / 2], offset)?;
        self.step()?;
        RealFiles.write(file, bytes, offset)
    }

    fn sync(&self, _: &File) -> io::Result<()> {
        self.step()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        RealFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealFiles.remove(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.step()
    }
}

#[test]
fn a_crash_between_any_two_operations_leaves_the_old_file_or_the_new_one() {
    // Locked, rewrapped, unlocked: what the file was and what it is to be.
    let changes = [(None, Some(key(2))), (Some(key(1)), Some(key(2))), (Some(key(1)), None)];
    for (before, after) in changes {
        let (mut stopped, mut done) = (0, false);
        while !done {
            let dir = TempDir::new().unwrap();
            let dir = dir.path();
            let made = Keys::create(dir, before.clone().map(|unlock| (unlock, 1))).unwrap();
            let data_key = current(&made);
            let files = Arc::new(Stopping(stopped.into()));
            let keys = Keys::open_with(dir, before.as_ref(), files).unwrap();
            done = keys.follow(after.clone(), 2).is_ok();
            let old = Keys::open(dir, before.as_ref());
            let new = Keys::open(dir, after.as_ref());
            let found = new.or(old).unwrap_or_else(|error| panic!("after {stopped} operations: {error}"));
            assert_eq!(found.get(1).unwrap().bytes, data_key, "the log's key is there");
            // The next attempt does it, whatever is left lying about.
            found.follow(after.clone(), 3).unwrap();
            Keys::open(dir, after.as_ref()).unwrap();
            assert!(!dir.join("keys.new").exists());
            stopped += 1;
        }
        assert!(stopped > 5, "each operation was broken once");
    }
}

fn open(dir: &Path, keys: &Keys) -> (Wal, crate::wal::recover::Recovered) {
    let options = Options { segment_bytes: 64 * 1024, keys: Some(keys.clone()), ..Options::new(dir) };
    Wal::open(options).unwrap()
}

fn write(wal: &Wal, kinds: impl IntoIterator<Item = Kind>) {
    let (done, written) = mpsc::channel();
    let records = kinds.into_iter().map(Record::from).collect();
    wal.write(records, Box::new(move |result| done.send(result).unwrap()));
    written.recv().unwrap().unwrap();
}

fn entries(range: std::ops::Range<u64>) -> impl Iterator<Item = Kind> {
    range.map(|index| Kind::Entry(EntryRecord { term: 1, index, content: None }))
}

#[test]
fn a_log_of_several_keys_is_read_and_a_key_that_nothing_names_is_forgotten() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let keys = Keys::create(dir, None).unwrap();
    let (wal, _) = open(dir, &keys);
    write(&wal, entries(0..10));
    keys.follow(Some(key(1)), 1).unwrap();
    let (done, cut) = mpsc::channel();
    wal.cut(Box::new(move |result| done.send(result).unwrap()));
    cut.recv().unwrap().unwrap();
    write(&wal, entries(10..20));
    keys.tidy().unwrap();
    assert_eq!(keys.numbers(), [1, 2], "a segment names it");
    drop(wal);
    // Crashed here: all of it is read under both.
    let keys = Keys::open(dir, Some(&key(1))).unwrap();
    let (wal, recovered) = open(dir, &keys);
    assert_eq!(recovered.entries.len(), 20);
    write(&wal, entries(20..21));
    // The log before the cut goes, and the key with it; no snapshot stands for it here.
    write(&wal, [Kind::Purged(LogPosition { term: 1, index: 12 })]);
    drop(wal);
    keys.tidy().unwrap();
    assert_eq!(keys.numbers(), [2]);
    assert_eq!(Keys::open(dir, Some(&key(1))).unwrap().numbers(), [2]);
}

#[test]
fn a_key_that_somebody_holds_is_not_forgotten() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let keys = Keys::create(dir, None).unwrap();
    assert!(keys.seal_secret(b"tls key").unwrap().is_none(), "plain keys would protect nothing");
    keys.follow(Some(key(1)), 1).unwrap();
    let sealed = keys.seal_secret(b"tls key").unwrap().unwrap();
    keys.follow(None, 2).unwrap();
    keys.follow(Some(key(2)), 3).unwrap();
    keys.tidy().unwrap();
    assert_eq!(keys.numbers(), [2, 3]);
    let (text, held) = keys.open_secret(&sealed.bytes).unwrap();
    assert_eq!(text, b"tls key");
    let SealedSecret { bytes, held: first } = sealed;
    drop(first);
    keys.tidy().unwrap();
    assert_eq!(keys.numbers(), [2, 3]);
    drop(held);
    keys.tidy().unwrap();
    assert_eq!(keys.numbers(), [3]);
    assert!(keys.open_secret(&bytes).unwrap_err().contains("not there"));
}

#[test]
fn a_secret_that_was_altered_is_refused() {
    let dir = TempDir::new().unwrap();
    let keys = Keys::create(dir.path(), Some((key(1), 1))).unwrap();
    let sealed = keys.seal_secret(b"a tls key in PEM").unwrap().unwrap().bytes;
    assert!(!holds(&sealed, b"a tls"));
    for at in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 1;
        keys.open_secret(&altered).unwrap_err();
        keys.open_secret(&sealed[..at]).unwrap_err();
    }
}
