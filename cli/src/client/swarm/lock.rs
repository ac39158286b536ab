//! `skep swarm unlock`, `skep swarm unlock-key`, and what is printed where autolock is turned on.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    process::Command,
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::client::{
    connection::Connection,
    output::{self, print, text},
};

#[derive(Args, Debug)]
pub(crate) struct UnlockKey {
    /// Rotate unlock key: managers that are away still start with the old one, and follow then
    #[arg(long)]
    rotate: bool,
    /// Only display the key
    #[arg(short, long)]
    quiet: bool,
}

/// Whether the settings say autolock.
pub(super) fn is_on(swarm: &Value) -> bool {
    swarm.pointer("/Spec/EncryptionConfig/AutoLockManagers") == Some(&Value::Bool(true))
}

/// The key comes from the terminal, unseen, or from stdin: never from an argument, which others see.
pub(super) async fn unlock(daemon: &Connection) -> anyhow::Result<()> {
    let info = daemon.get("/info").await?;
    match text(&info, "/Swarm/LocalNodeState") {
        "locked" => {}
        "inactive" => bail!("Error: This node is not part of a swarm"),
        _ => bail!("Error: swarm is not locked"),
    }
    daemon.post("/swarm/unlock", &json!({ "UnlockKey": read_key()? })).await.map(|_| ())
}

fn read_key() -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    let is_terminal = stdin.is_terminal();
    if is_terminal {
        // First: what is typed or pasted at the prompt is not to be seen.
        echo(false);
        eprint!("Enter unlock key: ");
        std::io::stderr().flush().context("ask for the key")?;
    }
    let mut key = String::new();
    let read = stdin.lock().read_line(&mut key);
    if is_terminal {
        echo(true);
        eprintln!();
    }
    read.context("read the unlock key")?;
    Ok(key.trim().to_owned())
}

/// A terminal that does not know this shows the key, as it would without us.
fn echo(on: bool) {
    Command::new("stty").arg(if on { "echo" } else { "-echo" }).status().ok();
}

pub(super) async fn unlock_key(daemon: &Connection, flags: &UnlockKey) -> anyhow::Result<()> {
    if flags.rotate {
        let swarm = daemon.get("/swarm").await?;
        if !is_on(&swarm) {
            bail!("cannot rotate because autolock is not turned on");
        }
        let version = output::version(&swarm)?;
        let path = format!("/swarm/update?version={version}&rotateManagerUnlockKey=true");
        daemon.post(&path, &swarm["Spec"]).await?;
        if !flags.quiet {
            print("Successfully rotated manager unlock key.\n\n")?;
        }
    }
    let key = fetch(daemon).await?;
    if key.is_empty() {
        bail!("no unlock key is set");
    }
    if flags.quiet { print(&format!("{key}\n")) } else { print(&paragraph(&key)) }
}

/// After autolock was turned on.
pub(super) async fn show(daemon: &Connection) -> anyhow::Result<()> {
    print(&paragraph(&fetch(daemon).await?))
}

async fn fetch(daemon: &Connection) -> anyhow::Result<String> {
    let answer = daemon.get("/swarm/unlockkey").await.context("could not fetch unlock key")?;
    Ok(text(&answer, "/UnlockKey").to_owned())
}

/// Docker's words (`CLI:cli/command/swarm/unlock_key.go`).
fn paragraph(key: &str) -> String {
    format!(
        "To unlock a swarm manager after it restarts, run the `skep swarm unlock`\ncommand and provide the following \
         key:\n\n    {key}\n\nRemember to store this key in a password manager, since without it you\nwill not be able \
         to restart the manager.\n"
    )
}
