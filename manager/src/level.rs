//! Feature levels from a manager's side: each says what its build can, the leader raises the swarm's level once
//! all can, and a build that is too old stops before it does harm.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use skep_api::{
    NodeId,
    object::{Cluster, Node},
};
use skep_store::{Change, FEATURE_LEVEL, Guard, GuardKind, TooOld, View};
use tokio::{sync::watch, time::timeout};
use tonic::Status;

use crate::{dispatcher::Shared, write::WriteError};

/// After a write that failed, it is tried again after this long, or when something changed.
const RETRY: Duration = Duration::from_secs(1);

/// The file beside the log with the level that this manager has seen: another build says at once that it is too
/// old, before it has found that in the log.
const FILE: &str = "feature-level";

/// What the process ends with when the swarm has got too new for it; nothing in it can go on.
const EXIT_TOO_OLD: i32 = 78;

/// Whether a node of a build that can `level` may become a manager.
pub(crate) fn check_new(view: &View, level: u32) -> Result<(), Status> {
    let asked = view.feature_level();
    if level >= asked {
        return Ok(());
    }
    let words = format!(
        "the build of this node can feature level {level}, and the swarm is at {asked}: \
         install a newer build, then try again"
    );
    Err(Status::failed_precondition(words))
}

/// Where that is, of the manager in `dir`.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Whether this build may open the manager in `dir`, as far as its file says.
pub(crate) fn check_kept(dir: &Path) -> Result<(), TooOld> {
    // One that is missing or damaged stops nobody: the log and the snapshots say it, too.
    let kept = fs::read_to_string(path(dir)).ok().and_then(|text| text.trim().parse().ok());
    match kept {
        Some(level) if level > FEATURE_LEVEL => Err(TooOld { level }),
        Some(_) | None => Ok(()),
    }
}

/// Ends the process: what comes next in the log means something that this build does not know.
pub(crate) fn halt(error: TooOld) -> ! {
    tracing::error!(err = %error, "this manager stops");
    std::process::exit(EXIT_TOO_OLD);
}

fn keep(dir: &Path, level: u32) -> io::Result<()> {
    let (path, new) = (path(dir), path(dir).with_extension("new"));
    fs::write(&new, level.to_string())?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(&new, &path)?;
    fs::File::open(dir)?.sync_all()
}

/// Tells the others what this build can, and keeps the swarm's level beside the log, for as long as it is polled.
pub(crate) async fn report(shared: Arc<Shared>, node_id: NodeId, dir: PathBuf) {
    let mut changed = shared.machine.nodes_changed();
    let mut kept = 0;
    loop {
        changed.borrow_and_update();
        let view = shared.machine.view();
        let level = view.feature_level();
        if level > kept {
            match keep(&dir, level) {
                Ok(()) => kept = level,
                Err(error) => tracing::warn!(err = %error, "cannot keep the swarm's feature level"),
            }
        }
        let outcome = match to_report(&view, node_id, shared.raft.raft_id()) {
            Some(node) => say(&shared, node).await,
            None => Ok(()),
        };
        // No leader yet, or this state is behind: there is nothing that a user could do.
        if news(&mut changed, outcome.is_ok()).await.is_none() {
            return;
        }
    }
}

/// Waits for a change, or a while if something is left to do; `None` once there will be no change any more.
async fn news(changed: &mut watch::Receiver<u64>, is_done: bool) -> Option<()> {
    if is_done {
        return changed.changed().await.ok();
    }
    timeout(RETRY, changed.changed()).await.unwrap_or(Ok(())).ok()
}

/// The own node as it should be, if it is not.
fn to_report(view: &View, node_id: NodeId, raft_id: u64) -> Option<Node> {
    let node = view.node(node_id).filter(|node| node.raft_id == raft_id)?;
    (node.feature_level != FEATURE_LEVEL).then(|| Node { feature_level: FEATURE_LEVEL, ..(**node).clone() })
}

async fn say(shared: &Shared, node: Node) -> Result<(), WriteError> {
    let guard = Guard { kind: GuardKind::Node, id: node.id.0, version: node.meta.version };
    shared.write(vec![guard], vec![Change::PutNode(Arc::new(node))]).await
}

/// The level that all managers can, if the swarm is below it.
fn to_raise(view: &View) -> Option<(Arc<Cluster>, u32)> {
    let cluster = view.cluster()?;
    let level = view.managers().map(|node| node.feature_level).min()?;
    (level > cluster.feature_level).then(|| (Arc::clone(cluster), level))
}

