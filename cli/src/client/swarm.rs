//! `skep swarm`.

mod backup;
mod ca;
mod lock;
mod recover;
mod ticket;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{
    connection::{Connection, escape},
    duration,
    output::{self, print, text},
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
    /// Display the swarm's settings
    Inspect,
    /// Display and rotate the root CA
    Ca(ca::Ca),
    /// Unlock this manager, which was locked when it started: the key is read from the terminal or stdin
    Unlock,
    /// Manage the unlock key
    UnlockKey(lock::UnlockKey),
    /// Update the swarm
    Update(Update),
    /// Write a backup of the swarm, or check one
    Backup(backup::Backup),
    /// Make a swarm of a backup, on a node without one
    Restore(backup::Restore),
    /// Show what this manager has, and go on alone with it where the other managers are lost
    Recover(recover::Recover),
    /// Explain the state directory of a stopped daemon, file by file
    Check(recover::Check),
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
    /// Enable manager autolocking (requiring an unlock key to start a stopped manager)
    #[arg(long)]
    autolock: bool,
    /// Validity period for node certificates (ns|us|ms|s|m|h); 90 days if not given
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    cert_expiry: Option<i64>,
    /// Certificate signing endpoint: protocol=cfssl,url=https://HOST/PATH[,cacert=FILE] (may be given several times)
    #[arg(long = "external-ca", value_name = "SPEC", value_parser = ca::external_ca)]
    external_cas: Vec<Value>,
    /// Force create a new cluster from current state
    #[arg(long)]
    force_new_cluster: bool,
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
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct JoinToken {
    #[command(subcommand)]
    ticket: Option<ticket::Command>,
    #[arg(required = true)]
    role: Option<Role>,
    /// Rotate join token: the old one is refused from then on
    #[arg(long)]
    rotate: bool,
    /// Only display token
    #[arg(short, long)]
    quiet: bool,
}

/// A setting that is not named stays as it is.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct Update {
    /// Task history retention limit; negative: keep all
    #[arg(long, allow_negative_numbers = true, value_name = "COUNT")]
    task_history_limit: Option<i64>,
    /// Dispatcher heartbeat period (ns|us|ms|s|m|h); a node without three beats is down
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    dispatcher_heartbeat: Option<i64>,
    /// Validity period for node certificates (ns|us|ms|s|m|h)
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    cert_expiry: Option<i64>,
    /// Certificate signing endpoint: protocol=cfssl,url=https://HOST/PATH[,cacert=FILE] (may be given several times)
    #[arg(long = "external-ca", value_name = "SPEC", value_parser = ca::external_ca)]
    external_cas: Vec<Value>,
    /// Change manager autolocking setting
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    autolock: Option<bool>,
    /// Number of additional Raft snapshots to retain
    #[arg(long, value_name = "COUNT")]
    max_snapshots: Option<u64>,
    /// Number of log entries between Raft snapshots
    #[arg(long, value_name = "COUNT")]
    snapshot_interval: Option<u64>,
}

