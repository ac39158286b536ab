//! Feeds committed entries to the state machine, in order.
//!
//! Nothing of what was applied is durable here: every start applies the log from its first entry.
//! Snapshots are refused until there are any; openraft is told not to ask for them.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::types::{LogId, Payload, StoredMembership, Types};

/// What entries mean: the replicated state. All members apply the same entries in the same order, so
/// `apply` must be a function of its arguments and of what was applied before.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one committed normal entry, in log order, once per start for each entry (the log is
    /// replayed from its beginning at a start; no snapshots yet). Returns the response given to the
    /// proposer. It runs on the thread of consensus, which waits for it: it must not block.
    fn apply(&self, index: u64, entry: &[u8]) -> Vec<u8>;
}

/// The state machine as openraft sees it.
pub(crate) struct Machine {
    inner: Arc<dyn StateMachine>,
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
    /// A machine to which nothing has been applied.
    pub(crate) fn new(inner: Arc<dyn StateMachine>) -> Machine {
        let reached = watch::Sender::new(None);
        Machine { inner, applied: None, reached, membership: StoredMembership::default() }
    }

    /// Follows the index of the last entry applied.
    pub(crate) fn applied(&self) -> watch::Receiver<Option<u64>> {
        self.reached.subscribe()
    }
}

fn no_snapshots() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this version makes and takes no snapshots")
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = NoSnapshots;

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

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoSnapshots> {
        None
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMetaOf<Types>, _data: ()) -> Result<(), io::Error> {
        Err(no_snapshots())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
        Ok(None)
    }
}

/// Builds no snapshot.
#[derive(Debug)]
pub(crate) struct NoSnapshots;

impl RaftSnapshotBuilder<Types> for NoSnapshots {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, ()>, io::Error> {
        Err(no_snapshots())
    }
}
