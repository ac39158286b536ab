//! The real docker CLI on our socket. Says so and passes where there is none.

use std::process::Stdio;

use tokio::{io::AsyncWriteExt as _, process::Command};

use super::fake::Running;
use crate::http::SwarmState;

/// The CLI's path from the shell's; `None` is said aloud.
async fn has_docker() -> bool {
    let version = Command::new("docker").arg("--version").output().await;
    match version {
        Ok(output) => {
            eprintln!("driven by {}", String::from_utf8_lossy(&output.stdout).trim());
            true
        }
        Err(error) => {
            eprintln!("SKIPPED: no docker CLI on PATH ({error})");
            false
        }
    }
}

/// Runs one command; gives exit code, stdout and stderr.
async fn docker(server: &Running, line: &str, input: &[u8]) -> (i32, String, String) {
    let mut child = Command::new("docker")
        .arg("-H")
        .arg(format!("unix://{}", server.socket().display()))
        .args(line.split_ascii_whitespace())
        .env("HOME", server.home())
        .env("DOCKER_CONFIG", server.home())
        .env_remove("DOCKER_HOST")
        .env_remove("DOCKER_CONTEXT")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that reads no input closes the pipe.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    eprintln!("$ docker {line}\n{out}{err}");
    (output.status.code().unwrap_or(-1), out, err)
}

/// Runs a command that must succeed and print all of `expect`.
async fn good(server: &Running, line: &str, expect: &[&str]) -> String {
    let (code, out, err) = docker(server, line, b"").await;
    assert_eq!(code, 0, "docker {line}\n{out}{err}");
    for part in expect {
        assert!(out.contains(part) || err.contains(part), "docker {line}: no {part:?} in\n{out}{err}");
    }
    out
}

/// Runs a command that must fail with `expect`.
async fn bad(server: &Running, line: &str, expect: &str) {
    let (code, out, err) = docker(server, line, b"").await;
    assert_ne!(code, 0, "docker {line}\n{out}{err}");
    assert!(err.contains(expect), "docker {line}: no {expect:?} in\n{out}{err}");
}

#[tokio::test]
async fn a_swarm_is_made_and_left() {
    if !has_docker().await {
        return;
    }
    let server = Running::start(SwarmState::Inactive);
    good(&server, "version", &["0.1.0", "minimum version 1.24"]).await;
    good(&server, "info", &["Swarm: inactive", "Server Version: 0.1.0"]).await;
    bad(&server, "node ls", "This node is not a swarm manager. Use").await;
    bad(&server, "swarm leave", "This node is not part of a swarm").await;
    good(
        &server,
        "swarm init --advertise-addr 10.9.0.1",
        &["is now a manager.", "docker swarm join --token SWMTKN-1-", "10.9.0.1:2377"],
    )
    .await;
    bad(&server, "swarm init", "This node is already part of a swarm").await;
    good(&server, "info", &["Swarm: active", "Is Manager: true", "Managers: 1", "Nodes: 2"]).await;
    let token = good(&server, "swarm join-token -q worker", &["SWMTKN-1-"]).await;
    good(&server, "swarm join-token manager", &["To add a manager to this swarm", "10.9.0.1:2377"]).await;
    let rotated = good(&server, "swarm join-token --rotate -q worker", &["SWMTKN-1-"]).await;
    let parts =
        |token: &str| token.trim().rsplit_once('-').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(parts(&rotated).0, parts(&token).0, "the root's digest stays");
    assert_ne!(parts(&rotated).1, parts(&token).1, "the secret is new");
    assert_eq!(good(&server, "swarm join-token -q worker", &[]).await, rotated);
    good(
        &server,
        "swarm update --task-history-limit 2 --dispatcher-heartbeat 5s --cert-expiry 48h",
        &["Swarm updated."],
    )
    .await;
    good(
        &server,
        "info",
        &["Task History Retention Limit: 2", "Heartbeat Period: 5 seconds", "Expiry Duration: 2 days"],
    )
    .await;
    bad(&server, "swarm update --cert-expiry 59m", "minimum certificate expiry time is: 1h0m0s").await;
    let key = "SWMKEY-1-BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";
    good(&server, "swarm update --autolock", &["Swarm updated.", key]).await;
    good(&server, "swarm unlock-key --rotate", &["Successfully rotated manager unlock key.", key]).await;
    bad(&server, "swarm unlock", "swarm is not locked").await;
    good(&server, "swarm update --autolock=false", &["Swarm updated."]).await;
    bad(&server, "swarm unlock-key", "no unlock key is set").await;
    good(&server, "swarm update --snapshot-interval 7 --max-snapshots 3", &["Swarm updated."]).await;
    good(&server, "info", &["Snapshot Interval: 7", "Number of Old Snapshots to Retain: 3"]).await;
    good(&server, "swarm ca", &["not a certificate"]).await;
    bad(&server, "swarm leave", "leave the swarm on a manager").await;
    good(&server, "swarm leave --force", &["Node left the swarm."]).await;
    good(
        &server,
        &format!("swarm join --token {} 10.9.0.1:2377", token.trim()),
        &["joined a swarm as a worker"],
    )
    .await;
    bad(&server, "service ls", "Worker nodes can't be used to view or modify cluster state").await;
}

