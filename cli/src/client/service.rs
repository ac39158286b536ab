//! `skep service`.

mod change;
pub(crate) mod explain;
mod inspect;
mod networks;
mod rebalance;
mod rollout;
mod runs;
mod scale;
pub(crate) mod settings;
pub(crate) mod surroundings;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    connection::{Connection, escape},
    create,
    flags::filter,
    logs,
    output::{self, Format, image_name, natural, print, short, text},
    tasks,
};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Create a new service
    Create(Box<create::Create>),
    /// Say why tasks wait for a node, and what would make them fit
    Explain {
        #[arg(value_name = "SERVICE")]
        service: String,
    },
    /// Display detailed information on one or more services
    Inspect(inspect::Inspect),
    /// List services
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// List the tasks of one or more services
    Ps(tasks::Ps),
    /// Revert changes to a service's configuration
    Rollback {
        #[command(flatten)]
        waiting: settings::Waiting,
        /// To a past spec, by its number in `service history`
        #[arg(long, value_name = "NUMBER")]
        to: Option<u64>,
        #[arg(value_name = "SERVICE")]
        service: String,
    },
    /// Scale one or multiple replicated services
    Scale {
        /// Exit immediately instead of waiting for the service to converge
        #[arg(short, long)]
        detach: bool,
        #[arg(required = true, value_name = "SERVICE=REPLICAS")]
        targets: Vec<String>,
    },
    /// Pause a service's update: no further tasks are replaced
    Pause(rollout::RollOut),
    /// Go on with a service's paused update
    Resume(rollout::RollOut),
    /// End a service's update: back to the previous specification
    Abort(rollout::RollOut),
    /// List the specifications that a service had
    History(rollout::History),
    /// Move tasks of a service until its nodes are even
    Rebalance(rebalance::Flags),
    /// List the runs of a scheduled job
    Runs(runs::Flags),
    /// Update a service
    Update(Box<change::Change>),
    /// Remove one or more services
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true, value_name = "SERVICE")]
        services: Vec<String>,
    },
    /// Fetch the logs of a service or task
    Logs(logs::Logs),
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
        Command::Create(create) => create::run(daemon, *create).await,
        Command::Explain { service } => explain::run(daemon, &service).await,
        Command::Inspect(flags) => inspect::run(daemon, &flags).await,
        Command::Ls(flags) => ls(daemon, &flags).await,
        Command::Rollback { waiting, to: Some(number), service } => {
            rollout::back_to(daemon, &service, number, &waiting).await
        }
        Command::Rollback { waiting, to: None, service } => {
            change::roll_back(daemon, &service, &waiting).await
        }
        Command::Pause(flags) => flags.run(daemon, "pause").await,
        Command::Resume(flags) => flags.run(daemon, "resume").await,
        Command::Abort(flags) => flags.run(daemon, "abort").await,
        Command::History(flags) => flags.run(daemon).await,
        Command::Runs(flags) => runs::run(daemon, &flags).await,
        Command::Rebalance(flags) => rebalance::run(daemon, &flags).await,
        Command::Scale { detach, targets } => scale::run(daemon, &targets, detach).await,
        Command::Update(flags) => Box::pin(change::run(daemon, *flags)).await,
        Command::Ps(flags) => tasks::run(daemon, &flags).await,
        Command::Rm { services } => rm(daemon, &services).await,
        Command::Logs(flags) => logs::run(daemon, &flags).await,
    }
}

async fn ls(daemon: &Connection, flags: &Ls) -> anyhow::Result<()> {
    let format = Format::parse(flags.format.as_deref())?;
    let mut services = daemon.list("/services?status=true", &flags.filter).await?;
    services.sort_by(|a, b| natural(text(a, "/Spec/Name"), text(b, "/Spec/Name")));
    if flags.quiet {
        return print(
            &services.iter().map(|one| format!("{}\n", short(text(one, "/ID")))).collect::<String>(),
        );
    }
    let head = ["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"];
    output::list(format, &head, services.iter().map(row).collect())
}

