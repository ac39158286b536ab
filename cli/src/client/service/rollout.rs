//! `skep service pause`, `resume`, `abort`, `history`, and `rollback --to`: what docker has not.

use anyhow::ensure;
use clap::Args;
use serde_json::{Value, json};

use super::settings::Waiting;
use crate::client::{
    connection::{Connection, escape},
    output::{self, Format, image_name, print, text},
    progress,
};

#[derive(Args, Debug)]
pub(crate) struct RollOut {
    #[arg(value_name = "SERVICE")]
    service: String,
}

impl RollOut {
    /// Asks for one of `pause`, `resume`, `abort`.
    pub(super) async fn run(&self, daemon: &Connection, what: &str) -> anyhow::Result<()> {
        ask(daemon, &self.service, &format!("do={what}")).await
    }
}

async fn ask(daemon: &Connection, word: &str, what: &str) -> anyhow::Result<()> {
    let service = daemon.get(&format!("/services/{}", escape(word))).await?;
    let (id, version) = (text(&service, "/ID"), output::version(&service)?);
    daemon.post(&format!("/skep/services/{id}/rollout?version={version}&{what}"), &Value::Null).await?;
    print(&format!("{word}\n"))
}

/// Back to a past spec by its number, and waits for it, unless told not to.
pub(super) async fn back_to(
    daemon: &Connection,
    word: &str,
    number: u64,
    waiting: &Waiting,
) -> anyhow::Result<()> {
    ensure!(number > 0, "invalid value 0 for --to: past specs are numbered from 1");
    ask(daemon, word, &format!("do=rollback&to={number}")).await?;
    if waiting.detach { Ok(()) } else { progress::wait(daemon, word, waiting.quiet, true).await }
}

#[derive(Args, Debug)]
pub(crate) struct History {
    /// 'table' or 'json'
    #[arg(long)]
    format: Option<String>,
    #[arg(value_name = "SERVICE")]
    service: String,
}

impl History {
    pub(super) async fn run(&self, daemon: &Connection) -> anyhow::Result<()> {
        let format = Format::parse(self.format.as_deref())?;
        let past = daemon.list(&format!("/skep/services/{}/history", escape(&self.service)), &[]).await?;
        output::list(format, &["NUMBER", "IMAGE", "REPLACED AT"], past.iter().map(row).collect())
    }
}

fn row(past: &Value) -> (Vec<String>, Value) {
    let number = past["Number"].as_u64().unwrap_or(0);
    let image = image_name(text(past, "/Spec/TaskTemplate/ContainerSpec/Image")).to_owned();
    let at = text(past, "/ReplacedAt").to_owned();
    let value = json!({ "Number": number, "Image": image, "ReplacedAt": at, "Spec": past["Spec"] });
    (vec![number.to_string(), image, at], value)
}
