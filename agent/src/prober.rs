//! Whose probes this agent answers: the nodes of the newest mesh, and of the swarm's managers' knowledge
//! where this node is one of them.

use std::sync::Arc;

use skep_api::{NodeId, wire};
use skep_link::{Knows, Role};
use tokio::sync::watch;

/// Before this node has heard of any mesh a certificate of the swarm is enough. So is a worker's while this node is told of
/// few others: all that it learns is that an agent runs here. What a manager says is listened to, so it must be known;
/// but when no session is open, all that were may have moved, and who calls us back was promoted meanwhile.
pub(crate) fn knows_by_mesh(
    mesh: watch::Receiver<Option<Arc<wire::MeshState>>>,
    is_connected: watch::Receiver<bool>,
) -> Knows {
    Arc::new(move |node: NodeId, role: Role| {
        let id = node.to_bytes();
        mesh.borrow().as_ref().is_none_or(|mesh| {
            let is_named = mesh.peers.iter().any(|peer| peer.node_id == id);
            is_named || mesh.few_peers && (role == Role::Worker || !*is_connected.borrow())
        })
    })
}

#[cfg(test)]
mod tests {
    use skep_api::Id;

    use super::*;

    #[test]
    fn a_removed_node_is_in_no_mesh() {
        let (there, removed) = (NodeId(Id(1)), NodeId(Id(2)));
        let (mesh, newest) = watch::channel(None);
        let (connected, is_connected) = watch::channel(true);
        let knows = knows_by_mesh(newest, is_connected);
        assert!(knows(removed, Role::Manager), "nothing is known yet");
        let peer = wire::MeshPeer { node_id: there.to_bytes(), ..wire::MeshPeer::default() };
        let state = wire::MeshState { peers: vec![peer], ..wire::MeshState::default() };
        mesh.send_replace(Some(Arc::new(state.clone())));
        assert!(knows(there, Role::Worker) && !knows(removed, Role::Worker));
        mesh.send_replace(Some(Arc::new(wire::MeshState { few_peers: true, ..state.clone() })));
        assert!(knows(there, Role::Manager) && !knows(removed, Role::Manager));
        assert!(knows(removed, Role::Worker), "workers are not named to this node");
        connected.send_replace(false);
        assert!(knows(removed, Role::Manager), "a worker of before may be the manager that calls back");
        mesh.send_replace(Some(Arc::new(wire::MeshState { few_peers: false, ..state.clone() })));
        assert!(!knows(removed, Role::Manager), "all others are named");
    }
}
