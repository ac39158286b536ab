//! Nodes that are cut off from others, and healed.

use std::time::Duration;

use skep_e2e::{Stopwatch, try_wait_for, wait_for};

use super::{
    LIMIT, MANAGERS, N_TASKS, QUIET, assert_no_double, empty_service, five_with_web, leader, other_than, ten,
    told, wait_moved, wait_whole, write,
};

/// Swarm's words (`SK:manager/state/raft/raft.go`).
const NO_LEADER: &str = "The swarm does not have a leader.";

#[test]
fn a_leader_cut_off_from_the_managers_alone_costs_no_worker_its_tasks() {
    let (mut cluster, before) = five_with_web();
    let first = leader(&cluster);
    let others: Vec<&str> = MANAGERS.into_iter().filter(|m| *m != first).collect();
    cluster.speak_to(other_than(&first));
    cluster.cut(&first, &others);
    write(&cluster, "a leader cut off from the managers");
    assert_ne!(leader(&cluster), first);

    let watch = Stopwatch::start();
    let refused = wait_for("the cut-off manager refuses writes", LIMIT, || {
        let node = cluster.node(&first);
        let answer = cluster.api_on(node, "POST", "/services/create", &empty_service("lost"));
        (answer.status >= 400).then(|| answer.message())
    });
    told("the cut-off manager refuses a write", watch);
    assert!(refused.contains(NO_LEADER), "{refused}");
    let again = Stopwatch::start();
    let answer = cluster.api_on(cluster.node(&first), "POST", "/services/create", &empty_service("lost"));
    assert!(answer.status >= 400 && again.elapsed() < Duration::from_secs(2), "{}", answer.message());

    for worker in ["worker-1", "worker-2"] {
        cluster.wait_node(worker, "ready", LIMIT);
    }
    // Its own node may count as lost or be vouched for by the workers that reach it; theirs may not.
    let id = cluster.node_id(&first);
    let of_others: Vec<_> = before.iter().filter(|t| t.node_id != id).collect();
    let moved = try_wait_for(QUIET, || {
        let now = cluster.running("web");
        of_others.iter().any(|t| !now.contains(t)).then_some(now)
    });
    assert!(moved.is_none(), "tasks of other nodes moved: {before:#?} {moved:#?}");
    let settled = ten(&cluster);
    cluster.heal(&first, &[]);
    wait_whole(&cluster);
    let _ = assert_no_double(&cluster);
    assert_eq!(ten(&cluster), settled, "nothing moves when it is healed");
    assert!(!cluster.docker(&["service", "ls"]).ok().contains("lost"), "what was refused is not there");
    cluster.speak_to(&first);
    write(&cluster, "the healed manager");
}

#[test]
fn a_worker_cut_off_and_healed_keeps_no_double_task() {
    let (mut cluster, _) = five_with_web();
    cluster.cut("worker-1", &[]);
    let watch = Stopwatch::start();
    cluster.wait_node("worker-1", "down", LIMIT);
    told("a worker that is cut off is down", watch);
    let moved = wait_moved(&cluster, "worker-1");
    let both = cluster.programs("web");
    assert!(both.len() > N_TASKS, "it cannot be told to stop its own: {both:#?}");
    cluster.heal("worker-1", &[]);
    wait_whole(&cluster);
    let _ = assert_no_double(&cluster);
    assert_eq!(ten(&cluster), moved, "the replacements stay");
}
