//! How a swarm is started: its size, what is loaded on it, and the daemons' flags.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Cluster;
use crate::http;
use crate::image::busybox_archive;

/// A swarm that is not started yet.
#[derive(Clone, Debug)]
pub struct Builder {
    n_managers: u8,
    n_workers: u8,
    /// Replicas of the example service; its image is loaded even for 0.
    example: Option<u16>,
    flags: Vec<String>,
    daemon_flags: Vec<String>,
}

impl Builder {
    pub(super) fn new(n_managers: u8, n_workers: u8) -> Self {
        Self { n_managers, n_workers, example: None, flags: Vec::new(), daemon_flags: Vec::new() }
    }

    /// Loads the image of [`crate::WHOAMI`] and runs the service `whoami` of it on port 8080.
    #[must_use]
    pub fn example(mut self, replicas: u16) -> Self {
        self.example = Some(replicas);
        self
    }

    /// A further flag of `skep dev`, such as `--no-swarm`.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// A further flag of every daemon.
    #[must_use]
    pub fn daemon_flag(mut self, flag: &str) -> Self {
        self.daemon_flags.push(flag.to_owned());
        self
    }

    /// Starts it and loads busybox on each node.
    ///
    /// # Panics
    /// When `skep dev` fails, with all that it said.
    #[must_use]
    pub fn start(self) -> Cluster {
        static N: AtomicU32 = AtomicU32::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let mut cluster = nothing_of(format!("e{:x}-{n:x}", std::process::id()));
        let (managers, workers) = (self.n_managers.to_string(), self.n_workers.to_string());
        let example = self.example.map(|n| n.to_string());
        let mut args = vec!["dev", "--detach", "--name", &cluster.name];
        args.extend(["--managers", &managers, "--workers", &workers]);
        match &example {
            Some(replicas) => args.extend(["--replicas", replicas]),
            None => args.push("--no-example"),
        }
        args.extend(self.flags.iter().map(String::as_str));
        args.push("--");
        args.extend(self.daemon_flags.iter().map(String::as_str));
        let output = cluster.run_dev(&args);
        assert!(output.is_ok(), "skep dev: {output}");
        cluster.refresh();
        load_busybox(&cluster);
        cluster
    }
}

fn nothing_of(name: String) -> Cluster {
    Cluster { name, skep: skep_program(), nodes: Vec::new(), front: 0 }
}

fn load_busybox(cluster: &Cluster) {
    let archive = busybox_archive().unwrap_or_else(|err| panic!("{err:#}"));
    let load = |node: &super::Node| {
        let kind = "application/x-tar";
        let answer = http::request(node.socket_path(), "POST", "/images/load?quiet=1", &archive, kind)
            .unwrap_or_else(|err| panic!("load busybox on {}: {err}", node.name));
        let is_loaded = answer.status == 200 && !answer.text().contains("\"error\"");
        assert!(is_loaded, "load busybox on {}: {} {}", node.name, answer.status, answer.text());
    };
    cluster.nodes.iter().for_each(load);
}

/// Takes down what test programs that were killed have left: their process id is in the swarm's name.
fn sweep() {
    for entry in std::fs::read_dir("/var/lib/skep-dev").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix('e').and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid.to_owned());
        let pid = pid.and_then(|hex| u32::from_str_radix(&hex, 16).ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Dropped, and so taken down, like any other.
            drop(nothing_of(name));
        }
    }
}

/// The build that stands in for the next release, which `e2e/run-tests.sh` makes beside the one under test.
///
/// # Panics
/// There is none.
#[must_use]
pub fn next_build() -> PathBuf {
    let path = skep_program().with_file_name("next").join("skep");
    assert!(path.is_file(), "no {}; e2e/run-tests.sh makes it", path.display());
    path
}

/// The `skep` that was built with this test: beside the directory of the test programs.
///
/// # Panics
/// There is none.
#[must_use]
pub fn skep_program() -> PathBuf {
    if let Some(path) = std::env::var_os("SKEP_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap_or_default();
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join("skep")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no skep near {}; `cargo build --release` makes it", own.display()))
}
