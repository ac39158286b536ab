//! A manager whose disk is full: it stops being one, everything else goes on, and it comes back by itself
//! with all that it missed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use skep_e2e::{Cluster, wait_for};

use crate::say_version;

/// The longest that anything may take here.
const LIMIT: Duration = Duration::from_secs(30);
/// More than a segment of the log holds, in pieces that the API takes.
const N_LARGE: usize = 24;
const LARGE_BYTES: usize = 512 * 1024;

/// How often the lead may go to another one than the one that is to have it.
const LEADERS_MAX: usize = 10;

/// Puts a small file system of its own under a manager's state, as an operator may have done.
fn make_small(cluster: &mut Cluster, name: &str) {
    cluster.kill_node(name, false);
    let state = cluster.state_dir().join(name).join("manager");
    let mounts = cluster.node(name).socket_path().with_extension("mnt");
    let script = "set -e; cp -a \"$1\" \"$1.kept\"; mount -t tmpfs -o size=192m,mode=0700 small \"$1\"; \
                  cp -a \"$1.kept/.\" \"$1\"; rm -r \"$1.kept\"";
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount={}", mounts.display())).args(["sh", "-c", script, "sh"]).arg(&state);
    let output = skep_e2e::run(&mut command, LIMIT).unwrap_or_else(|err| panic!("{err:#}"));
    let _ = output.ok();
    let _ = cluster.restart_node(name).ok();
}

/// The file that takes all of that room, as the node's daemon sees it.
fn filler(cluster: &Cluster, name: &str) -> PathBuf {
    let pid = cluster.node(name).pid.expect("its daemon runs");
    let state = cluster.state_dir().join(name).join("manager");
    Path::new(&format!("/proc/{pid}/root"))
        .join(state.strip_prefix("/").expect("it is absolute"))
        .join("filler")
}

fn fill(cluster: &Cluster, name: &str) -> PathBuf {
    let path = filler(cluster, name);
    // In small pieces at the end: nothing is left.
    let mut file = fs::File::create(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    let zeros = [0; 4096];
    let error = loop {
        if let Err(error) = std::io::Write::write_all(&mut file, &zeros) {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    path
}

fn write(cluster: &Cluster, name: &str, bytes: usize) {
    let spec = json!({
        "Name": name,
        "Labels": {"filling": "x".repeat(bytes)},
        "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}},
        "Mode": {"Replicated": {"Replicas": 0}},
    });
    wait_for(&format!("{name} is written"), LIMIT, || {
        let answer = cluster.api("POST", "/services/create", &spec);
        // One whose answer was lost may be there already.
        (answer.status == 201 || answer.status == 409).then_some(())
    });
}

/// The manager status of a node as another one shows it.
fn standing(cluster: &Cluster, name: &str) -> String {
    let list = cluster.docker(&["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]);
    let line = list.stdout.lines().find_map(|line| line.strip_prefix(&format!("{name} ")).map(str::to_owned));
    line.unwrap_or_default()
}

/// Fills the disk of the manager `name`, while `front` is asked.
fn a_full_disk_is_waited_out(cluster: &mut Cluster, name: &str, front: &str, what: &str) {
    cluster.speak_to(front);
    wait_for("it is a manager again", LIMIT, || {
        ["Reachable", "Leader"].contains(&standing(cluster, name).as_str()).then_some(())
    });
    let file = fill(cluster, name);
    (0..N_LARGE).for_each(|i| write(cluster, &format!("{what}-{i}"), LARGE_BYTES));
    wait_for("it shows as unreachable", LIMIT, || (standing(cluster, name) == "Unreachable").then_some(()));
    write(cluster, &format!("{what}-meanwhile"), 10);
    let answer = cluster.api_on(cluster.node(name), "GET", "/services", &Value::Null);
    assert_eq!(answer.status, 503, "{}", answer.message());
    assert!(answer.message().starts_with("this manager's disk is full: "), "{}", answer.message());
    let ready = cluster.docker(&["node", "ls", "--format", "{{.Hostname}} {{.Status}}"]).ok();
    assert!(ready.contains(&format!("{name} Ready")), "its agent goes on: {ready}");

    fs::remove_file(&file).unwrap_or_else(|err| panic!("{}: {err}", file.display()));
    wait_for("it is back by itself", LIMIT, || (standing(cluster, name) == "Reachable").then_some(()));
    cluster.speak_to(name);
    let names = (0..N_LARGE).map(|i| format!("{what}-{i}")).chain([format!("{what}-meanwhile")]);
    for service in names {
        let answer = cluster.api("GET", &format!("/services/{service}"), &Value::Null);
        assert_eq!(answer.status, 200, "{service} is there: {}", answer.message());
    }
}

#[test]
fn a_follower_and_a_leader_wait_for_room_and_come_back_with_everything() {
    say_version();
    let mut cluster = Cluster::builder(3, 0).example(0).start();
    make_small(&mut cluster, "manager-2");
    let leader = |cluster: &Cluster| {
        wait_for("the swarm shows a leader", LIMIT, || {
            ["manager-1", "manager-2", "manager-3"]
                .into_iter()
                .find(|name| standing(cluster, name) == "Leader")
        })
    };
    let first = leader(&cluster);
    let front = if first == "manager-2" { "manager-3" } else { first };
    a_full_disk_is_waited_out(&mut cluster, "manager-2", front, "follower");
    // The same for the leader: the lead is taken from others until it has it.
    for _ in 0..LEADERS_MAX {
        let leading = leader(&cluster);
        if leading == "manager-2" {
            break;
        }
        let front = if leading == "manager-3" { "manager-1" } else { "manager-3" };
        cluster.speak_to(front);
        cluster.kill_node(leading, false);
        wait_for("another one leads", LIMIT, || {
            let list = cluster.docker(&["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]);
            list.stdout.lines().any(|l| l.ends_with(" Leader") && !l.starts_with(leading)).then_some(())
        });
        let _ = cluster.restart_node(leading).ok();
        wait_for("it is back", LIMIT, || (standing(&cluster, leading) == "Reachable").then_some(()));
    }
    cluster.speak_to("manager-1");
    assert_eq!(leader(&cluster), "manager-2");
    a_full_disk_is_waited_out(&mut cluster, "manager-2", "manager-1", "leader");
}
