//! The services of a soak, and whether the whole swarm is as it was asked to be.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use skep_e2e::{Answer, Cluster, WHOAMI, get, request_within};

use super::PORT;
use crate::swarm::{Node, call, wait};

pub(super) const WEB: &str = "web";
pub(super) const SIDE: &str = "side";
const WEB_REPLICAS: u64 = 10;
const SIDE_REPLICAS: u64 = 3;
/// How long a daemon may take to answer, a frozen one among them.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// How many requests each node must answer on the port.
const N_REQUESTS: usize = 15;
/// A snapshot each so many entries, and so many kept behind it: managers that were away need one.
const SNAPSHOT_INTERVAL: u64 = 200;
const ENTRIES_KEPT: u64 = 50;

fn ask(node: &skep_e2e::Node, method: &str, path: &str, body: &Value) -> Option<Answer> {
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let answer =
        request_within(node.socket_path(), method, path, &bytes, "application/json", ANSWER_MAX).ok()?;
    (answer.status < 300).then_some(answer)
}

/// The first good answer that any node gives.
fn anyone(cluster: &Cluster, method: &str, path: &str, body: &Value) -> Option<Value> {
    cluster.nodes().iter().find_map(|node| ask(node, method, path, body)).map(|answer| answer.json())
}

/// The nodes as any manager lists them; `None` when none does.
pub(super) fn nodes(cluster: &Cluster) -> Option<Vec<Value>> {
    anyone(cluster, "GET", "/nodes", &Value::Null)?.as_array().cloned()
}

/// A node that answers as a manager.
pub(super) fn a_manager(cluster: &Cluster) -> Option<Node> {
    let found = cluster.nodes().iter().find(|n| ask(n, "GET", "/nodes", &Value::Null).is_some())?;
    Some(super::node(found))
}

pub(super) fn create_services(cluster: &Cluster) -> anyhow::Result<()> {
    let first = super::node(cluster.manager());
    for (name, replicas) in [(WEB, WEB_REPLICAS), (SIDE, SIDE_REPLICAS)] {
        let mut spec = json!({
            "Name": name,
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": WHOAMI, "StopGracePeriod": 2_000_000_000, "Env": [cluster.mark(name)],
                },
                "RestartPolicy": {"Condition": "any", "Delay": 500_000_000},
            },
            "Mode": {"Replicated": {"Replicas": replicas}},
            "UpdateConfig": {"Parallelism": 2, "Monitor": 500_000_000},
        });
        if name == WEB {
            spec["EndpointSpec"] = json!({"Ports": [{"TargetPort": 80, "PublishedPort": PORT}]});
        }
        let _ = call(&first, "POST", "/services/create", &spec)?;
    }
    Ok(())
}

/// Changes the spec of the service, by whichever manager answers.
pub(super) fn update(cluster: &Cluster, name: &str, change: impl FnOnce(&mut Value)) -> anyhow::Result<()> {
    let path = format!("/services/{name}");
    let service = anyone(cluster, "GET", &path, &Value::Null).context("no manager shows the service")?;
    let mut spec = service["Spec"].clone();
    change(&mut spec);
    let path = format!("{path}/update?version={}", service["Version"]["Index"]);
    anyone(cluster, "POST", &path, &spec).context("no manager takes the update")?;
    Ok(())
}

/// Changes the spec of the node, by whichever manager answers.
pub(super) fn change_node(
    cluster: &Cluster,
    name: &str,
    change: impl FnOnce(&mut Value),
) -> anyhow::Result<()> {
    let listed = nodes(cluster).context("no manager lists the nodes")?;
    let Some(node) = listed.iter().find(|n| n["Description"]["Hostname"] == name) else {
        bail!("{name} is not listed");
    };
    let mut spec = node["Spec"].clone();
    change(&mut spec);
    let path = format!(
        "/nodes/{}/update?version={}",
        node["ID"].as_str().unwrap_or_default(),
        node["Version"]["Index"]
    );
    anyone(cluster, "POST", &path, &spec).context("no manager takes the change")?;
    Ok(())
}

/// Has managers make snapshots and let go of their logs all the time.
pub(super) fn compact_often(cluster: &Cluster) -> anyhow::Result<()> {
    let first = super::node(cluster.manager());
    let set = || -> anyhow::Result<Value> {
        let swarm = call(&first, "GET", "/swarm", &Value::Null)?;
        let mut spec = swarm["Spec"].clone();
        spec["Raft"]["SnapshotInterval"] = json!(SNAPSHOT_INTERVAL);
        spec["Raft"]["LogEntriesForSlowFollowers"] = json!(ENTRIES_KEPT);
        call(&first, "POST", &format!("/swarm/update?version={}", swarm["Version"]["Index"]), &spec)
    };
    // A machine that is busy with other things may be between two leaders.
    wait("the swarm takes its settings", || set().is_ok())
}

