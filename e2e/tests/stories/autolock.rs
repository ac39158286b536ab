//! Autolock: managers that start want the unlock key, the swarm goes on meanwhile, and a stolen disk tells nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use skep_e2e::{Cluster, Output, WHOAMI, wait_for};

use crate::say_version;

const LIMIT: Duration = Duration::from_secs(30);
const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";

/// Who has nothing there is asked.
const NO_FILE: &str = "/nonexistent/skep-unlock-key";

/// Three managers and a worker with four replicas of `web`; managers look for an unlock key in `key_file`.
fn four_with_web(key_file: &str) -> Cluster {
    say_version();
    let builder = Cluster::builder(3, 1).example(0);
    let cluster = builder.daemon_flag("--unlock-key-file").daemon_flag(key_file).start();
    let create = ["service", "create", "--quiet", "--detach", "--name", "web", "--replicas", "4", WHOAMI];
    let _ = cluster.docker(&create).ok();
    let _ = cluster.wait_running("web", 4, LIMIT);
    cluster
}

/// The unlock key in what the CLI printed.
fn key_in(text: &str) -> String {
    let key = text.split_ascii_whitespace().find(|word| word.starts_with("SWMKEY-1-"));
    key.unwrap_or_else(|| panic!("no unlock key in {text}")).to_owned()
}

/// `docker swarm unlock` with this key on stdin.
fn unlock(cluster: &Cluster, name: &str, key: &str) -> Output {
    let docker = cluster.docker_command(cluster.node(name), &["swarm", "unlock"]);
    let mut command = Command::new("sh");
    command.args(["-c", "printf '%s\\n' \"$KEY\" | docker swarm unlock"]).env("KEY", key);
    for (name, value) in docker.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    skep_e2e::run(&mut command, LIMIT).unwrap_or_else(|err| panic!("{err:#}"))
}

/// `skep swarm unlock` with this key on stdin, or typed at the prompt of a terminal; what it said.
fn unlock_by_ours(cluster: &Cluster, name: &str, key: &str, at_terminal: bool) -> String {
    let ours = cluster.skep_command(cluster.node(name), &["swarm", "unlock"]);
    let words = std::iter::once(ours.get_program()).chain(ours.get_args());
    let line: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let mut command = Command::new(if at_terminal { "script" } else { "sh" });
    if at_terminal {
        command.args(["--quiet", "--return", "--command"]).arg(line.join(" ")).arg("/dev/null");
    } else {
        command.arg("-c").arg(line.join(" "));
    }
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = piped.spawn().expect("script and sh are there");
    let mut out = child.stdout.take().expect("it is piped");
    let mut said = Vec::new();
    while at_terminal && !said.ends_with(b"Enter unlock key: ") {
        let mut byte = [0];
        assert_eq!(out.read(&mut byte).expect("it says something"), 1, "{}", String::from_utf8_lossy(&said));
        said.extend(byte);
    }
    writeln!(child.stdin.take().expect("it is piped"), "{key}").expect("it listens");
    out.read_to_end(&mut said).expect("it ends");
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(child.wait().expect("it is our child").success(), "{said}");
    said
}

fn info(cluster: &Cluster, name: &str) -> Value {
    cluster.api_on(cluster.node(name), "GET", "/info", &Value::Null).json()["Swarm"].clone()
}

#[track_caller]
fn wait_state(cluster: &Cluster, name: &str, state: &str) {
    wait_for(&format!("{name} is {state}"), LIMIT, || {
        (info(cluster, name)["LocalNodeState"] == state).then_some(())
    });
}

/// Whether the key file of a node is wrapped, by its own word.
fn is_wrapped(cluster: &Cluster, name: &str) -> bool {
    let file = state(cluster, name).join("manager/raft/keys");
    let bytes = std::fs::read(&file).unwrap_or_else(|err| panic!("{}: {err}", file.display()));
    bytes[12] == 1
}

fn state(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.state_dir().join(name)
}

#[track_caller]
fn wait_wrapped(cluster: &Cluster, names: &[&str], wrapped: bool) {
    for name in names {
        wait_for(&format!("{name} is wrapped: {wrapped}"), LIMIT, || {
            let key =
                std::fs::read_to_string(state(cluster, name).join("identity/key.pem")).unwrap_or_default();
            (is_wrapped(cluster, name) == wrapped && key.contains("SEALED") == wrapped).then_some(())
        });
    }
}

#[track_caller]
fn wait_managers(cluster: &Cluster, n: usize) {
    wait_for("all managers are reachable", LIMIT, || {
        let list = cluster.docker(&["node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}"]);
        let well = list.stdout.lines().filter(|line| *line == "Ready Leader" || *line == "Ready Reachable");
        (well.count() == n).then_some(())
    });
}

