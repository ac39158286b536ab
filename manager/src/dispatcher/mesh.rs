//! The mesh as the replicated state wants it: which endpoints each published port has, and where
//! addresses of the ingress network live. Pure; computed once for all nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use skep_api::{
    NodeId, TaskId, TaskState,
    object::{Node, NodeState, Service, Task, ingress},
    wire,
};
use skep_store::View;

/// The whole mesh, before it is cut for a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Mesh {
    /// (node, its data path address, its ingress address).
    nodes: Vec<(NodeId, String, Ipv4Addr)>,
    /// (ingress address of a live task, its node).
    addresses: Vec<(Ipv4Addr, NodeId)>,
    /// (protocol, published, target) -> endpoints. A port without endpoints refuses connections.
    ports: BTreeMap<(String, u16, u16), Vec<Ipv4Addr>>,
    /// Tasks that are endpoints.
    pub(super) members: BTreeSet<TaskId>,
    data_path_port: u32,
}

impl Mesh {
    /// The mesh of a state of the cluster.
    pub(super) fn of(view: &View) -> Self {
        let mut mesh = Self {
            data_path_port: view.cluster().map_or(0, |cluster| cluster.data_path_port),
            ..Self::default()
        };
        for node in view.nodes() {
            if let Some(address) = node.ingress_addr {
                mesh.nodes.push((node.id, node.data_path_addr.clone(), address));
            }
        }
        for service in view.services() {
            for port in service.ports.iter().filter(|port| port.is_ingress() && port.published_port != 0) {
                let key = (port.protocol().to_owned(), port.published_port, port.target_port);
                mesh.ports.entry(key).or_default();
            }
        }
        for task in view.tasks() {
            let Some((address, node)) = task.ingress_addr.zip(task.node_id).filter(|_| task.is_live()) else {
                continue;
            };
            mesh.addresses.push((address, node));
            if is_endpoint(task, view.node(node).map(AsRef::as_ref))
                && let Some(service) = view.service(task.service_id)
            {
                mesh.add_endpoint(service, task, address);
            }
        }
        mesh
    }

    /// A task of an older spec serves the ports that the service has now, and no other: what the service gave up
    /// may be another one's. It serves its own target of a port, or of a port that is new the same target.
    fn add_endpoint(&mut self, service: &Service, task: &Task, address: Ipv4Addr) {
        for port in service.ports.iter().filter(|port| port.is_ingress() && port.published_port != 0) {
            let alike =
                || task.ports.iter().filter(|own| own.is_ingress() && own.protocol() == port.protocol());
            let same = alike().find(|own| own.published_port == port.published_port);
            let Some(own) = same.or_else(|| alike().find(|own| own.target_port == port.target_port)) else {
                continue;
            };
            let key = (port.protocol().to_owned(), port.published_port, own.target_port);
            self.ports.entry(key).or_default().push(address);
            self.members.insert(task.id);
        }
    }

    /// What one node needs of it.
    pub(super) fn for_node(&self, node: NodeId, revision: u64) -> wire::MeshState {
        let place: BTreeMap<NodeId, &str> =
            self.nodes.iter().map(|(id, addr, _)| (*id, addr.as_str())).collect();
        let own =
            self.nodes.iter().find(|(id, ..)| *id == node).map_or(0, |(.., address)| u32::from(*address));
        wire::MeshState {
            revision,
            ingress_addr: own,
            ingress_prefix: u32::from(ingress::PREFIX),
            peers: self
                .nodes
                .iter()
                .filter(|(id, ..)| *id != node)
                .map(|(id, data_path_addr, address)| wire::MeshPeer {
                    node_id: id.to_bytes(),
                    data_path_addr: data_path_addr.clone(),
                    ingress_addr: u32::from(*address),
                })
                .collect(),
            remotes: self
                .addresses
                .iter()
                .filter(|(_, owner)| *owner != node)
                .filter_map(|(address, owner)| {
                    let data_path_addr = (*place.get(owner)?).to_owned();
                    Some(wire::MeshRemote { addr: u32::from(*address), data_path_addr })
                })
                .collect(),
            ports: self
                .ports
                .iter()
                .map(|((protocol, published, target), endpoints)| wire::MeshPort {
                    protocol: protocol.clone(),
                    published: u32::from(*published),
                    target: u32::from(*target),
                    endpoints: endpoints.iter().map(|address| u32::from(*address)).collect(),
                })
                .collect(),
            data_path_port: self.data_path_port,
        }
    }
}

/// Whether a task takes new connections.
fn is_endpoint(task: &Task, node: Option<&Node>) -> bool {
    let node_is_there = node.is_some_and(|node| node.status.state != NodeState::Down);
    // A task of a job is one while it runs: it is wanted beyond that.
    let is_to_run = task.is_wanted() && task.desired_state >= TaskState::Running;
    task.status.state == TaskState::Running && is_to_run && node_is_there
}

#[cfg(test)]
#[path = "mesh_tests.rs"]
mod tests;
