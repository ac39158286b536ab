//! What a rotation of the root needs next. No I/O, no clock.
//!
//! It ends when every node that the store has, also one that is down, holds a certificate of the next root: as
//! in Swarm. A node that will not come back is to be removed.

use std::collections::BTreeMap;

use skep_api::{
    NodeId,
    object::{Node, NodeState},
};
use skep_link::issuer_of;
use skep_store::View;
use tokio::time::Instant;

/// Nodes that are renewing at a time because they were told to (`SK:ca/reconciler.go`).
pub(super) const AT_ONCE: usize = 30;

/// What is next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// No rotation is under way.
    Quiet,
    /// Every node has a certificate of the next root: it becomes the root.
    Finish,
    /// These nodes are to renew now, and nothing else until `again` or a change.
    Tell {
        /// Those that wait longest, first.
        nodes: Vec<NodeId>,
        /// When one that was told may be told again.
        again: Option<Instant>,
    },
}

/// Whether the node's certificate is signed by this name and key.
fn has_issuer(node: &Node, issuer: &(Vec<u8>, Vec<u8>)) -> bool {
    let tls = node.description.tls.as_ref();
    tls.is_some_and(|tls| (&tls.issuer_subject, &tls.issuer_public_key) == (&issuer.0, &issuer.1))
}

/// Decides from the state, and from when those that were told may be told again.
pub(super) fn next(view: &View, told: &BTreeMap<NodeId, Instant>, now: Instant) -> Next {
    let rotation = view.cluster().and_then(|cluster| cluster.ca_rotation.as_ref());
    let Some(issuer) = rotation.and_then(|rotation| issuer_of(&rotation.cert_pem)) else {
        return Next::Quiet;
    };
    let behind: Vec<&Node> =
        view.nodes().map(AsRef::as_ref).filter(|node| !has_issuer(node, &issuer)).collect();
    if behind.is_empty() {
        return Next::Finish;
    }
    let is_under_way = |node: &&&Node| told.get(&node.id).is_some_and(|until| *until > now);
    let n_under_way = behind.iter().filter(is_under_way).count();
    let again =
        behind.iter().filter_map(|node| told.get(&node.id)).filter(|until| **until > now).min().copied();
    let mut waiting: Vec<&&Node> = behind
        .iter()
        .filter(|node| node.status.state == NodeState::Ready)
        .filter(|node| !is_under_way(node))
        .collect();
    // Those that were never told come first, then those that were told long ago: one that fails holds up none.
    waiting.sort_by_key(|node| (told.get(&node.id).copied(), node.id));
    let nodes = waiting.iter().take(AT_ONCE.saturating_sub(n_under_way)).map(|node| node.id).collect();
    Next::Tell { nodes, again }
}
