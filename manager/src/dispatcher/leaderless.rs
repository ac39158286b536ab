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
        let again = timeout(LEADERLESS_MAX, status.wait_for(|status| status.has_quorum)).await;
        let again = again.map(|found| found.is_ok());
        if again == Ok(true) {
            continue;
        }
        // Also when consensus has stopped by itself: nothing that is decided comes here any more.
        let n_ended = shared.hub.end_all();
        if n_ended > 0 {
            tracing::warn!(sessions = n_ended, "no leader is known here; agents are sent to other managers");
        }
        if again.is_ok() || status.wait_for(|status| status.has_quorum).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use skep_api::{Id, NodeId};
    use tokio::sync::mpsc;

    use super::*;
    use crate::rig::first_manager;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_manager_whose_consensus_stopped_keeps_no_agents() {
        let (manager, _, _dir) = first_manager().await;
        let shared = manager.control().shared;
        let (aside, _keep) = mpsc::channel(1);
        let ties = shared.hub.connect(NodeId(Id(7)), aside);
        shared.raft.shutdown().await;
        // As its session waits.
        let woken = timeout(Duration::from_secs(10), ties.wake.notified()).await;
        woken.expect("it is sent away");
        assert!(!shared.hub.is_current(NodeId(Id(7)), ties.session));
    }
}
