//! One story by our own CLI: the docker CLI's words, columns and exit codes.

use skep_e2e::{BUSYBOX, wait_for};

use crate::{SOON, cluster};

#[test]
fn our_cli_creates_lists_shows_and_removes() {
    let cluster = cluster(1);
    let script = "trap 'exit 0' TERM; echo hello; while :; do sleep 1000 & wait $!; done";
    let head = ["service", "create", "--detach", "--name", "web", "--replicas", "2"];
    let id = cluster.skep(&[&head[..], &[BUSYBOX, "sh", "-c", script]].concat()).ok();
    assert_eq!(id.trim().len(), 25, "{id}");
    let _ = cluster.wait_running("web", 2, SOON);
    for args in [&["node", "ls"][..], &["service", "ls"], &["service", "ps", "web"]] {
        let columns = |text: String| {
            text.lines()
                .next()
                .unwrap_or_default()
                .split("  ")
                .filter(|w| !w.is_empty())
                .map(|w| w.trim().to_owned())
                .collect::<Vec<_>>()
        };
        let (ours, dockers) = (columns(cluster.skep(args).ok()), columns(cluster.docker(args).ok()));
        assert_eq!(ours, dockers, "the columns of {args:?}");
    }
    let list = cluster.skep(&["service", "ls"]).ok();
    assert!(list.lines().any(|l| l.contains("web") && l.contains("2/2")), "{list}");
    wait_for("the logs of both tasks", SOON, || {
        let logs = cluster.skep(&["service", "logs", "web"]).ok();
        (logs.matches("hello").count() == 2).then_some(())
    });
    let images = cluster.skep(&["image", "ls"]).ok();
    assert!(images.contains("skep/busybox"), "{images}");
    let version = cluster.skep(&["version"]).ok();
    assert!(version.contains("Client") && version.contains("Server"), "{version}");
    let token = cluster.skep(&["swarm", "join-token", "-q", "worker"]).ok();
    assert!(token.starts_with("SWMTKN-1-"), "a join token");

    let refused = cluster.skep(&["service", "create", "--no-such-flag", BUSYBOX]).refused();
    assert!(refused.contains("--no-such-flag"), "{refused}");
    let duplicate = cluster.skep(&["service", "create", "--detach", "--name", "web", BUSYBOX]).refused();
    assert!(duplicate.contains("service web already exists"), "{duplicate}");
    let _ = cluster.skep(&["service", "rm", "web"]).ok();
    let list = cluster.skep(&["service", "ls", "-q"]);
    assert!(!list.ok().contains(id.trim()));
    let gone = cluster.skep(&["service", "ps", "web"]).refused();
    assert!(gone.contains("web"), "{gone}");
}
