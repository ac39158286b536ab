//! Starts shims, hears what they report, and notices when they are gone.
//!
//! A shim holds a lock on a file of its container for as long as it lives. So whether one runs is never
//! guessed from a process id, which another process may have by now.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;

use crate::cgroup::{self, Hierarchy};
use crate::handoff::{
    ERROR_FILE, EXIT_FILE, Exit, LOCK_FILE, Report, STARTED_FILE, Started, read_json, start_ticks, write_json,
};
use crate::stamp;

/// A shim that has not reported by then hangs. A start takes milliseconds, but machines can be busy.
const REPORT_WAIT: Duration = Duration::from_secs(60);
/// How often a start that an earlier daemon began is looked at.
const ADOPTED_START_POLL: Duration = Duration::from_millis(20);
/// Exit code of a container whose end nobody saw.
const LOST_CODE: i32 = 137;

/// The lock, if no shim has it.
fn take_lock(dir: &Path) -> io::Result<Option<File>> {
    let file =
        File::options().read(true).write(true).create(true).truncate(false).open(dir.join(LOCK_FILE))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether the container's shim lives. An unreadable lock counts as one that is held.
pub(crate) fn shim_lives(dir: &Path) -> bool {
    !matches!(take_lock(dir), Ok(Some(_)))
}

/// What the files say of a container that was created.
pub(crate) fn found(dir: &Path, cgroups: &[Hierarchy], cgroup: &str) -> io::Result<Found> {
    let started = read_json::<Started>(&dir.join(STARTED_FILE))?;
    if let Some(exit) = read_json(&dir.join(EXIT_FILE))? {
        return Ok(Found::Exited(exit, started.map(|s| s.started_at_unix_nanos)));
    }
    let Some(started) = started else {
        // One that is just being started is found by start(), which waits for it.
        return Ok(Found::Created);
    };
    if shim_lives(dir) {
        return Ok(Found::Running(started));
    }
    let exit = end_of(dir, &started, cgroups, cgroup);
    Ok(Found::Exited(exit, Some(started.started_at_unix_nanos)))
}

/// A container's state on disk.
#[derive(Debug)]
pub(crate) enum Found {
    Created,
    Running(Started),
    /// With the time at which it started, if it did.
    Exited(Exit, Option<i64>),
}

/// How a container ended whose shim is gone. If it left no word, what may run on is killed: output and
/// exit status of it are lost, and the task that it was is replaced.
fn end_of(dir: &Path, started: &Started, cgroups: &[Hierarchy], cgroup: &str) -> Exit {
    if let Ok(Some(exit)) = read_json(&dir.join(EXIT_FILE)) {
        return exit;
    }
    // The process may be gone, or may be another's by now: signal() knows.
    let _gone = signal(started, Signal::KILL);
    for pid in cgroup::pids(cgroups, cgroup) {
        kill(pid);
    }
    let exit = Exit {
        code: LOST_CODE,
        oom_killed: false,
        finished_at_unix_nanos: stamp::now_unix_nanos(),
        error: Some("shim lost: the container's supervisor died, exit status unknown".to_owned()),
    };
    if let Err(e) = write_json(&dir.join(EXIT_FILE), &exit) {
        tracing::warn!(dir = %dir.display(), err = %e, "failed to record a lost container");
    }
    cgroup::remove(cgroups, cgroup);
    exit
}

/// Waits until the shim is gone, and says how the container ended.
pub(crate) async fn ended(dir: &Path, started: &Started, cgroups: &[Hierarchy], cgroup: &str) -> Exit {
    match gone(dir, started).await {
        Ok(()) => {}
        Err(e) => {
            tracing::warn!(dir = %dir.display(), err = %e, "cannot watch a shim; looking again and again")
        }
    }
    while shim_lives(dir) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    end_of(dir, started, cgroups, cgroup)
}

async fn gone(dir: &Path, started: &Started) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(started.shim_pid) else { return Ok(()) };
    let watch = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(watch) => {
            // SAFETY: an OwnedFd is the same open descriptor for as long as it lives.
            #[expect(unsafe_code, reason = "tokio cannot know that the descriptor stays the same")]
            unsafe {
                AsyncFd::register(watch)?
            }
        }
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    // While the lock is held the shim lives, so it is the process that was just opened.
    if shim_lives(dir) {
        let _readable = watch.readable().await?;
    }
    Ok(())
}

