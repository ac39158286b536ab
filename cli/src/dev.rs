//! `skep dev`: a whole swarm on this machine, each node a daemon in namespaces of its own.
//!
//! The one builder of clusters: people use it to try things, the end-to-end tests to run on. It needs
//! root and this program, nothing else. Invariant: whatever ends it (Ctrl-C, a failed start, `down`, the
//! next start after a crash), nothing of it is left on the machine.

mod api;
mod dockerd;
mod down;
mod fault;
mod image;
mod namespaces;
mod network;
mod node;
mod process;
mod record;
mod rtnl;
mod start;
mod status;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use record::{Record, SwarmName};

/// How often `skep dev` in the foreground looks whether another call has taken the swarm down.
const RECORD_POLL: Duration = Duration::from_millis(500);
/// The longest that a daemon may take to end before `restart-node` kills it.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(10);

/// Run a swarm on this machine, each node in a network namespace of its own
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    command: Option<DevCommand>,
    #[command(flatten)]
    up: UpArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    /// Number of managers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    managers: u8,
    /// Number of workers beside the managers
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=200))]
    workers: u8,
    /// Name of the swarm; several with different names may run side by side
    #[arg(long, default_value = "dev")]
    name: SwarmName,
    /// Leave it running until `skep dev down`
    #[arg(long)]
    detach: bool,
    /// Published port of the example service
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    publish: u16,
    /// Number of replicas of the example service
    #[arg(long, default_value_t = 3)]
    replicas: u16,
    /// Start the swarm alone, without the example image and service
    #[arg(long)]
    no_example: bool,
    /// Start the daemons alone: you form the swarm by `docker swarm init` and `join`
    #[arg(long, conflicts_with = "publish")]
    no_swarm: bool,
    /// What runs the tasks
    #[arg(long, value_enum, default_value_t)]
    engine: dockerd::Engine,
    /// How much the daemons log
    #[arg(long, default_value = "info")]
    log_level: String,
    /// Further flags of every daemon, after `--`
    #[arg(last = true, value_name = "DAEMON_FLAG")]
    daemon_args: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Take a swarm down
    Down(NameArgs),
    /// Show a swarm's nodes and published services
    Status(StatusArgs),
    /// Kill a node's daemon, as a crash would
    KillNode(KillNodeArgs),
    /// Start a node's daemon again on the state that it had
    RestartNode(NodeArgs),
    /// Cut a node off from the others: what they send each other is lost
    Cut(CutOffArgs),
    /// Undo cuts of a node
    Heal(CutArgs),
    /// Stop a node's daemon as it stands (SIGSTOP), as a machine that hangs
    Freeze(FreezeArgs),
    /// Let a frozen node go on
    Thaw(NodeArgs),
    #[command(hide = true)]
    NodeExec(node::NodeExecArgs),
}

#[derive(Args, Debug)]
struct NameArgs {
    /// Name of the swarm
    #[arg(long, default_value = "dev")]
    name: SwarmName,
}

#[derive(Args, Debug)]
struct StatusArgs {
    #[command(flatten)]
    swarm: NameArgs,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Show the nodes alone, without asking them anything
    #[arg(long)]
    nodes: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Args, Debug)]
struct NodeArgs {
    /// Name of the node, such as worker-1
    node: String,
    #[command(flatten)]
    swarm: NameArgs,
}

#[derive(Args, Debug)]
struct CutArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Only from these nodes (default: from all)
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    from: Vec<String>,
}

#[derive(Args, Debug)]
struct CutOffArgs {
    #[command(flatten)]
    cut: CutArgs,
    /// Lose only what NODE sends; what the others send it arrives
    #[arg(long)]
    one_way: bool,
}

#[derive(Args, Debug)]
struct FreezeArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Freeze its tasks too
    #[arg(long)]
    tasks: bool,
}

#[derive(Args, Debug)]
struct KillNodeArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Kill its tasks too, as the loss of the machine would
    #[arg(long)]
    tasks: bool,
}

/// Runs `skep dev` to its end.
///
/// # Errors
/// When this is not root, a step of the start fails (all is then taken down again), or something is left.
pub(crate) fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("skep dev makes namespaces and mounts: run it as root");
    }
    if let Some(DevCommand::NodeExec(exec)) = &args.command {
        // Before any runtime: the namespaces are entered by a process of one thread.
        return node::exec(exec);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(dispatch(args))
}

