//! Runs the roster while this manager leads: probes whom it suspects, records whom it gives up.

use std::{sync::Arc, time::Duration};

use skep_api::{
    NodeId, Timestamp,
    object::{NodeState, NodeStatus},
};
use skep_store::{CHANGES_MAX, Change, Proposal, View};
use tokio::time::Instant;

use super::{HELD, probe::Probes, roster::Limits};
use crate::dispatcher::Shared;

/// Running again later than this after it was due says that we hung, not that the nodes did.
const LATE: Duration = Duration::from_millis(500);

/// Runs until it is dropped.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let liveness = &shared.liveness;
    let time = || Timestamp((shared.clock)());
    liveness.begin(&shared.machine.view(), time(), shared.hub.settled());
    let mut probes = Probes::new(shared.clone());
    let mut held_until = None;
    loop {
        let view = shared.machine.view();
        let Some((step, hold)) = liveness.step(&view, time()) else { return };
        if held_until != hold {
            say_held(held_until, hold);
            held_until = hold;
        }
        for node in step.probe.iter().filter_map(|id| view.node(*id)) {
            probes.begin(node);
        }
        if !step.held.is_empty() {
            record(&shared, held_changes(&view, &step.held)).await;
        }
        if !step.down.is_empty() {
            record(&shared, down_changes(&view, &step.down)).await;
        }
        // Recording may have taken its time.
        let due = step.next.max(Instant::now());
        tokio::select! {
            () = liveness.changed.notified() => {}
            () = tokio::time::sleep_until(due) => {}
        }
        // Whatever woke it: after a freeze, sessions that broke meanwhile are news as well.
        if due + LATE < Instant::now() {
            tracing::warn!("this manager did not run for a while; every node gets its full time again");
            liveness.grant_all();
        }
    }
}

fn say_held(before: Option<Instant>, now: Option<Instant>) {
    match (before, now) {
        (None, Some(_)) => tracing::warn!(
            "many nodes turned silent at once: it may be our own network, so none of them is given up until \
             no other one has turned silent for 30 s"
        ),
        (Some(_), None) => tracing::warn!("silent nodes are not held any more"),
        (Some(_), Some(_)) | (None, None) => {}
    }
}

/// What is not recorded now comes again. Only as the leader: what one that was frozen thinks of the nodes
/// is nothing for the next leader to write.
async fn record(shared: &Shared, changes: Vec<Change>) {
    for chunk in changes.chunks(CHANGES_MAX) {
        let now = Timestamp((shared.clock)());
        let proposal = Proposal { changes: chunk.to_vec(), now, ..Proposal::default() };
        if let Err(error) = shared.raft.propose_as_leader(proposal.encode()).await {
            tracing::warn!(err = %error, "could not record the state of silent nodes; trying again");
            return;
        }
    }
}

fn down_changes(view: &View, lost: &[NodeId]) -> Vec<Change> {
    let down_after = Limits::of(view).down_after;
    let nodes = lost.iter().filter_map(|id| view.node(*id)).filter(|n| n.status.state != NodeState::Down);
    nodes
        .map(|node| {
            tracing::warn!(node.id = %node.id, "node is down: no sign of life for {down_after:?}");
            let message = "heartbeat failure".to_owned();
            let status = NodeStatus { state: NodeState::Down, message, ..node.status.clone() };
            Change::NodeStatus(node.id, status)
        })
        .collect()
}

fn held_changes(view: &View, held: &[NodeId]) -> Vec<Change> {
    let nodes = held.iter().filter_map(|id| view.node(*id)).filter(|node| node.status.message != HELD);
    nodes
        .map(|node| {
            let status = NodeStatus { message: HELD.to_owned(), ..node.status.clone() };
            Change::NodeStatus(node.id, status)
        })
        .collect()
}