impl Update {
    /// Puts what was named over the settings as they are.
    fn change(&self, spec: &mut Value) {
        let mut set = |section: &str, key: &str, value: Option<Value>| {
            if let Some(value) = value {
                spec[section][key] = value;
            }
        };
        set("Orchestration", "TaskHistoryRetentionLimit", self.task_history_limit.map(Value::from));
        set("Dispatcher", "HeartbeatPeriod", self.dispatcher_heartbeat.map(Value::from));
        set("CAConfig", "NodeCertExpiry", self.cert_expiry.map(Value::from));
        let external = (!self.external_cas.is_empty()).then(|| Value::from(self.external_cas.clone()));
        set("CAConfig", "ExternalCAs", external);
        set("EncryptionConfig", "AutoLockManagers", self.autolock.map(Value::from));
        set("Raft", "KeepOldSnapshots", self.max_snapshots.map(Value::from));
        set("Raft", "SnapshotInterval", self.snapshot_interval.map(Value::from));
    }
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

/// Carries out a command that needs no daemon; `None` of any other one.
pub(crate) fn without_daemon(command: &Command) -> Option<anyhow::Result<()>> {
    match command {
        Command::Check(flags) => Some(recover::check(flags)),
        Command::Backup(flags) => flags.verify.then(|| backup::verify(flags)),
        Command::Recover(flags) => flags.state_dir.as_ref().map(|dir| recover::closed(flags, dir)),
        Command::Init(_)
        | Command::Join(_)
        | Command::JoinToken(_)
        | Command::Inspect
        | Command::Ca(_)
        | Command::Unlock
        | Command::UnlockKey(_)
        | Command::Update(_)
        | Command::Restore(_)
        | Command::Leave { .. } => None,
    }
}

pub(crate) async fn run(daemon: &Connection, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Backup(flags) => backup::make(daemon, &flags).await,
        Command::Restore(flags) => backup::restore(daemon, &flags).await,
        Command::Recover(flags) => recover::running(daemon, &flags).await,
        Command::Check(flags) => recover::check(&flags),
        Command::Init(flags) => init(daemon, flags).await,
        Command::Join(flags) => join(daemon, flags).await,
        Command::JoinToken(flags) => join_token(daemon, &flags).await,
        Command::Inspect => inspect(daemon).await,
        Command::Ca(flags) => ca::run(daemon, &flags).await,
        Command::Unlock => lock::unlock(daemon).await,
        Command::UnlockKey(flags) => lock::unlock_key(daemon, &flags).await,
        Command::Update(flags) => update(daemon, &flags).await,
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
        "ForceNewCluster": flags.force_new_cluster,
        "AutoLockManagers": flags.autolock,
        "Spec": {
            "Name": "default",
            "CAConfig": { "NodeCertExpiry": flags.cert_expiry.unwrap_or_default(), "ExternalCAs": flags.external_cas },
        },
    });
    let answer = daemon.post("/swarm/init", &body).await?;
    let id = answer.as_str().context("the daemon did not say the node's id")?;
    print(&format!("Swarm initialized: current node ({id}) is now a manager.\n\n"))?;
    print(&how_to_join(daemon, Role::Worker).await?)?;
    print(
        "To add a manager to this swarm, run 'skep swarm join-token manager' and follow the instructions.\n\n",
    )?;
    if flags.autolock { lock::show(daemon).await } else { Ok(()) }
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

/// The swarm as the API shows it, without the tokens.
async fn inspect(daemon: &Connection) -> anyhow::Result<()> {
    let mut swarm = daemon.get("/swarm").await?;
    if let Some(map) = swarm.as_object_mut() {
        map.remove("JoinTokens");
    }
    output::json(&swarm)
}

async fn update(daemon: &Connection, flags: &Update) -> anyhow::Result<()> {
    let swarm = daemon.get("/swarm").await?;
    let mut spec = swarm["Spec"].clone();
    flags.change(&mut spec);
    daemon.post(&format!("/swarm/update?version={}", output::version(&swarm)?), &spec).await?;
    print("Swarm updated.\n")?;
    if flags.autolock == Some(true) && !lock::is_on(&swarm) { lock::show(daemon).await } else { Ok(()) }
}

async fn rotate(daemon: &Connection, role: Role) -> anyhow::Result<()> {
    let swarm = daemon.get("/swarm").await?;
    let key = match role {
        Role::Worker => "rotateWorkerToken",
        Role::Manager => "rotateManagerToken",
    };
    let path = format!("/swarm/update?version={}&{key}=true", output::version(&swarm)?);
    daemon.post(&path, &swarm["Spec"]).await.map(|_| ())
}

async fn join_token(daemon: &Connection, flags: &JoinToken) -> anyhow::Result<()> {
    let role = match (&flags.ticket, flags.role) {
        (Some(command), _) => return ticket::run(daemon, command).await,
        (None, Some(role)) => role,
        (None, None) => bail!("worker or manager expected"),
    };
    if flags.rotate {
        rotate(daemon, role).await?;
        if !flags.quiet {
            print(&format!("Successfully rotated {} join token.\n\n", role.word()))?;
        }
    }
    if flags.quiet {
        return print(&format!("{}\n", token(daemon, role).await?));
    }
    print(&how_to_join(daemon, role).await?)
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
    Ok(how_to_join_at(&manager_address(daemon).await?, role, &token))
}

async fn manager_address(daemon: &Connection) -> anyhow::Result<String> {
    let info = daemon.get("/info").await?;
    let node = daemon.get(&format!("/nodes/{}", escape(text(&info, "/Swarm/NodeID")))).await?;
    let address = text(&node, "/ManagerStatus/Addr");
    if address.is_empty() {
        bail!("the daemon does not say the address at which it manages");
    }
    Ok(address.to_owned())
}

fn how_to_join_at(address: &str, role: Role, token: &str) -> String {
    format!(
        "To add a {} to this swarm, run the following command:\n\n    skep swarm join --token {token} {address}\n\n",
        role.word()
    )
}
