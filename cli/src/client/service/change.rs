//! `skep service update`: the spec as the daemon shows it, changed where flags say so.
//!
//! It is changed as JSON, so that what this build does not know of it stays. What the flags do to lists is
//! docker's (`CLI:cli/command/service/update.go`): sets are sorted, an unchanged list changes no task.

mod apply;
mod lists;

use anyhow::ensure;
use clap::Args;
use serde_json::Value;
use skep_api::spec::{GenericAmount, Mount};

use self::apply::{container, made_for};
pub(super) use self::{
    apply::tidy,
    lists::{labels, members, words},
};
use super::networks;
use super::settings::{Amounts, Process, Restart, Rollback, Update, Waiting};
use super::surroundings::SurroundingsChange;
use crate::client::{
    connection::{Connection, escape},
    create::{pin, warn, with_tag},
    flags,
    output::{self, print, text},
    progress,
};

const IMAGE: &str = "/TaskTemplate/ContainerSpec/Image";

#[derive(Args, Debug, Default)]
pub(crate) struct Change {
    #[command(flatten)]
    edits: Edits,
    /// Rollback to previous specification
    #[arg(long)]
    rollback: bool,
    /// Send registry authentication details to swarm agents
    #[arg(long)]
    with_registry_auth: bool,
    #[command(flatten)]
    waiting: Waiting,
    #[arg(value_name = "SERVICE")]
    service: String,
}

#[derive(Args, Debug, Default, PartialEq)]
struct Edits {
    /// Service image tag
    #[arg(long)]
    image: Option<String>,
    /// Service command args
    #[arg(long, allow_hyphen_values = true)]
    args: Option<String>,
    /// Number of tasks
    #[arg(long)]
    replicas: Option<u64>,
    /// Maximum number of tasks per node (0 = unlimited)
    #[arg(long)]
    replicas_max_per_node: Option<u64>,
    /// Endpoint mode (vip or dnsrr)
    #[arg(long)]
    endpoint_mode: Option<String>,
    /// Force update even if no changes require it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    lists: Lists,
    #[command(flatten)]
    process: Process,
    #[command(flatten)]
    resources: Amounts,
    #[command(flatten)]
    restart: Restart,
    #[command(flatten)]
    update: Update,
    #[command(flatten)]
    rolling_back: Rollback,
}

#[derive(Args, Debug, Default, PartialEq)]
struct Lists {
    /// Add or update an environment variable
    #[arg(long, value_parser = flags::env)]
    env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long)]
    env_rm: Vec<String>,
    /// Add or update a service label
    #[arg(long)]
    label_add: Vec<String>,
    /// Remove a label by its key
    #[arg(long)]
    label_rm: Vec<String>,
    /// Add or update a container label
    #[arg(long)]
    container_label_add: Vec<String>,
    /// Remove a container label by its key
    #[arg(long)]
    container_label_rm: Vec<String>,
    /// Add or update a published port
    #[arg(long, value_parser = flags::ports)]
    publish_add: Vec<flags::Ports>,
    /// Remove a published port by its target port
    #[arg(long, value_parser = flags::ports)]
    publish_rm: Vec<flags::Ports>,
    /// Add or update a placement constraint
    #[arg(long)]
    constraint_add: Vec<String>,
    /// Remove a constraint
    #[arg(long)]
    constraint_rm: Vec<String>,
    /// Add a placement preference
    #[arg(long, value_parser = flags::spread)]
    placement_pref_add: Vec<String>,
    /// Remove a placement preference
    #[arg(long, value_parser = flags::spread)]
    placement_pref_rm: Vec<String>,
    /// Add a Generic resource
    #[arg(long, value_name = "KIND=NUMBER", value_parser = flags::generic)]
    generic_resource_add: Vec<GenericAmount>,
    /// Remove a Generic resource
    #[arg(long, value_name = "KIND")]
    generic_resource_rm: Vec<String>,
    /// Add or update a mount on a service
    #[arg(long, value_parser = flags::mount)]
    mount_add: Vec<Mount>,
    /// Remove a mount by its target path
    #[arg(long)]
    mount_rm: Vec<String>,
    /// Add an additional supplementary user group to the container
    #[arg(long)]
    group_add: Vec<String>,
    /// Remove a previously added supplementary user group from the container
    #[arg(long)]
    group_rm: Vec<String>,
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long, value_parser = flags::host)]
    host_add: Vec<String>,
    /// Remove a custom host-to-IP mapping (host:ip)
    #[arg(long, value_name = "HOST[:IP]")]
    host_rm: Vec<String>,
    /// Add a network
    #[arg(long, value_name = "NETWORK")]
    network_add: Vec<String>,
    /// Remove a network
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    #[command(flatten)]
    surroundings: SurroundingsChange,
}

/// Updates the service and waits for it, unless told not to.
pub(crate) async fn run(daemon: &Connection, flags: Change) -> anyhow::Result<()> {
    let Change { edits, rollback, with_registry_auth, waiting, service: word } = flags;
    if rollback {
        ensure!(edits == Edits::default(), "other flags may not be combined with --rollback");
        return roll_back(daemon, &word, &waiting).await;
    }
    let service = daemon.get(&format!("/services/{}", escape(&word))).await?;
    let mut spec = service["Spec"].clone();
    edits.apply(&mut spec)?;
    networks::apply(daemon, &mut spec, &edits.lists.network_add, &edits.lists.network_rm).await?;
    let mut warning = None;
    let mut daemon = daemon.clone();
    if with_registry_auth {
        let image = edits.image.clone().unwrap_or_else(|| text(&spec, IMAGE).to_owned());
        daemon = daemon.logged_in_for(&image)?;
    }
    let daemon = &daemon;
    if let Some(image) = &edits.image {
        let mut image = with_tag(image);
        let pinned = pin(daemon, &mut image).await;
        container(&mut spec)["Image"] = image.into();
        made_for(&mut spec["TaskTemplate"], pinned.platforms);
        warning = pinned.warning;
    }
    send(daemon, &service, &spec, "&registryAuthFrom=spec").await?;
    if let Some(warning) = warning {
        eprintln!("{warning}");
    }
    print(&format!("{word}\n"))?;
    if waiting.detach { Ok(()) } else { progress::wait(daemon, &word, waiting.quiet, false).await }
}

/// `skep service rollback`
pub(crate) async fn roll_back(daemon: &Connection, word: &str, waiting: &Waiting) -> anyhow::Result<()> {
    let service = daemon.get(&format!("/services/{}", escape(word))).await?;
    send(daemon, &service, &service["Spec"], "&rollback=previous").await?;
    print(&format!("{word}\n"))?;
    if waiting.detach { Ok(()) } else { progress::wait(daemon, word, waiting.quiet, true).await }
}

/// Writes `spec` over the version that `service` shows.
pub(crate) async fn send(
    daemon: &Connection,
    service: &Value,
    spec: &Value,
    parameters: &str,
) -> anyhow::Result<()> {
    let (id, version) = (text(service, "/ID"), output::version(service)?);
    let path = format!("/services/{id}/update?version={version}{parameters}");
    warn(&daemon.post(&path, spec).await?);
    Ok(())
}

#[cfg(test)]
mod tests;
