//! The swarm's root changes under a running swarm: nobody notices, and who is gone stays out.

use std::{path::Path, time::Duration};

use serde_json::Value;
use skep_e2e::{Cluster, Load, WHOAMI, try_wait_for, wait_for};
use skep_link::{Authority, Identity, Role, new_csr};

use crate::say_version;

const LIMIT: Duration = Duration::from_secs(30);
/// How long nothing may happen, where something wrong would.
const QUIET: Duration = Duration::from_secs(4);
const PORT: u16 = 8082;
const N_TASKS: usize = 6;

/// Three managers and two workers with six replicas of `web` on a published port.
fn five_with_web() -> Cluster {
    say_version();
    let cluster = Cluster::builder(3, 2).example(0).start();
    let publish = format!("{PORT}:80");
    let create = ["service", "create", "--quiet", "--detach", "--name", "web", "--replicas", "6"];
    let _ = cluster.docker(&[&create[..], &["--publish", &publish, WHOAMI]].concat()).ok();
    let _ = cluster.wait_running("web", N_TASKS, LIMIT);
    wait_for("every node answers", LIMIT, || {
        cluster.addresses().iter().all(|a| skep_e2e::get(*a, PORT, "/").is_ok()).then_some(())
    });
    cluster
}

fn token(cluster: &Cluster, role: &str) -> String {
    cluster.docker(&["swarm", "join-token", "-q", role]).ok().trim().to_owned()
}

/// The part of a token that says which root it is for.
fn digest(token: &str) -> String {
    token.rsplit_once('-').map(|(head, _)| head.to_owned()).unwrap_or_default()
}

/// Name, status and TLS status of every node, as `docker node ls` shows them.
fn listed(cluster: &Cluster) -> Vec<(String, String, String)> {
    let format = "{{.Hostname}}/{{.Status}}/{{.TLSStatus}}";
    let list = cluster.docker(&["node", "ls", "--format", format]);
    let read = |line: &str| {
        let mut words = line.split('/').map(|word| word.trim().to_owned());
        Some((words.next()?, words.next()?, words.next()?))
    };
    list.stdout.lines().filter_map(read).collect()
}

/// Waits until all of `n` nodes are there, under the root that they should be under.
#[track_caller]
fn wait_settled(cluster: &Cluster, n: usize) {
    wait_for("all nodes are ready, and under the right root", LIMIT, || {
        let nodes = listed(cluster);
        let is_right = |(_, status, tls): &(String, String, String)| status == "Ready" && tls == "Ready";
        (nodes.len() == n && nodes.iter().all(is_right) && !is_rotating(cluster)).then_some(())
    });
}

fn is_rotating(cluster: &Cluster) -> bool {
    cluster.get("/swarm")["RootRotationInProgress"] == Value::Bool(true)
}

fn log_of(cluster: &Cluster, node: &str) -> String {
    std::fs::read_to_string(cluster.state_dir().join(format!("{node}.log"))).unwrap_or_default()
}

