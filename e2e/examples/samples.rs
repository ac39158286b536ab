//! Makes the samples of stored formats that `e2e/tests/formats.rs` reads: `cargo run -p skep-e2e --example samples
//! [NAME]`, as root, with docker's CLI. See `e2e/tests/formats/README.md`.
//!
//! Two real swarms, one of them locked, are stopped with a kill: what lies in a manager's state directory then is
//! packed, with two backups, and beside it what the API said just before.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use skep_e2e::{BUSYBOX, Cluster, try_wait_for, wait_for};

const LIMIT: Duration = Duration::from_secs(30);
const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";
/// Of a manager's state directory, what is of the control plane.
const PARTS: [&str; 4] = ["member.json", "identity", "manager", "agent/agent.redb"];
/// What the sealed backup is sealed under.
const BACKUP_KEY: &str = "a passphrase of the samples\n";

fn main() {
    let open = Cluster::builder(3, 1).start();
    let name = std::env::args().nth(1).unwrap_or_else(|| format!("level-{}", level(&open)));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats");
    let place = |name: &str| {
        let place = dir.join(name);
        assert!(
            !place.with_extension("json").exists(),
            "{name} is there already: samples are never made anew"
        );
        place
    };
    let (plain, locked) = (place(&name), place(&format!("{name}-locked")));
    fill(&open);
    take(open, &plain, &Value::Null);
    let closed = Cluster::builder(1, 0).start();
    let said = closed.docker(&["swarm", "update", "--autolock=true"]).ok();
    let key =
        said.split_ascii_whitespace().find(|word| word.starts_with("SWMKEY-1-")).expect("an unlock key");
    let key = json!(key);
    create(&closed, "web", &["--replicas", "2"], IDLE);
    let _ = closed.wait_running("web", 2, LIMIT);
    let node_key = state(&closed).join("identity/key.pem");
    wait_for("the manager is locked", LIMIT, || {
        fs::read_to_string(&node_key).is_ok_and(|text| text.contains("SEALED")).then_some(())
    });
    take(closed, &locked, &key);
}

fn level(cluster: &Cluster) -> u64 {
    cluster.get("/info")["Swarm"]["FeatureLevel"].as_u64().expect("a level")
}

fn state(cluster: &Cluster) -> PathBuf {
    cluster.state_dir().join("manager-1")
}

fn create(cluster: &Cluster, name: &str, flags: &[&str], script: &str) {
    let head = ["service", "create", "--quiet", "--detach", "--name", name];
    let _ = cluster.docker(&[&head, flags, &[BUSYBOX, "sh", "-c", script]].concat()).ok();
}

/// One of each, an update, a failure, and so many writes that there is a snapshot, and a log after it.
fn fill(cluster: &Cluster) {
    let docker = |args: &[&str]| drop(cluster.docker(args).ok());
    docker(&["swarm", "update", "--snapshot-interval", "40", "--task-history-limit", "3"]);
    docker(&["network", "create", "--driver", "overlay", "--label", "a=b", "back"]);
    docker(&["node", "update", "--label-add", "disk=ssd", "worker-1"]);
    let web = ["--replicas", "3", "--label", "tier=front", "--env", "A=b", "--network", "back"];
    let more = [
        "--publish",
        "8080:80",
        "--limit-memory",
        "32M",
        "--update-delay",
        "1s",
        "--mount",
        "type=tmpfs,target=/t",
    ];
    create(cluster, "web", &[&web[..], &more].concat(), IDLE);
    create(cluster, "near", &["--replicas", "2", "--constraint", "node.labels.disk==ssd"], IDLE);
    create(cluster, "nowhere", &["--constraint", "node.labels.disk==tape"], IDLE);
    create(cluster, "failed", &["--restart-condition", "none"], "exit 3");
    for n in 0..30 {
        docker(&["node", "update", "--label-add", &format!("n={n}"), "worker-1"]);
    }
    docker(&[
        "service",
        "update",
        "--quiet",
        "--detach",
        "--env-add",
        "A=c",
        "--update-parallelism",
        "0",
        "web",
    ]);
    let _ = cluster.wait_running("near", 2, LIMIT);
    wait_for("the update is over", LIMIT, || {
        (cluster.service("web")["UpdateStatus"]["State"] == "completed").then_some(())
    });
    let _ = cluster.wait_running("web", 3, LIMIT);
    wait_for("the failure is known", LIMIT, || {
        cluster.tasks("failed").iter().any(|task| task.state == "failed").then_some(())
    });
    let raft = state(cluster).join("manager/raft");
    wait_for("there is a snapshot", LIMIT, || {
        let files = fs::read_dir(&raft).into_iter().flatten().flatten();
        files
            .map(|file| file.path())
            .any(|path| path.extension().is_some_and(|end| end == "snap"))
            .then_some(())
    });
    create(cluster, "last", &["--replicas", "0"], IDLE);
}

