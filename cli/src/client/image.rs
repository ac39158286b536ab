//! `skep image`.

use std::io::IsTerminal as _;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use futures::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::{
    connection::Connection,
    duration,
    flags::filter,
    output::{self, Format, print, short, text},
};
use crate::units::{human_duration, human_size};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Load an image from a tar archive or STDIN
    Load(Load),
    /// List images
    #[command(visible_alias = "list")]
    Ls(Ls),
}

#[derive(Args, Debug)]
pub(crate) struct Load {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long, value_name = "FILE")]
    input: Option<std::path::PathBuf>,
    /// Suppress the load output
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// Filter output based on conditions provided
    #[arg(short, long, value_parser = filter)]
    filter: Vec<(String, String)>,
    /// 'table' or 'json'
    #[arg(long)]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// Only those of this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

pub(crate) async fn run(daemon: &Connection, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Load(flags) => load(daemon, flags).await,
        Command::Ls(flags) => ls(daemon, flags).await,
    }
}

fn frames(from: impl AsyncRead) -> impl Stream<Item = std::io::Result<Frame<Bytes>>> {
    ReaderStream::new(from).map(|piece| piece.map(Frame::data))
}

async fn load(daemon: &Connection, flags: Load) -> anyhow::Result<()> {
    let path = if flags.quiet { "/images/load?quiet=1" } else { "/images/load?quiet=0" };
    let body = if let Some(file) = &flags.input {
        let archive =
            tokio::fs::File::open(file).await.with_context(|| format!("open {}", file.display()))?;
        daemon.upload(path, frames(archive)).await?
    } else {
        if std::io::stdin().is_terminal() {
            bail!("requested load from stdin, but stdin is empty");
        }
        daemon.upload(path, frames(tokio::io::stdin())).await?
    };
    let bytes = body.collect().await.context("read the daemon's answer")?.to_bytes();
    // One JSON message a line; an error may be one of them.
    for message in serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>() {
        let message = message.context("the daemon's answer is no JSON")?;
        if let Some(error) = message.get("error").and_then(Value::as_str) {
            bail!("{error}");
        }
        print(text(&message, "/stream"))?;
    }
    Ok(())
}

async fn ls(daemon: &Connection, mut flags: Ls) -> anyhow::Result<()> {
    let format = Format::parse(flags.format.as_deref())?;
    flags.filter.extend(flags.reference.take().map(|reference| ("reference".to_owned(), reference)));
    let images = daemon.list("/images/json", &flags.filter).await?;
    let now = duration::now();
    let mut rows = Vec::new();
    for image in &images {
        let id = text(image, "/Id");
        let shown = if flags.no_trunc { id } else { short(id) };
        let names: Vec<&str> =
            image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let names = if names.is_empty() { vec!["<none>:<none>"] } else { names };
        if flags.quiet {
            rows.push((vec![shown.to_owned()], Value::Null));
            continue;
        }
        let seconds = image["Created"].as_i64().unwrap_or(0);
        let created = skep_api::Timestamp(seconds.saturating_mul(1_000_000_000));
        let age = format!("{} ago", human_duration(now.since(created)));
        let size = human_size(image["Size"].as_u64().unwrap_or(0));
        for name in names {
            let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
            let value = json!({
                "CreatedAt": created.to_string(), "CreatedSince": age, "ID": shown, "Repository": repository,
                "Size": size, "Tag": tag,
            });
            let row = [repository, tag, shown, &age, &size].map(str::to_owned).to_vec();
            rows.push((row, value));
        }
    }
    if flags.quiet {
        return print(&rows.iter().map(|(row, _)| format!("{}\n", row.concat())).collect::<String>());
    }
    output::list(format, &["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], rows)
}
