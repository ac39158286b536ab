//! The feature level: which rules `apply` follows, so that managers of different builds hold the same state.
//!
//! A rule that changes what an entry means, or a field that an older build would drop, comes with a level of its
//! own and is asked for by `view.feature_level() >= N`. The level is raised by an entry once all managers can.

use skep_api::object::{Cluster, Node};

use crate::{Refusal, RefusalKind, View};

/// The highest feature level that this build can. Levels, and what each brought:
///
/// 1. The first.
/// 2. What orchestration needs: seats that are nodes, tasks beside others, jobs, generic resources, the serials of
///    updates, past specs, tickets; a task gets its node by a change of its own; a task that is not wanted any more
///    keeps the words that say why, and the task that its room is for; nodes say since when they are what they are;
///    names of new services differ by more than case.
pub const FEATURE_LEVEL: u32 = if cfg!(feature = "next-level") { 3 } else { 2 };

/// A swarm's feature level is above what this build can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the swarm is at feature level {level}, and this build can {FEATURE_LEVEL}: \
     it is too old to be a manager there; start a newer build"
)]
pub struct TooOld {
    /// The swarm's.
    pub level: u32,
}

/// Whether this build may be a manager of a swarm at `level`.
///
/// # Errors
/// It is too old.
pub(crate) fn check(level: u32) -> Result<(), TooOld> {
    if level <= FEATURE_LEVEL { Ok(()) } else { Err(TooOld { level }) }
}

impl View {
    /// The swarm's feature level; 0 before it was initialised.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.feature_level)
    }

    /// Whether this build may go on with this state.
    ///
    /// # Errors
    /// It is too old: it must neither apply what follows nor answer from it.
    pub fn check_feature_level(&self) -> Result<(), TooOld> {
        check(self.feature_level())
    }

    /// The managers, those on their way in too.
    pub fn managers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(|node| &**node).filter(|node| node.raft_id != 0)
    }

    /// The level that a swarm's new state has: never below the one before, never above what a manager can.
    pub(crate) fn level_with(&self, cluster: &Cluster) -> Result<u32, Refusal> {
        let level = cluster.feature_level;
        if level <= self.feature_level() {
            return Ok(self.feature_level());
        }
        match self.managers().find(|node| node.feature_level < level) {
            None => Ok(level),
            Some(node) => Err(too_old(node, level)),
        }
    }

    /// A manager can what the swarm's level asks for.
    pub(crate) fn check_level(&self, node: &Node) -> Result<(), Refusal> {
        let level = self.feature_level();
        if node.raft_id == 0 || node.feature_level >= level { Ok(()) } else { Err(too_old(node, level)) }
    }

    /// The rule of the level that stands for the next one: names of services differ by more than `-` and `_`.
    #[cfg(feature = "next-level")]
    pub(crate) fn check_names_of_next_level(
        &self,
        service: &skep_api::object::Service,
    ) -> Result<(), Refusal> {
        let name = &service.spec.name;
        let plain = |name: &str| name.replace('_', "-");
        let is_alike = |other: &skep_api::object::Service| {
            other.id != service.id && plain(&other.spec.name) == plain(name)
        };
        if self.feature_level() < 3 || !self.services.values().any(|other| is_alike(other)) {
            return Ok(());
        }
        let words = format!("name conflicts with an existing object: service {name} differs by '-' alone");
        Err(Refusal::new(RefusalKind::NameTaken, words))
    }
}

fn too_old(node: &Node, level: u32) -> Refusal {
    let words = format!(
        "the build of manager {} can feature level {}, and the swarm is at {level}; install a newer build there",
        node.id, node.feature_level
    );
    Refusal::new(RefusalKind::TooOld, words)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_api::{Id, NodeId};

    use super::*;
    use crate::{Change, Proposal, ProposalError, Store, decode_result};

    fn apply(store: &mut Store, change: Change) -> Result<u64, ProposalError> {
        let proposal = Proposal { changes: vec![change], ..Proposal::default() };
        decode_result(&store.apply(&proposal.encode()).answer)
    }

    fn cluster(feature_level: u32) -> Change {
        Change::PutCluster(Arc::new(Cluster { feature_level, ..Cluster::default() }))
    }

    fn manager(id: u128, feature_level: u32) -> Change {
        let raft_id = u64::try_from(id).unwrap();
        Change::PutNode(Arc::new(Node { id: NodeId(Id(id)), raft_id, feature_level, ..Node::default() }))
    }

    fn refused(result: Result<u64, ProposalError>) -> RefusalKind {
        match result {
            Err(ProposalError::Refused(refusal)) => refusal.kind,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_level_rises_once_all_managers_can_and_never_falls() {
        let mut store = Store::default();
        apply(&mut store, cluster(1)).unwrap();
        apply(&mut store, manager(1, 2)).unwrap();
        apply(&mut store, manager(2, 1)).unwrap();
        // A worker's build does not matter.
        apply(&mut store, manager(0, 0)).unwrap();
        assert_eq!(refused(apply(&mut store, cluster(2))), RefusalKind::TooOld);
        assert_eq!(store.view().feature_level(), 1);
        apply(&mut store, manager(2, 2)).unwrap();
        apply(&mut store, cluster(2)).unwrap();
        // As an entry that was drafted before says it.
        apply(&mut store, cluster(1)).unwrap();
        assert_eq!(store.view().feature_level(), 2);
    }

    #[test]
    fn no_manager_comes_in_that_cannot_what_the_swarm_asks_for() {
        let mut store = Store::default();
        apply(&mut store, cluster(2)).unwrap();
        assert_eq!(refused(apply(&mut store, manager(1, 1))), RefusalKind::TooOld);
        apply(&mut store, manager(1, 3)).unwrap();
    }

    #[test]
    fn a_state_of_a_newer_build_is_not_read() {
        let mut store = Store::default();
        apply(&mut store, cluster(FEATURE_LEVEL + 1)).unwrap();
        assert_eq!(store.view().check_feature_level(), Err(TooOld { level: FEATURE_LEVEL + 1 }));
        let mut bytes = Vec::new();
        store.write(&mut bytes).unwrap();
        let error = Store::restore(&mut &*bytes).unwrap_err().to_string();
        assert!(error.contains("start a newer build"), "{error}");
    }
}
