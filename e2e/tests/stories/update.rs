//! A rolling update and a rollback, with a client that opens new connections all along.

use std::time::Duration;

use serde_json::Value;
use skep_e2e::{Cluster, Load, get, wait_for};

use crate::{IDLE, SOON, cluster, cluster_with_example, create};

fn wait_update(cluster: &Cluster, service: &str, state: &str) {
    let mut last = Value::Null;
    let done = skep_e2e::try_wait_for(Duration::from_secs(40), || {
        last = cluster.service(service)["UpdateStatus"].clone();
        (last["State"] == state).then_some(())
    });
    assert!(done.is_some(), "the update of {service} is not {state}: {last} {:#?}", cluster.tasks(service));
}

fn version_of(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("Version: "))
}

#[test]
fn no_request_fails_during_an_update_and_a_rollback() {
    let cluster = cluster_with_example(2);
    let before = cluster.wait_running("whoami", 3, SOON);
    let load = Load::start(&cluster.addresses(), 8080);
    wait_for("the client is under way", SOON, || (load.n_ok() > 30).then_some(()));
    let change = ["service", "update", "--detach", "--env-add", "VERSION=2", "--update-parallelism", "1"];
    let monitor = ["--update-monitor", "100ms", "--rollback-monitor", "100ms", "whoami"];
    let _ = cluster.docker(&[&change[..], &monitor].concat()).ok();
    wait_update(&cluster, "whoami", "completed");
    let after = cluster.wait_running("whoami", 3, SOON);
    assert!(after.iter().all(|t| !before.contains(t)), "every task is replaced: {after:?}");
    for address in cluster.addresses() {
        for _ in 0..20 {
            let answer = get(address, 8080, "/").unwrap();
            assert_eq!(version_of(&answer.text()), Some("2"), "old tasks answer no more");
        }
    }
    let _ = cluster.docker(&["service", "rollback", "--detach", "whoami"]).ok();
    wait_update(&cluster, "whoami", "rollback_completed");
    let _ = cluster.wait_running("whoami", 3, SOON);
    assert_eq!(version_of(&get(cluster.manager().address, 8080, "/").unwrap().text()), None);
    let n_before = load.n_ok();
    wait_for("the client goes on", SOON, || (load.n_ok() > n_before + 30).then_some(()));
    let seen = load.stop();
    assert!(seen.failures.is_empty(), "{} answered, failed: {:#?}", seen.n_ok, seen.failures);
}

#[test]
fn no_request_fails_when_new_tasks_start_first() {
    let cluster = cluster_with_example(2);
    // One task: between two there would be none with the other order.
    let _ = cluster.docker(&["service", "scale", "--detach", "whoami=1"]).ok();
    let before = cluster.wait_running("whoami", 1, SOON);
    let load = Load::start(&cluster.addresses(), 8080);
    wait_for("the client is under way", SOON, || (load.n_ok() > 30).then_some(()));
    let change = ["service", "update", "--detach", "--env-add", "VERSION=2", "--update-order", "start-first"];
    let _ = cluster.docker(&[&change[..], &["--update-monitor", "100ms", "whoami"]].concat()).ok();
    wait_update(&cluster, "whoami", "completed");
    let after = cluster.wait_running("whoami", 1, SOON);
    assert!(after.iter().all(|task| !before.contains(task)), "{after:?}");
    let n_before = load.n_ok();
    wait_for("the client goes on", SOON, || (load.n_ok() > n_before + 30).then_some(()));
    let seen = load.stop();
    assert!(seen.failures.is_empty(), "{} answered, failed: {:#?}", seen.n_ok, seen.failures);
}

