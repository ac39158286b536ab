//! Nodes: what is listed, drained, paused, and what constraints ask of them.

use std::time::Duration;

use skep_e2e::{Load, wait_for};

use crate::{IDLE, SOON, cluster, cluster_with_example, create};

#[test]
fn nodes_are_listed_and_inspected() {
    let cluster = cluster(2);
    let list = cluster.docker(&["node", "ls"]).ok();
    assert_eq!(list.lines().count(), 4, "{list}");
    for (name, words) in [("manager-1", ["Ready", "Leader"]), ("worker-1", ["Ready", "Active"])] {
        let line = list.lines().find(|l| l.contains(name)).unwrap();
        assert!(words.iter().all(|w| line.contains(w)), "{list}");
    }
    let address = cluster.node("worker-1").address.to_string();
    let format = ["node", "inspect", "--format", "{{.Status.Addr}} {{.Spec.Role}}", "worker-1"];
    assert_eq!(cluster.docker(&format).ok().trim(), format!("{address} worker"));
    let pretty = cluster.docker(&["node", "inspect", "--pretty", "self"]).ok();
    assert!(pretty.contains("manager-1"), "{pretty}");
    let refused = cluster.docker_on(cluster.node("worker-1"), &["node", "ls"]).refused();
    assert!(refused.contains("This node is not a swarm manager"), "{refused}");
    let info = cluster.docker(&["info"]).ok();
    assert!(info.contains("Swarm: active") && info.contains("Nodes: 3"), "{info}");
}

#[test]
fn a_drained_node_hands_its_tasks_over_without_a_failed_request() {
    let cluster = cluster_with_example(2);
    let _ = cluster.wait_running("whoami", 3, SOON);
    let worker = cluster.node_id("worker-1");
    let load = Load::start(&cluster.addresses(), 8080);
    wait_for("the client is under way", SOON, || (load.n_ok() > 30).then_some(()));
    let _ = cluster.docker(&["node", "update", "--availability", "drain", "worker-1"]).ok();
    wait_for("the tasks have moved", SOON, || {
        let running = cluster.running("whoami");
        (running.len() == 3 && running.iter().all(|t| t.node_id != worker)).then_some(())
    });
    let n_before = load.n_ok();
    wait_for("the client goes on", SOON, || (load.n_ok() > n_before + 30).then_some(()));
    let seen = load.stop();
    assert!(seen.failures.is_empty(), "{} answered, failed: {:#?}", seen.n_ok, seen.failures);
    let ps = cluster.docker(&["node", "ps", "worker-1"]).ok();
    assert!(ps.contains("Shutdown"), "{ps}");

    let _ = cluster.docker(&["node", "update", "--availability", "active", "worker-1"]).ok();
    let _ = cluster.docker(&["service", "scale", "--detach", "whoami=6"]).ok();
    let tasks = cluster.wait_running("whoami", 6, SOON);
    assert!(tasks.iter().any(|t| t.node_id == worker), "an active node is used again: {tasks:?}");
}

#[test]
fn a_paused_node_keeps_its_tasks_and_gets_no_new_ones() {
    let cluster = cluster(1);
    create(&cluster, "web", &["--replicas", "2"], IDLE);
    let before = cluster.wait_running("web", 2, SOON);
    let _ = cluster.docker(&["node", "update", "--availability", "pause", "worker-1"]).ok();
    let _ = cluster.docker(&["service", "scale", "--detach", "web=6"]).ok();
    let after = cluster.wait_running("web", 6, SOON);
    assert!(before.iter().all(|t| after.contains(t)), "running tasks stay: {after:?}");
    let worker = cluster.node_id("worker-1");
    assert_eq!(after.iter().filter(|t| t.node_id == worker).count(), 1, "{after:?}");
}

#[test]
fn constraints_hold_and_a_pending_task_says_why() {
    let cluster = cluster(2);
    create(&cluster, "web", &["--constraint", "node.labels.zone==east"], IDLE);
    let err = wait_for("the pending task explains", SOON, || {
        cluster
            .tasks("web")
            .first()
            .filter(|t| t.state == "pending" && !t.err.is_empty())
            .map(|t| t.err.clone())
    });
    assert!(err.contains("no suitable node (scheduling constraints not satisfied on 3 nodes)"), "{err}");
    let ps = cluster.docker(&["service", "ps", "--no-trunc", "web"]).ok();
    assert!(ps.contains("no suitable node (scheduling constraints not satisfied on 3 nodes)"), "{ps}");
    let _ = cluster.docker(&["node", "update", "--label-add", "zone=east", "worker-2"]).ok();
    let tasks = cluster.wait_running("web", 1, SOON);
    assert_eq!(tasks[0].node_id, cluster.node_id("worker-2"));

    for (name, constraint, node) in [
        ("by-host", "node.hostname==worker-1", "worker-1"),
        ("by-role", "node.role==manager", "manager-1"),
        ("by-label", "node.labels.zone!=east", ""),
    ] {
        create(&cluster, name, &["--replicas", "3", "--constraint", constraint], IDLE);
        let tasks = cluster.wait_running(name, 3, SOON);
        let allowed = |id: &str| {
            if node.is_empty() { id != cluster.node_id("worker-2") } else { id == cluster.node_id(node) }
        };
        assert!(tasks.iter().all(|t| allowed(&t.node_id)), "{constraint}: {tasks:?}");
    }
}

#[test]
fn reservations_are_counted() {
    let cluster = cluster(1);
    create(&cluster, "huge", &["--reserve-memory", "100TB"], IDLE);
    let err = wait_for("the pending task explains", Duration::from_secs(10), || {
        cluster.tasks("huge").first().map(|t| t.err.clone()).filter(|err| !err.is_empty())
    });
    assert!(err.contains("no suitable node (insufficient resources on 2 nodes)"), "{err}");
    let _ = cluster.docker(&["service", "update", "--detach", "--reserve-memory", "16MB", "huge"]).ok();
    let _ = cluster.wait_running("huge", 1, SOON);
}
