//! The swarm's lock: with autolock, what a manager keeps on disk opens with the swarm's unlock key alone.
//!
//! The unlock key is in the replicated state. Each manager follows its changes, by their number: its key file
//! is wrapped first, then the log goes on under a fresh data key, then a snapshot takes the place of what is
//! under the old one. A manager that was away starts with the unlock key that it knew, and follows then.

use std::sync::Arc;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use skep_api::{ApiError, ErrorKind, Secret, object::Cluster};
use skep_link::{Held, KeyBox};
use skep_raft::{Followed, Keys, OpenError, UnlockKey};
use skep_store::View;
use tokio::time::sleep;

use crate::dispatcher::Shared;

/// How unlock keys begin, as Swarm's (`SK:manager/encryption/encryption.go`).
const PREFIX: &str = "SWMKEY-1-";
/// A key file that could not be written is tried again after this long.
const AGAIN: Duration = Duration::from_secs(3);

/// An unlock key as users keep it.
#[must_use]
pub fn unlock_key_text(key: &UnlockKey) -> String {
    format!("{PREFIX}{}", STANDARD_NO_PAD.encode(key.reveal()))
}

/// Reads what a user kept.
///
/// # Errors
/// Swarm's words.
pub fn parse_unlock_key(text: &str) -> Result<UnlockKey, ApiError> {
    let bytes = text.strip_prefix(PREFIX).and_then(|rest| STANDARD_NO_PAD.decode(rest).ok());
    bytes.map(UnlockKey::new).ok_or_else(|| ApiError::invalid("invalid key string"))
}

/// Seals a manager's TLS key under its data keys while its key file is wrapped.
#[derive(Clone, Debug)]
pub struct NodeKeyBox(pub Keys);

impl KeyBox for NodeKeyBox {
    fn seal(&self, key: &[u8]) -> Result<Option<(Vec<u8>, Held)>, String> {
        let sealed = self.0.seal_secret(key).map_err(|error| error.to_string())?;
        Ok(sealed.map(|sealed| (sealed.bytes, Arc::new(sealed.held) as Held)))
    }

    fn open(&self, sealed: &[u8]) -> Result<(Vec<u8>, Held), String> {
        let (key, held) = self.0.open_secret(sealed)?;
        Ok((key, Arc::new(held)))
    }
}

/// What the key files of the swarm's managers are to be wrapped under, and by which change.
pub(crate) fn wanted(view: &View) -> Option<(Option<UnlockKey>, u64)> {
    let cluster = view.cluster()?;
    let key = Some(&cluster.unlock_key).filter(|key| !key.is_empty());
    Some((key.map(|key| UnlockKey::new(key.reveal())), cluster.unlock_version))
}

/// The swarm with the unlock key that its settings ask for: a fresh one when autolock is turned on or when it
/// is to be rotated, none without autolock (`SK:manager/controlapi/cluster.go`).
pub(crate) fn locked(
    old: &Cluster,
    new: Cluster,
    rotate: bool,
    fresh: impl FnOnce() -> Result<UnlockKey, OpenError>,
) -> Result<Cluster, ApiError> {
    let key = match (new.spec.autolock(), old.unlock_key.is_empty()) {
        (false, _) => Secret::default(),
        (true, false) if !rotate => old.unlock_key.clone(),
        (true, _) => {
            let fresh = fresh().map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
            Secret::new(fresh.reveal())
        }
    };
    let unlock_version = old.unlock_version + u64::from(key != old.unlock_key);
    Ok(Cluster { unlock_key: key, unlock_version, ..new })
}

