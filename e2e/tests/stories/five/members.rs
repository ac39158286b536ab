//! Managers that come and go by will: promoted, demoted, left, removed; and what each of them shows.

use serde_json::{Value, json};

use super::{
    LIMIT, MANAGERS, assert_no_double, assert_same, empty_service, five, five_with_web, leader, other_than,
    timed, wait_whole, write,
};

#[test]
fn a_write_through_any_manager_is_read_at_once_on_every_other() {
    let cluster = five();
    for round in 0..8 {
        for writer in MANAGERS {
            let name = format!("from-{writer}-{round}");
            let node = cluster.node(writer);
            let answer = cluster.api_on(node, "POST", "/services/create", &empty_service(&name));
            assert_eq!(answer.status, 201, "{writer}: {}", answer.message());
            for reader in MANAGERS {
                let node = cluster.node(reader);
                let answer = cluster.api_on(node, "GET", &format!("/services/{name}"), &Value::Null);
                assert_eq!(answer.status, 200, "{reader} does not see {name}: {}", answer.message());
            }
        }
    }
    // A version read on one manager is good for an update through another, once.
    let read =
        cluster.api_on(cluster.node("manager-2"), "GET", "/services/from-manager-1-0", &Value::Null).json();
    let mut spec = read["Spec"].clone();
    spec["Labels"] = json!({"round": "2"});
    let path =
        format!("/services/{}/update?version={}", read["ID"].as_str().unwrap(), read["Version"]["Index"]);
    let answer = cluster.api_on(cluster.node("manager-3"), "POST", &path, &spec);
    assert_eq!(answer.status, 200, "{}", answer.message());
    let answer = cluster.api_on(cluster.node("manager-1"), "POST", &path, &spec);
    assert_eq!(answer.message(), "rpc error: code = Unknown desc = update out of sequence");
    for reader in MANAGERS {
        let node = cluster.node(reader);
        let now = cluster.api_on(node, "GET", "/services/from-manager-1-0", &Value::Null).json();
        assert_eq!(now["Spec"]["Labels"]["round"], "2", "{reader}: {now}");
    }
    let refused = cluster.docker_on(cluster.node("worker-1"), &["service", "ls"]).refused();
    assert!(refused.contains("This node is not a swarm manager."), "{refused}");
}

#[test]
fn a_worker_is_promoted_and_the_leader_demoted_and_removed() {
    let (mut cluster, before) = five_with_web();
    let containers = assert_no_double(&cluster);
    let status = |cluster: &skep_e2e::Cluster, name: &str| {
        let list = cluster.docker(&["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]).ok();
        list.lines().find_map(|l| l.strip_prefix(name)).map(|l| l.trim().to_owned())
    };
    let text = cluster.docker(&["node", "promote", "worker-1"]).ok();
    assert!(text.contains("promoted to a manager in the swarm"), "{text}");
    timed("the promoted worker is reachable", || {
        (status(&cluster, "worker-1").as_deref() == Some("Reachable")).then_some(())
    });
    timed("the promoted worker answers for the swarm", || {
        let list = cluster.docker_on(cluster.node("worker-1"), &["service", "ls", "--format", "{{.Name}}"]);
        (list.is_ok() && list.stdout.contains("web")).then_some(())
    });

    let first = leader(&cluster);
    cluster.speak_to(other_than(&first));
    let text = cluster.docker(&["node", "rm", "--force", &first]).refused();
    assert!(text.contains("is a cluster manager and is a member of the raft cluster"), "{text}");
    let text = cluster.docker(&["node", "demote", &first]).ok();
    assert!(text.contains("demoted in the swarm"), "{text}");
    timed("the demoted leader is a worker", || {
        (status(&cluster, &first).as_deref() == Some("")).then_some(())
    });
    assert_ne!(leader(&cluster), first);
    write(&cluster, "a demoted leader");
    timed("the demoted leader knows", || {
        let list = cluster.docker_on(cluster.node(&first), &["node", "ls"]);
        (!list.is_ok() && list.stderr.contains("This node is not a swarm manager.")).then_some(())
    });
    wait_whole(&cluster);
    assert_same(&cluster, &before);
    assert_eq!(assert_no_double(&cluster), containers, "roles change, tasks stay");

    // Leaves as a worker, then is removed; four nodes with three managers go on.
    let _ = cluster.docker_on(cluster.node(&first), &["swarm", "leave"]).ok();
    cluster.wait_node(&first, "down", LIMIT);
    let _ = cluster.docker(&["node", "rm", &first]).ok();
    let list = cluster.docker(&["node", "ls", "--format", "{{.Hostname}}"]).ok();
    assert!(list.lines().count() == 4 && !list.contains(&first), "{list}");
    let _ = assert_no_double(&cluster);
    write(&cluster, "a swarm of four");
}

#[test]
fn a_manager_leaves_by_force_and_a_lost_majority_is_refused() {
    let mut cluster = five();
    let first = leader(&cluster);
    let leaving = other_than(&first);
    cluster.speak_to(&first);
    let text = cluster.docker_on(cluster.node(leaving), &["swarm", "leave"]).refused();
    assert!(
        text.contains("You are attempting to leave the swarm on a node that is participating as a manager"),
        "{text}"
    );
    let last = MANAGERS.into_iter().find(|m| *m != first && *m != leaving).expect("a third");
    cluster.kill_node(last, false);
    timed("the killed manager is unreachable", || {
        let list = cluster.docker(&["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]).ok();
        list.lines().any(|l| l == format!("{last} Unreachable")).then_some(())
    });
    // Two of three are left: one less would have no majority.
    let text = cluster.docker(&["node", "demote", leaving]).refused();
    assert!(text.contains("quorum"), "{text}");
    let text = cluster.docker(&["node", "demote", last]).ok();
    assert!(text.contains("demoted in the swarm"), "{text}");
    timed("the lost manager is demoted", || {
        let list = cluster.docker(&["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]).ok();
        list.lines().any(|l| l.trim() == last).then_some(())
    });
    write(&cluster, "two managers");
}
