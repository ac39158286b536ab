//! The figures that we promise, measured on `skep dev` with 1 manager and 1 worker.
//!
//! Prints a table for people and, last, one line of JSON for programs, with the machine's load before
//! and after: figures of a loaded machine are rough. `--rounds N` (3) repeats each measurement.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, PidfdFlags};
use serde_json::{Value, json};
use skep_e2e::{BUSYBOX, Cluster, Stopwatch, wait_for};

/// The longest that any step may take before the benchmark gives up.
const LIMIT: Duration = Duration::from_secs(60);
/// Runs until SIGTERM, then ends at once, so that a stop costs no grace period.
const PROGRAM: &str = "trap 'exit 0' TERM; while :; do sleep 1000000 & wait $!; done";
const ROUNDS: usize = 3;

/// One figure: what it is, its unit, the value promised, all rounds.
struct Figure {
    name: &'static str,
    unit: &'static str,
    goal: f64,
    rounds: Vec<f64>,
}

impl Figure {
    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn to_json(&self) -> Value {
        let sorted = self.sorted();
        json!({
            "name": self.name, "unit": self.unit, "goal": self.goal, "rounds": self.rounds,
            "min": sorted.first(), "median": sorted.get(sorted.len() / 2), "max": sorted.last(),
        })
    }

    fn to_row(&self) -> String {
        let sorted = self.sorted();
        let at = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
        let median = at(sorted.len() / 2);
        let verdict = if median <= self.goal { "reached" } else { "missed" };
        let last = at(sorted.len().saturating_sub(1));
        format!(
            "{:<44} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:<4} {verdict}",
            self.name,
            at(0),
            median,
            last,
            self.goal,
            self.unit
        )
    }
}

fn main() -> anyhow::Result<()> {
    let rounds = rounds()?;
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
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<44} {:>9} {:>9} {:>9} {:>9}", "figure", "min", "median", "max", "goal")?;
    for figure in &figures {
        writeln!(out, "{}", figure.to_row())?;
    }
    writeln!(out, "load average before {load_before}, after {load_after}; {rounds} rounds")?;
    let figures: Vec<Value> = figures.iter().map(Figure::to_json).collect();
    let report =
        json!({"figures": figures, "rounds": rounds, "load": {"before": load_before, "after": load_after}});
    writeln!(out, "{report}")?;
    Ok(())
}

fn rounds() -> anyhow::Result<usize> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Ok(ROUNDS),
        ["--rounds", n] => n.parse().with_context(|| format!("--rounds {n} is no number")),
        _ => bail!("usage: skep-bench [--rounds N]"),
    }
}

/// The load averages of 1, 5 and 15 minutes.
fn load() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

fn measure(
    name: &'static str,
    unit: &'static str,
    goal: f64,
    rounds: usize,
    mut once: impl FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<Figure> {
    let rounds = (0..rounds).map(|_| once()).collect::<anyhow::Result<Vec<f64>>>().with_context(|| name)?;
    Ok(Figure { name, unit, goal, rounds })
}

fn ms(watch: Stopwatch) -> f64 {
    watch.elapsed().as_secs_f64() * 1000.0
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
