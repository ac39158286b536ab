//! Which agents hold sessions with other managers, as those tell it. Pure; soft state.
//!
//! Each manager tells its whole list each time; one that is not heard of any more is forgotten with it.

use std::{collections::BTreeMap, time::Duration};

use skep_api::NodeId;
use tokio::time::Instant;

/// A manager's list is forgotten so long after it was last told: four times its rhythm.
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(2);

/// One that told this recently is there: a little more than its rhythm.
const FRESH: Duration = Duration::from_millis(600);

/// One agent, as the manager that holds its session tells of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Heard {
    /// Whose.
    pub(crate) node: NodeId,
    /// Its last sign of life.
    pub(crate) at: Instant,
    /// The store revision up to which its mesh is right.
    pub(crate) applied: u64,
}

#[derive(Debug)]
struct List {
    told_at: Instant,
    /// The oldest mesh among its agents.
    lowest: u64,
    /// Last sign of life.
    agents: BTreeMap<NodeId, Instant>,
}

/// The lists by manager.
#[derive(Debug, Default)]
pub(super) struct Roll(BTreeMap<NodeId, List>);

impl Roll {
    /// Takes a manager's list in the place of its last one. Returns who was on that and is not any more.
    pub(super) fn take(&mut self, manager: NodeId, heard: &[Heard], now: Instant) -> Vec<NodeId> {
        let list = List {
            told_at: now,
            lowest: heard.iter().map(|heard| heard.applied).min().unwrap_or(u64::MAX),
            agents: heard.iter().map(|heard| (heard.node, heard.at)).collect(),
        };
        let old = self.0.insert(manager, list);
        let agents = &self.0[&manager].agents;
        let before = old.map(|list| list.agents).unwrap_or_default();
        before.into_keys().filter(|node| !agents.contains_key(node)).collect()
    }

    /// Forgets managers that tell nothing any more. Returns them with their agents.
    pub(super) fn forget_silent(&mut self, now: Instant) -> Vec<(NodeId, Vec<NodeId>)> {
        let is_silent = |_: &NodeId, list: &mut List| list.told_at + FORGET_AFTER <= now;
        let silent = self.0.extract_if(.., is_silent);
        silent.map(|(manager, list)| (manager, list.agents.into_keys().collect())).collect()
    }

    /// Which manager holds a node's session: the one with the newest sign of life.
    pub(super) fn holder(&self, node: NodeId) -> Option<NodeId> {
        let of = |(manager, list): (&NodeId, &List)| Some((*list.agents.get(&node)?, *manager));
        self.0.iter().filter_map(of).max().map(|(_, manager)| manager)
    }

    /// Whether the agents of all lists have a mesh that is right up to this revision.
    pub(super) fn have_applied(&self, revision: u64) -> bool {
        self.0.values().all(|list| list.lowest >= revision)
    }

    /// The agents of all lists with their last signs of life, and whether they have their manager still: it
    /// told lately, or it is their own, and lost with them.
    pub(super) fn agents(&self, now: Instant) -> impl Iterator<Item = (NodeId, Instant, bool)> + '_ {
        self.0.iter().flat_map(move |(manager, list)| {
            let is_fresh = list.told_at + FRESH > now;
            list.agents.iter().map(move |(node, at)| (*node, *at, is_fresh || node == manager))
        })
    }

    /// The agents of all lists, each list from this node on and around.
    pub(super) fn agents_from(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let ids = move |(id, _): (&NodeId, &Instant)| *id;
        self.0
            .values()
            .flat_map(move |list| list.agents.range(node..).chain(list.agents.range(..node)).map(ids))
    }
}

#[cfg(test)]
mod tests {
    use skep_api::Id;

    use super::*;

    fn id(n: u128) -> NodeId {
        NodeId(Id(n))
    }

    #[test]
    fn lists_replace_each_other_and_are_forgotten() {
        let now = Instant::now();
        let ms = |n| now + Duration::from_millis(n);
        let heard = |node, at, applied| Heard { node: id(node), at, applied };
        let mut roll = Roll::default();
        assert!(roll.take(id(1), &[heard(11, now, 5), heard(12, now, 7)], now).is_empty());
        assert!(roll.take(id(2), &[heard(12, ms(1), 9)], now).is_empty());
        assert_eq!(
            (roll.holder(id(11)), roll.holder(id(12)), roll.holder(id(13))),
            (Some(id(1)), Some(id(2)), None)
        );
        assert!(roll.have_applied(5) && !roll.have_applied(6));

        assert_eq!(roll.take(id(1), &[heard(12, now, 8)], ms(500)), [id(11)]);
        assert!(roll.have_applied(8));
        assert_eq!(roll.forget_silent(ms(1_999)), []);
        assert_eq!(roll.forget_silent(ms(2_000)), [(id(2), vec![id(12)])]);
        assert_eq!(roll.holder(id(12)), Some(id(1)));
    }
}
