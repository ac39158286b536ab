//! Containers: created, started, waited for, signalled and removed; found again after a restart.
//!
//! A container's directory holds all there is of it; `record.json` is written last, so a directory without
//! one was never a container. A container runs once: what is to run again is created again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{Mutex, watch};

use crate::cgroup::{self, Hierarchy};
use crate::engine::{Config, Engine, Inner, is_name};
use crate::handoff::{Exit, Report, Started, read_json};
use crate::spec::ContainerSpec;
use crate::supervise::{self, Found};

mod create;

pub(crate) const RECORD_FILE: &str = "record.json";
pub(crate) const RECORD_VERSION: u32 = 1;
/// The cgroup of all shims, beside those of the containers; no container can have this name.
const SHIM_CGROUP: &str = ".shims";
/// How long the kernel may take to end a container that was killed.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Why a container could not be created, started, signalled or removed.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// The node has no such image.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// No container of this id.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// The specification cannot be carried out; the words are Docker's where it has some.
    #[error("{0}")]
    Invalid(String),
    /// The command did not come to run.
    #[error("failed to start container {id}: {reason}")]
    Start { id: String, reason: String },
    /// It has ended, and containers run once.
    #[error("container {0} has already run; create it anew")]
    AlreadyRan(String),
    /// There is no process to signal.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// It does not go away.
    #[error("container {0} could not be killed within 10 s")]
    Unkillable(String),
    /// The disk or the kernel failed.
    #[error("failed to {what} container {id}: {source}")]
    Io { what: &'static str, id: String, source: io::Error },
}

impl ContainerError {
    pub(crate) fn io(what: &'static str, id: &str) -> impl FnOnce(io::Error) -> ContainerError + use<> {
        let id = id.to_owned();
        move |source| ContainerError::Io { what, id, source }
    }
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitStatus {
    /// Exit code, or 128 + signal; 126 and 127 if the command could not be run.
    pub code: i32,
    /// The kernel killed one of its processes at its memory limit; not always the first one.
    pub oom_killed: bool,
    /// Nanoseconds since 1970.
    pub finished_at_unix_nanos: i64,
    /// Why it never ran, or that its end was not seen.
    pub error: Option<String>,
}

impl From<Exit> for ExitStatus {
    fn from(exit: Exit) -> ExitStatus {
        ExitStatus {
            code: exit.code,
            oom_killed: exit.oom_killed,
            finished_at_unix_nanos: exit.finished_at_unix_nanos,
            error: exit.error,
        }
    }
}

/// A container's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running {
        /// Of its first process, as this machine sees it.
        pid: u32,
    },
    Exited(ExitStatus),
}

/// A container, as its record on disk has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInfo {
    pub id: String,
    /// The image as the specification named it, and its id.
    pub image: String,
    pub image_id: String,
    pub labels: BTreeMap<String, String>,
    pub state: ContainerState,
    pub netns: Option<PathBuf>,
    /// Number of the signal that asks it to stop: the specification's, the image's, or SIGTERM.
    pub stop_signal: i32,
    pub created_at_unix_nanos: i64,
    pub started_at_unix_nanos: Option<i64>,
}

/// What stays true of a container from its creation on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    /// Diff ids, which must not go while the container is there.
    pub(crate) layers: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) stop_signal: i32,
    pub(crate) created_at_unix_nanos: i64,
}

/// A container in memory.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) record: Record,
    state: watch::Sender<Now>,
    /// Held while it is started or removed, which must not meet.
    changing: Mutex<()>,
}

/// State with what is needed to act on it.
#[derive(Debug, Clone)]
enum Now {
    Created,
    Running(Started),
    Exited(Exit, Option<i64>),
}

impl Container {
    pub(crate) fn new(record: Record) -> Container {
        Container { record, state: watch::Sender::new(Now::Created), changing: Mutex::new(()) }
    }

