//! The mesh as the replicated state wants it: which endpoints each published port has, and where
//! addresses of the ingress network live. Pure; computed once for all nodes.

mod change;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

pub(super) use change::MeshStep;

use skep_api::{
    NodeId, TaskId, TaskState,
    object::{Node, NodeState, Service, Task, ingress},
    spec::Role,
    wire,
};
use skep_store::View;

/// (protocol, published, target).
type PortKey = (String, u16, u16);

/// Where a node's data path is.
type Place = Arc<str>;

/// A node's data path address and its ingress address.
type Point = (Place, Ipv4Addr);

/// In a swarm of more nodes a node is told of the others only once a task of it is on the ingress network: where all hear
/// of all, the joins of thousands cost millions of words.
const ALL_PEERS_MAX: usize = 250;

/// Which other nodes a node is told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Peers {
    /// All that are on the ingress network: any of them may send to its tasks.
    All,
    /// It has no tasks there, and takes packets only from where it sends to.
    Managers,
}

/// The whole mesh, before it is cut for a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Mesh {
    nodes: BTreeMap<NodeId, Point>,
    /// Those of them that are managers, or are to be.
    managers: BTreeMap<NodeId, Point>,
    /// Nodes of which a live task has an address.
    owners: BTreeSet<NodeId>,
    /// Of live tasks, with the node of each.
    addresses: BTreeMap<Ipv4Addr, (NodeId, Place)>,
    /// The endpoints. A port without endpoints refuses connections.
    ports: BTreeMap<PortKey, BTreeSet<Ipv4Addr>>,
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
                let point = (node.data_path_addr.as_str().into(), address);
                // One that is to be none any more may still lead.
                if node.spec.role == Role::Manager || node.raft_id != 0 {
                    mesh.managers.insert(node.id, Point::clone(&point));
                }
                mesh.nodes.insert(node.id, point);
            }
        }
        for service in view.services() {
            for port in service.ports.iter().filter(|port| port.is_ingress() && port.published_port != 0) {
                let key = (port.protocol().to_owned(), port.published_port, port.target_port);
                mesh.ports.entry(key).or_default();
            }
        }
        for task in view.tasks_with_address() {
            let Some((address, node)) = task.ingress_addr.zip(task.node_id) else { continue };
            if let Some((place, _)) = mesh.nodes.get(&node) {
                mesh.addresses.insert(address, (node, Arc::clone(place)));
                mesh.owners.insert(node);
            }
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
            self.ports.entry(key).or_default().insert(address);
            self.members.insert(task.id);
        }
    }

    fn own_address(&self, node: NodeId) -> u32 {
        self.nodes.get(&node).map_or(0, |(_, address)| u32::from(*address))
    }

    /// Which others this node has to know of.
    pub(super) fn peers_of(&self, node: NodeId) -> Peers {
        let is_small = self.nodes.len() <= ALL_PEERS_MAX;
        if is_small || self.owners.contains(&node) { Peers::All } else { Peers::Managers }
    }

    fn n_nodes(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    /// What one node needs of it.
    pub(super) fn for_node(
        &self,
        node: NodeId,
        peers: Peers,
        revision: u64,
        left_at: u64,
    ) -> wire::MeshState {
        let (few_peers, peers) = match peers {
            Peers::All => (false, &self.nodes),
            Peers::Managers => (true, &self.managers),
        };
        let peers = peers.iter().filter(|(id, _)| **id != node);
        let remotes = self.addresses.iter().filter(|(_, (owner, _))| *owner != node);
        wire::MeshState {
            revision,
            ingress_addr: self.own_address(node),
            ingress_prefix: u32::from(ingress::PREFIX),
            peers: peers.map(|(id, (place, address))| peer(*id, place, *address)).collect(),
            remotes: remotes.map(|(address, (_, place))| remote(*address, place)).collect(),
            ports: self.ports.iter().map(|(key, endpoints)| port(key, endpoints)).collect(),
            data_path_port: self.data_path_port,
            left_at,
            few_peers,
            n_nodes: self.n_nodes(),
        }
    }
}

fn peer(node: NodeId, place: &Place, address: Ipv4Addr) -> wire::MeshPeer {
    wire::MeshPeer {
        node_id: node.to_bytes(),
        data_path_addr: place.to_string(),
        ingress_addr: u32::from(address),
    }
}

fn remote(address: Ipv4Addr, place: &Place) -> wire::MeshRemote {
    wire::MeshRemote { addr: u32::from(address), data_path_addr: place.to_string() }
}

fn port<'a>(
    (protocol, published, target): &PortKey,
    endpoints: impl IntoIterator<Item = &'a Ipv4Addr>,
) -> wire::MeshPort {
    wire::MeshPort {
        protocol: protocol.clone(),
        published: u32::from(*published),
        target: u32::from(*target),
        endpoints: endpoints.into_iter().map(|address| u32::from(*address)).collect(),
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
