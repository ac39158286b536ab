//! The daemon: the only place where manager, agent and API server are put together.
//!
//! Stopping it never stops tasks; a new start on the same state directory takes them up again.

mod address;
mod anew;
mod choice;
mod clash;
mod config;
mod engine;
mod listener;
mod lock;
mod machine;
mod member;
mod node;
pub(crate) mod offline;
mod renewal;
mod role;
mod room;
mod settings;
mod stopping;
mod swarm;

use std::{
    ffi::OsString, io::Write as _, net::Ipv4Addr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};

pub(crate) use choice::EngineFlag;
use node::Node;

/// A daemon that was killed has closed its socket by then; one that still answers is alive.
const PREDECESSOR_GONE_AFTER: Duration = Duration::from_secs(2);

/// `skep daemon`, and what is asked of one that runs.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DaemonCommand {
    #[command(subcommand)]
    pub(crate) asked: Option<Asked>,
    #[command(flatten)]
    _args: DaemonArgs,
}

/// What is asked of the daemon that runs.
#[derive(Subcommand, Debug)]
pub(crate) enum Asked {
    /// Stop the daemon; its tasks run on, and the next one takes them up
    Stop(StopArgs),
}

/// `skep daemon stop`.
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// The machine goes away: its tasks are replaced on other nodes at once, not after a minute without a daemon
    #[arg(long)]
    pub(crate) shutdown: bool,
}

/// `skep daemon`: each long flag is a key of the config file too.
#[derive(Args, Debug, Clone)]
pub(crate) struct DaemonArgs {
    /// Config file; its keys are these flags, which win over it (default: /etc/skep/skep.toml if it is there)
    #[arg(long, value_name = "FILE", overrides_with = "config")]
    pub(crate) config: Option<PathBuf>,
    /// Check the settings, print them with their origin, and exit
    #[arg(long)]
    pub(crate) check: bool,
    /// Where this node keeps everything
    #[arg(long, default_value = "/var/lib/skep", value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
    /// Where the API is served
    #[arg(long, default_value = "unix:///run/skep/skep.sock", value_name = "URL")]
    pub(crate) socket: String,
    /// Address under which other nodes reach this one (default: of the default route)
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_addr: Option<Ipv4Addr>,
    /// Address of the traffic between tasks (default: the advertise address)
    #[arg(long, value_name = "IP")]
    pub(crate) data_path_addr: Option<Ipv4Addr>,
    /// Name of this node (default: the host's name)
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Engine label, for constraints on engine.labels (may be given several times)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Generic resources to offer: KIND=NUMBER, or KIND=NAME for each one (may be given several times)
    #[arg(long = "node-generic-resource", value_name = "KIND=VALUE")]
    pub(crate) generic_resources: Vec<String>,
    /// CPUs to offer (default: all)
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<f64>,
    /// Memory to offer, in bytes or with a unit as in 2g (default: all)
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory: Option<String>,
    /// Milliseconds between the heartbeats of the leading manager
    #[arg(long, default_value_t = 50, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=10_000))]
    pub(crate) raft_heartbeat: u64,
    /// Least milliseconds without one after which a manager stands for election; the most are twice as many
    #[arg(long, default_value_t = 250, value_name = "MS", value_parser = clap::value_parser!(u64).range(50..=60_000))]
    pub(crate) raft_election: u64,
    /// What runs the tasks
    #[arg(long, value_enum, default_value_t)]
    pub(crate) engine: EngineFlag,
    /// Where the Docker Engine of this machine listens
    #[arg(long, default_value = "/var/run/docker.sock", value_name = "PATH")]
    pub(crate) docker_socket: PathBuf,
    /// Registry whose certificate is not checked and that may speak plain HTTP: HOST, HOST:PORT or a
    /// network as 10.0.0.0/8; this machine itself always is one (may be given several times)
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub(crate) insecure_registries: Vec<String>,
    /// File with the unlock key of the swarm, so that a locked manager starts unattended (default: the systemd
    /// credential skep-unlock-key, if there is one)
    #[arg(long, value_name = "FILE")]
    pub(crate) unlock_key_file: Option<PathBuf>,
    /// error, warn, info, debug or trace
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub(crate) log_level: String,
}

