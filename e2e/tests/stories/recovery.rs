//! Managers lost for good, or moved: the swarm goes on from what is left, and its tasks run throughout.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use skep_e2e::{Cluster, Node, try_wait_for, wait_for};

use crate::{IDLE, create, say_version};

const LIMIT: Duration = Duration::from_secs(30);
/// How long nothing may happen, where something wrong would: longer than a node may be silent.
const QUIET: Duration = Duration::from_secs(6);
const N_TASKS: usize = 4;

/// `n` managers and two workers, with tasks on the workers alone.
fn with_tasks_on_workers(n_managers: u8) -> Cluster {
    say_version();
    let cluster = Cluster::builder(n_managers, 2).start();
    create(&cluster, "web", &["--replicas", "4", "--constraint", "node.role==worker"], IDLE);
    let _ = cluster.wait_running("web", N_TASKS, LIMIT);
    cluster
}

fn ids(cluster: &Cluster) -> BTreeSet<String> {
    cluster.running("web").into_iter().map(|task| task.id).collect()
}

/// Runs a program in a node's network.
fn inside(node: &Node, args: &[&str]) {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", node.netns.display())).args(args);
    let _ = skep_e2e::run(&mut command, LIMIT).unwrap_or_else(|err| panic!("{err:#}")).ok();
}

/// Gives a node another address of the swarm's network in the place of its own.
fn readdress(node: &Node, last: u8) -> Ipv4Addr {
    let [a, b, c, _] = node.address.octets();
    let new = Ipv4Addr::new(a, b, c, last);
    inside(node, &["ip", "addr", "del", &format!("{}/24", node.address), "dev", "eth0"]);
    inside(node, &["ip", "addr", "add", &format!("{new}/24"), "dev", "eth0"]);
    new
}

/// Host name, status and manager's status of each node, as `docker node ls` shows them.
fn listed(cluster: &Cluster) -> Vec<(String, String, String)> {
    let list = cluster.docker(&["node", "ls", "--format", "{{.Hostname}}/{{.Status}}/{{.ManagerStatus}}"]);
    let read = |line: &str| {
        let mut words = line.split('/').map(|word| word.trim().to_owned());
        Some((words.next()?, words.next()?, words.next()?))
    };
    let mut listed: Vec<_> = list.stdout.lines().filter_map(read).collect();
    listed.sort();
    listed
}

fn state_of(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.state_dir().join(name)
}

fn info(cluster: &Cluster, node: &Node) -> String {
    cluster.docker_on(node, &["info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}"]).stdout
}

#[test]
fn a_manager_that_lost_the_others_goes_on_alone_at_a_new_address() {
    let mut cluster = with_tasks_on_workers(3);
    let before = ids(&cluster);
    let token = cluster.docker(&["swarm", "join-token", "-q", "manager"]).ok().trim().to_owned();
    let worker = cluster.node("worker-1").clone();
    let refused = cluster.docker_on(&worker, &["swarm", "init", "--force-new-cluster"]).refused();
    assert!(refused.contains("This node is not a swarm manager"), "{refused}");
    cluster.kill_node("manager-2", true);
    cluster.kill_node("manager-3", true);
    wait_for("nobody leads", LIMIT, || (!cluster.docker(&["service", "ls"]).is_ok()).then_some(()));
    let preview = cluster.skep(&["swarm", "recover", "--dry-run"]).ok();
    assert!(preview.contains("manager-2") && preview.contains("1 services"), "{preview}");

    // Nobody finds the manager where it was.
    let manager = cluster.manager().clone();
    let new = readdress(&manager, 200);
    let init = ["swarm", "init", "--force-new-cluster", "--advertise-addr", &new.to_string()];
    let said = cluster.docker(&init).ok();
    assert!(said.contains("is now a manager"), "{said}");
    assert!(said.contains(&format!("{new}:2377")), "{said}");
    wait_for("the workers are back", LIMIT, || {
        let nodes = listed(&cluster);
        let is = |name: &str, status: &str, manager: &str| {
            nodes.iter().any(|(n, s, m)| (n.as_str(), s.as_str(), m.as_str()) == (name, status, manager))
        };
        (is("manager-1", "Ready", "Leader")
            && is("manager-2", "Down", "")
            && is("manager-3", "Down", "")
            && is("worker-1", "Ready", "")
            && is("worker-2", "Ready", ""))
        .then_some(())
    });
    let replaced = try_wait_for(QUIET, || (ids(&cluster) != before).then_some(()));
    assert!(replaced.is_none(), "no task was replaced");
    let _ = cluster.docker(&["service", "scale", "--detach", "web=6"]).ok();
    let _ = cluster.wait_running("web", N_TASKS + 2, LIMIT);
    assert!(ids(&cluster).is_superset(&before), "no task was replaced");
    let before = ids(&cluster);
    let tokens = cluster.docker(&["swarm", "join-token", "-q", "manager"]).ok();
    assert_eq!(tokens.trim(), token, "tokens stay");

    // Two of the old managers would be a majority of the old swarm: they hear that they are none any more.
    let _ = cluster.restart_node("manager-2");
    let _ = cluster.restart_node("manager-3");
    for name in ["manager-2", "manager-3"] {
        let node = cluster.node(name).clone();
        let said = wait_for("an old manager says that it is none", LIMIT, || {
            let said = info(&cluster, &node);
            said.starts_with("error the swarm was made anew without this node").then_some(said)
        });
        assert!(said.contains("swarm leave --force"), "{said}");
        assert!(!cluster.docker_on(&node, &["service", "ls"]).is_ok());
        let _ = cluster.docker_on(&node, &["swarm", "leave", "--force"]).ok();
        let join = ["swarm", "join", "--token", &token, &format!("{new}:2377")];
        let _ = cluster.docker_on(&node, &join).ok();
    }
    wait_for("three managers again", LIMIT, || {
        let n = listed(&cluster).iter().filter(|(_, _, manager)| !manager.is_empty()).count();
        (n == 3).then_some(())
    });
    assert_eq!(ids(&cluster), before);
    // What they were is removed as any node that is down.
    for (name, status, _) in listed(&cluster) {
        assert!(status == "Ready" || ["manager-2", "manager-3"].contains(&name.as_str()), "{name} {status}");
    }
}

