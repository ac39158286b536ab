//! What is damaged: a log, a snapshot, key files and a sealed secret that are whole.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use bytes::Bytes;

use crate::keys::{Keys, UnlockKey};
use crate::snapshot::{PIECE_BYTES, SnapshotDir, build};
use crate::types::{Membership, SnapshotMeta, StoredMembership, log_id};
use crate::wal::batch::ALIGN;
use crate::wal::record::{Content, EntryRecord, Kind, LogPosition, Record, TruncateRecord, VoteRecord};
use crate::wal::recover::Recovered;
use crate::wal::{Options, Wal};

/// A header, and room for a dozen batches.
pub(super) const SEGMENT_BYTES: u64 = 12 * 1024;
/// What the wrapped key file is wrapped under.
pub(super) const UNLOCK: &[u8] = b"an unlock key";
/// More changes than these make no other file.
const CHANGES_MAX: usize = 64;
const CHANGE_BYTES: usize = 4;

/// A file as it should be.
pub(super) struct Stored {
    pub(super) path: PathBuf,
    bytes: Vec<u8>,
}

impl Stored {
    fn read(path: PathBuf) -> Stored {
        let bytes = fs::read(&path).expect("the file can be read");
        Stored { path, bytes }
    }
}

/// A directory of a thread, which goes with this.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty one, of this name and this thread.
    #[must_use]
    pub fn new(name: &str) -> Scratch {
        let id = format!("skep-fuzz-{}-{:?}-{name}", std::process::id(), std::thread::current().id());
        let dir = std::env::temp_dir().join(id);
        // What an earlier process of that number left.
        fs::remove_dir_all(&dir).ok();
        fs::create_dir_all(&dir).expect("a directory can be made");
        Scratch(dir)
    }
}

impl std::ops::Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is in a directory for such.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// What a thread damages.
pub(super) struct Sample {
    /// Of the log.
    pub(super) dir: Scratch,
    /// Its segments.
    pub(super) log: Vec<Stored>,
    /// What they say after each batch.
    pub(super) said: Vec<Recovered>,
    pub(super) snapshot: Vec<Stored>,
    pub(super) plain: Stored,
    pub(super) wrapped: Stored,
    /// Sealed under the wrapped keys.
    pub(super) secret: Stored,
    /// Where keys may be written to.
    pub(super) copy: PathBuf,
}

thread_local! {
    static SAMPLE: RefCell<Option<Sample>> = const { RefCell::new(None) };
}

pub(super) fn with_sample(work: impl FnOnce(&Sample)) {
    SAMPLE.with_borrow_mut(|sample| work(sample.get_or_insert_with(Sample::new)));
}

/// The state in the snapshot: more than one piece.
pub(super) fn state() -> Vec<u8> {
    (0..PIECE_BYTES + 999).map(|n| u8::try_from(n % 97).expect("it is small")).collect()
}

pub(super) fn keys(dir: &Path) -> Keys {
    Keys::open(dir, None).expect("the keys are there")
}

/// What is written, a batch each.
fn batches() -> Vec<Vec<Record>> {
    let entry = |term, index: u64| {
        let text = vec![u8::try_from(index).expect("few"); 40 + usize::try_from(index).expect("few") * 50];
        Kind::Entry(EntryRecord { term, index, content: Some(Content::Command(Bytes::from(text))) })
    };
    let vote = |term, committed| Kind::Vote(VoteRecord { term, raft_id: 7, committed });
    let at = |term, index| LogPosition { term, index };
    let blank = |term, index| Kind::Entry(EntryRecord { term, index, content: None });
    let mut batches = vec![
        vec![vote(1, false)],
        vec![vote(1, true), blank(1, 0)],
        vec![entry(1, 1), entry(1, 2)],
        vec![Kind::Committed(at(1, 2)), entry(1, 3)],
        vec![entry(1, 4), entry(1, 5)],
        vec![vote(3, true)],
        vec![Kind::Truncate(TruncateRecord { keep_to: Some(3) })],
        vec![blank(3, 4)],
        vec![entry(3, 5), Kind::Purged(at(1, 1))],
    ];
    batches.extend((6..16).map(|index| vec![Kind::Committed(at(3, index - 1)), entry(3, index)]));
    batches.into_iter().map(|kinds| kinds.into_iter().map(Record::from).collect()).collect()
}

/// Writes a log in two openings, and a snapshot between them; gives what the log says after each batch.
fn write_log(dir: &Path) -> Vec<Recovered> {
    let mut said = vec![Recovered::default()];
    let batches = batches();
    let (first, second) = batches.split_at(batches.len() - 2);
    for batches in [first, second] {
        let (wal, _) = Wal::open(Options { segment_bytes: SEGMENT_BYTES, ..Options::new(dir) })
            .expect("the log can be opened");
        for batch in batches {
            let mut next = said.last().expect("there is one").clone();
            batch.iter().for_each(|record| next.take(record.clone()).expect("it is in order"));
            said.push(next);
            let (done, written) = mpsc::channel();
            let done = move |result: io::Result<()>| drop(done.send(result));
            wal.write(batch.clone(), Box::new(done));
            written.recv().expect("the writer answers").expect("the file can be written");
        }
        drop(wal);
        write_snapshot(dir);
    }
    said
}

