//! A lost worker: its tasks are replaced within seconds, its return doubles nothing.

use std::time::Duration;

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