/// What the swarm holds, as its API says.
fn listed(cluster: &Cluster) -> Value {
    let all = |path: &str, pick: &dyn Fn(&Value) -> Value| {
        let list = cluster.get(path);
        // The ingress network is the swarm's own.
        let own = list.as_array().into_iter().flatten().filter(|one| one["Ingress"] != true);
        let mut all: Vec<Value> = own.map(pick).collect();
        all.sort_by_key(|one| one["ID"].as_str().unwrap_or_default().to_owned());
        all
    };
    json!({
        "FeatureLevel": level(cluster),
        "Cluster": cluster.get("/swarm")["ID"],
        "Nodes": all("/nodes", &|node| json!({
            "ID": node["ID"], "Hostname": node["Description"]["Hostname"],
            "Role": node["Spec"]["Role"], "Labels": node["Spec"]["Labels"],
        })),
        "Networks": all("/networks?filters={%22scope%22:[%22swarm%22]}", &|network| json!({
            "ID": network["Id"], "Name": network["Name"], "Subnet": network["IPAM"]["Config"][0]["Subnet"],
        })),
        "Services": all("/services", &|service| json!({
            "ID": service["ID"], "Version": service["Version"]["Index"], "Spec": service["Spec"],
        })),
        "Tasks": all("/tasks", &|task| json!({
            "ID": task["ID"], "ServiceID": task["ServiceID"], "Slot": task["Slot"], "NodeID": task["NodeID"],
            "State": task["Status"]["State"], "DesiredState": task["DesiredState"],
        })),
    })
}

/// Takes the sample, and the swarm down.
fn take(mut cluster: Cluster, place: &Path, unlock: &Value) {
    let backups = tempfile::tempdir().expect("a directory for the backups");
    let at = |name: &str| backups.path().join(name).to_str().expect("a plain path").to_owned();
    let key = at("key");
    fs::write(&key, BACKUP_KEY).expect("the key is kept");
    let mut sample = Value::Null;
    let quiet = try_wait_for(LIMIT, || {
        sample = listed(&cluster);
        for (name, flags) in [("open.backup", &[][..]), ("sealed.backup", &["--key-file", &key])] {
            drop(fs::remove_file(at(name)));
            let _ = cluster.skep(&[&["swarm", "backup"], flags, &[&at(name)]].concat()).ok();
        }
        (listed(&cluster) == sample).then_some(())
    });
    assert!(quiet.is_some(), "the swarm does not come to rest: {sample}");
    cluster.kill_node("manager-1", false);
    sample["UnlockKey"] = unlock.clone();
    sample["BackupKey"] = json!(BACKUP_KEY.trim());
    pack(&state(&cluster), backups.path(), &place.with_extension("tar.zst"));
    let text = serde_json::to_string_pretty(&sample).expect("it is JSON");
    fs::write(place.with_extension("json"), text + "\n").expect("the listing can be written");
}

fn pack(state: &Path, backups: &Path, to: &Path) {
    let mut all = tar::Builder::new(Vec::new());
    for part in PARTS {
        let from = state.join(part);
        if from.is_dir() {
            all.append_dir_all(Path::new("state").join(part), &from).expect("the directory can be read");
        } else {
            all.append_path_with_name(&from, Path::new("state").join(part)).expect("the file can be read");
        }
    }
    for name in ["open.backup", "sealed.backup"] {
        all.append_path_with_name(backups.join(name), name).expect("the backup can be read");
    }
    let bytes = all.into_inner().expect("a vector takes all");
    let packed = zstd::bulk::compress(&bytes, 19).expect("it can be compressed");
    fs::write(to, packed).expect("the sample can be written");
}
