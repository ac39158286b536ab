//! Stacks by the unchanged `docker stack`: networks, volumes and services of a file, and the socket of the
//! node's own API in a task.

use skep_e2e::{BUSYBOX, Cluster, Node, get, wait_for};

use crate::{IDLE, SOON, cluster, create};

/// What networks do not do yet, as every place shows it.
const NOTE: &str = "network shop_default: tasks reach each other only by published ports yet";

/// A stack of two services. `more` is put into the second one.
fn stack(more: &str) -> String {
    let idle = IDLE.replace('$', "$$");
    format!(
        r#"
version: "3.9"
services:
  web:
    image: {BUSYBOX}
    command: sh -c "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www"
    hostname: "web-{{{{.Task.Slot}}}}"
    ports: ["8087:80"]
    volumes: ["data:/data"]
    deploy:
      replicas: 2
      labels: {{ tier: front }}
      update_config: {{ parallelism: 1, delay: 0s, monitor: 0s }}
      restart_policy: {{ condition: on-failure, delay: 1s }}
      resources: {{ limits: {{ memory: 64M }} }}
      placement: {{ constraints: ["node.platform.os == linux"] }}
    networks: [default, back]
  worker:
    image: {BUSYBOX}
    entrypoint: ["sh", "-c"]
    command: ["{idle}"]
    environment: {{ COLOUR: green }}
    ulimits: {{ nofile: {{ soft: 1000, hard: 2000 }} }}
    sysctls: {{ net.core.somaxconn: "1024" }}
    dns: [9.9.9.9]
    extra_hosts: ["peer:10.1.2.3"]
    tmpfs: [/scratch]
    stop_grace_period: 2s
    networks: {{ back: {{ aliases: [helper] }} }}
{more}
networks:
  back:
    driver: overlay
    internal: true
    labels: {{ kind: backend }}
volumes:
  data:
    labels: {{ keep: "yes" }}
"#
    )
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("the host has a place for temporary files"))
    }

    /// Writes a stack's file; gives its path.
    fn write(&self, text: &str) -> String {
        let path = self.0.path().join("stack.yml");
        std::fs::write(&path, text).expect("a temporary file can be written");
        path.to_string_lossy().into_owned()
    }
}

#[track_caller]
fn deploy(cluster: &Cluster, file: &str, flags: &[&str]) {
    let head = ["stack", "deploy", "--detach=true", "--resolve-image", "never", "-c", file];
    let _ = cluster.docker(&[&head, flags, &["shop"]].concat()).ok();
}

fn ids(cluster: &Cluster) -> Vec<String> {
    ["shop_web", "shop_worker"].iter().flat_map(|name| cluster.running(name)).map(|task| task.id).collect()
}

/// What `docker` lists of the stack as deployed.
fn every_list_shows_it(cluster: &Cluster) {
    let lists = cluster.docker(&["stack", "ls"]).ok();
    assert!(lists.lines().any(|line| line.split_whitespace().eq(["shop", "2"])), "{lists}");
    let services = cluster.docker(&["stack", "services", "shop", "--format", "{{.Name}} {{.Replicas}}"]).ok();
    assert_eq!(services.lines().collect::<Vec<_>>(), ["shop_web 2/2", "shop_worker 1/1"]);
    let tasks =
        cluster.docker(&["stack", "ps", "shop", "--no-trunc", "--format", "{{.Name}} {{.Error}}"]).ok();
    assert_eq!(tasks.lines().count(), 3, "{tasks}");
    assert!(
        tasks.lines().all(|line| line.contains("tasks reach each other only by published ports yet")),
        "{tasks}"
    );
    let networks = cluster
        .docker(&[
            "network",
            "ls",
            "--filter",
            "label=com.docker.stack.namespace=shop",
            "--format",
            "{{.Name}} {{.Driver}} {{.Scope}}",
        ])
        .ok();
    assert_eq!(
        networks.lines().collect::<Vec<_>>(),
        ["shop_back overlay swarm", "shop_default overlay swarm"]
    );
    let volumes = cluster.docker(&["volume", "ls", "--format", "{{.Name}} {{.Labels}}"]).ok();
    let n_on_manager = cluster
        .running("shop_web")
        .iter()
        .filter(|task| task.node_id == cluster.node_id("manager-1"))
        .count();
    assert_eq!(volumes.contains("shop_data") && volumes.contains("keep=yes"), n_on_manager > 0, "{volumes}");
    let pretty = cluster.docker(&["service", "inspect", "--pretty", "shop_web"]).ok();
    assert!(
        pretty.contains("Networks: shop_back shop_default") || pretty.contains("shop_default shop_back"),
        "{pretty}"
    );
}

