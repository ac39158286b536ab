//! What a development swarm looks like now, for people and for programs.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::select_ok;
use hyper::Method;
use serde::Serialize;
use serde_json::Value;

use super::process::ProcessId;
use super::record::{Record, Role};
use super::{api, start};

/// The longest that a manager may take to name the services.
const SERVICES_WAIT_MAX: Duration = Duration::from_secs(2);

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
    /// Its daemon was frozen and not thawed.
    frozen: bool,
    /// The nodes that it is cut off from.
    cut_from: BTreeSet<String>,
}

#[derive(Debug, Serialize)]
struct ServiceStatus {
    name: String,
    port: u64,
}

impl Status {
    /// Asks the managers for published services if wanted; with none answering there are none to name.
    pub(crate) async fn of(record: &Record, with_services: bool) -> Self {
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
                frozen: node.process.as_ref().is_some_and(ProcessId::is_frozen),
                cut_from: node.cut_from.clone(),
            })
            .collect();
        let services = if with_services { services(record).await } else { Value::Null };
        let services = services.as_array().cloned().unwrap_or_default();
        Self { nodes, services: services.iter().filter_map(published).collect() }
    }

    /// One line a node, one a published service.
    pub(crate) fn show(&self) {
        start::say(&format!("{:<12} {:<8} {:<15} {:<7} SOCKET", "NODE", "ROLE", "ADDRESS", "PID"));
        for node in &self.nodes {
            let pid = node.pid.map_or_else(|| "down".to_owned(), |pid| pid.to_string());
            let NodeStatus { name, role, address, socket, .. } = node;
            let frozen = if node.frozen { "  frozen" } else { "" };
            let cut = node.cut_from.iter().cloned().collect::<Vec<_>>().join(", ");
            let cut = if cut.is_empty() { cut } else { format!("  cut off from {cut}") };
            start::say(&format!("{name:<12} {role:<8} {address:<15} {pid:<7} {socket}{frozen}{cut}"));
        }
        for service in &self.services {
            start::say(&format!("Service {} is published on port {}.", service.name, service.port));
        }
    }
}

/// The first answer counts: any manager knows them all.
async fn services(record: &Record) -> Value {
    let managers = record.nodes.iter().filter(|n| n.role == Role::Manager);
    let asked: Vec<_> = managers
        .filter(|n| n.process.as_ref().is_some_and(|p| p.is_alive() && !p.is_frozen()))
        .map(|n| Box::pin(api::call(&n.socket, Method::GET, "/services", &Value::Null)))
        .collect();
    if asked.is_empty() {
        return Value::Null;
    }
    let answer = tokio::time::timeout(SERVICES_WAIT_MAX, select_ok(asked)).await;
    answer.ok().and_then(Result::ok).map_or(Value::Null, |(services, _)| services)
}

fn published(service: &Value) -> Option<ServiceStatus> {
    let port = [&service["Endpoint"]["Ports"], &service["Spec"]["EndpointSpec"]["Ports"]].iter().find_map(
        |ports| ports.as_array()?.iter().find_map(|p| p["PublishedPort"].as_u64().filter(|p| *p > 0)),
    )?;
    Some(ServiceStatus { name: service["Spec"]["Name"].as_str()?.to_owned(), port })
}
