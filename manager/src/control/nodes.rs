//! Writes on nodes: what users want of them, roles among it, and their removal.

use std::{sync::Arc, time::Duration};

use skep_api::{
    ApiError, ErrorKind, NodeId,
    object::{Node, NodeState},
    spec::{NodeSpec, Role},
    validate,
};
use skep_store::{Change, Guard, GuardKind, View};
use tokio::time::timeout;

use super::{Control, not_written, out_of_sequence};
use crate::{roles::LOSS_OF_QUORUM, write::WriteError};

/// How long a removal waits for a demotion to be brought about.
const LET_GO_MAX: Duration = Duration::from_secs(5);
/// How often a removal is written anew because the node changed meanwhile.
const STALE_MAX: u32 = 8;

impl Control {
    /// Updates what the user wants of a node, from the version that the caller has seen. A new role is
    /// brought about behind this call.
    ///
    /// # Errors
    /// No such node; a stale version; a demotion of the last manager, or one that would lose the quorum,
    /// in Swarm's words; no leader.
    pub async fn update_node(&self, id: NodeId, version: u64, spec: NodeSpec) -> Result<(), ApiError> {
        validate::node(&spec)?;
        let view = self.view().await?;
        let old = view.node(id).ok_or_else(|| ApiError::not_found(format!("node {id} not found")))?;
        let mut guards = vec![Guard { kind: GuardKind::Node, id: id.0, version }];
        // Before the version, as Swarm does.
        if old.spec.role == Role::Manager && spec.role == Role::Worker {
            guards.extend(self.check_demotion(&view, old)?);
        }
        if old.meta.version != version {
            return Err(out_of_sequence());
        }
        let new = Node { spec, ..(**old).clone() };
        self.write(guards, vec![Change::PutNode(Arc::new(new))]).await
    }

    /// Swarm's checks. What they rest on must still hold when it is written: two managers demoted at a
    /// time by two callers would each leave the other.
    fn check_demotion(&self, view: &View, node: &Node) -> Result<Vec<Guard>, ApiError> {
        let others: Vec<&Arc<Node>> = view
            .nodes()
            .filter(|other| other.id != node.id && other.spec.role == Role::Manager && other.raft_id != 0)
            .collect();
        if node.raft_id != 0 && others.is_empty() {
            return Err(refuse("attempting to demote the last manager of the swarm"));
        }
        if !self.shared.may_remove(view, node) {
            return Err(refuse(LOSS_OF_QUORUM));
        }
        let guard =
            |other: &Arc<Node>| Guard { kind: GuardKind::Node, id: other.id.0, version: other.meta.version };
        Ok(others.into_iter().map(guard).collect())
    }

    /// Removes a node. Unless forced it must be down. Its tasks are given up.
    ///
    /// # Errors
    /// No such node; it is a manager; it is not down; no leader. Swarm's words.
    pub async fn remove_node(&self, id: NodeId, force: bool) -> Result<(), ApiError> {
        let view = self.view().await?;
        let node = view.node(id).ok_or_else(|| ApiError::not_found(format!("node {id} not found")))?;
        let is_member = node.raft_id != 0;
        let still = || {
            refuse(&format!(
                "node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
            ))
        };
        if is_member && node.spec.role == Role::Manager {
            return Err(still());
        }
        if !force && node.status.state == NodeState::Ready {
            return Err(refuse(&format!("node {id} is not down and can't be removed")));
        }
        // One that was demoted is a member until the others have let it go: in a moment.
        if is_member && timeout(LET_GO_MAX, self.let_go(id)).await.is_err() {
            return Err(still());
        }
        // The guard is against its coming in as a member meanwhile. Users name no version: what else the leader
        // writes of the node is none of their business.
        for _ in 0..STALE_MAX {
            let view = self.stale_view();
            let Some(node) = view.node(id) else { return Ok(()) };
            let guard = Guard { kind: GuardKind::Node, id: id.0, version: node.meta.version };
            if node.raft_id != 0 {
                return Err(still());
            }
            match self.shared.write(vec![guard], vec![Change::DeleteNode(id)]).await {
                Err(WriteError::Stale) => {}
                outcome => return outcome.map_err(not_written),
            }
        }
        Err(out_of_sequence())
    }

