//! Creating, scaling, placing, and saying why not.

use std::time::Duration;

use skep_api::{TaskState, spec::Availability};

use super::harness::{Swarm, node_id, simple, spec, with};

#[test]
fn three_replicas_run_spread_over_the_nodes() {
    let mut swarm = Swarm::new(3);
    let web = swarm.create(1, simple("web", "ok", 3));
    swarm.run(Duration::from_millis(50));
    assert_eq!(swarm.images(web), [(1, "ok".into()), (2, "ok".into()), (3, "ok".into())]);
    assert!(swarm.spread(web).values().all(|n| *n == 1));
    assert_eq!(swarm.update_status(web), None);
    // One pass decided all of it; the others only saw that nothing is left to do.
    assert!(swarm.n_passes <= 8, "{}", swarm.n_passes);
}

#[test]
fn scaling_up_fills_the_lowest_slots_and_down_keeps_the_balance() {
    let mut swarm = Swarm::new(3);
    let web = swarm.create(1, simple("web", "ok", 2));
    swarm.seconds(1);
    swarm.update(web, simple("web", "ok", 9));
    swarm.seconds(1);
    assert_eq!(
        swarm.running(web).iter().map(|task| task.slot).collect::<Vec<_>>(),
        (1..=9).collect::<Vec<_>>()
    );
    assert!(swarm.spread(web).values().all(|n| *n == 3));
    assert_eq!(swarm.update_status(web), None, "a change of the number alone is no update");
    swarm.update(web, simple("web", "ok", 3));
    swarm.seconds(1);
    assert!(swarm.spread(web).values().all(|n| *n == 1), "{:?}", swarm.spread(web));
    assert_eq!(swarm.tasks(web).len(), 3, "scaled down leaves no history");
    swarm.update(web, simple("web", "ok", 0));
    swarm.seconds(1);
    assert_eq!(swarm.tasks(web).len(), 0);
}

#[test]
fn a_removed_service_leaves_nothing() {
    let mut swarm = Swarm::new(2);
    let web = swarm.create(1, simple("web", "ok", 4));
    swarm.seconds(1);
    swarm.apply(vec![skep_store::Change::DeleteService(web)]);
    swarm.settle();
    assert!(swarm.tasks(web).iter().all(|task| task.desired_state == TaskState::Remove));
    swarm.seconds(1);
    assert_eq!(swarm.view().n_tasks(), 0);
}

#[test]
fn pending_says_why_and_goes_on_when_a_label_comes() {
    let mut swarm = Swarm::new(3);
    swarm.set_availability(3, Availability::Pause);
    let zoned = with(
        &simple("web", "ok", 1),
        r#"{"TaskTemplate":{"Placement":{"Constraints":["node.labels.zone==a"]}}}"#,
    );
    let web = swarm.create(1, zoned);
    swarm.seconds(1);
    let task = &swarm.tasks(web)[0];
    assert_eq!(task.status.state, TaskState::Pending);
    assert_eq!(
        task.status.err,
        "no suitable node (scheduling constraints not satisfied on 2 nodes; 1 node not available for new tasks)"
    );
    assert_eq!(task.status.message, "pending task scheduling");
    swarm.edit_node(2, |node| {
        node.spec.labels.insert("zone".into(), "a".into());
    });
    swarm.seconds(1);
    let task = &swarm.running(web)[0];
    assert_eq!((task.node_id, task.status.err.as_str()), (Some(node_id(2)), ""));
}

#[test]
fn reservations_are_never_exceeded_and_freed_room_is_used() {
    let mut swarm = Swarm::new(2);
    let heavy = r#"{"TaskTemplate":{"Resources":{"Reservations":{"NanoCPUs":1500000000}}}}"#;
    let a = swarm.create(1, with(&simple("a", "ok", 3), heavy));
    let b = swarm.create(2, with(&simple("b", "ok", 3), heavy));
    swarm.seconds(1);
    assert_eq!((swarm.running(a).len(), swarm.running(b).len()), (3, 1));
    let waiting = swarm.tasks(b).into_iter().find(|task| task.node_id.is_none()).unwrap();
    assert_eq!(waiting.status.err, "no suitable node (insufficient resources on 2 nodes)");
    swarm.apply(vec![skep_store::Change::DeleteService(a)]);
    swarm.seconds(1);
    assert_eq!(swarm.running(b).len(), 3);
}