#[test]
fn a_failing_update_goes_back_by_itself_while_the_cli_waits() {
    let cluster = cluster(1);
    // So long that the client, which asks five times a second, sees the rollback go on.
    let flags = ["--replicas", "2", "--restart-delay", "100ms", "--rollback-monitor", "2s"];
    create(&cluster, "web", &flags, IDLE);
    let old = cluster.wait_running("web", 2, SOON);
    let change =
        ["service", "update", "--update-monitor", "1s", "--update-failure-action", "rollback", "--args"];
    let done = cluster.docker(&[&change[..], &["sh -c 'exit 7'", "web"]].concat());
    assert!(done.code.is_some(), "the docker CLI comes to an end: {done:?}");
    let shown = format!("{}{}", done.stdout, done.stderr);
    assert!(shown.contains("update rolled back due to failure or early termination of task"), "{shown}");
    wait_update(&cluster, "web", "rollback_completed");
    let now = cluster.wait_running("web", 2, SOON);
    assert!(now.iter().any(|task| old.contains(task)), "the second slot was not touched: {now:?}");
    let service = cluster.service("web");
    assert!(service.get("PreviousSpec").is_none(), "{service}");
    let refused = cluster.docker(&["service", "rollback", "web"]).refused();
    assert!(refused.contains("does not have a previous spec"), "{refused}");

    let ours = cluster.skep(&[
        "service",
        "update",
        "--update-failure-action",
        "rollback",
        "--args",
        "sh -c 'exit 8'",
        "web",
    ]);
    let error = ours.refused();
    assert!(error.contains("service rolled back: update rolled back due to failure"), "{error}");
    let _ = cluster.wait_running("web", 2, SOON);
    let history = cluster.skep(&["service", "history", "--format", "json", "web"]).ok();
    assert_eq!(history.lines().count(), 4, "both tries, and what was there before each: {history}");
}

#[test]
fn an_update_by_hand() {
    let cluster = cluster(1);
    create(&cluster, "web", &["--replicas", "3", "--update-delay", "1h"], IDLE);
    let old = cluster.wait_running("web", 3, SOON);
    let _ = cluster.skep(&["service", "update", "--detach", "--env-add", "A=1", "web"]).ok();
    wait_for("the first slot is replaced", SOON, || {
        let running = cluster.running("web");
        (running.len() == 3 && running.iter().any(|task| !old.contains(task))).then_some(())
    });
    let _ = cluster.skep(&["service", "pause", "web"]).ok();
    wait_update(&cluster, "web", "paused");
    let refused = cluster.skep(&["service", "pause", "web"]).refused();
    assert!(refused.contains("service web has no update that goes on"), "{refused}");
    let _ = cluster.skep(&["service", "resume", "web"]).ok();
    wait_update(&cluster, "web", "updating");
    let _ = cluster.skep(&["service", "abort", "web"]).ok();
    wait_for("it goes back", SOON, || {
        (cluster.service("web")["UpdateStatus"]["State"] == "rollback_completed").then_some(())
    });
    let _ = cluster.wait_running("web", 3, SOON);
    let _ = cluster.skep(&["service", "rollback", "--detach", "--to", "1", "web"]).ok();
    wait_update(&cluster, "web", "rollback_started");
}

#[test]
fn an_update_takes_one_slot_at_a_time() {
    let cluster = cluster(1);
    create(&cluster, "web", &["--replicas", "4", "--update-monitor", "50ms"], IDLE);
    let _ = cluster.wait_running("web", 4, SOON);
    let _ = cluster.docker(&["service", "update", "--detach", "--force", "web"]).ok();
    let mut n_least = usize::MAX;
    wait_for("the update completes", Duration::from_secs(40), || {
        n_least = n_least.min(cluster.tasks("web").iter().filter(|t| t.state == "running").count());
        (cluster.service("web")["UpdateStatus"]["State"] == "completed").then_some(())
    });
    assert!(n_least >= 3, "{n_least} of 4 tasks ran at the worst");
}

#[test]
fn a_failing_update_pauses_and_is_rolled_back_by_hand() {
    let cluster = cluster(1);
    create(&cluster, "web", &["--replicas", "3", "--restart-delay", "100ms", "--update-monitor", "1s"], IDLE);
    let _ = cluster.wait_running("web", 3, SOON);
    let _ = cluster.docker(&["service", "update", "--detach", "--args", "sh -c 'exit 7'", "web"]).ok();
    wait_update(&cluster, "web", "paused");
    let message = cluster.service("web")["UpdateStatus"]["Message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("update paused due to failure or early termination of task"), "{message}");
    let n_old = cluster.running("web").len();
    assert!(n_old >= 2, "only the first slot was given up, {n_old} run");
    let _ = cluster.docker(&["service", "rollback", "--detach", "web"]).ok();
    wait_update(&cluster, "web", "rollback_completed");
    let _ = cluster.wait_running("web", 3, SOON);
}
