//! The steps that the figures of five nodes measure: one function a row, on any Engine API.

use std::process::Command;

use anyhow::Context as _;
use rustix::process::Signal;
use serde_json::{Value, json};
use skep_e2e::{BUSYBOX, Stopwatch, mark_of, programs_of, run};

use crate::swarm::{
    Daemons, LIMIT, Node, call, find, is_well, listed, next_write, remove_all, rss_mib, set_availability,
    signal, wait, wait_whole,
};
use crate::table::{PROGRAM, ms};

pub(crate) const INIT: &str = "init -> GET /nodes answers";
pub(crate) const JOIN: &str = "worker join -> Ready";
pub(crate) const PROMOTE: &str = "promote -> Reachable";
pub(crate) const ONE: &str = "create of 1 -> running";
pub(crate) const CREATE: &str = "create of 50 -> all running";
pub(crate) const DRAIN: &str = "drain of 10 tasks -> all running elsewhere";
pub(crate) const LOST: &str = "worker lost with its tasks -> all 10 replaced";
pub(crate) const KILLED: &str = "leader kill -9 -> next accepted write";
pub(crate) const FROZEN: &str = "leader frozen -> next accepted write";
pub(crate) const RUN: &str = "docker run -d, no network -> its answer";
pub(crate) const START: &str = "POST /containers/ID/start, no network";
pub(crate) const RSS_IDLE: &str = "leader RSS, idle";
pub(crate) const RSS_FULL: &str = "leader RSS, 1,000 services of no replicas";

const N_SERVICES: usize = 1000;
/// The first three become managers.
const N_MANAGERS: usize = 3;

/// Starts of one container that stands alone.
const N_RUNS: usize = 10;

/// What one swarm gave: a row's name and one round of it.
pub(crate) type Rounds = Vec<(&'static str, f64)>;

fn addresses(node: &Node) -> Value {
    let address = node.address.to_string();
    json!({"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": address, "DataPathAddr": address})
}

/// Makes the swarm: one init, four joins as a worker, two promotions.
pub(crate) fn form(daemons: &dyn Daemons, rounds: &mut Rounds) -> anyhow::Result<()> {
    let nodes = daemons.nodes();
    let first = &nodes[0];
    let watch = Stopwatch::start();
    call(first, "POST", "/swarm/init", &addresses(first))?;
    wait("the new swarm answers", || !listed(first).is_empty())?;
    rounds.push((INIT, ms(watch)));
    let swarm = call(first, "GET", "/swarm", &Value::Null)?;
    for node in &nodes[1..] {
        let mut join = addresses(node);
        join["RemoteAddrs"] = json!([format!("{}:2377", first.address)]);
        join["JoinToken"] = swarm["JoinTokens"]["Worker"].clone();
        let watch = Stopwatch::start();
        call(node, "POST", "/swarm/join", &join)?;
        wait(&format!("{} is ready", node.name), || is_well(first, &node.name, false))?;
        rounds.push((JOIN, ms(watch)));
    }
    for node in &nodes[1..N_MANAGERS] {
        let watch = Stopwatch::start();
        promote(first, &node.name)?;
        wait(&format!("{} is reachable", node.name), || is_well(first, &node.name, true))?;
        rounds.push((PROMOTE, ms(watch)));
    }
    wait_whole(first)
}

fn promote(by: &Node, name: &str) -> anyhow::Result<()> {
    wait(&format!("{name} is promoted"), || {
        let listed = listed(by);
        let Some(node) = find(&listed, name) else { return false };
        let mut spec = node["Spec"].clone();
        spec["Role"] = json!("manager");
        let id = node["ID"].as_str().unwrap_or_default();
        call(by, "POST", &format!("/nodes/{id}/update?version={}", node["Version"]["Index"]), &spec).is_ok()
    })
}

fn spec(swarm: &str, name: &str, replicas: usize) -> Value {
    json!({
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": BUSYBOX, "Command": ["/bin/sh", "-c", PROGRAM], "StopGracePeriod": 1_000_000_000,
                "Env": [mark_of(swarm, name)],
            },
            "RestartPolicy": {"Condition": "any"},
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
        "EndpointSpec": {"Mode": "vip"},
    })
}

/// The nodes of the tasks that run and are meant to.
fn running(by: &Node) -> Vec<String> {
    let tasks = call(by, "GET", "/tasks", &Value::Null).unwrap_or_default();
    let tasks = tasks.as_array().into_iter().flatten();
    let tasks = tasks.filter(|t| t["Status"]["State"] == "running" && t["DesiredState"] == "running");
    tasks.filter_map(|t| t["NodeID"].as_str().map(str::to_owned)).collect()
}

fn removed(daemons: &dyn Daemons, by: &Node, name: &str) -> anyhow::Result<()> {
    call(by, "DELETE", &format!("/services/{name}"), &Value::Null)?;
    wait("all containers are gone", || programs_of(daemons.name(), name).is_empty())
}

/// A service of `n` replicas, until all run; its row is `row`.
pub(crate) fn create(
    daemons: &dyn Daemons,
    rounds: &mut Rounds,
    row: &'static str,
    n: usize,
) -> anyhow::Result<()> {
    let by = &daemons.nodes()[0];
    let watch = Stopwatch::start();
    call(by, "POST", "/services/create", &spec(daemons.name(), "created", n))?;
    wait("the created tasks run", || running(by).len() == n)?;
    rounds.push((row, ms(watch)));
    removed(daemons, by, "created")
}

