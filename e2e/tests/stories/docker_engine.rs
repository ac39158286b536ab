//! The main stories with a Docker Engine on each node, and what passes through our socket to it.

mod five;
mod pulls;

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use skep_e2e::{BUSYBOX, Cluster, Node, Task, wait_for};

use crate::{IDLE, SOON, create, host_names, say_version};

/// Docker needs about a second from create to start of a container, more on a busy machine.
const DOCKER_SOON: Duration = Duration::from_secs(40);

fn on_docker(n_workers: u8, replicas: u16) -> Cluster {
    say_version();
    Cluster::builder(1, n_workers).flag("--engine=docker").example(replicas).start()
}

fn identity(tasks: &[Task]) -> Vec<(String, String, i64)> {
    tasks.iter().map(|t| (t.id.clone(), t.container.clone(), t.pid)).collect()
}

/// The names of the running containers on a node, by its own `docker ps`.
fn running_on(cluster: &Cluster, node: &Node) -> Vec<String> {
    let names = cluster.docker_on(node, &["ps", "--format", "{{.Names}}"]).ok();
    names.lines().map(str::to_owned).collect()
}

/// The names of the sandboxes of tasks on a node, which are shown to who asks for them alone.
fn sandboxes(cluster: &Cluster, node: &Node) -> Vec<String> {
    let asked = ["ps", "--all", "--filter", "label=skep.sandbox", "--format", "{{.Names}}"];
    let names = cluster.docker_on(node, &asked).ok();
    names.lines().filter(|name| !name.starts_with("skep-spare-")).map(str::to_owned).collect()
}

/// Waits until the example's three tasks answer on a node: its mesh hears of a new one a little after the API does.
#[track_caller]
fn all_three_answer(node: &Node) {
    wait_for(&format!("all tasks answer on {}", node.name), SOON, || {
        (host_names(node, 8080, 12).len() == 3).then_some(())
    });
}

#[test]
fn a_service_on_docker_is_reached_updated_drained_and_adopted() {
    let mut cluster = on_docker(2, 3);
    let before = cluster.wait_running("whoami", 3, DOCKER_SOON);
    for node in cluster.nodes() {
        all_three_answer(node);
    }

    // Docker's own id and Swarm's name, so that its clients find the container of a task.
    for task in &before {
        let node = cluster.nodes().iter().find(|n| cluster.node_id(&n.name) == task.node_id).unwrap();
        let shown = cluster
            .docker_on(node, &["inspect", "--format", "{{.Name}} {{.State.Pid}}", &task.container])
            .ok();
        assert_eq!(shown.trim(), format!("/whoami.{}.{} {}", task.slot, task.id, task.pid));
        assert_eq!(running_on(&cluster, node), [format!("whoami.{}.{}", task.slot, task.id)]);
        assert_eq!(sandboxes(&cluster, node).len(), 1);
        // They are counted by a request of their own: a spare one that is made between the two is off by one.
        wait_for("sandboxes do not count", SOON, || {
            let counts = ["info", "--format", "{{.Containers}} {{.ContainersRunning}}"];
            (cluster.docker_on(node, &counts).ok() == "1 1\n").then_some(())
        });
    }

    for name in ["worker-1", "manager-1"] {
        cluster.kill_node(name, false);
        let _ = cluster.restart_node(name).ok();
        cluster.wait_node(name, "ready", SOON);
    }
    let after = cluster.wait_running("whoami", 3, DOCKER_SOON);
    assert_eq!(identity(&after), identity(&before), "the same tasks in the same containers");

    let _ = cluster.docker(&["service", "update", "--detach", "--env-add", "COLOUR=green", "whoami"]).ok();
    let updated = wait_for("all tasks are of the new spec", DOCKER_SOON, || {
        let running = cluster.running("whoami");
        let is_new = |task: &Task| before.iter().all(|old| old.id != task.id);
        (running.len() == 3 && running.iter().all(is_new)).then_some(running)
    });
    assert_eq!(updated.len(), 3);

    // A container of one's own is none of the swarm's business.
    let worker = cluster.node("worker-1").clone();
    let own = ["run", "--detach", "--name", "mine", BUSYBOX, "sh", "-c", IDLE];
    let _ = cluster.docker_on(&worker, &own).ok();
    let _ = cluster.docker(&["node", "update", "--availability", "drain", "worker-1"]).ok();
    wait_for("the drained node has its own container alone", DOCKER_SOON, || {
        (running_on(&cluster, &worker) == ["mine"]).then_some(())
    });
    let moved = cluster.wait_running("whoami", 3, DOCKER_SOON);
    let drained = cluster.node_id("worker-1");
    assert!(moved.iter().all(|task| task.node_id != drained), "{moved:#?}");
    // A drained node still leads to the tasks.
    all_three_answer(&worker);

    let _ = cluster.docker(&["service", "rm", "whoami"]).ok();
    for node in cluster.nodes() {
        wait_for("no container of a task is left, nor a sandbox", DOCKER_SOON, || {
            let all = cluster.docker_on(node, &["ps", "--all", "--format", "{{.Names}}"]).ok();
            let is_clean = all.lines().all(|name| name == "mine") && sandboxes(&cluster, node).is_empty();
            is_clean.then_some(())
        });
    }
}

