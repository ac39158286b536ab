//! The files by which the engine and a container's shim hand work to each other.
//!
//! Compiled into both crates, so that the two sides cannot drift. Every file lies in the container's
//! directory and is written whole (temporary name, then rename): a reader sees all of it or none.
//! A field may be added with `#[serde(default)]`; none may change its meaning, because a shim outlives
//! the upgrade of the daemon that started it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What the engine asks of the shim.
pub(crate) const SHIM_FILE: &str = "shim.json";
/// Written by the shim once the container's command runs.
pub(crate) const STARTED_FILE: &str = "started.json";
/// Written by the shim (or by the engine when the shim was lost) once the container has ended.
pub(crate) const EXIT_FILE: &str = "exit.json";
/// What went wrong inside the shim: its stderr, emptied at each start.
pub(crate) const ERROR_FILE: &str = "shim.log";
/// Locked by the shim for as long as it lives: who can lock it knows that no shim runs.
pub(crate) const LOCK_FILE: &str = "shim.lock";
/// The container's output, in Docker's json-file form; older files have `.1`, `.2` and so on behind.
pub(crate) const LOG_FILE: &str = "json.log";

/// The shim's orders beside the OCI bundle in the same directory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShimConfig {
    pub(crate) id: String,
    /// Directory from which `lower` names are resolved; mount options must stay short.
    pub(crate) layers_dir: PathBuf,
    /// Layer names, uppermost first.
    pub(crate) lower: Vec<String>,
    /// Refuse device files of the image: where no cgroup filters devices.
    pub(crate) no_devices: bool,
    /// Created in the root file system if missing.
    pub(crate) workdir: String,
    pub(crate) volumes: Vec<VolumeFill>,
    pub(crate) log_max_size: u64,
    pub(crate) log_max_file: u32,
    /// The container's cgroup, relative to each hierarchy's mount point.
    pub(crate) cgroup: String,
    /// The cgroup that all shims of the engine share.
    pub(crate) shim_cgroup: String,
    /// Symbolic links to be made in the root file system: where, and to what.
    #[serde(default)]
    pub(crate) links: BTreeMap<String, String>,
}

/// A volume that takes over the image's content at its target while it is still empty.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VolumeFill {
    pub(crate) target: String,
    pub(crate) source: PathBuf,
}

/// Who runs: start times (clock ticks since boot) tell a process from a later one of the same id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) pid_start_ticks: u64,
    pub(crate) shim_pid: i32,
    pub(crate) started_at_unix_nanos: i64,
}

/// How it ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Exit code, or 128 + signal.
    pub(crate) code: i32,
    pub(crate) oom_killed: bool,
    pub(crate) finished_at_unix_nanos: i64,
    /// Why it never started, or was lost.
    #[serde(default)]
    pub(crate) error: Option<String>,
}

/// The shim's one line on its status pipe.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Started(Started),
    Failed(Exit),
}

/// Writes `value` as JSON so that a reader sees the old file or the new one.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    let tmp = path.with_extension("tmp");
    let mut file = std::fs::File::create(&tmp)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    drop(file);
    std::fs::rename(&tmp, path)
}

/// Reads a JSON file; `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> std::io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Field 22 of `/proc/<pid>/stat`; `None` if the process is gone.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces and parentheses; fields are counted from the last one.
    let rest = stat.rsplit_once(')')?.1;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}