/// Waits until these are Ready, without a manager's status.
#[track_caller]
fn wait_workers(cluster: &Cluster) {
    wait_for("the workers are back", LIMIT, || {
        let nodes = listed(cluster);
        let is_back = |name: &&(String, String, String)| {
            name.0.starts_with("worker") && name.1 == "Ready" && name.2.is_empty()
        };
        (nodes.iter().filter(is_back).count() == 2).then_some(())
    });
}

#[test]
fn a_manager_is_recovered_while_its_daemon_is_down() {
    let mut cluster = with_tasks_on_workers(3);
    let before = ids(&cluster);
    let managers = ["manager-1", "manager-2", "manager-3"];
    managers.iter().for_each(|name| cluster.kill_node(name, true));
    let dir = |name: &str| state_of(&cluster, name).to_str().expect("a plain path").to_owned();
    let recover = |name: &str, flags: &[&str]| {
        cluster.skep(&[&["swarm", "recover", "--state-dir", &dir(name)], flags].concat())
    };
    for name in managers {
        let preview = recover(name, &[]).ok();
        assert!(preview.contains("Nothing was changed") && preview.contains("1 services"), "{preview}");
        assert!(!preview.contains(&format!(" {name} ")), "it is not dropped itself: {preview}");
    }
    let refused = cluster.skep(&["swarm", "recover", "--state-dir", &dir("worker-1")]).refused();
    assert!(refused.contains("holds no manager's state"), "{refused}");
    let done = recover("manager-2", &["--yes"]).ok();
    assert!(done.contains("goes on alone") && done.contains("Start its daemon now"), "{done}");
    let checked = cluster.skep(&["swarm", "check", &dir("manager-2")]).ok();
    assert!(checked.contains("manager.before"), "{checked}");
    let _ = cluster.restart_node("manager-2").ok();
    cluster.speak_to("manager-2");
    wait_for("it leads", LIMIT, || cluster.docker(&["service", "ls"]).is_ok().then_some(()));
    wait_workers(&cluster);
    wait_for("a worker knows of no other manager", LIMIT, || {
        let member = fs::read_to_string(state_of(&cluster, "worker-1").join("member.json")).ok()?;
        let member: Value = serde_json::from_str(&member).ok()?;
        (member["managers"] == serde_json::json!([format!("{}:2377", cluster.manager().address)]))
            .then_some(())
    });
    let _ = cluster.docker(&["service", "scale", "--detach", "web=6"]).ok();
    let _ = cluster.wait_running("web", N_TASKS + 2, LIMIT);
    assert!(ids(&cluster).is_superset(&before), "no task was replaced");
}