#[test]
fn a_task_on_docker_finds_what_its_service_asked_for() {
    let cluster = on_docker(0, 0);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "from the host").unwrap();
    let bind = format!("type=bind,source={},target=/bind,readonly", dir.path().display());
    let flags = [
        ["--env", "COLOUR=green"],
        ["--user", "1000:1000"],
        ["--workdir", "/tmp"],
        ["--hostname", "box"],
        ["--host", "db:10.1.2.3"],
        ["--limit-memory", "64m"],
        ["--mount", &bind],
        ["--mount", "type=volume,source=data,target=/data"],
        ["--mount", "type=tmpfs,target=/scratch,tmpfs-size=1048576"],
    ];
    let script = "echo colour=$COLOUR; echo id=$(id -u):$(id -g); echo dir=$(pwd); echo host=$(hostname); \
        echo file=$(cat /bind/file); touch /bind/x 2>/dev/null || echo bind=readonly; \
        grep -q ' /scratch tmpfs' /proc/mounts && echo scratch=tmpfs; grep -q ' /data ' /proc/mounts && echo data=mounted; \
        echo caps=$(grep CapBnd /proc/self/status | cut -f2); grep -q '10.1.2.3.db' /etc/hosts && echo hosts=db; \
        grep -q 'box$' /etc/hosts && echo hosts=box; echo links=$(ls /sys/class/net | tr '\\n' ' '); echo done; echo wrong >&2";
    create(&cluster, "look", &flags.concat(), &format!("{script}; {IDLE}"));
    let _ = cluster.wait_running("look", 1, DOCKER_SOON);
    let logs = wait_for("the task has looked around", SOON, || {
        let logs = cluster.docker(&["service", "logs", "--raw", "look"]);
        (logs.stdout.contains("done") && logs.stderr.contains("wrong")).then_some(logs.stdout)
    });
    for line in [
        "colour=green",
        "id=1000:1000",
        "dir=/tmp",
        "host=box",
        "file=from the host",
        "bind=readonly",
        "scratch=tmpfs",
        "data=mounted",
        "hosts=db",
        "hosts=box",
        "caps=00000000a80425fb",
    ] {
        assert!(logs.lines().any(|l| l == line), "{line} is not in:\n{logs}");
    }
    assert!(logs.lines().any(|l| l.starts_with("links=") && l.contains("eth0")), "{logs}");
    let last = cluster.docker(&["service", "logs", "--raw", "--tail", "1", "look"]);
    // Docker reads two pipes: which line is the last is open.
    assert_eq!(last.stdout.lines().count() + last.stderr.lines().count(), 1, "{last}");

    // Exit codes and words are the same as the embedded engine's.
    create(&cluster, "bad", &["--restart-condition", "none"], "exit 3");
    create(&cluster, "good", &["--restart-condition", "none"], "exit 0");
    for (service, state, err) in [("bad", "failed", "task: non-zero exit (3)"), ("good", "complete", "")] {
        let task = wait_for("the task has ended", DOCKER_SOON, || {
            cluster.tasks(service).into_iter().find(|task| task.state == state)
        });
        assert_eq!(task.err, err);
    }
}

