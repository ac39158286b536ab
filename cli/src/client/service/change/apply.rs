//! What the flags of `service update` do to a spec.

use std::collections::BTreeSet;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Edits, lists::strings};
use crate::client::flags;

pub(super) fn container(spec: &mut Value) -> &mut Value {
    &mut spec["TaskTemplate"]["ContainerSpec"]
}

/// Another image is made for other platforms than the one before.
pub(super) fn made_for(template: &mut Value, platforms: Vec<Value>) {
    if !platforms.is_empty() {
        template["Placement"]["Platforms"] = platforms.into();
    } else if let Some(placement) = template.get_mut("Placement").and_then(Value::as_object_mut) {
        placement.remove("Platforms");
    }
}

impl Edits {
    pub(super) fn apply(&self, spec: &mut Value) -> anyhow::Result<()> {
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
pub(crate) fn tidy(section: &mut Value) {
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