/// The name of the node that leads, as any manager shows it.
pub(super) fn leader(cluster: &Cluster) -> Option<String> {
    let listed = nodes(cluster)?;
    let leading = listed.iter().find(|n| n["ManagerStatus"]["Leader"] == true)?;
    leading["Description"]["Hostname"].as_str().map(str::to_owned)
}

/// The nodes that are managers now.
pub(super) fn managers(cluster: &Cluster) -> Vec<Node> {
    let listed = nodes(cluster).unwrap_or_default();
    let is_manager = |name: &str| {
        listed.iter().any(|n| n["Description"]["Hostname"] == name && n["Spec"]["Role"] == "manager")
    };
    cluster.nodes().iter().filter(|n| is_manager(&n.name)).map(super::node).collect()
}

/// The first line of a log that tells of a panic.
pub(super) fn panics(cluster: &Cluster) -> Option<String> {
    cluster.nodes().iter().find_map(|node| {
        let log = std::fs::read_to_string(cluster.state_dir().join(format!("{}.log", node.name))).ok()?;
        log.lines().find(|line| line.contains("panicked at")).map(|line| format!("{}: {line}", node.name))
    })
}

/// Whether every manager shows the swarm as whole.
///
/// # Errors
/// The first thing that is not.
pub(super) fn whole(cluster: &Cluster) -> Result<(), String> {
    let managers = managers(cluster);
    if managers.is_empty() {
        return Err("no manager lists the nodes".to_owned());
    }
    managers.iter().try_for_each(|by| whole_by(cluster.node(&by.name), cluster.nodes().len()))
}

/// Whether the services run as they were asked to, and every node answers for them.
///
/// # Errors
/// The first thing that is not.
pub(super) fn workloads(cluster: &Cluster, nodes: &[Node]) -> Result<(), String> {
    for name in [WEB, SIDE] {
        service(cluster, name)?;
    }
    for node in nodes {
        for n in 1..=N_REQUESTS {
            if let Err(why) = get(node.address, PORT, "/") {
                return Err(format!("request {n} to {} failed: {why}", node.name));
            }
        }
    }
    Ok(())
}

/// All nodes ready, as many managers as are meant, all reachable, one leading, as `by` shows it.
fn whole_by(by: &skep_e2e::Node, n_nodes: usize) -> Result<(), String> {
    let listed = ask(by, "GET", "/nodes", &Value::Null).ok_or(format!("{} does not answer", by.name))?.json();
    let listed = listed.as_array().cloned().unwrap_or_default();
    let name = |n: &Value| n["Description"]["Hostname"].to_string();
    if listed.len() != n_nodes {
        return Err(format!("{} lists {} nodes", by.name, listed.len()));
    }
    for node in &listed {
        let is_manager = node["Spec"]["Role"] == "manager";
        let reachable = node["ManagerStatus"]["Reachability"] == "reachable";
        if node["Status"]["State"] != "ready" || is_manager != reachable {
            let (state, manager) = (&node["Status"]["State"], &node["ManagerStatus"]);
            return Err(format!("{} shows {}: {state}, {manager}", by.name, name(node)));
        }
    }
    match listed.iter().filter(|n| n["ManagerStatus"]["Leader"] == true).count() {
        1 => Ok(()),
        n => Err(format!("{} shows {n} leaders", by.name)),
    }
}

/// Updated to its end, all replicas running, one container in each slot by the kernel's count.
fn service(cluster: &Cluster, name: &str) -> Result<(), String> {
    let shown = anyone(cluster, "GET", &format!("/services/{name}"), &Value::Null);
    let shown = shown.ok_or(format!("no manager shows {name}"))?;
    let wanted = shown["Spec"]["Mode"]["Replicated"]["Replicas"].as_u64().unwrap_or_default();
    let update = &shown["UpdateStatus"]["State"];
    if update == "updating" || update == "paused" {
        return Err(format!("the update of {name} is {update}"));
    }
    let programs = cluster.programs(name);
    let slots: BTreeSet<u64> = programs.iter().map(|p| p.slot).collect();
    if slots.len() != programs.len() || u64::try_from(slots.len()).ok() != Some(wanted) {
        return Err(format!("{name} has containers {programs:?} for {wanted} slots"));
    }
    let tasks = anyone(cluster, "GET", "/tasks", &Value::Null).ok_or("no manager lists tasks")?;
    let of_service = |t: &&Value| t["ServiceID"] == shown["ID"] && t["DesiredState"] == "running";
    let meant: Vec<&Value> = tasks.as_array().into_iter().flatten().filter(of_service).collect();
    let running = meant.iter().filter(|t| t["Status"]["State"] == "running").count();
    if meant.len() != running || u64::try_from(running).ok() != Some(wanted) {
        return Err(format!("{name} has {running} running of {} tasks, {wanted} wanted", meant.len()));
    }
    Ok(())
}
