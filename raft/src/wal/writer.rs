//! The thread that writes the log: one write and one sync for all that queued up meanwhile.
//!
//! A job's `done` is called, in order, only once its records are durable. Lazy jobs (commit marks) ride
//! along with the next batch. After a failed write or sync the state of the disk is unknown, and a
//! second sync may lie: the process ends, and the next opening reads what is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::record::{self, Record};
use super::seal::DataKey;
use super::segment::{self, HEADER_BYTES, Segment, SyncFile};
use super::{Done, FatalHook, Job, Message, SEGMENTS_AT_PURGE, batch};
use crate::error::OpenError;

/// Queued jobs are joined up to about this many bytes: beyond, a sync costs little against the write,
/// and the first of them should not wait for the last.
const BATCH_TARGET_BYTES: usize = 1024 * 1024;
/// The most that a log begins anew with: it is one batch, held in memory while it is written.
const ANEW_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The exit status after a failed write: EX_IOERR of sysexits.
const EXIT_WRITE_FAILED: i32 = 74;

/// What the writer thread owns.
pub(crate) struct Writer {
    pub(crate) dir: PathBuf,
    pub(crate) key: DataKey,
    pub(crate) segment: Segment,
    pub(crate) segment_bytes: u64,
    pub(crate) next_sequence: u64,
    pub(crate) sync: SyncFile,
    pub(crate) on_fatal: FatalHook,
    /// The plain text of the next batch.
    pub(crate) body: Vec<u8>,
}

impl Writer {
    /// Serves the queue until `Close`, or until all senders are gone.
    pub(crate) fn run(mut self, queue: &Receiver<Message>) {
        let mut closing = false;
        while !closing && let Ok(Message::Job(first)) = queue.recv() {
            let mut dones = Vec::new();
            let result = self.serve(first, queue, &mut dones, &mut closing);
            let why = result.as_ref().err().map(ToString::to_string);
            if let Err(error) = &result {
                self.report(error);
            }
            dones.into_iter().for_each(|done| done(outcome(why.as_deref())));
            if let Some(why) = why {
                // Only where a test's hook let the process live: nothing is durable from here on.
                return refuse_all(queue, &why, closing);
            }
        }
        if let Err(error) = self.flush() {
            self.report(&error);
        }
    }

    /// Writes `first` and what queued up behind it; gathers what is to be called then.
    fn serve(
        &mut self,
        first: Job,
        queue: &Receiver<Message>,
        dones: &mut Vec<Done>,
        closing: &mut bool,
    ) -> io::Result<()> {
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
                Err(_) => break,
            }
        }
        if dones.is_empty() { Ok(()) } else { self.flush() }
    }

    /// Puts a job's records into the next batch; writes batches as they fill up.
    fn add(&mut self, job: Job, dones: &mut Vec<Done>) -> io::Result<()> {
        dones.extend(job.done);
        if job.anew {
            return self.begin_anew(&job.records, SEGMENTS_AT_PURGE);
        }
        for record in &job.records {
            if self.body.len() + record::encoded_len(record) > self.body_max() {
                self.flush()?;
            }
            record::encode(record, &mut self.body);
        }
        Ok(())
    }

    /// Begins a segment with these records as one batch, then removes the older ones; does nothing if there
    /// are fewer than `n_segments`, or if the records are too many. Until the batch is durable the older
    /// segments say the same, and from then on they are not read.
    pub(crate) fn begin_anew(&mut self, records: &[Record], n_segments: usize) -> io::Result<()> {
        let len: usize = records.iter().map(record::encoded_len).sum();
        let is_worth_it = segment::list(&self.dir).is_ok_and(|found| found.len() >= n_segments);
        if len > ANEW_BYTES_MAX || !is_worth_it {
            return Ok(());
        }
        self.flush()?;
        let number = self.segment.number + 1;
        let needed = HEADER_BYTES + u64::try_from(batch::disk_len(len)).expect("a length fits in 64 bits");
        let bytes = self.segment_bytes.max(needed);
        let segment = Segment::create(&self.dir, &self.key, number, self.next_sequence, bytes);
        match segment {
            Ok(segment) => self.segment = segment,
            Err(error) => {
                // The log is whole as it is, and needs the space more than this does.
                tracing::warn!(err = %error, "old segments of the log stay for now");
                fs::remove_file(segment::new_path(&self.dir, number)).ok();
                return Ok(());
            }
        }
        records.iter().for_each(|record| record::encode(record, &mut self.body));
        self.flush()?;
        // The next opening removes what is left.
        if let Err(error) = segment::remove_before(&self.dir, number) {
            tracing::warn!(err = %error, "old segments of the log cannot be removed");
        }
        Ok(())
    }

    /// The most plain text that a fresh segment has room for.
    fn body_max(&self) -> usize {
        let room = usize::try_from(self.segment_bytes - HEADER_BYTES).expect("a segment fits in memory");
        room - batch::HEADER_BYTES - super::seal::TAG_BYTES
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.body.is_empty() {
            return Ok(());
        }
        if !self.segment.fits(self.body.len()) {
            let number = self.segment.number + 1;
            self.segment =
                Segment::create(&self.dir, &self.key, number, self.next_sequence, self.segment_bytes)
                    .map_err(into_io)?;
        }
        self.segment.append(self.next_sequence, &self.body, &self.sync)?;
        self.next_sequence += 1;
        self.body.clear();
        Ok(())
    }

    fn report(&self, error: &io::Error) {
        (self.on_fatal)(&self.segment.path, error);
    }
}

fn into_io(error: OpenError) -> io::Error {
    // The kind tells a full disk from a broken one.
    if let OpenError::Io { source, .. } = error { source } else { io::Error::other(error) }
}

fn outcome(why: Option<&str>) -> io::Result<()> {
    why.map_or(Ok(()), |why| Err(io::Error::other(why.to_owned())))
}

fn refuse_all(queue: &Receiver<Message>, why: &str, closing: bool) {
    while !closing && let Ok(Message::Job(job)) = queue.recv() {
        job.done.into_iter().for_each(|done| done(outcome(Some(why))));
    }
}

/// Says what to do, and ends the process.
pub(crate) fn exit_hook() -> FatalHook {
    Arc::new(|file: &Path, error: &io::Error| {
        let advice = if error.kind() == io::ErrorKind::StorageFull {
            "free space on this disk, then start again"
        } else {
            "check the disk and the kernel's log, then start again"
        };
        tracing::error!(
            file = %file.display(), err = %error, advice,
            "the log cannot be written; stopping at once, as nothing more can be acknowledged"
        );
        std::process::exit(EXIT_WRITE_FAILED);
    })
}
