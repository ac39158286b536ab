//! Thousands of agents on one machine: the real protocol, over real connections, with an engine and a network that
//! do all at once and nothing. Three real managers beside them store what they say, with real fsyncs.
//!
//! `cargo run --release -p skep-e2e --example hollow -- AGENTS TASKS [PUBLISHED]`, as root like the stories. TASKS may be
//! several numbers, `1,1000,10000`: a service of each, one after the other, the last of which stays. With a third word
//! the tasks are behind a published port, so that every agent is told of each.
//!
//! Measured: how long all take to join; what the managers cost while nothing happens; the time from the creation of
//! a service to all its tasks running as the API shows it; and what a leader's end costs them.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod fleet;
mod process;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fleet::Fleet;
use process::Usage;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use skep_e2e::{Cluster, Stopwatch, try_wait_for};

/// The longest that a step may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How long the agents are watched at rest.
const REST: Duration = Duration::from_secs(10);
/// An endpoint's port, when one is published.
const PORT: u16 = 8088;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| args.get(at).map_or(Ok(default), |arg| arg.parse());
    let n_agents = number(0, 200).context("AGENTS is a number")?;
    let n_tasks = args.get(1).map_or("2000", String::as_str).split(',').map(str::parse);
    let n_tasks: Vec<usize> = n_tasks.collect::<Result<_, _>>().context("TASKS are numbers")?;
    let is_published = args.get(2).is_some();
    println!("load {}", std::fs::read_to_string("/proc/loadavg")?.trim());

    let mut swarm = Cluster::builder(3, 0).start();
    // After that the daemons have theirs by themselves. Each agent here is a connection.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).context("open files")?;
    // The managers take no tasks: what is measured is told to agents.
    for node in swarm.nodes().to_vec() {
        let drained = swarm.docker(&["node", "update", "--availability", "drain", &node.name]);
        anyhow::ensure!(drained.is_ok(), "{drained}");
    }
    let token = swarm.get("/swarm")["JoinTokens"]["Worker"].as_str().unwrap_or_default().parse()?;
    let managers: Vec<String> = swarm.nodes().iter().map(|node| format!("{}:2377", node.address)).collect();
    let fleet = Arc::new(Fleet::new(managers)?);

    let watch = Stopwatch::start();
    fleet.join(n_agents, &token)?;
    wait("all agents are connected", || fleet.n_connected() == n_agents)?;
    println!("{n_agents} agents joined and connected      {:>8.2} s", watch.elapsed().as_secs_f64());
    rest(&swarm, "at rest")?;
    if let Some(pause) = std::env::var_os("HOLLOW_PAUSE") {
        // To look at the daemons by other means.
        wait("the pause is over", || !std::path::Path::new(&pause).exists())?;
    }

    for (at, n) in n_tasks.iter().enumerate() {
        if at > 0 {
            remove(&swarm, &fleet)?;
        }
        run_tasks(&swarm, &fleet, *n, is_published)?;
    }
    rest(&swarm, "at rest with tasks")?;
    lose_leader(&mut swarm, &fleet, n_agents)?;
    rest(&swarm, "at rest after that")?;
    fleet.stop();
    Ok(())
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    try_wait_for(LIMIT, || condition().then_some(())).with_context(|| format!("{what}: not within {LIMIT:?}"))
}

/// From nothing to all tasks running as the state says.
fn run_tasks(swarm: &Cluster, fleet: &Fleet, n_tasks: usize, is_published: bool) -> anyhow::Result<()> {
    let watch = Stopwatch::start();
    create(swarm, n_tasks, is_published)?;
    let created = watch.elapsed();
    // Assigned, told, taken and done: nothing of it takes the engine any time.
    wait("all tasks are started", || fleet.n_running() == n_tasks)?;
    let started = watch.elapsed();
    wait("all tasks run", || n_running(swarm) == n_tasks)?;
    let took = watch.elapsed().as_secs_f64();
    println!("{n_tasks} tasks: created                   {:>8.3} s", created.as_secs_f64());
    println!("  all started on their nodes       {:>8.3} s", started.as_secs_f64());
    println!("  all running in the state         {took:>8.3} s, {:.0} tasks/s", n_tasks as f64 / took);
    Ok(())
}

/// Removes the service, and waits until nothing is left of it.
fn remove(swarm: &Cluster, fleet: &Fleet) -> anyhow::Result<()> {
    let answer = swarm.api("DELETE", "/services/hollow", &Value::Null);
    anyhow::ensure!(answer.status < 300, "{}", answer.message());
    wait("all tasks have stopped", || fleet.n_running() == 0)?;
    wait("all tasks are gone", || tasks(swarm).is_ok_and(|tasks| tasks.is_empty()))
}

