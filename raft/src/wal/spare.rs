//! The next segment, made before it is needed: zero-filled and on disk, so that no append ever has to find
//! room, and half the latency of a growing file.
//!
//! A thread of its own makes it, and removes segments that are of no use any more. A full disk is met here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use super::Hooks;
use super::files::Files;
use super::segment;
use crate::error::OpenError;
use crate::keys::Keys;

/// So much is zeroed between two syncs: more at once would hold up the syncs of the log itself.
const FILL_BYTES: usize = 1024 * 1024;
static ZEROS: [u8; FILL_BYTES] = [0; FILL_BYTES];

/// The path of the spare segment, which is whole and all zeros.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("wal.spare")
}

/// Where it is until it is whole; and where a log that is written anew is.
pub(crate) fn new_path(dir: &Path) -> PathBuf {
    dir.join("wal.spare.new")
}

/// The spare segment that an earlier opening left, if it is whole and untouched.
pub(crate) fn find(dir: &Path, bytes: u64) -> io::Result<Option<File>> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path(dir)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() != bytes {
        return Ok(None);
    }
    let mut chunk = vec![0; FILL_BYTES];
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            return Ok(Some(file));
        }
        // A header may be there: its segment was not given its name any more.
        if !is_zero(&chunk[..n]) {
            return Ok(None);
        }
    }
}

/// Whether all of it is zeros.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(FILL_BYTES).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// Makes the spare segment; leaves nothing if it cannot, or if it is to stop.
pub(crate) fn make(files: &dyn Files, dir: &Path, bytes: u64, stop: &AtomicBool) -> io::Result<File> {
    let new = new_path(dir);
    let made = files.create(&new).and_then(|file| {
        fill(files, &file, 0, bytes, stop)?;
        files.rename(&new, &path(dir))?;
        Ok(file)
    });
    if made.is_err() {
        // What there is of it is the room that others need.
        files.remove(&new)?;
    }
    made
}

/// Zeroes a file from `from` to `to`, durably.
pub(crate) fn fill(files: &dyn Files, file: &File, from: u64, to: u64, stop: &AtomicBool) -> io::Result<()> {
    let mut at = from;
    while at < to {
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("the log is closed"));
        }
        let n = usize::try_from(to - at).unwrap_or(FILL_BYTES).min(FILL_BYTES);
        files.write(file, &ZEROS[..n], at)?;
        files.sync(file)?;
        at += u64::try_from(n).expect("a length fits in 64 bits");
    }
    Ok(())
}

enum Ask {
    Spare,
    /// Segments that nothing counts of any more, the oldest first.
    Remove(Vec<u64>),
}

/// The thread that keeps a spare segment ready.
pub(crate) struct Keeper {
    asks: Option<Sender<Ask>>,
    made: Receiver<io::Result<File>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts it; the first spare is on its way.
    pub(crate) fn start(
        files: Arc<dyn Files>,
        dir: &Path,
        segment_bytes: u64,
        hooks: Hooks,
        keys: Keys,
    ) -> Result<Keeper, OpenError> {
        let (asks, asked) = mpsc::channel();
        let (tell, made) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (own, stopping) = (dir.to_owned(), Arc::clone(&stop));
        let made_in = Made { files, dir: own, segment_bytes, hooks, keys };
        let run = move || made_in.serve(&stopping, &asked, &tell);
        let thread = std::thread::Builder::new()
            .name("skep-wal-spare".to_owned())
            .spawn(run)
            .map_err(OpenError::io("start the thread that makes segments in", dir))?;
        let keeper = Keeper { asks: Some(asks), made, stop, thread: Some(thread) };
        keeper.ask(Ask::Spare);
        Ok(keeper)
    }

    /// The spare segment's file; waits for it if it is not made yet. The next one is on its way then.
    pub(crate) fn take(&self) -> io::Result<File> {
        self.made.recv().unwrap_or_else(|_| Err(io::Error::other("the thread that makes segments is gone")))
    }

    /// The spare that was taken has another name now: makes the next.
    pub(crate) fn make_next(&self) {
        self.ask(Ask::Spare);
    }

    /// Frees the disk of these segments some time soon.
    pub(crate) fn remove(&self, numbers: Vec<u64>) {
        self.ask(Ask::Remove(numbers));
    }

    fn ask(&self, ask: Ask) {
        if let Some(asks) = &self.asks {
            // It is there for as long as this is; if it has panicked, `take` says so.
            asks.send(ask).ok();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.asks.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that makes segments of the log has panicked");
        }
    }
}

/// What the thread works on.
struct Made {
    files: Arc<dyn Files>,
    dir: PathBuf,
    segment_bytes: u64,
    hooks: Hooks,
    keys: Keys,
}

impl Made {
    fn serve(&self, stop: &AtomicBool, asked: &Receiver<Ask>, tell: &Sender<io::Result<File>>) {
        while let Ok(ask) = asked.recv() {
            match ask {
                Ask::Spare => {
                    let made = make(&*self.files, &self.dir, self.segment_bytes, stop);
                    // Without its directory it is nobody's log any more; an append finds out.
                    if let Err(error) = &made
                        && !stop.load(Ordering::Relaxed)
                        && error.kind() != io::ErrorKind::NotFound
                    {
                        self.hooks.report(&new_path(&self.dir), error);
                    }
                    // The writer may be gone.
                    tell.send(made).ok();
                }
                Ask::Remove(numbers) => {
                    // The next opening removes what is left.
                    if let Err(error) = segment::remove(&*self.files, &self.dir, &numbers) {
                        tracing::warn!(err = %error, "old segments of the log cannot be removed");
                    }
                    self.keys.tidy_some_time();
                }
            }
        }
    }
}
