//! The model: each task goes where a look at all nodes says. Nothing is kept, nothing is ordered beforehand.

use std::{cmp::Ordering, collections::BTreeMap};

use crate::{
    Ask, Crowd, Descriptor, Filter, Given, NodeInfo, Placement, Refused, Strategy, ask::FAILURES_MAX,
};
use skep_api::NodeId;

pub(super) struct Naive(pub(super) BTreeMap<NodeId, NodeInfo>);

/// Failing, missed, tasks of the service and weight, thousandths left, tasks or the lack of them, id.
type Rank = (u64, u32, (u64, u64), i64, i64, NodeId);

fn share_first((n, weight): (u64, u64), (m, other): (u64, u64)) -> Ordering {
    match (weight, other) {
        (0, 0) => n.cmp(&m),
        (0, _) => Ordering::Greater,
        (_, 0) => Ordering::Less,
        _ => ((2 * n + 1) * other).cmp(&((2 * m + 1) * weight)).then((n, weight).cmp(&(m, other))),
    }
}

fn first(a: &Rank, b: &Rank) -> Ordering {
    let share = share_first(a.2, b.2);
    (a.0, a.1).cmp(&(b.0, b.1)).then(share).then((a.3, a.4, a.5).cmp(&(b.3, b.4, b.5)))
}

impl Naive {
    pub(super) fn place(&mut self, ask: &Ask, crowd: &Crowd, n_tasks: usize) -> Placement {
        let mut crowd = crowd.clone();
        let mut placement = Placement::default();
        for _ in 0..n_tasks {
            let nodes: Vec<NodeId> = self.0.keys().copied().collect();
            let Some((_, best)) = self.best(ask, &crowd, &nodes, &ask.spread) else {
                placement.refused = Some(self.refused(ask, &crowd));
                break;
            };
            let generic = self.0.get_mut(&best).unwrap().take(&ask.amounts);
            *crowd.tasks.entry(best).or_default() += 1;
            if !ask.host_ports.is_empty() {
                crowd.port_holders.insert(best);
            }
            placement.nodes.push(Given { node: best, generic });
        }
        placement
    }

    fn best(
        &self,
        ask: &Ask,
        crowd: &Crowd,
        nodes: &[NodeId],
        levels: &[Descriptor],
    ) -> Option<(Rank, NodeId)> {
        let Some((level, rest)) = levels.split_first() else {
            let fitting = nodes.iter().filter(|id| Filter::first(ask, crowd, &self.0[id], 0).is_none());
            return fitting.map(|id| (self.rank(ask, crowd, *id), *id)).min_by(|a, b| first(&a.0, &b.0));
        };
        let mut branches: BTreeMap<&str, Vec<NodeId>> = BTreeMap::new();
        for id in nodes {
            branches.entry(level.value(&self.0[id].node)).or_default().push(*id);
        }
        let open = branches.into_values().filter_map(|branch| {
            let n_own: u64 = branch.iter().map(|id| crowd.n_own(*id)).sum();
            let weight = branch.iter().filter(|id| self.may(ask, **id)).map(|id| self.weight(ask, *id)).sum();
            let (rank, best) = self.best(ask, crowd, &branch, rest)?;
            Some(((n_own, if ask.weight.is_some() { weight } else { 1 }), rank, best))
        });
        open.min_by(|a, b| share_first(a.0, b.0).then(first(&a.1, &b.1))).map(|(_, rank, best)| (rank, best))
    }

    fn may(&self, ask: &Ask, id: NodeId) -> bool {
        let rules = [Filter::Ready, Filter::Plugin, Filter::Constraints, Filter::Platform];
        rules.into_iter().all(|filter| filter.check(ask, &Crowd::default(), &self.0[&id], 0))
    }

    fn weight(&self, ask: &Ask, id: NodeId) -> u64 {
        ask.weight.as_ref().and_then(|label| label.value(&self.0[&id].node).parse().ok()).unwrap_or(1)
    }

    fn rank(&self, ask: &Ask, crowd: &Crowd, id: NodeId) -> Rank {
        let info = &self.0[&id];
        let failing = crowd.failures.get(&id).copied().filter(|n| *n >= FAILURES_MAX).unwrap_or_default();
        let missed = ask.soft.iter().filter(|soft| !soft.constraint.matches(&info.node));
        let missed = missed.map(|soft| soft.weight).sum();
        let n_all = i64::try_from(info.n_tasks).unwrap();
        if ask.strategy == Strategy::Spread {
            return (failing, missed, (crowd.n_own(id), self.weight(ask, id)), 0, n_all, id);
        }
        let about = &info.node.description;
        let part = |free: i64, all: i64| if all > 0 { free.clamp(0, all) * 1_000 / all } else { 1_000 };
        let left = part(info.nano_cpus, about.nano_cpus) + part(info.memory_bytes, about.memory_bytes);
        (failing, missed, (0, 1), left, -n_all, id)
    }

    fn refused(&self, ask: &Ask, crowd: &Crowd) -> Refused {
        let mut refused = Refused::default();
        for info in self.0.values() {
            *refused.0.entry(Filter::first(ask, crowd, info, 0).unwrap()).or_default() += 1;
        }
        refused
    }
}
