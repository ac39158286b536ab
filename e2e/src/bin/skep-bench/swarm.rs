//! Five daemons that speak the Engine API, whoever made them, and what the figures ask of them.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use skep_e2e::{Stopwatch, request_within, try_wait_for};

use crate::table::ms;

/// The longest that any step may take before the benchmark gives up.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
/// The longest that a daemon may take to answer one call.
pub(crate) const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
/// The time after which a write that is not answered yet is sent again, by another connection.
const NEXT_ATTEMPT_AFTER: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    pub(crate) address: Ipv4Addr,
    pub(crate) pid: i32,
}

/// Five daemons without a swarm, busybox loaded on each; gone when dropped.
pub(crate) trait Daemons {
    /// What answers, with its version.
    fn label(&self) -> String;
    /// The swarm's name in the marks of its services.
    fn name(&self) -> &str;
    fn nodes(&self) -> &[Node];
    /// Kills all that runs on a node.
    fn lose(&mut self, node: &Node) -> anyhow::Result<()>;
    /// Starts a node's daemon again and returns when it answers.
    fn restart(&mut self, node: &Node) -> anyhow::Result<()>;
}

pub(crate) fn signal(pid: i32, signal: Signal) -> anyhow::Result<()> {
    kill_process(Pid::from_raw(pid).context("a daemon's pid")?, signal).context("signal a daemon")
}

/// Sends `body` (`Null` for none); an error for any status from 300 on.
pub(crate) fn call(node: &Node, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let answer = request_within(&node.socket, method, path, &bytes, "application/json", ANSWER_WAIT_MAX)
        .with_context(|| format!("{method} {path} on {}", node.name))?;
    if answer.status >= 300 {
        bail!("{method} {path} on {}: {} {}", node.name, answer.status, answer.message());
    }
    Ok(answer.json())
}

/// Waits until `condition` holds; an error of `what` at the limit.
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    try_wait_for(LIMIT, || condition().then_some(())).with_context(|| format!("{what}: not within {LIMIT:?}"))
}

/// The nodes as `seen_by` lists them; empty while it does not answer.
pub(crate) fn listed(seen_by: &Node) -> Vec<Value> {
    let nodes = call(seen_by, "GET", "/nodes", &Value::Null).unwrap_or_default();
    nodes.as_array().cloned().unwrap_or_default()
}

pub(crate) fn find<'a>(listed: &'a [Value], name: &str) -> Option<&'a Value> {
    listed.iter().rev().find(|n| n["Description"]["Hostname"] == name)
}

/// Whether `name` is ready (and a reachable manager) in what `seen_by` shows.
pub(crate) fn is_well(seen_by: &Node, name: &str, as_manager: bool) -> bool {
    find(&listed(seen_by), name).is_some_and(|n| {
        n["Status"]["State"] == "ready" && (!as_manager || n["ManagerStatus"]["Reachability"] == "reachable")
    })
}

/// All five ready, three of them reachable managers, one the leader.
pub(crate) fn wait_whole(seen_by: &Node) -> anyhow::Result<()> {
    let count = |listed: &[Value], is: &dyn Fn(&Value) -> bool| listed.iter().filter(|n| is(n)).count();
    wait("all five are well", || {
        let listed = listed(seen_by);
        count(&listed, &|n| n["Status"]["State"] == "ready") == 5
            && count(&listed, &|n| n["ManagerStatus"]["Reachability"] == "reachable") == 3
            && count(&listed, &|n| n["ManagerStatus"]["Leader"] == true) == 1
    })
}

/// Changes the availability of the node `name`.
pub(crate) fn set_availability(by: &Node, name: &str, availability: &str) -> anyhow::Result<()> {
    // A version read before another change of the node is refused.
    wait(&format!("{name} becomes {availability}"), || {
        let listed = listed(by);
        let Some(node) = find(&listed, name) else { return false };
        let mut spec = node["Spec"].clone();
        spec["Availability"] = json!(availability);
        let id = node["ID"].as_str().unwrap_or_default();
        call(by, "POST", &format!("/nodes/{id}/update?version={}", node["Version"]["Index"]), &spec).is_ok()
    })
}

/// Writes through `node` again and again; the milliseconds until one write is accepted.
pub(crate) fn next_write(node: &Node, tag: &str) -> anyhow::Result<f64> {
    let watch = Stopwatch::start();
    let (send, accepted) = mpsc::channel();
    for n in 0.. {
        if watch.elapsed() > LIMIT {
            break;
        }
        let (send, node, name) = (send.clone(), node.clone(), format!("{tag}-{n}"));
        std::thread::spawn(move || {
            let spec = json!({
                "Name": name,
                "TaskTemplate": {"ContainerSpec": {"Image": skep_e2e::BUSYBOX}},
                "Mode": {"Replicated": {"Replicas": 0}},
            });
            if call(&node, "POST", "/services/create", &spec).is_ok() {
                // Nobody listens any more when an earlier one was first.
                let _ = send.send(ms(watch));
            }
        });
        if let Ok(took) = accepted.recv_timeout(NEXT_ATTEMPT_AFTER) {
            return Ok(took);
        }
    }
    bail!("no write within {LIMIT:?}")
}

/// Removes all services, those of attempts still on their way included.
pub(crate) fn remove_all(by: &Node) -> anyhow::Result<()> {
    wait("all services are gone", || {
        let services = call(by, "GET", "/services", &Value::Null).unwrap_or_default();
        let ids: Vec<String> = services
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|s| s["ID"].as_str().map(str::to_owned))
            .collect();
        for id in &ids {
            drop(call(by, "DELETE", &format!("/services/{id}"), &Value::Null));
        }
        services.is_array() && ids.is_empty()
    })
}

/// What the kernel has of a process in memory, in MiB.
pub(crate) fn rss_mib(pid: i32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("a line VmRSS")?;
    let kib: f64 = line.split_ascii_whitespace().next().context("a number of KiB")?.parse()?;
    Ok(kib / 1024.0)
}
