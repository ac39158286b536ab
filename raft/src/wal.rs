//! The write-ahead log: votes and entries, on disk before they are acknowledged, sealed from the first byte.
//!
//! Segment files of a fixed size hold batches; a batch is what one write and one sync made durable.
//! Nothing here knows openraft. See the modules for the formats and for what is torn or damaged.

pub(crate) mod batch;
pub(crate) mod record;
pub(crate) mod recover;
pub(crate) mod seal;
pub(crate) mod segment;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::FlockOperation;

use self::record::Record;
use self::recover::Recovered;
use self::seal::DataKey;
use self::segment::Segment;
use self::writer::Writer;
use crate::error::OpenError;
use crate::snapshot;

/// Told of a failed write; the default never returns.
pub(crate) type FatalHook = Arc<dyn Fn(&Path, &io::Error) + Send + Sync>;
/// Called by the writer thread once a job's records are durable, or never will be.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// An opening that finds so many segments begins the log anew,
const SEGMENTS_AT_OPENING: usize = 8;
/// and so does a purge.
const SEGMENTS_AT_PURGE: usize = 3;

/// How a log is opened.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) sync: segment::SyncFile,
    pub(crate) on_fatal: FatalHook,
}

impl Options {
    /// What a daemon runs with.
    pub(crate) fn new(dir: &Path) -> Options {
        Options {
            dir: dir.to_owned(),
            segment_bytes: segment::SEGMENT_BYTES,
            sync: Arc::new(File::sync_data),
            on_fatal: writer::exit_hook(),
        }
    }
}

/// Records to write, in order.
pub(crate) struct Job {
    records: Vec<Record>,
    /// None: these records may wait for the next batch.
    done: Option<Done>,
    /// The log begins anew with these records.
    anew: bool,
}

/// What the writer thread is told.
pub(crate) enum Message {
    Job(Job),
    Close,
}

/// A log that is open. Dropping it writes what is queued, ends the thread and frees the directory.
pub(crate) struct Wal {
    queue: Sender<Message>,
    /// The writer thread, and the lock of the directory. None once closed.
    held: Mutex<Option<(JoinHandle<()>, File)>>,
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").finish_non_exhaustive()
    }
}

impl Wal {
    /// Reads the log in `options.dir`, cuts a torn tail, and begins a new segment.
    pub(crate) fn open(options: Options) -> Result<(Wal, Recovered), OpenError> {
        let dir = options.dir.clone();
        let lock = lock_dir(&dir)?;
        let numbers = segment::list(&dir).map_err(OpenError::io("list", &dir))?;
        let key = DataKey::load(&dir, !numbers.is_empty() || snapshot::exists(&dir)?)?;
        let mut scan = recover::scan(&dir, &key, &numbers)?;
        scan.recovered.snapshot = snapshot::load(&dir, &key)?;
        scan.recovered.check(&dir)?;
        // The tail is gone from the disk before its sequence number is given out again.
        if let Some((file, offset)) = &scan.torn {
            tracing::warn!(file = %file.display(), offset, "cut the torn tail of the log: a write that was never acknowledged");
            segment::cut(file, *offset)?;
        }
        segment::remove_before(&dir, scan.begins_at)
            .map_err(OpenError::io("remove old segments from", &dir))?;
        let number = numbers.last().map_or(1, |last| last + 1);
        let segment = Segment::create(&dir, &key, number, scan.next_sequence, options.segment_bytes)?;
        let mut writer = Writer {
            dir,
            key,
            segment,
            segment_bytes: options.segment_bytes,
            next_sequence: scan.next_sequence,
            sync: options.sync,
            on_fatal: options.on_fatal,
            body: Vec::new(),
        };
        // Each opening begins a segment: those of many restarts would fill the disk.
        writer
            .begin_anew(&scan.recovered.records(), SEGMENTS_AT_OPENING)
            .map_err(OpenError::io("begin anew the log in", &options.dir))?;
        let (queue, jobs) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("skep-wal".to_owned())
            .spawn(move || writer.run(&jobs))
            .map_err(OpenError::io("start the thread that writes", &options.dir))?;
        Ok((Wal { queue, held: Mutex::new(Some((thread, lock))) }, scan.recovered))
    }

    /// Queues `records`; `done` is called once they and all before them are durable.
    pub(crate) fn write(&self, records: Vec<Record>, done: Done) {
        self.send(Job { records, done: Some(done), anew: false });
    }

    /// Queues a record that may become durable with any later write.
    pub(crate) fn write_lazily(&self, record: Record) {
        self.send(Job { records: vec![record], done: None, anew: false });
    }

    /// Lets the log begin anew with `records`, which say all that was queued before ([`record::anew`]), and
    /// frees the disk of what is older; if it is worth it, and they are not too many.
    pub(crate) fn begin_anew(&self, records: Vec<Record>) {
        self.send(Job { records, done: None, anew: true });
    }

    fn send(&self, job: Job) {
        if let Err(mpsc::SendError(Message::Job(job))) = self.queue.send(Message::Job(job)) {
            job.done.into_iter().for_each(|done| done(Err(io::Error::other("the log is closed"))));
        }
    }

    /// Writes what is queued, ends the writer thread and frees the directory.
    pub(crate) fn close(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((thread, _lock)) = held {
            // An error means that the thread is gone already.
            self.queue.send(Message::Close).ok();
            if thread.join().is_err() {
                tracing::error!("the thread that writes the log has panicked");
            }
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.close();
    }
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
