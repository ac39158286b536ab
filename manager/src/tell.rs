//! What managers tell each other of the agents that hold sessions with them: soft state, never written.
//!
//! Each sends every other one its whole list, at once when others wait for what changed, soon when sessions open or end and
//! else each half second, so that each knows them all: the leader their signs of life, all of them how far the mesh is
//! and where to hand a word for an agent.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use skep_api::{NodeId, wire};
use skep_link::{MESSAGE_MAX_BYTES, stubs::members_client::MembersClient};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tonic::Request;

use crate::dispatcher::{Heard, Shared, Whereabouts};

/// The rhythm without news.
const TELL_EACH: Duration = Duration::from_millis(500);
/// News that come closer together than this are told at once, for each hundred agents on the list.
const GAP_MIN: Duration = Duration::from_millis(1);
/// What nobody waits for is told so much later for each hundred more: while thousands join one after the other, each would
/// have all of them told.
const MOVED_LATER: Duration = Duration::from_millis(10);
/// A manager that does not take a list in this time gets the next one.
const TELL_MAX: Duration = Duration::from_secs(1);
/// For a word to an agent of another manager.
const RELAY_MAX: Duration = Duration::from_secs(1);

/// Tells until it is dropped, and forgets managers that tell nothing.
pub(crate) async fn keep_telling(shared: Arc<Shared>) {
    let mut sending: JoinSet<NodeId> = JoinSet::new();
    let mut busy: BTreeSet<NodeId> = BTreeSet::new();
    let mut due = Instant::now();
    loop {
        let mut told = shared.hub.to_tell();
        told.clock = (shared.clock)();
        told.leads = shared.leads();
        for heard in &mut told.heard {
            heard.skew_ms = NodeId::from_bytes(&heard.node_id).map_or(0, |node| shared.clocks.skew_ms(node));
        }
        let told = Arc::new(told);
        for (manager, addr) in shared.peers.others() {
            if busy.insert(manager) {
                let (shared, told) = (shared.clone(), told.clone());
                sending.spawn(async move {
                    tell_one(&shared, manager, &addr, &told).await;
                    manager
                });
            }
        }
        let now = Instant::now();
        // If we hung, their words wait unread.
        if now < due + TELL_EACH {
            let lost = shared.hub.forget_silent();
            lost.agents.iter().chain(&lost.managers).for_each(|node| shared.logs.node_gone(*node));
            shared.liveness.excuse(lost.agents);
            shared.liveness.broken(lost.managers);
        }
        let n_hundreds = u32::try_from(told.heard.len() / 100).unwrap_or(u32::MAX);
        let gap = now + GAP_MIN.saturating_mul(n_hundreds.max(1));
        due = now + TELL_EACH;
        let moved = gap + MOVED_LATER.saturating_mul(n_hundreds);
        loop {
            tokio::select! {
                () = shared.hub.news() => {
                    sleep_until(gap).await;
                    due = Instant::now();
                    break;
                }
                () = shared.hub.moved() => due = due.min(moved),
                Some(ended) = sending.join_next(), if !sending.is_empty() => match ended {
                    Ok(manager) => {
                        busy.remove(&manager);
                    }
                    // Never: a panic leaves its manager out until the others are through.
                    Err(_) => busy.clear(),
                },
                () = sleep_until(due) => break,
            }
        }
    }
}

async fn tell_one(shared: &Shared, manager: NodeId, addr: &str, told: &wire::Told) {
    let telling = async {
        let channel = shared.peers.channel(addr).await.map_err(|e| e.to_string())?;
        let mut client = MembersClient::new(channel).max_decoding_message_size(MESSAGE_MAX_BYTES);
        client.tell(Request::new(told.clone())).await.map_err(|e| e.to_string())
    };
    match timeout(TELL_MAX, telling).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(node.id = %manager, err = error, "a manager did not take our list"),
        Err(_) => tracing::debug!(node.id = %manager, "a manager did not take our list in time"),
    }
}

/// Another manager tells of its agents.
pub(crate) fn take(shared: &Shared, from: NodeId, told: &wire::Told) {
    let now = Instant::now();
    shared.clocks.heard(from, told.clock, (shared.clock)());
    shared.clocks.leads(from, told.leads);
    for heard in &told.heard {
        if let Some(node) = NodeId::from_bytes(&heard.node_id).filter(|node| *node != from) {
            shared.clocks.told(from, node, heard.skew_ms);
        }
    }
    let read = |heard: &wire::Heard| {
        let age = Duration::from_millis(u64::from(heard.age_ms));
        let at = now.checked_sub(age)?;
        Some(Heard { node: NodeId::from_bytes(&heard.node_id)?, at, applied: heard.mesh_revision })
    };
    let heard: Vec<Heard> = told.heard.iter().filter_map(read).collect();
    let gone = shared.hub.take_told(from, &heard);
    let probed = told.probed.iter().filter_map(read);
    shared.liveness.alive(heard.iter().copied().chain(probed).map(|heard| (heard.node, heard.at)));
    if !gone.is_empty() {
        gone.iter().for_each(|node| shared.logs.node_gone(*node));
        shared.liveness.broken(gone);
    }
}

/// Another manager has a word for an agent here.
pub(crate) fn relay(shared: &Shared, request: wire::RelayRequest) -> wire::RelayResponse {
    let node = NodeId::from_bytes(&request.node_id);
    let message = request.message.and_then(|message| message.message);
    let delivered = node.zip(message).is_some_and(|(node, message)| shared.hub.send_aside(node, message));
    wire::RelayResponse { delivered }
}

/// Hands a message to an agent, through the manager that holds its session. Says whether that took it.
pub(crate) async fn send(shared: &Shared, node: NodeId, message: wire::manager_message::Message) -> bool {
    let manager = match shared.hub.whereabouts(node) {
        Whereabouts::Here => return shared.hub.send_aside(node, message),
        Whereabouts::With(manager) => manager,
        Whereabouts::Nowhere => return false,
    };
    let Some((_, addr)) = shared.peers.others().into_iter().find(|(id, _)| *id == manager) else {
        return false;
    };
    let relaying = async {
        let channel = shared.peers.channel(&addr).await.map_err(|e| e.to_string())?;
        let message = Some(wire::ManagerMessage { message: Some(message) });
        let request = wire::RelayRequest { node_id: node.to_bytes(), message };
        let answer = MembersClient::new(channel).relay(request).await.map_err(|e| e.to_string())?;
        Ok::<_, String>(answer.into_inner().delivered)
    };
    match timeout(RELAY_MAX, relaying).await {
        Ok(Ok(delivered)) => delivered,
        Ok(Err(error)) => {
            tracing::debug!(node.id = %manager, err = error, "a manager did not pass a word on");
            false
        }
        Err(_) => false,
    }
}
