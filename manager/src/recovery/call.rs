//! The leader calls those who do not find the managers by themselves: managers that the swarm was made anew without,
//! as enough of them together would go on as the old swarm; and nodes that are down, as all managers may have moved
//! while they were away.

use std::{sync::Arc, time::Duration};

use skep_api::{
    NodeId,
    object::{Node, NodeState},
    wire,
};
use skep_link::{Whom, stubs::members_client::MembersClient};
use tokio::time::{sleep, timeout};

use super::dropped_words;
use crate::dispatcher::Shared;

/// Between two words to a dropped manager: about an election of those who are back.
const EACH: Duration = Duration::from_secs(2);
/// One attempt.
const TELL_MAX: Duration = Duration::from_secs(1);
/// So many are told at a time.
const AT_A_TIME: usize = 16;

/// Between two calls of a node that is down.
const LOST_EACH: Duration = Duration::from_secs(10);

/// Runs as long as this manager leads.
pub(crate) async fn keep_calling(shared: &Shared) {
    tokio::join!(keep_dismissing(shared), keep_calling_the_lost(shared));
}

/// Those that heard it are told again all the same: they may restart.
async fn keep_dismissing(shared: &Shared) {
    loop {
        let view = shared.machine.view();
        let is_there = |node: &&Arc<Node>| node.dropped && !node.advertise_addr.is_empty();
        let dropped: Vec<(NodeId, String)> =
            view.nodes().filter(is_there).map(|node| (node.id, node.advertise_addr.clone())).collect();
        let (revision, words) = (view.revision(), dropped_words(&view));
        for some in dropped.chunks(AT_A_TIME) {
            let telling = some.iter().map(|(node, addr)| tell(shared, *node, addr, revision, &words));
            futures::future::join_all(telling).await;
        }
        sleep(EACH).await;
    }
}

/// What a probe says of the managers is what they are called for.
async fn keep_calling_the_lost(shared: &Shared) {
    loop {
        let view = shared.machine.view();
        let managers = crate::join::managers(&view);
        let is_lost = |node: &&Arc<Node>| {
            node.status.state == NodeState::Down && !node.dropped && !node.called_at().is_empty()
        };
        let lost: Vec<(NodeId, String)> =
            view.nodes().filter(is_lost).map(|node| (node.id, node.called_at().to_owned())).collect();
        drop(view);
        for some in lost.chunks(AT_A_TIME) {
            let calls = some.iter().map(|(node, addr)| {
                skep_link::probe(addr, &shared.identity, *node, managers.clone(), TELL_MAX)
            });
            for (called, (node, addr)) in futures::future::join_all(calls).await.into_iter().zip(some) {
                if called.is_ok() {
                    tracing::info!(node.id = %node, addr, "a node that is down was told where the managers are");
                }
            }
        }
        sleep(LOST_EACH).await;
    }
}

async fn tell(shared: &Shared, node: NodeId, addr: &str, revision: u64, words: &str) {
    let telling = async {
        let dialled = skep_link::connect_once(addr, &shared.identity, Whom::Manager, TELL_MAX).await;
        let (channel, found) = dialled.map_err(|error| error.to_string())?;
        // Its address may have passed on.
        if found.node_id != node.to_string() {
            return Err(format!("{addr} is node {}'s", found.node_id));
        }
        let request = wire::DismissRequest { revision, words: words.to_owned() };
        MembersClient::new(channel).dismiss(request).await.map_err(|status| status.message().to_owned())
    };
    match timeout(TELL_MAX, telling).await {
        Ok(Ok(_)) => tracing::debug!(node.id = %node, addr, "a dropped manager was told"),
        Ok(Err(why)) => tracing::debug!(node.id = %node, addr, err = why, "a dropped manager was not told"),
        Err(_) => tracing::debug!(node.id = %node, addr, "a dropped manager does not answer"),
    }
}