#[test]
fn what_is_no_swarms_passes_through_to_docker() {
    let cluster = on_docker(0, 0);
    let node = cluster.manager().clone();
    assert_eq!(cluster.docker(&["run", "--rm", BUSYBOX, "echo", "hello"]).ok(), "hello\n");
    assert_eq!(cluster.docker(&["run", "--rm", BUSYBOX, "sh", "-c", "exit 7"]).code, Some(7));
    let _ = cluster.docker(&["run", "--detach", "--name", "box", BUSYBOX, "sh", "-c", IDLE]).ok();
    assert_eq!(cluster.docker(&["exec", "box", "cat", "/proc/1/comm"]).ok(), "sh\n");

    // A raw stream both ways, ended by the client's half.
    for args in [&["run", "--rm", "-i", BUSYBOX, "cat"][..], &["exec", "-i", "box", "cat"]] {
        let mut command = cluster.docker_command(&node, args);
        let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        client.stdin.take().unwrap().write_all(b"typed\nin\n").unwrap();
        let output = client.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "typed\nin\n", "{args:?}");
    }

    let _ = cluster.docker(&["network", "create", "local-one"]).ok();
    let networks = cluster.docker(&["network", "ls", "--format", "{{.Name}} {{.Scope}}"]).ok();
    for line in ["bridge local", "ingress swarm", "local-one local"] {
        assert!(networks.lines().any(|l| l == line), "{line} is not in:\n{networks}");
    }
    assert_eq!(
        cluster.docker(&["network", "inspect", "--format", "{{.Driver}}", "ingress"]).ok(),
        "overlay\n"
    );
    let _ = cluster.docker(&["network", "rm", "local-one"]).ok();
    let _ = cluster.docker(&["volume", "create", "stuff"]).ok();
    assert!(cluster.docker(&["volume", "ls", "--quiet"]).ok().lines().any(|name| name == "stuff"));
    let tagged = ["image", "tag", BUSYBOX, "another:2"];
    let _ = cluster.docker(&tagged).ok();
    assert!(cluster.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().contains("another:2"));

    let info = cluster.get("/info");
    assert_eq!(info["Skep"]["Engine"], "docker");
    assert_eq!(info["Swarm"]["LocalNodeState"], "active");
    assert_eq!(info["CgroupDriver"], "cgroupfs");
    let version =
        cluster.docker(&["version", "--format", "{{range .Server.Components}}{{.Name}};{{end}}"]).ok();
    assert!(version.starts_with("Engine;Docker Engine;"), "{version}");
    assert!(cluster.docker(&["rm", "nosuch"]).refused().contains("No such container: nosuch"));
}

#[test]
fn tasks_that_a_docker_engine_lost_are_replaced() {
    let mut cluster = on_docker(0, 2);
    let before = cluster.wait_running("whoami", 2, DOCKER_SOON);
    // The node's engine and all of its containers, as by a crash of the machine.
    cluster.kill_node("manager-1", true);
    let _ = cluster.restart_node("manager-1").ok();
    // For a moment the manager still knows what was before.
    wait_for("two other tasks run", DOCKER_SOON, || {
        let after = cluster.running("whoami");
        let is_new = |task: &Task| before.iter().all(|old| old.id != task.id);
        (after.len() == 2 && after.iter().all(is_new)).then_some(())
    });
    let node = cluster.manager().clone();
    wait_for("the port answers", SOON, || skep_e2e::get(node.address, 8080, "/").ok());
}

/// The node's name as its API says it at the socket that a task was given.
fn heard_by(task: &Task) -> Option<String> {
    let root = format!("/proc/{}/root", task.pid);
    let link = std::fs::read_link(format!("{root}/var/run/docker.sock")).ok()?;
    let socket = format!("{root}{}", link.display());
    let answer = skep_e2e::request(socket.as_ref(), "GET", "/info", &[], "application/json").ok()?;
    answer.json()["Name"].as_str().map(str::to_owned)
}

#[test]
fn a_task_on_docker_reaches_its_nodes_api_also_after_the_daemon_started_anew() {
    let mut cluster = on_docker(0, 0);
    let socket = "type=bind,source=/var/run/docker.sock,target=/var/run/docker.sock,readonly";
    create(&cluster, "asker", &["--mount", socket], IDLE);
    let before = cluster.wait_running("asker", 1, DOCKER_SOON);
    for is_killed in [false, true] {
        assert_eq!(heard_by(&before[0]).as_deref(), Some("manager-1"));
        // By its host name a program finds its own container.
        let host = cluster.docker(&["exec", &before[0].container, "hostname"]).ok();
        let own = cluster.docker(&["inspect", "--type=container", "--format", "{{.Id}}", host.trim()]).ok();
        assert_eq!(own.trim(), before[0].container);
        if is_killed {
            cluster.kill_node("manager-1", false);
        }
        let _ = cluster.restart_node("manager-1").ok();
        wait_for("the task hears the daemon that came back", SOON, || heard_by(&before[0]));
    }
    assert_eq!(identity(&cluster.wait_running("asker", 1, SOON)), identity(&before));
}
