//! Workers that are killed, frozen, and come back.

use skep_e2e::Stopwatch;

use super::{
    LIMIT, N_TASKS, assert_no_double, assert_same, five_with_web, ten, timed, told, wait_moved, wait_whole,
};

#[test]
fn a_daemon_that_is_back_at_once_loses_nothing_and_later_its_tasks_are_replaced_and_ended() {
    let (mut cluster, before) = five_with_web();
    let containers = assert_no_double(&cluster);
    cluster.kill_node("worker-1", false);
    let watch = Stopwatch::start();
    let _ = cluster.restart_node("worker-1").ok();
    cluster.wait_node("worker-1", "ready", LIMIT);
    told("a killed daemon is back", watch);
    assert_same(&cluster, &before);
    assert_eq!(assert_no_double(&cluster), containers, "the same containers live on");

    cluster.kill_node("worker-1", false);
    let watch = Stopwatch::start();
    cluster.wait_node("worker-1", "down", LIMIT);
    told("a worker without a daemon is down", watch);
    let replaced = wait_moved(&cluster, "worker-1");
    let old = cluster.programs("web");
    assert!(old.len() > N_TASKS, "without their daemon the old ones still run: {old:#?}");
    let _ = cluster.restart_node("worker-1").ok();
    cluster.wait_node("worker-1", "ready", LIMIT);
    timed("the old ones are stopped on its return", || {
        (cluster.programs("web").len() == N_TASKS).then_some(())
    });
    let _ = assert_no_double(&cluster);
    assert_eq!(ten(&cluster), replaced, "the replacements stay");
}

#[test]
fn a_lost_worker_is_replaced_elsewhere_and_a_frozen_one_too() {
    let (mut cluster, _) = five_with_web();
    cluster.kill_node("worker-1", true);
    let replaced = wait_moved(&cluster, "worker-1");
    let _ = assert_no_double(&cluster);
    let _ = cluster.restart_node("worker-1").ok();
    wait_whole(&cluster);
    assert_eq!(ten(&cluster), replaced, "its return moves nothing");

    cluster.freeze("worker-2");
    let watch = Stopwatch::start();
    cluster.wait_node("worker-2", "down", LIMIT);
    told("a frozen worker is down", watch);
    let replaced = wait_moved(&cluster, "worker-2");
    cluster.thaw("worker-2");
    wait_whole(&cluster);
    let _ = assert_no_double(&cluster);
    assert_eq!(ten(&cluster), replaced, "the replacements stay");
}