#[test]
fn going_on_alone_takes_over_from_managers_that_are_there() {
    let mut cluster = with_tasks_on_workers(3);
    let before = ids(&cluster);
    // Of a follower, just after a restart, with the others in quorum.
    let _ = cluster.restart_node("manager-2").ok();
    cluster.speak_to("manager-2");
    let manager = cluster.manager().clone();
    wait_for("it is a manager again", LIMIT, || {
        cluster.docker_on(&manager, &["service", "ls"]).is_ok().then_some(())
    });
    for flag in ["--advertise-addr=nosuch0", "--listen-addr=192.0.2.1:2377"] {
        let refused = cluster.docker(&["swarm", "init", "--force-new-cluster", flag]).refused();
        assert!(
            refused.contains("AdvertiseAddr: 'nosuch0'") || refused.contains("cannot listen on"),
            "{refused}"
        );
        assert!(cluster.docker(&["service", "ls"]).is_ok(), "nothing was changed");
    }
    let said = cluster.docker(&["swarm", "init", "--force-new-cluster"]).ok();
    assert!(said.contains("is now a manager"), "{said}");
    for name in ["manager-1", "manager-3"] {
        let node = cluster.node(name).clone();
        let said = wait_for("a dropped manager says that it is none", LIMIT, || {
            let said = info(&cluster, &node);
            said.starts_with("error ").then_some(said)
        });
        assert!(said.contains("the swarm was made anew without this node"), "{said}");
    }
    wait_workers(&cluster);
    let _ = cluster.docker(&["service", "scale", "--detach", "web=6"]).ok();
    let _ = cluster.wait_running("web", N_TASKS + 2, LIMIT);
    assert!(ids(&cluster).is_superset(&before), "no task was replaced");
    // One that was dropped stays out after a restart, and says why.
    let _ = cluster.restart_node("manager-3");
    let node = cluster.node("manager-3").clone();
    wait_for("it still is none", LIMIT, || {
        info(&cluster, &node).contains("the swarm was made anew without this node").then_some(())
    });
}

/// A manager's machine is replaced by one that has nothing.
fn lose_everything(cluster: &mut Cluster, name: &str) {
    cluster.kill_node(name, true);
    let state = state_of(cluster, name);
    for dir in ["identity", "manager", "agent"] {
        fs::remove_dir_all(state.join(dir)).expect("the state goes");
    }
    fs::remove_file(state.join("member.json")).expect("the membership goes");
    let _ = cluster.restart_node(name).ok();
}

fn unlock(cluster: &Cluster, key: &str) {
    let locked = cluster.docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"]).ok();
    assert_eq!(locked.trim(), "locked");
    let answer = cluster.api("POST", "/swarm/unlock", &serde_json::json!({ "UnlockKey": key }));
    assert_eq!(answer.status, 200, "{}", answer.message());
}

#[test]
fn a_locked_swarm_is_recovered_and_restored() {
    let mut cluster = with_tasks_on_workers(3);
    let before = ids(&cluster);
    let _ = cluster.docker(&["swarm", "update", "--autolock=true"]).ok();
    let key = cluster.docker(&["swarm", "unlock-key", "-q"]).ok().trim().to_owned();
    let dir = tempfile::tempdir().expect("a directory for the backup");
    let path = |name: &str| dir.path().join(name).to_str().expect("a plain path").to_owned();
    let (file, key_file) = (path("swarm.backup"), path("key"));
    fs::write(&key_file, format!("{key}\n")).expect("the key is kept");
    let said = cluster.skep(&["swarm", "backup", &file]).ok();
    assert!(said.contains("sealed under the swarm's unlock key"), "{said}");
    let state = state_of(&cluster, "manager-1").to_str().expect("a plain path").to_owned();
    // The managers follow behind the call.
    wait_for("the disk is locked", LIMIT, || {
        let keys = fs::read(format!("{state}/manager/raft/keys")).expect("the key file");
        (keys[12] == 1).then_some(())
    });
    ["manager-1", "manager-2", "manager-3"].iter().for_each(|name| cluster.kill_node(name, true));
    let recover = ["swarm", "recover", "--state-dir", &state];
    let refused = cluster.skep(&recover).refused();
    assert!(refused.contains("--unlock-key-file"), "{refused}");
    let done = cluster.skep(&[&recover[..], &["--unlock-key-file", &key_file, "--yes"]].concat()).ok();
    assert!(done.contains("goes on alone"), "{done}");
    let is_back = |cluster: &Cluster| {
        wait_for("it leads", LIMIT, || cluster.docker(&["service", "ls"]).is_ok().then_some(()));
        wait_workers(cluster);
        assert_eq!(cluster.docker(&["swarm", "unlock-key", "-q"]).ok().trim(), key);
    };
    let _ = cluster.restart_node("manager-1").ok();
    unlock(&cluster, &key);
    is_back(&cluster);
    // Also while it runs.
    let _ = cluster.docker(&["swarm", "init", "--force-new-cluster"]).ok();
    is_back(&cluster);

    lose_everything(&mut cluster, "manager-1");
    let said = cluster.skep(&["swarm", "restore", "--key-file", &key_file, &file]).ok();
    assert!(said.contains("Swarm restored"), "{said}");
    is_back(&cluster);
    let _ = cluster.restart_node("manager-1").ok();
    unlock(&cluster, &key);
    is_back(&cluster);
    assert!(ids(&cluster).is_superset(&before), "no task was replaced");
}

