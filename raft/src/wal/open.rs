//! An opening of the log: locked, read, its end made durable, a new segment begun.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, mpsc};

use rustix::fs::FlockOperation;

use super::files::Files;
use super::held::Held;
use super::record::{self, EntryRecord, Kind, Record, Said};
use super::recover::{self, Recovered, Scan};
use super::segment::{self, Place, Segment};
use super::spare::{self, Keeper};
use super::writer::{BATCH_TARGET_BYTES, Writer};
use super::{Options, Wal, batch};
use crate::error::OpenError;
use crate::keys::Keys;
use crate::snapshot::{self, Snapshot};
use crate::space;

/// An opening that would leave more segments than these, most of which is of no use, writes anew what
/// counts: each opening begins a segment, and those of many restarts would fill the disk.
const SEGMENTS_AT_OPENING: usize = 8;

impl Wal {
    /// Reads the log in `options.dir`, makes its end durable, and begins a new segment.
    pub(crate) fn open(options: Options) -> Result<(Wal, Recovered), OpenError> {
        let dir = options.dir.clone();
        let opened = Found::read(&options).and_then(|mut found| {
            found.take_snapshot(snapshot::load(&dir, &found.keys)?);
            found.check(&dir)?;
            Wal::go_on(options, found)
        });
        opened.map_err(|error| space::no_space(error, &dir))
    }

    /// Goes on with a log that was found whole.
    pub(super) fn go_on(options: Options, found: Found) -> Result<(Wal, Recovered), OpenError> {
        let (dir, keys) = (options.dir.clone(), found.keys.clone());
        let (writer, lock, recovered) = begin(options, found)?;
        let (queue, jobs) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("skep-wal".to_owned())
            .spawn(move || writer.run(&jobs))
            .map_err(OpenError::io("start the thread that writes", &dir))?;
        Ok((Wal { queue, keys, held: Mutex::new(Some((thread, lock))) }, recovered))
    }
}

/// Makes the end of a log durable and begins a new segment; the lock frees the directory when it goes.
pub(crate) fn begin(options: Options, found: Found) -> Result<(Writer, File, Recovered), OpenError> {
    let Found { lock, keys, numbers, scan } = found;
    let Options { dir, segment_bytes, files, hooks, keys: _ } = options;
    let key = keys.current();
    let Scan { recovered, mut next_sequence, tail, mut held, .. } = scan;
    if let Some(tail) = &tail {
        if tail.is_torn {
            tracing::warn!(file = %tail.path.display(), "cut the torn tail of the log: a write that was never acknowledged");
        }
        segment::settle(&*files, tail)?;
    }
    let is_old = |number: &u64| held.first().is_some_and(|first| *number < first);
    let (old, live): (Vec<u64>, Vec<u64>) = numbers.iter().partition(|number| is_old(number));
    segment::remove(&*files, &dir, &old).map_err(OpenError::io("remove old segments from", &dir))?;
    files.remove(&spare::new_path(&dir)).map_err(OpenError::io("clean up", &dir))?;
    let mut number = numbers.last().map_or(1, |last| last + 1);
    let place = Place { dir: &dir, key: &key, number, first_sequence: next_sequence, bytes: segment_bytes };
    if let Some(anew) = Anew::of(&dir, &live, &recovered)?
        && anew.write(&*files, &place, &recovered)?
    {
        segment::remove(&*files, &dir, &live).map_err(OpenError::io("remove old segments from", &dir))?;
        held = anew.held(number, &recovered);
        (number, next_sequence) = (number + 1, next_sequence + anew.n_batches());
    }
    let from = spare::path(&dir);
    let file = match spare::find(&dir, segment_bytes).map_err(OpenError::io("read", &from))? {
        Some(file) => file,
        None => spare::make(&*files, &dir, segment_bytes, &AtomicBool::new(false))
            .map_err(OpenError::io("make", &from))?,
    };
    let place = Place { number, first_sequence: next_sequence, ..place };
    let segment = Segment::begin(&*files, &place, file, &from, &recovered.said, [])?;
    held.begin(number);
    let keeper = Keeper::start(files.clone(), &dir, segment_bytes, hooks.clone(), keys.clone())?;
    let (said, saying) = (recovered.said.clone(), recovered.said.clone());
    let (next_sequence, body) = (next_sequence + 1, Vec::new());
    let writer = Writer {
        dir,
        keys,
        files,
        hooks,
        keeper,
        segment,
        segment_bytes,
        next_sequence,
        held,
        said,
        saying,
        body,
    };
    Ok((writer, lock, recovered))
}

/// What a directory holds, and the right to change it.
pub(crate) struct Found {
    lock: File,
    keys: Keys,
    numbers: Vec<u64>,
    scan: Scan,
}

