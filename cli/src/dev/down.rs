//! Takes a development swarm down and leaves no trace, whatever state it is in.
//!
//! Each step is tried whatever became of the one before, since this also cleans up after a crash; the
//! errors are gathered and told at the end. Safe to run twice.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::future::join_all;
use hyper::Method;
use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use serde_json::Value;

use super::process::{self, Marks, ProcessId};
use super::record::{Lock, Node, RUN_ROOT, Record, Role, STATE_ROOT, SwarmName};
use super::{api, dockerd, namespaces, network, node};

/// The longest that leaving may take: a node that others are cut off from or that has no leader is killed.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(5);
/// The longest that a daemon may take to end after SIGTERM.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5);
/// The longest that killed processes may take to vanish.
const KILL_WAIT_MAX: Duration = Duration::from_secs(10);
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// What went wrong on the way; empty when all is gone.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Vec<anyhow::Error>);

impl Leftovers {
    fn note(&mut self, result: anyhow::Result<()>) {
        self.0.extend(result.err());
    }

    /// One error that tells all of them.
    pub(crate) fn into_result(self) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = self.0.iter().map(|err| format!("{err:#}")).collect();
        Err(anyhow!("not all is gone:\n  {}", lines.join("\n  ")))
    }
}

/// Takes the swarm of `record` down: leaves first, so that each node ends its own tasks.
pub(crate) async fn whole(record: &Record) -> Leftovers {
    // Found while the daemons live: what they started is theirs by descent alone if it has left their
    // namespaces and the node has no id on record yet.
    let before = process::find(&Marks::of(record, |_| true));
    let cgroups = process::cgroups(&before);
    leave(record).await;
    join_all(record.nodes.iter().map(|n| node::stop(n, Signal::TERM, STOP_WAIT_MAX))).await;
    for process in &before {
        process.signal(Signal::KILL);
    }
    join_all(before.iter().map(|p| p.ended(KILL_WAIT_MAX))).await;
    remove_traces(&record.name, Some(record), cgroups).await
}

/// Workers first, since a manager that is gone cannot tell them anything.
async fn leave(record: &Record) {
    for process in record.nodes.iter().filter_map(|n| n.process.as_ref()) {
        process.signal(Signal::CONT);
    }
    for role in [Role::Worker, Role::Manager] {
        let nodes = record.nodes.iter().filter(|n| n.role == role).filter(|n| is_alive(n));
        join_all(nodes.map(|n| async {
            let left = api::call(&n.socket, Method::POST, "/swarm/leave?force=true", &Value::Null);
            // What it could not end is killed below; a node that never joined refuses this.
            drop(tokio::time::timeout(LEAVE_WAIT_MAX, left).await);
        }))
        .await;
    }
}

fn is_alive(node: &Node) -> bool {
    node.process.as_ref().is_some_and(ProcessId::is_alive)
}

/// Removes everything that carries the swarm's name, without a record that could tell more.
pub(crate) async fn traces(name: &SwarmName) -> Leftovers {
    remove_traces(name, None, BTreeSet::new()).await
}

async fn remove_traces(
    name: &SwarmName,
    record: Option<&Record>,
    mut cgroups: BTreeSet<String>,
) -> Leftovers {
    let mut left = Leftovers::default();
    let marks = record.map(|r| Marks::of(r, |_| true)).unwrap_or_default();
    let marks = marks.dir(name.state_dir()).dir(name.run_dir());
    // Read before the processes are gone: a node that crashed while joining has no id on record.
    cgroups.extend(process::cgroups(&process::find(&marks)));
    let ids = record.iter().flat_map(|r| &r.nodes).filter_map(|n| n.node_id.as_ref());
    cgroups.extend(ids.map(|id| format!("skep/{id}")));
    cgroups.insert(dockerd::cgroup(name));
    let marks = marks.cgroups(&cgroups);
    let (_, all_ended) = process::kill_all(&marks, KILL_WAIT_MAX).await;
    if !all_ended {
        let pids: Vec<String> = process::find(&marks).iter().map(|p| p.pid.to_string()).collect();
        left.note(Err(anyhow!("processes {} do not end", pids.join(", "))));
    }
    for path in pinned_mounts(name) {
        left.note(namespaces::remove(&path));
    }
    for dir in [name.state_dir(), name.run_dir()] {
        left.note(unmount_below(&dir));
    }
    left.note(network::remove(name));
    for cgroup in &cgroups {
        left.note(remove_cgroup(cgroup));
    }
    match Lock::take() {
        Ok(_lock) => {
            left.note(remove_dirs(&name.run_dir(), Path::new(RUN_ROOT)));
            left.note(remove_dirs(&name.state_dir(), Path::new(STATE_ROOT)));
        }
        Err(err) => left.note(Err(err)),
    }
    left
}

fn pinned_mounts(name: &SwarmName) -> Vec<PathBuf> {
    let entries = fs::read_dir(name.run_dir()).into_iter().flatten().flatten().map(|e| e.path());
    entries.filter(|p| p.extension().is_some_and(|e| e == "mnt")).collect()
}

/// Unmounts all that is mounted at or below `dir` in the caller's mount namespace, the newest first.
fn unmount_below(dir: &Path) -> anyhow::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read our mounts")?;
    let mounts = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let below: Vec<&Path> = mounts.filter(|path| path.starts_with(dir)).collect();
    for path in below.iter().rev() {
        rustix::mount::unmount(*path, UnmountFlags::DETACH)
            .with_context(|| format!("unmount {}", path.display()))?;
    }
    Ok(())
}

/// Removes the cgroup `path` with its children from each hierarchy, and its parent when that is empty.
fn remove_cgroup(path: &str) -> anyhow::Result<()> {
    let below = fs::read_dir(CGROUP_ROOT).into_iter().flatten().flatten().map(|e| e.path());
    // The root itself is the one hierarchy of a host that has cgroup v2 alone.
    for root in below.chain([PathBuf::from(CGROUP_ROOT)]) {
        let dir = root.join(path);
        if dir.is_dir() {
            remove_cgroup_tree(&dir).with_context(|| format!("remove the cgroup {}", dir.display()))?;
        }
        // Kept by the nodes of others.
        dir.parent().map(fs::remove_dir).and_then(Result::ok);
    }
    Ok(())
}

/// A cgroup's files cannot be removed, its directories only from the leaves up.
fn remove_cgroup_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// Removes `dir`, and `root` when nothing else is in it.
fn remove_dirs(dir: &Path, root: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            return Err(err).with_context(|| format!("remove {}", dir.display()));
        }
        Ok(()) | Err(_) => {}
    }
    drop(fs::remove_dir(root));
    Ok(())
}

/// Ends one node's daemon as a crash of the machine would; `with_tasks` takes its containers too.
pub(crate) async fn kill_node(record: &Record, name: &str, with_tasks: bool) -> anyhow::Result<usize> {
    let node = record.node(name)?;
    if !with_tasks {
        let was_alive = is_alive(node);
        node::stop(node, Signal::KILL, KILL_WAIT_MAX).await;
        return Ok(usize::from(was_alive));
    }
    let (n_killed, all_ended) = process::kill_all(&Marks::of(record, |n| n == name), KILL_WAIT_MAX).await;
    if !all_ended {
        let left: BTreeSet<i32> =
            process::find(&Marks::of(record, |n| n == name)).iter().map(|p| p.pid).collect();
        return Err(anyhow!("processes {left:?} of {name} do not end"));
    }
    Ok(n_killed)
}
