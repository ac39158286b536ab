//! One round of faults and changes, and its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use skep_e2e::{Cluster, try_wait_for};

use super::{Dice, HEAL_MAX, truth};
use crate::swarm::set_availability;

const KINDS: [&str; 11] =
    ["kill", "kill", "lose", "freeze", "cut", "cut one", "restart", "update", "scale", "drain", "roles"];
/// How many things happen in a round.
const AT_ONCE: [usize; 6] = [1, 1, 2, 2, 3, 5];
/// The time between two of them, in milliseconds.
const PAUSES_MS: [u64; 7] = [0, 100, 500, 1000, 2000, 4000, 7000];
const N_MANAGERS: usize = 3;

/// What is broken now.
pub(super) struct Faults<'a> {
    cluster: &'a mut Cluster,
    dice: &'a mut Dice,
    down: BTreeSet<String>,
    frozen: BTreeSet<String>,
    cut: BTreeMap<String, Vec<String>>,
    done: Vec<String>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(cluster: &'a mut Cluster, dice: &'a mut Dice) -> Self {
        let (down, frozen, cut, done) = Default::default();
        Self { cluster, dice, down, frozen, cut, done }
    }

    pub(super) fn strike(&mut self) {
        for _ in 0..*self.dice.pick(&AT_ONCE) {
            let names: Vec<String> = self.cluster.nodes().iter().map(|n| n.name.clone()).collect();
            let (kind, name) = (*self.dice.pick(&KINDS), self.dice.pick(&names).clone());
            self.done.push(format!("{kind} {name}"));
            self.one(kind, &name, &names);
            let pause = Duration::from_millis(*self.dice.pick(&PAUSES_MS));
            // A pause that nothing ends.
            let _ = try_wait_for(pause, || None::<()>);
        }
    }

    fn one(&mut self, kind: &str, name: &str, names: &[String]) {
        let is_up = !self.down.contains(name) && !self.frozen.contains(name);
        match kind {
            "kill" | "lose" if is_up => {
                self.cluster.kill_node(name, kind == "lose");
                self.down.insert(name.to_owned());
            }
            "freeze" if is_up => {
                self.cluster.freeze(name);
                self.frozen.insert(name.to_owned());
            }
            "restart" if !self.frozen.contains(name) => {
                // It may find no majority to talk to, which the check at the end sees.
                let _ = self.cluster.restart_node(name);
                self.down.remove(name);
            }
            "cut" | "cut one" if !self.cut.contains_key(name) => {
                let mut others: Vec<String> = names.iter().filter(|n| *n != name).cloned().collect();
                if kind == "cut one" {
                    others = vec![self.dice.pick(&others).clone()];
                }
                let from: Vec<&str> = others.iter().map(String::as_str).collect();
                self.cluster.cut(name, &from);
                self.cut.insert(name.to_owned(), others);
            }
            // Changes may be refused while there is no leader; then they are not made.
            "update" => drop(truth::update(self.cluster, truth::WEB, |spec| {
                spec["TaskTemplate"]["ForceUpdate"] =
                    json!(spec["TaskTemplate"]["ForceUpdate"].as_u64().unwrap_or_default() + 1);
            })),
            "scale" => {
                let replicas = *self.dice.pick(&[1, 3, 6]);
                drop(truth::update(self.cluster, truth::SIDE, |spec| {
                    spec["Mode"]["Replicated"]["Replicas"] = json!(replicas);
                }));
            }
            "drain" => {
                drop(truth::change_node(self.cluster, name, |spec| spec["Availability"] = json!("drain")))
            }
            "roles" => self.swap_roles(name),
            _ => {}
        }
    }

    /// Makes a worker of a manager and the other way round.
    fn swap_roles(&mut self, name: &str) {
        let Some(listed) = truth::nodes(self.cluster) else { return };
        let of = |role: &str| -> Vec<String> {
            let some = listed.iter().filter(|n| n["Spec"]["Role"] == role);
            some.filter_map(|n| n["Description"]["Hostname"].as_str().map(str::to_owned)).collect()
        };
        let (managers, workers) = (of("manager"), of("worker"));
        if managers.len() <= N_MANAGERS && !workers.is_empty() {
            let up = self.dice.pick(&workers).clone();
            drop(truth::change_node(self.cluster, &up, |spec| spec["Role"] = json!("manager")));
        } else if managers.iter().any(|m| m == name) {
            drop(truth::change_node(self.cluster, name, |spec| spec["Role"] = json!("worker")));
        }
    }

    /// Ends all faults and makes every node active; what was done.
    pub(super) fn heal(self) -> anyhow::Result<String> {
        let Self { cluster, down, frozen, cut, done, .. } = self;
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
        for node in drained.context("no manager lists the nodes after all faults ended")? {
            let name = node["Description"]["Hostname"].as_str().unwrap_or_default();
            set_availability(&truth::a_manager(cluster).context("a manager answers")?, name, "active")?;
        }
        Ok(done.join(", "))
    }
}
