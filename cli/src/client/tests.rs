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
async fn a_service_is_changed() {
    let server = Running::manager();
    let fast = "--update-monitor 1ms --rollback-monitor 1ms";
    good(&server, &format!("service create -d --name web --replicas 2 -e A=1 {fast} skep/whoami"), &[]).await;
    let out =
        good(&server, "service update --env-add B=2 --limit-memory 64m --image skep/other web", &[]).await;
    assert!(out.starts_with("web\n") && out.ends_with("verify: Service web converged\n"), "{out}");
    let json = good(&server, "service inspect web", &[r#""Image": "skep/other:latest""#]).await;
    let services: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        services[0]["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"],
        serde_json::json!(["A=1", "B=2"])
    );
    good(
        &server,
        "service inspect --pretty web",
        &[
            "\nID:\t\t",
            "\nName:\t\tweb\nService Mode:\tReplicated\n Replicas:\t2\n",
            "UpdateConfig:\n Parallelism:\t1\n On failure:\tpause\n Monitoring Period: 1ms\n",
            " Image:\t\tskep/other:latest\n Env:\t\tA=1 B=2\n",
            " Limits:\n  Memory:\t64MiB\nEndpoint Mode:\tvip\n",
        ],
    )
    .await;
    let out = good(&server, "service rollback web", &["web\n", "verify: Service web converged"]).await;
    assert!(!out.contains("rolled back"), "{out}");
    good(&server, "service inspect web", &[r#""Image": "skep/whoami:latest""#]).await;
    good(&server, "service scale web=3", &["web scaled to 3\n", "overall progress: 3 out of 3 tasks\n"])
        .await;
    bad(&server, "service scale -d web=x", "web: invalid replicas value x").await;
    bad(&server, "service scale web", "invalid scale specifier 'web': SERVICE=REPLICAS expected").await;
    bad(&server, "service update --rollback --force web", "other flags may not be combined with --rollback")
        .await;
    bad(&server, "service inspect none", "no such service: none").await;
    bad(&server, "service update --force none", "Error response from daemon: service none not found").await;
}

#[tokio::test]
async fn an_update_is_paused_resumed_and_given_up() {
    let server = Running::manager();
    good(&server, "service create -d --name web --rollback-monitor 1ms skep/whoami", &[]).await;
    for image in ["skep/a", "skep/b"] {
        good(&server, &format!("service update -d --image {image} web"), &[]).await;
    }
    good(
        &server,
        "service history web",
        &["NUMBER    IMAGE", "1         skep/a:latest", "2         skep/whoami:latest"],
    )
    .await;
    good(&server, "service history --format json web", &[r#""Number":2"#, r#""Name":"web""#]).await;
    good(&server, "service pause web", &["web\n"]).await;
    good(&server, "service inspect web", &[r#""Message": "Pause""#]).await;
    good(&server, "service resume web", &["web\n"]).await;
    good(&server, "service abort web", &["web\n"]).await;
    good(&server, "service rollback -d --to 2 web", &["web\n"]).await;
    good(&server, "service inspect web", &[r#""Message": "BackTo(2)""#]).await;
    bad(&server, "service rollback --to 0 web", "invalid value 0 for --to: past specs are numbered from 1")
        .await;
    bad(&server, "service pause none", "Error response from daemon: service none not found").await;
}

#[tokio::test]
async fn tokens_that_end_are_made_and_taken_back() {
    let server = Running::manager();
    let line = "swarm join-token create --role manager --ttl 10m --uses 3 --label zone=a";
    let told =
        ["To add a manager to this swarm", "swarm join --token SWMTKN-T1-", "lets 3 nodes in within 10m0s"];
    good(&server, line, &told).await;
    let token = good(&server, "swarm join-token create -q --uses 0 --ttl 0s", &["SWMTKN-T1-"]).await;
    assert_eq!(token.lines().count(), 1);
    good(&server, "swarm join-token ls", &["ID", "USES LEFT"]).await;
    bad(&server, "swarm join-token revoke none", "Error response from daemon: join token none not found")
        .await;
}

#[tokio::test]
async fn runs_of_a_job_are_listed() {
    let server = Running::manager();
    let line = "service create --name job --mode replicated-job --label skep.cron=@daily skep/whoami";
    good(&server, line, &["the job runs at its times: skep service runs "]).await;
    good(&server, "service runs job", &["ITERATION", "STARTED", "next run: "]).await;
    good(&server, "service create -d --name web skep/whoami", &[]).await;
    let none = "Error response from daemon: service web has no schedule: its label skep.cron gives it one";
    bad(&server, "service runs web", none).await;
}

#[tokio::test]
async fn tasks_are_moved_by_hand() {
    let server = Running::manager();
    good(&server, "service create -d --name web skep/whoami", &[]).await;
    let even = "nothing to move: the nodes are as even as they can be\n";
    good(&server, "service rebalance --dry-run web", &[even]).await;
    good(&server, "service rebalance web", &[even]).await;
    bad(&server, "service rebalance none", "Error response from daemon: service none not found").await;
}

#[tokio::test]
async fn nodes_are_changed() {
    let server = Running::manager();
    good(&server, "service create -d --name web --replicas 2 skep/whoami", &[]).await;
    good(&server, "node update --label-add zone=a --availability pause beta", &["beta\n"]).await;
    good(&server, "node inspect beta", &[r#""Availability": "pause""#, r#""zone": "a""#]).await;
    bad(&server, "node update --label-rm none beta", "key none doesn't exist in node's labels").await;
    good(&server, "node update --label-rm zone --availability active beta", &[]).await;
    good(&server, "node inspect --pretty self", &["Hostname:              \talpha\n", " Leader:\t\tYes\n"])
        .await;
    let out = good(&server, "node ps beta", &["web.1", "web.2"]).await;
    assert_eq!(out.lines().count(), 3, "{out}");
    assert_eq!(good(&server, "node ps", &["NAME"]).await.lines().count(), 1, "none on the one that answers");
    bad(&server, "node ps none", "Error response from daemon: node none not found").await;
    good(&server, "node promote beta", &["Node beta promoted to a manager in the swarm.\n"]).await;
    good(&server, "node promote beta", &[" is already a manager.\n"]).await;
    good(&server, "info", &[" Is Manager: true\n", " Managers: 2\n", " Heartbeat Period: 1s\n"]).await;
    good(&server, "node demote beta", &["Manager beta demoted in the swarm.\n"]).await;
    bad(
        &server,
        "node demote alpha",
        "Error response from daemon: rpc error: code = FailedPrecondition desc = attempting to demote the last \
         manager of the swarm",
    )
    .await;
}

#[tokio::test]
async fn a_daemon_is_stopped() {
    let server = Running::manager();
    let host = format!("unix://{}", server.socket().display());
    super::daemon::stop(&host, true).await.unwrap();
    let gone = super::daemon::stop(&host, false).await.unwrap_err();
    assert!(gone.to_string().contains("Is the daemon running?"), "{gone:#}");
}

#[tokio::test]
async fn a_node_is_retired() {
    let server = Running::manager();
    good(&server, "service create -d --name web --replicas 2 skep/whoami", &[]).await;
    bad(
        &server,
        "node retire alpha",
        "alpha is the node that answers: it cannot remove itself; ask another manager (-H)",
    )
    .await;
    good(&server, "node promote beta", &[]).await;
    let steps = "demote beta to a worker\ndrain beta: its tasks move\nwait until its tasks run elsewhere\n\
        remove beta from the swarm\n";
    let dry =
        good(&server, "node retire --dry-run beta", &["1. demote beta to a worker\n2. drain beta"]).await;
    assert_eq!(dry.lines().count(), 4, "{dry}");
    good(&server, "node inspect beta", &[r#""Role": "manager""#, r#""Availability": "active""#]).await;
    good(&server, "node retire beta", &[steps, "beta is retired."]).await;
    bad(&server, "node inspect beta", "Error response from daemon: node beta not found").await;
    let tasks = good(&server, "service ps --filter desired-state=running web", &[]).await;
    assert_eq!(tasks.matches(" alpha ").count(), 2, "{tasks}");
}

#[tokio::test]
async fn settings_and_tokens_are_changed() {
    let server = Running::manager();
    let old = good(&server, "swarm join-token -q manager", &[]).await;
    let line = "swarm join-token --rotate manager";
    let out = good(&server, line, &["Successfully rotated manager join token.\n\nTo add a manager"]).await;
    assert!(!out.contains(old.trim()), "{out}");
    good(
        &server,
        "swarm update --task-history-limit 0 --cert-expiry 48h --dispatcher-heartbeat 2s",
        &["Swarm updated.\n"],
    )
    .await;
    let out = good(&server, "swarm inspect", &[r#""TaskHistoryRetentionLimit": 0"#, "172800000000000"]).await;
    assert!(out.contains(r#""HeartbeatPeriod": 2000000000"#) && !out.contains("SWMTKN"), "{out}");
}

#[tokio::test]
async fn the_unlock_key_is_shown_where_there_is_one() {
    let server = Running::manager();
    bad(&server, "swarm unlock-key", "no unlock key is set").await;
    bad(&server, "swarm unlock-key --rotate", "cannot rotate because autolock is not turned on").await;
    bad(&server, "swarm unlock", "Error: swarm is not locked").await;
    let key = "\n\n    SWMKEY-1-BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc\n\nRemember";
    good(&server, "swarm update --autolock", &["Swarm updated.\nTo unlock a swarm manager", key]).await;
    let out = good(&server, "swarm update --autolock", &["Swarm updated.\n"]).await;
    assert!(!out.contains("SWMKEY"), "{out}");
    good(&server, "swarm unlock-key", &["To unlock a swarm manager after it restarts", key]).await;
    let rotated = "Successfully rotated manager unlock key.\n\nTo unlock";
    good(&server, "swarm unlock-key --rotate", &[rotated, key]).await;
    let out = good(&server, "swarm unlock-key -q", &[]).await;
    assert_eq!(out.trim(), key.trim().trim_end_matches("Remember").trim());
    bad(&Running::start(SwarmState::Inactive), "swarm unlock", "Error: This node is not part of a swarm")
        .await;
}

#[tokio::test]
async fn images_are_taken_in_and_removed() {
    let server = Running::manager();
    let file = server.home().join("rootfs.tar");
    std::fs::write(&file, vec![7; 1 << 20]).unwrap();
    good(&server, &format!("image import {} base:1", file.display()), &["base:1"]).await;
    good(&server, "image rm skep/whoami:latest", &["Untagged: skep/whoami:latest\n", "Deleted: sha256:abab"])
        .await;
    bad(&server, "image rm none", "Error response from daemon: No such image: none").await;
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
    for line in ["skep service create --modes global x", "skep swarm update --unlock", "skep node ls -z"] {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument, "{line}");
    }
}
