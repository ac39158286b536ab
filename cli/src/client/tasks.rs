//! `skep service ps` and `skep node ps`.

use std::collections::BTreeMap;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};
use skep_api::Timestamp;

use super::{
    connection::{Connection, escape},
    duration,
    flags::filter,
    output::{self, Format, capital, image_name, natural, print, short, text},
};
use crate::units::human_duration;

/// How much of an error a table shows.
const ERROR_CHARS_MAX: usize = 30;

#[derive(Args, Debug)]
pub(crate) struct Ps {
    #[command(flatten)]
    shown: Shown,
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct NodePs {
    #[command(flatten)]
    shown: Shown,
    #[arg(default_value = "self", hide_default_value = true, value_name = "NODE")]
    nodes: Vec<String>,
}

/// Which tasks are shown, and how.
#[derive(Args, Debug)]
struct Shown {
    /// Filter output based on conditions provided
    #[arg(short, long, value_parser = filter)]
    filter: Vec<(String, String)>,
    /// 'table' or 'json'
    #[arg(long)]
    format: Option<String>,
    /// Do not map IDs to Names
    #[arg(long)]
    no_resolve: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display task IDs
    #[arg(short, long)]
    quiet: bool,
}

/// Names of nodes and services, asked for once.
pub(crate) struct Names<'a> {
    daemon: &'a Connection,
    known: BTreeMap<String, String>,
    /// Whether ids stay as they are.
    no_resolve: bool,
}

impl<'a> Names<'a> {
    pub(crate) fn new(daemon: &'a Connection, no_resolve: bool) -> Self {
        Self { daemon, known: BTreeMap::new(), no_resolve }
    }

    async fn find(&mut self, kind: &str, pointers: &[&str], id: &str) -> String {
        if self.no_resolve || id.is_empty() {
            return id.to_owned();
        }
        let path = format!("/{kind}/{}", escape(id));
        if let Some(name) = self.known.get(&path) {
            return name.clone();
        }
        // An object that is gone keeps its id as its name.
        let object = self.daemon.get(&path).await.unwrap_or_default();
        let name =
            pointers.iter().map(|pointer| text(&object, pointer)).find(|name| !name.is_empty()).unwrap_or(id);
        self.known.insert(path, name.to_owned());
        name.to_owned()
    }

    pub(crate) async fn node(&mut self, id: &str) -> String {
        self.find("nodes", &["/Spec/Name", "/Description/Hostname"], id).await
    }

    pub(crate) async fn service(&mut self, id: &str) -> String {
        self.find("services", &["/Spec/Name"], id).await
    }

    /// `web.1`
    pub(crate) async fn task(&mut self, task: &Value) -> String {
        let service = self.service(text(task, "/ServiceID")).await;
        match task["Slot"].as_u64().unwrap_or(0) {
            0 => format!("{service}.{}", text(task, "/NodeID")),
            slot => format!("{service}.{slot}"),
        }
    }
}

/// Tasks with their names: by name, the newest first.
async fn named(tasks: Vec<Value>, names: &mut Names<'_>) -> Vec<(String, Value)> {
    let mut out = Vec::with_capacity(tasks.len());
    for task in tasks {
        out.push((names.task(&task).await, task));
    }
    let created = |task: &Value| Timestamp::parse_rfc3339(text(task, "/CreatedAt")).unwrap_or_default();
    // Wanted to run comes before what was made in the same instant and is not.
    let past = |task: &Value| text(task, "/DesiredState") != "running";
    out.sort_by(|(a, x), (b, y)| {
        natural(a, b).then_with(|| created(y).cmp(&created(x))).then_with(|| past(x).cmp(&past(y)))
    });
    out
}

/// `skep node ps`: each node's tasks, in one table.
pub(crate) async fn of_nodes(daemon: &Connection, flags: &NodePs) -> anyhow::Result<()> {
    let format = Format::parse(flags.shown.format.as_deref())?;
    let (mut tasks, mut missing) = (Vec::new(), Vec::new());
    for word in &flags.nodes {
        match super::node::find(daemon, word).await {
            Ok(node) => {
                let own = ("node".to_owned(), text(&node, "/ID").to_owned());
                let filters: Vec<_> = flags.shown.filter.iter().cloned().chain([own]).collect();
                tasks.extend(daemon.list("/tasks", &filters).await?);
            }
            Err(error) if super::connection::is_not_found(&error) => missing.push(format!("{error:#}")),
            Err(error) => return Err(error),
        }
    }
    if missing.is_empty() || !tasks.is_empty() {
        let mut names = Names::new(daemon, flags.shown.no_resolve);
        let tasks = named(tasks, &mut names).await;
        show(&tasks, &flags.shown, format, &mut names).await?;
    }
    if missing.is_empty() { Ok(()) } else { bail!("{}", missing.join("\n")) }
}

