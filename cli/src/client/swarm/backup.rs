//! `skep swarm backup` and `restore`.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use http_body_util::BodyExt as _;
use serde_json::json;
use skep_api::{Secret, Timestamp};
use skep_manager::recovery::backup::{self, Sealed, Title};

use crate::client::{
    connection::Connection,
    output::{print, text},
};

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// Check a backup instead of making one; what is sealed is read whole with its key alone
    #[arg(long)]
    pub(super) verify: bool,
    /// File with a passphrase or key that seals the backup (default: the swarm's unlock key, or none without autolock)
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// File with the passphrase or key of the backup (default: read from the standard input, if one is needed)
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Advertised address (format: "<ip|interface>[:port]")
    #[arg(long, default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Listen address (format: "<ip|interface>[:port]")
    #[arg(long, default_value = super::LISTEN_DEFAULT)]
    listen_addr: String,
    /// The backup, on the daemon's machine
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

fn key_of(file: &Path) -> anyhow::Result<Secret> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = text.trim();
    if text.is_empty() {
        bail!("{} is empty: a passphrase or key expected", file.display());
    }
    Ok(Secret::new(text.as_bytes()))
}

/// The daemon takes keys as text.
fn as_text(key: &Secret) -> anyhow::Result<String> {
    String::from_utf8(key.reveal().to_vec()).context("the key is no text")
}

fn said(title: &Title) -> String {
    format!(
        "swarm {}, made at {}, revision {}, raft entry {}: {} nodes, {} services, {} tasks\n",
        title.cluster_id,
        Timestamp(title.made_at),
        title.revision,
        title.index,
        title.nodes,
        title.services,
        title.tasks
    )
}

/// Needs no daemon.
pub(crate) fn verify(flags: &Backup) -> anyhow::Result<()> {
    let title = backup::verify_sum(&flags.file)?;
    print(&said(&title))?;
    let key = match (&flags.key_file, title.sealed) {
        (Some(file), _) => key_of(file)?,
        (None, Sealed::Open) => Secret::default(),
        (None, Sealed::Key | Sealed::UnlockKey) => {
            return print("The file is whole by its checksum. With --key-file its content is read, too.\n");
        }
    };
    backup::read(&flags.file, &key)?;
    print("The backup is whole, and can be restored.\n")
}

pub(crate) async fn make(daemon: &Connection, flags: &Backup) -> anyhow::Result<()> {
    let key = flags.key_file.as_deref().map(key_of).transpose()?.unwrap_or_default();
    if flags.file.exists() {
        bail!("{} is there already; name another file", flags.file.display());
    }
    let mut name = flags.file.file_name().context("FILE: a file's name expected")?.to_owned();
    name.push(".new");
    let new = flags.file.with_file_name(name);
    let made = fetch(daemon, &key, &new).await.and_then(|()| {
        let title = backup::verify_sum(&new)?;
        fs::rename(&new, &flags.file).with_context(|| format!("cannot make {}", flags.file.display()))?;
        let dir = flags.file.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(dir.unwrap_or(Path::new(".")))
            .and_then(|dir| dir.sync_all())
            .context("cannot sync the directory")?;
        Ok(title)
    });
    if made.is_err() {
        // What there is of it is no backup.
        fs::remove_file(&new).unwrap_or_default();
    }
    let title = made?;
    print(&said(&title))?;
    print(&format!("Backup written to {}.\n", flags.file.display()))?;
    print(match title.sealed {
        Sealed::Open => {
            "It is not encrypted, and holds the swarm's keys and secrets: whoever reads it owns the swarm. \
             --key-file seals it.\n"
        }
        Sealed::Key => "It is sealed under that key, and of no use without.\n",
        Sealed::UnlockKey => {
            "It is sealed under the swarm's unlock key of now (\"docker swarm unlock-key\"), and of no use without; \
             a rotation does not change that.\n"
        }
    })
}

async fn fetch(daemon: &Connection, key: &Secret, new: &Path) -> anyhow::Result<()> {
    let mut body = daemon.post_stream("/skep/backup", &json!({ "Key": as_text(key)? })).await?;
    // One that was left; its mode is not to be trusted.
    fs::remove_file(new).unwrap_or_default();
    let failed = || format!("cannot write {}", new.display());
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(new).with_context(failed)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the backup was cut off; see the daemon's log")?;
        if let Some(bytes) = frame.data_ref() {
            file.write_all(bytes).with_context(failed)?;
        }
    }
    file.sync_all().with_context(failed)
}

/// The key that a person or a pipe gives, if one is needed.
fn asked(title: &Title) -> anyhow::Result<Secret> {
    if title.sealed == Sealed::Open {
        return Ok(Secret::default());
    }
    eprintln!("The backup is sealed under {}. Please enter it:", title.sealed);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("cannot read the key")?;
    if line.trim().is_empty() {
        bail!("--key-file: the backup is sealed under {}, and needs it", title.sealed);
    }
    Ok(Secret::new(line.trim().as_bytes()))
}

pub(crate) async fn restore(daemon: &Connection, flags: &Restore) -> anyhow::Result<()> {
    let key = match &flags.key_file {
        Some(file) => key_of(file)?,
        None => asked(&backup::verify_sum(&flags.file)?)?,
    };
    let path =
        fs::canonicalize(&flags.file).with_context(|| format!("cannot find {}", flags.file.display()))?;
    let body = json!({
        "Path": path,
        "Key": as_text(&key)?,
        "AdvertiseAddr": flags.advertise_addr,
        "ListenAddr": flags.listen_addr,
    });
    let answer = daemon.post("/skep/restore", &body).await?;
    let id = answer.as_str().context("the daemon did not say the node's id")?;
    let info = daemon.get("/info").await?;
    print(&format!(
        "Swarm restored: current node ({id}) is its only manager, at {}.\n\nManagers of the lost swarm are dropped: they leave by force and join again, if they come back. Its workers are \
         looked for, and keep their tasks.\n",
        text(&info, "/Swarm/NodeAddr")
    ))
}