fn create(cluster: &Cluster, name: &str) {
    let args = ["service", "create", "--quiet", "--detach", "--replicas", "0", "--name", name, WHOAMI];
    wait_for(&format!("{name} is created"), LIMIT, || cluster.docker(&args).is_ok().then_some(()));
}

const MANAGERS: [&str; 3] = ["manager-1", "manager-2", "manager-3"];

#[test]
fn managers_are_locked_unlocked_rotated_and_let_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let key_file = dir.path().join("key");
    let mut cluster = four_with_web(&key_file.display().to_string());
    assert_eq!(cluster.docker(&["swarm", "unlock-key"]).refused().trim(), "no unlock key is set");
    let said = cluster.docker(&["swarm", "update", "--autolock=true"]).ok();
    assert!(said.starts_with("Swarm updated.\nTo unlock a swarm manager after it restarts"), "{said}");
    let first = key_in(&said);
    assert_eq!(cluster.docker(&["swarm", "unlock-key", "-q"]).ok().trim(), first);
    wait_wrapped(&cluster, &MANAGERS, true);

    // One starts anew: it is locked, its tasks run on, the others write.
    let third = cluster.node("manager-3").clone();
    let containers = cluster.docker_on(&third, &["ps", "-q"]).ok();
    assert_eq!(containers.lines().count(), 1, "a replica is on each node: {containers}");
    let _ = cluster.restart_node("manager-3").ok();
    wait_state(&cluster, "manager-3", "locked");
    assert_eq!(cluster.docker_on(&third, &["ps", "-q"]).ok(), containers, "it runs on");
    assert!(cluster.docker_on(&third, &["node", "ls"]).refused().contains(LOCKED));
    assert!(cluster.docker_on(&third, &["info"]).ok().contains("Swarm: locked"));
    assert!(
        cluster.docker_on(&third, &["swarm", "leave"]).refused().contains("Swarm is encrypted and locked.")
    );
    create(&cluster, "while-locked");
    let wrong =
        unlock(&cluster, "manager-3", "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8").refused();
    assert!(wrong.contains("swarm could not be unlocked: invalid key provided"), "{wrong}");
    assert!(unlock(&cluster, "manager-3", "letmein").refused().contains("invalid key string"));

    // It is rotated meanwhile: the one that was away wants the key that it knew.
    let said = cluster.docker(&["swarm", "unlock-key", "--rotate"]).ok();
    assert!(said.starts_with("Successfully rotated manager unlock key."), "{said}");
    let second = key_in(&said);
    assert_ne!(first, second);
    assert!(unlock(&cluster, "manager-3", &second).refused().contains("invalid key provided"));
    let _ = unlock(&cluster, "manager-3", &first).ok();
    wait_managers(&cluster, 3);
    assert!(unlock(&cluster, "manager-3", &first).refused().contains("swarm is not locked"));
    let _ = cluster.wait_running("web", 4, LIMIT);
    let _ = cluster.docker_on(&third, &["service", "inspect", "while-locked"]).ok();

    // All of them: nothing goes until a majority is unlocked, all with the second key now.
    for name in MANAGERS {
        cluster.kill_node(name, false);
    }
    for name in MANAGERS {
        let _ = cluster.restart_node(name).ok();
        wait_state(&cluster, name, "locked");
        // By docker's CLI, by ours, and by ours at a terminal, which does not show the key.
        match name {
            "manager-1" => drop(unlock(&cluster, name, &second).ok()),
            "manager-2" => assert_eq!(unlock_by_ours(&cluster, name, &second, false), ""),
            _ => assert_eq!(unlock_by_ours(&cluster, name, &second, true).trim(), "Enter unlock key:"),
        }
    }
    wait_managers(&cluster, 3);
    create(&cluster, "after-all");

    // With a key file one starts by itself; with a wrong one it waits for somebody.
    std::fs::write(&key_file, &first).expect("the key file is written");
    let _ = cluster.restart_node("manager-1").ok();
    wait_state(&cluster, "manager-1", "locked");
    std::fs::write(&key_file, format!("{second}\n")).expect("the key file is written");
    let _ = cluster.restart_node("manager-1").ok();
    wait_state(&cluster, "manager-1", "active");
    wait_managers(&cluster, 3);

    // Without autolock they start by themselves.
    let _ = cluster.docker(&["swarm", "update", "--autolock=false"]).ok();
    wait_wrapped(&cluster, &MANAGERS, false);
    let _ = cluster.restart_node("manager-2").ok();
    wait_state(&cluster, "manager-2", "active");
    wait_managers(&cluster, 3);
}

