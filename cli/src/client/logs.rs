//! `skep service logs`.

use std::{collections::BTreeMap, io::Write as _};

use anyhow::{Context as _, bail};
use clap::Args;
use http_body_util::BodyExt as _;
use serde_json::Value;

use super::{
    connection::{Connection, escape, is_not_found},
    duration,
    frames::{Frames, Stream},
    output::{print_bytes, short, text},
    tasks::Names,
};

#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, default_value = "all")]
    tail: String,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long)]
    since: Option<String>,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Do not neatly format logs
    #[arg(long)]
    raw: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Do not include task IDs in output
    #[arg(long)]
    no_task_ids: bool,
    /// Do not map IDs to Names in output
    #[arg(long)]
    no_resolve: bool,
    #[arg(value_name = "SERVICE|TASK")]
    target: String,
}

pub(crate) async fn run(daemon: &Connection, flags: &Logs) -> anyhow::Result<()> {
    let word = escape(&flags.target);
    let (kind, widest) = match daemon.get(&format!("/services/{word}")).await {
        Ok(service) => {
            let replicas = service.pointer("/Spec/Mode/Replicated/Replicas").and_then(Value::as_u64);
            ("services", replicas.unwrap_or(1).to_string().len())
        }
        Err(error) if is_not_found(&error) => match daemon.get(&format!("/tasks/{word}")).await {
            Ok(task) => ("tasks", task["Slot"].as_u64().unwrap_or(0).to_string().len()),
            Err(error) if is_not_found(&error) => bail!("no such task or service: {}", flags.target),
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    };
    let mut path = format!(
        "/{kind}/{word}/logs?stdout=1&stderr=1&tail={}&follow={}&timestamps={}&details={}",
        escape(&flags.tail),
        u8::from(flags.follow),
        u8::from(flags.timestamps),
        u8::from(!flags.raw),
    );
    if let Some(since) = &flags.since {
        path.push_str(&format!("&since={}", escape(&duration::since(since, duration::now())?)));
    }
    let mut body = daemon.open(&path).await?;
    let mut labels =
        Labels { names: Names::new(daemon, flags.no_resolve), daemon, flags, widest, known: BTreeMap::new() };
    let mut frames = Frames::default();
    while let Some(piece) = body.frame().await {
        let piece = piece.context("the stream of logs broke")?;
        frames.push(piece.data_ref().map_or(&[], |data| data));
        while let Some((stream, line)) = frames.next()? {
            write(stream, &line, &mut labels).await?;
        }
    }
    Ok(())
}

async fn write(stream: Stream, line: &[u8], labels: &mut Labels<'_>) -> anyhow::Result<()> {
    let out = match stream {
        Stream::System => bail!("error from daemon in stream: {}", String::from_utf8_lossy(line).trim_end()),
        Stream::Out | Stream::Err if labels.flags.raw => line.to_vec(),
        Stream::Out | Stream::Err => labels.decorate(line).await,
    };
    match stream {
        Stream::Out => print_bytes(&out)?,
        Stream::Err | Stream::System => std::io::stderr().lock().write_all(&out)?,
    }
    Ok(())
}

/// Says in front of each line whose it is.
struct Labels<'a> {
    names: Names<'a>,
    daemon: &'a Connection,
    flags: &'a Logs,
    /// Digits of the greatest slot.
    widest: usize,
    known: BTreeMap<String, String>,
}

impl Labels<'_> {
    /// A line comes as `[time ]details content`.
    async fn decorate(&mut self, line: &[u8]) -> Vec<u8> {
        let n_parts = if self.flags.timestamps { 3 } else { 2 };
        let parts: Vec<&[u8]> = line.splitn(n_parts, |byte| *byte == b' ').collect();
        let Some((content, head)) = parts.split_last().filter(|(_, head)| head.len() + 1 == n_parts) else {
            return line.to_vec();
        };
        let details =
            head.last().map(|details| String::from_utf8_lossy(details).into_owned()).unwrap_or_default();
        let mut out = Vec::with_capacity(line.len());
        if self.flags.timestamps {
            out.extend_from_slice(head[0]);
            out.push(b' ');
        }
        out.extend_from_slice(self.label(&details).await.as_bytes());
        out.extend_from_slice(b"    | ");
        out.extend_from_slice(content);
        out
    }

    async fn label(&mut self, details: &str) -> String {
        if let Some(label) = self.known.get(details) {
            return label.clone();
        }
        let field = |key: &str| {
            let pairs = details.split(',').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(name, _)| *name == key).map_or("", |(_, value)| value).to_owned()
        };
        let task_id = field("com.docker.swarm.task.id");
        let task = self.daemon.get(&format!("/tasks/{}", escape(&task_id))).await.unwrap_or_default();
        let slot = task["Slot"].as_u64().unwrap_or(0).to_string();
        let service = self.names.service(&field("com.docker.swarm.service.id")).await;
        let node = self.names.node(&field("com.docker.swarm.node.id")).await;
        let id = match (self.flags.no_task_ids, self.flags.no_trunc) {
            (true, _) => String::new(),
            (false, true) => format!(".{}", text(&task, "/ID")),
            (false, false) => format!(".{}", short(text(&task, "/ID"))),
        };
        let padding = " ".repeat(self.widest.saturating_sub(slot.len()));
        let label = format!("{service}.{slot}{id}@{node}{padding}");
        self.known.insert(details.to_owned(), label.clone());
        label
    }
}
