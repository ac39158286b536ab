//! Feeds committed entries to the state machine, in order, and makes and takes its snapshots.
//!
//! What was applied is durable only as a snapshot and the log after it: every start begins with the
//! newest snapshot, if there is one, and applies what follows.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::snapshot::{Snapshot, Snapshots};
use crate::types::{LogId, Payload, SnapshotMeta, StoredMembership, Types};

/// Between attempts to write a snapshot.
const SAVE_AGAIN: Duration = Duration::from_secs(10);

/// What entries mean: the replicated state. All members apply the same entries in the same order, so
/// `apply` must be a function of its arguments and of what was applied before.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one committed normal entry, in log order, once for each entry after the state that was
    /// restored last, or after none. Returns the response given to the proposer. It runs on the thread of
    /// consensus, which waits for it: it must not block.
    fn apply(&self, index: u64, entry: &[u8]) -> Vec<u8>;

    /// The state now, to be encoded later on another thread while entries are applied: taking it must be
    /// quick, calling it need not.
    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send>;

    /// Puts the state that `snapshot` encoded, here or on another member, in the place of all that there
    /// is. Entries after it follow.
    ///
    /// # Errors
    /// Why the bytes are no state that this build reads; nothing was changed. Consensus stops then.
    fn restore(&self, bytes: &[u8]) -> Result<(), String>;
}

/// The state machine as openraft sees it.
pub(crate) struct Machine {
    inner: Arc<dyn StateMachine>,
    snapshots: Arc<dyn Snapshots>,
    applied: Option<LogId>,
    /// Tells the index to those who wait for it.
    reached: watch::Sender<Option<u64>>,
    membership: StoredMembership,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl Machine {
    /// A machine that begins with `snapshot`, or with nothing applied.
    pub(crate) fn new(
        inner: Arc<dyn StateMachine>,
        snapshots: Arc<dyn Snapshots>,
        snapshot: Option<Snapshot>,
    ) -> Result<Machine, String> {
        let mut machine = Machine {
            inner,
            snapshots,
            applied: None,
            reached: watch::Sender::new(None),
            membership: StoredMembership::default(),
        };
        if let Some(snapshot) = snapshot {
            machine.inner.restore(&snapshot.state)?;
            machine.stands_at(&snapshot.meta);
        }
        Ok(machine)
    }

    /// Follows the index of the last entry applied.
    pub(crate) fn applied(&self) -> watch::Receiver<Option<u64>> {
        self.reached.subscribe()
    }

    fn stands_at(&mut self, meta: &SnapshotMeta) {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.reached.send_replace(meta.last_log_id.map(|id| id.index));
    }
}

/// Runs what may block elsewhere than on the thread of consensus.
async fn elsewhere<T: Send + 'static>(
    snapshots: &Arc<dyn Snapshots>,
    work: impl FnOnce(&dyn Snapshots) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if snapshots.is_simulated() {
        return work(&**snapshots);
    }
    let snapshots = Arc::clone(snapshots);
    tokio::task::spawn_blocking(move || work(&*snapshots)).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let response = match entry.payload {
                Payload::Blank => Vec::new(),
                Payload::Normal(command) => self.inner.apply(entry.log_id.index, &command.0),
                Payload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Vec::new()
                }
            };
            self.applied = Some(entry.log_id);
            self.reached.send_replace(Some(entry.log_id.index));
            if let Some(responder) = responder {
                responder.send(response);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            state: Mutex::new(Some(self.inner.snapshot())),
            snapshots: Arc::clone(&self.snapshots),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, state: Bytes) -> Result<(), io::Error> {
        let inner = Arc::clone(&self.inner);
        let snapshot = Snapshot { meta: meta.clone(), state };
        elsewhere(&self.snapshots, move |snapshots| {
            // On disk first: the log before it is purged next.
            snapshots.save(&snapshot)?;
            inner.restore(&snapshot.state).map_err(io::Error::other)
        })
        .await?;
        self.stands_at(meta);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, Bytes>>, io::Error> {
        let current = elsewhere(&self.snapshots, |snapshots| snapshots.current()).await?;
        Ok(current.map(|current| SnapshotOf::<Types, Bytes> { meta: current.meta, snapshot: current.state }))
    }
}

/// A state that is taken, and not encoded yet.
type Encode = Box<dyn FnOnce() -> Vec<u8> + Send>;

/// Encodes one state and saves it, while the machine goes on.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    /// A mutex only because a builder must be `Sync`.
    state: Mutex<Option<Encode>>,
    snapshots: Arc<dyn Snapshots>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    /// A disk that is full is waited out: the log is whole without this snapshot, and is not purged before
    /// there is one. An error would end consensus on this member for good.
    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Bytes>, io::Error> {
        let encode = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let encode = encode.ok_or_else(|| io::Error::other("a snapshot is built once"))?;
        let meta = self.meta.clone();
        let built =
            elsewhere(&self.snapshots, move |_| Ok(Snapshot { meta, state: Bytes::from(encode()) })).await?;
        loop {
            let snapshot = built.clone();
            match elsewhere(&self.snapshots, move |snapshots| snapshots.save(&snapshot)).await {
                Ok(()) => break,
                Err(error) => tracing::error!(
                    err = %error, "a snapshot cannot be written; trying again every {SAVE_AGAIN:?}"
                ),
            }
            tokio::time::sleep(SAVE_AGAIN).await;
        }
        Ok(SnapshotOf::<Types, Bytes> { meta: built.meta, snapshot: built.state })
    }
}
