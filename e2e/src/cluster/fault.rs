//! Faults made on a running swarm, and their ends: daemons killed, frozen and restarted, nodes cut off.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::Cluster;
use crate::command::Output;

impl Cluster {
    fn fault(&mut self, verb: &str, name: &str, flags: &[&str]) {
        let swarm = self.name.clone();
        let _ = self.run_dev(&[&["dev", verb, "--name", &swarm, name], flags].concat()).ok();
        self.refresh();
    }

    /// Kills the daemon of `name` with SIGKILL; its tasks go too if `with_tasks`.
    ///
    /// # Panics
    /// When `skep dev kill-node` fails.
    pub fn kill_node(&mut self, name: &str, with_tasks: bool) {
        self.fault("kill-node", name, if with_tasks { &["--tasks"] } else { &[] });
    }

    /// Kills the daemons of `names` with SIGKILL, all at once; those that do not run are left as they are.
    pub fn kill_at_once(&mut self, names: &[&str]) {
        let pids = self.nodes.iter().filter(|n| names.contains(&n.name.as_str())).filter_map(|n| n.pid);
        for pid in pids.filter_map(Pid::from_raw).collect::<Vec<_>>() {
            // The only failure left is that it has ended.
            let _ = kill_process(pid, Signal::KILL);
        }
        self.refresh();
    }

    /// Starts the daemon of `name` again (after SIGTERM if it runs).
    #[must_use]
    pub fn restart_node(&mut self, name: &str) -> Output {
        let output = self.run_dev(&["dev", "restart-node", "--name", &self.name, name]);
        if output.is_ok() {
            self.refresh();
        }
        output
    }

    /// As [`Cluster::restart_node`], with another build of skep.
    #[must_use]
    pub fn restart_node_with(&mut self, name: &str, build: &Path) -> Output {
        let own = std::mem::replace(&mut self.skep, build.to_owned());
        let output = self.restart_node(name);
        self.skep = own;
        output
    }

    /// Stops the daemon of `name` as it stands; its tasks go on.
    ///
    /// # Panics
    /// When `skep dev freeze` fails.
    pub fn freeze(&mut self, name: &str) {
        self.fault("freeze", name, &[]);
    }

    /// Lets a frozen node go on.
    ///
    /// # Panics
    /// When `skep dev thaw` fails.
    pub fn thaw(&mut self, name: &str) {
        self.fault("thaw", name, &[]);
    }

    /// Loses all that `name` and the nodes `others` send each other; from all nodes for an empty list.
    ///
    /// # Panics
    /// When `skep dev cut` fails.
    pub fn cut(&mut self, name: &str, others: &[&str]) {
        self.change_cut("cut", name, others, &[]);
    }

    /// Loses all that `name` sends to the nodes `others`; what they send it arrives.
    ///
    /// # Panics
    /// When `skep dev cut` fails.
    pub fn cut_one_way(&mut self, name: &str, others: &[&str]) {
        self.change_cut("cut", name, others, &["--one-way"]);
    }

    /// Undoes [`Cluster::cut`] and [`Cluster::cut_one_way`].
    ///
    /// # Panics
    /// When `skep dev heal` fails.
    pub fn heal(&mut self, name: &str, others: &[&str]) {
        self.change_cut("heal", name, others, &[]);
    }

    fn change_cut(&mut self, verb: &str, name: &str, others: &[&str], flags: &[&str]) {
        let from = others.join(",");
        let of = ["--from", &from];
        self.fault(verb, name, &[if others.is_empty() { &[] } else { &of[..] }, flags].concat());
    }
}
