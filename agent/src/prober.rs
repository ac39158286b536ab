//! Whose probes this agent answers: the nodes of the newest mesh, and of the swarm's managers' knowledge
//! where this node is one of them.

use std::sync::Arc;

use skep_api::{NodeId, wire};
use skep_link::Knows;
use tokio::sync::watch;

/// Before this node has heard of any mesh a certificate of the swarm is enough.
pub(crate) fn knows_by_mesh(mesh: watch::Receiver<Option<Arc<wire::MeshState>>>) -> Knows {
    Arc::new(move |node: NodeId| {
        let id = node.to_bytes();
        mesh.borrow().as_ref().is_none_or(|mesh| mesh.peers.iter().any(|peer| peer.node_id == id))
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
        let knows = knows_by_mesh(newest);
        assert!(knows(removed), "nothing is known yet");
        let peer = wire::MeshPeer { node_id: there.to_bytes(), ..wire::MeshPeer::default() };
        let state = wire::MeshState { peers: vec![peer], ..wire::MeshState::default() };
        mesh.send_replace(Some(Arc::new(state)));
        assert!(knows(there) && !knows(removed));
    }
}