/// Has this manager's disk follow the swarm's lock, for as long as it runs.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut changed = shared.machine.nodes_changed();
    // What an earlier start did not come to.
    shared.raft.retire_old_keys().await;
    loop {
        changed.borrow_and_update();
        if let Some((unlock, version)) = wanted(&shared.machine.view()) {
            match shared.raft.follow_lock(unlock, version).await {
                Ok(Followed::Nothing) => {}
                Ok(Followed::Rewrapped) => tracing::info!("the key file follows the swarm's unlock key"),
                Ok(Followed::Locked) => {
                    tracing::info!(
                        "the key file is locked; this manager will ask for the unlock key when it starts"
                    );
                    shared.raft.retire_old_keys().await;
                }
                Err(error) => {
                    tracing::error!(err = %error, "the key file cannot follow the swarm's lock; trying again");
                    sleep(AGAIN).await;
                    continue;
                }
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use skep_api::spec::SwarmSpec;
    use tokio::time::timeout;

    use super::*;
    use crate::{Control, Manager, ManagerConfig, ManagerError, Rotation, rig};

    const LIMIT: Duration = Duration::from_secs(20);

    async fn update(control: &Control, autolock: bool, rotate: bool) {
        let version = control.view().await.unwrap().cluster().unwrap().meta.version;
        let mut spec = SwarmSpec::default().with_autolock();
        spec.extra["EncryptionConfig"]["AutoLockManagers"] = autolock.into();
        let rotation = Rotation { unlock_key: rotate, ..Rotation::default() };
        control.update_cluster(version, spec, rotation).await.unwrap();
    }

    /// Waits until the key file is as `is` says.
    async fn wait_for(keys: &Keys, is: impl Fn(&Keys) -> bool) {
        let waiting = async {
            while !is(keys) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("{keys:?}"));
    }

    #[tokio::test]
    async fn a_manager_is_locked_opened_rotated_and_let_go() {
        let (manager, identity, dir) = rig::first_manager().await;
        let config = rig::config(dir.path());
        let raft_dir = config.raft_dir();
        let control = manager.control();
        assert_eq!(control.unlock_key().await.unwrap(), "");
        let keys = manager.keys().unwrap();
        let plain = std::fs::read(Keys::path(&raft_dir)).unwrap();
        update(&control, true, false).await;
        let first = control.unlock_key().await.unwrap();
        // A snapshot takes the place of all that is under the key that lay open.
        wait_for(&keys, |keys| keys.lock().0 && keys.numbers() == [2]).await;
        update(&control, true, true).await;
        let second = control.unlock_key().await.unwrap();
        assert_ne!(first, second);
        wait_for(&keys, |keys| keys.lock() == (true, 2)).await;
        manager.stop().await;

        let refused = Manager::open(config.clone(), identity.clone()).await.unwrap_err();
        assert!(matches!(refused, ManagerError::Open(OpenError::KeyLocked { .. })), "{refused}");
        let open = |key: &str| Keys::open(&raft_dir, Some(&parse_unlock_key(key).unwrap()));
        assert!(matches!(open(&first), Err(OpenError::WrongUnlockKey { .. })));
        // Who had read the disk before has a key that opens nothing.
        let now = std::fs::read(Keys::path(&raft_dir)).unwrap();
        std::fs::write(Keys::path(&raft_dir), plain).unwrap();
        let refused = Manager::open(config.clone(), identity.clone()).await.unwrap_err();
        assert!(matches!(refused, ManagerError::Open(OpenError::WrongKey { .. })), "{refused}");
        std::fs::write(Keys::path(&raft_dir), now).unwrap();

        let unlocked = ManagerConfig { keys: Some(open(&second).unwrap()), ..config.clone() };
        let manager = Manager::open(unlocked, identity.clone()).await.unwrap();
        let control = manager.control();
        let leads = async { while control.view().await.is_err() {} };
        timeout(LIMIT, leads).await.unwrap();
        assert_eq!(control.unlock_key().await.unwrap(), second);
        update(&control, false, false).await;
        let keys = manager.keys().unwrap();
        wait_for(&keys, |keys| !keys.lock().0).await;
        manager.stop().await;
        Manager::open(config, identity).await.unwrap().stop().await;
    }

    #[test]
    fn keys_are_written_as_swarms_are() {
        // Of Docker's documentation.
        let text = "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8";
        let key = parse_unlock_key(text).unwrap();
        assert_eq!((key.reveal().len(), unlock_key_text(&key).as_str()), (32, text));
        for wrong in ["", "SWMKEY-1", "SWMKEY-2-AAAA", "SWMKEY-1-*", "swmkey-1-AAAA", "SWMKEY-1-AA=="] {
            assert_eq!(parse_unlock_key(wrong).unwrap_err().message, "invalid key string", "{wrong}");
        }
    }

    #[test]
    fn the_unlock_key_changes_with_autolock_and_by_rotation_alone() {
        let spec = |on: bool| if on { SwarmSpec::default().with_autolock() } else { SwarmSpec::default() };
        let mut cluster = Cluster::default();
        // Autolock, rotate; the key and its version after.
        for (n, (autolock, rotate, key, version)) in (1..).zip([
            (false, true, 0, 0),
            (true, false, 2, 1),
            (true, false, 2, 1),
            (true, true, 4, 2),
            (false, false, 0, 3),
            (false, true, 0, 3),
            (true, true, 7, 4),
        ]) {
            let new = Cluster { spec: spec(autolock), ..cluster.clone() };
            cluster = locked(&cluster, new, rotate, || Ok(UnlockKey::new([n; 4]))).unwrap();
            let expect = if key == 0 { Secret::default() } else { Secret::new([key; 4]) };
            assert!(cluster.unlock_key == expect && cluster.unlock_version == version, "step {n}");
        }
    }
}
