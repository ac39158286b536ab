//! Stories: what a user does with a swarm and sees of it, each on a swarm of its own.
//!
//! Real daemons, real containers, the real docker CLI. One story a test, one subject a file.

mod autolock;
mod bad_input;
mod beyond;
mod cli;
mod container;
mod disk_full;
mod docker_engine;
mod failing;
mod five;
mod identity;
mod loss;
mod modes;
mod nodes;
mod own_cli;
mod placement;
mod ports;
mod reach;
mod recovery;
mod registry;
mod restart;
mod service_logs;
mod stacks;
mod trace;
mod update;
mod upgrade;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Once;
use std::time::Duration;

use skep_e2e::{BUSYBOX, Cluster, Node, get};

/// The longest that a plain convergence may take on a loaded machine; the figures are the benchmark's.
const SOON: Duration = Duration::from_secs(20);
/// A program that runs until it is told to stop, then ends at once.
const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";

/// Starts a swarm, and says once which docker CLI drives it.
fn cluster(n_workers: u8) -> Cluster {
    say_version();
    Cluster::start(n_workers)
}

/// As [`cluster`], with the example service.
fn cluster_with_example(n_workers: u8) -> Cluster {
    say_version();
    Cluster::with_example(n_workers)
}

fn say_version() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut docker = std::process::Command::new("docker");
        let version = skep_e2e::run(docker.arg("--version"), SOON).map(skep_e2e::Output::ok);
        // Past the test's capture: it belongs into every log.
        let _ = write!(std::io::stderr(), "{}", version.unwrap_or_else(|err| format!("{err:#}\n")));
    });
}

/// Creates a service of busybox that runs `script`, detached.
#[track_caller]
fn create(cluster: &Cluster, name: &str, flags: &[&str], script: &str) {
    let head = ["service", "create", "--quiet", "--detach", "--name", name];
    let args = [&head, flags, &[BUSYBOX, "sh", "-c", script]].concat();
    let _ = cluster.docker(&args).ok();
}

/// The host names that answer on `node`'s port in `n` new connections; every one has to be answered.
#[track_caller]
fn host_names(node: &Node, port: u16, n: usize) -> BTreeSet<String> {
    (0..n)
        .map(|_| {
            let answer = get(node.address, port, "/").unwrap_or_else(|err| panic!("{}: {err}", node.name));
            let text = answer.text();
            let line = text.lines().find_map(|line| line.strip_prefix("Hostname: "));
            line.unwrap_or_else(|| panic!("no host name in {text}")).to_owned()
        })
        .collect()
}
