//! One manager goes on alone with all that it has: `init --force-new-cluster`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use skep_api::{
    NodeId, Timestamp,
    object::{Node, NodeState, NodeStatus, Revocation},
    spec::{NodeSpec, Role},
};
use skep_raft::{Keys, OpenError, WriteState, recover};
use skep_store::{Change, FEATURE_LEVEL, Proposal, Store, View, decode_result};

use super::{Found, Preview, RecoveryError, find, io_error, is_dropped_by};
use crate::server::{fresh_raft_id, write_raft_id};

/// What `node ls` says of managers that were dropped.
const DROPPED_MESSAGE: &str = "dropped: the swarm was made anew without it";

/// Where the manager that goes on is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct To {
    /// `host:port`.
    pub advertise_addr: String,
    /// Of its VXLAN.
    pub data_path_addr: String,
}

/// Makes a swarm of one manager of what `dir` holds, which no process has open: all entries of its log, also
/// those not known to be committed. What was there stays beside it, as `<dir>.before`. Cut off anywhere, there
/// is the old state or the new one. A locked one is read with the `keys` that somebody opened.
///
/// # Errors
/// [`RecoveryError`].
pub fn make_anew(
    dir: &Path,
    own: NodeId,
    keys: Option<&Keys>,
    to: &To,
    now: i64,
) -> Result<Preview, RecoveryError> {
    make_anew_in_steps(dir, own, keys, to, now, &mut |_| Ok(()))
}

/// Called between the steps, which tests cut it off at.
pub(super) type Step<'a> = &'a mut dyn FnMut(&'static str) -> io::Result<()>;

pub(super) fn make_anew_in_steps(
    dir: &Path,
    own: NodeId,
    keys: Option<&Keys>,
    to: &To,
    now: i64,
    step: Step<'_>,
) -> Result<Preview, RecoveryError> {
    let Found { mut store, held, preview, keys, closed } = find(dir, own, keys)?;
    let raft_id = fresh_raft_id();
    let view = store.view();
    let old = view.node(own).ok_or(RecoveryError::NotInState(own))?;
    let new = Node {
        spec: NodeSpec { role: Role::Manager, ..old.spec.clone() },
        advertise_addr: to.advertise_addr.clone(),
        data_path_addr: to.data_path_addr.clone(),
        raft_id,
        dropped: false,
        ..(**old).clone()
    };
    change(&mut store, &view, new, now)?;
    place(dir, &store, &held, raft_id, |raft| keys.copy_to(raft), step)?;
    drop(closed);
    tracing::warn!(
        entries = preview.last_entry,
        managers_dropped = preview.dropped.len(),
        "this manager has made the swarm anew, of all that it has"
    );
    Ok(preview)
}

/// Jumps, drops the other managers, and puts the one that goes on.
pub(super) fn change(store: &mut Store, view: &View, own: Node, now: i64) -> Result<(), RecoveryError> {
    view.check_feature_level().map_err(|error| RecoveryError::Failed(error.to_string()))?;
    store.jump();
    let mut changes = Vec::new();
    for node in view.nodes().filter(|node| is_dropped_by(node, own.id)) {
        // As in Swarm, its role stays what users wanted; it is no member, and down.
        changes.push(Change::PutNode(Arc::new(Node { raft_id: 0, dropped: true, ..(**node).clone() })));
        let message = DROPPED_MESSAGE.to_owned();
        let status = NodeStatus { state: NodeState::Down, message, ..node.status.clone() };
        changes.push(Change::NodeStatus(node.id, status));
    }
    // This state may be an early one: what it says is valid may be used up or revoked since.
    let tickets = view.tickets().filter_map(|ticket| ticket.taken_back(Revocation::MadeAnew));
    changes.extend(tickets.map(|ticket| Change::PutTicket(Arc::new(ticket))));
    changes.push(Change::PutNode(Arc::new(Node { feature_level: FEATURE_LEVEL, ..own })));
    let proposal = Proposal { changes, now: Timestamp(now), ..Proposal::default() };
    let applied = store.apply(&proposal.encode());
    decode_result(&applied.answer)
        .map(|_| ())
        .map_err(|error| RecoveryError::Failed(format!("the state does not take the manager: {error}")))
}

/// Writes a manager's directory, under the keys that `keys_in` makes in it, and puts it in the place of the one that
/// is there, if one is.
pub(super) fn place(
    dir: &Path,
    store: &Store,
    held: &recover::Held,
    raft_id: u64,
    keys_in: impl FnOnce(&Path) -> Result<Keys, OpenError>,
    step: Step<'_>,
) -> Result<(), RecoveryError> {
    let (new, before) = (beside(dir, "new"), beside(dir, "before"));
    let mut cut = |name: &'static str| step(name).map_err(io_error("go on in", dir));
    remove(&new)?;
    cut("cleaned")?;
    let written = store.clone();
    let state: WriteState = Box::new(move |out| written.write(out));
    recover::write(&keys_in(&new.join("raft"))?, raft_id, held, &state)?;
    cut("log")?;
    write_raft_id(&new, raft_id).map_err(|e| RecoveryError::Failed(e.to_string()))?;
    sync(&new)?;
    cut("whole")?;
    if dir.exists() {
        recover::exchange(dir, &new).map_err(io_error("take the place of", dir))?;
        cut("exchanged")?;
        remove(&before)?;
        cut("removed")?;
        fs::rename(&new, &before).map_err(io_error("rename to", &before))?;
    } else {
        fs::rename(&new, dir).map_err(io_error("rename to", dir))?;
    }
    sync(dir.parent().unwrap_or(dir))?;
    cut("done")
}

/// Removes what a making that was cut off has left.
pub(crate) fn tidy(dir: &Path) -> io::Result<()> {
    gone(fs::remove_dir_all(beside(dir, "new")))
}

/// Its name with another ending.
fn beside(dir: &Path, ending: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    dir.with_file_name(name)
}

fn remove(dir: &Path) -> Result<(), RecoveryError> {
    gone(fs::remove_dir_all(dir)).map_err(io_error("remove", dir))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync(dir: &Path) -> Result<(), RecoveryError> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}
