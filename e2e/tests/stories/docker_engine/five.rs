//! Three managers and two workers, each with a Docker Engine: what the swarm of five promises holds there too.

use serde_json::Value;
use skep_e2e::{Cluster, Load, Task, wait_for};

use super::{DOCKER_SOON, identity};
use crate::{SOON, host_names, say_version};

const REPLICAS: usize = 10;
const PORT: u16 = 8080;

fn leader(cluster: &Cluster) -> String {
    wait_for("a manager leads", SOON, || {
        let nodes = cluster.api("GET", "/nodes", &Value::Null).json();
        let leads = |node: &&Value| node["ManagerStatus"]["Leader"] == true;
        nodes.as_array()?.iter().find(leads)?["Description"]["Hostname"].as_str().map(str::to_owned)
    })
}

fn update_under_load(cluster: &Cluster, before: &[Task]) -> Vec<Task> {
    let load = Load::start(&cluster.addresses(), PORT);
    wait_for("the client is under way", SOON, || (load.n_ok() > 30).then_some(()));
    let update = ["service", "update", "--detach", "--env-add", "VERSION=2", "--update-parallelism", "4"];
    let _ = cluster.docker(&[&update[..], &["--update-monitor", "100ms", "whoami"]].concat()).ok();
    let updated = wait_for("all tasks are of the new spec", DOCKER_SOON, || {
        let running = cluster.running("whoami");
        let is_new = |task: &Task| before.iter().all(|old| old.id != task.id);
        (running.len() == REPLICAS && running.iter().all(is_new)).then_some(running)
    });
    let n = load.n_ok();
    wait_for("the client goes on", SOON, || (load.n_ok() > n + 50).then_some(()));
    let seen = load.stop();
    assert!(seen.failures.is_empty(), "{} answered, failed: {:#?}", seen.n_ok, seen.failures);
    updated
}

#[test]
fn five_nodes_on_docker_survive_an_update_and_the_loss_of_daemons() {
    say_version();
    let mut cluster = Cluster::builder(3, 2).flag("--engine=docker").example(10).start();
    let before = cluster.wait_running("whoami", REPLICAS, DOCKER_SOON);
    for node in cluster.nodes() {
        let id = cluster.node_id(&node.name);
        assert_eq!(before.iter().filter(|task| task.node_id == id).count(), 2, "spread over {}", node.name);
        wait_for("all ten answer on every node", SOON, || {
            (host_names(node, PORT, 3 * REPLICAS).len() == REPLICAS).then_some(())
        });
    }
    let updated = update_under_load(&cluster, &before);

    // The daemons of a worker and of the leader alone, back within the 3 s: nothing is replaced.
    let first = leader(&cluster);
    let other = if first == "manager-1" { "manager-2" } else { "manager-1" };
    cluster.speak_to(other);
    cluster.kill_node("worker-2", false);
    cluster.kill_node(&first, false);
    let second = leader(&cluster);
    assert_ne!(second, first);
    for name in ["worker-2", &first] {
        let _ = cluster.restart_node(name).ok();
        cluster.wait_node(name, "ready", SOON);
    }
    let after = cluster.wait_running("whoami", REPLICAS, DOCKER_SOON);
    assert_eq!(identity(&after), identity(&updated), "the same tasks in the same containers");

    // A whole node: its tasks run elsewhere.
    cluster.kill_node("worker-1", true);
    let lost = cluster.node_id("worker-1");
    wait_for("its tasks are replaced", DOCKER_SOON, || {
        let running = cluster.running("whoami");
        (running.len() == REPLICAS && running.iter().all(|task| task.node_id != lost)).then_some(())
    });
    let node = cluster.node("worker-2").clone();
    wait_for("those that run answer, and no other", SOON, || {
        (host_names(&node, PORT, 3 * REPLICAS).len() == REPLICAS).then_some(())
    });
}