#[test]
fn a_stack_is_deployed_looked_at_changed_and_removed() {
    let cluster = cluster(1);
    let files = Files::new();
    deploy(&cluster, &files.write(&stack("")), &[]);
    let _ = cluster.wait_running("shop_web", 2, SOON);
    let _ = cluster.wait_running("shop_worker", 1, SOON);
    for address in cluster.addresses() {
        // A container runs a moment before its program listens.
        let answer = wait_for("each node answers on the stack's port", SOON, || get(address, 8087, "/").ok());
        assert!(answer.text().starts_with("web-"), "{}", answer.text());
    }

    every_list_shows_it(&cluster);

    // The same again changes nothing; a change of one service replaces that one's tasks alone.
    let before = ids(&cluster);
    deploy(&cluster, &files.write(&stack("")), &[]);
    assert_eq!(ids(&cluster), before, "an unchanged stack keeps its tasks");
    deploy(&cluster, &files.write(&stack("    labels: { new: label }")), &[]);
    wait_for("the changed service has another task", SOON, || {
        let now = cluster.running("shop_worker");
        (now.len() == 1 && !before.contains(&now[0].id)).then_some(())
    });
    let web: Vec<String> = cluster.running("shop_web").into_iter().map(|task| task.id).collect();
    assert!(web.iter().all(|id| before.contains(id)), "the other one keeps its tasks");

    // What a service is on stays; what the file no longer has is pruned.
    let refused = cluster.docker(&["network", "rm", "shop_default"]).refused();
    assert!(refused.contains("is in use by service"), "{refused}");
    let less = stack("").split("  worker:").next().unwrap_or_default().to_owned()
        + "networks: { back: {} }\nvolumes: { data: {} }\n";
    deploy(&cluster, &files.write(&less), &["--prune"]);
    let left = cluster.docker(&["stack", "services", "shop", "--format", "{{.Name}}"]).ok();
    assert_eq!(left.lines().collect::<Vec<_>>(), ["shop_web"]);
    let _ = cluster.docker(&["stack", "rm", "shop"]).ok();
    wait_for("nothing of the stack is left", SOON, || {
        let gone = ["network", "service"].iter().all(|kind| {
            let list =
                cluster.docker(&[kind, "ls", "--quiet", "--filter", "label=com.docker.stack.namespace=shop"]);
            list.ok().trim().is_empty()
        });
        (gone && cluster.get("/tasks").as_array().is_some_and(Vec::is_empty)).then_some(())
    });
}

#[test]
fn networks_are_made_by_hand_shown_and_refused() {
    let cluster = cluster(0);
    let made = cluster
        .docker(&[
            "network",
            "create",
            "--driver",
            "overlay",
            "--subnet",
            "10.7.0.0/16",
            "--label",
            "a=b",
            "own",
        ])
        .ok();
    assert_eq!(made.trim().len(), 25, "{made}");
    let _ = cluster.docker(&["network", "create", "--driver", "overlay", "other"]).ok();
    let shown = cluster
        .docker(&[
            "network",
            "inspect",
            "own",
            "other",
            "--format",
            "{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}}",
        ])
        .ok();
    assert_eq!(shown.lines().collect::<Vec<_>>(), ["10.7.0.0/16 10.7.0.1", "10.0.1.0/24 10.0.1.1"]);
    for (args, expect) in [
        (&["network", "create", "--driver", "overlay", "own"][..], "network with name own already exists"),
        (
            &["network", "create", "--driver", "overlay", "--subnet", "10.7.9.0/24", "more"],
            "Pool overlaps with other one on this address space",
        ),
        (&["network", "create", "more"], "a network of one node ('bridge') is not supported"),
        (&["network", "rm", "bridge"], "is a pre-defined network and cannot be removed"),
        (&["network", "connect", "own", "x"], "not supported by skep yet"),
        (&["service", "create", "--network", "nope", BUSYBOX], "network nope not found"),
        (
            &["service", "create", "--network", "ingress", BUSYBOX],
            "cannot be explicitly attached to the ingress network",
        ),
    ] {
        let words = cluster.docker(args).refused();
        assert!(words.contains(expect), "{args:?}: {words}");
    }
    create(&cluster, "user", &["--network", "name=own,alias=me"], IDLE);
    let refused = cluster.docker(&["network", "rm", "own"]).refused();
    assert!(
        refused.contains("rpc error: code = FailedPrecondition desc = network")
            && refused.contains("is in use by service"),
        "{refused}"
    );
    let pruned = cluster.docker(&["network", "prune", "--force"]).ok();
    assert!(pruned.contains("other") && !pruned.contains("own"), "{pruned}");
    let _ = cluster.docker(&["service", "rm", "user"]).ok();
    let _ = cluster.docker(&["network", "rm", "own"]).ok();
}

