//! The daemon's flags, checked once.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use skep_agent::runtime::Registries;
use skep_api::{object::GenericResource, validate::size};

use super::{DaemonArgs, EngineFlag, address, machine};

/// What the daemon runs with.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) state_dir: PathBuf,
    pub(super) socket: PathBuf,
    /// The same socket for tasks that mount it, alone in a directory that stays.
    pub(super) api_socket: PathBuf,
    /// `None`: found when it is needed.
    pub(super) advertise_addr: Option<Ipv4Addr>,
    /// Not found, but named.
    pub(super) is_addr_given: bool,
    pub(super) data_path_addr: Option<Ipv4Addr>,
    pub(super) node_name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) generic: Vec<GenericResource>,
    pub(super) nano_cpus: i64,
    pub(super) memory_bytes: i64,
    pub(super) shim: PathBuf,
    /// Between a leading manager's heartbeats.
    pub(super) raft_heartbeat: Duration,
    /// Least and most time without one before an election.
    pub(super) raft_election: (Duration, Duration),
    pub(super) engine: EngineFlag,
    pub(super) docker_socket: PathBuf,
    /// Where the unlock key of the swarm is, if a machine is to start unattended.
    pub(super) unlock_key_file: Option<PathBuf>,
    /// How registries are trusted.
    pub(super) registries: Registries,
    /// How many files this process could have open before it raised that, and may: what containers get.
    pub(super) open_files: Option<(u64, u64)>,
}

impl Settings {
    pub(super) fn of(args: &DaemonArgs) -> anyhow::Result<Self> {
        let Some(socket) = args.socket.strip_prefix("unix://").filter(|path| path.starts_with('/')) else {
            bail!(
                "--socket: '{}': only unix:///path is served; a TCP listener needs client certificates, which come later",
                args.socket
            );
        };
        let mut labels = BTreeMap::new();
        for label in &args.labels {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            if key.is_empty() {
                bail!("--label: '{label}': expected KEY=VALUE");
            }
            labels.insert(key.to_owned(), value.to_owned());
        }
        let exe = std::env::current_exe().context("cannot find this program's own file")?;
        let shim = exe.with_file_name("skep-shim");
        if !shim.exists() {
            bail!(
                "{} is missing: the shim belongs beside the program; build or install both",
                shim.display()
            );
        }
        Ok(Self {
            state_dir: absolute(&args.state_dir)?,
            api_socket: format!("{socket}.d/docker.sock").into(),
            socket: socket.into(),
            is_addr_given: args.advertise_addr.is_some(),
            advertise_addr: args.advertise_addr.or_else(address::of_default_route),
            data_path_addr: args.data_path_addr,
            node_name: args.node_name.clone().unwrap_or_else(machine::hostname),
            labels,
            generic: GenericResource::parse_all(args.generic_resources.iter().map(String::as_str))
                .map_err(|words| anyhow::anyhow!("--node-generic-resource: {words}"))?,
            nano_cpus: cpus(args.cpus)?,
            memory_bytes: memory(args.memory.as_deref())?,
            shim,
            raft_heartbeat: Duration::from_millis(args.raft_heartbeat),
            raft_election: election(args.raft_heartbeat, args.raft_election)?,
            engine: args.engine,
            docker_socket: args.docker_socket.clone(),
            unlock_key_file: args.unlock_key_file.clone().or_else(credential),
            registries: registries(&args.insecure_registries)?,
            open_files: None,
        })
    }
}

/// What systemd hands to its services (`LoadCredential=skep-unlock-key:...`).
fn credential() -> Option<PathBuf> {
    let dir = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    Some(PathBuf::from(dir).join("skep-unlock-key")).filter(|path| path.exists())
}

fn registries(insecure: &[String]) -> anyhow::Result<Registries> {
    let mut registries = Registries::default();
    for text in insecure {
        registries.add_insecure(text).map_err(|words| anyhow::anyhow!("--insecure-registry: {words}"))?;
    }
    Ok(registries)
}

fn absolute(path: &std::path::Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("--state-dir: '{}' is no path", path.display()))
}

/// Swarm's elections wait at least 3 heartbeats too (`SK:manager/state/raft`); a lost one must be no crisis.
fn election(heartbeat_ms: u64, least_ms: u64) -> anyhow::Result<(Duration, Duration)> {
    if least_ms < 3 * heartbeat_ms {
        bail!(
            "--raft-election: {least_ms} ms is too short for heartbeats of {heartbeat_ms} ms: at least three times as much"
        );
    }
    Ok((Duration::from_millis(least_ms), Duration::from_millis(2 * least_ms)))
}

fn cpus(asked: Option<f64>) -> anyhow::Result<i64> {
    let Some(cpus) = asked else { return Ok(machine::nano_cpus()) };
    if !(0.001..=65_536.0).contains(&cpus) {
        bail!("--cpus: {cpus}: expected a number from 0.001");
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked to be in range just above")]
    let nanos = (cpus * 1e9).round() as i64;
    Ok(nanos)
}

fn memory(asked: Option<&str>) -> anyhow::Result<i64> {
    let Some(text) = asked else { return Ok(machine::memory_bytes()) };
    let bytes = size(text).with_context(|| format!("--memory: '{text}': expected bytes, or 512m, 2g"))?;
    i64::try_from(bytes).with_context(|| format!("--memory: '{text}' is too much"))
}
