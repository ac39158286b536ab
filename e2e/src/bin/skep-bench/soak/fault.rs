//! One round of faults and changes, and its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use skep_e2e::{Cluster, try_wait_for};

use super::ledger::Shared;
use super::{Dice, HEAL_MAX, change, disk, truth};
use crate::swarm::set_availability;

/// What a swarm of five with workloads meets.
pub(super) const OF_FIVE: [&str; 15] = [
    "kill",
    "kill",
    "lose",
    "freeze",
    "cut off",
    "cut one",
    "cut one way",
    "cut off leader",
    "restart",
    "update",
    "scale",
    "drain",
    "roles",
    "kill again and again",
    "rotate root",
];
/// What three managers alone meet.
pub(super) const OF_MANAGERS: [&str; 19] = [
    "kill",
    "kill leader",
    "kill two",
    "kill all",
    "kill all",
    "kill again and again",
    "kill again and again",
    "freeze",
    "freeze leader",
    "cut off",
    "cut off leader",
    "cut one",
    "cut one way",
    "cut leader one way",
    "fill disk",
    "fill disk of leader",
    "fill two disks",
    "restart",
    "rotate root",
];
/// How many things happen in a round.
const AT_ONCE: [usize; 8] = [1, 1, 1, 2, 2, 2, 3, 5];
/// The time after each, in milliseconds.
const PAUSES_MS: [u64; 8] = [0, 100, 300, 500, 1000, 1500, 2500, 4000];
/// Before the first.
const CALM_MS: [u64; 2] = [1000, 2000];
/// Between two kills of the same daemon.
const KILL_PAUSES_MS: [u64; 5] = [0, 50, 200, 500, 1000];