#[test]
fn a_worker_is_never_locked_until_it_is_a_manager() {
    say_version();
    let mut cluster = Cluster::builder(1, 2).example(0).start();
    let manager = cluster.node("manager-1").clone();
    let _ = cluster.docker(&["swarm", "leave", "--force"]).ok();
    let address = manager.address.to_string();
    let said = cluster.docker(&["swarm", "init", "--autolock", "--advertise-addr", &address]).ok();
    let key = key_in(&said);
    assert!(is_wrapped(&cluster, "manager-1"), "from the first moment");
    let token = cluster.docker(&["swarm", "join-token", "-q", "worker"]).ok();
    for name in ["worker-1", "worker-2"] {
        let node = cluster.node(name).clone();
        let _ = cluster.docker_on(&node, &["swarm", "leave", "--force"]).ok();
        let remote = format!("{address}:2377");
        let join = [
            "swarm",
            "join",
            "--token",
            token.trim(),
            "--advertise-addr",
            &node.address.to_string(),
            &remote,
        ];
        let _ = cluster.docker_on(&node, &join).ok();
    }
    let _ = cluster.restart_node("worker-1").ok();
    wait_state(&cluster, "worker-1", "active");
    let id = cluster.node_id("worker-1");
    let _ = cluster.docker(&["node", "promote", &id]).ok();
    let id = cluster.node_id("worker-2");
    let _ = cluster.docker(&["node", "promote", &id]).ok();
    wait_managers(&cluster, 3);
    wait_wrapped(&cluster, &["worker-1", "worker-2"], true);
    let _ = cluster.restart_node("worker-1").ok();
    wait_state(&cluster, "worker-1", "locked");
    let _ = unlock(&cluster, "worker-1", &key).ok();
    wait_managers(&cluster, 3);

    // Demoted, it is a worker as any: nothing of it is sealed.
    let id = cluster.node_id("worker-1");
    let _ = cluster.docker(&["node", "demote", &id]).ok();
    wait_for("its state is gone", LIMIT, || {
        (!state(&cluster, "worker-1").join("manager").exists()).then_some(())
    });
    let _ = cluster.restart_node("worker-1").ok();
    wait_state(&cluster, "worker-1", "active");

    // A locked one leaves by force alone.
    let _ = cluster.restart_node("worker-2").ok();
    wait_state(&cluster, "worker-2", "locked");
    let node = cluster.node("worker-2").clone();
    let _ = cluster.docker_on(&node, &["swarm", "leave", "--force"]).ok();
    assert_eq!(info(&cluster, "worker-2")["LocalNodeState"], "inactive");
    assert!(!state(&cluster, "worker-2").join("manager").exists());
}

/// When a daemon is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// While the change is on its way.
    Asked,
    /// Once the swarm has it.
    Done,
    /// Once its own key file has it: the rest of the disk follows.
    Following,
}

/// Changes the lock of the swarm by `args`, and kills the daemon of manager-3.
fn change_and_kill(cluster: &mut Cluster, args: &[&str], moment: Moment) {
    let file = state(cluster, "manager-3").join("manager/raft/keys");
    let before = std::fs::read(&file).expect("a key file");
    let mut docker = cluster.docker_command(cluster.manager(), args);
    docker.stdout(Stdio::null()).stderr(Stdio::null());
    let mut changing = docker.spawn().expect("docker is there");
    match moment {
        Moment::Asked => cluster.kill_node("manager-3", false),
        Moment::Done | Moment::Following => {}
    }
    assert!(changing.wait().expect("it is our child").success(), "{args:?}");
    if let Moment::Following = moment {
        let is_new = || std::fs::read(&file).is_ok_and(|now| now != before).then_some(());
        wait_for("the key file of manager-3 follows", LIMIT, is_new);
    }
    cluster.kill_node("manager-3", false);
}

#[test]
fn a_kill_during_a_change_leaves_the_old_key_or_the_new_one() {
    say_version();
    let mut cluster = Cluster::builder(3, 0).example(0).start();
    let key_now = |cluster: &Cluster| cluster.docker(&["swarm", "unlock-key", "-q"]).ok().trim().to_owned();
    let _ = cluster.docker(&["swarm", "update", "--autolock"]).ok();
    wait_wrapped(&cluster, &MANAGERS, true);
    let mut key = key_now(&cluster);
    let rotate = ["swarm", "unlock-key", "--rotate"];
    let (off, on) = (["swarm", "update", "--autolock=false"], ["swarm", "update", "--autolock=true"]);
    let moments = [Moment::Asked, Moment::Done, Moment::Following];
    let rounds = moments.into_iter().flat_map(|moment| [&rotate, &off, &on].map(|change| (change, moment)));
    for (round, (change, moment)) in rounds.enumerate() {
        change_and_kill(&mut cluster, change, moment);
        create(&cluster, &format!("after-{round}"));
        let new = if change == &off { String::new() } else { key_now(&cluster) };
        let _ = cluster.restart_node("manager-3").ok();
        // Plain, or under one of the two keys: whatever it had come to.
        let place = info(&cluster, "manager-3")["LocalNodeState"].clone();
        if place == "locked" {
            let by = [&key, &new].into_iter().find(|key| unlock(&cluster, "manager-3", key).is_ok());
            let by = by.unwrap_or_else(|| panic!("round {round}: neither key opens it"));
            eprintln!("{change:?}, {moment:?}: opened by the {} key", if *by == new { "new" } else { "old" });
        } else {
            eprintln!("{change:?}, {moment:?}: it was {place}");
        }
        wait_managers(&cluster, 3);
        wait_wrapped(&cluster, &["manager-3"], change != &off);
        let third = cluster.node("manager-3").clone();
        let _ = cluster.docker_on(&third, &["service", "inspect", &format!("after-{round}")]).ok();
        key = new;
    }
}

