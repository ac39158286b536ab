//! Bad input: a clear error, the right code, nothing changed.

use serde_json::{Value, json};
use skep_e2e::{BUSYBOX, WHOAMI};

use crate::{IDLE, SOON, cluster, cluster_with_example, create};

#[test]
fn a_bad_service_is_refused_and_nothing_is_made() {
    let cluster = cluster_with_example(0);
    let head = ["service", "create", "--detach"];
    for (flags, words) in [
        (&["--no-such-flag", BUSYBOX][..], "unknown flag: --no-such-flag"),
        (&["--name", "web", "--constraint", "node.colour=blue", BUSYBOX], "node.colour"),
        (&["--name", "web", "--constraint", "nonsense", BUSYBOX], "constraint"),
        (
            &["--name", "whoami", BUSYBOX],
            "name conflicts with an existing object: service whoami already exists",
        ),
        (&["--name", "not a name", BUSYBOX], "name must be valid as a DNS name component"),
        (&["--name", "web", "--limit-memory", "1", BUSYBOX], "emory"),
        (&["--name", "web", "-p", "8082:80", "-p", "8082:81", BUSYBOX], "8082"),
        (&["--name", "web", "--network", "nosuch", BUSYBOX], "nosuch"),
        (&["--name", "web", "--secret", "nosuch", BUSYBOX], "nosuch"),
    ] {
        let text = cluster.docker(&[&head, flags].concat()).refused();
        assert!(text.contains(words), "{flags:?}: {text}");
    }
    let list = cluster.docker(&["service", "ls", "--format", "{{.Name}}"]).ok();
    assert_eq!(list.trim(), "whoami");
}

#[test]
fn a_bad_request_has_dockers_status_and_words() {
    let cluster = cluster_with_example(0);
    let service = cluster.service("whoami");
    let id = service["ID"].as_str().unwrap();
    let version = service["Version"]["Index"].as_u64().unwrap();
    let post = |path: &str, body: &Value| {
        let answer = cluster.api("POST", path, body);
        (answer.status, answer.message())
    };
    let (status, message) = post(&format!("/services/{id}/update?version={}", version - 1), &service["Spec"]);
    assert_eq!((status, message.as_str()), (500, "rpc error: code = Unknown desc = update out of sequence"));
    let (status, message) = post(&format!("/services/{id}/update"), &service["Spec"]);
    assert_eq!(status, 400, "{message}");
    let mut renamed = service["Spec"].clone();
    renamed["Name"] = json!("other");
    let (status, message) = post(&format!("/services/{id}/update?version={version}"), &renamed);
    assert_eq!(status, 501, "{message}");
    let (status, message) = post("/services/create", &service["Spec"]);
    assert_eq!(status, 409, "{message}");
    let answer = cluster.api("GET", "/services/nosuch", &Value::Null);
    assert_eq!((answer.status, answer.message().as_str()), (404, "service nosuch not found"));
    let answer = cluster.api("GET", "/nodes/nosuch", &Value::Null);
    assert_eq!((answer.status, answer.message().as_str()), (404, "node nosuch not found"));
    let answer = cluster.api("GET", "/no/such/path", &Value::Null);
    assert_eq!((answer.status, answer.message().as_str()), (404, "page not found"));
    let answer = cluster.api("GET", "/tasks?filters=%7B%22x%22%3A%5B%22y%22%5D%7D", &Value::Null);
    assert_eq!(answer.status, 400, "{}", answer.message());
    assert!(answer.message().contains("invalid filter 'x'"), "{}", answer.message());
    assert_eq!(cluster.service("whoami")["Version"]["Index"], version, "nothing changed");
}

#[test]
fn unknown_keys_are_kept_and_unhonoured_fields_are_refused_by_name() {
    let cluster = cluster(0);
    let spec = json!({
        "Name": "kept",
        "Colour": "green",
        "TaskTemplate": {"ContainerSpec": {"Image": BUSYBOX, "Command": ["sh", "-c", IDLE], "Taste": {"Sweet": 1}}},
        "Mode": {"Replicated": {"Replicas": 1}},
    });
    let answer = cluster.api("POST", "/services/create", &spec);
    assert_eq!(answer.status, 201, "{}", answer.message());
    let kept = cluster.service("kept")["Spec"].clone();
    assert_eq!(kept["Colour"], "green", "{kept}");
    assert_eq!(kept["TaskTemplate"]["ContainerSpec"]["Taste"]["Sweet"], 1, "{kept}");

    let mut terminal = spec.clone();
    terminal["Name"] = json!("terminal");
    terminal["TaskTemplate"]["ContainerSpec"]["TTY"] = json!(true);
    let answer = cluster.api("POST", "/services/create", &terminal);
    assert!(answer.status >= 400 && answer.message().contains("TTY"), "{}", answer.message());
}

#[test]
fn unknown_nodes_and_services_are_named() {
    let cluster = cluster(0);
    for (args, words) in [
        (&["node", "inspect", "nosuch"][..], "nosuch"),
        (&["node", "update", "--availability", "drain", "nosuch"], "nosuch"),
        (&["service", "inspect", "nosuch"], "no such service: nosuch"),
        (&["service", "rm", "nosuch"], "nosuch"),
        (&["service", "scale", "nosuch=2"], "nosuch"),
        (&["service", "update", "nosuch"], "nosuch"),
        (&["service", "rollback", "nosuch"], "nosuch"),
    ] {
        let text = cluster.docker(args).refused();
        assert!(text.contains(words), "{args:?}: {text}");
    }
    create(&cluster, "web", &[], IDLE);
    let text = cluster.docker(&["service", "rollback", "web"]).refused();
    assert!(text.contains("does not have a previous spec"), "{text}");
}