pub(crate) async fn run(daemon: &Connection, flags: &Ps) -> anyhow::Result<()> {
    let Ps { shown: flags, services } = flags;
    let format = Format::parse(flags.format.as_deref())?;
    let mut filters = flags.filter.clone();
    let mut missing = Vec::new();
    for word in services {
        match daemon.get(&format!("/services/{}", escape(word))).await {
            Ok(service) => filters.push(("service".to_owned(), text(&service, "/ID").to_owned())),
            Err(error) if super::connection::is_not_found(&error) => {
                missing.push(format!("no such service: {word}"))
            }
            Err(error) => return Err(error),
        }
    }
    if missing.len() < services.len() {
        let mut names = Names::new(daemon, flags.no_resolve);
        let tasks = named(daemon.list("/tasks", &filters).await?, &mut names).await;
        show(&tasks, flags, format, &mut names).await?;
    }
    if !missing.is_empty() {
        bail!("{}", missing.join("\n"));
    }
    Ok(())
}

async fn show(
    tasks: &[(String, Value)],
    flags: &Shown,
    format: Format,
    names: &mut Names<'_>,
) -> anyhow::Result<()> {
    let shown = |id: &str| if flags.no_trunc { id.to_owned() } else { short(id).to_owned() };
    if flags.quiet {
        return print(&tasks.iter().map(|(_, task)| format!("{}\n", text(task, "/ID"))).collect::<String>());
    }
    let now = duration::now();
    let mut rows = Vec::new();
    let mut before = "";
    for (name, task) in tasks {
        let label =
            if name == before && format == Format::Table { format!(" \\_ {name}") } else { name.clone() };
        before = name;
        let image = text(task, "/Spec/ContainerSpec/Image");
        let image = if flags.no_trunc { image } else { image_name(image) };
        let at = Timestamp::parse_rfc3339(text(task, "/Status/Timestamp")).unwrap_or_default();
        let age = human_duration(now.since(at)).to_lowercase();
        let state = format!("{} {age} ago", capital(text(task, "/Status/State")));
        let desired = capital(text(task, "/DesiredState"));
        let node = names.node(text(task, "/NodeID")).await;
        let error = error_cell(text(task, "/Status/Err"), flags.no_trunc);
        let ports = host_ports(task);
        let id = shown(text(task, "/ID"));
        let value = json!({
            "CurrentState": state, "DesiredState": desired, "Error": error, "ID": id, "Image": image, "Name": label,
            "Node": node, "Ports": ports,
        });
        rows.push((vec![id, label, image.to_owned(), node, desired, state, error, ports], value));
    }
    let head = ["ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR", "PORTS"];
    output::list(format, &head, rows)
}

fn error_cell(error: &str, whole: bool) -> String {
    if error.is_empty() {
        return String::new();
    }
    if whole || error.chars().count() <= ERROR_CHARS_MAX {
        return format!("\"{error}\"");
    }
    let cut: String = error.chars().take(ERROR_CHARS_MAX - 1).collect();
    format!("\"{cut}\u{2026}\"")
}

/// `*:8080->80/tcp`: ports opened on the task's node.
fn host_ports(task: &Value) -> String {
    let ports = task.pointer("/Status/PortStatus/Ports").and_then(Value::as_array);
    let words: Vec<String> = ports
        .into_iter()
        .flatten()
        .map(|port| {
            let number = |key: &str| port[key].as_u64().unwrap_or(0);
            format!("*:{}->{}/{}", number("PublishedPort"), number("TargetPort"), text(port, "/Protocol"))
        })
        .collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_errors_are_cut() {
        assert_eq!(error_cell("", false), "");
        assert_eq!(error_cell("task: non-zero exit (1)", false), "\"task: non-zero exit (1)\"");
        let long = "no suitable node (scheduling constraints not satisfied on 1 node)";
        assert_eq!(error_cell(long, false), "\"no suitable node (scheduling \u{2026}\"");
        assert_eq!(error_cell(long, true), format!("\"{long}\""));
    }
}