#[tokio::test]
async fn nodes_are_seen_and_changed() {
    if !has_docker().await {
        return;
    }
    let server = Running::manager();
    let out = good(&server, "node ls", &["HOSTNAME", "Leader", "0.1.0"]).await;
    assert!(out.lines().any(|line| line.contains(" * ") && line.contains("alpha")), "{out}");
    good(
        &server,
        "node inspect --pretty self",
        &["Hostname:", "alpha", "Reachable", "Leader:\t\tYes", "Plugins:"],
    )
    .await;
    bad(&server, "node demote self", "attempting to demote the last manager of the swarm").await;
    good(&server, "node promote beta", &["Node beta promoted to a manager in the swarm."]).await;
    good(&server, "node promote beta", &["is already a manager."]).await;
    good(&server, "info", &["Managers: 2", "WARNING: Running Swarm in a two-manager configuration."]).await;
    good(&server, "node demote beta", &["Manager beta demoted in the swarm."]).await;
    good(&server, "node update --label-add zone=a beta", &["beta"]).await;
    good(&server, "node update --availability drain beta", &["beta"]).await;
    good(&server, "node inspect beta", &[r#""Availability": "drain""#, r#""zone": "a""#]).await;
    good(&server, "node ls --filter node.label=zone=a --format {{.Hostname}}", &["beta"]).await;
    bad(&server, "node rm beta", "is not down and can't be removed").await;
    good(&server, "node rm --force beta", &["beta"]).await;
    bad(&server, "node inspect beta", "node beta not found").await;
}

#[tokio::test]
async fn a_service_goes_through_its_life() {
    if !has_docker().await {
        return;
    }
    let server = Running::manager();
    let fast = "--update-monitor 1ms --rollback-monitor 1ms";
    good(
        &server,
        &format!("service create --name web --replicas 2 -p 8080:80 {fast} skep/whoami"),
        &["could not be accessed on a registry to record", "verify: Service"],
    )
    .await;
    bad(&server, "service create --name web -d skep/whoami", "name conflicts with an existing object").await;
    good(&server, "service ls", &["replicated", "2/2", "skep/whoami:latest", "*:8080->80/tcp"]).await;
    let out = good(&server, "service ps web", &["web.1", "web.2", "Running", "beta"]).await;
    assert_eq!(out.lines().count(), 3, "{out}");
    good(
        &server,
        "service inspect --pretty web",
        &["Replicas:", "PublishedPort = 8080", "Max failure ratio: 0"],
    )
    .await;
    good(&server, "service update --env-add A=1 web", &["converged"]).await;
    good(&server, "service ps web", &[r"\_ web.1", "Shutdown"]).await;
    good(&server, "service scale web=3", &["scaled to 3", "converged"]).await;
    good(&server, "service ps web -q --filter desired-state=running", &[]).await;
    good(&server, "service rollback web", &["rollback completed"]).await;
    good(&server, "node ps self", &["NAME"]).await;
    good(&server, "node ps beta", &["web.1", "web.2"]).await;
    good(
        &server,
        "service logs --no-trunc web",
        &["web.1.", "@beta", "| hello", "| oh no", "| warning: incomplete log stream"],
    )
    .await;
    good(&server, "service rm web", &["web"]).await;
    bad(&server, "service inspect web", "no such service: web").await;
}

#[tokio::test]
async fn the_engine_shows_what_it_has() {
    if !has_docker().await {
        return;
    }
    let server = Running::manager();
    good(&server, "images", &["skep/whoami", "4.43MB", "abababababab"]).await;
    good(&server, "ps", &["web.1.xyz", "Up About an hour", "/skep-whoami"]).await;
    good(&server, "network ls", &["ingress", "overlay", "swarm", "bridge"]).await;
    good(&server, "network inspect ingress", &["10.255.0.0/16"]).await;
    good(&server, "volume ls", &["DRIVER"]).await;
    good(&server, "secret ls", &["NAME"]).await;
    let (code, out, _) = docker(&server, "load", b"0123456789").await;
    assert_eq!((code, out.trim()), (0, "Loaded image: loaded:10"));
    let (code, out, _) = docker(&server, "import - base:1", b"0123").await;
    assert!(code == 0 && out.contains("base:1"), "{out}");
    good(&server, "rmi skep/whoami:latest", &["Untagged: skep/whoami:latest", "Deleted: sha256:"]).await;
    bad(&server, "pull alpine", "no docker.io/library/alpine:latest").await;
    let words =
        ["1: Pulling from library/far", "0123456789ab: Pull complete", "Downloaded newer image for far:1"];
    good(&server, "pull far:1", &words).await;
    bad(&server, "pull far:2", "the line broke").await;
    bad(&server, "push far:1", "pushing to a registry is not supported").await;
    bad(&server, "run alpine", "containers outside services is not supported").await;
}
