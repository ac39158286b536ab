//! One node's daemon: started in its namespaces, restarted, stopped.
//!
//! The daemon is reached by a re-exec (`skep dev node-exec`) that enters the namespaces while it is one
//! thread alone. The mount namespace is pinned, so a restarted daemon finds its mounts as on a real host.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use hyper::Method;
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use serde_json::Value;
use tokio::time::Instant;

use super::dockerd::Engine;
use super::process::ProcessId;
use super::record::{Node, Record};
use super::{api, dockerd, namespaces};

/// The longest that a daemon may take from its start to its first answer.
const START_WAIT_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
/// How much of a log is shown when a daemon fails.
const LOG_TAIL_LINES: usize = 30;

/// Enters a node's namespaces, then becomes its daemon.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeExecArgs {
    /// Pinned network namespace to enter
    #[arg(long)]
    netns: PathBuf,
    /// Pinned mount namespace to enter
    #[arg(long)]
    mntns: PathBuf,
    /// Host name in a UTS namespace of its own
    #[arg(long)]
    hostname: String,
    /// What to run in place of `skep`
    #[arg(long)]
    program: Option<PathBuf>,
    /// Its arguments
    #[arg(last = true)]
    command: Vec<String>,
}

/// Returns only when something failed.
pub(crate) fn exec(args: &NodeExecArgs) -> anyhow::Result<std::process::ExitCode> {
    let own = std::env::current_exe().context("find our own program")?;
    let program = args.program.clone().unwrap_or(own);
    let netns = std::fs::File::open(&args.netns).with_context(|| format!("open {}", args.netns.display()))?;
    // Away from the terminal, whose Ctrl-C is for `skep dev`; it fails only for a leader of its own.
    let _ = rustix::process::setsid();
    namespaces::unshare(UnshareFlags::FS | UnshareFlags::NEWUTS)?;
    namespaces::enter(&args.mntns, LinkNameSpaceType::Mount)?;
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&netns),
        Some(LinkNameSpaceType::Network),
    )
    .with_context(|| format!("enter the namespace {}", args.netns.display()))?;
    std::fs::write("/proc/sys/kernel/hostname", &args.hostname).context("set the host name")?;
    std::env::set_current_dir("/")?;
    Err(Command::new(&program).args(&args.command).exec())
        .with_context(|| format!("run {}", program.display()))
}

/// What all daemons of a swarm are started with.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    log_level: String,
    engine: Engine,
    further: Vec<String>,
}

impl Flags {
    pub(crate) fn of(record: &Record) -> Self {
        let (log_level, further) = (record.log_level.clone(), record.daemon_args.clone());
        Self { log_level, engine: record.engine, further }
    }
}

/// A command in the node's namespaces, ready for its arguments: `program`, or `skep` itself.
pub(crate) fn enter(node: &Node, program: Option<&str>) -> anyhow::Result<tokio::process::Command> {
    let own = std::env::current_exe().context("find our own program")?;
    let mut command = tokio::process::Command::new(own);
    command.args(["dev", "node-exec", "--hostname", &node.name]);
    command.arg("--netns").arg(&node.netns).arg("--mntns").arg(&node.mntns);
    command.args(program.map(|program| format!("--program={program}")));
    command.arg("--");
    Ok(command)
}

/// Starts the daemon of `node`; the caller saves the record afterwards.
pub(crate) fn spawn(node: &mut Node, flags: &Flags) -> anyhow::Result<()> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&node.log)
        .with_context(|| format!("open {}", node.log.display()))?;
    let address = node.address.to_string();
    let child = enter(node, None)?
        // The host's own config is not for these.
        .args(["daemon", "--config", "/dev/null", "--state-dir"])
        .arg(&node.state_dir)
        .args(["--socket", &format!("unix://{}", node.socket.display())])
        .args(["--advertise-addr", &address, "--data-path-addr", &address])
        .args(["--node-name", &node.name, "--log-level", &flags.log_level])
        .args(flags.engine.flags(node))
        .args(&flags.further)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start the daemon of {}", node.name))?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).context("a daemon ended at once")?;
    node.process = ProcessId::of(pid);
    Ok(())
}

/// Waits until the daemon answers; on failure the error carries the end of its log.
pub(crate) async fn answers(node: &Node) -> anyhow::Result<()> {
    let until = Instant::now() + START_WAIT_MAX;
    loop {
        let Err(err) = api::call(&node.socket, Method::GET, "/_ping", &Value::Null).await else {
            return Ok(());
        };
        if !node.process.as_ref().is_some_and(ProcessId::is_alive) {
            bail!("the daemon of {} ended while starting; its log ends:\n{}", node.name, log_tail(node));
        }
        if Instant::now() >= until {
            let limit = START_WAIT_MAX.as_secs();
            return Err(err).with_context(|| {
                format!(
                    "the daemon of {} does not answer after {limit} s; its log ends:\n{}",
                    node.name,
                    log_tail(node)
                )
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Stops the daemon with `signal`, kills it after `limit`; its tasks stay.
pub(crate) async fn stop(node: &Node, signal: Signal, limit: Duration) {
    let Some(process) = &node.process else { return };
    process.signal(signal);
    // A frozen one would hear nothing but SIGKILL.
    process.signal(Signal::CONT);
    if !process.ended(limit).await {
        process.signal(Signal::KILL);
        process.ended(limit).await;
    }
}

/// Restarts the daemon of `name` (after SIGTERM if it runs) with its recorded state.
pub(crate) async fn restart(record: &mut Record, name: &str, stop_limit: Duration) -> anyhow::Result<()> {
    record.node(name)?;
    dockerd::start(record, |n| n == name).await?;
    let flags = Flags::of(record);
    for node in record.nodes.iter_mut().filter(|n| n.name == name) {
        stop(node, Signal::TERM, stop_limit).await;
        spawn(node, &flags)?;
    }
    record.save()?;
    answers(record.node(name)?).await
}

/// The last lines of a node's log.
pub(crate) fn log_tail(node: &Node) -> String {
    tail(&node.log)
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}
