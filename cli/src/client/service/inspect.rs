//! `skep service inspect`: the object whole, or docker's summary of it.

use std::fmt::Write as _;

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use crate::client::{
    connection::{Connection, escape, is_not_found},
    duration,
    output::{self, print, text},
};
use crate::units::{bytes_size, human_duration};

#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// Print the information in a human friendly format
    #[arg(long)]
    pretty: bool,
    /// 'json', as without it
    #[arg(short, long, conflicts_with = "pretty")]
    format: Option<String>,
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

/// Shows what there is; then says what there is not.
pub(crate) async fn run(daemon: &Connection, flags: &Inspect) -> anyhow::Result<()> {
    output::Format::parse(flags.format.as_deref())?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for word in &flags.services {
        match daemon.get(&format!("/services/{}?insertDefaults={}", escape(word), flags.pretty)).await {
            Ok(service) => found.push(service),
            Err(error) if is_not_found(&error) => missing.push(format!("no such service: {word}")),
            Err(error) => return Err(error),
        }
    }
    if flags.pretty {
        print(&found.iter().map(pretty).collect::<Vec<_>>().join("\n"))?;
    } else {
        output::json(&Value::Array(found))?;
    }
    if missing.is_empty() { Ok(()) } else { bail!("{}", missing.join("\n")) }
}

/// Lines `name:<tabs>value`, those without a value left out.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, name: &str, value: impl AsRef<str>) {
        if !value.as_ref().is_empty() {
            writeln!(self.0, "{name}{}", value.as_ref()).unwrap_or_default();
        }
    }

    fn head(&mut self, name: &str) {
        self.0.push_str(name);
        self.0.push('\n');
    }

    fn labels(&mut self, labels: &Value) {
        let labels = labels.as_object().filter(|labels| !labels.is_empty());
        for (at, (key, value)) in labels.into_iter().flatten().enumerate() {
            if at == 0 {
                self.head("Labels:");
            }
            let value = value.as_str().unwrap_or_default();
            self.head(&if value.is_empty() { format!(" {key}") } else { format!(" {key}={value}") });
        }
    }
}

fn pretty(service: &Value) -> String {
    let mut page = Page::default();
    let spec = &service["Spec"];
    page.line("\nID:\t\t", text(service, "/ID"));
    page.line("Name:\t\t", text(spec, "/Name"));
    page.labels(&spec["Labels"]);
    let modes = [("Global", "Global"), ("ReplicatedJob", "ReplicatedJob"), ("GlobalJob", "GlobalJob")];
    let mode = modes.into_iter().find(|(key, _)| spec["Mode"].get(key).is_some());
    page.line("Service Mode:\t", mode.map_or("Replicated", |(_, word)| word));
    page.line(" Replicas:\t", number(&spec["Mode"]["Replicated"]["Replicas"]));
    update_status(&mut page, &service["UpdateStatus"]);
    let template = &spec["TaskTemplate"];
    page.head("Placement:");
    page.line(" Constraints:\t", list(&template["Placement"]["Constraints"]));
    let spread = |one: &Value| format!("spread={}", text(one, "/Spread/SpreadDescriptor"));
    let preferences: Vec<String> =
        template["Placement"]["Preferences"].as_array().into_iter().flatten().map(spread).collect();
    page.line(" Preferences:   ", preferences.join(" "));
    page.line(" Max Replicas Per Node:   ", nonzero(&template["Placement"]["MaxReplicas"]));
    rollout(&mut page, "UpdateConfig:", " Update order:      ", &spec["UpdateConfig"]);
    rollout(&mut page, "RollbackConfig:", " Rollback order:    ", &spec["RollbackConfig"]);
    container(&mut page, &template["ContainerSpec"]);
    log_driver(&mut page, &template["LogDriver"]);
    resources(&mut page, &template["Resources"]);
    let mode = text(spec, "/EndpointSpec/Mode");
    page.line("Endpoint Mode:\t", if mode.is_empty() { "vip" } else { mode });
    for (at, port) in service["Endpoint"]["Ports"].as_array().into_iter().flatten().enumerate() {
        if at == 0 {
            page.head("Ports:");
        }
        page.line(" PublishedPort = ", number(&port["PublishedPort"]));
        page.line("  Protocol = ", text(port, "/Protocol"));
        page.line("  TargetPort = ", number(&port["TargetPort"]));
        page.line("  PublishMode = ", text(port, "/PublishMode"));
    }
    page.0
}