impl Found {
    /// Changes nothing but for a directory or a key that is missing.
    pub(crate) fn read(options: &Options) -> Result<Found, OpenError> {
        let dir = &options.dir;
        let lock = lock_dir(dir)?;
        let keys = match &options.keys {
            Some(keys) => keys.clone(),
            None => Keys::load(dir, options.files.clone())?,
        };
        let numbers = segment::list(dir).map_err(OpenError::io("list", dir))?;
        let scan = recover::scan(dir, &keys, &numbers)?;
        Ok(Found { lock, keys, numbers, scan })
    }

    /// Whether the log ends in what is left of a write.
    pub(crate) fn is_torn(&self) -> bool {
        self.scan.tail.as_ref().is_some_and(|tail| tail.is_torn)
    }

    /// The state that the log goes on from.
    pub(crate) fn take_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.scan.recovered.snapshot = snapshot;
    }

    /// That it and the log fit.
    pub(crate) fn check(&self, dir: &Path) -> Result<(), OpenError> {
        self.scan.recovered.check(dir)
    }
}

/// One segment with all entries that count, in the place of many that hold little.
struct Anew {
    /// Of its batches, the index of the first entry and the length of the plain text.
    batches: Vec<(u64, usize)>,
}

impl Anew {
    /// None if it is not worth it.
    fn of(dir: &Path, live: &[u64], recovered: &Recovered) -> Result<Option<Anew>, OpenError> {
        if live.len() < SEGMENTS_AT_OPENING {
            return Ok(None);
        }
        let mut taken = 0;
        for number in live {
            let path = segment::path(dir, *number);
            taken += fs::metadata(&path).map_err(OpenError::io("inspect", &path))?.len();
        }
        let mut batches: Vec<(u64, usize)> = Vec::new();
        for (index, entry) in &recovered.entries {
            let len = record::encoded_len(&record_of(entry));
            match batches.last_mut() {
                Some((_, plain)) if *plain < BATCH_TARGET_BYTES => *plain += len,
                Some(_) | None => batches.push((*index, len)),
            }
        }
        let anew = Anew { batches };
        Ok((anew.bytes() * 2 <= taken).then_some(anew))
    }

    /// The size of the segment.
    fn bytes(&self) -> u64 {
        let len: usize = self.batches.iter().map(|(_, plain)| batch::disk_len(*plain)).sum();
        segment::HEADER_BYTES + u64::try_from(segment::BASE_BYTES + len).expect("a length fits in 64 bits")
    }

    /// How many sequence numbers it takes.
    fn n_batches(&self) -> u64 {
        1 + u64::try_from(self.batches.len()).expect("a length fits in 64 bits")
    }

    /// Cut off anywhere, it is not there. False if there is no room for it: the log is whole as it is.
    fn write(&self, files: &dyn Files, place: &Place<'_>, recovered: &Recovered) -> Result<bool, OpenError> {
        let from = spare::new_path(place.dir);
        let said = Said { next: recovered.said.first(), ..recovered.said.clone() };
        let place = Place { bytes: self.bytes(), ..*place };
        let ends = self.batches.iter().skip(1).map(|(first, _)| *first).chain([recovered.said.next]);
        let plains = self.batches.iter().zip(ends).map(|((first, len), end)| {
            let mut plain = Vec::with_capacity(*len);
            let entries = recovered.entries.range(*first..end);
            entries.for_each(|(_, entry)| record::encode(&record_of(entry), &mut plain));
            plain
        });
        let begun = files
            .create(&from)
            .map_err(OpenError::io("create", &from))
            .and_then(|file| Segment::begin(files, &place, file, &from, &said, plains));
        match begun.map_err(|error| space::no_space(error, place.dir)) {
            Ok(_) => Ok(true),
            Err(OpenError::NoSpace(why)) => {
                tracing::warn!(%why, "old segments of the log stay for now");
                files.remove(&from).map_err(OpenError::io("remove", &from))?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn held(&self, number: u64, recovered: &Recovered) -> Held {
        let mut held = Held::new();
        held.begin(number);
        recovered.entries.values().for_each(|entry| held.take(&record_of(entry)));
        held.written();
        held
    }
}

fn record_of(entry: &EntryRecord) -> Record {
    Kind::Entry(entry.clone()).into()
}

/// Makes the directory if it is missing, and locks it for as long as the file is held.
fn lock_dir(dir: &Path) -> Result<File, OpenError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(OpenError::io("create", dir))?;
    let path = dir.join("lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(OpenError::io("open", &path))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Locked { dir: dir.to_owned() }),
        Err(e) => return Err(OpenError::io("lock", &path)(e.into())),
    }
    let mode = fs::metadata(dir).map_err(OpenError::io("inspect", dir))?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .map_err(OpenError::io("close to others", dir))?;
    }
    Ok(lock)
}
