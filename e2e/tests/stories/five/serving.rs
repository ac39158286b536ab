//! No request fails while tasks are replaced on purpose: updates, drains.

use skep_e2e::{Cluster, Load, wait_for};

use super::{LIMIT, PORT, assert_no_double, five_with_web, per_node, ten, timed, wait_moved};

fn under_way(cluster: &Cluster) -> Load {
    let load = Load::start(&cluster.addresses(), PORT);
    wait_for("the client is under way", LIMIT, || (load.n_ok() > 30).then_some(()));
    load
}

#[track_caller]
fn assert_none_failed(load: Load) {
    let n_before = load.n_ok();
    wait_for("the client goes on", LIMIT, || (load.n_ok() > n_before + 50).then_some(()));
    let seen = load.stop();
    assert!(seen.failures.is_empty(), "{} answered, failed: {:#?}", seen.n_ok, seen.failures);
}

#[test]
fn no_request_to_any_of_five_fails_during_an_update_and_a_drain() {
    let (cluster, before) = five_with_web();
    wait_for("every node answers", LIMIT, || {
        cluster.addresses().iter().all(|a| skep_e2e::get(*a, PORT, "/").is_ok()).then_some(())
    });
    let load = under_way(&cluster);
    let update = ["service", "update", "--detach", "--env-add", "VERSION=2", "--update-parallelism", "2"];
    let _ = cluster.docker(&[&update[..], &["--update-monitor", "100ms", "web"]].concat()).ok();
    timed("the update of ten completes", || {
        (cluster.service("web")["UpdateStatus"]["State"] == "completed").then_some(())
    });
    let after = ten(&cluster);
    assert!(after.iter().all(|t| before.iter().all(|b| b.id != t.id)), "every task is replaced: {after:?}");
    assert_none_failed(load);

    let load = under_way(&cluster);
    let _ = cluster.docker(&["node", "update", "--availability", "drain", "worker-1"]).ok();
    let _ = wait_moved(&cluster, "worker-1");
    let _ = cluster.docker(&["node", "update", "--availability", "drain", "manager-2"]).ok();
    let _ = wait_moved(&cluster, "manager-2");
    assert_none_failed(load);
    let programs = assert_no_double(&cluster);
    let spread = per_node(&programs);
    assert!(!spread.contains_key("worker-1") && !spread.contains_key("manager-2"), "{spread:?}");
    let answer = skep_e2e::get(cluster.node("worker-1").address, PORT, "/");
    assert_eq!(answer.map(|a| a.status).ok(), Some(200), "a drained node still answers on the port");
}