/// Ten tasks, all on the node `name`, which others may take over.
fn ten_on(daemons: &dyn Daemons, by: &Node, name: &str) -> anyhow::Result<String> {
    let others: Vec<&Node> = daemons.nodes().iter().filter(|n| n.name != name).collect();
    for other in &others {
        set_availability(by, &other.name, "pause")?;
    }
    call(by, "POST", "/services/create", &spec(daemons.name(), "ten", 10))?;
    wait("ten tasks run", || running(by).len() == 10)?;
    for other in &others {
        set_availability(by, &other.name, "active")?;
    }
    let listed = listed(by);
    Ok(find(&listed, name).and_then(|n| n["ID"].as_str()).unwrap_or_default().to_owned())
}

pub(crate) fn drain(daemons: &dyn Daemons, rounds: &mut Rounds) -> anyhow::Result<()> {
    let by = &daemons.nodes()[0];
    let worker = daemons.nodes()[4].name.clone();
    let id = ten_on(daemons, by, &worker)?;
    let watch = Stopwatch::start();
    set_availability(by, &worker, "drain")?;
    wait("all ten run elsewhere", || {
        let nodes = running(by);
        nodes.len() == 10 && nodes.iter().all(|n| *n != id)
    })?;
    rounds.push((DRAIN, ms(watch)));
    set_availability(by, &worker, "active")?;
    removed(daemons, by, "ten")
}

pub(crate) fn lost(daemons: &mut dyn Daemons, rounds: &mut Rounds) -> anyhow::Result<()> {
    let (by, worker) = (daemons.nodes()[0].clone(), daemons.nodes()[3].clone());
    let id = ten_on(daemons, &by, &worker.name)?;
    let watch = Stopwatch::start();
    daemons.lose(&worker)?;
    wait("all ten are replaced", || {
        let nodes = running(&by);
        nodes.len() == 10 && nodes.iter().all(|n| *n != id)
    })?;
    rounds.push((LOST, ms(watch)));
    daemons.restart(&worker)?;
    wait_whole(&by)?;
    removed(daemons, &by, "ten")
}

/// The leader, and another manager.
pub(crate) fn leader(daemons: &dyn Daemons) -> anyhow::Result<(Node, Node)> {
    let managers = &daemons.nodes()[..N_MANAGERS];
    let mut found = None;
    wait("there is a leader", || {
        let listed = listed(&managers[0]);
        let leader = listed.iter().find(|n| n["ManagerStatus"]["Leader"] == true);
        let name = leader.and_then(|n| n["Description"]["Hostname"].as_str()).unwrap_or_default();
        found = managers.iter().find(|n| n.name == name).cloned();
        found.is_some()
    })?;
    let leader = found.unwrap_or_else(|| managers[0].clone());
    let other = managers.iter().find(|n| n.name != leader.name).unwrap_or(&managers[0]).clone();
    Ok((leader, other))
}

pub(crate) fn killed(daemons: &mut dyn Daemons, rounds: &mut Rounds) -> anyhow::Result<()> {
    let (leader, other) = leader(daemons)?;
    signal(leader.pid, Signal::KILL)?;
    rounds.push((KILLED, next_write(&other, "killed")?));
    daemons.restart(&leader)?;
    wait_whole(&other)?;
    remove_all(&other)
}

pub(crate) fn frozen(daemons: &mut dyn Daemons, rounds: &mut Rounds) -> anyhow::Result<()> {
    let (leader, other) = leader(daemons)?;
    signal(leader.pid, Signal::STOP)?;
    let took = next_write(&other, "frozen");
    signal(leader.pid, Signal::CONT)?;
    rounds.push((FROZEN, took?));
    wait_whole(&other)?;
    remove_all(&other)
}

/// Containers outside the swarm, by the CLI and by the API; what an embedded engine takes for the same is
/// measured by `agent/runtime/examples/start_bench.rs`.
pub(crate) fn run_alone(node: &Node, rounds: &mut Rounds) -> anyhow::Result<()> {
    let host = format!("unix://{}", node.socket.display());
    for _ in 0..N_RUNS {
        let watch = Stopwatch::start();
        let args = ["-H", &host, "run", "-d", "--rm", "--network", "none", BUSYBOX, "sh", "-c", PROGRAM];
        let output = run(Command::new("docker").args(args), LIMIT)?;
        let took = ms(watch);
        output.is_ok().then_some(()).with_context(|| format!("docker run: {output}"))?;
        rounds.push((RUN, took));
        call(node, "DELETE", &format!("/containers/{}?force=1", output.stdout.trim()), &Value::Null)?;
        let spec = json!({
            "Image": BUSYBOX, "Cmd": ["sh", "-c", PROGRAM], "HostConfig": {"NetworkMode": "none"},
        });
        let made = call(node, "POST", "/containers/create", &spec)?;
        let id = made["Id"].as_str().context("a container has an id")?;
        let watch = Stopwatch::start();
        call(node, "POST", &format!("/containers/{id}/start"), &Value::Null)?;
        rounds.push((START, ms(watch)));
        call(node, "DELETE", &format!("/containers/{id}?force=1"), &Value::Null)?;
    }
    Ok(())
}

pub(crate) fn memory(daemons: &dyn Daemons, rounds: &mut Rounds, row: &'static str) -> anyhow::Result<()> {
    let (leader, _) = leader(daemons)?;
    rounds.push((row, rss_mib(leader.pid)?));
    Ok(())
}

pub(crate) fn thousand_services(daemons: &dyn Daemons, rounds: &mut Rounds) -> anyhow::Result<()> {
    let by = &daemons.nodes()[0];
    for n in 0..N_SERVICES {
        call(by, "POST", "/services/create", &spec(daemons.name(), &format!("empty-{n}"), 0))?;
    }
    memory(daemons, rounds, RSS_FULL)
}
