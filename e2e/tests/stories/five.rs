//! A swarm of three managers and two workers: losing any one of them is a non-event.
//!
//! Stories wait up to 30 s for what takes a second, and print the times that they see.

mod forming;
mod managers;
mod members;
mod partitions;
mod serving;
mod workers;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use skep_e2e::{Cluster, Program, Stopwatch, Task, WHOAMI, try_wait_for, wait_for};

use crate::say_version;

/// The longest that anything may take here.
const LIMIT: Duration = Duration::from_secs(30);
/// How long nothing may happen, where something wrong would: well over the 3 s after which a node is down.
const QUIET: Duration = Duration::from_secs(6);
/// The published port of the service `web`.
const PORT: u16 = 8081;
const N_TASKS: usize = 10;
const MANAGERS: [&str; 3] = ["manager-1", "manager-2", "manager-3"];

/// Three managers and two workers, the example's image on each, no service.
fn five() -> Cluster {
    say_version();
    let watch = Stopwatch::start();
    let cluster = Cluster::builder(3, 2).example(0).start();
    told("skep dev with five nodes", watch);
    cluster
}

/// As [`five`], with ten replicas of `web`: the example program, published.
fn five_with_web() -> (Cluster, Vec<Task>) {
    let cluster = five();
    create_web(&cluster);
    let tasks = cluster.wait_running("web", N_TASKS, LIMIT);
    (cluster, tasks)
}

fn create_web(cluster: &Cluster) {
    let (publish, mark) = (format!("{PORT}:80"), cluster.mark("web"));
    let head = ["service", "create", "--quiet", "--detach", "--name", "web", "--replicas", "10"];
    let _ = cluster.docker(&[&head, &["--publish", &publish, "--env", &mark, WHOAMI][..]].concat()).ok();
}

/// Past the test's capture: a log tells how fast it was.
fn told(what: &str, watch: Stopwatch) {
    let _ = writeln!(std::io::stderr(), "    {what}: {:.2} s", watch.elapsed().as_secs_f64());
}

/// Waits with [`LIMIT`] and says how long it took.
#[track_caller]
fn timed<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    let watch = Stopwatch::start();
    let value = wait_for(what, LIMIT, condition);
    told(what, watch);
    value
}

/// The leader, as the node that unqualified calls go to sees it.
#[track_caller]
fn leader(cluster: &Cluster) -> String {
    wait_for("the swarm shows a leader", LIMIT, || {
        let list = cluster.docker(&["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]);
        if !list.is_ok() {
            return None;
        }
        let mut lines = list.stdout.lines().filter_map(|line| line.strip_suffix(" Leader"));
        lines.next().map(str::to_owned)
    })
}

/// A manager other than `name`.
fn other_than(name: &str) -> &'static str {
    MANAGERS.into_iter().find(|m| *m != name).expect("there are three")
}

/// Writes through the manager that unqualified calls go to until one write is accepted.
#[track_caller]
fn write(cluster: &Cluster, what: &str) {
    let mut n = 0;
    let mut last = String::new();
    let watch = Stopwatch::start();
    let accepted = try_wait_for(LIMIT, || {
        n += 1;
        let answer = cluster.api("POST", "/services/create", &empty_service(&format!("write-{n}")));
        last = format!("{} {}", answer.status, answer.message());
        (answer.status == 201).then_some(())
    });
    assert!(accepted.is_some(), "{what}: no write within {LIMIT:?}, the last answer was {last}");
    told(&format!("{what} -> a write is accepted"), watch);
    let _ = cluster.docker(&["service", "rm", &format!("write-{n}")]).ok();
}

fn empty_service(name: &str) -> Value {
    json!({
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": WHOAMI}},
        "Mode": {"Replicated": {"Replicas": 0}},
    })
}

/// Waits until `docker node ls` shows five nodes ready and three managers well, seen from the node that
/// unqualified calls go to.
#[track_caller]
fn wait_whole(cluster: &Cluster) {
    timed("all five are ready and all three managers well", || {
        let list = cluster.docker(&["node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}"]);
        let count = |end: &str| list.stdout.lines().filter(|l| l.ends_with(end)).count();
        let n_ready = list.stdout.lines().filter(|l| l.starts_with("Ready")).count();
        (list.is_ok() && n_ready == 5 && count(" Leader") == 1 && count(" Reachable") == 2).then_some(())
    });
}

/// Waits until ten tasks run outside the node `name`, and returns them.
#[track_caller]
fn wait_moved(cluster: &Cluster, name: &str) -> Vec<Task> {
    let id = cluster.node_id(name);
    timed(&format!("all ten tasks run outside {name}"), || {
        let running = cluster.running("web");
        (running.len() == N_TASKS && running.iter().all(|t| t.node_id != id)).then_some(running)
    })
}

/// The ten tasks that run and are meant to; what a lost node's tasks are believed to do does not count.
#[track_caller]
fn ten(cluster: &Cluster) -> Vec<Task> {
    wait_for("ten tasks run", LIMIT, || {
        let running = cluster.running("web");
        (running.len() == N_TASKS).then_some(running)
    })
}

/// That for a while no task comes or goes.
#[track_caller]
fn assert_same(cluster: &Cluster, before: &[Task]) {
    let changed = try_wait_for(QUIET, || {
        let now = cluster.running("web");
        (now != before).then_some(now)
    });
    assert!(changed.is_none(), "tasks were replaced: {before:#?} became {changed:#?}");
}

/// That the containers on this machine are just those of the tasks that the swarm says run.
#[track_caller]
fn assert_no_double(cluster: &Cluster) -> Vec<Program> {
    let programs = cluster.wait_programs("web", N_TASKS, LIMIT);
    let tasks: Vec<String> = ten(cluster).into_iter().map(|t| t.id).collect();
    assert!(programs.iter().all(|p| tasks.contains(&p.task)), "{programs:#?} are not of {tasks:#?}");
    programs
}

fn per_node(programs: &[Program]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for program in programs {
        *counts.entry(program.node.as_str()).or_default() += 1;
    }
    counts
}
