//! Priorities: what golden scripts are too short for.

use skep_api::object::{Service, UpdateState, UpdateStatus};
use skep_store::{Change, Draft};

use super::harness::{Swarm, simple, with};
use crate::pass::{plan, waiting};

/// Tasks that reserve so many CPUs, in a service of a priority.
fn reserving(name: &str, replicas: u64, cpus: u64, priority: u64) -> skep_api::spec::ServiceSpec {
    let patch = format!(
        r#"{{"TaskTemplate":{{"Resources":{{"Reservations":{{"NanoCPUs":{cpus}000000000}}}}}},
            "Labels":{{"skep.priority":"{priority}"}}}}"#
    );
    with(&simple(name, "ok", replicas), &patch)
}

#[test]
fn no_more_than_so_many_are_on_their_way_out() {
    let mut swarm = Swarm::new(3);
    for n in 1..=3 {
        swarm.edit_node(n, |node| node.description.nano_cpus = 150_000_000_000);
    }
    let low = swarm.create(1, reserving("low", 450, 1, 0));
    swarm.seconds(1);
    assert_eq!(swarm.running(low).len(), 450);
    swarm.stop_time = std::time::Duration::from_secs(2);
    let high = swarm.create(2, reserving("high", 3, 150, 1));
    let mut n_running = Vec::new();
    for _ in 0..8 {
        swarm.seconds(1);
        assert!(swarm.view().n_rooms() <= 200);
        n_running.push(swarm.running(high).len());
    }
    assert_eq!(n_running, [0, 0, 1, 1, 2, 2, 3, 3]);
}

#[test]
fn small_passes_come_to_the_same_end() {
    for budget in [2, 3, 5, 8, 13] {
        let mut swarm = Swarm::new(3);
        let low = swarm.create(1, reserving("low", 4, 1, 0));
        let mid = swarm.create(2, reserving("mid", 4, 1, 3));
        swarm.seconds(2);
        swarm.budget = budget;
        let high = swarm.create(3, reserving("high", 2, 4, 9));
        swarm.create(4, reserving("vain", 2, 5, 9));
        swarm.seconds(5);
        let n = [high, mid, low].map(|id| swarm.running(id).len());
        assert_eq!(n, [2, 4, 0], "budget {budget}");
    }
}

#[test]
fn who_waits_is_told_for_whom() {
    let mut swarm = Swarm::new(1);
    swarm.stop_time = std::time::Duration::from_secs(5);
    let low = swarm.create(1, reserving("low", 3, 1, 0));
    swarm.seconds(1);
    let high = swarm.create(2, reserving("high", 2, 3, 7));
    let late = swarm.create(3, reserving("late", 1, 1, 0));
    swarm.seconds(1);
    let told = |swarm: &Swarm, id| -> Vec<(String, String)> {
        let all = waiting(&swarm.view(), id, swarm.now);
        for one in &all {
            assert!(one.tasks.iter().all(|task| *task.status.err == *one.err), "{one:?}");
        }
        all.into_iter().map(|one| (one.err, one.note)).collect()
    };
    let none = "no suitable node (insufficient resources on 1 node)";
    let waits = "waits for tasks to stop on n1";
    assert_eq!(told(&swarm, low), [(none.to_owned(), String::new()); 1]);
    assert_eq!(told(&swarm, late), [(none.to_owned(), String::new()); 1]);
    let mut found = told(&swarm, high);
    found.sort();
    let vain = "priority 7: no node would do without all tasks of lower priority either";
    let kept = format!("priority 7: {waits}, 2 tasks still to go; nobody else gets their room");
    assert_eq!(found, [(none.to_owned(), vain.to_owned()), (waits.to_owned(), kept)]);
    // What is free is kept for it, from all but those whose turn is before its own.
    let waiting = |priority| {
        let plan = plan(&swarm.view(), &reserving("new", 1, 1, priority), swarm.now);
        (plan.n_waiting, plan.nodes.len())
    };
    assert_eq!((waiting(0), waiting(7), waiting(8)), ((1, 0), (1, 0), (0, 1)));
}

#[test]
fn who_may_stop_nobody_is_told_why() {
    let mut swarm = Swarm::new(1);
    swarm.create(1, reserving("low", 4, 1, 0));
    swarm.seconds(1);
    let high = swarm.create(2, reserving("high", 1, 1, 7));
    let now = swarm.now;
    let status = UpdateStatus::new(UpdateState::Paused, now, "");
    swarm.change(high, |old| Ok(Service { update_status: Some(status.clone()), ..old.clone() }));
    swarm.seconds(1);
    let notes = |swarm: &Swarm| -> Vec<String> {
        waiting(&swarm.view(), high, swarm.now).into_iter().map(|one| one.note).collect()
    };
    assert_eq!(notes(&swarm), ["priority 7: nobody is stopped for it while its service's update is paused"]);
    // Somebody has just gone on with it, and no pass has come yet.
    let mut draft = Draft::new(swarm.view(), swarm.now);
    let goes_on = Service { update_status: None, ..(**swarm.view().service(high).unwrap()).clone() };
    draft.push(Change::PutService(std::sync::Arc::new(goes_on))).unwrap();
    let note = waiting(&draft, high, swarm.now).remove(0).note;
    assert_eq!(note, "priority 7: would preempt 1 task of service low on n1");
}

#[test]
fn a_plan_says_whom_a_service_would_stop() {
    let mut swarm = Swarm::new(2);
    swarm.create(1, reserving("low", 4, 1, 0));
    swarm.create(2, reserving("mid", 4, 1, 3));
    swarm.seconds(1);
    let preempted = |cpus, priority| {
        let found = plan(&swarm.view(), &reserving("mid", 2, cpus, priority), swarm.now).preempted;
        found.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(preempted(1, 0), []);
    assert_eq!(preempted(1, 3), [("low".to_owned(), 2)]);
    assert_eq!(preempted(4, 3), []);
    assert_eq!(preempted(4, 4), [("low".to_owned(), 4), ("mid".to_owned(), 4)]);
    assert_eq!(preempted(5, 4), []);
}
