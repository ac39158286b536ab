//! Keeps this node's part of the mesh at the newest state that the manager sent.
//!
//! States in between are skipped: each one is whole, as the session makes them of what it is told. A state older than the one applied is refused, so a
//! manager that lags cannot bring back an endpoint that is gone.

mod change;

use std::{future::pending, sync::Arc, time::Duration};

use skep_api::wire;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{engine::chain, network::Network};

pub(crate) use change::{Gap, take};

/// Between attempts when the kernel refuses.
const RETRY: Duration = Duration::from_secs(1);

/// A manager hears that a mesh is applied for which nothing waits so late, for each other node,
const TELL_LATER_EACH: Duration = Duration::from_micros(100);
/// and in a large swarm, where that would be later than this, by the next beat.
const TELL_LATER_MAX: Duration = Duration::from_millis(100);

/// Applies what comes until every sender is gone; `applied` tells the revision that this node has,
/// `has_ingress` whether it is on the ingress network.
pub(crate) async fn keep(
    network: Arc<dyn Network>,
    mut newest: watch::Receiver<Option<Arc<wire::MeshState>>>,
    applied: watch::Sender<u64>,
    has_ingress: watch::Sender<bool>,
) {
    let (mut retry, mut tell) = (None, None);
    loop {
        let state = newest.borrow_and_update().clone();
        if let Some(state) = state.filter(|state| state.revision > *applied.borrow()) {
            if state.few_peers {
                // Before the others go: a task that comes meanwhile waits for them.
                has_ingress.send_replace(false);
            }
            match network.apply(&state).await {
                Ok(()) => {
                    tracing::debug!(revision = state.revision, "mesh applied");
                    retry = None;
                    // Where peers are left out, all of them come once the manager has seen the node's first task there.
                    has_ingress.send_replace(state.ingress_addr != 0 && !state.few_peers);
                    // The drain of what left waits for this node, and an older manager does not say what left.
                    let is_awaited = state.left_at == 0 || state.left_at > *applied.borrow();
                    applied.send_if_modified(|known| {
                        *known = state.revision;
                        is_awaited
                    });
                    let n = u32::try_from(state.peers.len()).unwrap_or(u32::MAX).max(state.n_nodes);
                    let later = TELL_LATER_EACH.saturating_mul(n);
                    let is_told = is_awaited || later > TELL_LATER_MAX;
                    tell = if is_told { None } else { tell.or(Some(Instant::now() + later)) };
                }
                Err(e) => {
                    tracing::error!(revision = state.revision, err = chain(&e), "the mesh cannot be applied");
                    retry = Some(Instant::now() + RETRY);
                }
            }
        }
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return },
            () = at(retry) => retry = None,
            () = at(tell) => {
                tell = None;
                applied.send_modify(|_| {});
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