#[test]
fn the_root_of_five_is_rotated_and_no_client_notices() {
    let mut cluster = five_with_web();
    let (old_token, old_root) = (token(&cluster, "worker"), cluster.docker(&["swarm", "ca"]).ok());
    // One is removed by force while it is away: the rotation does not wait for it.
    cluster.kill_node("worker-2", true);
    cluster.wait_node("worker-2", "down", LIMIT);
    let _ = cluster.docker(&["node", "rm", "--force", "worker-2"]).ok();
    let before = wait_for("six tasks run", LIMIT, || {
        let running = cluster.running("web");
        (running.len() == N_TASKS).then_some(running)
    });
    let addresses: Vec<_> =
        cluster.nodes().iter().filter(|node| node.name != "worker-2").map(|node| node.address).collect();
    let load = Load::start(&addresses, PORT);
    wait_for("the client is under way", LIMIT, || (load.n_ok() > 30).then_some(()));

    let said = cluster.docker(&["swarm", "ca", "--rotate"]).ok();
    assert!(said.contains("BEGIN CERTIFICATE"), "{said}");
    wait_settled(&cluster, 4);
    let new_root = cluster.docker(&["swarm", "ca"]).ok();
    assert_ne!(new_root, old_root);
    let n_before = load.n_ok();
    wait_for("the client goes on", LIMIT, || (load.n_ok() > n_before + 100).then_some(()));
    let seen = load.stop();
    assert!(seen.failures.is_empty(), "{} answered, failed: {:#?}", seen.n_ok, seen.failures);
    assert_eq!(cluster.running("web"), before, "no task was replaced");
    for manager in ["manager-1", "manager-2", "manager-3"] {
        let log = log_of(&cluster, manager);
        assert!(!log.contains("heartbeat failure"), "a node counted as lost on {manager}");
    }
    let pretty = cluster.docker(&["node", "inspect", "--pretty", "worker-1"]).ok();
    assert!(pretty.contains(new_root.trim().lines().nth(1).unwrap_or("no root")), "{pretty}");

    // It comes back with a certificate of a root that is gone.
    let _ = cluster.restart_node("worker-2");
    let worker = cluster.node("worker-2").clone();
    wait_for("the removed node says why it is not let in", LIMIT, || {
        let info =
            cluster.docker_on(&worker, &["info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}"]);
        let words = "error the managers do not take this node's certificate: ";
        (info.stdout.starts_with(words) && info.stdout.contains("docker swarm leave")).then_some(())
    });
    assert_eq!(listed(&cluster).len(), 4);
    let _ = cluster.docker_on(&worker, &["swarm", "leave"]).ok();
    let manager = format!("{}:2377", cluster.manager().address);
    let refused = cluster.docker_on(&worker, &["swarm", "join", "--token", &old_token, &manager]).refused();
    assert!(refused.contains("remote CA does not match fingerprint"), "{refused}");
    // A token that is rotated is refused by every manager at once; the other one is as it was.
    let (before, managers_token) = (token(&cluster, "worker"), token(&cluster, "manager"));
    let _ = cluster.docker(&["swarm", "join-token", "--rotate", "-q", "worker"]).ok();
    for name in ["manager-1", "manager-2", "manager-3"] {
        let addr = format!("{}:2377", cluster.node(name).address);
        let refused = cluster.docker_on(&worker, &["swarm", "join", "--token", &before, &addr]).refused();
        assert!(
            refused.contains("A valid join token is necessary to join this cluster"),
            "{name}: {refused}"
        );
    }
    assert_eq!(token(&cluster, "manager"), managers_token);
    let new_token = token(&cluster, "worker");
    assert_eq!(digest(&new_token), digest(&before));
    let _ = cluster.docker_on(&worker, &["swarm", "join", "--token", &new_token, &manager]).ok();
    wait_settled(&cluster, 5);
}

#[test]
fn a_rotation_waits_for_a_node_that_is_away_through_a_change_of_leaders() {
    let mut cluster = five_with_web();
    let (old_token, old_root) = (token(&cluster, "manager"), cluster.docker(&["swarm", "ca"]).ok());
    cluster.kill_node("worker-1", false);
    cluster.wait_node("worker-1", "down", LIMIT);
    let _ = cluster.docker(&["swarm", "ca", "--rotate", "--detach"]).ok();
    let others_followed = |cluster: &Cluster| {
        let nodes = listed(cluster);
        nodes.iter().filter(|(name, ..)| name != "worker-1").all(|(_, _, tls)| tls == "Ready")
            && nodes.iter().any(|(name, _, tls)| name == "worker-1" && tls == "Needs Rotation")
    };
    wait_for("all but one have followed", LIMIT, || others_followed(&cluster).then_some(()));
    // Until the end the old root is the one to trust, and tokens name it.
    assert!(is_rotating(&cluster));
    assert_eq!(
        (token(&cluster, "manager"), cluster.docker(&["swarm", "ca"]).ok()),
        (old_token.clone(), old_root.clone())
    );

    // A join amid the rotation.
    let worker = cluster.node("worker-2").clone();
    let _ = cluster.docker_on(&worker, &["swarm", "leave"]).ok();
    cluster.wait_node("worker-2", "down", LIMIT);
    let _ = cluster.docker(&["node", "rm", "worker-2"]).ok();
    let manager = format!("{}:2377", cluster.node("manager-2").address);
    let worker_token = token(&cluster, "worker");
    let _ = cluster.docker_on(&worker, &["swarm", "join", "--token", &worker_token, &manager]).ok();

    // Another rotation takes the place of this one, then the leader goes.
    let _ = cluster.docker(&["swarm", "ca", "--rotate", "--detach"]).ok();
    wait_for("all but one have followed again", LIMIT, || others_followed(&cluster).then_some(()));
    cluster.kill_node("manager-1", false);
    cluster.speak_to("manager-2");
    wait_for("another manager answers", LIMIT, || cluster.docker(&["node", "ls"]).is_ok().then_some(()));
    assert!(is_rotating(&cluster), "the new leader goes on with it");
    let _ = cluster.restart_node("manager-1");
    let _ = cluster.restart_node("worker-1");
    wait_settled(&cluster, 5);
    let new_root = cluster.docker(&["swarm", "ca"]).ok();
    assert_ne!(new_root, old_root);
    assert_ne!(digest(&token(&cluster, "manager")), digest(&old_token));
    let _ = cluster.wait_running("web", N_TASKS, LIMIT);
}