fn row(service: &Value) -> (Vec<String>, Value) {
    let modes = [("Global", "global"), ("ReplicatedJob", "replicated job"), ("GlobalJob", "global job")];
    let mode = modes.into_iter().find(|(key, _)| service["Spec"]["Mode"].get(key).is_some());
    let mode = mode.map_or("replicated", |(_, word)| word);
    let count = |key: &str| service["ServiceStatus"][key].as_u64().unwrap_or(0);
    let mut replicas = format!("{}/{}", count("RunningTasks"), count("DesiredTasks"));
    let completed = count("CompletedTasks");
    let max = service.pointer("/Spec/TaskTemplate/Placement/MaxReplicas").and_then(Value::as_u64);
    match (mode, max) {
        ("replicated job", _) => {
            let total = service.pointer("/Spec/Mode/ReplicatedJob/TotalCompletions").and_then(Value::as_u64);
            replicas.push_str(&format!(" ({completed}/{} completed)", total.unwrap_or(1)));
        }
        ("global job", _) => {
            replicas.push_str(&format!(" ({completed}/{} completed)", count("DesiredTasks") + completed));
        }
        ("replicated", Some(max)) if max > 0 => replicas.push_str(&format!(" (max {max} per node)")),
        _ => {}
    }
    let (id, name) = (short(text(service, "/ID")), text(service, "/Spec/Name"));
    let image = image_name(text(service, "/Spec/TaskTemplate/ContainerSpec/Image"));
    let ports = ports(service["Endpoint"]["Ports"].as_array().map_or(&[], Vec::as_slice));
    let value =
        json!({ "ID": id, "Image": image, "Mode": mode, "Name": name, "Ports": ports, "Replicas": replicas });
    (vec![id.to_owned(), name.to_owned(), mode.to_owned(), replicas, image.to_owned(), ports], value)
}

/// First and last of consecutive ports.
type Range = (u64, u64);

/// `*:8080-8081->80-81/tcp`: the ports of the mesh, consecutive ones together.
fn ports(all: &[Value]) -> String {
    let number = |port: &Value, key: &str| port[key].as_u64().unwrap_or(0);
    let mut ports: Vec<(String, u64, u64)> = all
        .iter()
        .filter(|port| port["PublishMode"] == "ingress")
        .map(|port| {
            (text(port, "/Protocol").to_owned(), number(port, "PublishedPort"), number(port, "TargetPort"))
        })
        .collect();
    ports.sort();
    let mut groups: Vec<(String, Range, Range)> = Vec::new();
    for (protocol, published, target) in ports {
        match groups.last_mut() {
            Some((last, p, t)) if *last == protocol && p.1 + 1 == published && t.1 + 1 == target => {
                (p.1, t.1) = (published, target);
            }
            Some(_) | None => groups.push((protocol, (published, published), (target, target))),
        }
    }
    let range =
        |(first, last): Range| if first == last { first.to_string() } else { format!("{first}-{last}") };
    let words: Vec<String> = groups
        .into_iter()
        .map(|(protocol, p, t)| format!("*:{}->{}/{protocol}", range(p), range(t)))
        .collect();
    words.join(", ")
}

/// Removes what it can; says what it could not.
async fn rm(daemon: &Connection, services: &[String]) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for service in services {
        match daemon.delete(&format!("/services/{}", escape(service))).await {
            Ok(_) => print(&format!("{service}\n"))?,
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_grouped() {
        let port = |published: u16, target: u16, mode: &str| json!({ "Protocol": "tcp", "PublishedPort": published, "TargetPort": target, "PublishMode": mode });
        let all = [
            port(8081, 81, "ingress"),
            port(8080, 80, "ingress"),
            port(9000, 90, "ingress"),
            port(1, 1, "host"),
        ];
        assert_eq!(ports(&all), "*:8080-8081->80-81/tcp, *:9000->90/tcp");
        assert_eq!(ports(&[]), "");
    }
}
