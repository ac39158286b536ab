//! Nothing happens where nothing did: no election and no node down while both cores are busy.
//!
//! A spinning thread a core for the whole time, a swarm of five with tasks on it, and a look at what every
//! manager shows a few times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use skep_e2e::{BUSYBOX, Cluster, Stopwatch, try_wait_for};

use crate::swarm::{Node, listed};
use crate::table::{PROGRAM, load, say};

/// How often the managers are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const N_TASKS: usize = 10;

/// Runs for `minutes` beside `n_spinning` busy threads and fails when anything came to pass.
pub(crate) fn run(minutes: usize, n_spinning: usize) -> anyhow::Result<()> {
    let whole = Duration::from_secs(u64::try_from(minutes)? * 60);
    let cluster = Cluster::builder(3, 2).start();
    let n = N_TASKS.to_string();
    let create = ["service", "create", "--quiet", "--detach", "--name", "web", "--replicas", &n, BUSYBOX];
    let _ = cluster.docker(&[&create, &["sh", "-c", PROGRAM][..]].concat()).ok();
    let before = cluster.wait_running("web", N_TASKS, Duration::from_secs(60));
    let lines_before = log_lines(&cluster);
    let spin = Spin::start(n_spinning);
    let watch = Stopwatch::start();
    let mut events = Vec::new();
    let mut last = Vec::new();
    let mut looks = 0;
    let managers: Vec<Node> = cluster.nodes()[..3].iter().map(node).collect();
    while watch.elapsed() < whole {
        let now: Vec<String> = managers.iter().map(shown).collect();
        if now != last && !last.is_empty() {
            let at = watch.elapsed().as_secs_f64();
            events.push(format!("{at:.1} s: {last:?} became {now:?}"));
        }
        last = now;
        looks += 1;
        // A pause that nothing ends.
        let _ = try_wait_for(LOOK_EVERY, || None::<()>);
    }
    let load = load()?;
    drop(spin);
    let after = cluster.running("web");
    if before.iter().any(|t| after.iter().all(|a| a.id != t.id)) {
        events.push("a task was replaced".to_owned());
    }
    let lines: Vec<String> = log_lines(&cluster).into_iter().filter(|l| !lines_before.contains(l)).collect();
    say(&format!(
        "{minutes} minutes, {n_spinning} spinning threads, load average {load}, {looks} looks at each of 3 managers"
    ));
    for line in events.iter().chain(&lines) {
        say(line);
    }
    say(&format!(
        "{} changes seen, {} lines on leaders and lost nodes in the logs",
        events.len(),
        lines.len()
    ));
    if !events.is_empty() || !lines.is_empty() {
        bail!("the swarm was not quiet");
    }
    Ok(())
}

fn node(n: &skep_e2e::Node) -> Node {
    Node { name: n.name.clone(), socket: n.socket_path().to_owned(), address: n.address, pid: 0 }
}

/// Every node's state and who leads, as this manager shows it.
fn shown(by: &Node) -> String {
    let mut lines: Vec<String> = listed(by)
        .iter()
        .map(|n| {
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let lead = if n["ManagerStatus"]["Leader"] == true { " leads" } else { "" };
            let reach = text(&n["ManagerStatus"]["Reachability"]);
            format!("{} {} {reach}{lead}", text(&n["Description"]["Hostname"]), text(&n["Status"]["State"]))
        })
        .collect();
    lines.sort();
    lines.join(", ")
}

/// What the daemons said of leadership and of nodes that went.
fn log_lines(cluster: &Cluster) -> Vec<String> {
    let words = ["leader: leading", "no longer leading", "node is down", "suspect"];
    let mut found = Vec::new();
    for node in cluster.nodes() {
        let log = cluster.state_dir().join(format!("{}.log", node.name));
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines = text.lines().filter(|line| words.iter().any(|w| line.contains(w)));
        found.extend(lines.map(|line| format!("{}: {line}", node.name)));
    }
    found
}

/// Spinning threads, until dropped.
struct Spin(Arc<AtomicBool>);

impl Spin {
    fn start(n: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..n {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Spin {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
