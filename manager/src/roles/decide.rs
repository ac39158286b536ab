//! The next step towards the members that are wanted. No I/O, no clock.
//!
//! Invariants: a step never leaves less than a majority of the voters that answers, where there was one;
//! where all answer, the steps end with the voters that are wanted, if there are any.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use skep_api::NodeId;

/// What is wanted, and what is, as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Picture {
    /// The leader itself.
    pub(super) own: u64,
    /// Members of nodes that are to be managers.
    pub(super) wanted: BTreeSet<u64>,
    /// Members of nodes that are not, with the node that still names them.
    pub(super) unwanted: BTreeMap<u64, NodeId>,
    pub(super) voters: BTreeSet<u64>,
    pub(super) learners: BTreeSet<u64>,
    /// Members that answer; the leader is one of them.
    pub(super) reachable: BTreeSet<u64>,
    /// Members that have (nearly) all of the log.
    pub(super) caught_up: BTreeSet<u64>,
}

/// One change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Step {
    /// The leader is to go, and moves its lead there first.
    Transfer(u64),
    /// The node's member is gone: the store forgets it.
    Clear(u64, NodeId),
    /// Begins to follow.
    AddLearner(u64),
    /// Begins to vote.
    AddVoter(u64),
    /// Goes.
    Remove(u64),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transfer(id) => write!(f, "the lead goes to {id}"),
            Self::Clear(id, node) => write!(f, "node {node} is member {id} no more"),
            Self::AddLearner(id) => write!(f, "{id} follows"),
            Self::AddVoter(id) => write!(f, "{id} votes"),
            Self::Remove(id) => write!(f, "{id} goes"),
        }
    }
}

impl Picture {
    fn is_member(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// Whether nothing is left to do, now or later.
    pub(super) fn is_settled(&self) -> bool {
        self.voters == self.wanted && self.learners.is_empty() && self.unwanted.is_empty()
    }

    /// Whether the voters without `leaving` have a majority that answers.
    fn keeps_quorum_without(&self, leaving: u64) -> bool {
        let rest = self.voters.iter().filter(|id| **id != leaving);
        let n_reachable = rest.clone().filter(|id| self.reachable.contains(id)).count();
        n_reachable > rest.count() / 2
    }
}

/// The next step; `None` when there is none now. `skip` holds what has just failed.
pub(super) fn next(picture: &Picture, skip: &BTreeSet<Step>) -> Option<Step> {
    steps(picture).into_iter().flatten().find(|step| !skip.contains(step))
}

/// Those possible, the most urgent first.
fn steps(picture: &Picture) -> [Option<Step>; 6] {
    let Picture { own, wanted, unwanted, voters, learners, reachable, caught_up } = picture;
    let is_able = |id: &&u64| reachable.contains(id) && caught_up.contains(id);
    let cleared = unwanted.iter().find(|(id, _)| !picture.is_member(**id));
    let grown = learners.iter().filter(|id| wanted.contains(id)).find(is_able);
    let dropped = learners.iter().find(|id| !wanted.contains(id));
    let new = wanted.iter().find(|id| !picture.is_member(**id));
    // One that does not answer is of no use: it goes first.
    let leaving = || voters.iter().filter(|id| !wanted.contains(id) && *id != own);
    let gone = leaving()
        .filter(|id| picture.keeps_quorum_without(**id))
        .min_by_key(|id| (reachable.contains(id), **id));
    // Last, when it is the only one left to go: so the lead moves once.
    let heir = voters.iter().filter(|id| wanted.contains(id) && *id != own).find(is_able);
    let heir = heir.filter(|_| !wanted.contains(own) && leaving().next().is_none());
    [
        cleared.map(|(id, node)| Step::Clear(*id, *node)),
        grown.map(|id| Step::AddVoter(*id)),
        dropped.map(|id| Step::Remove(*id)),
        new.map(|id| Step::AddLearner(*id)),
        gone.map(|id| Step::Remove(*id)),
        heir.map(|id| Step::Transfer(*id)),
    ]
}
