//! `skep swarm`.

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{
    connection::{Connection, escape},
    output::{print, text},
};

const LISTEN_DEFAULT: &str = "0.0.0.0:2377";

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Initialize a swarm
    Init(Init),
    /// Join a swarm as a node and/or manager
    Join(Join),
    /// Show how to join
    JoinToken(JoinToken),
    /// Leave the swarm
    Leave {
        /// Force this node to leave the swarm, ignoring warnings
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Init {
    /// Advertised address (format: "<ip|interface>[:port]")
    #[arg(long, default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Listen address (format: "<ip|interface>[:port]")
    #[arg(long, default_value = LISTEN_DEFAULT)]
    listen_addr: String,
    /// Address or interface to use for data path traffic
    #[arg(long, default_value = "", hide_default_value = true)]
    data_path_addr: String,
    /// Port number to use for data path traffic (1024 - 49151); 0: 4789
    #[arg(long, default_value_t = 0)]
    data_path_port: u32,
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, default_value = "active")]
    availability: String,
}

#[derive(Args, Debug)]
pub(crate) struct Join {
    /// Token for entry into the swarm
    #[arg(long, default_value = "", hide_default_value = true)]
    token: String,
    /// Advertised address (format: "<ip|interface>[:port]")
    #[arg(long, default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Listen address (format: "<ip|interface>[:port]")
    #[arg(long, default_value = LISTEN_DEFAULT)]
    listen_addr: String,
    /// Address or interface to use for data path traffic
    #[arg(long, default_value = "", hide_default_value = true)]
    data_path_addr: String,
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, default_value = "active")]
    availability: String,
    /// A manager
    #[arg(value_name = "HOST:PORT")]
    remote: String,
}

#[derive(Args, Debug)]
pub(crate) struct JoinToken {
    role: Role,
    /// Only display token
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Worker,
    Manager,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

pub(crate) async fn run(daemon: &Connection, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init(flags) => init(daemon, flags).await,
        Command::Join(flags) => join(daemon, flags).await,
        Command::JoinToken(flags) => join_token(daemon, &flags).await,
        Command::Leave { force } => {
            daemon.post(&format!("/swarm/leave?force={}", u8::from(force)), &json!({})).await?;
            print("Node left the swarm.\n")
        }
    }
}

async fn init(daemon: &Connection, flags: Init) -> anyhow::Result<()> {
    let body = json!({
        "ListenAddr": flags.listen_addr,
        "AdvertiseAddr": flags.advertise_addr,
        "DataPathAddr": flags.data_path_addr,
        "DataPathPort": flags.data_path_port,
        "Availability": flags.availability,
        "Spec": { "Name": "default" },
    });
    let answer = daemon.post("/swarm/init", &body).await?;
    let id = answer.as_str().context("the daemon did not say the node's id")?;
    print(&format!("Swarm initialized: current node ({id}) is now a manager.\n\n"))?;
    print(&how_to_join(daemon, Role::Worker).await?)?;
    print(
        "To add a manager to this swarm, run 'skep swarm join-token manager' and follow the instructions.\n\n",
    )
}

async fn join(daemon: &Connection, flags: Join) -> anyhow::Result<()> {
    let body = json!({
        "ListenAddr": flags.listen_addr,
        "AdvertiseAddr": flags.advertise_addr,
        "DataPathAddr": flags.data_path_addr,
        "RemoteAddrs": [flags.remote],
        "JoinToken": flags.token,
        "Availability": flags.availability,
    });
    daemon.post("/swarm/join", &body).await?;
    let info = daemon.get("/info").await?;
    let is_manager = info.pointer("/Swarm/ControlAvailable") == Some(&Value::Bool(true));
    print(&format!("This node joined a swarm as a {}.\n", if is_manager { "manager" } else { "worker" }))
}

async fn join_token(daemon: &Connection, flags: &JoinToken) -> anyhow::Result<()> {
    if flags.quiet {
        return print(&format!("{}\n", token(daemon, flags.role).await?));
    }
    print(&how_to_join(daemon, flags.role).await?)
}

async fn token(daemon: &Connection, role: Role) -> anyhow::Result<String> {
    let swarm = daemon.get("/swarm").await?;
    let pointer = match role {
        Role::Worker => "/JoinTokens/Worker",
        Role::Manager => "/JoinTokens/Manager",
    };
    Ok(text(&swarm, pointer).to_owned())
}

async fn how_to_join(daemon: &Connection, role: Role) -> anyhow::Result<String> {
    let token = token(daemon, role).await?;
    let info = daemon.get("/info").await?;
    let node = daemon.get(&format!("/nodes/{}", escape(text(&info, "/Swarm/NodeID")))).await?;
    let address = text(&node, "/ManagerStatus/Addr");
    if address.is_empty() {
        bail!("the daemon does not say the address at which it manages");
    }
    Ok(format!(
        "To add a {} to this swarm, run the following command:\n\n    skep swarm join --token {token} {address}\n\n",
        role.word()
    ))
}
