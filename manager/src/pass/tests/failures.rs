//! Tasks that end, and what follows them.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use skep_api::{TaskState, spec::Availability};
use skep_store::Change;

use super::harness::{Swarm, cluster, simple, with};

#[test]
fn a_failed_task_is_followed_after_the_delay() {
    let mut swarm = Swarm::new(1);
    let web = swarm.create(1, simple("web", "exit:3:1000", 1));
    swarm.run(Duration::from_millis(1100));
    let tasks = swarm.tasks(web);
    assert_eq!(tasks.len(), 2);
    assert_eq!((tasks[0].status.state, tasks[0].desired_state), (TaskState::Failed, TaskState::Shutdown));
    // The successor is prepared meanwhile.
    assert_eq!((tasks[1].status.state, tasks[1].desired_state), (TaskState::Ready, TaskState::Ready));
    let due = tasks[1].not_before;
    assert_eq!(due.since(tasks[0].status.timestamp), Duration::from_secs(5));
    swarm.run(due.since(swarm.now) + Duration::from_millis(20));
    assert_eq!(swarm.running(web).len(), 1);
}

#[test]
fn history_keeps_five_tasks_a_slot() {
    let mut swarm = Swarm::new(1);
    let quick = r#"{"TaskTemplate":{"RestartPolicy":{"Delay":100000000}}}"#;
    let web = swarm.create(1, with(&simple("web", "exit:1:100", 2), quick));
    swarm.seconds(10);
    let tasks = swarm.tasks(web);
    for slot in [1, 2] {
        assert_eq!(tasks.iter().filter(|task| task.slot == slot).count(), 5);
    }
}

#[test]
fn history_is_as_long_as_the_swarms_settings_say() {
    for (limit, expect) in [(2, 2), (0, 1), (-1, 16)] {
        let mut swarm = Swarm::new(1);
        let mut cluster = cluster();
        cluster.spec.extra.insert("Orchestration".into(), json!({ "TaskHistoryRetentionLimit": limit }));
        swarm.apply(vec![Change::PutCluster(Arc::new(cluster))]);
        let quick = r#"{"TaskTemplate":{"RestartPolicy":{"Delay":100000000}}}"#;
        let web = swarm.create(1, with(&simple("web", "exit:1:100", 1), quick));
        swarm.seconds(5);
        let n_kept = swarm.tasks(web).len();
        let is_right = if limit < 0 { n_kept >= expect } else { n_kept == expect };
        assert!(is_right, "limit {limit}: {n_kept} tasks");
    }
}

#[test]
fn a_shorter_history_counts_at_once() {
    let mut swarm = Swarm::new(1);
    let quick = r#"{"TaskTemplate":{"RestartPolicy":{"Delay":100000000,"MaxAttempts":3}}}"#;
    let web = swarm.create(1, with(&simple("web", "exit:1:100", 1), quick));
    let done = swarm.create(2, with(&simple("done", "exit:0:100", 1), ONCE));
    swarm.seconds(5);
    assert_eq!((swarm.tasks(web).len(), swarm.tasks(done).len()), (4, 1));
    let keep = |limit: i64| {
        let mut cluster = cluster();
        cluster.spec.extra.insert("Orchestration".into(), json!({ "TaskHistoryRetentionLimit": limit }));
        Change::PutCluster(Arc::new(cluster))
    };
    let endless = r#"{"TaskTemplate":{"RestartPolicy":{"Delay":100000000}}}"#;
    swarm.update(web, with(&simple("web", "exit:1:100", 1), endless));
    swarm.seconds(5);
    swarm.update(web, simple("web", "ok", 1));
    swarm.seconds(30);
    assert_eq!(swarm.tasks(web).len(), 5);
    // Nothing else happens.
    swarm.apply(vec![keep(2)]);
    swarm.settle();
    assert_eq!(swarm.tasks(web).len(), 2);
}

const ONCE: &str = r#"{"TaskTemplate":{"RestartPolicy":{"Condition":"none"}}}"#;