/// What is broken now.
pub(super) struct Faults<'a> {
    cluster: &'a mut Cluster,
    shared: &'a Shared,
    dice: &'a mut Dice,
    down: BTreeSet<String>,
    frozen: BTreeSet<String>,
    cut: BTreeMap<String, BTreeSet<String>>,
    full: BTreeSet<String>,
    done: Vec<String>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(cluster: &'a mut Cluster, shared: &'a Shared, dice: &'a mut Dice) -> Self {
        let (down, frozen, cut, full, done) = Default::default();
        Self { cluster, shared, dice, down, frozen, cut, full, done }
    }

    /// Lets the writers write on a whole swarm, does some of `kinds`, one after the other, and leaves them in force.
    pub(super) fn strike(
        &mut self,
        kinds: &[&str],
        counts: &mut BTreeMap<String, usize>,
    ) -> anyhow::Result<()> {
        self.pause(&CALM_MS);
        for _ in 0..*self.dice.pick(&AT_ONCE) {
            let names: Vec<String> = self.cluster.nodes().iter().map(|n| n.name.clone()).collect();
            let (kind, any) = (*self.dice.pick(kinds), self.dice.pick(&names).clone());
            let name = if kind.contains("leader") { truth::leader(self.cluster).unwrap_or(any) } else { any };
            self.done.push(format!("{kind} {name}"));
            *counts.entry(kind.to_owned()).or_default() += 1;
            self.one(kind, &name, &names)?;
            self.pause(&PAUSES_MS);
        }
        Ok(())
    }

    fn pause(&mut self, of: &[u64]) {
        let pause = Duration::from_millis(*self.dice.pick(of));
        // A pause that nothing ends.
        let _ = try_wait_for(pause, || None::<()>);
    }

    fn one(&mut self, kind: &str, name: &str, names: &[String]) -> anyhow::Result<()> {
        let others: Vec<String> = names.iter().filter(|n| *n != name).cloned().collect();
        match kind {
            "kill" | "kill leader" => self.kill(&[name.to_owned()]),
            "kill two" => {
                let other = self.dice.pick(&others).clone();
                self.kill(&[name.to_owned(), other]);
            }
            "kill all" => {
                // As a power cut: all come back, one after the other.
                self.kill(names);
                self.pause(&KILL_PAUSES_MS);
                for name in names {
                    self.start(name);
                }
            }
            "kill again and again" => self.kill_again(name),
            "lose" if !self.is_hit(name) => {
                self.cluster.kill_node(name, true);
                self.down.insert(name.to_owned());
            }
            "freeze" | "freeze leader" if !self.is_hit(name) => {
                self.cluster.freeze(name);
                self.frozen.insert(name.to_owned());
            }
            "restart" if !self.frozen.contains(name) => self.start(name),
            "cut off" | "cut off leader" => self.cut(name, &others, false),
            "cut one" | "cut one way" => {
                let other = self.dice.pick(&others).clone();
                self.cut(name, &[other], kind == "cut one way");
            }
            "cut leader one way" => match self.dice.one_in(2) {
                true => self.cut(name, &others, true),
                false => others.iter().for_each(|other| self.cut(other, &[name.to_owned()], true)),
            },
            "fill disk" | "fill disk of leader" => self.fill(&[name.to_owned()])?,
            "fill two disks" => {
                let other = self.dice.pick(&others).clone();
                self.fill(&[name.to_owned(), other])?;
            }
            _ => change::make(kind, name, self.cluster, self.dice),
        }
        Ok(())
    }

    fn is_hit(&self, name: &str) -> bool {
        self.down.contains(name) || self.frozen.contains(name)
    }

    fn kill(&mut self, names: &[String]) {
        self.cluster.kill_at_once(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for name in names {
            self.frozen.remove(name);
            self.down.insert(name.clone());
        }
    }

    fn start(&mut self, name: &str) {
        // It may find no majority to talk to, which the check at the end sees.
        let _ = self.cluster.restart_node(name);
        self.down.remove(name);
    }

    /// Kills a daemon as it starts and as it catches up.
    fn kill_again(&mut self, name: &str) {
        for _ in 0..3 {
            self.kill(&[name.to_owned()]);
            let _ = self.cluster.restart_node(name);
            self.pause(&KILL_PAUSES_MS);
        }
        self.kill(&[name.to_owned()]);
    }

    fn cut(&mut self, name: &str, others: &[String], is_one_way: bool) {
        let from: Vec<&str> = others.iter().map(String::as_str).collect();
        match is_one_way {
            true => self.cluster.cut_one_way(name, &from),
            false => self.cluster.cut(name, &from),
        }
        self.cut.entry(name.to_owned()).or_default().extend(others.iter().cloned());
    }

    fn fill(&mut self, names: &[String]) -> anyhow::Result<()> {
        for name in names {
            if self.full.insert(name.clone()) {
                disk::fill(self.cluster, name)?;
            }
        }
        self.shared.is_filling.store(true, Ordering::Relaxed);
        // So long that the logs grow beyond what they have.
        self.pause(&[4000, 8000]);
        Ok(())
    }

    /// Ends all faults and makes every node active; what was done.
    ///
    /// # Errors
    /// A daemon has ended by itself, does not start, or no manager answers any more.
    pub(super) fn heal(self) -> anyhow::Result<String> {
        self.cluster.refresh();
        for node in self.cluster.nodes() {
            if node.pid.is_none() && !self.down.contains(&node.name) {
                bail!("{}: the daemon of {} has ended by itself", self.done.join(", "), node.name);
            }
        }
        let Self { cluster, shared, down, frozen, cut, full, done, .. } = self;
        shared.is_filling.store(false, Ordering::Relaxed);
        for name in &full {
            disk::free(cluster, name)?;
        }
        for name in &frozen {
            cluster.thaw(name);
        }
        for (name, others) in &cut {
            let from: Vec<&str> = others.iter().map(String::as_str).collect();
            cluster.heal(name, &from);
        }
        for name in &down {
            let output = cluster.restart_node(name);
            output.is_ok().then_some(()).with_context(|| format!("restart {name}: {output}"))?;
        }
        let drained = try_wait_for(HEAL_MAX, || {
            let nodes = truth::nodes(cluster)?;
            let is_out = |n: &&Value| n["Spec"]["Availability"] != "active";
            Some(nodes.iter().filter(is_out).cloned().collect::<Vec<Value>>())
        });
        let drained =
            drained.with_context(|| format!("{}: no manager lists the nodes after it", done.join(", ")))?;
        for node in drained {
            let name = node["Description"]["Hostname"].as_str().unwrap_or_default();
            set_availability(&truth::a_manager(cluster).context("a manager answers")?, name, "active")?;
        }
        Ok(done.join(", "))
    }
}
