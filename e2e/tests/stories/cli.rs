//! Our own CLI, end to end: services, nodes and the swarm changed, and a node taken out for good.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skep_e2e::{BUSYBOX, wait_for};

use crate::{IDLE, SOON, cluster, create};

#[test]
fn a_service_is_updated_scaled_rolled_back_and_shown() {
    let cluster = cluster(1);
    create(&cluster, "web", &["--replicas", "2", "--env", "A=1", "--update-monitor", "1s"], IDLE);
    let _ = cluster.wait_running("web", 2, SOON);
    let update =
        ["service", "update", "--env-add", "B=2", "--limit-memory", "64m", "--label-add", "x=y", "web"];
    let out = cluster.skep(&update).ok();
    assert!(out.starts_with("web\n") && out.contains("verify: Service web converged"), "{out}");
    let spec = cluster.service("web")["Spec"].clone();
    assert_eq!(spec["TaskTemplate"]["ContainerSpec"]["Env"], json!(["A=1", "B=2"]));
    assert_eq!(spec["TaskTemplate"]["Resources"]["Limits"]["MemoryBytes"], json!(64 << 20));
    let pretty = cluster.skep(&["service", "inspect", "--pretty", "web"]).ok();
    for line in ["Name:\t\tweb", " Env:\t\tA=1 B=2", "  Memory:\t64MiB", " Monitoring Period: 1s"] {
        assert!(pretty.lines().any(|l| l == line), "{line:?} in\n{pretty}");
    }
    let out = cluster.skep(&["service", "scale", "web=3"]).ok();
    assert!(out.starts_with("web scaled to 3\n"), "{out}");
    let _ = cluster.wait_running("web", 3, SOON);
    let _ = cluster.skep(&["service", "update", "--detach", "--force", "web"]).ok();
    let _ = cluster.skep(&["service", "rollback", "--detach", "web"]).ok();
    wait_for("the forced update is taken back", SOON, || {
        let service = cluster.service("web");
        (service["UpdateStatus"]["State"] == "rollback_completed").then_some(())
    });
    let refused = cluster.skep(&["service", "update", "--replicas", "2", "none"]).refused();
    assert!(refused.contains("service none not found"), "{refused}");
}

#[test]
fn settings_are_changed_and_an_old_token_is_refused() {
    let cluster = cluster(1);
    let old = cluster.skep(&["swarm", "join-token", "-q", "worker"]).ok();
    let new = cluster.skep(&["swarm", "join-token", "-q", "--rotate", "worker"]).ok();
    assert_ne!(old, new);
    let out = cluster.skep(&["swarm", "update", "--task-history-limit", "2", "--cert-expiry", "48h"]).ok();
    assert_eq!(out, "Swarm updated.\n");
    let info = cluster.docker(&["info"]).ok();
    assert!(
        info.contains("Task History Retention Limit: 2") && info.contains("Expiry Duration: 2 days"),
        "{info}"
    );

    let worker = cluster.node("worker-1").clone();
    let left = cluster.api_on(&worker, "POST", "/swarm/leave?force=1", &Value::Null);
    assert_eq!(left.status, 200, "{}", left.text());
    let join = |token: &str| {
        let body = json!({
            "RemoteAddrs": [format!("{}:2377", cluster.manager().address)], "JoinToken": token.trim(),
            "AdvertiseAddr": worker.address.to_string(), "ListenAddr": "0.0.0.0:2377",
        });
        cluster.api_on(&worker, "POST", "/swarm/join", &body)
    };
    let refused = join(&old);
    assert_ne!(refused.status, 200);
    assert!(refused.text().contains("A valid join token is necessary"), "{}", refused.text());
    let joined = join(&new);
    assert_eq!(joined.status, 200, "{}", joined.text());

    // The history is as long as was said: what failed last, the one before, and one on its way.
    create(&cluster, "quick", &["--restart-delay", "100ms"], "exit 1");
    let mut seen = BTreeSet::new();
    let n_kept = wait_for("five tasks have come", SOON, || {
        let tasks = cluster.tasks("quick");
        let n_kept = tasks.len();
        seen.extend(tasks.into_iter().map(|task| task.id));
        (seen.len() >= 5).then_some(n_kept)
    });
    assert!(n_kept <= 3, "{n_kept} tasks are kept");
}

#[test]
fn a_worker_is_retired_and_its_tasks_run_elsewhere() {
    let cluster = cluster(3);
    create(&cluster, "web", &["--replicas", "4"], IDLE);
    let _ = cluster.wait_running("web", 4, SOON);
    let worker = cluster.node_id("worker-2");
    let steps = cluster.skep(&["node", "retire", "--dry-run", "worker-2"]).ok();
    assert_eq!(steps.lines().count(), 3, "{steps}");
    let out = cluster.skep(&["node", "retire", "worker-2"]).ok();
    assert!(out.contains("worker-2 is retired."), "{out}");
    let running = cluster.running("web");
    assert!(running.len() == 4 && running.iter().all(|t| t.node_id != worker), "{running:?}");
    let gone = cluster.skep(&["node", "inspect", "worker-2"]).refused();
    assert!(gone.contains("node worker-2 not found"), "{gone}");
    let refused = cluster.skep(&["node", "retire", "manager-1"]).refused();
    assert!(refused.contains("it cannot remove itself"), "{refused}");
}

#[test]
fn a_retirement_that_would_hurt_stops_and_says_why() {
    let cluster = cluster(2);
    let id = cluster.node_id("worker-1");
    let constraint = format!("node.id=={id}");
    create(&cluster, "pinned", &["--constraint", &constraint], IDLE);
    let _ = cluster.wait_running("pinned", 1, SOON);
    let refused = cluster.skep(&["node", "retire", "--timeout", "3s", "worker-1"]).refused();
    for part in [
        "stopped at 'wait' (done: drain)",
        "pinned 0/1",
        "no suitable node",
        "skep node update --availability active worker-1",
    ] {
        assert!(refused.contains(part), "{part} in\n{refused}");
    }
    let _ = cluster.skep(&["node", "update", "--availability", "active", "worker-1"]).ok();
    let _ = cluster.wait_running("pinned", 1, SOON);
    let ps = cluster.skep(&["node", "ps", "worker-1"]).ok();
    assert!(ps.contains("pinned.1") && ps.contains(BUSYBOX), "{ps}");
}
