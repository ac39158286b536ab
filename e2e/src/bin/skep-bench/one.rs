//! The figures of one manager and one worker.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, PidfdFlags};
use serde_json::{Value, json};
use skep_e2e::{BUSYBOX, Cluster, Stopwatch, wait_for};

use crate::table::{Figure, PROGRAM, load, measure, ms, say};

/// The longest that any step may take before the benchmark gives up.
const LIMIT: Duration = Duration::from_secs(60);

/// Measures all, each `rounds` times, and prints a table and one line of JSON.
pub(crate) fn run(rounds: usize) -> anyhow::Result<()> {
    let load_before = load()?;
    let cluster = Cluster::start(1);
    let mut figures = Vec::new();
    for (n, name, goal) in [
        (1, "create of 1 -> all running", 150.0),
        (10, "create of 10 -> all running", 500.0),
        (50, "create of 50 -> all running", 1500.0),
    ] {
        figures.push(measure(name, "ms", goal, rounds, || create(&cluster, n))?);
    }
    figures.push(measure("rolling update of 10, monitor 1 ms", "ms", 2000.0, rounds, || update(&cluster))?);
    figures.push(measure("stop of one task, API -> exit", "ms", 100.0, rounds * 3, || stop(&cluster))?);
    figures.push(measure("start of one container, shim -> program", "ms", 40.0, rounds * 3, || {
        start(&cluster)
    })?);
    figures.push(measure("PSS of a shim at 50 containers", "KiB", 1536.0, 1, || shim_pss(&cluster))?);
    drop(cluster);
    let load_after = load()?;
    say(&format!("{:<44} {:>9} {:>9} {:>9} {:>9}", "figure", "min", "median", "max", "goal"));
    for figure in &figures {
        say(&figure.to_row());
    }
    say(&format!("load average before {load_before}, after {load_after}; {rounds} rounds"));
    let figures: Vec<Value> = figures.iter().map(Figure::to_json).collect();
    let load = json!({"before": load_before, "after": load_after});
    say(&json!({"figures": figures, "rounds": rounds, "load": load}).to_string());
    Ok(())
}

fn spec(replicas: usize) -> Value {
    let update = json!({"Parallelism": 1, "Delay": 0, "FailureAction": "pause", "Monitor": 1_000_000,
        "MaxFailureRatio": 0, "Order": "stop-first"});
    json!({
        "Name": "bench",
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": BUSYBOX, "Command": ["/bin/sh", "-c", PROGRAM], "StopGracePeriod": 1_000_000_000,
            },
            "RestartPolicy": {"Condition": "any"},
            "ForceUpdate": 0,
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
        "UpdateConfig": update,
        "RollbackConfig": update,
        "EndpointSpec": {"Mode": "vip"},
    })
}

fn post(cluster: &Cluster, path: &str, body: &Value) -> anyhow::Result<()> {
    let answer = cluster.api("POST", path, body);
    if answer.status >= 300 {
        bail!("POST {path}: {} {}", answer.status, answer.message());
    }
    Ok(())
}

/// Makes the service and returns the milliseconds until all its tasks run.
fn created(cluster: &Cluster, n: usize) -> anyhow::Result<f64> {
    let watch = Stopwatch::start();
    post(cluster, "/services/create", &spec(n))?;
    let _ = cluster.wait_running("bench", n, LIMIT);
    Ok(ms(watch))
}

/// Removes the service and waits until its processes are gone, so that rounds do not overlap.
fn removed(cluster: &Cluster) {
    let pids: Vec<i64> = cluster.tasks("bench").iter().map(|t| t.pid).filter(|pid| *pid > 0).collect();
    let _ = cluster.api("DELETE", "/services/bench", &Value::Null);
    wait_for("all containers are gone", LIMIT, || {
        pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}

fn create(cluster: &Cluster, n: usize) -> anyhow::Result<f64> {
    let took = created(cluster, n)?;
    removed(cluster);
    Ok(took)
}

fn change(cluster: &Cluster, edit: impl Fn(&mut Value)) -> anyhow::Result<()> {
    let service = cluster.service("bench");
    let mut spec = service["Spec"].clone();
    edit(&mut spec);
    let id = service["ID"].as_str().context("a service has an id")?;
    post(cluster, &format!("/services/{id}/update?version={}", service["Version"]["Index"]), &spec)
}

fn update(cluster: &Cluster) -> anyhow::Result<f64> {
    created(cluster, 10)?;
    let watch = Stopwatch::start();
    change(cluster, |spec| spec["TaskTemplate"]["ForceUpdate"] = json!(1))?;
    wait_for("the update completes", LIMIT, || {
        (cluster.service("bench")["UpdateStatus"]["State"] == "completed").then_some(())
    });
    let took = ms(watch);
    removed(cluster);
    Ok(took)
}

fn stop(cluster: &Cluster) -> anyhow::Result<f64> {
    created(cluster, 1)?;
    let pid = cluster.running("bench").first().map(|t| t.pid).context("one task runs")?;
    let pid = Pid::from_raw(i32::try_from(pid)?).context("its process is known")?;
    // A pidfd tells the exit itself, not the next look at it.
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let watch = Stopwatch::start();
    change(cluster, |spec| spec["Mode"]["Replicated"]["Replicas"] = json!(0))?;
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
    if rustix::event::poll(&mut fds, Some(&limit))? == 0 {
        bail!("the task did not exit within 60 s");
    }
    let took = ms(watch);
    removed(cluster);
    Ok(took)
}

/// From the start of the shim to that of the container's program, as the kernel recorded both.
fn start(cluster: &Cluster) -> anyhow::Result<f64> {
    created(cluster, 1)?;
    let pid = cluster.running("bench").first().map(|t| t.pid).context("one task runs")?;
    let shim = parent(pid)?;
    // The first child that the program makes is the `sleep` that it starts at once.
    let children = wait_for("the program has started", LIMIT, || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        text.split_ascii_whitespace().next().and_then(|p| p.parse::<i64>().ok())
    });
    let took = start_ms(children)? - start_ms(shim)?;
    removed(cluster);
    Ok(took)
}

fn stat_field(pid: i64, after_name: usize) -> anyhow::Result<i64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(')').context("a command in brackets")?.1;
    Ok(rest.split_ascii_whitespace().nth(after_name).context("a field of stat")?.parse()?)
}

fn parent(pid: i64) -> anyhow::Result<i64> {
    stat_field(pid, 1)
}

/// The kernel counts in ticks of 10 ms, so one round is exact to 10 ms and the median over rounds is better.
fn start_ms(pid: i64) -> anyhow::Result<f64> {
    let ticks = i32::try_from(stat_field(pid, 19)?).context("ticks since boot")?;
    Ok(f64::from(ticks) * 10.0)
}

fn shim_pss(cluster: &Cluster) -> anyhow::Result<f64> {
    created(cluster, 50)?;
    let mut total = 0.0;
    let tasks = cluster.running("bench");
    for task in &tasks {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", parent(task.pid)?))?;
        let line = rollup.lines().find(|l| l.starts_with("Pss:")).context("a Pss line")?;
        total += line.split_ascii_whitespace().nth(1).context("a number of KiB")?.parse::<f64>()?;
    }
    removed(cluster);
    Ok(total / f64::from(u32::try_from(tasks.len())?))
}
