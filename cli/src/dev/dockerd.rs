//! A Docker Engine of its own for each node of a swarm that runs on Docker.
//!
//! It shares its node's namespaces: the network, because containers are reached from it, and the mounts,
//! because a unix socket knows no network namespaces. All that it has is below the swarm's directories and
//! in the swarm's cgroup, so that it is found and removed like the rest.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::process::ProcessId;
use super::record::{Node, Record, SwarmName};
use super::{api, node};

const PROGRAM: &str = "dockerd";
/// The longest that it may take to its first answer: it starts a containerd first.
const START_WAIT_MAX: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(50);

/// What runs the tasks of a development swarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    /// The engine that is part of skep
    #[default]
    Embedded,
    /// A dockerd of its own for each node
    Docker,
}

impl Engine {
    /// The daemon's flags.
    pub(crate) fn flags(self, node: &Node) -> Vec<String> {
        match self {
            // Whatever Docker Engine this machine has is none of the swarm's business.
            Self::Embedded => vec!["--engine=embedded".to_owned()],
            Self::Docker => {
                vec!["--engine=docker".to_owned(), format!("--docker-socket={}", socket(node).display())]
            }
        }
    }
}

/// The cgroup of all containers of a swarm's nodes, below each hierarchy's root.
pub(crate) fn cgroup(name: &SwarmName) -> String {
    format!("skep-dev/{name}")
}

/// That of one node's containers.
pub(crate) fn node_cgroup(name: &SwarmName, node: &str) -> String {
    format!("{}/{node}", cgroup(name))
}

fn socket(node: &Node) -> PathBuf {
    node.socket.with_extension("docker.sock")
}

fn log(node: &Node) -> PathBuf {
    node.log.with_extension("dockerd.log")
}

/// Whether it can be started here at all.
pub(crate) fn check() -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join(PROGRAM).is_file()) {
        bail!("--engine docker: {PROGRAM} is not installed; `apt-get install docker.io` brings it");
    }
    Ok(())
}

/// Starts the engines of these nodes that do not run, and waits until they answer. The caller saves the
/// record afterwards.
pub(crate) async fn start(record: &mut Record, wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    if record.engine != Engine::Docker {
        return Ok(());
    }
    let (name, config) = (record.name.clone(), config(&record.daemon_args));
    for node in record.nodes.iter_mut().filter(|n| wanted(&n.name)) {
        if !node.dockerd.as_ref().is_some_and(ProcessId::is_alive) {
            spawn(&name, node, &config)?;
        }
    }
    record.save()?;
    for node in record.nodes.iter().filter(|n| wanted(&n.name)) {
        answers(node).await?;
    }
    Ok(())
}

/// What our daemon is told of registries holds for its Docker Engine too.
fn config(daemon_args: &[String]) -> String {
    let insecure = daemon_args.iter().filter_map(|flag| flag.strip_prefix("--insecure-registry="));
    json!({ "insecure-registries": insecure.collect::<Vec<_>>() }).to_string()
}

fn spawn(name: &SwarmName, node: &mut Node, config: &str) -> anyhow::Result<()> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log(node))
        .with_context(|| format!("open {}", log(node).display()))?;
    // The machine's own configuration is for the machine's own engine.
    let config_file = node.state_dir.join("dockerd.json");
    fs::write(&config_file, config).with_context(|| format!("write {}", config_file.display()))?;
    let exec_root = node.socket.with_extension("docker");
    let pid_file = node.socket.with_extension("docker.pid");
    // One that was killed leaves them, its containerd's too, which ends with it; the ids may be others' by now.
    for stale in [&pid_file, &exec_root.join("containerd/containerd.pid")] {
        drop(fs::remove_file(stale));
    }
    let path = |flag: &str, path: PathBuf| format!("--{flag}={}", path.display());
    let child = node::enter(node, Some(PROGRAM))?
        .arg(path("config-file", config_file))
        .arg(path("data-root", node.state_dir.join("docker")))
        .arg(path("exec-root", exec_root))
        .arg(path("pidfile", pid_file))
        .arg(format!("--host=unix://{}", socket(node).display()))
        .arg(format!("--cgroup-parent=/{}", node_cgroup(name, &node.name)))
        .args(["--exec-opt=native.cgroupdriver=cgroupfs", "--iptables=false", "--ip6tables=false"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start the Docker Engine of {}", node.name))?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).context("a Docker Engine ended at once")?;
    node.dockerd = ProcessId::of(pid);
    Ok(())
}

async fn answers(node: &Node) -> anyhow::Result<()> {
    let until = Instant::now() + START_WAIT_MAX;
    let socket = socket(node);
    while let Err(err) = api::call(&socket, Method::GET, "/_ping", &Value::Null).await {
        let is_alive = node.dockerd.as_ref().is_some_and(ProcessId::is_alive);
        if !is_alive || Instant::now() >= until {
            let log = log(node);
            let what = if is_alive { "does not answer" } else { "ended while starting" };
            return Err(err).with_context(|| {
                format!(
                    "the Docker Engine of {} {what}; its log is {}:\n{}",
                    node.name,
                    log.display(),
                    node::tail(&log)
                )
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
