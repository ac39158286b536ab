//! Nodes that drain, vanish, come back, are removed, or change.

use std::time::Duration;

use skep_api::{TaskState, object::NodeState, spec::Availability};
use skep_store::{Change, FEATURE_LEVEL};

use super::harness::{Swarm, node_id, simple, with};

#[test]
fn drain_moves_tasks_without_the_restart_delay() {
    let mut swarm = Swarm::new(3);
    let web = swarm.create(1, simple("web", "ok", 3));
    swarm.seconds(1);
    swarm.set_availability(1, Availability::Drain);
    swarm.run(Duration::from_millis(100));
    assert_eq!(swarm.running(web).len(), 3);
    assert_eq!(swarm.spread(web).get(&node_id(1)), None);
    let old = swarm.tasks(web).into_iter().find(|task| !task.is_runnable()).unwrap();
    assert_eq!((old.desired_state, old.status.state), (TaskState::Shutdown, TaskState::Shutdown));
    swarm.set_availability(1, Availability::Active);
    swarm.seconds(1);
    assert_eq!(swarm.spread(web).get(&node_id(1)), None, "a decision is final");
}

#[test]
fn a_drained_task_that_will_not_stop_is_waited_for_a_minute() {
    let mut swarm = Swarm::new(2);
    let web = swarm.create(1, simple("web", "ok", 1));
    swarm.seconds(1);
    let node = swarm.running(web)[0].node_id.unwrap();
    swarm.stop_time = Duration::from_secs(3600);
    swarm.set_availability(node.0.0, Availability::Drain);
    swarm.seconds(59);
    assert_eq!(swarm.running(web).len(), 0);
    assert_eq!(swarm.tasks(web)[1].status.state, TaskState::Ready);
    swarm.seconds(2);
    assert_eq!(swarm.running(web).len(), 1);
}

#[test]
fn pause_keeps_tasks_and_takes_none() {
    let mut swarm = Swarm::new(2);
    let web = swarm.create(1, simple("web", "ok", 2));
    swarm.seconds(1);
    swarm.set_availability(1, Availability::Pause);
    swarm.update(web, simple("web", "ok", 6));
    swarm.seconds(1);
    assert_eq!(swarm.spread(web)[&node_id(1)], 1);
    assert_eq!(swarm.spread(web)[&node_id(2)], 5);
}

#[test]
fn a_lost_node_is_replaced_at_once_and_stopped_when_it_returns() {
    let mut swarm = Swarm::new(3);
    let slow = r#"{"TaskTemplate":{"RestartPolicy":{"Delay":60000000000,"MaxAttempts":1}},
        "EndpointSpec":{"Ports":[{"TargetPort":80}]}}"#;
    let web = swarm.create(1, with(&simple("web", "ok", 3), slow));
    swarm.seconds(1);
    swarm.set_state(1, NodeState::Down);
    swarm.run(Duration::from_millis(50));
    assert_eq!(swarm.running(web).len(), 3, "neither the delay nor the attempts count");
    let lost = swarm.tasks(web).into_iter().find(|task| task.node_id == Some(node_id(1))).unwrap();
    assert_eq!((lost.status.state, lost.desired_state), (TaskState::Running, TaskState::Shutdown));
    assert!(swarm.view().is_address_taken(lost.ingress_addr.unwrap()));
    swarm.set_state(1, NodeState::Ready);
    swarm.seconds(1);
    assert_eq!(swarm.view().task(lost.id).unwrap().status.state, TaskState::Shutdown);
    assert!(!swarm.view().is_address_taken(lost.ingress_addr.unwrap()));
}

#[test]
fn with_all_nodes_lost_tasks_wait_and_say_so() {
    let mut swarm = Swarm::new(1);
    let web = swarm.create(1, simple("web", "ok", 1));
    swarm.seconds(1);
    swarm.set_state(1, NodeState::Down);
    swarm.seconds(1);
    let waiting = &swarm.tasks(web)[1];
    assert_eq!(waiting.status.err, "no suitable node (1 node not available for new tasks)");
    assert_eq!(waiting.status.message, "pending task scheduling");
    swarm.set_state(1, NodeState::Ready);
    swarm.seconds(1);
    assert_eq!(swarm.running(web).len(), 1);
}

#[test]
fn tasks_of_a_removed_node_are_orphaned() {
    let mut swarm = Swarm::new(2);
    let web = swarm.create(1, simple("web", "ok", 2));
    swarm.seconds(1);
    swarm.set_state(1, NodeState::Down);
    swarm.run(Duration::from_millis(1));
    swarm.apply(vec![Change::DeleteNode(node_id(1))]);
    swarm.seconds(1);
    assert_eq!(swarm.spread(web)[&node_id(2)], 2);
    let lost = swarm.tasks(web).into_iter().find(|task| task.node_id == Some(node_id(1))).unwrap();
    assert_eq!(lost.status.state, TaskState::Orphaned);
    // Removed outright, without being down before.
    swarm.add_node(3);
    swarm.apply(vec![Change::DeleteNode(node_id(2))]);
    swarm.seconds(1);
    assert_eq!(swarm.running(web).len(), 2);
    assert_eq!(swarm.spread(web)[&node_id(3)], 2);
}

#[test]
fn a_label_that_goes_takes_the_tasks_with_it() {
    let mut swarm = Swarm::new(2);
    for n in [1, 2] {
        swarm.edit_node(n, |node| {
            node.spec.labels.insert("zone".into(), "a".into());
        });
    }
    let zoned = r#"{"TaskTemplate":{"Placement":{"Constraints":["node.labels.zone==a"]}}}"#;
    let web = swarm.create(1, with(&simple("web", "ok", 2), zoned));
    swarm.seconds(1);
    swarm.edit_node(1, |node| node.spec.labels.clear());
    swarm.settle();
    let moved = swarm.tasks(web).into_iter().find(|task| task.node_id == Some(node_id(1))).unwrap();
    assert_eq!(moved.status.err, "assigned node no longer meets constraints");
    swarm.seconds(1);
    assert_eq!(swarm.spread(web)[&node_id(2)], 2);
    let stopped = swarm.view().task(moved.id).cloned().unwrap();
    assert_eq!(stopped.status.state, TaskState::Rejected);
    assert_eq!(stopped.status.message, "task rejected by constraint enforcer");
    assert_eq!(
        stopped.status.err, "assigned node no longer meets constraints",
        "its agent's report keeps it"
    );
}

#[test]
fn every_node_gets_an_address_of_its_own() {
    let mut swarm = Swarm::new(5);
    swarm.settle();
    let view = swarm.view();
    let last: Vec<u8> = view.nodes().map(|node| node.ingress_addr.unwrap().octets()[3]).collect();
    assert_eq!(last, [1, 2, 3, 4, 5]);
}

#[test]
fn a_node_that_was_down_before_there_were_dates_is_down_from_then_on() {
    let mut swarm = Swarm::at_level(2, 1);
    let web = swarm.create(1, simple("web", "ok", 2));
    swarm.seconds(1);
    swarm.set_state(1, NodeState::Down);
    swarm.seconds(3600);
    swarm.edit_cluster(|cluster| cluster.feature_level = FEATURE_LEVEL);
    let is_orphaned =
        |swarm: &Swarm| swarm.tasks(web).iter().any(|task| task.status.state == TaskState::Orphaned);
    swarm.seconds(24 * 3600 - 1);
    assert!(!is_orphaned(&swarm));
    swarm.seconds(2);
    assert!(is_orphaned(&swarm));
}