#[test]
fn ports_are_given_once_and_stay() {
    let mut swarm = Swarm::new(1);
    let json = |name: &str, ports: &str| {
        spec(&format!(
            r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"ok"}}}},
                "EndpointSpec":{{"Ports":[{ports}]}}}}"#
        ))
    };
    let a = swarm.create(1, json("a", r#"{"TargetPort":80},{"TargetPort":81,"Protocol":"udp"}"#));
    let b = swarm.create(2, json("b", r#"{"TargetPort":80},{"TargetPort":90,"PublishedPort":30002}"#));
    let c = swarm.create(3, json("c", r#"{"TargetPort":80}"#));
    swarm.seconds(1);
    let published = |swarm: &Swarm, id| -> Vec<u16> {
        swarm.view().service(id).unwrap().ports.iter().map(|port| port.published_port).collect()
    };
    assert_eq!(published(&swarm, a), [30000, 30000]);
    assert_eq!(published(&swarm, b), [30001, 30002]);
    assert_eq!(published(&swarm, c), [30003]);
    assert!(swarm.running(b)[0].ingress_addr.is_some());
    assert_eq!(swarm.running(b)[0].ports, swarm.view().service(b).unwrap().ports);
    // A port before it: the number that was given stays.
    swarm.apply(vec![skep_store::Change::DeleteService(a)]);
    swarm.update(b, json("b", r#"{"TargetPort":70},{"TargetPort":80}"#));
    swarm.seconds(1);
    assert_eq!(published(&swarm, b), [30000, 30001]);
    swarm.seconds(20);
    assert_eq!(swarm.running(b)[0].ports, swarm.view().service(b).unwrap().ports);
}

#[test]
fn a_port_that_another_service_has_is_told_and_waited_for() {
    let mut swarm = Swarm::new(1);
    let json = |name: &str| {
        spec(&format!(
            r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"ok"}}}},
                "EndpointSpec":{{"Ports":[{{"TargetPort":80,"PublishedPort":8080}}]}}}}"#
        ))
    };
    let a = swarm.create(1, json("a"));
    swarm.seconds(1);
    let b = swarm.create(2, json("b"));
    swarm.seconds(1);
    let err = &swarm.tasks(b)[0].status.err;
    assert_eq!(*err, format!("port '8080' is already in use by service 'a' ({a}) as an ingress port"));
    swarm.apply(vec![skep_store::Change::DeleteService(a)]);
    swarm.seconds(1);
    assert_eq!(swarm.running(b)[0].ports[0].published_port, 8080);
}

#[test]
fn a_port_that_an_update_gives_up_goes_to_who_waits_for_it() {
    let mut swarm = Swarm::new(1);
    let json = |name: &str, port: u16| {
        spec(&format!(
            r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"ok"}}}},
                "EndpointSpec":{{"Ports":[{{"TargetPort":80,"PublishedPort":{port}}}]}}}}"#
        ))
    };
    let a = swarm.create(1, json("a", 8080));
    swarm.seconds(1);
    let b = swarm.create(2, json("b", 8080));
    swarm.seconds(1);
    assert_eq!(swarm.running(b).len(), 0);
    swarm.update(a, json("a", 9090));
    swarm.seconds(1);
    assert_eq!(swarm.running(b)[0].ports[0].published_port, 8080);
    assert_eq!(swarm.view().port_owner("tcp", 8080), Some(b));
    swarm.seconds(20);
    assert_eq!(swarm.running(a)[0].ports[0].published_port, 9090);
}

#[test]
fn a_pass_that_does_not_come_to_all_leaves_the_rest_to_the_next() {
    for budget in [1, 3, 10] {
        let mut swarm = Swarm::new(3);
        swarm.budget = budget;
        for n in 1..=6 {
            swarm.create(n, simple(&format!("s{n}"), "ok", 4));
        }
        swarm.seconds(1);
        let n_running: usize = swarm.view().services().map(|service| swarm.running(service.id).len()).sum();
        assert_eq!(n_running, 24);
        swarm.set_state(1, skep_api::object::NodeState::Down);
        swarm.seconds(1);
        let n_running: usize = swarm.view().services().map(|service| swarm.running(service.id).len()).sum();
        assert_eq!(n_running, 24);
    }
}

#[test]
fn host_ports_are_one_a_node() {
    let mut swarm = Swarm::new(2);
    let json = r#"{"EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080,"PublishMode":"host"}]}}"#;
    let web = swarm.create(1, with(&simple("web", "ok", 3), json));
    swarm.seconds(1);
    assert_eq!(swarm.running(web).len(), 2);
    let waiting = swarm.tasks(web).into_iter().find(|task| task.node_id.is_none()).unwrap();
    assert_eq!(waiting.status.err, "no suitable node (host-mode port already in use on 2 nodes)");
    assert_eq!(waiting.ingress_addr, None);
    swarm.add_node(3);
    swarm.seconds(1);
    assert_eq!(swarm.running(web).len(), 3);
}
