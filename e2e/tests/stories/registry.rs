//! Images from a registry: pulled where they are needed, pinned by digest, refused without credentials.

use std::path::Path;

use serde_json::json;
use skep_e2e::{Cluster, Output, Registry, run, wait_for};

use super::{SOON, say_version};

/// The registry is on an address of the swarm's own net, by plain HTTP.
fn cluster_and_registry(n_workers: u8, password: Option<&str>) -> (Cluster, Registry) {
    say_version();
    let cluster = Cluster::builder(1, n_workers).daemon_flag("--insecure-registry=10.0.0.0/8").start();
    let registry = Registry::start(cluster.manager().address, password);
    (cluster, registry.unwrap_or_else(|err| panic!("{err:#}")))
}

fn failed(cluster: &Cluster, service: &str) -> String {
    wait_for(&format!("a task of {service} is rejected"), SOON, || {
        let tasks = cluster.tasks(service);
        tasks.into_iter().find(|task| task.state == "rejected").map(|task| task.err)
    })
}

fn logs_say(cluster: &Cluster, service: &str, text: &str) {
    wait_for(&format!("{service} says {text}"), SOON, || {
        cluster.docker(&["service", "logs", "--raw", service]).ok().contains(text).then_some(())
    });
}

#[test]
fn an_image_that_no_node_has_is_pulled_pinned_and_updated() {
    let (cluster, registry) = cluster_and_registry(2, None);
    let image = format!("{}/team/app", registry.host());
    let first = registry.put("team/app", "1", "hello one\n").unwrap();
    let created = cluster.docker(&[
        "service",
        "create",
        "--detach",
        "--name",
        "app",
        "--replicas",
        "3",
        &format!("{image}:1"),
    ]);
    assert!(created.is_ok() && !created.stderr.contains("could not be accessed"), "{created}");
    let tasks = cluster.wait_running("app", 3, SOON);
    let pinned = cluster.service("app")["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"].clone();
    assert_eq!(pinned, json!(format!("{image}:1@{first}")), "{tasks:?}");
    logs_say(&cluster, "app", "hello one");
    let listed = cluster.docker(&["image", "ls", "--digests", "--no-trunc"]).ok();
    assert!(listed.contains(&first), "{listed}");

    // The tag moves; what runs does not follow until somebody says so.
    let second = registry.put("team/app", "1", "hello two\n").unwrap();
    let updated = cluster.docker(&["service", "update", "--detach", "--image", &format!("{image}:1"), "app"]);
    assert!(updated.is_ok(), "{updated}");
    let pinned = cluster.service("app")["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"].clone();
    assert_eq!(pinned, json!(format!("{image}:1@{second}")));
    logs_say(&cluster, "app", "hello two");
    let _ = cluster.wait_running("app", 3, SOON);

    for (reference, words) in [
        (format!("{image}:9"), "manifest unknown"),
        (format!("{image}@sha256:{}", "0".repeat(64)), "manifest unknown"),
        ("127.0.0.1:1/none:1".to_owned(), "registry 127.0.0.1:1 cannot be reached"),
    ] {
        let _ =
            cluster.docker(&["service", "create", "--quiet", "--detach", "--name", "bad", &reference]).ok();
        let error = failed(&cluster, "bad");
        let start = format!("No such image: {reference}: ");
        assert!(error.starts_with(&start) && error.contains(words), "{error}");
        let _ = cluster.docker(&["service", "rm", "bad"]).ok();
    }
}

#[test]
fn a_registry_with_a_password_serves_who_sends_it() {
    let (cluster, registry) = cluster_and_registry(1, Some("secret"));
    let image = format!("{}/hidden:1", registry.host());
    let _ = registry.put("hidden", "1", "hello hidden\n").unwrap();
    let head = ["service", "create", "--quiet", "--detach", "--name"];
    let _ = cluster.docker(&[&head[..], &["open", &image]].concat()).ok();
    let error = failed(&cluster, "open");
    assert!(error.contains("unauthorized: authentication required"), "{error}");

    let config = tempfile::tempdir().unwrap();
    let docker = |args: &[&str]| -> Output {
        let mut command = cluster.docker_command(cluster.manager(), args);
        command.env("DOCKER_CONFIG", config.path());
        run(&mut command, SOON).unwrap()
    };
    let host = registry.host();
    let wrong = docker(&["login", "--username", "me", "--password", "wrong", &host]).refused();
    assert!(wrong.contains("unauthorized"), "{wrong}");
    let login = docker(&["login", "--username", "me", "--password", "secret", &host]);
    assert!(login.is_ok() && login.stdout.contains("Login Succeeded"), "{login}");
    keeps_login(config.path(), &host);
    let created =
        docker(&[&head[..], &["known", "--with-registry-auth", "--replicas", "2", &image]].concat());
    assert!(created.is_ok(), "{created}");
    let _ = cluster.wait_running("known", 2, SOON);
    let shown = cluster.service("known").to_string();
    assert!(!shown.contains("secret") && !shown.contains("RegistryAuth"), "{shown}");

    // The credentials stay with the service while nobody gives others.
    let _ = registry.put("hidden", "2", "hello again\n").unwrap();
    let next = format!("{host}/hidden:2");
    let _ = docker(&["service", "update", "--quiet", "--detach", "--image", &next, "known"]).ok();
    logs_say(&cluster, "known", "hello again");
    // It is here by its digest; the tag is new, the second time it is not.
    for outcome in ["Downloaded newer image", "Image is up to date"] {
        let pulled = docker(&["pull", &image]);
        assert!(pulled.stdout.contains(&format!("Status: {outcome} for {image}")), "{pulled}");
    }
    let third = format!("{host}/hidden:3");
    let denied = cluster.docker(&["pull", &third]).refused();
    assert!(denied.contains("pull access denied"), "{denied}");
    our_cli_knows_the_login(&cluster, config.path(), &third, &registry);
}

fn our_cli_knows_the_login(cluster: &Cluster, config: &Path, image: &str, registry: &Registry) {
    let pinned = registry.put("hidden", "3", "hello from ours\n").expect("the registry takes it");
    let denied = cluster.skep(&["image", "pull", image]).refused();
    assert!(denied.contains("pull access denied"), "{denied}");
    let skep = |args: &[&str]| -> Output {
        let mut command = cluster.skep_command(cluster.manager(), args);
        run(command.env("DOCKER_CONFIG", config), SOON).expect("our CLI runs")
    };
    let _ = skep(&["service", "create", "--detach", "--name", "ours", "--with-registry-auth", image]).ok();
    logs_say(cluster, "ours", "hello from ours");
    let spec = cluster.service("ours")["Spec"].to_string();
    assert!(spec.contains(&pinned), "{pinned} in {spec}");
    let pulled = skep(&["image", "pull", image]).ok();
    assert!(pulled.contains("Status: "), "{pulled}");
}

fn keeps_login(config: &Path, host: &str) {
    let kept = std::fs::read_to_string(config.join("config.json")).expect("a login is kept in its file");
    assert!(kept.contains(host), "{kept}");
}
