//! Keeps this node's part of the mesh at the newest state that the manager sent.
//!
//! States in between are skipped: each one is whole. A state older than the one applied is refused, so a
//! manager that lags cannot bring back an endpoint that is gone.

use std::{sync::Arc, time::Duration};

use skep_api::wire;
use tokio::sync::watch;

use crate::{engine::chain, network::Network};

/// Between attempts when the kernel refuses.
const RETRY: Duration = Duration::from_secs(1);

/// Applies what comes until every sender is gone; `applied` tells the revision that this node has,
/// `has_ingress` whether it is on the ingress network.
pub(crate) async fn keep(
    network: Arc<dyn Network>,
    mut newest: watch::Receiver<Option<Arc<wire::MeshState>>>,
    applied: watch::Sender<u64>,
    has_ingress: watch::Sender<bool>,
) {
    loop {
        let state = newest.borrow_and_update().clone();
        let mut retry = false;
        if let Some(state) = state.filter(|state| state.revision > *applied.borrow()) {
            match network.apply(&state).await {
                Ok(()) => {
                    tracing::debug!(revision = state.revision, "mesh applied");
                    has_ingress.send_replace(state.ingress_addr != 0);
                    applied.send_replace(state.revision);
                }
                Err(e) => {
                    tracing::error!(revision = state.revision, err = chain(&e), "the mesh cannot be applied");
                    retry = true;
                }
            }
        }
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if retry => {}
        }
    }
}
