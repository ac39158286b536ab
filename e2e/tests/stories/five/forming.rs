//! Five daemons become one swarm by the docker CLI alone, and every node answers for all.

use skep_e2e::{Cluster, Stopwatch, wait_for};

use super::{LIMIT, N_TASKS, PORT, assert_no_double, create_web, per_node, told, wait_whole};
use crate::{host_names, say_version};

fn join(cluster: &Cluster, name: &str, kind: &str) {
    let manager = cluster.node("manager-1");
    let token = cluster.docker_on(manager, &["swarm", "join-token", "-q", kind]).ok();
    let node = cluster.node(name);
    let (own, remote) = (node.address.to_string(), format!("{}:2377", manager.address));
    let watch = Stopwatch::start();
    let args = ["swarm", "join", "--advertise-addr", &own, "--token", token.trim(), &remote];
    let text = cluster.docker_on(node, &args).ok();
    assert!(text.contains(&format!("This node joined a swarm as a {kind}.")), "{text}");
    let format = "{{.Hostname}} {{.Status}} {{.ManagerStatus}}";
    let expected = format!("{name} Ready {}", if kind == "manager" { "Reachable" } else { "" });
    wait_for(&format!("{name} is listed"), LIMIT, || {
        let list = cluster.docker(&["node", "ls", "--format", format]).ok();
        list.lines().any(|line| line.trim() == expected.trim()).then_some(())
    });
    told(&format!("{name} joins and is ready"), watch);
}

#[test]
fn five_daemons_form_a_swarm_and_each_answers_on_the_port() {
    say_version();
    let cluster = Cluster::builder(3, 2).example(0).flag("--no-swarm").start();
    let address = cluster.manager().address.to_string();
    let text = cluster.docker(&["swarm", "init", "--advertise-addr", &address]).ok();
    assert!(text.contains("is now a manager."), "{text}");
    join(&cluster, "manager-2", "manager");
    let warned = cluster.docker(&["info"]);
    let warned = format!("{}{}", warned.stdout, warned.stderr);
    assert!(warned.contains("Running Swarm in a two-manager configuration"), "{warned}");
    join(&cluster, "manager-3", "manager");
    let info = cluster.docker(&["info"]);
    let text = format!("{}{}", info.stdout, info.stderr);
    assert!(text.contains("Managers: 3") && !text.contains("two-manager"), "{text}");
    join(&cluster, "worker-1", "worker");
    join(&cluster, "worker-2", "worker");
    wait_whole(&cluster);
    for name in ["manager-1", "manager-2", "manager-3"] {
        let list = cluster.docker_on(cluster.node(name), &["node", "ls", "--format", "{{.Hostname}}"]).ok();
        assert_eq!(list.lines().count(), 5, "{name} answers for the swarm: {list}");
        let info = cluster.docker_on(cluster.node(name), &["info"]).ok();
        assert!(info.contains("Managers: 3") && info.contains("Nodes: 5"), "{name}: {info}");
    }

    let watch = Stopwatch::start();
    create_web(&cluster);
    let _ = cluster.wait_running("web", N_TASKS, LIMIT);
    told("ten replicas run", watch);
    let programs = assert_no_double(&cluster);
    let spread = per_node(&programs);
    assert!(spread.len() == 5 && spread.values().all(|n| *n == 2), "two on each node: {spread:?}");
    for node in cluster.nodes() {
        wait_for("the port answers", LIMIT, || skep_e2e::get(node.address, PORT, "/").ok());
        wait_for("a node reaches all ten replicas", LIMIT, || {
            (host_names(node, PORT, 100).len() == N_TASKS).then_some(())
        });
    }
}
