//! What a development swarm has on this machine: paths, and the record from which all of it is found again.
//!
//! The record is written before the first thing that it names is made, so that what a crash leaves can
//! always be removed. Invariant: `/var/lib/skep-dev/<name>` exists exactly while the swarm does.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::dockerd::Engine;
use super::process::ProcessId;

pub(crate) const STATE_ROOT: &str = "/var/lib/skep-dev";
pub(crate) const RUN_ROOT: &str = "/run/skep-dev";
pub(crate) const NETNS_ROOT: &str = "/run/netns";
/// `skep-<name>` names the caller's end of the veth, and a link name has 15 characters at most.
const NAME_LEN_MAX: usize = 10;

/// A swarm's name, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SwarmName(String);

impl std::str::FromStr for SwarmName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if text.is_empty()
            || text.len() > NAME_LEN_MAX
            || !text.chars().all(|c| is_plain(c) || c == '-')
            || !text.starts_with(is_plain)
            || !text.ends_with(is_plain)
        {
            bail!("a swarm's name has 1 to {NAME_LEN_MAX} characters of a-z, 0-9 and inner -");
        }
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Display for SwarmName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl SwarmName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Node state directories, logs and the record.
    pub(crate) fn state_dir(&self) -> PathBuf {
        Path::new(STATE_ROOT).join(&self.0)
    }

    /// Sockets and pinned mount namespaces.
    pub(crate) fn run_dir(&self) -> PathBuf {
        Path::new(RUN_ROOT).join(&self.0)
    }

    /// The pinned network namespace of a node, or of the bridge (`br`).
    pub(crate) fn netns(&self, node: &str) -> PathBuf {
        Path::new(NETNS_ROOT).join(format!("skep-{}-{node}", self.0))
    }

    /// The caller's end of the veth to the bridge.
    pub(crate) fn veth(&self) -> String {
        format!("skep-{}", self.0)
    }

    /// All network namespaces that carry this swarm's name, also those that the record does not have.
    pub(crate) fn all_netns(&self) -> Vec<PathBuf> {
        let prefix = format!("skep-{}-", self.0);
        let is_node = |suffix: &str| {
            suffix == "br"
                || ["manager-", "worker-"]
                    .iter()
                    .filter_map(|kind| suffix.strip_prefix(kind))
                    .any(|number| number.parse::<u16>().is_ok())
        };
        let mut found: Vec<PathBuf> = fs::read_dir(NETNS_ROOT)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.file_name().to_str().and_then(|n| n.strip_prefix(&prefix)).is_some_and(is_node))
            .map(|e| e.path())
            .collect();
        found.sort();
        found
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Manager,
    Worker,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Worker => "worker",
        }
    }
}

/// One node: a daemon in namespaces of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) address: Ipv4Addr,
    pub(crate) socket: PathBuf,
    pub(crate) netns: PathBuf,
    pub(crate) mntns: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) log: PathBuf,
    /// The daemon, once started.
    pub(crate) process: Option<ProcessId>,
    /// Its Docker Engine, where it has one and once that is started.
    pub(crate) dockerd: Option<ProcessId>,
    /// The swarm's id of this node, once joined: its cgroups carry it.
    pub(crate) node_id: Option<String>,
    /// The nodes that it is cut off from; each of them names it in turn.
    pub(crate) cut_from: BTreeSet<String>,
}

/// A whole development swarm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: SwarmName,
    /// The first three bytes of the /24.
    pub(crate) subnet: [u8; 3],
    pub(crate) log_level: String,
    /// What runs the tasks.
    pub(crate) engine: Engine,
    /// Further arguments of every daemon.
    pub(crate) daemon_args: Vec<String>,
    /// The `skep dev` that stays in the foreground, if one does.
    pub(crate) owner: Option<ProcessId>,
    pub(crate) nodes: Vec<Node>,
}

impl Record {
    /// Lays out a swarm; nothing is made yet.
    pub(crate) fn plan(name: &SwarmName, subnet: [u8; 3], n_managers: u8, n_workers: u8) -> Self {
        let managers = (1..=n_managers).map(|n| (Role::Manager, format!("manager-{n}")));
        let workers = (1..=n_workers).map(|n| (Role::Worker, format!("worker-{n}")));
        let nodes = managers
            .chain(workers)
            .zip(11_u8..)
            .map(|((role, node), last)| Node {
                role,
                address: Ipv4Addr::new(subnet[0], subnet[1], subnet[2], last),
                socket: name.run_dir().join(format!("{node}.sock")),
                netns: name.netns(&node),
                mntns: name.run_dir().join(format!("{node}.mnt")),
                state_dir: name.state_dir().join(&node),
                log: name.state_dir().join(format!("{node}.log")),
                process: None,
                dockerd: None,
                node_id: None,
                cut_from: BTreeSet::new(),
                name: node,
            })
            .collect();
        let (log_level, daemon_args) = ("info".to_owned(), Vec::new());
        let engine = Engine::default();
        Self { name: name.clone(), subnet, log_level, engine, daemon_args, owner: None, nodes }
    }