#[test]
fn what_gave_up_stays_so_until_something_else_is_asked_for() {
    for (image, policy) in [
        ("exit:0:100", ONCE),
        ("exit:1:100", ONCE),
        ("exit:0:100", r#"{"TaskTemplate":{"RestartPolicy":{"Condition":"on-failure"}}}"#),
        ("exit:1:100", r#"{"TaskTemplate":{"RestartPolicy":{"Delay":100000000,"MaxAttempts":2}}}"#),
    ] {
        let mut swarm = Swarm::new(2);
        let spec = with(&simple("web", image, 2), policy);
        let web = swarm.create(1, spec.clone());
        swarm.seconds(10);
        let before: Vec<_> = swarm.tasks(web).iter().map(|task| task.id).collect();
        assert!(swarm.tasks(web).iter().all(|task| !task.is_runnable()));
        let labelled = with(&spec, r#"{"Labels":{"a":"b"}}"#);
        swarm.update(web, labelled.clone());
        swarm.seconds(10);
        assert_eq!(
            swarm.tasks(web).iter().map(|task| task.id).collect::<Vec<_>>(),
            before,
            "{image} {policy}"
        );
        // Scaled up, the new slot alone runs; forced, all do.
        swarm.update(web, with(&labelled, r#"{"Mode":{"Replicated":{"Replicas":3}}}"#));
        swarm.run(Duration::from_millis(60));
        assert_eq!(swarm.running(web).iter().map(|task| task.slot).collect::<Vec<_>>(), [3]);
        swarm.update(web, with(&labelled, r#"{"TaskTemplate":{"ForceUpdate":1}}"#));
        swarm.run(Duration::from_millis(60));
        assert!(!swarm.running(web).is_empty());
    }
}

#[test]
fn attempts_are_counted_for_each_slot_and_version() {
    let mut swarm = Swarm::new(1);
    let policy = r#"{"TaskTemplate":{"RestartPolicy":{"Delay":100000000,"MaxAttempts":7}}}"#;
    let web = swarm.create(1, with(&simple("web", "exit:1:100", 1), policy));
    swarm.seconds(60);
    let tasks = swarm.tasks(web);
    assert_eq!(tasks.len(), 8, "the first and seven restarts");
    assert!(tasks.iter().all(|task| task.status.state == TaskState::Failed));
    // An update gives the slot another chance.
    swarm.update(web, with(&simple("web", "ok", 1), policy));
    swarm.seconds(60);
    assert_eq!(swarm.images(web), [(1, "ok".into())]);
}

#[test]
fn attempts_outside_the_window_are_forgiven() {
    let mut swarm = Swarm::new(1);
    let policy =
        r#"{"TaskTemplate":{"RestartPolicy":{"Delay":100000000,"MaxAttempts":2,"Window":1000000000}}}"#;
    let web = swarm.create(1, with(&simple("web", "exit:1:2000", 1), policy));
    swarm.seconds(60);
    assert_ne!(swarm.running(web).len() + swarm.tasks(web).iter().filter(|t| t.is_runnable()).count(), 0);
    let quick = swarm.create(2, with(&simple("quick", "exit:1:100", 1), policy));
    swarm.seconds(60);
    assert_eq!(swarm.tasks(quick).len(), 3);
    assert!(swarm.tasks(quick).iter().all(|task| !task.is_runnable()));
}

#[test]
fn the_condition_decides() {
    let mut swarm = Swarm::new(1);
    for (n, (condition, image, n_tasks)) in [
        ("none", "exit:1:100", 1),
        ("none", "exit:0:100", 1),
        ("on-failure", "exit:0:100", 1),
        ("on-failure", "exit:1:100", 2),
        ("any", "exit:0:100", 2),
    ]
    .into_iter()
    .enumerate()
    {
        let policy = format!(r#"{{"TaskTemplate":{{"RestartPolicy":{{"Condition":"{condition}"}}}}}}"#);
        let n = u128::try_from(n).unwrap() + 1;
        let id = swarm.create(n, with(&simple(&format!("s{n}"), image, 1), &policy));
        swarm.seconds(3);
        assert_eq!(swarm.tasks(id).len(), n_tasks, "{condition} {image}");
    }
    // What is done stays done, also when its node drains.
    let n_tasks = swarm.view().n_tasks();
    swarm.set_availability(1, Availability::Drain);
    swarm.seconds(1);
    assert!(swarm.view().n_tasks() >= n_tasks);
}

#[test]
fn an_image_that_no_node_has_is_rejected_and_tried_again() {
    let mut swarm = Swarm::new(2);
    let web = swarm.create(1, simple("web", "missing", 1));
    swarm.seconds(1);
    let tasks = swarm.tasks(web);
    assert_eq!(tasks[0].status.state, TaskState::Rejected);
    assert_eq!(tasks[0].status.err, "No such image: missing");
    // The successor finds out the same while it is prepared, and is followed when its delay has passed.
    let made = |swarm: &Swarm| swarm.tasks(web).iter().map(|task| task.meta.created_at).max().unwrap();
    assert_eq!(tasks.len(), 2);
    let first = made(&swarm);
    swarm.seconds(10);
    let second = made(&swarm);
    assert_eq!(second.since(first), Duration::from_secs(10));
    swarm.seconds(50);
    assert_eq!(swarm.tasks(web).len(), 5);
}

#[test]
fn a_node_that_fails_a_service_is_tried_last() {
    let mut swarm = Swarm::new(2);
    let policy = r#"{"TaskTemplate":{"RestartPolicy":{"Delay":100000000},
        "Placement":{"Constraints":["node.hostname==n1"]}}}"#;
    let web = swarm.create(1, with(&simple("web", "exit:1:100", 3), policy));
    swarm.seconds(5);
    assert!(swarm.tasks(web).len() > 8);
    let spread = swarm.spread(web);
    assert_eq!(spread.len(), 1, "{spread:?}");
}
