//! What is left of a swarm on one manager's disk or in a backup, and the swarm made anew of it.
//!
//! Made anew: the same objects, root, keys and tokens; one manager under a fresh raft id; the other managers
//! dropped; revisions that no state before can have had, so that agents and old managers know which swarm is the
//! newer one. A state takes the place of another in one step of the file system.

mod anew;
pub mod backup;
mod call;
pub mod check;
mod restore;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use prost::Message as _;
use serde::Serialize;
use skep_api::{NodeId, object::Node, spec::Role, wire};
use skep_raft::{Keys, OpenError, recover};
use skep_store::{JUMP, Store, View};

pub(crate) use anew::tidy;
pub use anew::{To, make_anew};
pub(crate) use call::keep_calling;
pub use restore::{RestoreParams, restore};

use crate::{machine::Machine, server::read_raft_id};

/// How a manager begins to say to another that it is none any more.
const DROPPED: &str = "the swarm was made anew without this node";
/// What is to be done about it.
const DROPPED_ADVICE: &str =
    "it is no member any more: \"docker swarm leave --force\" here, then it may join again";

/// What a dropped manager is told.
pub(crate) fn dropped_words(view: &View) -> String {
    let managers = crate::join::managers(view).join(", ");
    format!("{DROPPED} (its managers: {managers}); {DROPPED_ADVICE}")
}

/// Whether a manager said with these words that the called one is none any more.
#[must_use]
pub fn is_dropped(words: &str) -> bool {
    words.starts_with(DROPPED)
}

/// Whether a state with revision `theirs` was made anew after one with `ours`.
pub(crate) fn is_of_a_newer_swarm(theirs: u64, ours: u64) -> bool {
    theirs / JUMP > ours / JUMP
}

/// Why nothing could be recovered. What was there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log.
    #[error("cannot read the state of this manager")]
    Open(#[from] OpenError),
    /// There is none.
    #[error("{} holds no manager's state", .0.display())]
    NoManager(PathBuf),
    /// It never was a member, or only for a moment.
    #[error("the state in {} is empty: this manager had not been taken in yet; recover on another one", .0.display())]
    NoState(PathBuf),
    /// The certificate is another node's.
    #[error("node {0}, whose certificate is here, is not in the state that is here")]
    NotInState(NodeId),
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A backup that cannot be used.
    #[error(transparent)]
    Backup(#[from] backup::BackupError),
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecoveryError {
    let path = path.to_owned();
    move |source| RecoveryError::Io { action, path, source }
}

/// A manager as a preview names it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PreviewManager {
    /// The node's id.
    pub id: String,
    /// Its host's name.
    pub hostname: String,
    /// `host:port`.
    pub addr: String,
}

/// What one manager has, and what would become of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Default)]
#[serde(rename_all = "PascalCase")]
pub struct Preview {
    /// This node.
    pub node_id: String,
    /// The swarm.
    pub cluster_id: String,
    /// The newest raft term that it has seen.
    pub term: u64,
    /// Its last log entry.
    pub last_entry: u64,
    /// The last that it knows a majority to have had.
    pub committed: u64,
    /// Writes after that: kept, whether they were acknowledged or not.
    pub uncertain: u64,
    /// When the last write was made, in Unix nanoseconds; `None`: not known.
    pub last_write_at: Option<i64>,
    /// That it does not vote: it may have been let go, and others may have more.
    pub is_no_voter: bool,
    /// How many there are.
    pub services: usize,
    /// How many there are.
    pub tasks: usize,
    /// How many there are, managers too.
    pub nodes: usize,
    /// The managers that would be dropped.
    pub dropped: Vec<PreviewManager>,
}

impl Preview {
    pub(crate) fn of_view(&mut self, view: &View, own: NodeId) {
        self.node_id = own.to_string();
        self.cluster_id = view.cluster().map(|cluster| cluster.id.to_string()).unwrap_or_default();
        (self.services, self.tasks, self.nodes) = (view.services().count(), view.n_tasks(), view.n_nodes());
        let name = |node: &Node| PreviewManager {
            id: node.id.to_string(),
            hostname: node.description.hostname.clone(),
            addr: node.advertise_addr.clone(),
        };
        self.dropped = view.nodes().filter(|node| is_dropped_by(node, own)).map(|node| name(node)).collect();
    }
}

/// Whether a swarm that is made anew by `own` drops this node: it is a manager, or about to be.
fn is_dropped_by(node: &Node, own: NodeId) -> bool {
    node.id != own && !node.dropped && (node.raft_id != 0 || node.spec.role == Role::Manager)
}

/// What a closed directory holds.
pub(crate) struct Found {
    pub(crate) store: Store,
    pub(crate) held: recover::Held,
    pub(crate) preview: Preview,
    pub(crate) keys: Keys,
    pub(crate) closed: recover::Closed,
}

/// Reads a stopped manager's directory, under the keys that were opened or the plain ones that are there.
fn find(dir: &Path, own: NodeId, keys: Option<&Keys>) -> Result<Found, RecoveryError> {
    let raft_id = read_raft_id(dir).ok_or_else(|| RecoveryError::NoManager(dir.to_owned()))?;
    let raft = dir.join("raft");
    let closed = recover::lock(&raft)?;
    let keys = keys.map_or_else(|| Keys::open(&raft, None), |keys| Ok(keys.clone()))?;
    let machine = Machine::new();
    let mut last_write_at = None;
    let held = recover::read(&raft, &closed, &keys, &*machine, &mut |_, entry| {
        let at = wire::Proposal::decode(entry).map_or(0, |proposal| proposal.now);
        last_write_at = last_write_at.max((at > 0).then_some(at));
    })?;
    let store = machine.store();
    let view = store.view();
    if view.cluster().is_none() {
        return Err(RecoveryError::NoState(dir.to_owned()));
    }
    if view.node(own).is_none() {
        return Err(RecoveryError::NotInState(own));
    }
    let mut preview = Preview {
        term: held.term,
        last_entry: held.last.unwrap_or(0),
        committed: held.committed.unwrap_or(0),
        uncertain: held.uncertain,
        last_write_at,
        is_no_voter: !held.voters.contains(&raft_id),
        ..Preview::default()
    };
    preview.of_view(&view, own);
    Ok(Found { store, held, preview, keys, closed })
}

/// Whether a daemon has the manager in `dir` open.
#[must_use]
pub fn is_running(dir: &Path) -> bool {
    matches!(recover::lock(&dir.join("raft")), Err(OpenError::Locked { .. }))
}

/// What the manager in `dir`, which no daemon has open, has, and what making the swarm anew of it would drop. A
/// locked one is read with the `keys` that somebody opened.
///
/// # Errors
/// [`RecoveryError`].
pub fn preview(dir: &Path, own: NodeId, keys: Option<&Keys>) -> Result<Preview, RecoveryError> {
    find(dir, own, keys).map(|found| found.preview)
}
