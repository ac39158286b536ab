//! `skep service scale`.

use anyhow::bail;

use super::change::send;
use crate::client::{
    connection::{Connection, escape},
    output::print,
    progress,
};

/// `NAME=REPLICAS`, each set at once, then waited for.
pub(super) async fn run(daemon: &Connection, targets: &[String], detach: bool) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    let mut scaled = Vec::new();
    for target in targets {
        let Some((word, count)) =
            target.split_once('=').filter(|(word, count)| !word.is_empty() && !count.is_empty())
        else {
            bail!("invalid scale specifier '{target}': SERVICE=REPLICAS expected");
        };
        match set_replicas(daemon, word, count).await {
            Ok(()) => {
                print(&format!("{word} scaled to {count}\n"))?;
                scaled.push(word);
            }
            Err(error) => failed.push(format!("{word}: {error:#}")),
        }
    }
    for word in scaled {
        if !detach && let Err(error) = progress::wait(daemon, word, false, false).await {
            failed.push(format!("{word}: {error:#}"));
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

async fn set_replicas(daemon: &Connection, word: &str, count: &str) -> anyhow::Result<()> {
    let replicas: u64 = count.parse().map_err(|_| anyhow::anyhow!("invalid replicas value {count}"))?;
    let service = daemon.get(&format!("/services/{}", escape(word))).await?;
    let mut spec = service["Spec"].clone();
    if let Some(mode) = spec.pointer_mut("/Mode/Replicated") {
        mode["Replicas"] = replicas.into();
    } else if let Some(mode) = spec.pointer_mut("/Mode/ReplicatedJob") {
        mode["TotalCompletions"] = replicas.into();
    } else {
        bail!("scale can only be used with replicated or replicated-job mode");
    }
    send(daemon, &service, &spec, "").await
}