#[test]
fn a_join_with_a_bad_token_or_manager_is_refused_and_a_good_one_works() {
    let cluster = cluster(1);
    let worker = cluster.node("worker-1");
    let manager = format!("{}:2377", cluster.manager().address);
    let address = worker.address.to_string();
    let token = cluster.docker(&["swarm", "join-token", "-q", "worker"]).ok().trim().to_owned();
    let again = cluster.docker_on(worker, &["swarm", "join", "--token", &token, &manager]).refused();
    assert!(again.contains("This node is already part of a swarm"), "{again}");
    let _ = cluster.docker_on(worker, &["swarm", "leave"]).ok();
    cluster.wait_node("worker-1", "down", SOON);

    let parts: Vec<&str> = token.split('-').collect();
    let wrong_secret = format!("{}-{}-{}-{}", parts[0], parts[1], parts[2], "a".repeat(25));
    let wrong_digest = format!("{}-{}-{}-{}", parts[0], parts[1], "1".repeat(50), parts[3]);
    let unreachable = format!("{}:2399", cluster.manager().address);
    for (token, remote, words) in [
        (wrong_secret.as_str(), manager.as_str(), "token"),
        (wrong_digest.as_str(), manager.as_str(), "CA"),
        ("SWMTKN-nonsense", manager.as_str(), "token"),
        (token.as_str(), unreachable.as_str(), "2399"),
    ] {
        let args = ["swarm", "join", "--advertise-addr", &address, "--token", token, remote];
        let text = cluster.docker_on(worker, &args).refused();
        assert!(text.contains(words), "{token} {remote}: {text}");
        assert!(!text.contains(parts[3]), "no secret is printed: {text}");
        let info = cluster.docker_on(worker, &["info", "--format", "{{.Swarm.LocalNodeState}}"]).ok();
        assert_eq!(info.trim(), "inactive");
    }
    let args = ["swarm", "join", "--advertise-addr", &address, "--token", &token, &manager];
    let text = cluster.docker_on(worker, &args).ok();
    assert!(text.contains("This node joined a swarm as a worker."), "{text}");
    skep_e2e::wait_for("it is listed again, as a new node", SOON, || {
        let list = cluster.docker(&["node", "ls", "--format", "{{.Hostname}} {{.Status}}"]).ok();
        list.lines().any(|l| l == "worker-1 Ready").then_some(())
    });
}

#[test]
fn a_damaged_state_directory_stops_the_daemon_with_the_files_name() {
    let mut cluster = cluster_with_example(0);
    let _ = cluster.wait_running("whoami", 3, SOON);
    cluster.kill_node("manager-1", false);
    let log = find_log(&cluster.state_dir().join("manager-1/manager")).expect("a write-ahead log");
    let mut bytes = std::fs::read(&log).unwrap();
    // The middle of what was written: valid batches follow it.
    let end = bytes.iter().rposition(|b| *b != 0).unwrap();
    let good = bytes.clone();
    bytes[end / 2] ^= 0xff;
    std::fs::write(&log, &bytes).unwrap();
    let output = cluster.restart_node("manager-1");
    let name = log.file_name().unwrap().to_str().unwrap().to_owned();
    let text = output.refused();
    assert!(text.contains(&name), "the file {name} is named: {text}");
    std::fs::write(&log, &good).unwrap();
    let _ = cluster.restart_node("manager-1").ok();
    assert_eq!(cluster.wait_running("whoami", 3, SOON).len(), 3, "the sound log is served again");
}

/// The first file of a directory named like a write-ahead log, or named so itself.
fn find_log(dir: &std::path::Path) -> Option<std::path::PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(dir).ok()?.flatten().map(|e| e.path()).collect();
    entries.sort();
    let is_log = |path: &std::path::Path| {
        path.components().any(|c| c.as_os_str().to_string_lossy().contains("wal"))
            || path.extension().is_some_and(|e| e == "seg" || e == "wal" || e == "log")
    };
    let has_bytes = |path: &std::path::Path| std::fs::read(path).is_ok_and(|b| b.iter().any(|b| *b != 0));
    entries
        .iter()
        .find(|p| p.is_file() && is_log(p) && has_bytes(p))
        .cloned()
        .or_else(|| entries.iter().filter(|p| p.is_dir() && !p.is_symlink()).find_map(|p| find_log(p)))
}

#[test]
fn an_update_of_the_running_service_with_a_bad_field_changes_nothing() {
    let cluster = cluster_with_example(0);
    let before = cluster.wait_running("whoami", 3, SOON);
    let update = ["service", "update", "--detach", "--constraint-add", "node.nonsense", "whoami"];
    let _ = cluster.docker(&update).refused();
    let _ = cluster.docker(&["service", "update", "--detach", "--image", "", "whoami"]);
    assert_eq!(cluster.wait_running("whoami", 3, SOON), before);
    assert_eq!(
        cluster.service("whoami")["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"].as_str().unwrap(),
        WHOAMI
    );
}
