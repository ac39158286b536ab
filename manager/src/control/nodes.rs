//! Writes on nodes.

use std::sync::Arc;

use skep_api::{
    ApiError, ErrorKind, NodeId,
    object::{Node, NodeState},
    spec::{NodeSpec, Role},
    validate,
};
use skep_store::{Change, Guard, GuardKind};

use super::{Control, out_of_sequence};

impl Control {
    /// Updates what the user wants of a node, from the version that the caller has seen.
    ///
    /// # Errors
    /// No such node; a stale version; a change of role, which is not served yet; no leader.
    pub async fn update_node(&self, id: NodeId, version: u64, spec: NodeSpec) -> Result<(), ApiError> {
        validate::node(&spec)?;
        let view = self.view().await?;
        let old = view.node(id).ok_or_else(|| ApiError::not_found(format!("node {id} not found")))?;
        if old.meta.version != version {
            return Err(out_of_sequence());
        }
        if old.spec.role != spec.role {
            let words = format!(
                "Role: {} cannot become {} yet: promote and demote are not supported yet",
                old.spec.role.as_str(),
                spec.role.as_str()
            );
            return Err(ApiError::new(ErrorKind::Unimplemented, words));
        }
        let new = Node { spec, ..(**old).clone() };
        let guard = Guard { kind: GuardKind::Node, id: id.0, version };
        self.write(vec![guard], vec![Change::PutNode(Arc::new(new))]).await
    }

    /// Removes a node. Unless forced it must be down. Its tasks are given up.
    ///
    /// # Errors
    /// No such node; it is a manager; it is not down; no leader. Swarm's words.
    pub async fn remove_node(&self, id: NodeId, force: bool) -> Result<(), ApiError> {
        let view = self.view().await?;
        let node = view.node(id).ok_or_else(|| ApiError::not_found(format!("node {id} not found")))?;
        let refuse = |words: String| {
            let words = format!("rpc error: code = FailedPrecondition desc = {words}");
            Err(ApiError::new(ErrorKind::FailedPrecondition, words))
        };
        if node.spec.role == Role::Manager {
            return refuse(format!(
                "node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
            ));
        }
        if !force && node.status.state == NodeState::Ready {
            return refuse(format!("node {id} is not down and can't be removed"));
        }
        self.write(Vec::new(), vec![Change::DeleteNode(id)]).await?;
        Ok(())
    }
}
