//! The write-ahead log: votes and entries, on disk before they are acknowledged, sealed from the first byte.
//!
//! Segment files of a fixed size hold batches; a batch is what one write and one sync made durable.
//! Nothing here knows openraft. See the modules for the formats and for what is torn or damaged.

pub(crate) mod batch;
pub(crate) mod files;
mod held;
pub(crate) mod open;
pub(crate) mod record;
pub(crate) mod recover;
pub(crate) mod segment;
pub(crate) mod spare;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use self::files::{Files, RealFiles};
use self::record::Record;
use crate::keys::Keys;
use crate::space;

/// Told of a file that cannot be written, and of what the system said.
pub(crate) type Hook = Arc<dyn Fn(&Path, &io::Error) + Send + Sync>;
/// Called by the writer thread once a job's records are durable, or never will be.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Who is told that the log cannot go on. From either on, nothing that is not acknowledged need be durable.
#[derive(Clone)]
pub(crate) struct Hooks {
    /// The disk is full: the member moves its lead away and stops, while what there is of the last segment
    /// lasts.
    pub(crate) full: Hook,
    /// Any other error; the default never returns.
    pub(crate) fatal: Hook,
}

impl Hooks {
    fn report(&self, file: &Path, error: &io::Error) {
        if space::is_full(error) { (self.full)(file, error) } else { (self.fatal)(file, error) }
    }
}

/// How a log is opened.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) hooks: Hooks,
    /// None: the plain ones of the directory, which are made with it.
    pub(crate) keys: Option<Keys>,
}

impl Options {
    /// What a daemon runs with.
    pub(crate) fn new(dir: &Path) -> Options {
        let full: Hook = Arc::new(|file, error| {
            tracing::error!(file = %file.display(), err = %error, "no room for the log");
        });
        Options {
            dir: dir.to_owned(),
            segment_bytes: segment::SEGMENT_BYTES,
            files: Arc::new(RealFiles),
            hooks: Hooks { full, fatal: writer::exit_hook() },
            keys: None,
        }
    }
}

/// Records to write, in order.
pub(crate) struct Job {
    records: Vec<Record>,
    /// None: these records may wait for the next batch.
    done: Option<Done>,
}

/// What the writer thread is told.
pub(crate) enum Message {
    Job(Job),
    /// Goes on in a new segment, under the data key that is current.
    Cut(Done),
    Close,
}

/// A log that is open. Dropping it writes what is queued, ends the thread and frees the directory.
pub(crate) struct Wal {
    queue: Sender<Message>,
    keys: Keys,
    /// The writer thread, and the lock of the directory. None once closed.
    held: Mutex<Option<(JoinHandle<()>, File)>>,
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").finish_non_exhaustive()
    }
}

impl Wal {
    /// What its files are sealed under.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Queues `records`; `done` is called once they and all before them are durable.
    pub(crate) fn write(&self, records: Vec<Record>, done: Done) {
        self.send(Job { records, done: Some(done) });
    }

    /// Queues a record that may become durable with any later write.
    pub(crate) fn write_lazily(&self, record: Record) {
        self.send(Job { records: vec![record], done: None });
    }

    fn send(&self, job: Job) {
        if let Err(mpsc::SendError(Message::Job(job))) = self.queue.send(Message::Job(job)) {
            job.done.into_iter().for_each(|done| done(Err(closed())));
        }
    }

    /// Has what is written from now on be in a new segment, under the data key that is current; `done` is
    /// called then.
    pub(crate) fn cut(&self, done: Done) {
        if let Err(mpsc::SendError(Message::Cut(done))) = self.queue.send(Message::Cut(done)) {
            done(Err(closed()));
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

fn closed() -> io::Error {
    io::Error::other("the log is closed")
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.close();
    }
}
