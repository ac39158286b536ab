//! What people are told of tasks that wait is what the tasks say.

use skep_api::ServiceId;

use super::harness::{Swarm, node_id, simple, with};
use crate::pass::{Waiting, plan, waiting};

const HEAVY: &str = r#"{"TaskTemplate":{"Resources":{"Reservations":{"NanoCPUs":2000000000}}}}"#;
const GLOBAL: &str = r#"{"Mode":{"Replicated":null,"Global":{}}}"#;

fn small(swarm: &mut Swarm, n: u128) {
    swarm.edit_node(n, |node| node.description.nano_cpus = 1_000_000_000);
}

/// Who waits for whom, and why; it is what the tasks say themselves.
#[track_caller]
fn told(swarm: &Swarm, id: ServiceId) -> Vec<Waiting> {
    let all = waiting(&swarm.view(), id, swarm.now);
    for one in &all {
        assert!(one.tasks.iter().all(|task| *task.status.err == *one.err), "{one:?}");
    }
    all
}

#[test]
fn a_global_service_is_told_node_by_node() {
    let mut swarm = Swarm::new(4);
    [1, 2].into_iter().for_each(|n| small(&mut swarm, n));
    let web = swarm.create(1, with(&with(&simple("web", "ok", 1), GLOBAL), HEAVY));
    swarm.seconds(1);
    let all = told(&swarm, web);
    let shown: Vec<_> = all.iter().map(|one| (one.tasks[0].for_node(), one.err.as_str())).collect();
    let err = "insufficient resources on 1 node";
    assert_eq!(shown, [(Some(node_id(1)), err), (Some(node_id(2)), err)]);
    // Nobody asked the other nodes.
    assert!(all.iter().all(|one| one.explanation.nodes.len() == 1), "{all:?}");
    assert_eq!(all[0].explanation.remedies, ["reserve less, or free 1 CPU on n1"]);
}

#[test]
fn a_replicated_service_is_told_in_the_words_of_its_tasks() {
    let mut swarm = Swarm::new(2);
    let web = swarm.create(1, with(&simple("web", "ok", 6), HEAVY));
    swarm.seconds(1);
    let all = told(&swarm, web);
    assert_eq!((all.len(), all[0].tasks.len()), (1, 2));
    assert_eq!(all[0].err, "no suitable node (insufficient resources on 2 nodes)");
    // Room has come, and no pass yet.
    swarm.add_node(3);
    let all = waiting(&swarm.view(), web, swarm.now);
    assert_eq!(all[0].err, "not placed yet");
}

#[test]
fn a_plan_of_a_global_service_tells_who_would_wait() {
    let mut swarm = Swarm::new(4);
    [1, 2].into_iter().for_each(|n| small(&mut swarm, n));
    swarm.edit_node(4, |node| drop(node.spec.labels.insert("zone".into(), "b".into())));
    swarm.settle();
    let zone = r#"{"TaskTemplate":{"Placement":{"Constraints":["node.labels.zone!=b"]}}}"#;
    let spec = with(&with(&with(&simple("web", "ok", 1), GLOBAL), HEAVY), zone);
    let plan = plan(&swarm.view(), &spec, swarm.now);
    assert_eq!(plan.nodes, [(node_id(3), 1)].into());
    assert_eq!((plan.n_waiting, plan.err.as_str()), (2, "insufficient resources on 2 nodes"));
    let waits: Vec<&str> = plan.explanation.nodes.iter().map(|answer| answer.name.as_str()).collect();
    // The one that the service does not ask for gets no task that could wait.
    assert_eq!(waits, ["n1", "n2"]);
    // It comes as planned.
    let web = swarm.create(1, spec);
    swarm.seconds(1);
    assert_eq!((swarm.running(web).len(), told(&swarm, web).len()), (1, 2));
}

#[test]
fn a_plan_of_a_global_service_that_no_node_is_to_run_says_why() {
    let swarm = Swarm::new(2);
    let zone = r#"{"TaskTemplate":{"Placement":{"Constraints":["node.labels.zone==b"]}}}"#;
    let spec = with(&with(&simple("web", "ok", 1), GLOBAL), zone);
    let plan = plan(&swarm.view(), &spec, swarm.now);
    assert_eq!((plan.n_waiting, plan.err.as_str()), (0, "no node takes a task"));
    let first = &plan.explanation.nodes[0];
    assert_eq!((plan.explanation.nodes.len(), first.refusals.len()), (2, 1));
    assert_eq!(first.refusals[0].1, "does not satisfy node.labels.zone==b");
}
