//! `skep swarm recover` and `check`: what is left on this machine, and a swarm made of it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use skep_api::Timestamp;
use skep_manager::{UnlockKey, parse_unlock_key};

use crate::{
    client::{
        connection::Connection,
        output::{self, print},
    },
    daemon::offline,
};

#[derive(Args, Debug)]
pub(crate) struct Recover {
    /// State directory of a manager whose daemon does not run (default: the running daemon's manager)
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// Only show what there is and what would be dropped; the default
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it: this manager goes on alone
    #[arg(long)]
    yes: bool,
    /// File with the swarm's unlock key, for a locked manager's --state-dir
    #[arg(long, value_name = "FILE", requires = "state_dir")]
    unlock_key_file: Option<PathBuf>,
    /// New address of this manager (format: "<ip|interface>[:port]")
    #[arg(long, default_value = "", hide_default_value = true)]
    advertise_addr: String,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// How it is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// File with the swarm's unlock key: without it nothing of a locked manager's log is read
    #[arg(long, value_name = "FILE")]
    unlock_key_file: Option<PathBuf>,
    /// State directory of a daemon that does not run
    #[arg(value_name = "DIR", default_value = "/var/lib/skep")]
    dir: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

const HOW: &str = "\nNothing was changed. With --yes this manager goes on alone with all of that, and the managers above are \
     dropped: they leave by force and join again. Take the manager with the highest last entry. What only the \
     others had, if anything, is lost, and cannot be known here.\n";
const DONE: &str = "\nThis manager goes on alone. Its workers are looked for, and keep their tasks. Join new managers soon: \
     \"skep swarm join-token manager\".\n";

fn unlock_key(file: Option<&Path>) -> anyhow::Result<Option<UnlockKey>> {
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("--unlock-key-file: cannot read {}", file.display()))?;
    let key = parse_unlock_key(text.trim());
    key.map(Some)
        .map_err(|_| anyhow!("--unlock-key-file: {} holds no unlock key (SWMKEY-1-...)", file.display()))
}

/// Needs no daemon.
pub(crate) fn closed(flags: &Recover, dir: &Path) -> anyhow::Result<()> {
    let unlock = unlock_key(flags.unlock_key_file.as_deref())?;
    if flags.dry_run || !flags.yes {
        print(&words(&serde_json::to_value(offline::preview(dir, unlock.as_ref())?)?))?;
        return print(HOW);
    }
    let done = offline::recover(dir, unlock.as_ref(), &flags.advertise_addr)?;
    print(&words(&serde_json::to_value(done)?))?;
    print(DONE)?;
    print("Start its daemon now.\n")
}

pub(crate) async fn running(daemon: &Connection, flags: &Recover) -> anyhow::Result<()> {
    let preview = daemon.get("/skep/recover").await.context(
        "what this manager has cannot be shown; if its daemon cannot come back, stop it and name its --state-dir",
    )?;
    print(&words(&preview))?;
    if flags.dry_run || !flags.yes {
        return print(HOW);
    }
    let body = json!({ "ForceNewCluster": true, "AdvertiseAddr": flags.advertise_addr, "Spec": { "Name": "default" } });
    daemon.post("/swarm/init", &body).await?;
    print(DONE)
}

/// A preview for people.
fn words(preview: &Value) -> String {
    let number = |key: &str| preview[key].as_u64().unwrap_or_default();
    let mut out = format!(
        "Manager {} of swarm {}\n  last entry {} (term {}), known to be committed up to {}; {} writes after that are kept, acknowledged or not\n",
        preview["NodeId"].as_str().unwrap_or_default(),
        preview["ClusterId"].as_str().unwrap_or_default(),
        number("LastEntry"),
        number("Term"),
        number("Committed"),
        number("Uncertain"),
    );
    if let Some(at) = preview["LastWriteAt"].as_i64() {
        out.push_str(&format!("  last write at {}\n", Timestamp(at)));
    }
    out.push_str(&format!(
        "  {} services, {} tasks, {} nodes\n",
        number("Services"),
        number("Tasks"),
        number("Nodes")
    ));
    if preview["IsNoVoter"] == Value::Bool(true) {
        out.push_str(
            "  it did not vote when it last heard of the others: they may have let it go, and have more\n",
        );
    }
    let dropped = preview["Dropped"].as_array().map_or(&[][..], Vec::as_slice);
    out.push_str(if dropped.is_empty() {
        "No other manager is known.\n"
    } else {
        "Managers that are dropped:\n"
    });
    for manager in dropped {
        let text = |key: &str| manager[key].as_str().unwrap_or_default();
        out.push_str(&format!("  {} {} {}\n", text("Id"), text("Hostname"), text("Addr")));
    }
    out
}

/// Explains a state directory. An error if anything is not as it should be, so that the exit status tells.
pub(crate) fn check(flags: &Check) -> anyhow::Result<()> {
    let unlock = unlock_key(flags.unlock_key_file.as_deref())?;
    let reports = offline::check(&flags.dir, unlock.as_ref())?;
    match flags.format {
        Format::Json => output::json(&serde_json::to_value(&reports)?)?,
        Format::Text => {
            for report in &reports {
                let line =
                    format!("{:8} {}\n         {}\n", report.verdict, report.path.display(), report.words);
                print(&line)?;
                if !report.advice.is_empty() {
                    print(&format!("         -> {}\n", report.advice))?;
                }
            }
        }
    }
    let n_bad = reports.iter().filter(|report| !report.is_ok()).count();
    if n_bad > 0 {
        bail!("{n_bad} of {} files are damaged or missing; nothing was changed", reports.len());
    }
    Ok(())
}
