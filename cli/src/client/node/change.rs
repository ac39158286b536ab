//! `skep node update`, `promote`, `demote`, `rm`.

use anyhow::{bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::find;
use crate::client::{
    connection::{Connection, escape},
    flags,
    output::{self, print, text},
};

#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long)]
    availability: Option<String>,
    /// Role of the node ("worker", "manager")
    #[arg(long)]
    role: Option<String>,
    /// Add or update a node label (key=value)
    #[arg(long)]
    label_add: Vec<String>,
    /// Remove a node label if exists
    #[arg(long)]
    label_rm: Vec<String>,
    #[arg(value_name = "NODE")]
    node: String,
}

impl Update {
    fn change(&self, spec: &mut Value) -> anyhow::Result<()> {
        for (key, word) in [("Availability", &self.availability), ("Role", &self.role)] {
            if let Some(word) = word {
                spec[key] = word.as_str().into();
            }
        }
        if !spec["Labels"].is_object() {
            spec["Labels"] = json!({});
        }
        let Some(labels) = spec["Labels"].as_object_mut() else { return Ok(()) };
        labels.extend(flags::labels(&self.label_add).into_iter().map(|(key, value)| (key, value.into())));
        for key in &self.label_rm {
            ensure!(labels.shift_remove(key).is_some(), "key {key} doesn't exist in node's labels");
        }
        Ok(())
    }
}

/// Writes `spec` over the version that `node` shows.
pub(super) async fn send(daemon: &Connection, node: &Value, spec: &Value) -> anyhow::Result<()> {
    let (id, version) = (text(node, "/ID"), output::version(node)?);
    daemon.post(&format!("/nodes/{id}/update?version={version}"), spec).await.map(|_| ())
}

pub(crate) async fn update(daemon: &Connection, flags: &Update) -> anyhow::Result<()> {
    let node = find(daemon, &flags.node).await?;
    let mut spec = node["Spec"].clone();
    flags.change(&mut spec)?;
    send(daemon, &node, &spec).await?;
    print(&format!("{}\n", flags.node))
}

/// Promotes or demotes, one after the other.
pub(crate) async fn set_role(daemon: &Connection, nodes: &[String], role: &str) -> anyhow::Result<()> {
    for word in nodes {
        let node = find(daemon, word).await?;
        if text(&node, "/Spec/Role") == role {
            print(&format!("Node {} is already a {role}.\n", text(&node, "/ID")))?;
            continue;
        }
        let mut spec = node["Spec"].clone();
        spec["Role"] = role.into();
        send(daemon, &node, &spec).await?;
        print(&match role {
            "manager" => format!("Node {word} promoted to a manager in the swarm.\n"),
            _ => format!("Manager {word} demoted in the swarm.\n"),
        })?;
    }
    Ok(())
}

/// Removes what it can; says what it could not.
pub(crate) async fn remove(daemon: &Connection, nodes: &[String], force: bool) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for word in nodes {
        match daemon.delete(&format!("/nodes/{}?force={}", escape(word), u8::from(force))).await {
            Ok(_) => print(&format!("{word}\n"))?,
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_added_and_taken_off() {
        let mut spec = json!({ "Role": "worker", "Availability": "active", "Labels": { "a": "1", "b": "" } });
        let flags = |rm: &str| Update {
            availability: Some("drain".into()),
            role: None,
            label_add: vec!["a=2".into(), "c".into()],
            label_rm: vec![rm.to_owned()],
            node: "n".into(),
        };
        flags("b").change(&mut spec).unwrap();
        assert_eq!(
            spec,
            json!({ "Role": "worker", "Availability": "drain", "Labels": { "a": "2", "c": "" } })
        );
        let error = flags("b").change(&mut spec).unwrap_err();
        assert_eq!(error.to_string(), "key b doesn't exist in node's labels");
    }
}
