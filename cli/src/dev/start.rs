//! Brings a development swarm up, step by step, saying what it does.
//!
//! Every step is done through the daemons' public API, as a user would do it by hand.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use futures::future::try_join_all;
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::dockerd::Engine;
use super::process::ProcessId;
use super::record::{Lock, Node, Record, Role, SwarmName};
use super::{UpArgs, api, dockerd, down, image, namespaces, network, node};

/// The port that managers listen on for joins.
const SWARM_PORT: u16 = 2377;
pub(crate) const EXAMPLE: &str = "whoami";
/// The longest that the example service may take until all its tasks run.
const EXAMPLE_WAIT_MAX: Duration = Duration::from_secs(30);
/// The longest that the nodes may take from the last join until all are ready.
const WHOLE_WAIT_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Takes the name and a subnet, and writes the record; cleans up first what a crash left.
pub(crate) async fn reserve(args: &UpArgs) -> anyhow::Result<Record> {
    let name = &args.name;
    if args.engine == Engine::Docker {
        dockerd::check()?;
    }
    match Record::load(name) {
        Ok(Some(record)) if record.is_running() => {
            bail!(
                "the swarm {name} is already running with {} nodes; \
                 `skep dev status --name {name}` shows it, `skep dev down --name {name}` takes it down",
                record.nodes.len(),
            );
        }
        Ok(Some(record)) => {
            say(&format!("The swarm {name} ended without being taken down; cleaning up what it left."));
            down::whole(&record).await.into_result()?;
        }
        Ok(None) | Err(_) => down::traces(name).await.into_result()?,
    }
    let _lock = Lock::take()?;
    let dir = name.state_dir();
    fs::create_dir(&dir).with_context(|| format!("take the name {name}: make {}", dir.display()))?;
    let subnet = network::pick_subnet(name, &Record::subnets_in_use())?;
    let mut record = Record::plan(name, subnet, args.managers, args.workers);
    record.log_level.clone_from(&args.log_level);
    record.engine = args.engine;
    record.daemon_args.clone_from(&args.daemon_args);
    record.owner = i32::try_from(std::process::id()).ok().and_then(ProcessId::of);
    record.save()?;
    Ok(record)
}

/// Makes the namespaces and daemons, forms the swarm, loads the image and starts the example service.
pub(crate) async fn bring_up(record: &mut Record, args: &UpArgs) -> anyhow::Result<()> {
    make_places(record)?;
    let n_nodes = record.nodes.len();
    say(&format!("Network     {n_nodes} namespaces on {}/24", record.gateway()));
    if record.engine == Engine::Docker {
        dockerd::start(record, |_| true).await?;
        say(&format!("Docker      {n_nodes} engines started"));
    }
    let flags = node::Flags::of(record);
    for node in &mut record.nodes {
        node::spawn(node, &flags)?;
    }
    record.save()?;
    try_join_all(record.nodes.iter().map(node::answers)).await?;
    say(&format!("Daemons     {n_nodes} started, logs in {}", record.name.state_dir().display()));
    if !args.no_swarm {
        form(record).await?;
    }
    if !args.no_example {
        let image = Bytes::from(image::pack()?);
        let size_mb = image.len() / 1_000_000;
        try_join_all(record.nodes.iter().map(|n| load(n, image.clone()))).await?;
        say(&format!("Image       {} ({size_mb} MB) loaded on each node", image::TAG));
    }
    if !args.no_example && !args.no_swarm {
        example(record, args).await?;
    }
    Ok(())
}

fn make_places(record: &Record) -> anyhow::Result<()> {
    let run_dir = record.name.run_dir();
    fs::create_dir_all(&run_dir).with_context(|| format!("make {}", run_dir.display()))?;
    namespaces::make_private(&run_dir)?;
    network::build(record)?;
    for node in &record.nodes {
        fs::create_dir_all(&node.state_dir).with_context(|| format!("make {}", node.state_dir.display()))?;
        namespaces::make_mnt(&node.mntns)?;
    }
    Ok(())
}

fn addresses(node: &Node) -> Value {
    json!({
        "ListenAddr": format!("0.0.0.0:{SWARM_PORT}"),
        "AdvertiseAddr": node.address.to_string(),
        "DataPathAddr": node.address.to_string(),
    })
}

async fn form(record: &mut Record) -> anyhow::Result<()> {
    let manager = record.manager()?.clone();
    let remote = format!("{}:{SWARM_PORT}", manager.address);
    let mut init = addresses(&manager);
    init["Spec"] = json!({"Name": "default", "Labels": {}});
    api::call(&manager.socket, Method::POST, "/swarm/init", &init).await?;
    say(&format!("Swarm       {} is its manager at {remote}", manager.name));
    let swarm = api::call(&manager.socket, Method::GET, "/swarm", &Value::Null).await?;
    let token = |kind: &str| {
        let token = swarm["JoinTokens"][kind].as_str().map(str::to_owned);
        token.with_context(|| format!("GET /swarm has no join token for a {kind}"))
    };
    let (for_managers, for_workers) = (token("Manager")?, token("Worker")?);
    let first = manager.name.as_str();
    let of = |role| record.nodes.iter().filter(move |n| n.role == role && n.name != first);
    // A manager's join ends when it votes: one after the other, as by hand.
    for node in of(Role::Manager) {
        join(node, &remote, &for_managers).await?;
    }
    try_join_all(of(Role::Worker).map(|node| join(node, &remote, &for_workers))).await?;
    whole(record, &manager).await?;
    for node in &mut record.nodes {
        let info = api::call(&node.socket, Method::GET, "/info", &Value::Null).await?;
        node.node_id = info["Swarm"]["NodeID"].as_str().filter(|id| !id.is_empty()).map(str::to_owned);
    }
    record.save()
}

