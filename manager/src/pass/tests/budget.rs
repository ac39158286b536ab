//! However many tasks wait, a pass writes so many, and the next one goes on where it stopped.

use std::time::Duration;

use skep_api::{ServiceId, object::NodeState, spec::Availability};

use super::harness::{Swarm, simple, with};

const NOWHERE: &str = r#"{"TaskTemplate":{"Placement":{"Constraints":["node.labels.zone==nowhere"]}}}"#;
const ONE_PAUSED: &str =
    "no suitable node (scheduling constraints not satisfied on 2 nodes; 1 node not available for new tasks)";

fn n_saying(swarm: &Swarm, words: &str) -> usize {
    swarm.view().tasks().filter(|task| *task.status.err == *words).count()
}

#[test]
fn many_that_wait_get_other_words_over_several_passes() {
    let mut swarm = Swarm::new(3);
    swarm.create(1, with(&simple("web", "ok", 60), NOWHERE));
    swarm.settle();
    // Made and worded at once.
    assert_eq!(n_saying(&swarm, "no suitable node (scheduling constraints not satisfied on 3 nodes)"), 60);
    (swarm.budget, swarm.n_passes, swarm.n_changes_max) = (10, 0, 0);
    swarm.set_availability(1, Availability::Pause);
    swarm.settle();
    assert_eq!(n_saying(&swarm, ONE_PAUSED), 60);
    assert!(swarm.n_changes_max <= 10, "{}", swarm.n_changes_max);
    assert!((6..=9).contains(&swarm.n_passes), "{}", swarm.n_passes);
    // What changes no words is written to no task.
    (swarm.n_passes, swarm.n_changes_max) = (0, 0);
    swarm.edit_node(2, |node| drop(node.spec.labels.insert("a".into(), "b".into())));
    swarm.settle();
    assert_eq!((swarm.n_passes, swarm.n_changes_max), (1, 0));
}

#[test]
fn many_services_have_their_turns() {
    let mut swarm = Swarm::new(3);
    for n in 1..=40 {
        swarm.create(n, with(&simple(&format!("s{n}"), "ok", 1), NOWHERE));
    }
    swarm.settle();
    (swarm.budget, swarm.n_passes, swarm.n_changes_max) = (10, 0, 0);
    swarm.set_availability(1, Availability::Pause);
    swarm.settle();
    assert_eq!(n_saying(&swarm, ONE_PAUSED), 40);
    assert!(swarm.n_changes_max <= 10, "{}", swarm.n_changes_max);
    assert!((8..=12).contains(&swarm.n_passes), "{}", swarm.n_passes);
}

#[test]
fn who_can_run_is_not_kept_waiting_by_those_who_cannot() {
    let mut swarm = Swarm::new(3);
    for n in 1..=30 {
        swarm.create(n, with(&simple(&format!("s{n}"), "ok", 1), NOWHERE));
    }
    let late = r#"{"TaskTemplate":{"Placement":{"Constraints":["node.labels.late==1"]}}}"#;
    let web = swarm.create(31, with(&simple("web", "ok", 4), late));
    swarm.settle();
    swarm.budget = 4;
    swarm.edit_node(3, |node| drop(node.spec.labels.insert("late".into(), "1".into())));
    // A node comes and goes at each pass, so that all that wait are to be looked at, and to get other words.
    for n in 0..20 {
        let availability = if n % 2 == 0 { Availability::Pause } else { Availability::Active };
        swarm.set_availability(1, availability);
        swarm.step();
    }
    let is_placed = |id: ServiceId| swarm.tasks(id).iter().all(|task| task.node_id.is_some());
    assert!(is_placed(web));
}

#[test]
fn waiting_tasks_are_placed_over_several_passes() {
    let mut swarm = Swarm::new(3);
    for n in 1..=3 {
        swarm.set_state(n, NodeState::Down);
    }
    let web = swarm.create(1, simple("web", "ok", 50));
    swarm.settle();
    (swarm.budget, swarm.n_passes, swarm.n_changes_max) = (10, 0, 0);
    for n in 1..=3 {
        swarm.set_state(n, NodeState::Ready);
    }
    swarm.settle();
    assert!(swarm.n_changes_max <= 10, "{}", swarm.n_changes_max);
    assert!((5..=8).contains(&swarm.n_passes), "{}", swarm.n_passes);
    swarm.run(Duration::from_secs(1));
    assert_eq!(swarm.running(web).len(), 50);
    assert!(swarm.spread(web).values().all(|n| (16..=17).contains(n)), "{:?}", swarm.spread(web));
}

#[test]
fn a_turn_that_ends_with_the_budget_is_over() {
    let mut swarm = Swarm::new(3);
    for n in 1..=10 {
        swarm.create(n, with(&simple(&format!("s{n}"), "ok", 1), NOWHERE));
    }
    swarm.settle();
    // All that wait are to be looked at, and have nothing else to say.
    let label = |swarm: &mut Swarm, word: &str| {
        (swarm.budget, swarm.n_passes) = (10, 0);
        swarm.edit_node(2, |node| drop(node.spec.labels.insert("a".into(), word.into())));
    };
    label(&mut swarm, "b");
    swarm.step();
    label(&mut swarm, "c");
    swarm.settle();
    assert!(swarm.n_passes <= 2, "{}", swarm.n_passes);
}