    /// Reads all records, and removes what is left of containers that never became one.
    pub(crate) fn find_all(
        config: &Config,
        cgroups: &[Hierarchy],
    ) -> io::Result<BTreeMap<String, Arc<Container>>> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(config.state_dir.join("containers"))? {
            let dir = entry?.path();
            let record = match read_json::<Record>(&dir.join(RECORD_FILE)) {
                Ok(Some(record)) if record.version == RECORD_VERSION => record,
                Ok(None) => {
                    fs::remove_dir_all(&dir)?;
                    continue;
                }
                Ok(Some(_)) | Err(_) => {
                    tracing::warn!(dir = %dir.display(), "container record is unreadable; left alone");
                    continue;
                }
            };
            let cgroup = format!("{}/{}", config.cgroup_prefix, record.id);
            let now = match supervise::found(&dir, cgroups, &cgroup)? {
                Found::Created => Now::Created,
                Found::Running(started) => Now::Running(started),
                Found::Exited(exit, started) => Now::Exited(exit, started),
            };
            let container = Container::new(record);
            container.state.send_replace(now);
            all.insert(container.record.id.clone(), Arc::new(container));
        }
        Ok(all)
    }

    fn info(&self) -> ContainerInfo {
        let (state, started_at_unix_nanos) = match &*self.state.borrow() {
            Now::Created => (ContainerState::Created, None),
            Now::Running(s) => {
                let pid = u32::try_from(s.pid).unwrap_or(0);
                (ContainerState::Running { pid }, Some(s.started_at_unix_nanos))
            }
            Now::Exited(exit, started) => (ContainerState::Exited(exit.clone().into()), *started),
        };
        let r = &self.record;
        ContainerInfo {
            id: r.id.clone(),
            image: r.image.clone(),
            image_id: r.image_id.clone(),
            labels: r.labels.clone(),
            state,
            netns: r.netns.clone(),
            stop_signal: r.stop_signal,
            created_at_unix_nanos: r.created_at_unix_nanos,
            started_at_unix_nanos,
        }
    }

    /// Ends when the container has ended.
    pub(crate) async fn exited(&self) -> ExitStatus {
        let mut state = self.state.subscribe();
        loop {
            if let Now::Exited(exit, _) = &*state.borrow_and_update() {
                return exit.clone().into();
            }
            if state.changed().await.is_err() {
                // The sender is ours.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_exited(&self) -> bool {
        matches!(*self.state.borrow(), Now::Exited(..))
    }
}

impl Inner {
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, ContainerError> {
        let found = self.containers().get(id).cloned();
        found.ok_or_else(|| ContainerError::NoSuchContainer(id.to_owned()))
    }

    fn shim_cgroup(&self) -> String {
        format!("{}/{SHIM_CGROUP}", self.config.cgroup_prefix)
    }
}

impl Engine {
    /// Creates a container: finds its image, user and mounts, and writes its directory. Nothing runs yet.
    /// Does nothing if there is one of the same id.
    ///
    /// # Errors
    /// If there is no such image, the specification is not valid (a user or bind source that does not
    /// exist, for one), or the disk fails.
    pub async fn create(&self, spec: ContainerSpec) -> Result<(), ContainerError> {
        let engine = self.clone();
        let id = spec.id.clone();
        let created = tokio::task::spawn_blocking(move || create::create(&engine.inner, &spec));
        created.await.map_err(io::Error::other).map_err(ContainerError::io("create", &id))?
    }

    /// Starts a created container; its command runs when this returns its process id. If it runs already,
    /// says so again.
    ///
    /// # Errors
    /// If the command cannot be run (it has then exited, with 126 or 127), or the container has already run.
    pub async fn start(&self, id: &str) -> Result<u32, ContainerError> {
        let engine = self.clone();
        let name = id.to_owned();
        // A task of its own: a caller that gives up must not leave a start that nobody knows of.
        let started = tokio::spawn(async move { engine.start_once(&name).await });
        started.await.map_err(io::Error::other).map_err(ContainerError::io("start", id))?
    }

    async fn start_once(&self, id: &str) -> Result<u32, ContainerError> {
        let container = self.inner.container(id)?;
        let _changing = container.changing.lock().await;
        let now = container.state.borrow().clone();
        match now {
            Now::Running(started) => return Ok(u32::try_from(started.pid).unwrap_or(0)),
            Now::Exited(..) => return Err(ContainerError::AlreadyRan(id.to_owned())),
            Now::Created => {}
        }
        let report = supervise::start(&self.inner.config.shim, &self.inner.container_dir(id)).await;
        match report.map_err(ContainerError::io("start", id))? {
            Report::Started(started) => {
                let pid = u32::try_from(started.pid).unwrap_or(0);
                container.state.send_replace(Now::Running(started.clone()));
                self.watch(&container, started);
                Ok(pid)
            }
            Report::Failed(exit) => {
                let reason = exit.error.clone().unwrap_or_else(|| format!("it exited with {}", exit.code));
                container.state.send_replace(Now::Exited(exit, None));
                Err(ContainerError::Start { id: id.to_owned(), reason })
            }
        }
    }

    /// Waits until the container has ended, also if an earlier engine started it.
    ///
    /// # Errors
    /// If there is no such container. One that is removed while waited for ends as its last state was.
    pub async fn wait(&self, id: &str) -> Result<ExitStatus, ContainerError> {
        let container = self.inner.container(id)?;
        Ok(container.exited().await)
    }

    /// Sends a signal to the container's first process.
    ///
    /// # Errors
    /// If it does not run, or the signal does not exist.
    pub async fn kill(&self, id: &str, signal: i32) -> Result<(), ContainerError> {
        let container = self.inner.container(id)?;
        let known = Signal::from_named_raw(signal).or_else(|| realtime(signal));
        let signal = known.ok_or_else(|| ContainerError::Invalid(format!("invalid signal: {signal}")))?;
        let Now::Running(started) = container.state.borrow().clone() else {
            return Err(ContainerError::NotRunning(id.to_owned()));
        };
        match supervise::signal(&started, signal) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(ContainerError::NotRunning(id.to_owned())),
            other => other.map_err(ContainerError::io("signal", id)),
        }
    }

    /// Removes the container and all that is its own; kills it first if it runs. Does nothing if there is
    /// none.
    ///
    /// # Errors
    /// If it cannot be killed, or the disk fails; what is left is removed by the next try.
    pub async fn remove(&self, id: &str) -> Result<(), ContainerError> {
        let Ok(container) = self.inner.container(id) else { return Ok(()) };
        let _changing = container.changing.lock().await;
        let dir = self.inner.container_dir(id);
        let now = container.state.borrow().clone();
        match now {
            Now::Running(started) => {
                // Gone is what it should be.
                let _gone = supervise::signal(&started, Signal::KILL);
                if tokio::time::timeout(KILL_WAIT, container.exited()).await.is_err() {
                    return Err(ContainerError::Unkillable(id.to_owned()));
                }
            }
            // A start may have hung, or been begun by an earlier daemon.
            Now::Created => supervise::kill_all(&dir, &self.inner.cgroups, &self.inner.cgroup(id)),
            Now::Exited(..) => {}
        }
        let engine = self.clone();
        let record = container.record.clone();
        let removed = tokio::task::spawn_blocking(move || engine.remove_files(&record, &dir));
        let removed = removed.await.map_err(io::Error::other).and_then(|r| r);
        removed.map_err(ContainerError::io("remove", id))?;
        if !container.has_exited() {
            // Whoever waits for it waits no longer.
            container.state.send_replace(Now::Exited(supervise::never_ran(), None));
        }
        Ok(())
    }

    fn remove_files(&self, record: &Record, dir: &Path) -> io::Result<()> {
        cgroup::remove(&self.inner.cgroups, &self.inner.cgroup(&record.id));
        // The record goes first: without it, the rest is garbage that open() removes.
        match fs::remove_file(dir.join(RECORD_FILE)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => remove_tree(dir)?,
        }
        let is_last = {
            let mut containers = self.inner.containers();
            containers.remove(&record.id);
            containers.is_empty()
        };
        if is_last {
            // A shim has told how its container ended a moment before it is gone itself. Waited for without
            // the lock; a start that comes between makes the cgroup anew.
            cgroup::remove(&self.inner.cgroups, &self.inner.shim_cgroup());
            cgroup::remove_if_empty(&self.inner.cgroups, &self.inner.shim_cgroup());
        }
        Ok(())
    }

    /// All containers, by id.
    pub fn list(&self) -> Vec<ContainerInfo> {
        self.inner.containers().values().map(|c| c.info()).collect()
    }

    /// Watches what an earlier engine left running.
    pub(crate) fn watch_adopted(&self) {
        let all: Vec<_> = self.inner.containers().values().cloned().collect();
        for container in all {
            let now = container.state.borrow().clone();
            if let Now::Running(started) = now {
                self.watch(&container, started);
            }
        }
    }

    /// Fate of the task: ends with the container; dropped with the engine.
    fn watch(&self, container: &Arc<Container>, started: Started) {
        let container = Arc::clone(container);
        let dir = self.inner.container_dir(&container.record.id);
        let cgroup = self.inner.cgroup(&container.record.id);
        let mut watchers = self.inner.watchers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Joined here, so that they do not pile up.
        while watchers.try_join_next().is_some() {}
        // Holds nothing of the engine, which would then never be dropped.
        watchers.spawn(async move {
            let cgroups = cgroup::hierarchies().unwrap_or_default();
            let exit = supervise::ended(&dir, &started, &cgroups, &cgroup).await;
            tracing::debug!(container.id = %container.record.id, code = exit.code, "container ended");
            container.state.send_replace(Now::Exited(exit, Some(started.started_at_unix_nanos)));
        });
    }
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The signals that have numbers alone, such as systemd's `SIGRTMIN+3`.
fn realtime(number: i32) -> Option<Signal> {
    // SAFETY: Linux has these numbers. Those that a C library keeps for itself it keeps in its own process; this
    // one only goes to the first process of a container.
    #[expect(unsafe_code, reason = "rustix has no other way to name them")]
    (34..=64).contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) })
}

