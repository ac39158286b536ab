//! `skep service update`: the spec as the daemon shows it, changed where flags say so.
//!
//! It is changed as JSON, so that what this build does not know of it stays. What the flags do to lists is
//! docker's (`CLI:cli/command/service/update.go`): sets are sorted, an unchanged list changes no task.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};
use skep_api::spec::{Mount, PortConfig};

use super::networks;
use super::settings::{Amounts, Process, Restart, Rollback, Update, Waiting};
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
        warning = pin(daemon, &mut image).await;
        container(&mut spec)["Image"] = image.into();
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

fn container(spec: &mut Value) -> &mut Value {
    &mut spec["TaskTemplate"]["ContainerSpec"]
}

impl Edits {
    fn apply(&self, spec: &mut Value) -> anyhow::Result<()> {
        self.lists.apply(spec)?;
        over(container(spec), &self.process.container()?)?;
        capabilities(container(spec), &self.process.cap_add, &self.process.cap_drop);
        if let Some(line) = &self.args {
            let words =
                flags::words(line).map_err(anyhow::Error::msg).context("invalid argument for --args")?;
            container(spec)["Args"] = words.into();
        }
        if let Some(replicas) = self.replicas {
            let mode = spec
                .pointer_mut("/Mode/Replicated")
                .context("replicas can only be used with replicated mode")?;
            mode["Replicas"] = replicas.into();
        }
        if let Some(mode) = &self.endpoint_mode {
            spec["EndpointSpec"]["Mode"] = mode.as_str().into();
        }
        let template = &mut spec["TaskTemplate"];
        if let Some(n_max) = self.replicas_max_per_node {
            template["Placement"]["MaxReplicas"] = n_max.into();
        }
        if self.force {
            let count = template["ForceUpdate"].as_u64().unwrap_or(0);
            template["ForceUpdate"] = count.saturating_add(1).into();
        }
        if let Some(driver) = self.process.log_driver() {
            template["LogDriver"] = serde_json::to_value(driver)?;
        }
        if let Some(amounts) = self.resources.requirements() {
            over(&mut template["Resources"], &amounts)?;
        }
        group(&mut template["RestartPolicy"], self.restart.given(), self.restart.policy())?;
        group(&mut spec["UpdateConfig"], self.update.given(), self.update.config())?;
        group(&mut spec["RollbackConfig"], self.rolling_back.given(), self.rolling_back.config())?;
        // Looking at an absent section made an empty one.
        tidy(spec);
        tidy(&mut spec["TaskTemplate"]);
        Ok(())
    }
}

/// Takes out the members that are null.
fn tidy(section: &mut Value) {
    if let Some(map) = section.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
}

/// Puts what `part` has over what is there.
fn over(there: &mut Value, part: &impl Serialize) -> anyhow::Result<()> {
    fn merge(there: &mut Value, part: Value) {
        match part {
            Value::Object(members) => {
                if !there.is_object() {
                    *there = Value::Object(Map::new());
                }
                members.into_iter().for_each(|(key, value)| merge(&mut there[key], value));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                *there = part
            }
        }
    }
    let part = serde_json::to_value(part)?;
    if part.as_object().is_some_and(|part| !part.is_empty()) {
        merge(there, part);
    }
    Ok(())
}

/// A group of flags: over what is there, or whole where there is nothing.
fn group<T: Serialize>(there: &mut Value, given: Option<T>, whole: Option<T>) -> anyhow::Result<()> {
    let part = if there.is_null() { whole } else { given };
    part.map_or(Ok(()), |part| over(there, &part))
}

impl Lists {
    fn apply(&self, spec: &mut Value) -> anyhow::Result<()> {
        labels(&mut spec["Labels"], &self.label_add, &self.label_rm);
        let container = container(spec);
        labels(&mut container["Labels"], &self.container_label_add, &self.container_label_rm);
        keyed(&mut container["Env"], &self.env_add, &self.env_rm);
        words(&mut container["Groups"], &self.group_add, &self.group_rm);
        self.hosts(&mut container["Hosts"]);
        self.mounts(&mut container["Mounts"])?;
        tidy(container);
        self.ports(spec)?;
        let mut placement = spec["TaskTemplate"]["Placement"].take();
        words(&mut placement["Constraints"], &self.constraint_add, &self.constraint_rm);
        self.preferences(&mut placement["Preferences"]);
        tidy(&mut placement);
        if placement.as_object().is_some_and(|map| !map.is_empty()) {
            spec["TaskTemplate"]["Placement"] = placement;
        }
        Ok(())
    }

    fn hosts(&self, hosts: &mut Value) {
        if self.host_add.is_empty() && self.host_rm.is_empty() {
            return;
        }
        let mut kept: Vec<String> = Vec::new();
        for entry in strings(hosts) {
            let mut words = entry.split_ascii_whitespace();
            let ip = words.next().unwrap_or_default();
            let is_gone = |name: &str| {
                self.host_rm.iter().any(|gone| match gone.split_once(':') {
                    Some((host, address)) => host == name && address == ip,
                    None => gone == name,
                })
            };
            let names: Vec<&str> = words.filter(|name| !is_gone(name)).collect();
            if !names.is_empty() {
                kept.push(format!("{ip} {}", names.join(" ")));
            }
        }
        for entry in &self.host_add {
            if !kept.contains(entry) {
                kept.push(entry.clone());
            }
        }
        *hosts = kept.into();
    }