/// All files below a directory.
fn files(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&path, found),
            Ok(kind) if kind.is_file() => {
                // What went meanwhile is not there.
                found.extend(std::fs::read(&path).ok().map(|bytes| (path, bytes)));
            }
            Ok(_) | Err(_) => {}
        }
    }
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// What of `needles` is on the disk below `dir`, and where.
fn told(dir: &Path, needles: &[(&str, Vec<u8>)]) -> BTreeSet<String> {
    let mut found = BTreeMap::new();
    files(dir, &mut found);
    let told = |(path, bytes): (&PathBuf, &Vec<u8>)| {
        let told: Vec<String> = needles
            .iter()
            .filter(|(_, needle)| holds(bytes, needle))
            .map(|(what, _)| format!("{what} in {}", path.display()))
            .collect();
        told
    };
    found.iter().flat_map(told).collect()
}

/// Whether a file of the log or a snapshot is sealed under the first data key.
fn needs_the_first_key(dir: &Path) -> bool {
    let mut found = BTreeMap::new();
    files(&dir.join("manager"), &mut found);
    found.values().any(|bytes| {
        let is_ours = bytes.starts_with(b"skep-wal") || bytes.starts_with(b"skepsnap");
        is_ours && bytes[12..16] == 1u32.to_le_bytes()
    })
}

#[test]
fn a_stolen_disk_tells_nothing() {
    let mut cluster = four_with_web(NO_FILE);
    let secret_env = "PASSWORD=correct-horse-battery";
    let args = ["service", "create", "--quiet", "--detach", "--name", "vault", "--replicas", "0", "--env"];
    let _ = cluster.docker(&[&args[..], &[secret_env, WHOAMI]].concat()).ok();
    let dir = state(&cluster, "manager-2");
    let pem = std::fs::read_to_string(dir.join("identity/key.pem")).expect("a plain key");
    let body = pem.lines().nth(1).expect("a line of the key");
    let key_file = std::fs::read(dir.join("manager/raft/keys")).expect("a plain key file");
    let mut needles: Vec<(&str, Vec<u8>)> = vec![
        // Header of 56 bytes, two counts, the first key's number.
        ("the data key of before", key_file[68..100].to_vec()),
        ("the TLS key of before", body.into()),
        ("a private key", b"PRIVATE KEY".to_vec()),
    ];
    assert_eq!(told(&dir, &needles).len(), 3, "a plain disk tells all of it: {:?}", told(&dir, &needles));
    assert!(needs_the_first_key(&dir));

    let _ = cluster.docker(&["swarm", "update", "--autolock"]).ok();
    wait_wrapped(&cluster, &MANAGERS, true);
    wait_for("the log is under a fresh key", LIMIT, || (!needs_the_first_key(&dir)).then_some(()));
    let unlock_key = key_in(&cluster.docker(&["swarm", "unlock-key", "-q"]).ok());
    let tokens = ["worker", "manager"].map(|role| cluster.docker(&["swarm", "join-token", "-q", role]).ok());
    let secret = |token: &String| token.trim().rsplit('-').next().unwrap_or_default().into();
    needles.push(("a service's environment", secret_env.into()));
    needles.push(("the unlock key", unlock_key["SWMKEY-1-".len()..].into()));
    needles.extend(tokens.iter().map(|token| ("a join token", secret(token))));
    // The certificate of before is replaced.
    wait_for("nothing of it is on the disk", LIMIT, || {
        let told = told(&dir, &needles);
        told.is_empty().then_some(()).ok_or(told).inspect_err(|told| eprintln!("{told:?}")).ok()
    });
    let _ = cluster.restart_node("manager-2").ok();
    wait_state(&cluster, "manager-2", "locked");
    assert_eq!(told(&dir, &needles), BTreeSet::new());
    for name in MANAGERS {
        let log = std::fs::read(cluster.state_dir().join(format!("{name}.log"))).unwrap_or_default();
        for (what, needle) in &needles {
            assert!(!holds(&log, needle), "{what} in the log of {name}");
        }
    }
}