/// Starts the shim of a container and waits until its command runs, or has failed to.
///
/// If a shim is there already, started by a daemon that ended meanwhile, its word is waited for.
pub(crate) async fn start(shim: &Path, dir: &Path) -> io::Result<Report> {
    let Some(lock) = take_lock(dir)? else {
        return adopted_start(dir).await;
    };
    let errors = File::create(dir.join(ERROR_FILE))?;
    let mut child = tokio::process::Command::new(shim)
        .arg(dir)
        .env_clear()
        .stdin(Stdio::from(lock))
        .stdout(Stdio::piped())
        .stderr(Stdio::from(errors))
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("failed to run the shim {}: {e}", shim.display())))?;
    let mut report = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        let read = tokio::time::timeout(REPORT_WAIT, pipe.read_to_end(&mut report)).await;
        read.map_err(|_| io::Error::other("the shim has not reported in time"))??;
    }
    // It forks at once; what goes on is not our child.
    child.wait().await?;
    if let Ok(report) = serde_json::from_slice(&report) {
        return Ok(report);
    }
    let words = std::fs::read_to_string(dir.join(ERROR_FILE)).unwrap_or_default();
    Err(io::Error::other(format!("the shim ended without a report: {}", words.trim())))
}

async fn adopted_start(dir: &Path) -> io::Result<Report> {
    let report = || -> io::Result<Option<Report>> {
        if let Some(exit) = read_json(&dir.join(EXIT_FILE))? {
            return Ok(Some(Report::Failed(exit)));
        }
        Ok(read_json(&dir.join(STARTED_FILE))?.map(Report::Started))
    };
    let wait = async {
        loop {
            let held = shim_lives(dir);
            // Asked in this order: a shim writes before it goes.
            if let Some(report) = report()? {
                return Ok(report);
            }
            if !held {
                return Err(io::Error::other("the shim of an earlier start ended without a report"));
            }
            tokio::time::sleep(ADOPTED_START_POLL).await;
        }
    };
    tokio::time::timeout(REPORT_WAIT, wait)
        .await
        .map_err(|_| io::Error::other("the shim of an earlier start has not reported in time"))?
}

/// Signals the container's first process; `NotFound` if it is gone.
pub(crate) fn signal(started: &Started, signal: Signal) -> io::Result<()> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the process is gone");
    let pid = Pid::from_raw(started.pid).ok_or_else(gone)?;
    let process: OwnedFd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Err(gone()),
        Err(e) => return Err(e.into()),
    };
    // Opened first, asked then: what has this start time now is what was opened.
    if start_ticks(started.pid) != Some(started.pid_start_ticks) {
        return Err(gone());
    }
    match pidfd_send_signal(&process, signal) {
        Err(rustix::io::Errno::SRCH) => Err(gone()),
        other => Ok(other?),
    }
}

/// Kills a shim that hangs, known by the lock that only it can hold, and what it may have begun.
pub(crate) fn kill_all(dir: &Path, cgroups: &[Hierarchy], cgroup: &str) {
    let pid = std::fs::read_to_string(dir.join(LOCK_FILE)).unwrap_or_default();
    if let (Ok(pid), true) = (pid.trim().parse(), shim_lives(dir)) {
        kill(pid);
    }
    for pid in cgroup::pids(cgroups, cgroup) {
        kill(pid);
    }
}

/// The end of a container that was removed before it ran.
pub(crate) fn never_ran() -> Exit {
    Exit {
        code: LOST_CODE,
        oom_killed: false,
        finished_at_unix_nanos: stamp::now_unix_nanos(),
        error: Some("removed before it ran".to_owned()),
    }
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may just have ended.
        let _gone = rustix::process::kill_process(pid, Signal::KILL);
    }
}