fn create(swarm: &Cluster, n_tasks: usize, is_published: bool) -> anyhow::Result<()> {
    let ports = if is_published { json!([{"TargetPort": 80, "PublishedPort": PORT}]) } else { json!([]) };
    let spec = json!({
        "Name": "hollow",
        "TaskTemplate": {"ContainerSpec": {"Image": "ok"}},
        "Mode": {"Replicated": {"Replicas": n_tasks}},
        "EndpointSpec": {"Ports": ports},
    });
    let answer = swarm.api("POST", "/services/create", &spec);
    anyhow::ensure!(answer.status < 300, "{}", answer.message());
    Ok(())
}

fn n_running(swarm: &Cluster) -> usize {
    let answer = swarm.api("GET", "/services?status=true", &Value::Null).json();
    let n = answer[0]["ServiceStatus"]["RunningTasks"].as_u64().unwrap_or_default();
    usize::try_from(n).unwrap_or_default()
}

/// The name of the leader's node, as the manager that is spoken to knows it.
fn leader(swarm: &Cluster) -> Option<String> {
    let filter = "/nodes?filters=%7B%22role%22%3A%5B%22manager%22%5D%7D";
    let nodes = swarm.api("GET", filter, &Value::Null).json();
    let found = nodes.as_array()?.iter().find(|node| node["ManagerStatus"]["Leader"] == true)?;
    found["Description"]["Hostname"].as_str().map(str::to_owned)
}

/// What each manager costs over [`REST`].
fn rest(swarm: &Cluster, when: &str) -> anyhow::Result<()> {
    let leader = leader(swarm).context("a leader")?;
    let usage = || swarm.nodes().iter().filter_map(|node| Some((node.name.clone(), Usage::of(node.pid?)?)));
    let before: Vec<(String, Usage)> = usage().collect();
    let watch = Stopwatch::start();
    wait("the rest is over", || watch.elapsed() >= REST)?;
    let span = watch.elapsed().as_secs_f64();
    for ((name, before), (_, after)) in before.into_iter().zip(usage()) {
        let role = if name == leader { "leader" } else { "follower" };
        let cores = (after.cpu_seconds - before.cpu_seconds) / span;
        println!("  {when:<20} {name} {role:<9} {cores:>6.3} cores, {:>6} MiB", after.resident_mib);
    }
    Ok(())
}

fn tasks(swarm: &Cluster) -> anyhow::Result<Vec<String>> {
    let answer = swarm.api("GET", "/tasks", &Value::Null);
    anyhow::ensure!(answer.status == 200, "{}", answer.message());
    let id = |task: &Value| task["ID"].as_str().unwrap_or_default().to_owned();
    let mut ids: Vec<String> = answer.json().as_array().into_iter().flatten().map(id).collect();
    ids.sort();
    Ok(ids)
}

/// Kills the leader, and waits until its agents are with others and all nodes count as there.
fn lose_leader(swarm: &mut Cluster, fleet: &Fleet, n_agents: usize) -> anyhow::Result<()> {
    let before = tasks(swarm)?;
    let lost = leader(swarm).context("a leader")?;
    let other = swarm.nodes().iter().map(|node| node.name.clone()).find(|name| *name != lost);
    swarm.speak_to(&other.context("another manager")?);
    let watch = Stopwatch::start();
    swarm.kill_at_once(&[&lost]);
    wait("an agent misses its manager", || fleet.n_connected() < n_agents)?;
    wait("all agents are connected again", || fleet.n_connected() == n_agents)?;
    let back = watch.elapsed().as_secs_f64();
    wait("all nodes are there", || {
        let nodes = swarm.api("GET", "/nodes", &Value::Null).json();
        let is_ready = |node: &&Value| node["Status"]["State"] == "ready" && node["Spec"]["Role"] == "worker";
        nodes.as_array().into_iter().flatten().filter(is_ready).count() == n_agents
    })?;
    println!("leader killed: all agents back           {back:>8.2} s");
    println!("  all nodes ready by the new one   {:>8.2} s", watch.elapsed().as_secs_f64());
    let after = tasks(swarm)?;
    let n_new = after.iter().filter(|id| before.binary_search(id).is_err()).count();
    println!("  tasks replaced                   {n_new:>8}");
    Ok(())
}
