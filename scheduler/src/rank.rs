//! Which node comes first, and which branch of those that tasks are spread over.

use std::cmp::Ordering;

use skep_api::NodeId;

use crate::{Ask, Crowd, NodeInfo, Strategy};

/// The best node is the least: not failing, missing least of what should hold, fewest tasks of the service for its
/// share, fewest tasks, lowest id. Where nodes are to be filled: least left of it, most tasks, lowest id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Rank {
    /// How often the service failed there of late, once that is too often: the least bad one comes first.
    failing: u64,
    missed: u32,
    own: Share,
    /// What is left of it, as far as that counts.
    left: u32,
    /// Its tasks; where most come first, how many it has not.
    n_all: u64,
    id: NodeId,
}

/// Tasks of the service, for the weight that they have to bear: who has the least share gets the next one.
///
/// It is the method of Sainte-Laguë: shares come as near to the weights as whole tasks can. With equal weights it is the
/// number of tasks. Who has no weight gets a task only when nobody else takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Share {
    pub(crate) n: u64,
    pub(crate) weight: u64,
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.weight == other.weight {
            return self.n.cmp(&other.n);
        }
        let share = |n: u64, weight: u64| (2 * u128::from(n) + 1).saturating_mul(weight.into());
        share(self.n, other.weight)
            .cmp(&share(other.n, self.weight))
            .then_with(|| self.n.cmp(&other.n))
            .then_with(|| self.weight.cmp(&other.weight))
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Rank {
    /// Of a node about which nothing is special.
    pub(crate) fn plain(n_all: u64, id: NodeId) -> Self {
        Self { failing: 0, missed: 0, own: Share { n: 0, weight: 1 }, left: 0, n_all, id }
    }

    /// Of a node that gets `n_more` tasks besides what the picture says.
    pub(crate) fn of(ask: &Ask, crowd: &Crowd, info: &NodeInfo, n_more: u64) -> Self {
        let id = info.node.id;
        let (n_own, n_all) = (crowd.n_own(id) + n_more, info.n_tasks + n_more);
        let missed = ask.missed(&info.node).map(|soft| soft.weight).fold(0, u32::saturating_add);
        let rank = Self { failing: crowd.n_failing(id), missed, ..Self::plain(n_all, id) };
        match ask.strategy {
            Strategy::Spread => Self { own: Share { n: n_own, weight: ask.weight_of(&info.node) }, ..rank },
            Strategy::Binpack => {
                Self { left: left(ask, info, n_more), n_all: u64::MAX.saturating_sub(n_all), ..rank }
            }
        }
    }
}

/// Thousandths of its CPUs and of its memory that are left, together. Who does not say what it has is empty.
fn left(ask: &Ask, info: &NodeInfo, n_more: u64) -> u32 {
    let (asked, about) = (&ask.amounts, &info.node.description);
    let n_more = i64::try_from(n_more).unwrap_or(i64::MAX);
    let part = |free: i64, asked: i64, all: i64| {
        let free = free.saturating_sub(asked.max(0).saturating_mul(n_more)).clamp(0, all.max(0));
        let part = i128::from(free) * 1_000 / i128::from(all.max(1));
        if all <= 0 { 1_000 } else { u32::try_from(part).unwrap_or(1_000) }
    };
    part(info.nano_cpus, asked.nano_cpus, about.nano_cpus)
        + part(info.memory_bytes, asked.memory_bytes, about.memory_bytes)
}
