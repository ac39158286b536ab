//! A swarm of `skep dev` for one story: started, driven, and taken down when dropped.
//!
//! When the story fails, the drop first shows services, tasks and the end of each daemon's log.

mod build;
mod fault;
mod truth;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::command::{Output, run};
use crate::http::{self, Answer};
use crate::task::Task;
use crate::wait::wait_for;
pub use build::{Builder, next_build, skep_program};
pub use truth::{Program, mark_of, programs_of};

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
    /// Its daemon is frozen.
    pub frozen: bool,
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
    /// The node that unqualified calls go to.
    front: usize,
}

impl Cluster {
    /// Starts one manager and `n_workers` workers, busybox loaded on each, no service.
    ///
    /// # Panics
    /// When `skep dev` fails, with all that it said.
    #[must_use]
    pub fn start(n_workers: u8) -> Self {
        Builder::new(1, n_workers).start()
    }

    /// As [`Cluster::start`], with the example service `whoami` on port 8080 too.
    ///
    /// # Panics
    /// When `skep dev` fails, with all that it said.
    #[must_use]
    pub fn with_example(n_workers: u8) -> Self {
        Builder::new(1, n_workers).example(3).start()
    }

    /// A swarm of any size, not yet started.
    #[must_use]
    pub fn builder(n_managers: u8, n_workers: u8) -> Builder {
        Builder::new(n_managers, n_workers)
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
        let text = self.run_dev(&["dev", "status", "--nodes", "--format", "json", "--name", &self.name]).ok();
        let status: Status = serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text}"));
        self.nodes = status.nodes;
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

    /// The manager that unqualified calls go to: the first, or that of [`Cluster::speak_to`].
    #[must_use]
    pub fn manager(&self) -> &Node {
        &self.nodes[self.front]
    }

    /// Sends all further unqualified calls to the node `name`.
    ///
    /// # Panics
    /// When there is none.
    pub fn speak_to(&mut self, name: &str) {
        let found = self.nodes.iter().position(|n| n.name == name);
        self.front = found.unwrap_or_else(|| panic!("no node {name}"));
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
        self.skep_on(self.manager(), args)
    }

    /// Runs our own CLI against a node.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn skep_on(&self, node: &Node, args: &[&str]) -> Output {
        run(&mut self.skep_command(node, args), COMMAND_WAIT_MAX).unwrap_or_else(|err| panic!("{err:#}"))
    }

    /// Our own CLI against a node, not yet started.
    #[must_use]
    pub fn skep_command(&self, node: &Node, args: &[&str]) -> Command {
        let mut command = Command::new(&self.skep);
        command.args(["-H", &node.socket]).args(args).env("RUST_BACKTRACE", "0");
        command.env("DOCKER_CONFIG", "/nonexistent");
        command
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
