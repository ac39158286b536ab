//! What the flags of `service update` do to lists (`CLI:cli/command/service/update.go`): sets are sorted, an
//! unchanged list changes no task.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};
use skep_api::spec::PortConfig;

use super::{
    Lists,
    apply::{container, tidy},
};
use crate::client::{flags, output::text};

impl Lists {
    pub(super) fn apply(&self, spec: &mut Value) -> anyhow::Result<()> {
        labels(&mut spec["Labels"], &self.label_add, &self.label_rm);
        let container = container(spec);
        labels(&mut container["Labels"], &self.container_label_add, &self.container_label_rm);
        keyed(&mut container["Env"], &self.env_add, &self.env_rm);
        words(&mut container["Groups"], &self.group_add, &self.group_rm);
        self.hosts(&mut container["Hosts"]);
        self.mounts(&mut container["Mounts"])?;
        self.surroundings.apply(container);
        tidy(container);
        self.ports(spec)?;
        self.generic(&mut spec["TaskTemplate"])?;
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

    /// One of each kind: another number takes the place of the one before. What is to go has to be there, also just added.
    fn generic(&self, template: &mut Value) -> anyhow::Result<()> {
        if self.generic_resource_add.is_empty() && self.generic_resource_rm.is_empty() {
            return Ok(());
        }
        let all = &mut template["Resources"]["Reservations"]["GenericResources"];
        let kind = |one: &Value| text(one, "/DiscreteResourceSpec/Kind").to_owned();
        let added: Vec<Value> = self.generic_resource_add.iter().map(|amount| json!(amount)).collect();
        let mut kept = members(all);
        kept.retain(|one| !added.iter().any(|new| kind(new) == kind(one)));
        kept.extend(added);
        for gone in &self.generic_resource_rm {
            let before = kept.len();
            kept.retain(|one| kind(one) != *gone);
            ensure!(kept.len() < before, "could not find generic-resource `{gone}` to remove it");
        }
        *all = kept.into();
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

pub(crate) fn members(list: &Value) -> Vec<Value> {
    list.as_array().cloned().unwrap_or_default()
}

pub(super) fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A set of words: sorted, so that what does not change anything changes no task.
pub(crate) fn words(list: &mut Value, add: &[String], gone: &[String]) {
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

pub(crate) fn labels(map: &mut Value, add: &[String], gone: &[String]) {
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
