//! The terms of all sessions: how often to beat, where the managers are, how to come back. Pure.

use std::time::Duration;

use skep_api::{NodeId, spec::Role, wire};
use skep_store::View;

use crate::liveness::{Limits, reconnect_spread};

/// What every agent is told at its welcome, and again when it changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Terms {
    beat: Duration,
    /// `host:port`.
    managers: Vec<String>,
    spread: Duration,
}

impl Terms {
    /// As the state of the cluster has them.
    pub(super) fn of(view: &View) -> Self {
        let is_manager = |node: &skep_api::object::Node| {
            node.spec.role == Role::Manager && !node.advertise_addr.is_empty()
        };
        let managers = view.nodes().filter(|node| is_manager(node)).map(|node| node.advertise_addr.clone());
        Self {
            beat: Limits::of(view).beat,
            managers: managers.collect(),
            spread: reconnect_spread(view.nodes().count()),
        }
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
