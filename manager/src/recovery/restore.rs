//! A new manager on a node without a swarm, of what a backup holds.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use skep_api::{
    NodeId,
    id::IdSource,
    object::{Cluster, Node, NodeDescription},
    spec::{Availability, NodeSpec, Role},
};
use skep_link::{Authority, Identity, new_csr};
use skep_raft::{Keys, recover::Held};
use skep_store::Store;

use super::{RecoveryError, anew};
use crate::{NodeKeyBox, SystemIds, server::fresh_raft_id, unlock};

/// What the node says of itself.
#[derive(Clone, Debug)]
pub struct RestoreParams {
    /// `host:port` at which nodes reach it.
    pub advertise_addr: String,
    /// Of its VXLAN.
    pub data_path_addr: String,
    /// Of the node.
    pub description: NodeDescription,
    /// Where its identity is kept.
    pub identity_dir: PathBuf,
    /// Unix nanoseconds.
    pub now: i64,
}

/// Makes the directory of a manager of what a backup holds: a node of a fresh id, with a certificate of the
/// backup's root; all managers of the backup are dropped, its workers are expected. It is locked from the first moment
/// if the swarm was; the keys that open it come with its identity.
///
/// # Errors
/// [`RecoveryError`]; the caller wipes what there is of it.
pub fn restore(
    dir: &Path,
    mut store: Store,
    params: &RestoreParams,
) -> Result<(Identity, Keys), RecoveryError> {
    let view = store.view();
    let cluster = view.cluster().ok_or_else(|| RecoveryError::NoState(dir.to_owned()))?;
    let id = NodeId(SystemIds::default().next_id());
    let identity = certificate(cluster, id, params.now / 1_000_000_000)?;
    let raft_id = fresh_raft_id();
    let node = Node {
        id,
        spec: NodeSpec { role: Role::Manager, availability: Availability::Active, ..NodeSpec::default() },
        description: NodeDescription { tls: Some(identity.tls()), ..params.description.clone() },
        advertise_addr: params.advertise_addr.clone(),
        data_path_addr: params.data_path_addr.clone(),
        raft_id,
        ..Node::default()
    };
    anew::change(&mut store, &view, node, params.now)?;
    let lock = unlock::wanted(&view).and_then(|(unlock, version)| Some((unlock?, version)));
    let make_keys = |raft: &Path| Keys::create(raft, lock.clone());
    anew::place(dir, &store, &Held::default(), raft_id, make_keys, &mut |_| Ok(()))?;
    let keys = Keys::open(&dir.join("raft"), lock.as_ref().map(|(unlock, _)| unlock))?;
    let key_box = NodeKeyBox(keys.clone());
    identity
        .save_with(&params.identity_dir, Some(&key_box))
        .map_err(|e| RecoveryError::Failed(e.to_string()))?;
    Ok((identity, keys))
}

fn certificate(cluster: &Cluster, node: NodeId, now_unix_secs: i64) -> Result<Identity, RecoveryError> {
    let failed = |error: String| RecoveryError::Failed(error);
    if cluster.ca_key_pem.is_empty() {
        return Err(failed(
            "an external CA signs for this swarm, and its key is not in the backup; restore needs a root \
             that the swarm holds the key of"
                .to_owned(),
        ));
    }
    let valid: Duration = cluster.spec.node_cert_expiry();
    let authority = Authority::from_pem(&cluster.ca_cert_pem, &cluster.ca_key_pem)
        .map_err(|e| failed(e.to_string()))?
        .valid_for(valid)
        .through(cluster.ca_cross_pem.clone());
    let (csr, key) = new_csr().map_err(|e| failed(e.to_string()))?;
    let (node, cluster_id) = (node.to_string(), cluster.id.to_string());
    let certificate = authority
        .sign_node(&csr, &node, skep_link::Role::Manager, &cluster_id, now_unix_secs)
        .map_err(|e| failed(e.to_string()))?;
    Identity::new(certificate, key, authority.cert_pem()).map_err(|e| failed(e.to_string()))
}
