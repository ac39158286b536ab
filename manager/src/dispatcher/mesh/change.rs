//! What is different between two meshes: all nodes are told of it, so its cost is that of what happened and not
//! that of the swarm.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use skep_api::{NodeId, wire};

use super::{Mesh, Peers, Place, Point, PortKey, peer, port, remote};

/// From one mesh to the next; `None` stands for what is gone.
#[derive(Debug)]
pub(in crate::dispatcher) struct MeshStep {
    /// The revision that it applies to, and the one that it makes.
    pub(in crate::dispatcher) from: u64,
    pub(in crate::dispatcher) to: u64,
    left_at: u64,
    nodes: BTreeMap<NodeId, Option<Point>>,
    managers: BTreeMap<NodeId, Option<Point>>,
    addresses: BTreeMap<Ipv4Addr, Option<(NodeId, Place)>>,
    added: BTreeMap<PortKey, BTreeSet<Ipv4Addr>>,
    gone: BTreeMap<PortKey, BTreeSet<Ipv4Addr>>,
    ports_gone: Vec<PortKey>,
    data_path_port: u32,
    /// Something changed that each node is told: more than which nodes there are.
    is_for_all: bool,
}

impl MeshStep {
    /// The step between these meshes.
    pub(in crate::dispatcher) fn between(
        (from, old): (u64, &Mesh),
        (to, new): (u64, &Mesh),
        left_at: u64,
    ) -> Self {
        let none = BTreeSet::new();
        let mut added = BTreeMap::new();
        let mut gone = BTreeMap::new();
        for (key, endpoints) in &new.ports {
            let before = old.ports.get(key);
            let more: BTreeSet<_> = endpoints.difference(before.unwrap_or(&none)).copied().collect();
            if before.is_none() || !more.is_empty() {
                added.insert(key.clone(), more);
            }
            let less: BTreeSet<_> = before.unwrap_or(&none).difference(endpoints).copied().collect();
            if !less.is_empty() {
                gone.insert(key.clone(), less);
            }
        }
        let is_for_all = left_at == to
            || (&old.addresses, &old.ports, old.data_path_port)
                != (&new.addresses, &new.ports, new.data_path_port);
        Self {
            from,
            to,
            left_at,
            nodes: changed(&old.nodes, &new.nodes),
            managers: changed(&old.managers, &new.managers),
            addresses: changed(&old.addresses, &new.addresses),
            added,
            gone,
            ports_gone: old.ports.keys().filter(|key| !new.ports.contains_key(*key)).cloned().collect(),
            data_path_port: new.data_path_port,
            is_for_all,
        }
    }

    fn nodes(&self, peers: Peers) -> &BTreeMap<NodeId, Option<Point>> {
        match peers {
            Peers::All => &self.nodes,
            Peers::Managers => &self.managers,
        }
    }

    /// Whether a node that knows of these others has to hear of it.
    pub(in crate::dispatcher) fn concerns(&self, node: NodeId, peers: Peers) -> bool {
        self.is_for_all || self.nodes.contains_key(&node) || !self.nodes(peers).is_empty()
    }

    /// What one node needs of it. `newest` is the mesh after all steps that are sent with this one.
    pub(in crate::dispatcher) fn for_node(
        &self,
        node: NodeId,
        peers: Peers,
        newest: &Mesh,
    ) -> wire::MeshChange {
        let mut change = wire::MeshChange {
            applies_to: self.from,
            results_in: self.to,
            ingress_addr: newest.own_address(node),
            data_path_port: self.data_path_port,
            left_at: self.left_at,
            ports: self.added.iter().map(|(key, endpoints)| port(key, endpoints)).collect(),
            endpoints_gone: self.gone.iter().map(|(key, endpoints)| port(key, endpoints)).collect(),
            ports_gone: self.ports_gone.iter().map(|key| port(key, [])).collect(),
            n_nodes: newest.n_nodes(),
            ..wire::MeshChange::default()
        };
        for (id, now) in self.nodes(peers).iter().filter(|(id, _)| **id != node) {
            match now {
                Some((place, address)) => change.peers.push(peer(*id, place, *address)),
                None => change.peers_gone.push(id.to_bytes()),
            }
        }
        for (address, now) in &self.addresses {
            match now {
                // What came to this node is no remote any more.
                Some((owner, place)) if *owner != node => change.remotes.push(remote(*address, place)),
                Some(_) | None => change.remotes_gone.push(u32::from(*address)),
            }
        }
        change
    }
}

fn changed<K: Ord + Copy, V: PartialEq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> BTreeMap<K, Option<V>> {
    let put = new.iter().filter(|(key, value)| old.get(*key) != Some(*value));
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    put.map(|(key, value)| (*key, Some(value.clone()))).chain(gone.map(|key| (*key, None))).collect()
}
