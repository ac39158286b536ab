//! Writes on the swarm itself: its settings and its join tokens.

use std::sync::Arc;

use skep_api::{
    ApiError,
    object::Cluster,
    spec::{Role, SwarmSpec},
    validate,
};
use skep_link::{Identity, JoinToken, RenewError};
use skep_raft::UnlockKey;
use skep_store::{Change, Guard, GuardKind};
use tonic::Status;

use super::{Control, out_of_sequence};
use crate::{ca, unlock};

/// Which join tokens get a new secret. The root's digest in them stays; the old ones are refused at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rotation {
    /// The token for workers.
    pub worker: bool,
    /// The token for managers.
    pub manager: bool,
    /// The unlock key; of no effect without autolock, as in Swarm.
    pub unlock_key: bool,
}

impl Control {
    /// Changes the swarm's settings and tokens from the version that the caller has seen. What `spec` leaves
    /// out stays as it is.
    ///
    /// # Errors
    /// A setting is wrong or not honoured; a stale version; no leader.
    pub async fn update_cluster(
        &self,
        version: u64,
        spec: SwarmSpec,
        rotation: Rotation,
    ) -> Result<(), ApiError> {
        validate::swarm(&spec)?;
        let view = self.view().await?;
        let old = view.cluster().ok_or_else(|| ApiError::not_found("the swarm has no object yet"))?;
        if old.meta.version != version {
            return Err(out_of_sequence());
        }
        let guard = Guard { kind: GuardKind::Cluster, id: old.id.0, version };
        let mut spec = spec;
        let signing = spec.take_signing();
        let new = updated(old, &spec, rotation, JoinToken::generate_secret);
        let new = unlock::locked(old, new, rotation.unlock_key, UnlockKey::generate)?;
        let new = ca::changed(&self.shared, new, &signing).await?;
        self.write(vec![guard], vec![Change::PutCluster(Arc::new(new))]).await
    }

    /// The unlock key as users keep it; empty without autolock.
    ///
    /// # Errors
    /// No leader.
    pub async fn unlock_key(&self) -> Result<String, ApiError> {
        let wanted = unlock::wanted(&self.view().await?);
        let key = wanted.and_then(|(key, _)| key);
        Ok(key.map(|key| unlock::unlock_key_text(&key)).unwrap_or_default())
    }

    /// Renews this manager's own certificate by the state that is here, without asking anybody.
    ///
    /// # Errors
    /// The state does not have this node as a manager, or does not hold the root's key.
    pub async fn renew_own(&self) -> Result<Identity, RenewError> {
        let is_manager =
            self.stale_view().node(self.node_id).is_some_and(|node| node.spec.role == Role::Manager);
        skep_link::renew_by(&self.shared.identity, async |csr_pem| {
            if !is_manager {
                return Err(Status::permission_denied("this node is not to be a manager any more"));
            }
            let issued = self.shared.renewed(&csr_pem, self.node_id, Role::Manager).await?;
            Ok((issued.certificate_pem, issued.root_pem))
        })
        .await
    }
}

fn updated(old: &Cluster, spec: &SwarmSpec, rotation: Rotation, secret: impl Fn() -> String) -> Cluster {
    let mut new = Cluster { spec: old.spec.merged(spec), ..old.clone() };
    if rotation.worker {
        new.worker_token_secret = secret();
    }
    if rotation.manager {
        new.manager_token_secret = secret();
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_changes_one_secret_and_nothing_else() {
        let old = Cluster {
            ca_cert_pem: "root".into(),
            worker_token_secret: "w".into(),
            manager_token_secret: "m".into(),
            ..Cluster::default()
        };
        let rotated = |worker, manager| {
            let new =
                updated(&old, &SwarmSpec::default(), Rotation { worker, manager, unlock_key: false }, || {
                    "new".to_owned()
                });
            assert_eq!((&new.ca_cert_pem, &new.spec), (&old.ca_cert_pem, &old.spec));
            (new.worker_token_secret, new.manager_token_secret)
        };
        assert_eq!(rotated(true, false), ("new".to_owned(), "m".to_owned()));
        assert_eq!(rotated(false, true), ("w".to_owned(), "new".to_owned()));
        assert_eq!(rotated(false, false), ("w".to_owned(), "m".to_owned()));
    }
}
