//! Managers that are killed, frozen, and come back; all five at once.

use serde_json::Value;

use super::{
    MANAGERS, assert_no_double, assert_same, empty_service, five_with_web, leader, other_than, ten, timed,
    wait_whole, write,
};

#[test]
fn a_killed_leader_is_followed_by_another_and_comes_back_as_a_follower() {
    let (mut cluster, before) = five_with_web();
    let containers = assert_no_double(&cluster);
    let first = leader(&cluster);
    cluster.speak_to(other_than(&first));
    cluster.kill_node(&first, false);
    write(&cluster, "a killed leader");
    let second = leader(&cluster);
    assert_ne!(second, first);
    // Within the 3 s after which it would be down, so that its tasks stay.
    let _ = cluster.restart_node(&first).ok();
    wait_whole(&cluster);
    assert_eq!(leader(&cluster), second, "who comes back does not disturb");
    assert_same(&cluster, &before);
    assert_eq!(assert_no_double(&cluster), containers, "no agent was given up");
    cluster.speak_to(&first);
    write(&cluster, "the returned manager");
}

#[test]
fn a_frozen_leader_steps_down_when_it_goes_on() {
    let (mut cluster, before) = five_with_web();
    let first = leader(&cluster);
    cluster.speak_to(other_than(&first));
    cluster.freeze(&first);
    write(&cluster, "a frozen leader");
    let second = leader(&cluster);
    assert_ne!(second, first);
    let elsewhere = cluster.node_id(&first);
    cluster.thaw(&first);
    wait_whole(&cluster);
    for name in MANAGERS {
        cluster.speak_to(name);
        assert_eq!(leader(&cluster), second, "{name} follows the new leader");
    }
    cluster.speak_to(&first);
    write(&cluster, "through the old leader");
    let _ = assert_no_double(&cluster);
    let after = ten(&cluster);
    let stay = before.iter().filter(|t| t.node_id != elsewhere);
    assert!(
        stay.clone().all(|t| after.contains(t)),
        "only its own tasks may have moved: {before:#?} {after:#?}"
    );
}

#[test]
fn all_five_killed_come_back_with_their_state_and_the_same_containers() {
    let (mut cluster, before) = five_with_web();
    let containers = assert_no_double(&cluster);
    let answer = cluster.api("POST", "/services/create", &empty_service("kept"));
    assert_eq!(answer.status, 201, "{}", answer.message());
    let names: Vec<String> = cluster.nodes().iter().map(|n| n.name.clone()).collect();
    for name in &names {
        cluster.kill_node(name, false);
    }
    assert_eq!(cluster.programs("web"), containers, "tasks run on without any daemon");
    for name in &names {
        let _ = cluster.restart_node(name).ok();
    }
    timed("the swarm answers again", || {
        let answer = cluster.api("GET", "/services/kept", &Value::Null);
        (answer.status == 200).then_some(())
    });
    wait_whole(&cluster);
    assert_same(&cluster, &before);
    assert_eq!(assert_no_double(&cluster), containers, "adopted, not started anew");
}