/// A task that asks the API at `/var/run/docker.sock` by the host's docker CLI, again and again.
fn ask_by_socket(cluster: &Cluster, marks: &std::path::Path) {
    let out = format!("type=bind,source={},target=/out", marks.display());
    let socket = "type=bind,source=/var/run/docker.sock,target=/var/run/docker.sock,readonly";
    let mut flags = vec!["--read-only", "--mount", socket, "--mount", &out];
    // The CLI and what it is linked with.
    let host = ["/usr", "/lib", "/lib64"].map(|dir| format!("type=bind,source={dir},target={dir},readonly"));
    for mount in &host {
        flags.extend(["--mount", mount]);
    }
    let script = "while :; do /usr/bin/docker -H unix:///var/run/docker.sock info --format '{{.Name}} {{.Swarm.LocalNodeState}}' \
        > /out/new 2>&1; echo $? >> /out/new; mv /out/new /out/last; sleep 0.2; done";
    create(cluster, "asker", &flags, script);
}

fn heard(marks: &std::path::Path, node: &Node) -> Option<()> {
    let last = std::fs::read_to_string(marks.join("last")).ok()?;
    (last.lines().eq([format!("{} active", node.name).as_str(), "0"])).then_some(())
}

#[test]
fn a_task_reaches_its_nodes_api_also_after_the_daemon_started_anew() {
    let mut cluster = cluster(0);
    let marks = Files::new();
    let dir = marks.0.path().to_owned();
    ask_by_socket(&cluster, &dir);
    let before = cluster.wait_running("asker", 1, SOON);
    wait_for("the task has asked", SOON, || heard(&dir, cluster.manager()));
    for is_killed in [false, true] {
        let name = cluster.manager().name.clone();
        if is_killed {
            cluster.kill_node(&name, false);
        }
        let _ = cluster.restart_node(&name).ok();
        std::fs::remove_file(dir.join("last")).unwrap_or_default();
        wait_for("the task has asked the daemon that came back", SOON, || heard(&dir, cluster.manager()));
    }
    let after = cluster.wait_running("asker", 1, SOON);
    assert_eq!(after[0].container, before[0].container, "it is the same container");
}

#[test]
fn creating_a_service_on_a_network_warns() {
    let cluster = cluster(0);
    let _ = cluster.docker(&["network", "create", "--driver", "overlay", "shop_default"]).ok();
    let spec = serde_json::json!({
        "Name": "web",
        "TaskTemplate": {
            "ContainerSpec": { "Image": BUSYBOX, "Command": ["sh", "-c", IDLE] },
            "Networks": [{ "Target": "shop_default" }],
        },
    });
    let answer = cluster.api("POST", "/services/create", &spec);
    assert!(answer.text().contains(NOTE), "{}", answer.text());
    let _ = cluster.wait_running("web", 1, SOON);
    let status = cluster.get("/tasks")[0]["Status"].clone();
    assert_eq!((status["State"].as_str(), status["Err"].as_str()), (Some("running"), Some(NOTE)));
    assert_eq!(status["Message"], format!("started; {NOTE}"));
}
