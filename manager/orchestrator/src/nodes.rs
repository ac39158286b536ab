//! What becomes of nodes by themselves: workers that stay away go, where the swarm asks for that.

use skep_api::{NodeId, Timestamp, spec::Role};
use skep_store::{Change, Draft};

use crate::{Context, WakeKey, context::push};

/// Removes workers that are down for longer than the swarm keeps them. Their tasks follow with the next pass.
pub fn expire_nodes(draft: &mut Draft, cx: &mut Context<'_>) {
    date(draft);
    let Some(ttl) = draft.cluster().and_then(|cluster| cluster.spec.down_ttl()) else { return };
    let down: Vec<(Timestamp, NodeId)> = draft.down_nodes().filter(|(since, _)| !since.is_zero()).collect();
    for (since, id) in down {
        let is_worker =
            draft.node(id).is_some_and(|node| node.raft_id == 0 && node.spec.role == Role::Worker);
        if !is_worker {
            continue;
        }
        if since.after(ttl) > draft.now() {
            // The others went later.
            cx.wake(WakeKey::Node(id), since.after(ttl));
            return;
        }
        push(draft, Change::DeleteNode(id));
    }
}

/// Nodes that were down when the swarm came to a level that knows since when: since then, as far as anybody knows.
fn date(draft: &mut Draft) {
    if draft.feature_level() < 2 {
        return;
    }
    let undated = draft.down_nodes().take_while(|(since, _)| since.is_zero());
    let undated: Vec<_> = undated.filter_map(|(_, id)| Some((id, draft.node(id)?.status.clone()))).collect();
    for (id, status) in undated {
        push(draft, Change::NodeStatus(id, status));
    }
}
