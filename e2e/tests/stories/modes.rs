//! Modes: a service on each node, jobs that come to an end, and what the docker CLI says of them.

use serde_json::json;
use skep_e2e::{BUSYBOX, wait_for};

use crate::{IDLE, SOON, cluster, create};

#[test]
fn a_global_service_has_a_task_on_each_node() {
    let cluster = cluster(2);
    // Not detached: the CLI follows it, and ends once it has converged.
    let head = ["service", "create", "--name", "agent", "--mode", "global"];
    let text = cluster.docker(&[&head[..], &[BUSYBOX, "sh", "-c", IDLE]].concat()).ok();
    assert!(text.contains("overall progress: 3 out of 3 tasks"), "{text}");
    let list = cluster.docker(&["service", "ls", "--format", "{{.Mode}} {{.Replicas}}"]).ok();
    assert_eq!(list.trim(), "global 3/3");
    let filtered = cluster.docker(&["service", "ls", "-q", "--filter", "mode=replicated"]).ok();
    assert_eq!(filtered.trim(), "");
    let worker = cluster.node_id("worker-1");
    let names = cluster.docker(&["service", "ps", "agent", "--no-trunc", "--format", "{{.Name}}"]).ok();
    assert!(names.lines().any(|name| name == format!("agent.{worker}")), "{names}");
    let pretty = cluster.docker(&["service", "inspect", "--pretty", "agent"]).ok();
    assert!(pretty.contains("Service Mode:\tGlobal"), "{pretty}");
    assert_eq!(cluster.service("agent")["Spec"]["Mode"], json!({"Global": {}}));

    let refused = cluster.docker(&["service", "scale", "agent=2"]).refused();
    assert!(refused.contains("scale can only be used with replicated or replicated-job mode"), "{refused}");
    // A drained node loses its task, which goes nowhere else; it comes back with the node.
    let availability = |word| cluster.docker(&["node", "update", "--availability", word, "worker-1"]).ok();
    let _ = availability("drain");
    wait_for("two are left", SOON, || {
        let list = cluster.docker(&["service", "ls", "--format", "{{.Replicas}}"]).ok();
        (list.trim() == "2/2").then_some(())
    });
    let _ = availability("active");
    let _ = cluster.wait_running("agent", 3, SOON);
}

#[test]
fn a_replicated_job_runs_until_all_have_completed() {
    let cluster = cluster(1);
    let head = ["service", "create", "--name", "job", "--mode", "replicated-job"];
    let numbers = ["--replicas", "4", "--max-concurrent", "2", BUSYBOX, "sleep", "1"];
    let text = cluster.docker(&[&head[..], &numbers].concat()).ok();
    assert!(text.contains("job complete"), "{text}");
    let list = cluster.docker(&["service", "ls", "--format", "{{.Mode}} {{.Replicas}}"]).ok();
    assert_eq!(list.trim(), "replicated job 0/2 (4/4 completed)");
    let states =
        cluster.docker(&["service", "ps", "job", "--format", "{{.DesiredState}} {{.CurrentState}}"]).ok();
    assert_eq!(states.lines().filter(|line| line.starts_with("Complete Complete")).count(), 4, "{states}");
    let first = cluster.service("job")["JobStatus"].clone();
    assert!(first["LastExecution"].is_string(), "{first}");

    // Another run: its tasks take the place of the old ones, which stay as history.
    let old: Vec<String> = cluster.tasks("job").iter().map(|task| task.id.clone()).collect();
    let text = cluster.docker(&["service", "update", "--force", "job"]).ok();
    assert!(text.contains("job complete"), "{text}");
    assert_eq!(cluster.service("job")["JobStatus"]["JobIteration"]["Index"], 1);
    let tasks = cluster.tasks("job");
    assert_eq!(tasks.iter().filter(|task| task.state == "complete").count(), 8, "{tasks:?}");
    assert_eq!(tasks.iter().filter(|task| old.contains(&task.id)).count(), 4, "{tasks:?}");
    let list = cluster.docker(&["service", "ls", "--format", "{{.Mode}} {{.Replicas}}"]).ok();
    assert_eq!(list.trim(), "replicated job 0/2 (4/4 completed)");
}

#[test]
fn a_failed_task_of_a_job_is_tried_again_and_a_global_job_runs_once_a_node() {
    let cluster = cluster(1);
    let flaky = "test -e /shared/done || { touch /shared/done; exit 3; }";
    let flags = [
        "--mode",
        "replicated-job",
        "--restart-delay",
        "0s",
        "--mount",
        "type=volume,source=s,target=/shared",
    ];
    create(&cluster, "flaky", &[&flags[..], &["--constraint", "node.hostname==worker-1"]].concat(), flaky);
    wait_for("it completes at the second try", SOON, || {
        let tasks = cluster.tasks("flaky");
        let failed = tasks.iter().any(|task| task.state == "failed" && task.err == "task: non-zero exit (3)");
        (failed && tasks.iter().any(|task| task.state == "complete")).then_some(())
    });
    let head = ["service", "create", "--name", "once", "--mode", "global-job", BUSYBOX, "true"];
    let text = cluster.docker(&head).ok();
    assert!(text.contains("job complete"), "{text}");
    let list = cluster
        .docker(&["service", "ls", "--filter", "name=once", "--format", "{{.Mode}} {{.Replicas}}"])
        .ok();
    assert_eq!(list.trim(), "global job 0/0 (2/2 completed)");

    let spec = json!({
        "Name": "bad",
        "TaskTemplate": {"ContainerSpec": {"Image": BUSYBOX}},
        "Mode": {"GlobalJob": {}},
        "UpdateConfig": {"Parallelism": 1},
    });
    let answer = cluster.api("POST", "/services/create", &spec);
    assert_eq!((answer.status, answer.message().contains("Jobs may not have an update config")), (400, true));
}
