//! Reads containers' logs back: from the end for a tail, across rotated files, and on as they grow.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::mpsc;

use crate::containers::{Container, ContainerError};
use crate::engine::Engine;
use crate::handoff::LOG_FILE;
use crate::stamp;

/// Lines that wait for a slow reader, who then slows the reading down.
const LINES_WAITING: usize = 256;
/// How soon a follower sees a new line at the latest.
const FOLLOW_POLL: Duration = Duration::from_millis(100);
/// Size of the steps back to a tail's first line.
const BLOCK_BYTES: u64 = 64 * 1024;
/// Lines read before the reader's channel is served.
const BATCH_LINES: usize = 128;
/// A record of a log; the shim's are at most six times their 16 KiB, escaped.
const RECORD_BYTES_MAX: u64 = 256 * 1024;

/// Which lines of a log are wanted.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Go on until the container has ended.
    pub follow: bool,
    /// This many at the end, counted before all other options take some away; `None` is all.
    pub tail: Option<usize>,
    /// Nanoseconds since 1970.
    pub since_unix_nanos: Option<i64>,
    pub until_unix_nanos: Option<i64>,
    pub stdout: bool,
    pub stderr: bool,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            follow: false,
            tail: None,
            since_unix_nanos: None,
            until_unix_nanos: None,
            stdout: true,
            stderr: true,
        }
    }
}

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// A line of a container's output; part of one if longer than 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When the shim read it, in nanoseconds since 1970.
    pub time_unix_nanos: i64,
    pub stream: LogStream,
    /// With its newline, which a part lacks.
    pub bytes: Vec<u8>,
}

#[derive(Deserialize)]
struct Record {
    log: String,
    stream: String,
    time: String,
}

impl Engine {
    /// Reads a container's log. The channel closes after the last line; with `follow`, when the container
    /// has ended and all of it is read. Dropping the receiver ends the reading.
    ///
    /// # Errors
    /// If there is no such container.
    pub fn logs(&self, id: &str, options: LogOptions) -> Result<mpsc::Receiver<LogLine>, ContainerError> {
        let container = self.inner.container(id)?;
        let path = self.inner.container_dir(id).join(LOG_FILE);
        let (send, receive) = mpsc::channel(LINES_WAITING);
        // Ends by itself with the log or the receiver; what it reads may be gone by then, which ends it too.
        tokio::spawn(async move {
            if let Err(e) = read(path, &container, &options, &send).await {
                tracing::warn!(container.id = %container.record.id, err = %e, "failed to read a log");
            }
        });
        Ok(receive)
    }
}

async fn read(
    path: PathBuf,
    container: &Arc<Container>,
    options: &LogOptions,
    send: &mpsc::Sender<LogLine>,
) -> io::Result<()> {
    let tail = options.tail;
    let opened = tokio::task::spawn_blocking(move || Reader::open(path, tail));
    let mut reader = opened.await.map_err(io::Error::other)??;
    loop {
        // Asked before reading: what was written before the end is then read.
        let ended = container.has_exited();
        let read = tokio::task::spawn_blocking(move || {
            let lines = reader.batch();
            (reader, lines)
        });
        let (back, lines) = read.await.map_err(io::Error::other)?;
        reader = back;
        let lines = lines?;
        let caught_up = lines.is_empty();
        for line in lines {
            if options.until_unix_nanos.is_some_and(|until| line.time_unix_nanos > until) {
                return Ok(());
            }
            let early = options.since_unix_nanos.is_some_and(|since| line.time_unix_nanos < since);
            let wanted = match line.stream {
                LogStream::Stdout => options.stdout,
                LogStream::Stderr => options.stderr,
            };
            if wanted && !early && send.send(line).await.is_err() {
                return Ok(());
            }
        }
        if !caught_up {
            continue;
        }
        if !options.follow || ended || send.is_closed() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_POLL) => {}
            _exit = container.exited() => {}
            () = send.closed() => return Ok(()),
        }
    }
}

/// A place in the files of a log.
struct Reader {
    path: PathBuf,
    /// Files still to be read, oldest first; the last one is the one being written.
    files: VecDeque<File>,
    current: Option<(BufReader<File>, u64)>,
    /// A record of which the rest is not written yet.
    partial: Vec<u8>,
}

