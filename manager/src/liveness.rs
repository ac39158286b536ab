//! Which nodes are there. Soft state of the leader, rebuilt from the sessions of all managers.
//!
//! `roster` decides, in virtual time; `watch` runs it while this manager leads and records its verdicts;
//! `probe` asks nodes that are not heard. The rules are in docs/control-plane.md.

mod probe;
mod roster;
mod watch;

use std::sync::{Mutex, MutexGuard, PoisonError};

use skep_api::{
    NodeId, Timestamp,
    object::{Node, NodeState},
};
use skep_store::View;
use tokio::{sync::Notify, time::Instant};

use self::roster::{Roster, Step, Stored};
pub(crate) use self::{
    roster::{Limits, reconnect_spread},
    watch::watch,
};

/// The status message of a node whose daemon said that it restarts.
pub(crate) const RESTARTING: &str = "its daemon restarts";
/// Of one whose host shuts down.
pub(crate) const SHUTTING_DOWN: &str = "its host shuts down";
/// Of one that is silent together with many others.
pub(crate) const HELD: &str =
    "silent, as many others at once: it may be the managers' network, so it is not given up yet";

impl Limits {
    /// As the swarm's spec sets them.
    pub(crate) fn of(view: &View) -> Self {
        view.cluster().map_or_else(Self::default, |cluster| Self::of_beat(cluster.spec.heartbeat()))
    }
}

/// The roster of the leader that runs here, if one does.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    roster: Mutex<Option<Roster>>,
    changed: Notify,
}

impl Liveness {
    fn lock(&self) -> MutexGuard<'_, Option<Roster>> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A leader begins: every node that counts as there must be heard within the reconnect window, but for
    /// those that have kept their manager.
    pub(crate) fn begin(&self, view: &View, now: Timestamp, settled: Vec<(NodeId, Instant)>) {
        *self.lock() = Some(Roster::begin(Limits::of(view), stored(view, now), settled, Instant::now()));
    }

    /// Nodes gave a sign of life.
    pub(crate) fn alive(&self, nodes: impl IntoIterator<Item = (NodeId, Instant)>) {
        if let Some(roster) = &mut *self.lock() {
            for (node, at) in nodes {
                roster.alive(node, at);
            }
        }
    }

    /// Nodes lost their only session.
    pub(crate) fn broken(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let now = Instant::now();
        if let Some(roster) = &mut *self.lock() {
            let n_new = nodes.into_iter().filter(|node| roster.broken(*node, now)).count();
            if n_new > 0 {
                self.changed.notify_one();
            }
        }
    }

    /// Nodes lost the manager that held their session.
    pub(crate) fn excuse(&self, nodes: impl IntoIterator<Item = NodeId>) {
        if let Some(roster) = &mut *self.lock() {
            roster.excuse(nodes, Instant::now());
        }
    }

    fn host_alive(&self, node: NodeId) {
        if let Some(roster) = &mut *self.lock() {
            roster.host_alive(node, Instant::now());
        }
    }

    /// This manager itself did not run for a while: what nodes said meanwhile is not read yet.
    fn grant_all(&self) {
        if let Some(roster) = &mut *self.lock() {
            roster.grant_all(Instant::now());
        }
    }

    /// What to do now, and until when nobody is given up; `None` when no leader has begun.
    fn step(&self, view: &View, time: Timestamp) -> Option<(Step, Option<Instant>)> {
        let now = Instant::now();
        let mut roster = self.lock();
        let roster = roster.as_mut()?;
        roster.sync(Limits::of(view), stored(view, time), now);
        let step = roster.step(now);
        Some((step, roster.hold()))
    }
}

/// The nodes that count as there.
fn stored(view: &View, now: Timestamp) -> impl Iterator<Item = (NodeId, Stored)> + '_ {
    let is_expected = |node: &&std::sync::Arc<Node>| node.status.state != NodeState::Down;
    view.nodes().filter(is_expected).map(move |node| {
        let restarts = node.status.message == RESTARTING;
        let ago = || now.since(node.status.restarting_since);
        (node.id, if restarts { Stored::Restarting(ago()) } else { Stored::Expected })
    })
}
