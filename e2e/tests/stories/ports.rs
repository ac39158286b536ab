//! Published ports: clashes, ports by number of ours, ports of one host.

use serde_json::json;
use skep_e2e::{WHOAMI, get, wait_for};

use crate::{IDLE, SOON, cluster_with_example, create};

#[test]
fn a_port_in_use_is_refused_with_its_owners_name() {
    let cluster = cluster_with_example(0);
    let args = ["service", "create", "--detach", "--name", "other", "-p", "8080:80", WHOAMI];
    let text = cluster.docker(&args).refused();
    assert!(text.contains("8080") && text.contains("already in use by service 'whoami'"), "{text}");
    let list = cluster.docker(&["service", "ls", "--format", "{{.Name}}"]).ok();
    assert_eq!(list.trim(), "whoami", "nothing was created");
    create(&cluster, "third", &["-p", "8081:80"], IDLE);
    let clash = ["service", "update", "--detach", "--publish-add", "8080:80", "third"];
    assert!(cluster.docker(&clash).refused().contains("whoami"));
}

#[test]
fn a_port_is_given_from_the_pool_and_given_back() {
    let cluster = cluster_with_example(1);
    let args = ["service", "create", "--quiet", "--detach", "--name", "auto", "-p", "80", WHOAMI];
    let _ = cluster.docker(&args).ok();
    let port = wait_for("a port is given", SOON, || {
        cluster.service("auto")["Endpoint"]["Ports"][0]["PublishedPort"].as_u64()
    });
    assert!((30000..=32767).contains(&port), "{port}");
    let _ = cluster.wait_running("auto", 1, SOON);
    let port = u16::try_from(port).unwrap();
    for address in cluster.addresses() {
        wait_for("the port answers", SOON, || get(address, port, "/").ok());
    }
}

#[test]
fn a_host_mode_port_answers_on_the_tasks_node_alone() {
    let cluster = cluster_with_example(2);
    let publish = "mode=host,target=80,published=9090";
    let args = ["service", "create", "--quiet", "--detach", "--name", "local", "--publish", publish];
    let place = ["--constraint", "node.hostname==worker-1", WHOAMI];
    let _ = cluster.docker(&[&args[..], &place].concat()).ok();
    let _ = cluster.wait_running("local", 1, SOON);
    wait_for("it answers on its node", SOON, || get(cluster.node("worker-1").address, 9090, "/").ok());
    assert!(get(cluster.node("worker-2").address, 9090, "/").is_err(), "and on no other");
    // A second task finds no node with the port free.
    let _ = cluster.docker(&["service", "scale", "--detach", "local=2"]).ok();
    let err = wait_for("the second task explains", SOON, || {
        cluster
            .tasks("local")
            .iter()
            .find(|t| t.state == "pending")
            .map(|t| t.err.clone())
            .filter(|e| !e.is_empty())
    });
    assert!(err.contains("host-mode port already in use"), "{err}");
}

#[test]
fn a_stopped_service_refuses_and_never_reaches_a_local_program() {
    let cluster = cluster_with_example(0);
    let spec = json!({
        "Name": "empty",
        "TaskTemplate": {"ContainerSpec": {"Image": WHOAMI}},
        "Mode": {"Replicated": {"Replicas": 0}},
        "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 8090}]},
    });
    assert_eq!(cluster.api("POST", "/services/create", &spec).status, 201);
    let err = get(cluster.manager().address, 8090, "/").unwrap_err();
    assert_eq!(err.kind(), std::io::ErrorKind::ConnectionRefused, "{err}");
}