fn update_status(page: &mut Page, status: &Value) {
    if text(status, "/State").is_empty() {
        return;
    }
    let ago = |pointer: &str| {
        let at = skep_api::Timestamp::parse_rfc3339(text(status, pointer));
        at.map(|at| format!("{} ago", human_duration(duration::now().since(at)))).unwrap_or_default()
    };
    page.head("UpdateStatus:");
    page.line(" State:\t\t", text(status, "/State"));
    page.line(" Started:\t", ago("/StartedAt"));
    page.line(" Completed:\t", ago("/CompletedAt"));
    page.line(" Message:\t", text(status, "/Message"));
}

fn rollout(page: &mut Page, head: &str, order: &str, config: &Value) {
    if !config.is_object() {
        return;
    }
    page.head(head);
    page.line(" Parallelism:\t", number(&config["Parallelism"]));
    page.line(" Delay:\t\t", span(&config["Delay"]));
    page.line(" On failure:\t", text(config, "/FailureAction"));
    page.line(" Monitoring Period: ", span(&config["Monitor"]));
    page.line(" Max failure ratio: ", config["MaxFailureRatio"].as_f64().unwrap_or(0.0).to_string());
    page.line(order, text(config, "/Order"));
}

fn container(page: &mut Page, container: &Value) {
    page.head("ContainerSpec:");
    page.line(" Image:\t\t", text(container, "/Image"));
    page.line(" Args:\t\t", words(&container["Args"]));
    page.line(" Env:\t\t", words(&container["Env"]));
    page.line(" Dir:\t\t", text(container, "/Dir"));
    page.line(" User: ", text(container, "/User"));
    let (add, drop) = (list(&container["CapabilityAdd"]), list(&container["CapabilityDrop"]));
    if !add.is_empty() || !drop.is_empty() {
        page.head("Capabilities:");
        page.line(" Add: ", add);
        page.line(" Drop: ", drop);
    }
    for (at, mount) in container["Mounts"].as_array().into_iter().flatten().enumerate() {
        if at == 0 {
            page.head("Mounts:");
        }
        page.line(" Target:\t", text(mount, "/Target"));
        page.head(&format!("  Source:\t{}", text(mount, "/Source")));
        page.line("  ReadOnly:\t", mount["ReadOnly"].as_bool().unwrap_or(false).to_string());
        page.line("  Type:\t\t", text(mount, "/Type"));
    }
}

fn log_driver(page: &mut Page, driver: &Value) {
    if text(driver, "/Name").is_empty() {
        return;
    }
    page.head("Log Driver:");
    page.line(" Name:\t\t", text(driver, "/Name"));
    let options = driver["Options"].as_object().filter(|options| !options.is_empty());
    if let Some(options) = options {
        page.head(" LogOpts:");
        for (key, value) in options {
            page.line(&format!("  {key}:       "), value.as_str().unwrap_or_default());
        }
    }
}

fn resources(page: &mut Page, resources: &Value) {
    let amounts = |key: &str| resources[key].as_object().filter(|amounts| !amounts.is_empty());
    if amounts("Limits").is_none() && amounts("Reservations").is_none() {
        return;
    }
    page.head("Resources:");
    for (key, head) in [("Reservations", " Reservations:"), ("Limits", " Limits:")] {
        let Some(amounts) = amounts(key) else { continue };
        page.head(head);
        let get = |key: &str| amounts.get(key).and_then(Value::as_u64).filter(|amount| *amount != 0);
        #[expect(clippy::cast_precision_loss, reason = "CPUs with a few decimals, for a person")]
        let cpus = get("NanoCPUs").map(|nanos| (nanos as f64 / 1e9).to_string());
        page.line("  CPU:\t\t", cpus.unwrap_or_default());
        page.line("  Memory:\t", get("MemoryBytes").map(bytes_size).unwrap_or_default());
        page.line("  PIDs:\t\t", get("Pids").map(|n| n.to_string()).unwrap_or_default());
    }
}

fn number(value: &Value) -> String {
    value.as_u64().map(|n| n.to_string()).unwrap_or_default()
}

fn nonzero(value: &Value) -> String {
    value.as_u64().filter(|n| *n != 0).map(|n| n.to_string()).unwrap_or_default()
}

/// A span as Go prints it; empty for none.
fn span(value: &Value) -> String {
    value.as_u64().filter(|nanos| *nanos != 0).map(duration::text).unwrap_or_default()
}

fn words(value: &Value) -> String {
    let words: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    words.join(" ")
}

/// As Go prints a list of words.
fn list(value: &Value) -> String {
    let words = words(value);
    if words.is_empty() { words } else { format!("[{words}]") }
}
