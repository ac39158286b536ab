//! How far other nodes' clocks are from ours: heard with their messages, told to people, and taken out of the
//! times that agents report, so that a wrong clock changes nothing that is decided.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use skep_api::{NodeId, Timestamp};
use skep_store::View;

/// A clock that is off by more is shown. What messages take on their way is far below it.
const SHOWN_FROM: Duration = Duration::from_secs(5);
/// A smaller difference may be the message's own way; times stay as they were stamped.
const TAKEN_OUT_FROM: i64 = 1_000_000_000;

/// The differences that this manager knows of, in nanoseconds; positive: the other one is ahead.
#[derive(Debug, Default)]
pub(crate) struct Clocks(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    skews: BTreeMap<NodeId, i64>,
    /// The manager that said last that it leads.
    leader: Option<NodeId>,
}

impl Clocks {
    /// A node's message said that its clock was at `theirs`; 0 says nothing.
    pub(crate) fn heard(&self, node: NodeId, theirs: i64, ours: i64) {
        if theirs != 0 {
            self.lock().skews.insert(node, theirs.saturating_sub(ours));
        }
    }

    /// Another manager says whether it leads.
    pub(crate) fn leads(&self, manager: NodeId, does: bool) {
        let mut known = self.lock();
        if does {
            known.leader = Some(manager);
        } else if known.leader == Some(manager) {
            known.leader = None;
        }
    }

    /// What the clock of the manager that leads shows when ours shows `ours`: what waits, waits by that one. Of no
    /// use to the leader itself.
    pub(crate) fn of_leader(&self, ours: i64) -> i64 {
        let known = self.lock();
        let skew = known.leader.and_then(|leader| known.skews.get(&leader));
        ours.saturating_add(skew.copied().unwrap_or_default())
    }

    /// Another manager knows a node's clock to be `skew_ms` from its own.
    pub(crate) fn told(&self, manager: NodeId, node: NodeId, skew_ms: i64) {
        let known = &mut self.lock().skews;
        let theirs = known.get(&manager).copied().unwrap_or_default();
        known.insert(node, theirs.saturating_add(skew_ms.saturating_mul(1_000_000)));
    }

    /// How far a node's clock is from ours, in milliseconds.
    pub(crate) fn skew_ms(&self, node: NodeId) -> i64 {
        self.lock().skews.get(&node).map_or(0, |skew| skew / 1_000_000)
    }

    /// What people should know, node by node. Forgets nodes that are gone.
    pub(crate) fn warnings(&self, view: &View) -> Vec<String> {
        let known = &mut self.lock().skews;
        known.retain(|node, _| view.node(*node).is_some());
        let shown_from = i64::try_from(SHOWN_FROM.as_nanos()).unwrap_or(i64::MAX);
        let off = known.iter().filter(|(_, skew)| skew.saturating_abs() > shown_from);
        off.map(|(id, skew)| {
            let name = view.node(*id).map_or("?", |node| node.description.hostname.as_str());
            let seconds = Duration::from_nanos(skew.unsigned_abs()).as_secs();
            let way = if *skew > 0 { "ahead of" } else { "behind" };
            format!(
                "WARNING: The clock of node {name} ({id}) is {seconds} s {way} this manager's. Set both by the \
                 same time server."
            )
        })
        .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time that a node stamped, on our clock (or another that we know, the leader's): `theirs` and `ours` are the clocks
/// when it was sent and read. Never in our future; in whole seconds, so that what is reported again keeps its time.
pub(crate) fn on_ours(stamped: Timestamp, theirs: i64, ours: i64) -> Timestamp {
    let skew = if theirs == 0 { 0 } else { ours.saturating_sub(theirs) };
    let skew = if skew.saturating_abs() < TAKEN_OUT_FROM { 0 } else { skew };
    let whole = skew.saturating_add(TAKEN_OUT_FROM / 2).div_euclid(TAKEN_OUT_FROM) * TAKEN_OUT_FROM;
    Timestamp(stamped.0.saturating_add(whole).min(ours))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_api::{Id, object::Node};
    use skep_store::{Change, Draft};

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_nodes_times_are_read_on_our_clock() {
        let ours = 1_000 * SECOND;
        for (stamped, theirs, expected) in [
            // As good as ours: as it was stamped, but never later than now.
            (990 * SECOND, 1_000 * SECOND + 3, 990 * SECOND),
            (1_000 * SECOND + 3, 1_000 * SECOND + 3, ours),
            // An hour ahead, an hour behind, since 1970.
            (4_590 * SECOND, 4_600 * SECOND, 990 * SECOND),
            (-2_610 * SECOND, -2_600 * SECOND, 990 * SECOND),
            (7, 10 * SECOND, 990 * SECOND + 7),
            // What a message takes on its way moves nothing.
            (4_590 * SECOND, 4_600 * SECOND - 40_000_000, 990 * SECOND),
            (4_590 * SECOND, 4_600 * SECOND + 40_000_000, 990 * SECOND),
            // A node that does not say.
            (990 * SECOND, 0, 990 * SECOND),
            (2_000 * SECOND, 0, ours),
        ] {
            assert_eq!(
                on_ours(Timestamp(stamped), theirs, ours),
                Timestamp(expected),
                "{stamped} at {theirs}"
            );
        }
        for extreme in [i64::MIN, i64::MAX] {
            let _ = on_ours(Timestamp(extreme), i64::MAX, ours);
            let _ = on_ours(Timestamp(extreme), i64::MIN, ours);
        }
    }

    #[test]
    fn the_leaders_clock_is_known_by_its_own_word() {
        let clocks = Clocks::default();
        let manager = |n| NodeId(Id(n));
        clocks.heard(manager(1), 100 * SECOND, 90 * SECOND);
        clocks.heard(manager(2), 80 * SECOND, 90 * SECOND);
        assert_eq!(clocks.of_leader(90 * SECOND), 90 * SECOND);
        clocks.leads(manager(1), true);
        assert_eq!(clocks.of_leader(90 * SECOND), 100 * SECOND);
        clocks.leads(manager(2), true);
        clocks.leads(manager(1), false);
        assert_eq!(clocks.of_leader(90 * SECOND), 80 * SECOND);
        clocks.leads(manager(2), false);
        assert_eq!(clocks.of_leader(90 * SECOND), 90 * SECOND);
    }

    #[test]
    fn clocks_that_are_off_are_shown_until_they_are_set_or_their_node_is_gone() {
        let mut draft = Draft::new(View::default(), Timestamp(1));
        for n in 1..=3 {
            let mut node = Node { id: NodeId(Id(n)), ..Node::default() };
            node.description.hostname = format!("n{n}");
            draft.push(Change::PutNode(Arc::new(node))).unwrap();
        }
        let clocks = Clocks::default();
        let node = |n| NodeId(Id(n));
        clocks.heard(node(1), 100 * SECOND, 90 * SECOND);
        // Its manager is 10 s ahead of us, and it is 17 s behind that one.
        clocks.told(node(1), node(2), -17_000);
        clocks.heard(node(3), 0, 90 * SECOND);
        clocks.heard(node(4), 500 * SECOND, 90 * SECOND);
        let warnings = clocks.warnings(&draft);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("node n1") && warnings[0].contains("10 s ahead of"), "{warnings:?}");
        assert!(warnings[1].contains("node n2") && warnings[1].contains("7 s behind"), "{warnings:?}");
        clocks.heard(node(1), 91 * SECOND, 90 * SECOND);
        clocks.told(node(1), node(2), 0);
        assert_eq!(clocks.warnings(&draft), Vec::<String>::new());
    }
}