fn unix_secs() -> i64 {
    let now = std::process::Command::new("date").arg("+%s").output().expect("the time");
    String::from_utf8_lossy(&now.stdout).trim().parse().expect("seconds")
}

fn new_root() -> Authority {
    Authority::generate(unix_secs()).expect("a root")
}

/// The paths of a root's certificate and key.
fn files_of(root: &Authority, dir: &Path) -> (String, String) {
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("a file of the root");
        path.to_str().expect("a plain path").to_owned()
    };
    (file("ca.pem", root.cert_pem()), file("key.pem", root.key_pem()))
}

/// Gives a node whose daemon is down a certificate with so many seconds left of two hours.
fn give_certificate(
    cluster: &Cluster,
    root: &Authority,
    name: &str,
    (node, role, cluster_id): (&str, Role, &str),
    left: i64,
) {
    let (csr, key) = new_csr().expect("a request");
    let brief = Authority::from_pem(root.cert_pem(), root.key_pem()).expect("the root");
    let brief = brief.valid_for(Duration::from_secs(3600));
    let cert =
        brief.sign_node(&csr, node, role, cluster_id, unix_secs() - 3600 + left).expect("a certificate");
    let identity = Identity::new(cert, key, root.cert_pem()).expect("an identity");
    identity.save(&cluster.state_dir().join(name).join("identity")).expect("the identity is written");
}

/// The shortest that a certificate can be: over, or with seconds left. Managers that all slept past the end of
/// theirs come back by themselves; a worker says what to do.
#[test]
fn certificates_that_lapse_or_have_lapsed() {
    const MANAGERS: [&str; 3] = ["manager-1", "manager-2", "manager-3"];
    say_version();
    let mut cluster = Cluster::builder(3, 2).example(0).start();
    let dir = tempfile::tempdir().expect("a directory for the root");
    let root = new_root();
    let (cert, key) = files_of(&root, dir.path());
    let _ = cluster.docker(&["swarm", "ca", "--rotate", "--ca-cert", &cert, "--ca-key", &key]).ok();
    wait_settled(&cluster, 5);
    let cluster_id = cluster.get("/swarm")["ID"].as_str().expect("the swarm's id").to_owned();
    let ids: Vec<(String, String)> =
        cluster.nodes().iter().map(|node| (node.name.clone(), cluster.node_id(&node.name))).collect();
    for (name, _) in &ids {
        cluster.kill_node(name, false);
    }
    for (name, id) in &ids {
        let role = if MANAGERS.contains(&name.as_str()) { Role::Manager } else { Role::Worker };
        // worker-1 has seconds left.
        let left = if name == "worker-1" { 15 } else { -60 };
        give_certificate(&cluster, &root, name, (id, role, &cluster_id), left);
    }
    for (name, _) in &ids {
        let _ = cluster.restart_node(name);
    }
    wait_for("the managers and the worker with seconds left are back", LIMIT, || {
        let nodes = listed(&cluster);
        let is_well = |(name, status, tls): &(String, String, String)| {
            name == "worker-2" || (status == "Ready" && tls == "Ready")
        };
        (nodes.len() == 5 && nodes.iter().all(is_well)).then_some(())
    });
    let worker = cluster.node("worker-2").clone();
    let said = wait_for("the worker says what to do", LIMIT, || {
        let format = "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}";
        let info = cluster.docker_on(&worker, &["info", "--format", format]).stdout;
        info.starts_with("error ").then_some(info)
    });
    assert!(
        said.contains("it expired at 2") && said.contains("\"docker swarm leave\" here, then join"),
        "{said}"
    );
    let _ = cluster.docker_on(&worker, &["swarm", "leave"]).ok();
    let manager = format!("{}:2377", cluster.manager().address);
    let join_token = token(&cluster, "worker");
    let _ = cluster.docker_on(&worker, &["swarm", "join", "--token", &join_token, &manager]).ok();
    // What it was before is found lost.
    let before = ids.iter().find(|(name, _)| name == "worker-2").map(|(_, id)| id.as_str());
    let before = before.expect("it had an id");
    wait_for("what it was is removed", LIMIT, || {
        cluster.docker(&["node", "rm", before]).is_ok().then_some(())
    });
    wait_settled(&cluster, 5);
}

