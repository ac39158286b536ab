//! `skep info`: what the daemon is and what it knows of the swarm.

use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;

use super::{
    connection::Connection,
    duration,
    output::{self, print, text},
};
use crate::units::bytes_size;

#[derive(Args, Debug)]
pub(crate) struct Info {
    /// 'json'
    #[arg(short, long)]
    format: Option<String>,
}

/// Prints it in docker's order; its warnings go to stderr.
pub(crate) async fn run(daemon: &Connection, flags: &Info) -> anyhow::Result<()> {
    let format = output::Format::parse(flags.format.as_deref())?;
    let info = daemon.get("/info").await?;
    if format == output::Format::Json {
        return print(&format!("{info}\n"));
    }
    print(&render(&info))?;
    for warning in info["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("{warning}");
    }
    Ok(())
}

fn render(info: &Value) -> String {
    let mut out = String::new();
    let mut line = |words: &str, value: &str| {
        if !value.is_empty() {
            writeln!(out, "{words}: {value}").unwrap_or_default();
        }
    };
    let count = |key: &str| info[key].as_u64().unwrap_or(0).to_string();
    line("Containers", &count("Containers"));
    line(" Running", &count("ContainersRunning"));
    line(" Paused", &count("ContainersPaused"));
    line(" Stopped", &count("ContainersStopped"));
    line("Images", &count("Images"));
    line("Server Version", text(info, "/ServerVersion"));
    line("Storage Driver", text(info, "/Driver"));
    line("Logging Driver", text(info, "/LoggingDriver"));
    line("Cgroup Driver", text(info, "/CgroupDriver"));
    line("Kernel Version", text(info, "/KernelVersion"));
    line("Operating System", text(info, "/OperatingSystem"));
    line("OSType", text(info, "/OSType"));
    line("Architecture", text(info, "/Architecture"));
    line("CPUs", &count("NCPU"));
    line("Total Memory", &bytes_size(info["MemTotal"].as_u64().unwrap_or(0)));
    line("Name", text(info, "/Name"));
    line("ID", text(info, "/ID"));
    line("Root Dir", text(info, "/DockerRootDir"));
    let labels: Vec<&str> =
        info["Labels"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    line("Labels", &labels.join(", "));
    swarm(&mut out, &info["Swarm"]);
    out
}

fn swarm(out: &mut String, swarm: &Value) {
    let mut line = |words: &str, value: &str| {
        if !value.is_empty() {
            writeln!(out, "{words}: {value}").unwrap_or_default();
        }
    };
    line("Swarm", text(swarm, "/LocalNodeState"));
    if matches!(text(swarm, "/LocalNodeState"), "inactive" | "locked") {
        return;
    }
    line(" NodeID", text(swarm, "/NodeID"));
    line(" Error", text(swarm, "/Error"));
    let is_manager = swarm["ControlAvailable"] == true;
    line(" Is Manager", &is_manager.to_string());
    if is_manager && swarm["Cluster"].is_object() {
        let cluster = &swarm["Cluster"];
        let span = |pointer: &str| cluster.pointer(pointer).and_then(Value::as_u64).map(duration::text);
        line(" ClusterID", text(cluster, "/ID"));
        line(" Managers", &swarm["Managers"].to_string());
        line(" Nodes", &swarm["Nodes"].to_string());
        line(" Data Path Port", &cluster["DataPathPort"].to_string());
        let limit = cluster.pointer("/Spec/Orchestration/TaskHistoryRetentionLimit");
        line(" Task History Retention Limit", &limit.map(Value::to_string).unwrap_or_default());
        line(" Heartbeat Period", &span("/Spec/Dispatcher/HeartbeatPeriod").unwrap_or_default());
        line(" Certificate Expiry", &span("/Spec/CAConfig/NodeCertExpiry").unwrap_or_default());
    }
    line(" Node Address", text(swarm, "/NodeAddr"));
    let managers: Vec<&str> =
        swarm["RemoteManagers"].as_array().into_iter().flatten().map(|one| text(one, "/Addr")).collect();
    line(" Manager Addresses", &managers.join(", "));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_swarm_is_summed_up() {
        let info = json!({
            "Containers": 1, "Name": "alpha", "MemTotal": 4_u64 << 30,
            "Swarm": {
                "LocalNodeState": "active", "NodeID": "abc", "ControlAvailable": true, "Managers": 3, "Nodes": 5,
                "Error": "", "NodeAddr": "10.0.0.1", "RemoteManagers": [{ "NodeID": "abc", "Addr": "10.0.0.1:2377" }],
                "Cluster": { "ID": "xyz", "DataPathPort": 4789, "Spec": {
                    "Orchestration": { "TaskHistoryRetentionLimit": 5 },
                    "Dispatcher": { "HeartbeatPeriod": 1_000_000_000 },
                    "CAConfig": { "NodeCertExpiry": 7_776_000_000_000_000_u64 },
                } },
            },
        });
        let out = render(&info);
        let swarm = out.split_once("Swarm: ").unwrap().1;
        assert_eq!(
            swarm,
            "active\n NodeID: abc\n Is Manager: true\n ClusterID: xyz\n Managers: 3\n Nodes: 5\n Data Path Port: 4789\n \
             Task History Retention Limit: 5\n Heartbeat Period: 1s\n Certificate Expiry: 2160h0m0s\n \
             Node Address: 10.0.0.1\n Manager Addresses: 10.0.0.1:2377\n"
        );
        assert!(render(&json!({ "Swarm": { "LocalNodeState": "inactive" } })).ends_with("Swarm: inactive\n"));
    }
}
