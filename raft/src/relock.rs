//! A member follows the swarm's lock: its key file first, then the log, then a snapshot, until nothing on its
//! disk needs the data key of before. Cut off anywhere, the next opening writes under the new key, and
//! compaction does the rest.

use std::io;
use std::time::Duration;

use openraft::rt::WatchReceiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::error::OpenError;
use crate::keys::{Followed, Keys, UnlockKey};
use crate::raft::Raft;

/// A snapshot is asked for again after this long: one that was being made is of the key before.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// So many snapshots are made at most so that an old data key can go.
const SNAPSHOTS_MAX: u32 = 3;
/// How long the files of a purged log may take to go before another snapshot is made.
const SEGMENTS_GO: Duration = Duration::from_secs(5);

impl Raft {
    /// The keys that this member's disk is sealed under; None in a simulation.
    #[must_use]
    pub fn keys(&self) -> Option<Keys> {
        self.keys_ref().cloned()
    }

    /// Has this member's disk stand as the swarm wants it since its change `version` of the unlock key: wrapped
    /// under `unlock`, or plain without one. Returns once the key file does, and for a fresh data key once all
    /// that is appended from then on is under it; see [`Raft::retire_old_keys`] for what is there already.
    ///
    /// # Errors
    /// The key file or the log cannot be written; ask again.
    pub async fn follow_lock(&self, unlock: Option<UnlockKey>, version: u64) -> Result<Followed, OpenError> {
        let Some(keys) = self.keys() else { return Ok(Followed::Nothing) };
        let following = tokio::task::spawn_blocking(move || keys.follow(unlock, version));
        let followed =
            following.await.unwrap_or_else(|e| Err(OpenError::Consensus { reason: e.to_string() }))?;
        if followed == Followed::Locked {
            self.cut().await.map_err(|e| OpenError::Consensus { reason: e.to_string() })?;
        }
        Ok(followed)
    }

    async fn cut(&self) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        // Whoever asked may be gone.
        self.disk().cut(Box::new(move |done| drop(tell.send(done))));
        told.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
    }

    /// Takes a snapshot of what is applied and lets go of the log before it, until no file needs an older data
    /// key than the current one. Members that are behind are sent the snapshot. Returns at once where there is
    /// only one key, and after a few attempts where older snapshots are kept: those go with the next ones. A
    /// member that stops ends it.
    pub async fn retire_old_keys(&self) {
        let Some(keys) = self.keys() else { return };
        let mut changed = keys.changed();
        let mut is_only_one = |_: &u64| keys.numbers().len() < 2;
        for _ in 0..SNAPSHOTS_MAX {
            if is_only_one(&0) || !self.snapshot_and_purge().await {
                return;
            }
            // A thread of the log removes the segments; a key goes with the last file that names it.
            timeout(SEGMENTS_GO, changed.wait_for(&mut is_only_one)).await.ok();
        }
    }

    /// False if this member stops.
    async fn snapshot_and_purge(&self) -> bool {
        let mut metrics = self.core().metrics();
        let after = |id: Option<crate::types::LogId>| id.map_or(0, |id| id.index + 1);
        let target = after(metrics.borrow_watched().last_applied);
        let mut asked: Option<Instant> = None;
        loop {
            // Also where there is one already: it may be of the key before.
            if asked.is_none_or(|at| at.elapsed() >= ASK_AGAIN) {
                if self.core().trigger().snapshot().await.is_err() {
                    return false;
                }
                asked = Some(Instant::now());
            }
            if matches!(timeout(ASK_AGAIN, metrics.changed()).await, Ok(Err(_))) {
                return false;
            }
            let snapshot = after(metrics.borrow_watched().snapshot);
            if snapshot >= target {
                let Some(last) = snapshot.checked_sub(1) else { return true };
                return self.core().trigger().purge_log(last).await.is_ok();
            }
        }
    }
}