fn write_snapshot(dir: &Path) {
    let members = Membership::new_with_defaults::<Vec<u64>>(vec![[7, 8].into()], vec![7, 8, 9]);
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(3, 9)),
        last_membership: StoredMembership::new(Some(log_id(1, 0)), members),
    };
    let snapshots = SnapshotDir::new(dir, &keys(dir)).expect("the directory is there");
    let write: crate::WriteState = Box::new(|out| out.write_all(&state()));
    build(&snapshots, &meta, &write)
        .and_then(|built| built.pieces.keep(0))
        .expect("a snapshot can be written");
}

impl Sample {
    fn new() -> Sample {
        let dir = Scratch::new("raft");
        let said = write_log(&dir);
        let all = |suffix: &str| {
            let files =
                fs::read_dir(&*dir).expect("the directory can be read").flatten().map(|file| file.path());
            let mut files: Vec<_> = files.filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
            files.sort();
            files.into_iter().map(Stored::read).collect::<Vec<_>>()
        };
        let (log, snapshot) = (all(".seg"), all(".snap"));
        assert!(log.len() > 2 && snapshot.len() == 1, "there is something to damage");
        let lock = Some((UnlockKey::new(UNLOCK), 3));
        let wrapped = Keys::create(&dir.join("wrapped"), lock).expect("the keys can be written");
        let sealed =
            wrapped.seal_secret(b"a text that nobody may read").expect("the system gives randomness");
        let secret = Stored { path: dir.join("secret"), bytes: sealed.expect("it is wrapped").bytes };
        let of = |dir: &Path| Stored::read(Keys::path(dir));
        let (plain, wrapped) = (of(&dir), of(&dir.join("wrapped")));
        Sample { log, said, snapshot, plain, wrapped, secret, copy: dir.join("copy"), dir }
    }
}

/// Files that are not as they should be.
pub(super) struct Damage<'a> {
    whole: &'a [Stored],
    /// None: it is gone.
    now: Vec<Option<Vec<u8>>>,
    /// How often something was changed, maybe back again.
    pub(super) n_changes: usize,
    /// How many files are gone.
    pub(super) n_gone: usize,
}

/// Damages files as `bytes` say, four of them each time: what is done, the place in all of the files (two), and
/// how. A byte is changed, a sector zeroed or written over by another one, a file cut, lengthened or removed, or
/// two have changed their names.
pub(super) fn damage<'a>(whole: &'a [Stored], bytes: &[u8]) -> Damage<'a> {
    let now = whole.iter().map(|file| Some(file.bytes.clone())).collect();
    let mut damage = Damage { whole, now, n_changes: 0, n_gone: 0 };
    for change in bytes.chunks_exact(CHANGE_BYTES).take(CHANGES_MAX) {
        let at = usize::from(u16::from_le_bytes([change[1], change[2]]));
        damage.change(change[0], at, change[3]);
        damage.n_changes += 1;
    }
    damage.n_gone = damage.now.iter().filter(|file| file.is_none()).count();
    damage
}

impl Damage<'_> {
    fn change(&mut self, what: u8, at: usize, how: u8) {
        let total: usize = self.whole.iter().map(|file| file.bytes.len()).sum();
        let mut at = at % total;
        let mut n = 0;
        while at >= self.whole[n].bytes.len() {
            at -= self.whole[n].bytes.len();
            n += 1;
        }
        if what % 16 == 15 {
            let other = usize::from(how) % self.now.len();
            return self.now.swap(n, other);
        }
        if what % 16 == 14 {
            self.now[n] = None;
            return;
        }
        let Some(file) = &mut self.now[n] else { return };
        let sector = at / ALIGN * ALIGN;
        match what % 16 {
            13 => file.truncate(at),
            12 => file.resize(file.len() + usize::from(how), how),
            10 | 11 => {
                let from = usize::from(how) * ALIGN;
                let sectors = (file.len() / ALIGN * ALIGN).saturating_sub(ALIGN);
                if from <= sectors && sector <= sectors && sectors > 0 {
                    file.copy_within(from..from + ALIGN, sector);
                }
            }
            8 | 9 => file.iter_mut().skip(sector).take(ALIGN).for_each(|byte| *byte = 0),
            _ => file.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= how),
        }
    }

    /// Whether any file is other than it should be.
    pub(super) fn is_real(&self) -> bool {
        self.whole.iter().zip(&self.now).any(|(whole, now)| now.as_ref() != Some(&whole.bytes))
    }

    /// The only file.
    pub(super) fn only(&self) -> Option<&[u8]> {
        self.now.first()?.as_deref()
    }

    /// Puts these bytes in the place of all of the only file.
    pub(super) fn set(&mut self, bytes: &[u8]) {
        self.now = vec![Some(bytes.to_vec())];
    }

    /// Gives each file the CRC at its end that it should have.
    pub(super) fn checksum(&mut self) {
        for file in self.now.iter_mut().flatten() {
            if let Some((text, crc)) = file.split_last_chunk_mut::<4>() {
                *crc = crc32fast::hash(text).to_le_bytes();
            }
        }
    }

    /// Has the files be so for as long as `look` looks.
    pub(super) fn while_so(&self, look: impl FnOnce()) {
        for (whole, now) in self.whole.iter().zip(&self.now) {
            match now {
                None => fs::remove_file(&whole.path).expect("the file can be removed"),
                Some(bytes) if *bytes != whole.bytes => {
                    fs::write(&whole.path, bytes).expect("the file can be written");
                }
                Some(_) => {}
            }
        }
        look();
        for whole in self.whole {
            if fs::read(&whole.path).ok().as_ref() != Some(&whole.bytes) {
                fs::write(&whole.path, &whole.bytes).expect("the file can be written");
            }
        }
    }
}
