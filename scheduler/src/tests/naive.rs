//! The model: each task goes where a look at all nodes says. Nothing is kept, nothing is ordered beforehand.

use std::collections::BTreeMap;

use crate::{Ask, Crowd, Descriptor, Filter, Given, NodeInfo, Placement, Refused, ask::FAILURES_MAX};
use skep_api::NodeId;

pub(super) struct Naive(pub(super) BTreeMap<NodeId, NodeInfo>);

type Rank = (bool, u64, u64, NodeId);

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
            return fitting.map(|id| (self.rank(crowd, *id), *id)).min();
        };
        let mut branches: BTreeMap<&str, Vec<NodeId>> = BTreeMap::new();
        for id in nodes {
            branches.entry(level.value(&self.0[id].node)).or_default().push(*id);
        }
        let open = branches.into_values().filter_map(|branch| {
            let n_own: u64 = branch.iter().map(|id| crowd.n_own(*id)).sum();
            let (rank, best) = self.best(ask, crowd, &branch, rest)?;
            Some((n_own, rank, best))
        });
        open.min().map(|(_, rank, best)| (rank, best))
    }

    fn rank(&self, crowd: &Crowd, id: NodeId) -> Rank {
        let is_failing = crowd.failures.get(&id).is_some_and(|n| *n >= FAILURES_MAX);
        (is_failing, crowd.n_own(id), self.0[&id].n_tasks, id)
    }

    fn refused(&self, ask: &Ask, crowd: &Crowd) -> Refused {
        let mut refused = Refused::default();
        for info in self.0.values() {
            *refused.0.entry(Filter::first(ask, crowd, info, 0).unwrap()).or_default() += 1;
        }
        refused
    }
}