/// Raises the swarm's level when all managers can, for as long as this member leads; dropping it ends that.
pub(crate) async fn raise(shared: &Shared) {
    let mut changed = shared.machine.nodes_changed();
    loop {
        changed.borrow_and_update();
        let view = shared.machine.view();
        let mut is_done = true;
        if let Some((cluster, level)) = to_raise(&view) {
            let guard = Guard { kind: GuardKind::Cluster, id: cluster.id.0, version: cluster.meta.version };
            let new = Cluster { feature_level: level, ..(*cluster).clone() };
            match shared.write(vec![guard], vec![Change::PutCluster(Arc::new(new))]).await {
                Ok(()) => tracing::info!(level, "the swarm's feature level rises"),
                Err(error) => {
                    is_done = false;
                    tracing::debug!(err = %error, level, "the feature level does not rise yet");
                }
            }
        }
        if news(&mut changed, is_done).await.is_none() {
            return;
        }
    }
}

/// Who keeps the swarm below what others can.
pub(crate) fn warning(view: &View) -> Option<String> {
    let level = view.feature_level();
    let highest = view.managers().map(|node| node.feature_level).max().filter(|highest| *highest > level)?;
    let lag: Vec<String> = view
        .managers()
        .filter(|node| node.feature_level < highest)
        .map(|node| format!("{} ({})", node.description.hostname, node.id))
        .collect();
    if lag.is_empty() {
        return None;
    }
    Some(format!(
        "WARNING: the swarm stays at feature level {level}, as managers with an older build cannot do more: {}. \
         Others can {highest}; install the newer build on these, too.",
        lag.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use skep_api::Id;
    use skep_store::{Proposal, Store};

    use super::*;

    fn view(level: u32, managers: &[(u128, u32)]) -> View {
        let mut store = Store::default();
        let cluster = Cluster { feature_level: level, ..Cluster::default() };
        let manager = |&(id, feature_level): &(u128, u32)| {
            let raft_id = u64::try_from(id).unwrap();
            Change::PutNode(Arc::new(Node { id: NodeId(Id(id)), raft_id, feature_level, ..Node::default() }))
        };
        let mut changes = vec![Change::PutCluster(Arc::new(cluster))];
        changes.extend(managers.iter().map(manager));
        let _ = store.apply(&Proposal { changes, ..Proposal::default() }.encode());
        store.view()
    }

    #[test]
    fn the_level_follows_the_oldest_manager() {
        let raised = |view: &View| to_raise(view).map(|(_, level)| level);
        assert_eq!(raised(&view(1, &[(1, 2), (2, 1)])), None);
        assert_eq!(raised(&view(1, &[(1, 2), (2, 3)])), Some(2));
        assert_eq!(raised(&view(2, &[(1, 2), (2, 3)])), None);
        assert_eq!(raised(&View::default()), None);
    }

    #[test]
    fn who_lags_is_named() {
        assert_eq!(warning(&view(1, &[(1, 1), (2, 1)])), None);
        let words = warning(&view(1, &[(1, 2), (2, 1)])).unwrap();
        assert!(words.contains(&NodeId(Id(2)).to_string()) && !words.contains(&NodeId(Id(1)).to_string()));
        // All can, and the leader is about to raise it.
        assert_eq!(warning(&view(1, &[(1, 2), (2, 2)])), None);
    }

    #[test]
    fn a_node_reports_its_own_build_once() {
        let seen = view(1, &[(1, FEATURE_LEVEL + 1), (2, FEATURE_LEVEL)]);
        let id = |id| NodeId(Id(id));
        assert_eq!(to_report(&seen, id(1), 1).map(|node| node.feature_level), Some(FEATURE_LEVEL));
        assert_eq!(to_report(&seen, id(2), 2), None);
        assert_eq!(to_report(&seen, id(1), 7), None, "another member of that node");
    }

    #[test]
    fn a_directory_of_a_newer_build_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        check_kept(dir.path()).unwrap();
        keep(dir.path(), FEATURE_LEVEL).unwrap();
        check_kept(dir.path()).unwrap();
        keep(dir.path(), FEATURE_LEVEL + 1).unwrap();
        assert_eq!(check_kept(dir.path()), Err(TooOld { level: FEATURE_LEVEL + 1 }));
    }

    #[test]
    fn a_new_manager_must_know_the_swarms_level() {
        let seen = view(2, &[]);
        check_new(&seen, 2).unwrap();
        assert_eq!(check_new(&seen, 1).unwrap_err().code(), tonic::Code::FailedPrecondition);
    }
}
