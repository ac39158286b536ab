//! A manager whose disk is locked waits for the unlock key: the API answers, and nothing else of the node runs.
//!
//! Its tasks' containers go on as they are. Also keeps this node's TLS key on disk as the key file stands:
//! sealed while that is wrapped.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use skep_api::{ApiError, ErrorKind};
use skep_link::{Identity, IdentityError, KeyBox};
use skep_manager::{Keys, Manager, ManagerError, NodeKeyBox, OpenError, UnlockKey, parse_unlock_key};
use tokio::time::sleep;

use super::{
    member::Member,
    node::{Inner, Membership, Place},
    renewal,
};

/// Between attempts to get a certificate whose key was never on an open disk.
const RENEW_AGAIN: Duration = Duration::from_secs(3);
/// So many, while others are still coming up; then the next renewal does it.
const RENEWALS_MAX: u32 = 20;

/// What there is of keys at a start.
enum Found {
    /// None are needed.
    None,
    Keys(Keys),
    Locked,
}

impl Inner {
    pub(super) fn identity_dir(&self) -> PathBuf {
        self.settings.state_dir.join("identity")
    }

    /// What this node's TLS key is kept with.
    pub(super) fn key_box(&self) -> Option<NodeKeyBox> {
        self.keys.borrow().clone().map(NodeKeyBox)
    }

    fn load_identity(&self) -> Result<Option<Identity>, IdentityError> {
        let key_box = self.key_box();
        let key_box = key_box.as_ref().map(|key_box| key_box as &dyn KeyBox);
        Identity::load_with(&self.identity_dir(), key_box)
    }

    pub(super) fn save_identity(&self, identity: &Identity) -> Result<(), IdentityError> {
        let key_box = self.key_box();
        let key_box = key_box.as_ref().map(|key_box| key_box as &dyn KeyBox);
        identity.save_with(&self.identity_dir(), key_box)
    }

    /// Before a manager's directory goes: nothing is to be sealed under its keys.
    pub(super) fn let_go_of_keys(&self, identity: &Identity) -> Result<(), IdentityError> {
        self.keys.send_replace(None);
        self.save_identity(identity)
    }

    /// What a manager that was opened has its disk sealed under.
    pub(super) fn keep_keys(&self, manager: &Manager) {
        let keys = manager.keys();
        self.keys.send_if_modified(|now| {
            let is_news = now.is_none();
            if is_news {
                *now = keys;
            }
            is_news
        });
    }

    fn find_keys(&self, unlock: Option<&UnlockKey>) -> Result<Found, OpenError> {
        let config = self.manager_config();
        let is_sealed = Identity::is_sealed(&self.identity_dir()).unwrap_or_default();
        if !Manager::exists(&config) && !is_sealed {
            return Ok(Found::None);
        }
        match Keys::open(&config.raft_dir(), unlock) {
            Ok(keys) => Ok(Found::Keys(keys)),
            // The log says whether that is a damage.
            Err(OpenError::MissingKey { .. }) => Ok(Found::None),
            Err(OpenError::KeyLocked { .. }) => Ok(Found::Locked),
            Err(error) => Err(error),
        }
    }

    /// Comes back as the member that the state directory knows of; or waits for the unlock key.
    pub(super) async fn come_back(self: &Arc<Self>, member: Member) -> anyhow::Result<()> {
        let unlock = self.settings.unlock_key_file.as_ref().and_then(|path| read(path));
        let found = match self.find_keys(unlock.as_ref()) {
            Err(OpenError::WrongUnlockKey { key }) => {
                let file = key.display().to_string();
                tracing::error!(
                    file,
                    "the unlock key of --unlock-key-file is not the one that this manager is locked with"
                );
                Found::Locked
            }
            other => other.map_err(ManagerError::Open)?,
        };
        match found {
            Found::Locked => {
                tracing::warn!(
                    "this manager is locked, and waits for \"docker swarm unlock\"; its tasks run on"
                );
                self.set(Place::Locked);
                return Ok(());
            }
            Found::Keys(keys) => drop(self.keys.send_replace(Some(keys))),
            Found::None => {}
        }
        match self.load_identity().context("this node's identity")? {
            Some(identity) => self.resume(identity, member).await,
            None => Ok(()),
        }
    }

