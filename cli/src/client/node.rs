//! `skep node`.

mod change;
mod inspect;
mod retire;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    connection::{Connection, escape},
    flags::filter,
    output::{self, Format, capital, natural, print, text},
    tasks,
};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Demote one or more nodes from manager in the swarm
    Demote {
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Display detailed information on one or more nodes
    Inspect(inspect::Inspect),
    /// List nodes in the swarm
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Promote one or more nodes to manager in the swarm
    Promote {
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// List tasks running on one or more nodes, defaults to current node
    Ps(tasks::NodePs),
    /// Take a node out of the swarm safely: demote, drain, wait, remove
    Retire(retire::Retire),
    /// Remove one or more nodes from the swarm
    #[command(visible_alias = "remove")]
    Rm {
        /// Force remove a node from the swarm
        #[arg(short, long)]
        force: bool,
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Update a node
    Update(change::Update),
}

#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// Filter output based on conditions provided
    #[arg(short, long, value_parser = filter)]
    filter: Vec<(String, String)>,
    /// 'table' or 'json'
    #[arg(long)]
    format: Option<String>,
    /// Only display IDs
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(daemon: &Connection, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demote { nodes } => change::set_role(daemon, &nodes, "worker").await,
        Command::Inspect(flags) => inspect::run(daemon, &flags).await,
        Command::Ls(flags) => ls(daemon, &flags).await,
        Command::Promote { nodes } => change::set_role(daemon, &nodes, "manager").await,
        Command::Ps(flags) => tasks::of_nodes(daemon, &flags).await,
        Command::Retire(flags) => Box::pin(retire::run(daemon, &flags)).await,
        Command::Rm { force, nodes } => change::remove(daemon, &nodes, force).await,
        Command::Update(flags) => change::update(daemon, &flags).await,
    }
}

/// The node meant by `word`; `self` is the one that answers.
pub(crate) async fn find(daemon: &Connection, word: &str) -> anyhow::Result<Value> {
    let id = if word == "self" {
        // A real dockerd does not know the word: its own client asks so too.
        let info = daemon.get("/info").await?;
        let id = text(&info, "/Swarm/NodeID").to_owned();
        if id.is_empty() { word.to_owned() } else { id }
    } else {
        word.to_owned()
    };
    daemon.get(&format!("/nodes/{}", escape(&id))).await
}

async fn ls(daemon: &Connection, flags: &Ls) -> anyhow::Result<()> {
    let format = Format::parse(flags.format.as_deref())?;
    let mut nodes = daemon.list("/nodes", &flags.filter).await?;
    nodes.sort_by(|a, b| natural(text(a, "/Description/Hostname"), text(b, "/Description/Hostname")));
    if flags.quiet {
        return print(&nodes.iter().map(|node| format!("{}\n", text(node, "/ID"))).collect::<String>());
    }
    let info = daemon.get("/info").await?;
    let own = text(&info, "/Swarm/NodeID");
    let head = ["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION"];
    output::list(format, &head, nodes.iter().map(|node| row(node, own)).collect())
}

fn row(node: &Value, own: &str) -> (Vec<String>, Value) {
    let id = text(node, "/ID");
    let manager = if node.pointer("/ManagerStatus/Leader") == Some(&Value::Bool(true)) {
        "Leader".to_owned()
    } else {
        capital(text(node, "/ManagerStatus/Reachability"))
    };
    let (hostname, version) =
        (text(node, "/Description/Hostname"), text(node, "/Description/Engine/EngineVersion"));
    let (status, availability) =
        (capital(text(node, "/Status/State")), capital(text(node, "/Spec/Availability")));
    let value = json!({
        "Availability": availability,
        "EngineVersion": version,
        "Hostname": hostname,
        "ID": id,
        "ManagerStatus": manager,
        "Self": id == own,
        "Status": status,
        "TLSStatus": "Ready",
    });
    let shown = if id == own { format!("{id} *") } else { format!("{id}  ") };
    (vec![shown, hostname.to_owned(), status, availability, manager, version.to_owned()], value)
}
