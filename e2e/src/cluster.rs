//! A swarm of `skep dev` for one story: started, driven, and taken down when dropped.
//!
//! When the story fails, the drop first shows services, tasks and the end of each daemon's log.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::command::{Output, run};
use crate::http::{self, Answer};
use crate::image::busybox_archive;
use crate::task::Task;
use crate::wait::wait_for;

/// The longest that one command of a client may take.
const COMMAND_WAIT_MAX: Duration = Duration::from_secs(30);
/// The longest that a swarm may take to come up or go down.
const DEV_WAIT_MAX: Duration = Duration::from_secs(60);
/// How much of each log a failed story shows.
const LOG_TAIL_LINES: usize = 60;

/// What a node is in its swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// Holds state and decides.
    Manager,
    /// Runs tasks alone.
    Worker,
}

/// One node, as `skep dev status --format json` shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Its host name too.
    pub name: String,
    /// Manager or worker.
    pub role: NodeRole,
    /// Reached from the caller's shell.
    pub address: Ipv4Addr,
    /// `unix://` URL of its API.
    pub socket: String,
    /// Its pinned network namespace.
    pub netns: PathBuf,
    /// Its daemon, when that runs.
    pub pid: Option<i32>,
}

impl Node {
    /// The path of its API's socket.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        Path::new(self.socket.trim_start_matches("unix://"))
    }
}

#[derive(Deserialize)]
struct Status {
    nodes: Vec<Node>,
}

