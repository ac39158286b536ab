//! Tasks that fail: what is shown, and that the restart policy is followed.

use std::time::Duration;

use skep_e2e::{Task, wait_for};

use crate::{SOON, cluster, create};

#[test]
fn a_failing_task_is_restarted_as_its_policy_says() {
    let cluster = cluster(1);
    let policy =
        ["--restart-condition", "on-failure", "--restart-max-attempts", "2", "--restart-delay", "100ms"];
    create(&cluster, "bad", &policy, "exit 3");
    let failed = wait_for("three attempts failed", SOON, || {
        let tasks = cluster.tasks("bad");
        (tasks.iter().filter(|t| t.state == "failed").count() == 3).then_some(tasks)
    });
    assert_eq!(failed.len(), 3, "one first attempt and two restarts: {failed:#?}");
    assert!(failed.iter().all(|t| t.exit_code == 3 && t.slot == 1), "{failed:#?}");
    let ps = cluster.docker(&["service", "ps", "--no-trunc", "bad"]).ok();
    assert_eq!(ps.matches("\"task: non-zero exit (3)\"").count(), 3, "{ps}");
    // Nothing more comes: the third failure was the last attempt.
    let more =
        skep_e2e::try_wait_for(Duration::from_secs(1), || (cluster.tasks("bad").len() > 3).then_some(()));
    assert!(more.is_none(), "{:#?}", cluster.tasks("bad"));
}

#[test]
fn a_restart_waits_for_its_delay() {
    let cluster = cluster(0);
    create(&cluster, "bad", &["--restart-delay", "2s"], "exit 1");
    let is_failed = |t: &Task| t.state == "failed";
    wait_for("the first failure", SOON, || cluster.tasks("bad").iter().any(is_failed).then_some(()));
    let watch = skep_e2e::Stopwatch::start();
    wait_for("the second failure", SOON, || {
        (cluster.tasks("bad").iter().filter(|t| is_failed(t)).count() == 2).then_some(())
    });
    let waited = watch.elapsed();
    assert!(waited > Duration::from_millis(1500) && waited < Duration::from_secs(5), "{waited:?}");
}

#[test]
fn a_completed_task_is_not_restarted_on_failure_only() {
    let cluster = cluster(0);
    create(&cluster, "once", &["--restart-condition", "on-failure", "--restart-delay", "50ms"], "exit 0");
    create(&cluster, "never", &["--restart-condition", "none"], "exit 4");
    wait_for("both ended", SOON, || {
        let state = |name| cluster.tasks(name).first().map(|t| t.state.clone());
        (state("once").as_deref() == Some("complete") && state("never").as_deref() == Some("failed"))
            .then_some(())
    });
    let more = skep_e2e::try_wait_for(Duration::from_secs(1), || {
        (cluster.tasks("once").len() + cluster.tasks("never").len() > 2).then_some(())
    });
    assert!(more.is_none());
}

#[test]
fn an_image_that_no_node_has_is_rejected_by_name() {
    let cluster = cluster(1);
    let output = cluster.docker(&["service", "create", "--detach", "--name", "ghost", "nosuch:1"]);
    assert!(output.is_ok(), "the create itself succeeds: {output}");
    assert!(output.stderr.contains("could not be accessed on a registry to record"), "{output}");
    let ps = wait_for("the task is rejected", SOON, || {
        let ps = cluster.docker(&["service", "ps", "--no-trunc", "ghost"]).ok();
        ps.contains("Rejected").then_some(ps)
    });
    assert!(ps.contains("\"No such image: nosuch:1: "), "{ps}");
    // The restart policy follows: any, after 5 s.
    wait_for("it is tried again", SOON, || (cluster.tasks("ghost").len() >= 2).then_some(()));
}

#[test]
fn a_task_over_its_memory_limit_is_killed_and_says_so() {
    let cluster = cluster(0);
    let flags = ["--limit-memory", "16MB", "--restart-condition", "none"];
    create(&cluster, "greedy", &flags, "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done");
    let task = wait_for("the task is killed", SOON, || {
        cluster.tasks("greedy").first().filter(|t| t.state == "failed").cloned()
    });
    assert_eq!(task.exit_code, 137, "{task:?}");
    let told = format!("{} {}", task.err, task.message).to_lowercase();
    assert!(told.contains("oom") || told.contains("memory"), "{task:?}");
}
