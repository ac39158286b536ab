//! `skep node`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    connection::Connection,
    flags::filter,
    output::{self, Format, capital, natural, print, text},
};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List nodes in the swarm
    #[command(visible_alias = "list")]
    Ls(Ls),
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
        Command::Ls(flags) => ls(daemon, &flags).await,
    }
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
