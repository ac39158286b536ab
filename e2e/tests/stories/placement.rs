//! Where tasks go and why they wait: preferences, limits a node, labels that change, generic resources.

use std::collections::BTreeMap;

use serde_json::json;
use skep_e2e::{BUSYBOX, Cluster, wait_for};

use crate::{IDLE, SOON, cluster, create};

/// How many tasks of a service run on each node, by name.
fn running_by_node(cluster: &Cluster, service: &str, n: usize) -> BTreeMap<String, usize> {
    let names: BTreeMap<String, String> =
        cluster.nodes().iter().map(|node| (cluster.node_id(&node.name), node.name.clone())).collect();
    let mut counts = BTreeMap::new();
    for task in cluster.wait_running(service, n, SOON) {
        *counts.entry(names[&task.node_id].clone()).or_default() += 1;
    }
    counts
}

/// Waits until a task of the service waits with these words.
fn wait_pending(cluster: &Cluster, service: &str, words: &str) {
    wait_for(&format!("{service}: {words}"), SOON, || {
        let tasks = cluster.tasks(service);
        tasks.iter().any(|task| task.state == "pending" && task.err == words).then_some(())
    });
}

#[test]
fn tasks_are_spread_over_zones_and_follow_the_labels() {
    let cluster = cluster(2);
    let label = |node: &str, label: &str| {
        let _ = cluster.docker(&["node", "update", "--label-add", label, node]).ok();
    };
    for (node, zone) in [("manager-1", "zone=a"), ("worker-1", "zone=a"), ("worker-2", "zone=b")] {
        label(node, zone);
    }
    create(&cluster, "web", &["--placement-pref", "spread=node.labels.zone", "--replicas", "8"], IDLE);
    let counts = running_by_node(&cluster, "web", 8);
    let expect = [("manager-1", 2), ("worker-1", 2), ("worker-2", 4)];
    assert_eq!(counts, expect.map(|(name, n)| (name.to_owned(), n)).into());

    create(&cluster, "few", &["--replicas-max-per-node", "1", "--replicas", "4"], IDLE);
    let counts = running_by_node(&cluster, "few", 3);
    assert!(counts.values().all(|n| *n == 1), "{counts:?}");
    wait_pending(&cluster, "few", "no suitable node (max replicas per node limit exceed)");
    let why = cluster.skep(&["service", "explain", "few"]).ok();
    assert!(why.contains("max replicas") && why.contains("worker-2"), "{why}");

    // Its node is no zone b any more: the task ends there, and waits until another one is.
    create(&cluster, "b", &["--constraint", "node.labels.zone==b"], IDLE);
    assert_eq!(running_by_node(&cluster, "b", 1), [("worker-2".to_owned(), 1)].into());
    label("worker-2", "zone=c");
    wait_pending(&cluster, "b", "no suitable node (scheduling constraints not satisfied on 3 nodes)");
    label("worker-1", "zone=b");
    assert_eq!(running_by_node(&cluster, "b", 1), [("worker-1".to_owned(), 1)].into());
}

#[test]
fn generic_resources_are_given_once_and_who_waits_is_told_why() {
    let cluster = Cluster::builder(1, 1).daemon_flag("--node-generic-resource=gpu=2").start();
    let expect = json!([{ "DiscreteResourceSpec": { "Kind": "gpu", "Value": 2 } }]);
    for node in cluster.get("/nodes").as_array().into_iter().flatten() {
        assert_eq!(node["Description"]["Resources"]["GenericResources"], expect);
    }
    let plan = cluster
        .skep(&["service", "create", "--dry-run", "--generic-resource", "gpu=1", "--replicas", "5", BUSYBOX])
        .ok();
    assert!(plan.contains("worker-1") && plan.contains("1 task would wait"), "{plan}");
    assert!(cluster.get("/services").as_array().is_some_and(Vec::is_empty), "a dry run stores nothing");

    let script = format!("echo given $DOCKER_RESOURCE_GPU; {IDLE}");
    create(&cluster, "gpu", &["--generic-resource", "gpu=1", "--replicas", "5"], &script);
    let counts = running_by_node(&cluster, "gpu", 4);
    assert!(counts.values().all(|n| *n == 2), "{counts:?}");
    wait_pending(&cluster, "gpu", "no suitable node (insufficient resources on 2 nodes)");
    let why = cluster.skep(&["service", "explain", "gpu"]).ok();
    assert!(why.contains("gpu") && why.contains("would fit:"), "{why}");
    wait_for("a container is told its share", SOON, || {
        let logs = cluster.docker(&["service", "logs", "gpu"]).ok();
        (logs.matches("given 1").count() == 4).then_some(())
    });
    // With one less all run, and nobody waits.
    let _ = cluster.docker(&["service", "scale", "--detach", "gpu=4"]).ok();
    wait_for("nobody waits", SOON, || {
        let why = cluster.skep(&["service", "explain", "gpu"]).ok();
        (why.trim() == "no task waits for a node").then_some(())
    });
}
