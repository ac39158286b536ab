//! What a running manager gives of itself for the day on which it is lost: a backup, and what it has.

use std::io::{self, Write};

use bytes::Bytes;
use skep_api::{ApiError, Secret};
use skep_store::View;
use tokio::sync::mpsc;

use super::Control;
use crate::recovery::{
    Preview,
    backup::{self, Sealed, Title},
};

/// Pieces of a backup that wait for a slow client; then the writer waits.
const WAITING_MAX: usize = 4;

impl Control {
    /// A backup of all that was acknowledged before the call, as it is written: under `key`; if that is empty, under
    /// the unlock key as users keep it, or open without autolock. Writes go on meanwhile. One that ends with an error,
    /// or without its checksum, is none.
    ///
    /// # Errors
    /// No leader.
    pub async fn backup(&self, key: Secret) -> Result<mpsc::Receiver<io::Result<Bytes>>, ApiError> {
        let unlock = self.unlock_key().await.map_err(|error| {
            let words = "\"skep swarm recover\" shows what this manager has by itself.";
            ApiError::new(error.kind, format!("{} {words}", error.message))
        })?;
        let index = self.shared.raft.status().borrow().applied;
        let store = self.shared.machine.store();
        let (key, sealed) = match (key.is_empty(), unlock.is_empty()) {
            (false, _) => (key, Sealed::Key),
            (true, false) => (Secret::new(unlock.into_bytes()), Sealed::UnlockKey),
            (true, true) => (key, Sealed::Open),
        };
        let title = Title::of(&store.view(), index, (self.shared.clock)(), sealed);
        let (give, pieces) = mpsc::channel(WAITING_MAX);
        tokio::task::spawn_blocking(move || {
            let mut out = Out(&give);
            if let Err(error) = backup::write(&mut out, &store, &title, &key) {
                // The client may be gone.
                give.blocking_send(Err(error)).unwrap_or_default();
            }
        });
        Ok(pieces)
    }

    /// What this manager has, and what making the swarm anew of it would drop.
    #[must_use]
    pub fn preview(&self) -> Preview {
        let status = self.shared.raft.status().borrow().clone();
        let view = self.stale_view();
        let mut preview = Preview {
            term: status.term,
            last_entry: status.last,
            committed: status.committed,
            uncertain: status.last.saturating_sub(status.committed),
            last_write_at: newest(&view),
            is_no_voter: !status.voters.contains(&status.raft_id),
            ..Preview::default()
        };
        preview.of_view(&view, self.node_id);
        preview
    }
}

/// When the newest of all objects was written.
fn newest(view: &View) -> Option<i64> {
    let nodes = view.nodes().map(|node| node.meta.updated_at);
    let services = view.services().map(|service| service.meta.updated_at);
    let tasks = view.tasks().map(|task| task.meta.updated_at);
    let cluster = view.cluster().map(|cluster| cluster.meta.updated_at);
    nodes.chain(services).chain(tasks).chain(cluster).map(|at| at.0).max()
}

struct Out<'a>(&'a mpsc::Sender<io::Result<Bytes>>);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::other("the client is gone");
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
