//! `skep service update --network-add` and `--network-rm`: what a service is attached to.

use anyhow::bail;
use serde_json::{Value, json};

use crate::client::{
    connection::{Connection, escape},
    output::text,
};

/// Changes the attachments in `spec`, which the daemon keeps by the networks' ids.
pub(super) async fn apply(
    daemon: &Connection,
    spec: &mut Value,
    add: &[String],
    remove: &[String],
) -> anyhow::Result<()> {
    if add.is_empty() && remove.is_empty() {
        return Ok(());
    }
    let (add, remove) = (ids(daemon, add).await?, ids(daemon, remove).await?);
    edit(spec, &add, &remove)
}

/// Name and id of each.
async fn ids(daemon: &Connection, names: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for name in names {
        let network = daemon.get(&format!("/networks/{}", escape(name))).await?;
        found.push((name.clone(), text(&network, "/Id").to_owned()));
    }
    Ok(found)
}

/// Docker's order is that of the ids (`CLI:cli/command/service/update.go`).
fn edit(spec: &mut Value, add: &[(String, String)], remove: &[(String, String)]) -> anyhow::Result<()> {
    let mut all = spec["TaskTemplate"]["Networks"].as_array().cloned().unwrap_or_default();
    let is = |one: &Value, (name, id): &(String, String)| one["Target"] == **id || one["Target"] == **name;
    for network in remove {
        all.retain(|one| !is(one, network));
    }
    for network in add {
        if all.iter().any(|one| is(one, network)) {
            bail!("service is already attached to network {}", network.0);
        }
        all.push(json!({ "Target": network.1 }));
    }
    all.sort_by_key(|one| text(one, "/Target").to_owned());
    spec["TaskTemplate"]["Networks"] = if all.is_empty() { Value::Null } else { all.into() };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_come_and_go_by_name_and_id() {
        let pair = |name: &str, id: &str| (name.to_owned(), id.to_owned());
        let mut spec = json!({ "TaskTemplate": { "Networks": [{ "Target": "id2", "Aliases": ["a"] }] } });
        edit(&mut spec, &[pair("one", "id1")], &[]).unwrap();
        let both = json!([{ "Target": "id1" }, { "Target": "id2", "Aliases": ["a"] }]);
        assert_eq!(spec["TaskTemplate"]["Networks"], both);
        let error = edit(&mut spec, &[pair("two", "id2")], &[]).unwrap_err();
        assert_eq!(error.to_string(), "service is already attached to network two");
        edit(&mut spec, &[], &[pair("one", "id1"), pair("two", "id2")]).unwrap();
        assert_eq!(spec["TaskTemplate"]["Networks"], Value::Null);
    }
}
