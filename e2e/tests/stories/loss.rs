//! A lost worker: its tasks are replaced within seconds, its return doubles nothing.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use skep_e2e::{Stopwatch, wait_for};

use crate::{SOON, cluster_with_example, host_names};

#[test]
fn a_lost_workers_tasks_are_replaced_within_seconds() {
    let mut cluster = cluster_with_example(2);
    let _ = cluster.wait_running("whoami", 3, SOON);
    let lost = cluster.node_id("worker-1");
    cluster.kill_node("worker-1", true);
    let watch = Stopwatch::start();
    cluster.wait_node("worker-1", "down", Duration::from_secs(8));
    let running = wait_for("three tasks run elsewhere", Duration::from_secs(8), || {
        let running: Vec<_> = cluster.running("whoami").into_iter().filter(|t| t.node_id != lost).collect();
        (running.len() == 3).then_some(running)
    });
    let took = watch.elapsed();
    assert!(took < Duration::from_secs(8), "down after 3 s, then replaced at once: took {took:?}");
    for name in ["manager-1", "worker-2"] {
        wait_for("only live replicas answer", SOON, || {
            (host_names(cluster.node(name), 8080, 40).len() == 3).then_some(())
        });
    }
    let list = cluster.docker(&["node", "ls"]).ok();
    assert!(list.lines().any(|l| l.contains("worker-1") && l.contains("Down")), "{list}");

    let _ = cluster.restart_node("worker-1").ok();
    cluster.wait_node("worker-1", "ready", SOON);
    let again = cluster.wait_running("whoami", 3, SOON);
    assert_eq!(again, running, "a node that comes back doubles nothing and moves nothing");
    wait_for("the returned node answers too", SOON, || {
        skep_e2e::get(cluster.node("worker-1").address, 8080, "/").is_ok().then_some(())
    });
}

#[test]
fn a_frozen_worker_is_replaced_and_taken_back() {
    let cluster = cluster_with_example(2);
    let _ = cluster.wait_running("whoami", 3, SOON);
    let frozen = cluster.node("worker-1").pid.expect("the daemon runs");
    signal(frozen, Signal::STOP);
    cluster.wait_node("worker-1", "down", Duration::from_secs(8));
    let lost = cluster.node_id("worker-1");
    let running = wait_for("three tasks run elsewhere", SOON, || {
        let running: Vec<_> = cluster.running("whoami").into_iter().filter(|t| t.node_id != lost).collect();
        (running.len() == 3).then_some(running)
    });
    signal(frozen, Signal::CONT);
    cluster.wait_node("worker-1", "ready", SOON);
    let again = wait_for("no double task stays", SOON, || {
        let running = cluster.running("whoami");
        (running.len() == 3).then_some(running)
    });
    assert_eq!(again, running, "the replacements stay, the old task is stopped");
}

#[test]
fn a_removed_nodes_tasks_end_there_and_run_elsewhere() {
    let cluster = cluster_with_example(1);
    let tasks = cluster.wait_running("whoami", 3, SOON);
    let removed = cluster.node_id("worker-1");
    let there: Vec<_> = tasks.into_iter().filter(|task| task.node_id == removed).collect();
    assert!(!there.is_empty(), "a task runs on the worker");
    let _ = cluster.docker(&["node", "rm", "--force", "worker-1"]).ok();
    wait_for("its containers are gone", SOON, || {
        let gone = |pid| !std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
        there.iter().all(|task| gone(task.pid)).then_some(())
    });
    wait_for("three tasks run", SOON, || (cluster.running("whoami").len() == 3).then_some(()));
    // It knows what it is, and is free once it has left.
    let worker = cluster.node("worker-1");
    let info = || {
        let format = "{{.Swarm.LocalNodeState}}: {{.Swarm.Error}}";
        cluster.docker_on(worker, &["info", "--format", format]).ok()
    };
    wait_for("the removed node says so", SOON, || {
        info().starts_with("error: this node was removed").then_some(())
    });
    let _ = cluster.docker_on(worker, &["swarm", "leave"]).ok();
    assert!(info().starts_with("inactive"), "{}", info());
}

fn signal(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a daemon's pid");
    kill_process(pid, signal).expect("the daemon runs");
}
