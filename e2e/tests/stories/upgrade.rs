//! A rolling upgrade to a build with a feature level more: old and new managers never hold different states, the
//! new rules begin once all can follow them, and from then on an older build is refused.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use skep_e2e::{Cluster, Node, next_build, wait_for};

use crate::{SOON, say_version};

const MANAGERS: [&str; 3] = ["manager-1", "manager-2", "manager-3"];
/// A daemon that starts, and a leader that may have to be found.
const LIMIT: Duration = Duration::from_secs(30);

fn info(cluster: &Cluster, node: &Node) -> Value {
    let answer = cluster.api_on(node, "GET", "/info", &Value::Null);
    serde_json::from_str(&answer.text()).expect("info is JSON")
}

/// The swarm's feature level, and what the build of a manager can, as that one says.
fn levels(cluster: &Cluster, name: &str) -> (u64, u64) {
    let info = info(cluster, cluster.node(name));
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    (number(&info["Swarm"]["FeatureLevel"]), number(&info["Skep"]["FeatureLevel"]))
}

/// Creates a service without tasks through one node: its status, and its words.
fn create(cluster: &Cluster, node: &str, name: &str) -> (u16, String) {
    let spec = json!({
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}},
        "Mode": {"Replicated": {"Replicas": 0}},
    });
    wait_for(&format!("{name} is answered by {node}"), LIMIT, || {
        let answer = cluster.api_on(cluster.node(node), "POST", "/services/create", &spec);
        // Without a leader for a moment, nothing was written.
        (answer.status != 503).then(|| (answer.status, answer.text()))
    })
}

/// All services as a manager tells them, each with its version.
fn services(cluster: &Cluster, name: &str) -> Vec<(String, u64)> {
    let text = wait_for(&format!("{name} lists"), LIMIT, || {
        let answer = cluster.api_on(cluster.node(name), "GET", "/services", &Value::Null);
        (answer.status == 200).then(|| answer.text())
    });
    let list: Vec<Value> = serde_json::from_str(&text).expect("a list of services");
    let mut all: Vec<_> = list
        .iter()
        .map(|one| {
            let name = one["Spec"]["Name"].as_str().unwrap_or_default().to_owned();
            (name, one["Version"]["Index"].as_u64().unwrap_or_default())
        })
        .collect();
    all.sort();
    all
}

fn all_agree(cluster: &Cluster) {
    let first = services(cluster, MANAGERS[0]);
    for name in &MANAGERS[1..] {
        assert_eq!(services(cluster, name), first, "{name} has another state than {}", MANAGERS[0]);
    }
}

fn replace(cluster: &mut Cluster, name: &str, build: &Path) {
    cluster.kill_node(name, false);
    let _ = cluster.restart_node_with(name, build).ok();
    cluster.wait_node(name, "ready", LIMIT);
}

#[test]
fn managers_are_upgraded_one_by_one_and_an_older_build_is_refused_then() {
    say_version();
    let next = next_build();
    let mut cluster = Cluster::builder(3, 1).example(2).start();
    let before: Vec<_> = cluster.wait_running("whoami", 2, SOON).into_iter().map(|task| task.id).collect();
    for name in MANAGERS {
        assert_eq!(levels(&cluster, name), (2, 2));
    }

    // Old and new together go by the old rules, whoever leads: names may differ by '-' alone.
    for (n, name) in MANAGERS.into_iter().enumerate().take(2) {
        replace(&mut cluster, name, &next);
        for (k, through) in MANAGERS.into_iter().enumerate() {
            assert_eq!(create(&cluster, through, &format!("mixed-{n}{k}")).0, 201);
            assert_eq!(create(&cluster, through, &format!("mixed_{n}{k}")).0, 201);
        }
        all_agree(&cluster);
        assert_eq!(levels(&cluster, name), (2, 3));
        let warnings = info(&cluster, cluster.node(name))["Swarm"]["Warnings"].to_string();
        assert!(warnings.contains("manager-3") && !warnings.contains(name), "{warnings}");
    }

    replace(&mut cluster, "manager-3", &next);
    for name in MANAGERS {
        wait_for(&format!("{name} goes by the new rules"), LIMIT, || {
            (levels(&cluster, name) == (3, 3)).then_some(())
        });
    }
    for name in MANAGERS {
        assert_eq!(create(&cluster, name, &format!("only-{name}")).0, 201);
        let (status, words) = create(&cluster, name, &format!("only_{name}"));
        assert_eq!(status, 409, "{words}");
        assert!(words.contains("differs by '-' alone"), "{words}");
    }
    all_agree(&cluster);
    let after: Vec<_> = cluster.wait_running("whoami", 2, SOON).into_iter().map(|task| task.id).collect();
    assert_eq!(after, before, "tasks run on while managers are upgraded");

    // Back to the older build: it neither starts on that state, nor becomes a manager.
    cluster.kill_node("manager-2", false);
    let words = cluster.restart_node("manager-2").refused();
    assert!(words.contains("feature level 3") && words.contains("start a newer build"), "{words}");
    let _ = cluster.restart_node_with("manager-2", &next).ok();
    cluster.wait_node("manager-2", "ready", LIMIT);
    let _ = cluster.docker(&["node", "promote", "worker-1"]).ok();
    let worker = cluster.node("worker-1").clone();
    wait_for("the worker of the older build says why it is no manager", LIMIT, || {
        let error = info(&cluster, &worker)["Swarm"]["Error"].to_string();
        error.contains("install a newer build").then_some(())
    });
    replace(&mut cluster, "worker-1", &next);
    wait_for("it becomes a manager with the newer build", LIMIT, || {
        let list = cluster.docker(&["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]);
        list.stdout.lines().any(|line| line == "worker-1 Reachable").then_some(())
    });
}
