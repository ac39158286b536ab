//! The terms of all sessions: how often to beat, where the managers are, how to come back. Pure.

use std::time::Duration;

use skep_api::{NodeId, object::Cluster, spec::Role, wire};
use skep_store::View;

use crate::liveness::{Limits, reconnect_spread};

/// What every agent is told at its welcome, and again when it changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Terms {
    beat: Duration,
    /// `host:port`.
    managers: Vec<String>,
    spread: Duration,
    /// Which root to trust, and how long certificates are to live.
    trust: wire::Trust,
}

fn trust(cluster: &Cluster) -> wire::Trust {
    wire::Trust {
        ca_cert_pem: cluster.ca_cert_pem.clone(),
        cert_expiry_secs: cluster.spec.node_cert_expiry().as_secs(),
    }
}

/// A number of nodes, rounded up by less than a seventh: a change of it is told to all of them.
fn about(n_nodes: usize) -> usize {
    let step = n_nodes.checked_next_power_of_two().map_or(1, |power| power / 16).max(1);
    n_nodes.next_multiple_of(step)
}

impl Terms {
    /// As the state of the cluster has them.
    pub(super) fn of(view: &View) -> Self {
        let is_manager = |node: &skep_api::object::Node| {
            node.spec.role == Role::Manager && !node.dropped && !node.advertise_addr.is_empty()
        };
        let managers = view.nodes().filter(|node| is_manager(node)).map(|node| node.advertise_addr.clone());
        Self {
            beat: Limits::of(view).beat,
            managers: managers.collect(),
            spread: reconnect_spread(about(view.n_nodes())),
            trust: view.cluster().map(|cluster| trust(cluster)).unwrap_or_default(),
        }
    }

    /// `None` before there is a state.
    pub(super) fn trust(&self) -> Option<wire::Trust> {
        (!self.trust.ca_cert_pem.is_empty()).then(|| self.trust.clone())
    }

    pub(super) fn welcome(&self, node: NodeId) -> wire::Welcome {
        let ms = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        wire::Welcome {
            node_id: node.to_bytes(),
            beat_ms: ms(self.beat),
            managers: self.managers.clone(),
            spread_ms: ms(self.spread),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_that_join_change_the_number_that_all_are_told_a_few_times() {
        assert_eq!([0, 1, 5, 17, 1_000, 5_000].map(about), [0, 1, 5, 18, 1_024, 5_120]);
        let told: std::collections::BTreeSet<usize> = (1..=8_192).map(about).collect();
        assert_eq!(told.len(), 88);
        assert!((1..=8_192).all(|n| (n..n + n / 7 + 1).contains(&about(n))));
    }
}
