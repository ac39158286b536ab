//! `skep service rebalance`: which tasks would move so that nodes are even, and having them moved.

use clap::Args;
use serde_json::{Value, json};

use crate::client::{
    connection::{Connection, escape},
    output::{print, short, table, text},
};

#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// Only show which tasks would move from where to where
    #[arg(long)]
    dry_run: bool,
    #[arg(value_name = "SERVICE")]
    service: String,
}

pub(super) async fn run(daemon: &Connection, flags: &Flags) -> anyhow::Result<()> {
    let path = format!("/skep/services/{}/rebalance", escape(&flags.service));
    let plan = if flags.dry_run { daemon.get(&path).await? } else { daemon.post(&path, &json!({})).await? };
    print(&said(&plan, flags.dry_run))
}

fn said(plan: &Value, is_dry: bool) -> String {
    let moves: Vec<&Value> = plan["Moves"].as_array().into_iter().flatten().collect();
    let held = text(plan, "/Held");
    if !held.is_empty() {
        let then = if is_dry { "nothing moves" } else { "nothing moves until that is over" };
        return format!("{held}: {then}\n");
    }
    if moves.is_empty() {
        return "nothing to move: the nodes are as even as they can be\n".to_owned();
    }
    let mut rows = vec![["TASK", "ID", "FROM", "TO"].map(str::to_owned).to_vec()];
    for one in &moves {
        // As `service ps` names it.
        let name = text(one, "/Task/Name").rsplit_once('.').map_or("", |(name, _)| name);
        let id = short(text(one, "/Task/ID"));
        let (from, to) = (text(one, "/From/Hostname"), text(one, "/To/Hostname"));
        rows.push([name, id, from, to].map(str::to_owned).to_vec());
    }
    let mut out = table(&rows);
    if !is_dry {
        let n = plan["MovesPerMinute"].as_u64().unwrap_or(0);
        out.push_str(&format!("tasks move one after the other, at most {n} a minute\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_shown_as_a_table() {
        let plan = json!({
            "Moves": [{
                "Task": { "ID": "abcdefghijklmnop", "Name": "web.3.abcdefghijklmnop", "Slot": 3 },
                "From": { "Hostname": "a" },
                "To": { "Hostname": "b" },
            }],
            "MovesPerMinute": 4,
            "Held": "",
        });
        let rows = "TASK      ID             FROM      TO\nweb.3     abcdefghijkl   a         b\n";
        assert_eq!(said(&plan, true), rows);
        let then = "tasks move one after the other, at most 4 a minute\n";
        assert_eq!(said(&plan, false), format!("{rows}{then}"));
        let even = json!({ "Moves": [], "Held": "" });
        assert!(said(&even, true).starts_with("nothing to move"));
        let held = json!({ "Moves": [], "Held": "a task does not run yet" });
        assert_eq!(said(&held, false), "a task does not run yet: nothing moves until that is over\n");
    }
}
