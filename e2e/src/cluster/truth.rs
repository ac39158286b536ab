//! What runs on this machine, asked of the kernel and of no daemon: the programs of a service's tasks.
//!
//! A service that is to be counted carries [`Cluster::mark`] in its environment; each container's first
//! process then says which swarm, service, node, slot and task it is of, whichever engine started it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use super::Cluster;
use crate::wait::try_wait_for;

const MARK: &str = "SKEP_STORY";

/// The first process of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    /// The slot of its task.
    pub slot: u64,
    /// The name of the node that started it.
    pub node: String,
    /// The id of its task.
    pub task: String,
    /// Its id on this machine.
    pub pid: i32,
}

impl Cluster {
    /// The environment of a service that [`Cluster::programs`] finds, as `docker --env` takes it.
    #[must_use]
    pub fn mark(&self, service: &str) -> String {
        mark_of(&self.name, service)
    }

    /// The containers of the service that live now, frozen ones included, by slot.
    #[must_use]
    pub fn programs(&self, service: &str) -> Vec<Program> {
        programs_of(&self.name, service)
    }

    /// Waits until exactly one container a slot lives, `n` in all, and returns them.
    ///
    /// # Panics
    /// When that is not so within `limit`, with what there is instead.
    #[track_caller]
    #[must_use]
    pub fn wait_programs(&self, service: &str, n: usize, limit: Duration) -> Vec<Program> {
        let mut last = Vec::new();
        let found = try_wait_for(limit, || {
            last = self.programs(service);
            let by_slot: BTreeMap<u64, &Program> = last.iter().map(|p| (p.slot, p)).collect();
            (last.len() == n && by_slot.len() == n).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("not one container in each of {n} slots within {limit:?}: {last:#?}"))
    }
}

/// As [`Cluster::mark`], of any swarm.
#[must_use]
pub fn mark_of(swarm: &str, service: &str) -> String {
    format!("{MARK}={swarm}/{service}/{{{{.Node.Hostname}}}}/{{{{.Task.Slot}}}}/{{{{.Task.ID}}}}")
}

/// As [`Cluster::programs`], of any swarm on this machine.
#[must_use]
pub fn programs_of(swarm: &str, service: &str) -> Vec<Program> {
    let prefix = format!("{MARK}={swarm}/{service}/");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let mut found: Vec<Program> = pids.filter_map(|pid| program(pid, &prefix)).collect();
    found.sort();
    found
}

/// The container's first process `pid`, if its environment begins a line with `prefix`.
fn program(pid: i32, prefix: &str) -> Option<Program> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mark = environ.split(|b| *b == 0).find_map(|line| line.strip_prefix(prefix.as_bytes()))?;
    // The shells and sleeps below it have the same environment, but are not the first of their namespace.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    if ids.split_ascii_whitespace().count() < 2 || ids.split_ascii_whitespace().last() != Some("1") {
        return None;
    }
    let mark = String::from_utf8_lossy(mark).into_owned();
    let mut parts = mark.split('/');
    let (node, slot, task) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    Some(Program { slot, node: node.to_owned(), task: task.to_owned(), pid })
}
