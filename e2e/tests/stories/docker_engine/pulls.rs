//! Images from a registry where Docker pulls them.

use serde_json::json;
use skep_e2e::{Cluster, Registry, run, wait_for};

use super::DOCKER_SOON;
use crate::{SOON, say_version};

fn registry(cluster: &Cluster, password: Option<&str>) -> Registry {
    Registry::start(cluster.manager().address, password).unwrap_or_else(|err| panic!("{err:#}"))
}

fn rejected(cluster: &Cluster, service: &str) -> String {
    wait_for(&format!("a task of {service} is rejected"), DOCKER_SOON, || {
        let tasks = cluster.tasks(service);
        tasks.into_iter().find(|task| task.state == "rejected").map(|task| task.err)
    })
}

fn logs_say(cluster: &Cluster, service: &str, text: &str) {
    wait_for(&format!("{service} says {text}"), DOCKER_SOON, || {
        cluster.docker(&["service", "logs", "--raw", service]).ok().contains(text).then_some(())
    });
}

#[test]
fn docker_pulls_pins_and_keeps_the_services_credentials() {
    say_version();
    let insecure = "--insecure-registry=10.0.0.0/8";
    let cluster = Cluster::builder(1, 1).flag("--engine=docker").daemon_flag(insecure).start();
    let (open, hidden) = (registry(&cluster, None), registry(&cluster, Some("secret")));
    let head = ["service", "create", "--detach", "--replicas", "2", "--name"];

    let image = format!("{}/team/app", open.host());
    let first = open.put("team/app", "1", "hello one\n").unwrap();
    let _ = cluster.docker(&[&head[..], &["app", &format!("{image}:1")]].concat()).ok();
    let _ = cluster.wait_running("app", 2, DOCKER_SOON);
    let pinned = || cluster.service("app")["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"].clone();
    assert_eq!(pinned(), json!(format!("{image}:1@{first}")));
    logs_say(&cluster, "app", "hello one");
    let second = open.put("team/app", "1", "hello two\n").unwrap();
    let _ = cluster.docker(&["service", "update", "--detach", "--image", &format!("{image}:1"), "app"]).ok();
    assert_eq!(pinned(), json!(format!("{image}:1@{second}")));
    logs_say(&cluster, "app", "hello two");

    let absent = format!("{image}:9");
    let _ = cluster.docker(&[&head[..], &["bad", &absent]].concat()).ok();
    let error = rejected(&cluster, "bad");
    let start = format!("No such image: {absent}: ");
    assert!(error.starts_with(&start) && error.contains("manifest unknown"), "{error}");

    let _ = hidden.put("secret/app", "1", "hello hidden\n").unwrap();
    let image = format!("{}/secret/app:1", hidden.host());
    let _ = cluster.docker(&[&head[..], &["denied", &image]].concat()).ok();
    let error = rejected(&cluster, "denied");
    assert!(error.contains("no basic auth credentials") || error.contains("unauthorized"), "{error}");
    let config = tempfile::tempdir().unwrap();
    let docker = |args: &[&str]| {
        let mut command = cluster.docker_command(cluster.manager(), args);
        command.env("DOCKER_CONFIG", config.path());
        run(&mut command, SOON).unwrap()
    };
    let host = hidden.host();
    let wrong = docker(&["login", "--username", "me", "--password", "wrong", &host]).refused();
    assert!(wrong.contains("401 Unauthorized"), "{wrong}");
    let _ = docker(&["login", "--username", "me", "--password", "secret", &host]).ok();
    let _ = docker(&[&head[..], &["known", "--with-registry-auth", &image]].concat()).ok();
    let _ = cluster.wait_running("known", 2, DOCKER_SOON);
    logs_say(&cluster, "known", "hello hidden");
}
