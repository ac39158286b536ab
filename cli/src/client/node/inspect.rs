//! `skep node inspect`: the object whole, or docker's summary of it.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use super::find;
use crate::{
    client::{
        connection::{Connection, is_not_found},
        output::{self, capital, print, text},
    },
    units::bytes_size,
};

#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// Print the information in a human friendly format
    #[arg(long)]
    pretty: bool,
    /// 'json', as without it
    #[arg(short, long, conflicts_with = "pretty")]
    format: Option<String>,
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

/// Shows what there is; then says what there is not.
pub(crate) async fn run(daemon: &Connection, flags: &Inspect) -> anyhow::Result<()> {
    output::Format::parse(flags.format.as_deref())?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for word in &flags.nodes {
        match find(daemon, word).await {
            Ok(node) => found.push(node),
            Err(error) if is_not_found(&error) => missing.push(format!("{error:#}")),
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

/// Lines and columns as docker's template has them.
fn pretty(node: &Value) -> String {
    let mut out = String::new();
    let mut line = |words: &str, pointer: &str| {
        if !text(node, pointer).is_empty() {
            writeln!(out, "{words}{}", text(node, pointer)).unwrap_or_default();
        }
    };
    line("ID:\t\t\t", "/ID");
    line("Name:\t\t\t", "/Spec/Name");
    labels(&mut out, "Labels:", &node["Spec"]["Labels"]);
    let mut line = |words: &str, value: &str| {
        if !value.is_empty() {
            writeln!(out, "{words}{value}").unwrap_or_default();
        }
    };
    line("Hostname:              \t", text(node, "/Description/Hostname"));
    // As Go prints a time.
    line("Joined at:             \t", &text(node, "/CreatedAt").replace('T', " ").replace('Z', " +0000 utc"));
    line("Status:", " ");
    line(" State:\t\t\t", &capital(text(node, "/Status/State")));
    line(" Message:              \t", &capital(text(node, "/Status/Message")));
    line(" Availability:         \t", &capital(text(node, "/Spec/Availability")));
    line(" Address:\t\t", text(node, "/Status/Addr"));
    if node["ManagerStatus"].is_object() {
        line("Manager Status:", " ");
        line(" Address:\t\t", text(node, "/ManagerStatus/Addr"));
        line(" Raft Status:\t\t", &capital(text(node, "/ManagerStatus/Reachability")));
        line(" Leader:\t\t", if node["ManagerStatus"]["Leader"] == true { "Yes" } else { "No" });
    }
    line("Platform:", " ");
    line(" Operating System:\t", text(node, "/Description/Platform/OS"));
    line(" Architecture:\t\t", text(node, "/Description/Platform/Architecture"));
    line("Resources:", " ");
    let amount = |key: &str| node["Description"]["Resources"][key].as_u64().unwrap_or(0);
    line(" CPUs:\t\t\t", &(amount("NanoCPUs") / 1_000_000_000).to_string());
    line(" Memory:\t\t", &bytes_size(amount("MemoryBytes")));
    plugins(&mut out, &node["Description"]["Engine"]["Plugins"]);
    writeln!(out, "Engine Version:\t\t{}", text(node, "/Description/Engine/EngineVersion"))
        .unwrap_or_default();
    labels(&mut out, "Engine Labels:", &node["Description"]["Engine"]["Labels"]);
    let tls = |key: &str| text(node, &format!("/Description/TLSInfo/{key}"));
    if !tls("TrustRoot").is_empty() {
        writeln!(
            out,
            "TLS Info:\n TrustRoot:\n{}\n Issuer Subject:\t{}\n Issuer Public Key:\t{}",
            tls("TrustRoot"),
            tls("CertIssuerSubject"),
            tls("CertIssuerPublicKey")
        )
        .unwrap_or_default();
    }
    out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"
}

fn labels(out: &mut String, head: &str, labels: &Value) {
    for (at, (key, value)) in labels.as_object().into_iter().flatten().enumerate() {
        if at == 0 {
            out.push_str(&format!("{head}\n"));
        }
        let value = value.as_str().unwrap_or_default();
        out.push_str(&if value.is_empty() { format!(" - {key}\n") } else { format!(" - {key}={value}\n") });
    }
}

fn plugins(out: &mut String, plugins: &Value) {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for plugin in plugins.as_array().into_iter().flatten() {
        kinds.entry(text(plugin, "/Type")).or_default().push(text(plugin, "/Name"));
    }
    if !kinds.is_empty() {
        out.push_str("Plugins:\n");
    }
    for (kind, names) in kinds {
        out.push_str(&format!(" {kind}:\t\t{}\n", names.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_reads_as_docker_prints_it() {
        let node = json!({
            "ID": "abc", "CreatedAt": "2026-11-21T00:00:00Z",
            "Spec": { "Labels": { "zone": "a", "ssd": "" }, "Role": "manager", "Availability": "active" },
            "Description": {
                "Hostname": "alpha", "Platform": { "Architecture": "x86_64", "OS": "linux" },
                "Resources": { "NanoCPUs": 2_000_000_000_u64, "MemoryBytes": 4_u64 << 30 },
                "Engine": { "EngineVersion": "0.1.0", "Plugins": [
                    { "Type": "Network", "Name": "bridge" }, { "Type": "Network", "Name": "overlay" },
                    { "Type": "Log", "Name": "json-file" },
                ] },
                "TLSInfo": {},
            },
            "Status": { "State": "ready", "Addr": "10.0.0.1" },
            "ManagerStatus": { "Leader": true, "Reachability": "reachable", "Addr": "10.0.0.1:2377" },
        });
        let expect = "ID:\t\t\tabc\nLabels:\n - zone=a\n - ssd\nHostname:              \talpha\n\
            Joined at:             \t2026-11-21 00:00:00 +0000 utc\nStatus:\n State:\t\t\tReady\n \
            Availability:         \tActive\n Address:\t\t10.0.0.1\nManager Status:\n Address:\t\t10.0.0.1:2377\n \
            Raft Status:\t\tReachable\n Leader:\t\tYes\nPlatform:\n Operating System:\tlinux\n \
            Architecture:\t\tx86_64\nResources:\n CPUs:\t\t\t2\n Memory:\t\t4GiB\nPlugins:\n Log:\t\tjson-file\n \
            Network:\t\tbridge, overlay\nEngine Version:\t\t0.1.0\n";
        assert_eq!(pretty(&node), expect);
    }
}
