//! Brings a rotation to its end for as long as this manager leads: tells nodes, by whichever manager holds their
//! session, and makes the next root the root. What was told is soft: a new leader tells again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use skep_api::{NodeId, object::Cluster, wire};
use skep_link::JoinToken;
use skep_store::{Change, Guard, GuardKind, View};
use tokio::time::{Instant, sleep, sleep_until};

use super::reconcile::{Next, next};
use crate::{dispatcher::Shared, tell, write::WriteError};

/// A node that was told and has not renewed is told again after this long: an external CA takes up to 5 s.
const TOLD_AGAIN: Duration = Duration::from_secs(10);
/// One that could not be told.
const UNTOLD_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at all nodes: they are many, and renew one by one.
const LOOK_EACH: Duration = Duration::from_millis(100);

/// Takes steps until it is dropped.
pub(crate) async fn converge(shared: &Shared) {
    let mut nodes = shared.machine.nodes_changed();
    let mut told: BTreeMap<NodeId, Instant> = BTreeMap::new();
    let mut rotation = None;
    loop {
        nodes.borrow_and_update();
        let view = shared.machine.view();
        let now_at = view.cluster().and_then(|cluster| cluster.ca_rotation.clone());
        if rotation != now_at {
            rotation = now_at;
            told.clear();
        }
        let again = match next(&view, &told, Instant::now()) {
            Next::Quiet => None,
            Next::Finish => {
                finish(shared, &view).await;
                Some(Instant::now() + UNTOLD_AGAIN)
            }
            Next::Tell { nodes, again } => {
                let n_told = nodes.len();
                let tellings = nodes.into_iter().map(|node| async move {
                    let message = wire::manager_message::Message::RenewWanted(wire::RenewWanted {});
                    (node, tell::send(shared, node, message).await)
                });
                let now = Instant::now();
                for (node, delivered) in join_all(tellings).await {
                    told.insert(node, now + if delivered { TOLD_AGAIN } else { UNTOLD_AGAIN });
                }
                if n_told > 0 {
                    tracing::debug!(n_told, "nodes are told to renew");
                    continue;
                }
                again
            }
        };
        sleep(LOOK_EACH).await;
        let waiting = async {
            match again {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = nodes.changed() => if changed.is_err() { return },
            () = waiting => {}
        }
    }
}

/// The next root becomes the root, and join tokens name it from now on. Refused if anything of the swarm's
/// settings changed meanwhile: then it is looked at again.
async fn finish(shared: &Shared, view: &View) {
    let Some(old) = view.cluster() else { return };
    let Some(new) = finished(old, JoinToken::generate_secret) else { return };
    let guard = Guard { kind: GuardKind::Cluster, id: old.id.0, version: old.meta.version };
    match shared.write(vec![guard], vec![Change::PutCluster(Arc::new(new))]).await {
        Ok(()) => tracing::info!("completed root rotation"),
        Err(WriteError::Stale) => {}
        Err(error) => tracing::warn!(err = %error, "could not complete the root rotation yet"),
    }
}

/// The cluster after its rotation; `None` without one.
pub(super) fn finished(old: &Cluster, secret: impl Fn() -> String) -> Option<Cluster> {
    let rotation = old.ca_rotation.clone()?;
    Some(Cluster {
        ca_cert_pem: rotation.cert_pem,
        ca_key_pem: rotation.key_pem,
        ca_cross_pem: rotation.cross_pem,
        ca_rotation: None,
        // Both tokens are new, as in Swarm: the old ones name a root that is gone.
        worker_token_secret: secret(),
        manager_token_secret: secret(),
        ..old.clone()
    })
}
