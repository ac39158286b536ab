//! `skep image`.

use std::io::IsTerminal as _;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use futures::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::{
    connection::{Connection, escape},
    duration,
    flags::filter,
    output::{self, Format, print, short, text},
};
use crate::units::{human_duration, human_size};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Load an image from a tar archive or STDIN
    Load(Load),
    /// Import the contents from a tarball to create a filesystem image
    Import {
        /// An archive, or - for STDIN
        #[arg(value_name = "FILE|-")]
        source: String,
        #[arg(value_name = "REPOSITORY[:TAG]")]
        reference: Option<String>,
    },
    /// Download an image from a registry
    Pull {
        /// Suppress verbose output
        #[arg(short, long)]
        quiet: bool,
        #[arg(value_name = "NAME[:TAG|@DIGEST]")]
        image: String,
    },
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm {
        /// Force removal of the image
        #[arg(short, long)]
        force: bool,
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
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
        Command::Import { source, reference } => import(daemon, &source, reference.as_deref()).await,
        Command::Pull { quiet, image } => pull(daemon, &image, quiet).await,
        Command::Rm { force, images } => rm(daemon, &images, force).await,
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
    follow(body, |message| print(text(message, "/stream"))).await
}

/// Reads JSON messages as they come; one of them may be an error.
async fn follow(
    mut body: Incoming,
    mut each: impl FnMut(&Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("read the daemon's answer")?.into_data() {
            pending.extend_from_slice(&data);
        }
        let mut used = 0;
        let mut messages = serde_json::Deserializer::from_slice(&pending).into_iter::<Value>();
        while let Some(message) = messages.next() {
            let message = match message {
                Ok(message) => message,
                // The rest of it comes with the next frame.
                Err(error) if error.is_eof() => break,
                Err(error) => return Err(error).context("the daemon's answer is no JSON"),
            };
            used = messages.byte_offset();
            if let Some(error) = message.get("error").and_then(Value::as_str) {
                bail!("{error}");
            }
            each(&message)?;
        }
        pending.drain(..used);
    }
    Ok(())
}

/// Name, and tag or digest, as the API takes them apart.
fn parts(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        return (name, digest);
    }
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        Some(_) | None => (image, ""),
    }
}

async fn pull(daemon: &Connection, image: &str, quiet: bool) -> anyhow::Result<()> {
    let (name, tag) = parts(image);
    let tag = if tag.is_empty() { "latest" } else { tag };
    if !quiet && !image.contains([':', '@']) {
        print("Using default tag: latest\n")?;
    }
    let path = format!("/images/create?fromImage={}&tag={}", escape(name), escape(tag));
    let body = daemon.logged_in_for(image)?.upload(&path, futures::stream::empty()).await?;
    follow(body, |message| {
        // A bar's steps are not for a log.
        let is_progress = message.get("progressDetail").is_some_and(|detail| detail.get("total").is_some());
        if quiet || is_progress {
            return Ok(());
        }
        let (id, status) = (text(message, "/id"), text(message, "/status"));
        print(&if id.is_empty() { format!("{status}\n") } else { format!("{id}: {status}\n") })
    })
    .await?;
    print(&format!("{name}{}{tag}\n", if tag.contains(':') { "@" } else { ":" }))
}

async fn import(daemon: &Connection, source: &str, reference: Option<&str>) -> anyhow::Result<()> {
    let (name, tag) = parts(reference.unwrap_or_default());
    let path = format!("/images/create?fromSrc=-&repo={}&tag={}", escape(name), escape(tag));
    let body = if source == "-" {
        if std::io::stdin().is_terminal() {
            bail!("requested import from stdin, but stdin is a terminal");
        }
        daemon.upload(&path, frames(tokio::io::stdin())).await?
    } else {
        let archive = tokio::fs::File::open(source).await.with_context(|| format!("open {source}"))?;
        daemon.upload(&path, frames(archive)).await?
    };
    follow(body, |message| print(&format!("{}\n", text(message, "/status")))).await
}

/// Removes what it can; says what it could not.
async fn rm(daemon: &Connection, images: &[String], force: bool) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for image in images {
        let path = image.split('/').map(escape).collect::<Vec<_>>().join("/");
        match daemon.delete(&format!("/images/{path}?force={}", u8::from(force))).await {
            Ok(removed) => {
                for one in removed.as_array().into_iter().flatten() {
                    for key in ["Untagged", "Deleted"] {
                        if let Some(name) = one[key].as_str() {
                            print(&format!("{key}: {name}\n"))?;
                        }
                    }
                }
            }
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
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

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn names_are_taken_apart() {
        for (image, expect) in [
            ("web", ("web", "")),
            ("web:1", ("web", "1")),
            ("host:5000/web", ("host:5000/web", "")),
            ("host:5000/web:1", ("host:5000/web", "1")),
            ("web@sha256:00", ("web", "sha256:00")),
        ] {
            assert_eq!(parts(image), expect);
        }
    }
}
