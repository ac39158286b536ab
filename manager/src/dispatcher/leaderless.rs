//! A manager that has no leader is of no use to agents: others may have one.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::Shared;

/// So long after this manager last knew of a leader (which it notices after one election timeout) its
/// agents are sent away. An ordinary change of leaders is over sooner, and costs no session.
const LEADERLESS_MAX: Duration = Duration::from_secs(1);

/// Ends all sessions whenever there is no leader; until there is one, none is opened. Runs until dropped.
pub(crate) async fn mind_leader(shared: Arc<Shared>) {
    let mut status = shared.raft.status();
    loop {
        if status.wait_for(|status| !status.has_quorum).await.is_err() {
            return;
        }
        match timeout(LEADERLESS_MAX, status.wait_for(|status| status.has_quorum)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        let n_ended = shared.hub.end_all();
        if n_ended > 0 {
            tracing::warn!(sessions = n_ended, "no leader is known here; agents are sent to other managers");
        }
        if status.wait_for(|status| status.has_quorum).await.is_err() {
            return;
        }
    }
}
