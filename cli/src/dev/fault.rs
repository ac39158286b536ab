//! Faults made on purpose: nodes cut off from each other and healed, daemons frozen and thawed.
//!
//! A cut loses packets silently, on both ways as a broken switch does or on one; the caller's own link to the
//! nodes stays. Invariant: a cut is on record before it is made, so that healing finds it.

use std::collections::BTreeSet;

use anyhow::bail;
use rustix::process::Signal;

use super::network;
use super::process::{self, Marks, ProcessId};
use super::record::{Node, Record};

/// Which packets a cut loses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ways {
    /// What the nodes send each other.
    Both,
    /// What the node that is named sends.
    From,
}

/// Cuts `name` off from the nodes `others`, or from all when there are none; returns how many.
pub(crate) fn cut(record: &mut Record, name: &str, others: &[String], ways: Ways) -> anyhow::Result<usize> {
    let others = others_of(record, name, others)?;
    note(record, name, &others, true)?;
    for other in &others {
        let (a, b) = (record.node(name)?, record.node(other)?);
        network::cut(a, b)?;
        match ways {
            Ways::Both => network::cut(b, a)?,
            Ways::From => {}
        }
    }
    Ok(others.len())
}

/// Undoes cuts of `name`: from the nodes `others`, or from all when there are none; returns how many.
pub(crate) fn heal(record: &mut Record, name: &str, others: &[String]) -> anyhow::Result<usize> {
    let others = others_of(record, name, others)?;
    let cuts: BTreeSet<String> = others.intersection(&record.node(name)?.cut_from).cloned().collect();
    for other in &cuts {
        let (a, b) = (record.node(name)?, record.node(other)?);
        network::heal(a, b)?;
        network::heal(b, a)?;
    }
    note(record, name, &cuts, false)?;
    Ok(cuts.len())
}

fn others_of(record: &Record, name: &str, others: &[String]) -> anyhow::Result<BTreeSet<String>> {
    record.node(name)?;
    for other in others {
        if record.node(other)?.name == name {
            bail!("--from {other}: a node cannot be cut off from itself");
        }
    }
    let is_meant = |node: &&Node| node.name != name && (others.is_empty() || others.contains(&node.name));
    Ok(record.nodes.iter().filter(is_meant).map(|node| node.name.clone()).collect())
}

fn note(record: &mut Record, name: &str, others: &BTreeSet<String>, is_cut: bool) -> anyhow::Result<()> {
    let mut set = |node: &str, other: &str| {
        for node in record.nodes.iter_mut().filter(|n| n.name == node) {
            if is_cut {
                node.cut_from.insert(other.to_owned());
            } else {
                node.cut_from.remove(other);
            }
        }
    };
    for other in others {
        set(name, other);
        set(other, name);
    }
    record.save()
}

/// Stops the daemon of `name` as it stands (SIGSTOP), its tasks too if `with_tasks`; returns how many
/// processes that were.
pub(crate) fn freeze(record: &Record, name: &str, with_tasks: bool) -> anyhow::Result<usize> {
    let processes = processes(record, name, with_tasks)?;
    if processes.is_empty() {
        bail!("the daemon of {name} does not run; `skep dev restart-node` starts it");
    }
    for process in &processes {
        process.signal(Signal::STOP);
    }
    Ok(processes.len())
}

/// Lets all that belongs to `name` go on; returns how many processes were frozen.
pub(crate) fn thaw(record: &Record, name: &str) -> anyhow::Result<usize> {
    let frozen: Vec<ProcessId> =
        processes(record, name, true)?.into_iter().filter(ProcessId::is_frozen).collect();
    for process in &frozen {
        process.signal(Signal::CONT);
    }
    Ok(frozen.len())
}

fn processes(record: &Record, name: &str, with_tasks: bool) -> anyhow::Result<BTreeSet<ProcessId>> {
    let node = record.node(name)?;
    if with_tasks {
        return Ok(process::find(&Marks::of(record, |n| n == name)));
    }
    Ok(node.process.iter().filter(|p| p.is_alive()).cloned().collect())
}
