//! Containers outlive the daemon: a new engine finds, follows, signals and buries what an old one started.

#[path = "support/lab.rs"]
mod lab;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use lab::{LIMIT, lab, shell};
use rustix::process::{Pid, Signal, kill_process};
use skep_runtime::{Config, ContainerSpec, ContainerState, Engine, LogOptions, Registries};

const SCRIPT: &str = "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.05; done";
const STATE: &str = "SKEP_TEST_STATE";
const PREFIX: &str = "SKEP_TEST_PREFIX";

fn pid_of(engine: &Engine, id: &str) -> Option<u32> {
    engine.list().into_iter().find(|c| c.id == id).and_then(|c| match c.state {
        ContainerState::Running { pid } => Some(pid),
        ContainerState::Created | ContainerState::Exited(_) => None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_engine_takes_over() {
    let Some(mut lab) = lab().await else { return };
    let labels = [("task".to_owned(), "t1".to_owned())].into();
    lab.engine.create(ContainerSpec { labels, ..shell("a", SCRIPT) }).await.unwrap();
    lab.engine.create(shell("b", "sleep 0.2; exit 9")).await.unwrap();
    lab.engine.create(shell("c", "true")).await.unwrap();
    let pid = lab.engine.start("a").await.unwrap();
    lab.engine.start("b").await.unwrap();
    lab.wait_for("a", "ready").await;

    lab.engine = Engine::open(lab.config.clone()).await.unwrap();
    assert_eq!(pid_of(&lab.engine, "a"), Some(pid));
    let list = lab.engine.list();
    assert_eq!((list.len(), list[0].labels["task"].as_str()), (3, "t1"));
    assert_eq!(list[2].state, ContainerState::Created);
    assert_eq!(lab.engine.start("a").await.unwrap(), pid, "never started twice");
    assert_eq!(tokio::time::timeout(LIMIT, lab.engine.wait("b")).await.unwrap().unwrap().code, 9);
    lab.engine.kill("a", 15).await.unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, lab.engine.wait("a")).await.unwrap().unwrap().code, 4);
    assert_eq!(lab.output("a").await, "ready\nbye\n");

    lab.engine = Engine::open(lab.config.clone()).await.unwrap();
    assert_eq!(lab.engine.wait("a").await.unwrap().code, 4, "told again from disk");
    lab.finish().await;
}

/// The daemon of the test below; does nothing when run as a test.
#[tokio::test(flavor = "multi_thread")]
async fn helper_daemon() {
    let (Ok(state_dir), Ok(cgroup_prefix)) = (std::env::var(STATE), std::env::var(PREFIX)) else { return };
    let config = Config {
        state_dir: state_dir.into(),
        shim: lab::shim(),
        cgroup_prefix,
        registries: Registries::default(),
        open_files: None,
    };
    let engine = Engine::open(config).await.unwrap();
    engine.create(shell("k", SCRIPT)).await.unwrap();
    let pid = engine.start("k").await.unwrap();
    println!("started {pid}");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_survives_the_kill_of_its_daemon() {
    let Some(mut lab) = lab().await else { return };
    // In a mount namespace of its own, as daemons on one machine are, which ends with it.
    let mut daemon = Command::new("unshare")
        .args(["--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "helper_daemon", "--nocapture"])
        .env(STATE, &lab.config.state_dir)
        .env(PREFIX, &lab.config.cgroup_prefix)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let pid: u32 = lines
        .find_map(|l| l.unwrap().split_once("started ").map(|(_, pid)| pid.parse().unwrap()))
        .expect("the helper starts its container");
    daemon.kill().unwrap();
    daemon.wait().unwrap();

    lab.engine = Engine::open(lab.config.clone()).await.unwrap();
    assert_eq!(pid_of(&lab.engine, "k"), Some(pid));
    lab.wait_for("k", "ready").await;
    let mut log = lab.engine.logs("k", LogOptions { follow: true, ..LogOptions::default() }).unwrap();
    assert_eq!(log.recv().await.unwrap().bytes, b"ready\n");
    lab.engine.kill("k", 15).await.unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, lab.engine.wait("k")).await.unwrap().unwrap().code, 4);
    assert_eq!(log.recv().await.unwrap().bytes, b"bye\n");
    assert!(log.recv().await.is_none());
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_shim_is_told_and_its_container_is_gone() {
    let Some(mut lab) = lab().await else { return };
    let shim_of = |lab: &lab::Lab, id: &str| -> Pid {
        let file = lab.config.state_dir.join("containers").join(id).join("started.json");
        let started: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        Pid::from_raw(started["shim_pid"].as_i64().unwrap().try_into().unwrap()).unwrap()
    };
    for id in ["live", "later"] {
        lab.engine.create(shell(id, "sleep 600")).await.unwrap();
        lab.engine.start(id).await.unwrap();
    }
    let pids: Vec<u32> = ["live", "later"].iter().map(|id| pid_of(&lab.engine, id).unwrap()).collect();
    kill_process(shim_of(&lab, "live"), Signal::KILL).unwrap();
    let exit = tokio::time::timeout(LIMIT, lab.engine.wait("live")).await.unwrap().unwrap();
    assert_eq!(exit.code, 137);
    assert!(exit.error.unwrap().starts_with("shim lost"));

    // As after a reboot: nobody of the record lives any more when the engine opens.
    let shim = shim_of(&lab, "later");
    lab.engine = Engine::open(lab.config.clone()).await.unwrap();
    kill_process(shim, Signal::KILL).unwrap();
    lab.engine = Engine::open(lab.config.clone()).await.unwrap();
    let exit = tokio::time::timeout(LIMIT, lab.engine.wait("later")).await.unwrap().unwrap();
    assert_eq!(exit.code, 137);
    for pid in pids {
        let zombie = |stat: String| stat.contains(") Z ");
        let path = format!("/proc/{pid}/stat");
        while !std::fs::read_to_string(&path).map_or(true, zombie) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    lab.finish().await;
}
