//! The thread that writes the log: one write and one sync for all that queued up meanwhile.
//!
//! A job's `done` is called, in order, only once its records are durable. Lazy jobs (commit marks) ride
//! along with the next batch. After a failed write or sync the state of the disk is unknown, and a
//! second sync may lie: nothing is written any more. The next opening reads what is there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::files::Files;
use super::held::Held;
use super::record::{self, Record, Said};
use super::segment::{BASE_BYTES, HEADER_BYTES, Place, Segment};
use super::spare::{self, Keeper};
use super::{Done, Hook, Hooks, Job, Message, batch};
use crate::error::OpenError;
use crate::keys::Keys;

/// Queued jobs are joined up to about this many bytes: beyond, a sync costs little against the write,
/// and the first of them should not wait for the last.
pub(super) const BATCH_TARGET_BYTES: usize = 1024 * 1024;
/// The exit status after a failed write: EX_IOERR of sysexits.
const EXIT_WRITE_FAILED: i32 = 74;

/// What the writer thread owns.
pub(crate) struct Writer {
    pub(crate) dir: PathBuf,
    pub(crate) keys: Keys,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) hooks: Hooks,
    pub(crate) keeper: Keeper,
    pub(crate) segment: Segment,
    pub(crate) segment_bytes: u64,
    pub(crate) next_sequence: u64,
    /// Which segments still count.
    pub(crate) held: Held,
    /// Where the log stands, without the next batch
    pub(crate) said: Said,
    /// and with it.
    pub(crate) saying: Said,
    /// The plain text of the next batch.
    pub(crate) body: Vec<u8>,
}

/// A file of the log that could not be written.
struct Failed {
    file: PathBuf,
    error: io::Error,
}

impl Writer {
    /// Serves the queue until `Close`, or until all senders are gone.
    pub(crate) fn run(mut self, queue: &Receiver<Message>) {
        let mut closing = false;
        while !closing && let Ok(first) = queue.recv() {
            let mut dones = Vec::new();
            let result = match first {
                Message::Job(first) => self.serve(first, queue, &mut dones, &mut closing),
                Message::Cut(done) => self.cut(done, &mut dones),
                Message::Close => break,
            };
            let Err(failed) = result else {
                dones.into_iter().for_each(|done| done(Ok(())));
                continue;
            };
            self.hooks.report(&failed.file, &failed.error);
            // Out of space, or a test's hook: nothing is durable from here on.
            dones.into_iter().for_each(|done| done(Err(again(&failed.error))));
            return refuse_all(queue, &failed.error, closing);
        }
        if let Err(failed) = self.flush() {
            self.hooks.report(&failed.file, &failed.error);
        }
    }

    /// Writes `first` and what queued up behind it; gathers what is to be called then.
    fn serve(
        &mut self,
        first: Job,
        queue: &Receiver<Message>,
        dones: &mut Vec<Done>,
        closing: &mut bool,
    ) -> Result<(), Failed> {
        let mut job = first;
        loop {
            self.add(job, dones)?;
            if self.body.len() >= BATCH_TARGET_BYTES {
                break;
            }
            match queue.try_recv() {
                Ok(Message::Job(next)) => job = next,
                Ok(Message::Close) => {
                    *closing = true;
                    break;
                }
                Ok(Message::Cut(done)) => return self.cut(done, dones),
                Err(_) => break,
            }
        }
        if dones.is_empty() { Ok(()) } else { self.flush() }
    }

    /// Writes what there is, and goes on in a new segment.
    fn cut(&mut self, done: Done, dones: &mut Vec<Done>) -> Result<(), Failed> {
        dones.push(done);
        self.flush()?;
        self.change_segment()
    }

    /// Puts a job's records into the next batch; writes batches as they fill up.
    fn add(&mut self, job: Job, dones: &mut Vec<Done>) -> Result<(), Failed> {
        dones.extend(job.done);
        for record in &job.records {
            if self.body.len() + record::encoded_len(record) > body_max(self.segment_bytes) {
                self.flush()?;
            }
            record::encode(record, &mut self.body);
            self.saying.take(record);
            self.held.take(record);
        }
        Ok(())
    }

    /// Writes these records as one batch on the calling thread, for a simulation: they are durable on return,
    /// or the disk failed and it is not known which of them are.
    pub(crate) fn write_here(&mut self, records: Vec<Record>) -> io::Result<()> {
        let job = Job { records, done: None };
        self.add(job, &mut Vec::new()).and_then(|()| self.flush()).map_err(|failed| failed.error)
    }

    fn flush(&mut self) -> Result<(), Failed> {
        if self.body.is_empty() {
            return Ok(());
        }
        if !self.segment.fits(self.body.len()) {
            self.change_segment()?;
        }
        self.segment
            .append(&*self.files, self.next_sequence, &self.body)
            .map_err(|error| Failed { file: self.segment.path.clone(), error })?;
        self.next_sequence += 1;
        self.body.clear();
        self.said = self.saying.clone();
        let dead = self.held.written();
        if !dead.is_empty() {
            self.keeper.remove(dead);
        }
        Ok(())
    }

    /// Goes on in the spare segment.
    fn change_segment(&mut self) -> Result<(), Failed> {
        let from = spare::path(&self.dir);
        let file = self.keeper.take().map_err(|error| Failed { file: from.clone(), error })?;
        let key = self.keys.current();
        let place = Place {
            dir: &self.dir,
            key: &key,
            number: self.segment.number + 1,
            first_sequence: self.next_sequence,
            bytes: self.segment_bytes,
        };
        self.segment = Segment::begin(&*self.files, &place, file, &from, &self.said, [])
            .map_err(|error| Failed { file: from, error: into_io(error) })?;
        self.next_sequence += 1;
        self.held.begin(self.segment.number);
        self.keeper.make_next();
        Ok(())
    }
}

/// The most plain text that a fresh segment has room for.
pub(crate) fn body_max(segment_bytes: u64) -> usize {
    let room = usize::try_from(segment_bytes - HEADER_BYTES).expect("a segment fits in memory");
    room - BASE_BYTES - batch::FRAME_BYTES
}

fn into_io(error: OpenError) -> io::Error {
    // The kind tells a full disk from a broken one.
    if let OpenError::Io { source, .. } = error { source } else { io::Error::other(error) }
}

/// The same error for another caller.
fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

fn refuse_all(queue: &Receiver<Message>, error: &io::Error, closing: bool) {
    while !closing && let Ok(message) = queue.recv() {
        match message {
            Message::Job(job) => job.done.into_iter().for_each(|done| done(Err(again(error)))),
            Message::Cut(done) => done(Err(again(error))),
            Message::Close => return,
        }
    }
}

/// Says what to do, and ends the process.
pub(crate) fn exit_hook() -> Hook {
    Arc::new(|file: &Path, error: &io::Error| {
        tracing::error!(
            file = %file.display(), err = %error,
            advice = "check the disk and the kernel's log, then start again",
            "the log cannot be written; stopping at once, as nothing more can be acknowledged"
        );
        std::process::exit(EXIT_WRITE_FAILED);
    })
}
