//! `skep swarm join-token create`, `ls`, `revoke`: tokens for joining that end, are used up, and give labels.

use std::collections::BTreeMap;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skep_link::JoinToken;

use super::{Role, how_to_join_at, manager_address};
use crate::client::{
    connection::{Connection, escape},
    duration,
    output::{self, Format, print, text},
};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a join token that ends, is used up, and gives labels to the nodes that join with it
    Create(Create),
    /// List these join tokens
    Ls {
        /// 'table' or 'json'
        #[arg(long)]
        format: Option<String>,
    },
    /// Take such a join token back: it is refused from then on
    Revoke {
        /// Its ID, the beginning of that, or the token
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// What a node that joins with it becomes
    #[arg(long, default_value = "worker")]
    role: Role,
    /// How long it is valid (ns|us|ms|s|m|h); 0s: for ever
    #[arg(long, value_parser = duration::parse, default_value = "1h", value_name = "DURATION")]
    ttl: i64,
    /// How many nodes may join with it; 0: any number
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    uses: u32,
    /// Label of the nodes that join with it (may be given several times)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Only display token
    #[arg(short, long)]
    quiet: bool,
}

pub(super) async fn run(daemon: &Connection, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Create(flags) => create(daemon, flags).await,
        Command::Ls { format } => {
            let format = Format::parse(format.as_deref())?;
            let tickets = daemon.list("/skep/swarm/tickets", &[]).await?;
            let head = ["ID", "ROLE", "STATE", "USES LEFT", "EXPIRES", "LABELS"];
            output::list(format, &head, tickets.iter().map(row).collect())
        }
        Command::Revoke { id } => {
            let id = id_of(id)?;
            daemon.delete(&format!("/skep/swarm/tickets/{}", escape(&id))).await?;
            print(&format!("{id}\n"))
        }
    }
}

/// What is sent and shown of what somebody typed: never a token.
fn id_of(word: &str) -> anyhow::Result<String> {
    if !word.trim_start().starts_with("SWMTKN") {
        return Ok(word.to_owned());
    }
    let token = JoinToken::parse(word)?;
    let id = token.ticket().context(
        "this is the swarm's own join token; 'skep swarm join-token --rotate worker' (or 'manager') ends it",
    )?;
    Ok(id.to_string())
}

async fn create(daemon: &Connection, flags: &Create) -> anyhow::Result<()> {
    let labels: BTreeMap<&str, &str> =
        flags.labels.iter().map(|label| label.split_once('=').unwrap_or((label, ""))).collect();
    // Before the token is there: it is shown only once.
    let address = if flags.quiet { String::new() } else { manager_address(daemon).await? };
    let asked = json!({ "Role": flags.role.word(), "TTL": flags.ttl, "Uses": flags.uses, "Labels": labels });
    let answer = daemon.post("/skep/swarm/tickets", &asked).await?;
    let token = answer["Token"].as_str().context("the daemon did not say the token")?;
    if flags.quiet {
        return print(&format!("{token}\n"));
    }
    let id = text(&answer, "/ID");
    let nodes = match flags.uses {
        0 => "any number of nodes".to_owned(),
        1 => "1 node".to_owned(),
        n => format!("{n} nodes"),
    };
    let until = match u64::try_from(flags.ttl) {
        Ok(ttl) if ttl > 0 => format!("within {}", duration::text(ttl)),
        Ok(_) | Err(_) => "at any time".to_owned(),
    };
    print(&how_to_join_at(&address, flags.role, token))?;
    print(&format!(
        "It lets {nodes} in {until}, and is shown only now. To take it back: skep swarm join-token revoke {id}\n"
    ))
}

fn row(ticket: &Value) -> (Vec<String>, Value) {
    let uses = ticket["UsesLeft"].as_u64().map_or("any".to_owned(), |n| n.to_string());
    let expires = ticket["ExpiresAt"].as_str().unwrap_or("never").to_owned();
    let labels = ticket["Labels"].as_object().into_iter().flatten();
    let labels: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let words = |key: &str| text(ticket, key).to_owned();
    (vec![words("/ID"), words("/Role"), words("/State"), uses, expires, labels.join(",")], ticket.clone())
}

#[cfg(test)]
mod tests {
    use skep_api::{Id, TicketId};

    use super::*;

    #[test]
    fn a_token_is_taken_back_by_its_id_and_never_shown() {
        let id = TicketId(Id(7));
        let token = JoinToken::of_ticket("a root", id, &JoinToken::generate_secret());
        assert_eq!(id_of(&token.to_string()).unwrap(), id.to_string());
        assert_eq!(id_of("abc").unwrap(), "abc");
        let own = JoinToken::new("a root", token.secret());
        for word in [own.to_string(), format!("{token}x"), format!("SWMTKN-{}", token.secret())] {
            let error = format!("{:#}", id_of(&word).unwrap_err());
            assert!(!error.contains(token.secret()), "{error}");
        }
    }

    #[test]
    fn tickets_are_shown_in_a_row() {
        let ticket = json!({
            "ID": "abc", "Role": "worker", "State": "valid", "UsesLeft": null, "ExpiresAt": null,
            "Labels": { "zone": "a", "disk": "ssd" },
        });
        let row = row(&ticket).0.join(" ");
        assert!(row.starts_with("abc worker valid any never "), "{row}");
        assert!(row.contains("zone=a") && row.contains("disk=ssd"), "{row}");
    }
}
