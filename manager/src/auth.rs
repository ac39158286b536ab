//! Who may call what: the one place where a caller's certificate is held against the store.
//!
//! A certificate says who calls. What it may do is the store's current word, as a demoted manager's
//! certificate lives on for weeks. The rules, method by method, are in docs/control-plane.md.

use skep_api::{NodeId, object::Node, spec::Role};
use skep_link::Peer;
use tonic::Status;

use crate::{dispatcher::Shared, recovery};

/// What a method asks of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// A node that the store has.
    Node,
    /// A node that is to be a manager.
    Manager,
    /// A raft member, or one about to be, by the state that is applied here: asked too often, and of too
    /// little weight, for a linearizable read each time.
    Member,
    /// The same for raft itself. A manager that has no state yet, or not all of it, cannot know who its
    /// peers are: see [`Shared::caller`].
    Raft,
}

/// Who calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Caller {
    /// The node.
    pub(crate) node: NodeId,
    /// What it is to be; of the certificate for a caller that is not in the store yet ([`Need::Raft`]).
    pub(crate) role: Role,
}

impl Shared {
    /// The caller of a request, if it may.
    ///
    /// `Node` and `Manager` are answered from a state that is whole: an agent that is refused ends its
    /// tasks. `Raft` cannot wait for that, as it is what brings the state here. A member that has no state
    /// takes any manager of this cluster by its certificate, and until it has caught up also those that a
    /// manager named when it entered ([`crate::members::Book`]); from then on the store alone decides.
    ///
    /// # Errors
    /// `Unauthenticated` without a certificate, `PermissionDenied` for one that is not enough,
    /// `Unavailable` without a leader.
    pub(crate) async fn caller(&self, peer: Option<Peer>, need: Need) -> Result<Caller, Status> {
        let peer = peer.ok_or_else(|| Status::unauthenticated("a node certificate is needed"))?;
        let is_whole = match need {
            Need::Node | Need::Manager => true,
            Need::Member | Need::Raft => false,
        };
        if is_whole {
            self.raft.read_barrier().await.map_err(|e| Status::unavailable(e.to_string()))?;
        }
        let caller = self.judge(&peer, need)?;
        if !is_whole {
            self.book.heard(caller.node);
        }
        Ok(caller)
    }

    fn judge(&self, peer: &Peer, need: Need) -> Result<Caller, Status> {
        let stranger = || Status::permission_denied(format!("node {} is not in this swarm", peer.node_id));
        let id = peer.node_id.parse::<NodeId>().map_err(|_| stranger())?;
        let view = self.machine.view();
        let Some(cluster) = view.cluster() else {
            let may = need == Need::Raft && peer.role == skep_link::Role::Manager;
            let caller = Caller { node: id, role: Role::Manager };
            return if may { Ok(caller) } else { Err(Status::unavailable("this manager is still starting")) };
        };
        if cluster.id.to_string() != peer.cluster_id {
            return Err(stranger());
        }
        let Some(node) = view.node(id) else {
            let may = need == Need::Raft && self.book.is_introduced(id);
            return if may { Ok(Caller { node: id, role: Role::Manager }) } else { Err(stranger()) };
        };
        if node.dropped {
            return Err(Status::permission_denied(recovery::dropped_words(&view)));
        }
        let may = match need {
            Need::Node => true,
            Need::Manager => node.spec.role == Role::Manager,
            // One that is being demoted votes until it is out.
            Need::Member | Need::Raft => node.raft_id != 0 || (need == Need::Raft && self.introduced(node)),
        };
        if may {
            return Ok(Caller { node: id, role: node.spec.role });
        }
        Err(Status::permission_denied(format!("node {id} is not a manager of this swarm")))
    }

    /// Our state may be from before it became a manager.
    fn introduced(&self, node: &Node) -> bool {
        self.book.is_introduced(node.id)
    }
}

#[cfg(test)]
mod tests;