const SIGNALS: [(&str, Signal); 18] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ABRT", Signal::ABORT),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("CHLD", Signal::CHILD),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
    ("TTIN", Signal::TTIN),
    ("TTOU", Signal::TTOU),
    ("WINCH", Signal::WINCH),
    ("PWR", Signal::POWER),
];

/// A signal's name, or its number where it has none.
pub(crate) fn signal_name(number: i32) -> String {
    let named = SIGNALS.iter().find(|(_, signal)| signal.as_raw() == number);
    named.map_or_else(|| number.to_string(), |(name, _)| format!("SIG{name}"))
}

/// Number of a signal given by name (with or without `SIG`) or number.
pub(crate) fn parse_signal(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = SIGNALS.iter().find(|(n, _)| *n == name).map(|(_, s)| s.as_raw());
    let realtime = || {
        // glibc's numbers, which programs in containers count from.
        let (base, rest) =
            name.strip_prefix("RTMIN").map(|r| (34, r)).or(name.strip_prefix("RTMAX").map(|r| (64, r)))?;
        let offset = if rest.is_empty() { 0 } else { rest.parse::<i32>().ok()? };
        Some(base + offset)
    };
    named.or_else(|| upper.parse().ok()).or_else(realtime).filter(|n| (1..=64).contains(n))
}

pub(crate) fn valid_id(id: &str) -> bool {
    is_name(id)
}
