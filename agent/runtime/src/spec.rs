//! What a container is to be, in the engine's words.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A container. What is empty or `None` is taken from the image, or is Docker's default.
#[derive(Debug, Clone, Default)]
pub struct ContainerSpec {
    /// Letters, digits, `_`, `.` and `-`; also the name of its cgroup.
    pub id: String,
    /// Name, id, or name and digest of an image of this engine.
    pub image: String,
    /// Replaces the image's entrypoint, and then its command as well.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub args: Option<Vec<String>>,
    /// `NAME=value` sets, `NAME` alone takes away what the image sets.
    pub env: Vec<String>,
    /// Absolute; made if the image lacks it.
    pub workdir: Option<String>,
    /// `name`, `uid`, `name:group`, `uid:gid`.
    pub user: Option<String>,
    /// Further groups, by name or number.
    pub groups: Vec<String>,
    pub hostname: String,
    /// Content of `/etc/hosts`.
    pub hosts: String,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    pub mounts: Vec<Mount>,
    pub read_only_root: bool,
    pub limits: Limits,
    /// With or without `CAP_`; `ALL`.
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    /// Name or number; what [`crate::ContainerInfo::stop_signal`] then says.
    pub stop_signal: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// The network namespace to join; `None` makes one with nothing but an idle loopback.
    pub netns: Option<PathBuf>,
    pub log: LogConfig,
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: Vec<Ulimit>,
    /// Symbolic links to be made in its file system, whatever is there: where and to what. A link in a mount
    /// is not made.
    pub links: BTreeMap<String, String>,
}

/// A limit of each process; `u64::MAX` is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// `nofile`, `nproc` and so on.
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

/// Something mounted into a container.
#[derive(Debug, Clone)]
pub struct Mount {
    pub kind: MountKind,
    /// A path for a bind, a name for a volume (`None`: one without a name, which goes with the container).
    pub source: Option<String>,
    /// Absolute path in the container.
    pub target: String,
    pub read_only: bool,
    /// In bytes.
    pub tmpfs_size: Option<i64>,
    pub tmpfs_mode: Option<u32>,
    /// A volume does not take over what the image has at the target.
    pub no_copy: bool,
    /// Of a named volume that is made by this.
    pub labels: BTreeMap<String, String>,
}

/// Kind of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
}

/// Limits; 0 is none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    pub memory_bytes: i64,
    /// Billionths of a CPU.
    pub nano_cpus: i64,
    pub pids: i64,
}

/// Rotation of the container's log.
#[derive(Debug, Clone, Copy)]
pub struct LogConfig {
    /// In bytes; 0 is no limit.
    pub max_size: u64,
    /// Files kept, the one being written included; at least 1.
    pub max_file: u32,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { max_size: 0, max_file: 1 }
    }
}