    /// The caller's address on the swarm's bridge.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.subnet[0], self.subnet[1], self.subnet[2], 1)
    }

    /// The manager that makes the swarm and that commands go to.
    pub(crate) fn manager(&self) -> anyhow::Result<&Node> {
        self.nodes
            .iter()
            .find(|n| n.role == Role::Manager)
            .with_context(|| format!("the swarm {} has no manager in its record", self.name))
    }

    pub(crate) fn node(&self, name: &str) -> anyhow::Result<&Node> {
        self.nodes.iter().find(|n| n.name == name).with_context(|| {
            let names: Vec<&str> = self.nodes.iter().map(|n| n.name.as_str()).collect();
            format!("the swarm {} has no node {name}; it has {}", self.name, names.join(", "))
        })
    }

    pub(crate) fn path(name: &SwarmName) -> PathBuf {
        name.state_dir().join("swarm.json")
    }

    /// Writes the record whole, or not at all.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let path = Self::path(&self.name);
        let tmp = path.with_extension("tmp");
        let write = || -> io::Result<()> {
            let mut file = File::create(&tmp)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            fs::rename(&tmp, &path)
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    /// Reads the record of `name`; `None` when no such swarm is here.
    pub(crate) fn load(name: &SwarmName) -> anyhow::Result<Option<Self>> {
        let path = Self::path(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err).with_context(|| format!("read {}", path.display())),
        };
        serde_json::from_slice(&bytes).with_context(|| format!("understand {}", path.display())).map(Some)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.owner.as_ref().is_some_and(ProcessId::is_alive)
            || self.nodes.iter().any(|n| n.process.as_ref().is_some_and(ProcessId::is_alive))
    }

    /// Other swarms' subnets, so that a new one takes a different one.
    pub(crate) fn subnets_in_use() -> Vec<[u8; 3]> {
        fs::read_dir(STATE_ROOT)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse::<SwarmName>().ok())
            .filter_map(|name| Self::load(&name).ok().flatten())
            .map(|record| record.subnet)
            .collect()
    }
}

/// Held while a name or a subnet is taken or given back; released when dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _dir: File,
}

impl Lock {
    /// Waits for the lock on the directory that all swarms share.
    pub(crate) fn take() -> anyhow::Result<Self> {
        loop {
            fs::create_dir_all(STATE_ROOT).with_context(|| format!("make {STATE_ROOT}"))?;
            let Ok(dir) = File::open(STATE_ROOT) else { continue };
            rustix::fs::flock(&dir, FlockOperation::LockExclusive)
                .with_context(|| format!("lock {STATE_ROOT}"))?;
            // The one that held it before may have removed the directory, as the last swarm's.
            let held = rustix::fs::fstat(&dir)?;
            if rustix::fs::stat(STATE_ROOT).is_ok_and(|now| now.st_ino == held.st_ino) {
                return Ok(Self { _dir: dir });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Record, SwarmName};

    #[test]
    fn names_fit_a_link_name_and_a_path() {
        for good in ["dev", "a", "dev-2", "0123456789"] {
            assert!(good.parse::<SwarmName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "Dev", "a/b", "..", "01234567890", "a b"] {
            assert!(bad.parse::<SwarmName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_plan_gives_each_node_its_own_address_and_paths() {
        let name: SwarmName = "dev".parse().unwrap();
        let record = Record::plan(&name, [10, 210, 7], 2, 2);
        let seen: Vec<String> = record.nodes.iter().map(|n| format!("{} {}", n.name, n.address)).collect();
        assert_eq!(
            seen,
            [
                "manager-1 10.210.7.11",
                "manager-2 10.210.7.12",
                "worker-1 10.210.7.13",
                "worker-2 10.210.7.14"
            ]
        );
        assert_eq!(record.node("worker-2").unwrap().netns.to_str(), Some("/run/netns/skep-dev-worker-2"));
        assert!(record.node("worker-3").is_err());
    }
}