    fn mounts(&self, mounts: &mut Value) -> anyhow::Result<()> {
        if self.mount_add.is_empty() && self.mount_rm.is_empty() {
            return Ok(());
        }
        let mut targets = BTreeSet::new();
        ensure!(
            self.mount_add.iter().all(|mount| targets.insert(mount.target.as_str())),
            "duplicate mount target"
        );
        let is_kept = |mount: &Value| {
            let target = text(mount, "/Target");
            !targets.contains(target) && !self.mount_rm.iter().any(|gone| gone == target)
        };
        let mut all: Vec<Value> = members(mounts).into_iter().filter(is_kept).collect();
        for mount in &self.mount_add {
            all.push(serde_json::to_value(mount)?);
        }
        all.sort_by(|a, b| {
            (text(a, "/Source"), text(a, "/Target")).cmp(&(text(b, "/Source"), text(b, "/Target")))
        });
        *mounts = all.into();
        Ok(())
    }

    fn ports(&self, spec: &mut Value) -> anyhow::Result<()> {
        if self.publish_add.is_empty() && self.publish_rm.is_empty() {
            return Ok(());
        }
        let ports = &mut spec["EndpointSpec"]["Ports"];
        let gone: Vec<&PortConfig> = self.publish_rm.iter().flat_map(|ports| &ports.0).collect();
        let mut all: Vec<PortConfig> =
            serde_json::from_value(members(ports).into()).context("the service's ports")?;
        all.retain(|port| {
            let is = |gone: &&PortConfig| {
                port.target_port == gone.target_port
                    && port.protocol() == gone.protocol()
                    && port.is_ingress() == gone.is_ingress()
            };
            !gone.iter().any(is)
        });
        let key = |port: &PortConfig| {
            (port.published_port, port.target_port, port.protocol().to_owned(), port.is_ingress())
        };
        for port in self.publish_add.iter().flat_map(|ports| &ports.0) {
            if !all.iter().any(|other| key(other) == key(port)) {
                all.push(port.clone());
            }
        }
        all.sort_by_key(key);
        *ports = serde_json::to_value(all)?;
        Ok(())
    }

    fn preferences(&self, preferences: &mut Value) {
        if self.placement_pref_add.is_empty() && self.placement_pref_rm.is_empty() {
            return;
        }
        let is_kept = |one: &Value| {
            !self.placement_pref_rm.iter().any(|gone| gone == text(one, "/Spread/SpreadDescriptor"))
        };
        let mut all: Vec<Value> = members(preferences).into_iter().filter(is_kept).collect();
        let fresh = self.placement_pref_add.iter();
        all.extend(fresh.map(|descriptor| json!({ "Spread": { "SpreadDescriptor": descriptor } })));
        *preferences = all.into();
    }
}

fn members(list: &Value) -> Vec<Value> {
    list.as_array().cloned().unwrap_or_default()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A set of words: sorted, so that what does not change anything changes no task.
fn words(list: &mut Value, add: &[String], gone: &[String]) {
    if add.is_empty() && gone.is_empty() {
        return;
    }
    let all: BTreeSet<String> =
        strings(list).into_iter().chain(add.iter().cloned()).filter(|word| !gone.contains(word)).collect();
    *list = all.into_iter().collect::<Vec<_>>().into();
}

/// `KEY=value`: one of a key, in its old place.
fn keyed(list: &mut Value, add: &[String], gone: &[String]) {
    if add.is_empty() && gone.is_empty() {
        return;
    }
    let key = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
    let mut all: Vec<String> = strings(list).into_iter().filter(|one| !gone.contains(&key(one))).collect();
    for one in add {
        match all.iter_mut().find(|old| key(old) == key(one)) {
            Some(old) => one.clone_into(old),
            None => all.push(one.clone()),
        }
    }
    *list = all.into();
}

fn labels(map: &mut Value, add: &[String], gone: &[String]) {
    if add.is_empty() && gone.is_empty() {
        return;
    }
    if !map.is_object() {
        *map = Value::Object(Map::new());
    }
    if let Some(map) = map.as_object_mut() {
        gone.iter().for_each(|key| {
            map.shift_remove(key);
        });
        map.extend(flags::labels(add).into_iter().map(|(key, value)| (key, value.into())));
    }
}

/// Adding takes a capability off the dropped ones first, and the other way round: only a second time puts
/// it on the list.
fn capabilities(container: &mut Value, add: &[String], drop: &[String]) {
    if add.is_empty() && drop.is_empty() {
        return;
    }
    let name = |word: &String| {
        let word = word.to_ascii_uppercase();
        if word == "ALL" || word == "RESET" || word.starts_with("CAP_") {
            word
        } else {
            format!("CAP_{word}")
        }
    };
    let set = |list: &[String]| list.iter().map(name).collect::<BTreeSet<String>>();
    let (mut add, mut drop) = (set(add), set(drop));
    let mut added = set(&strings(&container["CapabilityAdd"]));
    let mut dropped = set(&strings(&container["CapabilityDrop"]));
    if add.remove("RESET") {
        added.clear();
    }
    if drop.remove("RESET") {
        dropped.clear();
    }
    for one in drop.difference(&add) {
        if !added.remove(one) {
            dropped.insert(one.clone());
        }
    }
    for one in add {
        if !dropped.remove(&one) {
            added.insert(one);
        }
    }
    for (key, all) in [("CapabilityAdd", added), ("CapabilityDrop", dropped)] {
        let all = if all.contains("ALL") { BTreeSet::from(["ALL".to_owned()]) } else { all };
        container[key] = all.into_iter().collect::<Vec<_>>().into();
    }
}

#[cfg(test)]
mod tests;
