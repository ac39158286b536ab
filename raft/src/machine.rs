//! Feeds committed entries to the state machine, in order, and makes and takes its snapshots.
//!
//! What was applied is durable only as a snapshot and the log after it: every start begins with the
//! newest snapshot, if there is one, and applies what follows.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::compact::{Compaction, Extent};
use crate::error::OpenError;
use crate::snapshot::stream::read_state;
use crate::snapshot::{self, Pieces, Snapshot, Snapshots};
use crate::types::{LogId, Payload, SnapshotMeta, StoredMembership, Types};

/// Between attempts to write a snapshot.
const SAVE_AGAIN: Duration = Duration::from_secs(10);

/// Writes one state, as bytes, as often as it is called.
pub type WriteState = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + Send>;

/// What entries mean: the replicated state. All members apply the same entries in the same order, so
/// `apply` must be a function of its arguments and of what was applied before.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one committed normal entry, in log order, once for each entry after the state that was
    /// restored last, or after none. Returns the response given to the proposer. It runs on the thread of
    /// consensus, which waits for it: it must not block.
    fn apply(&self, index: u64, entry: &[u8]) -> Vec<u8>;

    /// The state now, to be written later on another thread while entries are applied: taking it must be
    /// quick, writing it need not.
    fn snapshot(&self) -> WriteState;

    /// Puts the state that `snapshot` wrote, here or on another member, in the place of all that there
    /// is. Entries after it follow.
    ///
    /// # Errors
    /// Why the bytes are no state that this build reads, or what reading them said; nothing was changed.
    /// Consensus stops then.
    fn restore(&self, state: &mut (dyn Read + Send)) -> Result<(), String>;

    /// When the log is compacted, by the state as it is now: it may change with any entry.
    fn compaction(&self) -> Compaction {
        Compaction::default()
    }
}

/// The state machine as openraft sees it.
pub(crate) struct Machine {
    inner: Arc<dyn StateMachine>,
    snapshots: Arc<dyn Snapshots>,
    applied: Option<LogId>,
    /// Tells the index to those who wait for it.
    reached: watch::Sender<Option<u64>>,
    membership: StoredMembership,
    extent: Extent,
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
    ) -> Result<Machine, OpenError> {
        let mut machine = Machine {
            inner,
            snapshots,
            applied: None,
            reached: watch::Sender::new(None),
            membership: StoredMembership::default(),
            extent: Extent::default(),
        };
        if let Some(snapshot) = snapshot {
            restore(&*machine.inner, &*snapshot.pieces)?;
            machine.extent.kept(&*snapshot.pieces, 0);
            machine.stands_at(&snapshot.meta);
        }
        Ok(machine)
    }

    /// Follows the index of the last entry applied.
    pub(crate) fn applied(&self) -> watch::Receiver<Option<u64>> {
        self.reached.subscribe()
    }

    /// How much log there is since the last snapshot.
    pub(crate) fn extent(&self) -> Extent {
        self.extent.clone()
    }

    fn stands_at(&mut self, meta: &SnapshotMeta) {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.reached.send_replace(meta.last_log_id.map(|id| id.index));
    }
}

/// Gives a snapshot's state to the machine; what is wrong with the file is said by file and place.
pub(crate) fn restore(inner: &dyn StateMachine, pieces: &dyn Pieces) -> Result<(), OpenError> {
    read_state(pieces, |state| inner.restore(state))
}

/// Runs what may block elsewhere than on the thread of consensus.
pub(crate) async fn elsewhere<T: Send + 'static>(
    snapshots: &Arc<dyn Snapshots>,
    work: impl FnOnce(&dyn Snapshots) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if let Some(takes) = snapshots.simulated() {
        tokio::time::sleep(takes).await;
        return work(&**snapshots);
    }
    let snapshots = Arc::clone(snapshots);
    tokio::task::spawn_blocking(move || work(&*snapshots)).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Arc<dyn Pieces>;
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
                Payload::Normal(command) => {
                    self.extent.applied(entry.log_id.index, command.0.len());
                    self.inner.apply(entry.log_id.index, &command.0)
                }
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
            old: self.inner.compaction().old_snapshots,
            log_bytes: self.extent.bytes(),
            extent: self.extent.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        pieces: Arc<dyn Pieces>,
    ) -> Result<(), io::Error> {
        let inner = Arc::clone(&self.inner);
        let old = inner.compaction().old_snapshots;
        let taken = Arc::clone(&pieces);
        elsewhere(&self.snapshots, move |_| {
            // One that cannot be read must not take the place of what can: no start would come beyond it.
            restore(&*inner, &*taken).map_err(io::Error::other)?;
            // Before this returns: the log before it is purged next.
            taken.keep(old)
        })
        .await?;
        self.extent.kept(&*pieces, self.extent.bytes());
        self.stands_at(meta);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, Arc<dyn Pieces>>>, io::Error> {
        let current = self.snapshots.current();
        Ok(current.map(|Snapshot { meta, pieces }| SnapshotOf::<Types, _> { meta, snapshot: pieces }))
    }
}

/// Writes one state to disk, while the machine goes on.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    /// A mutex only because a builder must be `Sync`.
    state: Mutex<Option<WriteState>>,
    snapshots: Arc<dyn Snapshots>,
    old: u64,
    /// The bytes of all entries up to this state.
    log_bytes: u64,
    extent: Extent,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Arc<dyn Pieces>;

    /// A disk that is full is waited out: the log is whole without this snapshot, and is not purged before
    /// there is one. An error would end consensus on this member for good.
    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Arc<dyn Pieces>>, io::Error> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let mut state = state.ok_or_else(|| io::Error::other("a snapshot is built once"))?;
        loop {
            let (meta, old) = (self.meta.clone(), self.old);
            let (given_back, built) = elsewhere(&self.snapshots, move |snapshots| {
                let built = snapshot::build(snapshots, &meta, &state)
                    .and_then(|built| Arc::clone(&built.pieces).keep(old).map(|()| built));
                Ok((state, built))
            })
            .await?;
            match built {
                Ok(Snapshot { meta, pieces }) => {
                    self.extent.kept(&*pieces, self.log_bytes);
                    return Ok(SnapshotOf::<Types, _> { meta, snapshot: pieces });
                }
                Err(error) => tracing::error!(
                    err = %error, "a snapshot cannot be written; trying again every {SAVE_AGAIN:?}"
                ),
            }
            state = given_back;
            tokio::time::sleep(SAVE_AGAIN).await;
        }
    }
}