async fn dispatch(args: DevArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        None => up(&args.up).await?,
        Some(DevCommand::Down(swarm)) => take_down(&swarm.name).await?,
        Some(DevCommand::Status(args)) => {
            let status = status::Status::of(&known(&args.swarm.name)?, !args.nodes).await;
            match args.format {
                Format::Table => status.show(),
                Format::Json => start::say(&serde_json::to_string(&status)?),
            }
        }
        Some(DevCommand::KillNode(args)) => {
            let record = known(&args.node.swarm.name)?;
            let n_killed = down::kill_node(&record, &args.node.node, args.tasks).await?;
            start::say(&format!("Killed {n_killed} processes of {}.", args.node.node));
        }
        Some(DevCommand::RestartNode(args)) => {
            node::restart(&mut known(&args.swarm.name)?, &args.node, RESTART_WAIT_MAX).await?;
            start::say(&format!("The daemon of {} runs again.", args.node));
        }
        Some(DevCommand::Cut(CutOffArgs { cut: CutArgs { node, from }, one_way })) => {
            let ways = if one_way { fault::Ways::From } else { fault::Ways::Both };
            let n = fault::cut(&mut known(&node.swarm.name)?, &node.node, &from, ways)?;
            start::say(&match ways {
                fault::Ways::Both => format!("{} is cut off from {n} nodes.", node.node),
                fault::Ways::From => format!("What {} sends to {n} nodes is lost.", node.node),
            });
        }
        Some(DevCommand::Heal(args)) => {
            let n = fault::heal(&mut known(&args.node.swarm.name)?, &args.node.node, &args.from)?;
            start::say(&format!("{} reaches {n} more nodes again.", args.node.node));
        }
        Some(DevCommand::Freeze(args)) => {
            let n = fault::freeze(&known(&args.node.swarm.name)?, &args.node.node, args.tasks)?;
            start::say(&format!("Froze {n} processes of {}.", args.node.node));
        }
        Some(DevCommand::Thaw(args)) => {
            let n = fault::thaw(&known(&args.swarm.name)?, &args.node)?;
            start::say(&format!("{n} processes of {} go on.", args.node));
        }
        Some(DevCommand::NodeExec(exec)) => return node::exec(&exec),
    }
    Ok(ExitCode::SUCCESS)
}

fn known(name: &SwarmName) -> anyhow::Result<Record> {
    Record::load(name)?
        .with_context(|| format!("no swarm {name} is here; `skep dev --name {name}` starts it"))
}

async fn up(args: &UpArgs) -> anyhow::Result<()> {
    let mut interrupted = Interrupt::listen()?;
    let mut record = start::reserve(args).await?;
    let started = tokio::select! {
        result = start::bring_up(&mut record, args) => result.map(|()| true),
        () = interrupted.wait() => Ok(false),
    };
    match started {
        Err(err) => {
            let left = down::whole(&record).await.into_result();
            // The first error is the one to act on; what is left comes second.
            return Err(match left {
                Ok(()) => err,
                Err(left) => err.context(format!("{left:#}")),
            });
        }
        Ok(true) if args.detach => {
            record.owner = None;
            record.save()?;
            start::tell(&record, args);
            return Ok(());
        }
        Ok(true) => {
            start::tell(&record, args);
            tokio::select! {
                () = interrupted.wait() => {}
                () = taken_down(&args.name) => {
                    start::say(&format!("The swarm {} was taken down by another call.", args.name));
                    return Ok(());
                }
            }
        }
        Ok(false) => {}
    }
    start::say(&format!("\nTaking the swarm {} down.", args.name));
    // A node may have been restarted by another call meanwhile.
    let record = Record::load(&args.name)?.unwrap_or(record);
    down::whole(&record).await.into_result()
}

/// Returns when the swarm's record is gone.
async fn taken_down(name: &SwarmName) {
    while matches!(Record::load(name), Ok(Some(_))) {
        tokio::time::sleep(RECORD_POLL).await;
    }
}

async fn take_down(name: &SwarmName) -> anyhow::Result<()> {
    let Some(record) = Record::load(name)? else {
        down::traces(name).await.into_result()?;
        start::say(&format!("No swarm {name} is here."));
        return Ok(());
    };
    let n_nodes = record.nodes.len();
    down::whole(&record).await.into_result()?;
    start::say(&format!("The swarm {name} with its {n_nodes} nodes is gone."));
    Ok(())
}

/// The signals that ask for an end: Ctrl-C, a plain kill, a closed terminal.
struct Interrupt([tokio::signal::unix::Signal; 3]);

impl Interrupt {
    fn listen() -> anyhow::Result<Self> {
        let of = |kind| signal(kind).context("listen for signals");
        Ok(Self([of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?]))
    }

    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