    /// Waits until a node is no raft member by the state here.
    async fn let_go(&self, id: NodeId) {
        let mut changed = self.shared.machine.nodes_changed();
        let is_member = || self.stale_view().node(id).is_some_and(|node| node.raft_id != 0);
        while is_member() && changed.changed().await.is_ok() {}
    }

    /// What to say to a manager that is to leave the swarm without force: Docker's words
    /// (`MB:daemon/cluster/swarm.go`).
    pub async fn leave_warning(&self) -> String {
        let mut words = LEAVING.to_owned();
        // Without a leader there is nothing to count.
        if let Ok(view) = self.view().await {
            let managers: Vec<_> = view.nodes().filter_map(|node| self.manager_status(node)).collect();
            let n_reachable = managers.iter().filter(|manager| manager.reachable).count();
            let n_unreachable = managers.len() - n_reachable;
            if (n_reachable, n_unreachable) == (1, 0) {
                words.push_str(LEAVING_LAST);
                return words;
            }
            // `removingManagerCausesLossOfQuorum`
            if n_reachable <= n_unreachable + 2 {
                words.push_str(&format!(
                    "Removing this node leaves {} managers out of {}. Without a Raft quorum your swarm will be inaccessible. ",
                    n_reachable - 1,
                    managers.len()
                ));
            }
        }
        words.push_str(LEAVING_FORCE);
        words
    }
}

const LEAVING: &str = "You are attempting to leave the swarm on a node that is participating as a manager. ";
const LEAVING_LAST: &str =
    "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ";
const LEAVING_FORCE: &str = "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.";

fn refuse(words: &str) -> ApiError {
    let words = format!("rpc error: code = FailedPrecondition desc = {words}");
    ApiError::new(ErrorKind::FailedPrecondition, words)
}

#[cfg(test)]
mod tests {
    use skep_api::Id;

    use super::*;
    use crate::{FEATURE_LEVEL, rig::first_manager};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_demotion_that_cannot_be_is_refused_before_an_old_version() {
        let (manager, _, _dir) = first_manager().await;
        let control = manager.control();
        let id = control.node_id();
        let spec = |role| NodeSpec { role, ..NodeSpec::default() };
        let error = control.update_node(id, 1, spec(Role::Worker)).await.unwrap_err();
        assert!(error.message.ends_with("attempting to demote the last manager of the swarm"), "{error}");
        let error = control.update_node(id, 1, spec(Role::Manager)).await.unwrap_err();
        assert!(error.message.ends_with("update out of sequence"), "{error}");
        manager.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_was_demoted_just_now_is_removed_once_it_is_let_go() {
        let (manager, _, _dir) = first_manager().await;
        let control = manager.control();
        let id = NodeId(Id(7));
        let node = |role, raft_id| {
            let spec = NodeSpec { role, ..NodeSpec::default() };
            let advertise_addr = "127.0.0.1:2".to_owned();
            Change::PutNode(Arc::new(Node {
                id,
                spec,
                raft_id,
                advertise_addr,
                feature_level: FEATURE_LEVEL,
                ..Node::default()
            }))
        };
        control.shared.write(Vec::new(), vec![node(Role::Manager, 77)]).await.unwrap();
        let refused = control.remove_node(id, true).await.unwrap_err();
        assert!(refused.message.contains("It must be demoted to worker before removal"), "{refused}");
        control.shared.write(Vec::new(), vec![node(Role::Worker, 77)]).await.unwrap();
        control.remove_node(id, true).await.unwrap();
        assert!(control.view().await.unwrap().node(id).is_none());
        manager.stop().await;
    }
}
