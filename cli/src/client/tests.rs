//! The client's commands against the API server on a cluster made by hand: what they print, and how they fail.

use clap::Parser as _;

use super::{dispatch, output::PRINTED};
use crate::{
    args::{Cli, Command},
    http::{SwarmState, tests::fake::Running},
};

/// Runs one command; gives what it printed, or its error.
async fn skep(server: &Running, line: &str) -> Result<String, String> {
    let cli = Cli::try_parse_from(std::iter::once("skep").chain(line.split_ascii_whitespace())).unwrap();
    let Command::Client(command) = cli.command else { panic!("{line} is no command of the client") };
    PRINTED.take();
    let done = dispatch(&format!("unix://{}", server.socket().display()), command).await;
    let printed = String::from_utf8(PRINTED.take()).unwrap();
    done.map(|_| printed).map_err(|error| format!("{error:#}"))
}

async fn good(server: &Running, line: &str, expect: &[&str]) -> String {
    let out = skep(server, line).await.unwrap_or_else(|error| panic!("skep {line}: {error}"));
    for part in expect {
        assert!(out.contains(part), "skep {line}: no {part:?} in\n{out}");
    }
    out
}

async fn bad(server: &Running, line: &str, expect: &str) {
    let error = skep(server, line).await.unwrap_err();
    assert_eq!(error, expect, "skep {line}");
}

#[tokio::test]
async fn a_swarm_is_made() {
    let server = Running::start(SwarmState::Inactive);
    bad(
        &server,
        "node ls",
        "Error response from daemon: This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" \
         to connect this node to swarm and try again.",
    )
    .await;
    let out =
        good(&server, "swarm init --advertise-addr 10.9.0.1", &["is now a manager.\n\nTo add a worker"])
            .await;
    assert!(
        out.contains("    skep swarm join --token SWMTKN-1-") && out.contains(" 10.9.0.1:2377\n"),
        "{out}"
    );
    let token = good(&server, "swarm join-token -q manager", &["SWMTKN-1-"]).await;
    good(&server, "swarm join-token manager", &["To add a manager to this swarm", token.trim()]).await;
    good(&server, "swarm leave --force", &["Node left the swarm.\n"]).await;
    let line = format!("swarm join --token {} 10.9.0.1:2377", token.trim());
    good(&server, &line, &["This node joined a swarm as a worker.\n"]).await;
    good(&server, "version", &["Client: skep", "Server: skep", "1.55 (minimum version 1.24)"]).await;
}

#[tokio::test]
async fn lists_look_like_dockers() {
    let server = Running::manager();
    let nodes = good(&server, "node ls", &[]).await;
    assert_eq!(
        nodes,
        "ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION\n\
         dngot7avyoavhhmcbfernjcnf *   alpha      Ready     Active         Leader           0.1.0\n\
         6uuu5g6ln569v558a7i0u1amp     beta       Ready     Active                          0.1.0\n"
    );
    good(&server, "node ls -q --filter role=worker", &["6uuu5g6ln569v558a7i0u1amp\n"]).await;
    good(&server, "node ls --format json", &[r#""Hostname":"alpha""#, r#""Self":true"#]).await;
    bad(
        &server,
        "node ls --format {{.ID}}",
        "--format '{{.ID}}': templates are not supported by skep yet; use table or json",
    )
    .await;
    good(
        &server,
        "image ls",
        &["REPOSITORY    TAG       IMAGE ID", "skep/whoami   latest    abababababab", "4.43MB"],
    )
    .await;
}

#[tokio::test]
async fn a_service_lives_and_dies() {
    let server = Running::manager();
    let out = good(
        &server,
        "service create --name web --replicas 2 -p 8080:80 --update-monitor 1ms skep/whoami",
        &["overall progress: 2 out of 2 tasks\n", "verify: Service ", " converged\n"],
    )
    .await;
    let id = out.lines().next().unwrap();
    bad(
        &server,
        "service create --name web -d skep/whoami",
        "Error response from daemon: name conflicts with an existing object: service web already exists",
    )
    .await;
    let services = good(&server, "service ls", &[]).await;
    assert_eq!(
        services,
        format!(
            "ID             NAME      MODE         REPLICAS   IMAGE                PORTS\n\
             {}   web       replicated   2/2        skep/whoami:latest   *:8080->80/tcp\n",
            &id[..12]
        )
    );
    let tasks = good(
        &server,
        "service ps web",
        &["web.1     skep/whoami:latest   beta      Running         Running"],
    )
    .await;
    assert_eq!(tasks.lines().count(), 3, "{tasks}");
    let json = good(&server, "service ps --format json --no-trunc web", &[r#""Node":"beta""#]).await;
    assert_eq!(json.lines().count(), 2, "{json}");
    good(&server, "service logs --no-task-ids web", &["web.1@beta    | hello\n", "web.2@beta    | hello\n"])
        .await;
    good(&server, "service logs --raw -n 1 --since 1h web", &["hello\nhello\n"]).await;
    bad(&server, "service logs none", "no such task or service: none").await;
    bad(&server, "service ps none", "no such service: none").await;
    good(&server, "service rm web", &["web\n"]).await;
    bad(&server, "service rm web", "Error response from daemon: service web not found").await;
}

#[tokio::test]
async fn an_archive_is_sent_as_it_is_read() {
    let server = Running::manager();
    let file = server.home().join("image.tar");
    std::fs::write(&file, vec![7; 3 << 20]).unwrap();
    let out = good(&server, &format!("image load -i {}", file.display()), &[]).await;
    assert_eq!(out, "Loaded image: loaded:3145728\n");
}

#[tokio::test]
async fn without_a_daemon_it_is_said() {
    let Command::Client(command) = Cli::try_parse_from(["skep", "node", "ls"]).unwrap().command else {
        panic!("a command of the client")
    };
    let error = format!("{:#}", dispatch("unix:///nowhere.sock", command).await.unwrap_err());
    assert!(
        error.starts_with("Cannot connect to the daemon at unix:///nowhere.sock. Is the daemon running?"),
        "{error}"
    );
}

#[test]
fn unknown_flags_are_refused() {
    for line in
        ["skep service create --mode global x", "skep swarm join-token --rotate worker", "skep node ls -z"]
    {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument, "{line}");
    }
}