/// A running swarm.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    skep: PathBuf,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts one manager and `n_workers` workers, busybox loaded on each, no service.
    ///
    /// # Panics
    /// When `skep dev` fails, with all that it said.
    #[must_use]
    pub fn start(n_workers: u8) -> Self {
        let cluster = Self::dev(n_workers, &["--no-example"]);
        cluster.load_busybox();
        cluster
    }

    /// As [`Cluster::start`], with the example service `whoami` on port 8080 too.
    ///
    /// # Panics
    /// When `skep dev` fails, with all that it said.
    #[must_use]
    pub fn with_example(n_workers: u8) -> Self {
        let cluster = Self::dev(n_workers, &[]);
        cluster.load_busybox();
        cluster
    }

    fn dev(n_workers: u8, flags: &[&str]) -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let name = format!("e{:x}-{n:x}", std::process::id());
        let mut cluster = Self { name: name.clone(), skep: skep_program(), nodes: Vec::new() };
        let workers = n_workers.to_string();
        let args = ["dev", "--detach", "--name", &name, "--workers", &workers];
        let output = cluster.run_dev(&[&args, flags].concat());
        assert!(output.is_ok(), "skep dev: {output}");
        cluster.refresh();
        cluster
    }

    fn run_dev(&self, args: &[&str]) -> Output {
        let mut command = Command::new(&self.skep);
        command.args(args).env("RUST_BACKTRACE", "0");
        run(&mut command, DEV_WAIT_MAX).unwrap_or_else(|err| panic!("{err:#}"))
    }

    /// Reads the nodes' state again: process ids change when a daemon is restarted.
    ///
    /// # Panics
    /// When `skep dev status` fails or prints another form.
    pub fn refresh(&mut self) {
        let text = self.run_dev(&["dev", "status", "--format", "json", "--name", &self.name]).ok();
        let status: Status = serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text}"));
        self.nodes = status.nodes;
    }

    fn load_busybox(&self) {
        let archive = busybox_archive().unwrap_or_else(|err| panic!("{err:#}"));
        for node in &self.nodes {
            let answer = http::request(
                node.socket_path(),
                "POST",
                "/images/load?quiet=1",
                &archive,
                "application/x-tar",
            )
            .unwrap_or_else(|err| panic!("load busybox on {}: {err}", node.name));
            assert!(
                answer.status == 200 && !answer.text().contains("\"error\""),
                "load busybox on {}: {} {}",
                node.name,
                answer.status,
                answer.text()
            );
        }
    }

    /// The swarm's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All nodes, the manager first.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The addresses of all nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        self.nodes.iter().map(|n| n.address).collect()
    }

    /// The node `name`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|n| n.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// The manager.
    #[must_use]
    pub fn manager(&self) -> &Node {
        &self.nodes[0]
    }

    /// Runs the docker CLI against the manager.
    ///
    /// # Panics
    /// When the program is missing.
    #[must_use]
    pub fn docker(&self, args: &[&str]) -> Output {
        self.docker_on(self.manager(), args)
    }

    /// Runs the docker CLI against `node`.
    ///
    /// # Panics
    /// When the program is missing.
    #[must_use]
    pub fn docker_on(&self, node: &Node, args: &[&str]) -> Output {
        run(&mut self.docker_command(node, args), COMMAND_WAIT_MAX).unwrap_or_else(|err| panic!("{err:#}"))
    }

    /// The docker CLI against `node`, not yet started.
    #[must_use]
    pub fn docker_command(&self, node: &Node, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(args).env("DOCKER_HOST", &node.socket).env("DOCKER_CONFIG", "/nonexistent");
        for name in ["DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_API_VERSION"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs our own CLI against the manager.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn skep(&self, args: &[&str]) -> Output {
        let mut command = Command::new(&self.skep);
        command.args(["-H", &self.manager().socket]).args(args).env("RUST_BACKTRACE", "0");
        run(&mut command, COMMAND_WAIT_MAX).unwrap_or_else(|err| panic!("{err:#}"))
    }

    /// Asks the manager's API; `Null` sends no body.
    ///
    /// # Panics
    /// When the socket does not answer at all.
    #[must_use]
    pub fn api(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.api_on(self.manager(), method, path, body)
    }

    /// Asks the API of `node`.
    ///
    /// # Panics
    /// When the socket does not answer at all.
    #[must_use]
    pub fn api_on(&self, node: &Node, method: &str, path: &str, body: &Value) -> Answer {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        http::request(node.socket_path(), method, path, &bytes, "application/json")
            .unwrap_or_else(|err| panic!("{method} {path} on {}: {err}", node.name))
    }

    /// `GET` on the manager that has to succeed.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn get(&self, path: &str) -> Value {
        let answer = self.api("GET", path, &Value::Null);
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
        answer.json()
    }

    /// The service `name` as the API shows it.
    #[must_use]
    pub fn service(&self, name: &str) -> Value {
        self.get(&format!("/services/{name}"))
    }

    /// All tasks of a service, history included, by slot.
    #[must_use]
    pub fn tasks(&self, service: &str) -> Vec<Task> {
        let id = self.service(service)["ID"].as_str().unwrap_or_default().to_owned();
        let all = self.get("/tasks");
        let of_service = all.as_array().into_iter().flatten().filter(|t| t["ServiceID"] == id.as_str());
        let mut tasks: Vec<Task> = of_service.map(Task::from_json).collect();
        tasks.sort_by_key(|t| t.slot);
        tasks
    }

    /// The tasks that run and are meant to.
    #[must_use]
    pub fn running(&self, service: &str) -> Vec<Task> {
        self.tasks(service).into_iter().filter(Task::is_running).collect()
    }

    /// Waits until exactly `n` tasks of the service run, and returns them.
    ///
    /// # Panics
    /// When they do not within `limit`, with what there is instead.
    #[track_caller]
    #[must_use]
    pub fn wait_running(&self, service: &str, n: usize, limit: Duration) -> Vec<Task> {
        let mut last = Vec::new();
        let found = crate::wait::try_wait_for(limit, || {
            last = self.tasks(service);
            let running: Vec<Task> = last.iter().filter(|t| t.is_running()).cloned().collect();
            let n_ending = last.iter().filter(|t| t.state == "running" && t.desired != "running").count();
            (running.len() == n && n_ending == 0).then_some(running)
        });
        found.unwrap_or_else(|| panic!("{n} tasks of {service} do not run within {limit:?}: {last:#?}"))
    }

    /// The swarm's id of the node `name`.
    ///
    /// # Panics
    /// When no node has that host name.
    #[must_use]
    pub fn node_id(&self, name: &str) -> String {
        let nodes = self.get("/nodes");
        let found = nodes.as_array().into_iter().flatten().find(|n| n["Description"]["Hostname"] == name);
        found.and_then(|n| n["ID"].as_str()).unwrap_or_else(|| panic!("no node {name} in {nodes}")).to_owned()
    }

    /// Waits until `GET /nodes` shows `state` for the node `name`.
    #[track_caller]
    pub fn wait_node(&self, name: &str, state: &str, limit: Duration) {
        wait_for(&format!("{name} is {state}"), limit, || {
            let nodes = self.get("/nodes");
            let mut nodes = nodes.as_array().into_iter().flatten();
            nodes.any(|n| n["Description"]["Hostname"] == name && n["Status"]["State"] == state).then_some(())
        });
    }

    /// Kills the daemon of `name` with SIGKILL; its tasks go too if `with_tasks`.
    ///
    /// # Panics
    /// When `skep dev kill-node` fails.
    pub fn kill_node(&mut self, name: &str, with_tasks: bool) {
        let args = ["dev", "kill-node", "--name", &self.name, name];
        let flags: &[&str] = if with_tasks { &["--tasks"] } else { &[] };
        let _ = self.run_dev(&[&args, flags].concat()).ok();
        self.refresh();
    }

    /// Starts the daemon of `name` again (after SIGTERM if it runs).
    #[must_use]
    pub fn restart_node(&mut self, name: &str) -> Output {
        let output = self.run_dev(&["dev", "restart-node", "--name", &self.name, name]);
        if output.is_ok() {
            self.refresh();
        }
        output
    }

    /// `GET` from inside the node's own network namespace.
    ///
    /// # Errors
    /// As [`http::get`].
    pub fn get_inside(&self, node: &Node, address: Ipv4Addr, port: u16) -> std::io::Result<Answer> {
        // A namespace is a thread's property: entered in one that ends with the request.
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let file = std::fs::File::open(&node.netns)?;
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))?;
                http::get(address, port, "/")
            });
            asked.join().unwrap_or_else(|_| Err(std::io::Error::other("the asking thread panicked")))
        })
    }

    /// The directory with the nodes' state and logs.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        Path::new("/var/lib/skep-dev").join(&self.name)
    }

    /// Takes the swarm down now, as the drop would.
    #[must_use]
    pub fn down(&self) -> Output {
        self.run_dev(&["dev", "down", "--name", &self.name])
    }

    fn report(&self) -> String {
        let mut text = format!("the swarm {} when the story failed:\n", self.name);
        for args in [&["node", "ls"][..], &["service", "ls"]] {
            let output = self.docker(args);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "$ docker {}\n{}{}", args.join(" "), output.stdout, output.stderr);
        }
        if let Ok(answer) = http::request(self.manager().socket_path(), "GET", "/tasks", &[], "") {
            for task in answer.json().as_array().into_iter().flatten().map(Task::from_json) {
                let _ = writeln!(text, "{task:?}");
            }
        }
        for node in &self.nodes {
            let log = std::fs::read_to_string(self.state_dir().join(format!("{}.log", node.name)));
            let log = log.unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
            let _ = writeln!(text, "--- log of {} (pid {:?})\n{tail}", node.name, node.pid);
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.nodes.is_empty() {
            // Straight to the file: a second panic here would hide the first.
            let _ = writeln!(std::io::stderr(), "{}", self.report());
        }
        let output = self.down();
        if !output.is_ok() {
            let _ = writeln!(std::io::stderr(), "skep dev down --name {}: {output}", self.name);
            assert!(std::thread::panicking(), "skep dev down failed: {output}");
        }
    }
}

/// Takes down what test programs that were killed have left: their process id is in the swarm's name.
fn sweep() {
    for entry in std::fs::read_dir("/var/lib/skep-dev").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix('e').and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid.to_owned());
        let pid = pid.and_then(|hex| u32::from_str_radix(&hex, 16).ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Dropped, and so taken down, like any other.
            drop(Cluster { name, skep: skep_program(), nodes: Vec::new() });
        }
    }
}

/// The `skep` that was built with this test: beside the directory of the test programs.
fn skep_program() -> PathBuf {
    if let Some(path) = std::env::var_os("SKEP_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap_or_default();
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join("skep")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no skep near {}; `cargo build --release` makes it", own.display()))
}