impl Reader {
    /// Begins at the first of the last `tail` records, or at the oldest.
    fn open(path: PathBuf, tail: Option<usize>) -> io::Result<Reader> {
        let mut files: VecDeque<File> = VecDeque::new();
        let mut wanted = tail;
        // Newest first, until there are enough lines. A rotation meanwhile shows as a file met twice.
        let mut seen: Vec<u64> = Vec::new();
        for n in 0.. {
            let name = if n == 0 { path.clone() } else { numbered(&path, n) };
            let mut file = match File::open(&name) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(e),
            };
            let inode = file.metadata()?.ino();
            if seen.contains(&inode) {
                continue;
            }
            seen.push(inode);
            if let Some(left) = wanted {
                wanted = Some(left - seek_back(&mut file, left)?);
            }
            files.push_front(file);
            if wanted == Some(0) {
                break;
            }
        }
        Ok(Reader { path, files, current: None, partial: Vec::new() })
    }

    /// The next lines; none if all that is written is read.
    fn batch(&mut self) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        while lines.len() < BATCH_LINES {
            if self.current.is_none() && !self.next_file()? {
                break;
            }
            let Some((file, _)) = &mut self.current else { break };
            file.by_ref().take(RECORD_BYTES_MAX).read_until(b'\n', &mut self.partial)?;
            if self.partial.ends_with(b"\n") {
                lines.extend(parse(&self.partial));
                self.partial.clear();
            } else if !self.rotated()? {
                break;
            }
        }
        Ok(lines)
    }

    fn next_file(&mut self) -> io::Result<bool> {
        let file = match self.files.pop_front() {
            Some(file) => file,
            None => match File::open(&self.path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(e) => return Err(e),
            },
        };
        let inode = file.metadata()?.ino();
        self.current = Some((BufReader::new(file), inode));
        Ok(true)
    }

    /// At the end of a file: whether there is a newer one, which is then the next. Files that came and went
    /// since the last look are lost, as they are for everyone.
    fn rotated(&mut self) -> io::Result<bool> {
        let Some((file, inode)) = &mut self.current else { return Ok(false) };
        if self.files.is_empty() {
            let mut newer = VecDeque::new();
            for n in 0.. {
                let name = if n == 0 { self.path.clone() } else { numbered(&self.path, n) };
                match File::open(name) {
                    Ok(next) if next.metadata()?.ino() == *inode => break,
                    Ok(next) => newer.push_front(next),
                    Err(_) => break,
                }
            }
            if newer.is_empty() {
                return Ok(false);
            }
            self.files = newer;
        }
        // It may have grown between the last read and its rotation.
        if !file.fill_buf()?.is_empty() {
            return Ok(true);
        }
        self.partial.clear();
        self.current = None;
        Ok(true)
    }
}

/// Goes to the first of the last `lines` lines; says how many lines lie behind.
fn seek_back(file: &mut File, lines: usize) -> io::Result<usize> {
    let mut at = file.metadata()?.len();
    if lines == 0 {
        file.seek(SeekFrom::Start(at))?;
        return Ok(0);
    }
    let mut found = 0;
    let mut block = Vec::new();
    // The newline at the very end ends the last line and begins none.
    let mut last = true;
    while at > 0 {
        let start = at.saturating_sub(BLOCK_BYTES);
        block.resize(usize::try_from(at - start).unwrap_or(0), 0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        for (offset, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            if last {
                last = false;
                continue;
            }
            found += 1;
            if found == lines {
                file.seek(SeekFrom::Start(start + u64::try_from(offset).unwrap_or(0) + 1))?;
                return Ok(found);
            }
        }
        at = start;
    }
    file.seek(SeekFrom::Start(0))?;
    // The first line has no newline before it.
    Ok(if last { 0 } else { found + 1 })
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

/// A line that is no record (a full disk cuts some) is left out.
fn parse(line: &[u8]) -> Option<LogLine> {
    let record: Record = serde_json::from_slice(line).ok()?;
    let stream = if record.stream == "stderr" { LogStream::Stderr } else { LogStream::Stdout };
    let time_unix_nanos = stamp::parse_rfc3339(&record.time)?;
    Some(LogLine { time_unix_nanos, stream, bytes: record.log.into_bytes() })
}