async fn join(node: &Node, remote: &str, token: &str) -> anyhow::Result<()> {
    let mut join = addresses(node);
    join["RemoteAddrs"] = json!([remote]);
    join["JoinToken"] = json!(token);
    api::call(&node.socket, Method::POST, "/swarm/join", &join)
        .await
        .with_context(|| format!("{} could not join; its log ends:\n{}", node.name, node::log_tail(node)))?;
    say(&format!("Swarm       {} joined as a {}", node.name, node.role.as_str()));
    Ok(())
}

/// Waits until the swarm shows every node as ready and every manager as reachable.
async fn whole(record: &Record, manager: &Node) -> anyhow::Result<()> {
    let until = Instant::now() + WHOLE_WAIT_MAX;
    let n_managers = record.nodes.iter().filter(|n| n.role == Role::Manager).count();
    loop {
        let nodes = api::call(&manager.socket, Method::GET, "/nodes", &Value::Null).await?;
        let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
        let n_ready = nodes.iter().filter(|n| n["Status"]["State"] == "ready").count();
        let n_reachable = nodes.iter().filter(|n| n["ManagerStatus"]["Reachability"] == "reachable").count();
        if n_ready == record.nodes.len() && n_reachable == n_managers {
            return Ok(());
        }
        if Instant::now() >= until {
            bail!(
                "after {} s {n_ready} of {} nodes are ready and {n_reachable} of {n_managers} managers reachable",
                WHOLE_WAIT_MAX.as_secs(),
                record.nodes.len(),
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn load(node: &Node, image: Bytes) -> anyhow::Result<()> {
    let answer =
        api::send(&node.socket, Method::POST, "/images/load?quiet=1", "application/x-tar", image).await?;
    // A load that fails half way says so in the stream of a 200.
    match answer.get("error").and_then(Value::as_str) {
        Some(err) => Err(anyhow!("load {} on {}: {err}", image::TAG, node.name)),
        None => Ok(()),
    }
}

async fn example(record: &Record, args: &UpArgs) -> anyhow::Result<()> {
    let manager = record.manager()?;
    let spec = json!({
        "Name": EXAMPLE,
        "TaskTemplate": {"ContainerSpec": {"Image": image::TAG, "Env": ["NODE={{.Node.Hostname}}"]}},
        "Mode": {"Replicated": {"Replicas": args.replicas}},
        "EndpointSpec": {
            "Mode": "vip",
            "Ports": [
                {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": args.publish, "PublishMode": "ingress"},
            ],
        },
    });
    api::call(&manager.socket, Method::POST, "/services/create", &spec).await?;
    say(&format!("Service     {EXAMPLE} created, {} replicas on port {}", args.replicas, args.publish));
    let until = Instant::now() + EXAMPLE_WAIT_MAX;
    loop {
        let tasks = api::call(&manager.socket, Method::GET, "/tasks", &Value::Null).await?;
        let tasks = tasks.as_array().cloned().unwrap_or_default();
        let n_running = tasks.iter().filter(|t| t["Status"]["State"] == "running").count();
        if n_running >= usize::from(args.replicas) {
            break;
        }
        if Instant::now() >= until {
            bail!(
                "{EXAMPLE} has {n_running} of {} tasks running after {} s:\n{}",
                args.replicas,
                EXAMPLE_WAIT_MAX.as_secs(),
                tasks.iter().map(describe).collect::<Vec<_>>().join("\n"),
            );
        }
        tokio::time::sleep(POLL).await;
    }
    say(&format!("Service     all {} replicas run", args.replicas));
    Ok(())
}

fn describe(task: &Value) -> String {
    let status = &task["Status"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    format!(
        "  slot {} {}: {} {}",
        task["Slot"],
        text(&status["State"]),
        text(&status["Message"]),
        text(&status["Err"])
    )
}

/// What one can do now.
pub(crate) fn tell(record: &Record, args: &UpArgs) {
    let name = &record.name;
    if !args.no_example && !args.no_swarm {
        say("\nTry any node; every one answers:");
        for node in &record.nodes {
            say(&format!("  curl http://{}:{}    # {}", node.address, args.publish, node.name));
        }
    }
    if let Ok(manager) = record.manager() {
        say("\nPoint docker (or skep) at it:");
        say(&format!("  export DOCKER_HOST=unix://{}", manager.socket.display()));
        say("  docker node ls; docker service ls");
    }
    if args.detach {
        say(&format!("\nTake it down: {}", down_command(name)));
    } else {
        say("\nCtrl-C takes it down.");
    }
}

fn down_command(name: &SwarmName) -> String {
    format!("skep dev down --name {name}")
}

/// Writes a line of progress; a closed pipe is no reason to stop.
pub(crate) fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}