    /// Takes the unlock key, and comes back with it.
    pub(super) async fn unlock(self: &Arc<Self>, unlock: UnlockKey) -> Result<(), ApiError> {
        let _unlocking = self.unlocking.lock().await;
        if !matches!(self.place(), Place::Locked) {
            // Swarm's words (`MB:daemon/cluster/errors.go`).
            return Err(ApiError::new(ErrorKind::AlreadyExists, "swarm is not locked"));
        }
        let invalid =
            || ApiError::new(ErrorKind::Unauthenticated, "swarm could not be unlocked: invalid key provided");
        let failed = |error: anyhow::Error| {
            ApiError::new(ErrorKind::Internal, format!("swarm component could not be started: {error:#}"))
        };
        match self.find_keys(Some(&unlock)) {
            Ok(Found::Keys(keys)) => drop(self.keys.send_replace(Some(keys))),
            Ok(Found::None) => {}
            Ok(Found::Locked) | Err(OpenError::WrongUnlockKey { .. }) => return Err(invalid()),
            Err(error) => return Err(failed(error.into())),
        }
        let coming_back = async {
            let identity = self.load_identity().context("this node's identity")?;
            let member = Member::load(&self.settings.state_dir)?;
            let member = member.map(|member| member.moved(&self.settings)).transpose()?;
            let (identity, member) = identity.zip(member).context("it is no member of a swarm")?;
            self.resume(identity, member).await
        };
        if let Err(error) = Box::pin(coming_back).await {
            let words = format!("{error:#}");
            tracing::error!(err = words, "could not come back as a member of the swarm");
            self.set(Place::Broken(words));
            return Err(failed(error));
        }
        tracing::info!("unlocked");
        Ok(())
    }
}

/// Whether a daemon ends with what kept its node from coming back; else it serves, and says it.
pub(super) fn is_fatal(error: &anyhow::Error) -> bool {
    let of_manager = error.downcast_ref();
    let of_identity: Option<&IdentityError> = error.downcast_ref();
    matches!(of_manager, Some(ManagerError::Open(_) | ManagerError::TooOld(_)))
        || of_identity.is_some_and(|error| !matches!(error, IdentityError::Sealed { .. }))
}

/// The unlock key in a file; without one that can be read, this manager waits for somebody.
fn read(path: &std::path::Path) -> Option<UnlockKey> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::error!(file = %path.display(), err = %error, "--unlock-key-file: cannot be read");
            return None;
        }
    };
    let key = parse_unlock_key(text.trim());
    if key.is_err() {
        tracing::error!(file = %path.display(), "--unlock-key-file: it holds no unlock key (SWMKEY-1-...)");
    }
    key.ok()
}

/// Keeps this node's TLS key on disk as the key file stands. One that was on an open disk is replaced once it is
/// locked (`SK:manager/manager.go`): whoever read the disk before has it. Runs as long as the node is a member.
pub(super) async fn mind(node: &Inner, membership: &Membership) {
    let mut known = node.keys.subscribe();
    loop {
        let keys = known.borrow_and_update().clone();
        let Some(keys) = keys else {
            if known.changed().await.is_err() {
                return;
            }
            continue;
        };
        let mut changed = keys.changed();
        changed.borrow_and_update();
        if !is_as(node, &keys).await && !reseal(node, membership).await {
            sleep(RENEW_AGAIN).await;
            continue;
        }
        if keys.lock().0 && membership.identity.key_was_open() {
            replace_key(node, membership).await;
        }
        tokio::select! {
            done = known.changed() => if done.is_err() { return },
            // The sender is in these keys.
            _ = changed.changed() => {}
        }
    }
}

async fn is_sealed(node: &Inner) -> Result<bool, IdentityError> {
    let _renewing = node.renewing.lock().await;
    Identity::is_sealed(&node.identity_dir())
}

async fn is_as(node: &Inner, keys: &Keys) -> bool {
    is_sealed(node).await.is_ok_and(|is_sealed| is_sealed == keys.lock().0)
}

/// Writes the key as it is to be now; true once it is.
async fn reseal(node: &Inner, membership: &Membership) -> bool {
    let _renewing = node.renewing.lock().await;
    let kept = renewal::keep_on_disk(node, &membership.identity);
    if let Err(error) = &kept {
        let error = format!("{error:#}");
        tracing::error!(err = error, "the node's key on disk does not follow the lock; trying again");
    }
    kept.is_ok()
}

/// Gets a certificate of another key. A crash before that is made up for by the next start: what is sealed says
/// that it was open.
async fn replace_key(node: &Inner, membership: &Membership) {
    for _ in 0..RENEWALS_MAX {
        match renewal::renew(node, membership).await {
            Ok(()) => {
                tracing::info!("this node has a certificate whose key was never on an open disk");
                break;
            }
            Err(why) => tracing::debug!(err = why, "no new certificate after the locking yet"),
        }
        sleep(RENEW_AGAIN).await;
    }
}