#[test]
fn a_swarm_whose_managers_are_gone_is_restored_from_a_backup() {
    let mut cluster = with_tasks_on_workers(1);
    let before = ids(&cluster);
    let dir = tempfile::tempdir().expect("a directory for the backup");
    let path = |name: &str| dir.path().join(name).to_str().expect("a plain path").to_owned();
    let (file, key) = (path("swarm.backup"), path("key"));
    fs::write(&key, "a passphrase\n").expect("the key is kept");
    let open = path("open.backup");
    for (file, key) in [(&open, None), (&file, Some(&key))] {
        let flags: Vec<&str> = key.into_iter().flat_map(|key| ["--key-file", key]).collect();
        let said = cluster.skep(&[&["swarm", "backup"], &flags[..], &[file]].concat()).ok();
        assert_eq!(said.contains("It is not encrypted"), key.is_none(), "{said}");
        let mode = fs::metadata(file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let said = cluster.skep(&[&["swarm", "backup", "--verify"], &flags[..], &[file]].concat()).ok();
        assert!(said.contains("1 services") && said.contains("can be restored"), "{said}");
    }
    let refused = cluster.skep(&["swarm", "backup", &open]).refused();
    assert!(refused.contains("is there already"), "{refused}");
    let refused = cluster.skep(&["swarm", "restore", "--key-file", &key, &file]).refused();
    assert!(refused.contains("already part of a swarm"), "{refused}");

    lose_everything(&mut cluster, "manager-1");
    let wrong = path("wrong");
    fs::write(&wrong, "another").expect("a wrong key");
    let refused = cluster.skep(&["swarm", "restore", "--key-file", &wrong, &file]).refused();
    assert!(refused.contains("the key is not that of"), "{refused}");
    let refused = cluster.skep(&["swarm", "restore", &file]).refused();
    assert!(refused.contains("--key-file"), "{refused}");
    let said = cluster.skep(&["swarm", "restore", "--key-file", &key, &file]).ok();
    assert!(said.contains("Swarm restored"), "{said}");
    wait_workers(&cluster);
    let replaced = try_wait_for(QUIET, || (ids(&cluster) != before).then_some(()));
    assert!(replaced.is_none(), "no task was replaced");
    let _ = cluster.docker(&["service", "scale", "--detach", "web=5"]).ok();
    let _ = cluster.wait_running("web", N_TASKS + 1, LIMIT);
}

/// Gives a node another address, which its daemon is started with from now on.
fn move_to(cluster: &mut Cluster, name: &str, last: u8) -> Ipv4Addr {
    cluster.kill_node(name, false);
    let node = cluster.node(name).clone();
    let new = readdress(&node, last);
    let record = cluster.state_dir().join("swarm.json");
    let text = fs::read_to_string(&record).expect("the record of the swarm");
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    for entry in value["nodes"].as_array_mut().expect("nodes") {
        if entry["name"] == name {
            entry["address"] = new.to_string().into();
        }
    }
    fs::write(&record, value.to_string()).expect("the record is changed");
    let _ = cluster.restart_node(name).ok();
    new
}

#[test]
fn managers_change_their_addresses_one_by_one() {
    let mut cluster = with_tasks_on_workers(3);
    cluster.kill_node("worker-2", true);
    cluster.wait_node("worker-2", "down", LIMIT);
    // What ran there is not heard of while it is away.
    let wait_tasks = |cluster: &Cluster, n| {
        wait_for("the tasks run", LIMIT, || (ids(cluster).len() == n).then_some(()));
    };
    wait_tasks(&cluster, N_TASKS);
    let before = ids(&cluster);
    for (name, last) in [("manager-1", 201), ("manager-2", 202), ("manager-3", 203)] {
        let new = move_to(&mut cluster, name, last);
        wait_for("the others know its address", LIMIT, || {
            let format = "{{.ManagerStatus.Addr}} {{.ManagerStatus.Reachability}} {{.Status.State}}";
            let node = cluster.docker(&["node", "inspect", "--format", format, name]).stdout;
            (node.trim() == format!("{new}:2377 reachable ready")).then_some(())
        });
    }
    let _ = cluster.docker(&["service", "scale", "--detach", "web=5"]).ok();
    wait_tasks(&cluster, N_TASKS + 1);
    assert!(ids(&cluster).is_superset(&before), "no task was replaced");
    // It knows where no manager is any more: it is called.
    let _ = cluster.restart_node("worker-2").ok();
    cluster.wait_node("worker-2", "ready", LIMIT);
}

#[test]
fn a_damaged_state_directory_is_explained_and_not_touched() {
    say_version();
    let mut cluster = Cluster::start(0);
    let state = state_of(&cluster, "manager-1");
    let refused = cluster.skep(&["swarm", "check", state.to_str().expect("a plain path")]).refused();
    assert!(refused.contains("a daemon runs on"), "{refused}");
    cluster.kill_node("manager-1", false);
    let check = |cluster: &Cluster, dir: &Path| {
        cluster.skep(&["swarm", "check", dir.to_str().expect("a plain path")])
    };
    let said = check(&cluster, &state).ok();
    for words in
        ["reached at", "raft member", "the log as a whole", "manager of swarm", "what the agent remembers"]
    {
        assert!(said.contains(words), "{said}");
    }
    let (segment, bytes) = damage(&state);
    let output = check(&cluster, &state);
    assert!(!output.is_ok(), "{output}");
    assert!(output.stdout.contains("damaged") && output.stdout.contains("at byte"), "{output}");
    assert!(output.stdout.contains("skep swarm restore"), "{output}");
    assert_eq!(fs::read(&segment).expect("the segment"), bytes);
    let refused =
        cluster.skep(&["swarm", "recover", "--state-dir", state.to_str().expect("a path")]).refused();
    assert!(refused.contains("is damaged at byte"), "{refused}");
}

/// Changes a bit of a manager's log.
fn damage(state: &Path) -> (PathBuf, Vec<u8>) {
    let raft = state.join("manager/raft");
    let segments = fs::read_dir(&raft).expect("the log").flatten().map(|entry| entry.path());
    let segment = segments.filter(|path| path.to_string_lossy().ends_with(".seg")).max().expect("a segment");
    let mut bytes = fs::read(&segment).expect("the segment");
    bytes[4100] ^= 1;
    fs::write(&segment, &bytes).expect("damage");
    (segment, bytes)
}

#[test]
fn a_manager_whose_log_is_damaged_comes_in_anew_without_it() {
    say_version();
    let mut cluster = Cluster::builder(3, 0).start();
    create(&cluster, "web", &["--replicas", "3"], IDLE);
    let _ = cluster.wait_running("web", 3, LIMIT);
    let before = ids(&cluster);
    cluster.kill_node("manager-3", false);
    let state = state_of(&cluster, "manager-3");
    let _ = damage(&state);
    let refused = cluster.restart_node("manager-3").refused();
    assert!(refused.contains("is damaged at byte") && refused.contains("skep swarm check"), "{refused}");
    fs::rename(state.join("manager"), state.join("manager.damaged")).expect("it is moved away");
    let _ = cluster.restart_node("manager-3").ok();
    let node = cluster.node("manager-3").clone();
    wait_for("it is a manager again", LIMIT, || {
        cluster.docker_on(&node, &["service", "ls"]).is_ok().then_some(())
    });
    // Its earlier self is no member any more: two of three are a majority.
    wait_for("that one was let go", LIMIT, || {
        let log = |name: &str| fs::read_to_string(state_of(&cluster, &format!("{name}.log"))).ok();
        let is_let_go = |log: String| log.lines().any(|line| line.ends_with(" goes"));
        ["manager-1", "manager-2"].into_iter().filter_map(log).any(is_let_go).then_some(())
    });
    cluster.kill_node("manager-2", false);
    cluster.speak_to("manager-3");
    wait_for("it counts", LIMIT, || {
        cluster.docker(&["service", "update", "--detach", "--label-add", "a=b", "web"]).is_ok().then_some(())
    });
    assert!(ids(&cluster).is_superset(&before), "no task was replaced");
}
