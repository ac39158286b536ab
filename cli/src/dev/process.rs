//! Processes of a development swarm: known again after a restart of `skep dev`, found, and ended.
//!
//! Invariant: a process is named by its id and start time, so a reused id is never signalled.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::dockerd;
use super::record::Record;

/// How often a process that was asked to end is looked at.
const POLL: Duration = Duration::from_millis(5);

/// One process, for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks after boot at which it started.
    start: u64,
}

impl ProcessId {
    /// The process that has the id `pid` now; `None` when none has, or a dead one.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        (!stat.is_dead).then_some(Self { pid, start: stat.start })
    }

    pub(crate) fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now == *self)
    }

    /// Whether it was stopped by a signal and not let go on since.
    pub(crate) fn is_frozen(&self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.start == self.start && stat.is_frozen)
    }

    /// Sends a signal; one that has ended is no error.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // The only failures left are that it ended meanwhile.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Waits until it has ended; false when it has not within `limit`.
    pub(crate) async fn ended(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }
}

struct Stat {
    parent: i32,
    start: u64,
    is_dead: bool,
    is_frozen: bool,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command may hold spaces and brackets; the fields begin after the last one.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        Some(Self {
            is_dead: matches!(*fields.first()?, "Z" | "X"),
            is_frozen: *fields.first()? == "T",
            parent: fields.get(1)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }
}

/// What marks a process as one of certain nodes.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Inodes of the nodes' network and mount namespaces.
    namespaces: BTreeSet<u64>,
    /// Directories that a command line names.
    dirs: Vec<PathBuf>,
    /// Cgroup path parts, such as `/skep/<node id>`.
    cgroups: Vec<String>,
}

impl Marks {
    /// The marks of the nodes of `record` for which `wanted` holds.
    pub(crate) fn of(record: &Record, wanted: impl Fn(&str) -> bool) -> Self {
        let mut marks = Self::default();
        for node in record.nodes.iter().filter(|n| wanted(&n.name)) {
            let inode = |path: &Path| fs::metadata(path).ok().map(|m| m.ino());
            marks.namespaces.extend([inode(&node.netns), inode(&node.mntns)].into_iter().flatten());
            marks.dirs.push(node.state_dir.clone());
            marks.cgroups.extend(node.node_id.iter().map(|id| format!("/skep/{id}")));
            marks.cgroups.push(format!("/{}", dockerd::node_cgroup(&record.name, &node.name)));
        }
        marks
    }

    /// Adds a directory whose mention on a command line marks a process.
    pub(crate) fn dir(mut self, dir: PathBuf) -> Self {
        self.dirs.push(dir);
        self
    }

    /// Adds cgroups, as paths below a hierarchy's root, whose processes are marked.
    pub(crate) fn cgroups(mut self, paths: &BTreeSet<String>) -> Self {
        self.cgroups.extend(paths.iter().map(|path| format!("/{path}")));
        self
    }

    fn has(&self, pid: i32) -> bool {
        let in_namespace = ["net", "mnt"].iter().any(|kind| {
            fs::metadata(format!("/proc/{pid}/ns/{kind}")).is_ok_and(|m| self.namespaces.contains(&m.ino()))
        });
        in_namespace || self.names_dir(pid) || self.in_cgroup(pid)
    }

    fn names_dir(&self, pid: i32) -> bool {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Shims alone name a state directory and have left our namespaces; a shell that looks there is not ours.
        let mut words = line.split(|b| *b == 0).map(String::from_utf8_lossy);
        let is_ours = words
            .next()
            .is_some_and(|program| program.rsplit('/').next().unwrap_or_default().starts_with("skep"));
        is_ours && words.any(|word| self.dirs.iter().any(|dir| Path::new(&*word).starts_with(dir)))
    }

    fn in_cgroup(&self, pid: i32) -> bool {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        self.cgroups
            .iter()
            .any(|part| text.lines().any(|line| line.ends_with(part) || line.contains(&format!("{part}/"))))
    }
}

/// All live processes with one of the marks, and all that descend from them; never this one.
pub(crate) fn find(marks: &Marks) -> BTreeSet<ProcessId> {
    let me = std::process::id();
    let mut parents = BTreeMap::new();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Some(stat) = Stat::read(pid) else { continue };
        if stat.is_dead || u32::try_from(pid) == Ok(me) {
            continue;
        }
        parents.insert(pid, stat.parent);
        if marks.has(pid) {
            found.insert(pid);
        }
    }
    // Each round reaches one generation further.
    loop {
        let children: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(*parent) && !found.contains(*pid))
            .map(|(pid, _)| *pid)
            .collect();
        if children.is_empty() {
            break;
        }
        found.extend(children);
    }
    found.into_iter().filter_map(ProcessId::of).collect()
}

/// The cgroups of ours that these processes are in, as paths below a hierarchy's root.
pub(crate) fn cgroups(processes: &BTreeSet<ProcessId>) -> BTreeSet<String> {
    processes
        .iter()
        .filter_map(|p| fs::read_to_string(format!("/proc/{}/cgroup", p.pid)).ok())
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| line.splitn(3, ':').nth(2).map(str::to_owned))
        .filter_map(|path| {
            // Only `skep/<node id>` and below is ours.
            let rest = path.strip_prefix("/skep/")?;
            Some(format!("skep/{}", rest.split('/').next()?))
        })
        .collect()
}

/// Kills all processes with the marks, again until none is left; returns how many it met and whether all ended.
pub(crate) async fn kill_all(marks: &Marks, limit: Duration) -> (usize, bool) {
    let until = Instant::now() + limit;
    let mut met = BTreeSet::new();
    loop {
        let found = find(marks);
        if found.is_empty() {
            return (met.len(), true);
        }
        if Instant::now() >= until {
            return (met.len(), false);
        }
        for process in &found {
            process.signal(Signal::KILL);
        }
        met.extend(found);
        tokio::time::sleep(POLL).await;
    }
}
