//! What agents report, on its way to the log: what comes while others' reports are being written goes as one entry.
//!
//! A manager that hears thousands of agents writes about as often as one that hears a few.

use skep_api::Timestamp;
use skep_raft::Raft;
use skep_store::{CHANGES_MAX, Change, Proposal, decode_result};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinSet,
};

/// Batches that wait; their sessions wait with them.
const WAITING_MAX: usize = 1_024;
/// Bytes of one entry, as far as the words in it tell.
const BYTES_MAX: usize = 1 << 20;
/// Entries on their way at the same time.
const WRITING_MAX: usize = 4;

/// One agent's batch.
#[derive(Debug)]
struct Reported {
    changes: Vec<Change>,
    stored: oneshot::Sender<bool>,
}

/// Takes in reports from all sessions.
#[derive(Debug)]
pub(crate) struct Collector {
    put: mpsc::Sender<Reported>,
    take: Mutex<mpsc::Receiver<Reported>>,
}

impl Default for Collector {
    fn default() -> Self {
        let (put, take) = mpsc::channel(WAITING_MAX);
        Self { put, take: Mutex::new(take) }
    }
}

impl Collector {
    /// Stores changes of statuses; false if that is not certain.
    pub(super) async fn store(&self, changes: Vec<Change>) -> bool {
        let (stored, outcome) = oneshot::channel();
        self.put.send(Reported { changes, stored }).await.is_ok() && outcome.await.unwrap_or(false)
    }

    /// Writes what comes, until dropped.
    pub(crate) async fn keep(&self, raft: &Raft, clock: fn() -> i64) {
        let mut take = self.take.lock().await;
        let mut writing = JoinSet::new();
        let mut left = None;
        loop {
            while writing.len() >= WRITING_MAX {
                writing.join_next().await;
            }
            let first = match left.take() {
                Some(first) => Some(first),
                None => take.recv().await,
            };
            let Some(first) = first else { return };
            let (mut n, mut bytes) = (first.changes.len(), weight(&first.changes));
            let mut batches = vec![first];
            while let Ok(next) = take.try_recv() {
                n += next.changes.len();
                bytes += weight(&next.changes);
                if n > CHANGES_MAX || bytes > BYTES_MAX {
                    left = Some(next);
                    break;
                }
                batches.push(next);
            }
            writing.spawn(write(raft.clone(), batches, clock));
        }
    }
}

/// What agents say in words; the rest of a status is small.
fn weight(changes: &[Change]) -> usize {
    let of = |change: &Change| {
        if let Change::TaskStatus(_, status) = change { status.message.len() + status.err.len() } else { 0 }
    };
    changes.iter().map(of).sum()
}

async fn write(raft: Raft, batches: Vec<Reported>, clock: fn() -> i64) {
    let is_one = batches.len() == 1;
    let together = batches.iter().flat_map(|batch| batch.changes.iter().cloned()).collect();
    let outcome = propose(&raft, together, clock).await;
    for batch in batches {
        let outcome = match outcome {
            // One of them is at fault, and the others are not.
            Outcome::Refused if !is_one => propose(&raft, batch.changes, clock).await,
            Outcome::Stored | Outcome::Refused | Outcome::Unknown => outcome,
        };
        // A refused one would be refused again: it is not to be sent again. A session that is gone asks no more.
        let _gone = batch.stored.send(outcome != Outcome::Unknown);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Stored,
    Refused,
    Unknown,
}

async fn propose(raft: &Raft, changes: Vec<Change>, clock: fn() -> i64) -> Outcome {
    let mut outcome = Outcome::Stored;
    for chunk in changes.chunks(CHANGES_MAX) {
        let changes = chunk.to_vec();
        let proposal = Proposal { changes, now: Timestamp(clock()), ..Proposal::default() };
        match raft.propose(proposal.encode()).await.map(|answer| decode_result(&answer)) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(err = %error, "task statuses were refused");
                outcome = Outcome::Refused;
            }
            Err(error) => {
                tracing::warn!(err = %error, "could not store task statuses");
                return Outcome::Unknown;
            }
        }
    }
    outcome
}
