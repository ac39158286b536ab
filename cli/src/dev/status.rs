//! What a development swarm looks like now, for people and for programs.

use hyper::Method;
use serde::Serialize;
use serde_json::Value;

use super::process::ProcessId;
use super::record::{Record, Role};
use super::{api, start};

/// The form that `--format json` promises.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    nodes: Vec<NodeStatus>,
    services: Vec<ServiceStatus>,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    name: String,
    role: &'static str,
    address: String,
    socket: String,
    netns: String,
    /// The daemon's process; null when it does not run.
    pid: Option<i32>,
}

#[derive(Debug, Serialize)]
struct ServiceStatus {
    name: String,
    port: u64,
}

impl Status {
    /// Asks the manager for published services; with none answering there are none to name.
    pub(crate) async fn of(record: &Record) -> anyhow::Result<Self> {
        let nodes = record
            .nodes
            .iter()
            .map(|node| NodeStatus {
                name: node.name.clone(),
                role: Role::as_str(node.role),
                address: node.address.to_string(),
                socket: format!("unix://{}", node.socket.display()),
                netns: node.netns.display().to_string(),
                pid: node.process.as_ref().filter(|p| ProcessId::is_alive(p)).map(|p| p.pid),
            })
            .collect();
        let services = api::call(&record.manager()?.socket, Method::GET, "/services", &Value::Null).await;
        let services = services.unwrap_or_default().as_array().cloned().unwrap_or_default();
        Ok(Self { nodes, services: services.iter().filter_map(published).collect() })
    }

    /// One line a node, one a published service.
    pub(crate) fn show(&self) {
        start::say(&format!("{:<12} {:<8} {:<15} {:<7} SOCKET", "NODE", "ROLE", "ADDRESS", "PID"));
        for node in &self.nodes {
            let pid = node.pid.map_or_else(|| "down".to_owned(), |pid| pid.to_string());
            let NodeStatus { name, role, address, socket, .. } = node;
            start::say(&format!("{name:<12} {role:<8} {address:<15} {pid:<7} {socket}"));
        }
        for service in &self.services {
            start::say(&format!("Service {} is published on port {}.", service.name, service.port));
        }
    }
}

fn published(service: &Value) -> Option<ServiceStatus> {
    let port = [&service["Endpoint"]["Ports"], &service["Spec"]["EndpointSpec"]["Ports"]].iter().find_map(
        |ports| ports.as_array()?.iter().find_map(|p| p["PublishedPort"].as_u64().filter(|p| *p > 0)),
    )?;
    Some(ServiceStatus { name: service["Spec"]["Name"].as_str()?.to_owned(), port })
}