#[test]
fn a_root_of_ones_own_and_the_shortest_life() {
    let cluster = crate::cluster(1);
    let dir = tempfile::tempdir().expect("a directory for the root");
    let (mine, other) = (new_root(), new_root());
    let (cert, key) = files_of(&mine, dir.path());
    let wrong = dir.path().join("wrong.pem");
    std::fs::write(&wrong, other.key_pem()).expect("a file of another root's key");
    let wrong = wrong.to_str().expect("a plain path").to_owned();
    for (flags, expect) in [
        (["--ca-cert", &cert, "--ca-key", &wrong], "certificate key mismatch"),
        (
            ["--ca-cert", &cert, "--external-ca", "protocol=cfssl,url=https://127.0.0.1:1/sign"],
            "there must be at least one valid, reachable external CA corresponding to the desired CA certificate",
        ),
    ] {
        let refused = cluster.docker(&[&["swarm", "ca", "--rotate"], &flags[..]].concat()).refused();
        assert!(refused.contains(expect), "{refused}");
    }
    let refused = cluster.skep(&["swarm", "ca", "--ca-cert", &cert]).refused();
    assert!(refused.contains("`--ca-cert` flag requires the `--rotate` flag"), "{refused}");
    let rotate = ["swarm", "ca", "--rotate", "--ca-cert", &cert, "--ca-key", &key, "--cert-expiry", "1h"];
    let said = cluster.skep(&rotate).ok();
    assert!(said.contains("rotated TLS certificates: 2/2 nodes"), "{said}");
    assert!(said.trim().ends_with(mine.cert_pem().trim()), "{said}");
    wait_settled(&cluster, 2);
    let spec = cluster.get("/swarm")["Spec"]["CAConfig"].clone();
    assert_eq!(spec["NodeCertExpiry"], 3_600_000_000_000_u64, "{spec}");
    assert!(spec.get("SigningCAKey").is_none() && spec.get("SigningCACert").is_none(), "{spec}");
    // Of two hours, the one before it was made among them, half is over: renewed within minutes, and nobody is
    // lost meanwhile.
    let lost = try_wait_for(QUIET, || {
        listed(&cluster).iter().any(|(_, status, tls)| status != "Ready" || tls != "Ready").then_some(())
    });
    assert!(lost.is_none(), "{:?}", listed(&cluster));
    // Our own CLI rotates without a root given, too.
    let said = cluster.skep(&["swarm", "ca", "--rotate", "--quiet"]).ok();
    assert_eq!(said, "");
    assert!(!cluster.skep(&["swarm", "ca"]).ok().contains(mine.cert_pem().trim()));
    wait_settled(&cluster, 2);
}
