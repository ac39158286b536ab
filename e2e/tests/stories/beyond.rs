//! What goes beyond Swarm, asked for with the docker CLI's labels and our own words: moves that make nodes even, jobs
//! by the clock, and join tokens that end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skep_e2e::{BUSYBOX, Cluster, Output, wait_for};

use crate::{IDLE, SOON, cluster, create};

/// A minute begins within it, and a run ends soon after.
const NEXT_MINUTE: Duration = Duration::from_secs(80);

/// How many tasks of the service run on each node that has some.
fn by_node(cluster: &Cluster, service: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for task in cluster.running(service) {
        *counts.entry(task.node_id).or_default() += 1;
    }
    counts
}

fn n_completed(cluster: &Cluster, service: &str) -> usize {
    cluster.tasks(service).iter().filter(|task| task.state == "complete").count()
}

#[test]
fn nodes_are_made_even_and_jobs_run_by_the_clock() {
    let cluster = cluster(2);
    let bad = ["--mode", "replicated-job", "--label", "skep.cron=61 * * * *"];
    let refused =
        cluster.docker(&[&["service", "create", "--detach"], &bad[..], &[BUSYBOX, "true"]].concat());
    assert!(refused.refused().contains("skep.cron"));
    let each_minute = ["--mode", "replicated-job", "--replicas", "2", "--label", "skep.cron=* * * * *"];
    create(&cluster, "tick", &each_minute, "echo tick");
    let seldom =
        ["--mode", "replicated-job", "--label", "skep.cron=@yearly", "--label", "skep.cron.tz=Europe/Berlin"];
    create(&cluster, "yearly", &seldom, "echo done");
    let runs = cluster.skep(&["service", "runs", "yearly"]).ok();
    assert!(runs.contains("next run: ") && runs.lines().count() == 2, "{runs}");
    assert!(cluster.tasks("yearly").is_empty(), "nothing runs when it is created");
    let _ = cluster.docker(&["service", "update", "--quiet", "--detach", "--force", "yearly"]).ok();
    wait_for("a run by hand", SOON, || (n_completed(&cluster, "yearly") == 1).then_some(()));
    wait_for("the run is over", SOON, || {
        let runs = cluster.skep(&["service", "runs", "yearly"]).ok();
        (runs.lines().count() == 3 && !runs.contains("running")).then_some(())
    });

    even_out(&cluster);

    wait_for("a run by the clock", NEXT_MINUTE, || (n_completed(&cluster, "tick") >= 2).then_some(()));
    wait_for("it is told", SOON, || {
        let runs = cluster.skep(&["service", "runs", "--format", "json", "tick"]).ok();
        (runs.contains(r#""Completed":2"#) && runs.contains(r#""Failed":0"#)).then_some(())
    });
}

/// A node that was away gets its part of what runs, and nobody misses a task meanwhile.
fn even_out(cluster: &Cluster) {
    let availability = |wanted: &str| {
        let _ = cluster.docker(&["node", "update", "--availability", wanted, "worker-2"]).ok();
    };
    availability("drain");
    create(cluster, "web", &["--replicas", "6"], IDLE);
    let before: BTreeSet<String> =
        cluster.wait_running("web", 6, SOON).into_iter().map(|task| task.id).collect();
    availability("active");
    wait_for("the node takes tasks", SOON, || {
        let plan = cluster.skep(&["service", "rebalance", "--dry-run", "web"]).ok();
        (plan.matches("worker-2").count() == 2).then_some(())
    });
    assert_eq!(by_node(cluster, "web").len(), 2, "nothing moves by itself");
    let update = ["service", "update", "--quiet", "--detach", "--label-add", "skep.rebalance=1000", "web"];
    let _ = cluster.docker(&update).ok();
    wait_for("two on each node", SOON, || {
        let running = cluster.running("web");
        assert!(running.len() >= 6, "one stopped before its successor ran: {running:?}");
        let counts = by_node(cluster, "web");
        (counts.len() == 3 && counts.values().all(|n| *n == 2)).then_some(())
    });
    let after: BTreeSet<String> = cluster.running("web").into_iter().map(|task| task.id).collect();
    assert_eq!(after.intersection(&before).count(), 4, "no more than two moved");
    wait_for("the last one that moved has stopped", SOON, || {
        let plan = cluster.skep(&["service", "rebalance", "--dry-run", "web"]).ok();
        plan.starts_with("nothing to move").then_some(())
    });
}

#[test]
fn a_token_lets_one_node_in_and_gives_it_its_labels() {
    let cluster = cluster(1);
    let worker = cluster.node("worker-1").clone();
    let manager = format!("{}:2377", cluster.manager().address);
    let address = worker.address.to_string();
    let join = |token: &str| -> Output {
        let args = ["swarm", "join", "--advertise-addr", &address, "--token", token, &manager];
        cluster.docker_on(&worker, &args)
    };
    let leave = || {
        let _ = cluster.docker_on(&worker, &["swarm", "leave"]).ok();
        cluster.wait_node("worker-1", "down", SOON);
        let _ = cluster.docker(&["node", "rm", "worker-1"]).ok();
    };
    let make = |flags: &[&str]| {
        let made = cluster.skep(&[&["swarm", "join-token", "create", "-q"], flags].concat()).ok();
        made.trim().to_owned()
    };
    create(&cluster, "pinned", &["--constraint", "node.labels.zone==a"], IDLE);
    leave();

    let token = make(&["--uses", "1", "--ttl", "10m", "--label", "zone=a"]);
    let listed = cluster.skep(&["swarm", "join-token", "ls"]).ok();
    let secret = token.rsplit('-').next().unwrap_or_default();
    assert!(!listed.contains(secret), "the secret is shown once");
    let text = join(&token).ok();
    assert!(text.contains("This node joined a swarm as a worker."), "{text}");
    // The label was there before the first task.
    let task = cluster.wait_running("pinned", 1, SOON).remove(0);
    assert_eq!(task.node_id, cluster.node_id("worker-1"));
    leave();
    let used = join(&token).refused();
    assert!(used.contains("used up"), "{used}");

    let token = make(&["--uses", "0"]);
    let ids = cluster.skep(&["swarm", "join-token", "ls"]).ok();
    let id =
        ids.lines().skip(1).find(|line| !line.contains("used up")).and_then(|line| line.split(' ').next());
    let revoke = cluster.skep(&["swarm", "join-token", "revoke", id.expect("one that is good")]).ok();
    assert!(!revoke.contains(token.rsplit('-').next().unwrap_or_default()), "{revoke}");
    let revoked = join(&token).refused();
    assert!(revoked.contains("revoked"), "{revoked}");
}