/// Runs until SIGTERM or SIGINT. `words` are the arguments after `skep daemon`.
///
/// # Errors
/// What the daemon cannot start without, with what to do.
pub(crate) fn run(words: &[OsString]) -> anyhow::Result<ExitCode> {
    let effective = config::Effective::of(words)?;
    let args = &effective.args;
    let mut settings = settings::Settings::of(args)?;
    let filter = log_filter(&args.log_level)?;
    if args.check {
        std::io::stdout().write_all(effective.text().as_bytes()).context("print the settings")?;
        return Ok(ExitCode::SUCCESS);
    }
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    settings.open_files = raise_open_files();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(serve(settings))?;
    Ok(ExitCode::SUCCESS)
}

/// Lets this process have as many files open as it may raise that to: a manager has one for each agent, and the usual
/// 1,024 are too few. Says what it was, and what it may be, if these differ: containers get that.
fn raise_open_files() -> Option<(u64, u64)> {
    let limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current?, limit.maximum?);
    let raised = Rlimit { current: Some(hard), maximum: Some(hard) };
    (soft < hard && setrlimit(Resource::Nofile, raised).is_ok()).then_some((soft, hard))
}

/// What is logged at `level`. A library is heard one step less than we are: with a manager away, openraft
/// warns of it at every heartbeat, twenty times a second, where one line of ours says it.
fn log_filter(level: &str) -> anyhow::Result<tracing_subscriber::EnvFilter> {
    let filter = tracing_subscriber::EnvFilter::try_new(level)
        .with_context(|| format!("--log-level: '{level}' is no level"))?;
    if level.contains("openraft") {
        return Ok(filter);
    }
    let theirs = match filter.max_level_hint() {
        Some(max) if max <= tracing::level_filters::LevelFilter::INFO => "openraft=error",
        Some(_) | None => "openraft=warn",
    };
    Ok(filter.add_directive(theirs.parse().context("the filter for openraft")?))
}

async fn serve(settings: settings::Settings) -> anyhow::Result<()> {
    // Before anything is started, so that no early signal is lost.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let listener = listen(&settings.socket).await?;
    share(&settings.socket, &settings.api_socket)?;
    let node = Arc::new(Node::start(settings.clone()).await?);
    tracing::info!(socket = %settings.socket.display(), "serving the API");
    let asked = node.clone();
    let stopping = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = asked.asked_to_stop() => {}
        }
        tracing::info!("stopping; tasks stay");
    };
    let served = crate::http::serve(listener, node.clone(), stopping).await;
    node.stop().await;
    // The next start would remove a stale one as well.
    std::fs::remove_file(&settings.socket).unwrap_or_default();
    served.context("the API server ended")
}

/// Listens on the socket, for root alone. A stale one of a daemon that is gone is replaced.
async fn listen(path: &std::path::Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::{fs::PermissionsExt as _, net::UnixStream};
    let dir = path.parent().context("--socket: the path has no directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // One that was killed may take a moment to be gone.
    let limit = tokio::time::Instant::now() + PREDECESSOR_GONE_AFTER;
    while UnixStream::connect(path).is_ok() && tokio::time::Instant::now() < limit {
        // Its other files (the log's lock, its port) close a moment after the socket.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if UnixStream::connect(path).is_ok() {
        anyhow::bail!("another daemon serves {}; stop it, or give this one its own --socket", path.display());
    }
    if path.exists() {
        std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {}", path.display()))?;
    Ok(listener)
}

/// Gives the socket a second name in a directory of its own, which tasks may mount: the directory stays as it
/// is over every start, and nothing else is in it.
fn share(socket: &std::path::Path, api_socket: &std::path::Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let dir = api_socket.parent().context("the socket of tasks has no directory")?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let fresh = api_socket.with_extension("new");
    // Of a daemon that was killed just here.
    std::fs::remove_file(&fresh).unwrap_or_default();
    std::fs::hard_link(socket, &fresh)
        .and_then(|()| std::fs::rename(&fresh, api_socket))
        .with_context(|| format!("cannot make {}", api_socket.display()))
}

#[cfg(test)]
mod tests {
    use super::log_filter;

    #[test]
    fn openraft_says_less_unless_it_is_named() {
        let shown = |level: &str| log_filter(level).unwrap().to_string();
        assert!(shown("info").contains("openraft=error"));
        assert!(shown("debug").contains("openraft=warn"));
        assert!(shown("info,openraft=debug").contains("openraft=debug"));
        assert!(log_filter("skep=loud").is_err());
    }
}
