//! A published service answers on every node, with every replica.

use std::net::Ipv4Addr;
use std::time::Duration;

use skep_e2e::{WHOAMI, wait_for};

use crate::{SOON, cluster_with_example, host_names};

/// With 3 endpoints, one of them is missed by 60 requests with a chance below one in 10^10.
const N_REQUESTS: usize = 60;

#[test]
fn every_replica_answers_on_every_node() {
    let cluster = cluster_with_example(2);
    let tasks = cluster.wait_running("whoami", 3, SOON);
    let slots: Vec<u64> = tasks.iter().map(|t| t.slot).collect();
    assert_eq!(slots, [1, 2, 3]);
    let mut nodes: Vec<&str> = tasks.iter().map(|t| t.node_id.as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes.len(), 3, "equal nodes get one task each: {tasks:?}");
    for node in cluster.nodes() {
        wait_for(&format!("all replicas answer on {}", node.name), SOON, || {
            (host_names(node, 8080, N_REQUESTS).len() == 3).then_some(())
        });
    }
    for node in cluster.nodes() {
        for address in [Ipv4Addr::LOCALHOST, node.address] {
            let answer = cluster.get_inside(node, address, 8080).unwrap();
            assert_eq!(answer.status, 200, "{} asking {address} itself", node.name);
        }
    }
}

#[test]
fn a_created_service_is_shown_and_removed() {
    let cluster = cluster_with_example(1);
    // Without --detach the CLI shows the progress and ends when the service is stable.
    let args = ["service", "create", "--name", "web", "--replicas", "2", "-p", "8081:80", WHOAMI];
    let output = cluster.docker(&args);
    assert!(output.is_ok(), "{output}");
    assert!(output.stdout.contains("converged"), "{output}");
    let list = cluster.docker(&["service", "ls"]).ok();
    let line = list.lines().find(|l| l.contains("web")).unwrap();
    assert!(line.contains("replicated") && line.contains("2/2") && line.contains("*:8081->80/tcp"), "{list}");
    let inspect = cluster.docker(&["service", "inspect", "web"]).ok();
    let inspect: serde_json::Value = serde_json::from_str(&inspect).unwrap();
    assert_eq!(inspect[0]["Spec"]["Mode"]["Replicated"]["Replicas"], 2);
    let pretty = cluster.docker(&["service", "inspect", "--pretty", "web"]).ok();
    assert!(pretty.contains("PublishedPort = 8081"), "{pretty}");
    let ps = cluster.docker(&["service", "ps", "web"]).ok();
    assert_eq!(ps.matches("Running").count(), 4, "desired and current state of two tasks: {ps}");
    assert!(ps.contains("web.1") && ps.contains("web.2"), "{ps}");

    let _ = cluster.docker(&["service", "rm", "web"]).ok();
    let gone = cluster.docker(&["service", "ps", "web"]).refused();
    assert!(gone.contains("no such service: web"), "{gone}");
    wait_for("the port is closed on every node", SOON, || {
        let is_closed = |address| skep_e2e::get(address, 8081, "/").is_err();
        cluster.addresses().into_iter().all(is_closed).then_some(())
    });
}

#[test]
fn scaling_adds_and_removes_slots() {
    let cluster = cluster_with_example(2);
    let _ = cluster.docker(&["service", "scale", "--detach", "whoami=6"]).ok();
    let tasks = cluster.wait_running("whoami", 6, SOON);
    assert_eq!(tasks.iter().map(|t| t.slot).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let _ = cluster.docker(&["service", "scale", "--detach", "whoami=1"]).ok();
    let left = cluster.wait_running("whoami", 1, SOON);
    assert!(tasks.contains(&left[0]), "the task that stays is one of those that ran: {left:?}");
    for node in cluster.nodes() {
        wait_for("only the last replica answers", Duration::from_secs(5), || {
            (host_names(node, 8080, 20).len() == 1).then_some(())
        });
    }
    let _ = cluster.docker(&["service", "scale", "--detach", "whoami=0"]).ok();
    let _ = cluster.wait_running("whoami", 0, SOON);
    wait_for("a service without tasks refuses", SOON, || {
        skep_e2e::get(cluster.manager().address, 8080, "/").is_err().then_some(())
    });
}
