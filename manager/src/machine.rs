//! The replicated state as the rest of a manager sees it: applies committed entries, publishes each state,
//! and remembers what changed until the leader and the dispatcher have looked.

use std::io::{BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use arc_swap::ArcSwap;
use skep_raft::{Compaction, StateMachine, WriteState};
use skep_store::{Dirty, Job, ObjectRef, Record, Requests, Restoring, SnapshotError, Store, View};
use tokio::sync::{Notify, watch};

use crate::level;

/// How many records of a snapshot are decoded together, how many such batches ahead of what is indexed.
const BATCH: usize = 256;
const BATCHES_AHEAD: usize = 4;
/// What is read of one at once.
const READ_BYTES: usize = 256 * 1024;

/// Who is told of each applied entry, in order, on raft's thread: must not block.
pub(crate) trait Listener: Send + Sync {
    /// These objects changed; `view` is the state after it.
    fn applied(&self, view: &View, changed: &[ObjectRef]);
}

/// An applied state.
#[derive(Clone, Default)]
pub(crate) struct Published {
    pub(crate) view: View,
    /// The requests that led there.
    pub(crate) requests: Requests,
}

impl Published {
    fn new(store: &Store) -> Arc<Self> {
        Arc::new(Self { view: store.view(), requests: store.requests() })
    }
}

/// The state machine behind raft.
pub(crate) struct Machine {
    store: Mutex<Store>,
    published: ArcSwap<Published>,
    dirty: Mutex<Dirty>,
    wake: Notify,
    /// The revision at which a node or the swarm's settings last changed.
    nodes: watch::Sender<u64>,
    listener: ArcSwap<Option<Arc<dyn Listener>>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("revision", &self.view().revision()).finish_non_exhaustive()
    }
}

impl Machine {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            store: Mutex::default(),
            published: ArcSwap::default(),
            dirty: Mutex::new(Dirty::everything()),
            wake: Notify::new(),
            nodes: watch::Sender::new(0),
            listener: ArcSwap::from_pointee(None),
        })
    }

    /// The store itself as it is now; O(1).
    pub(crate) fn store(&self) -> Store {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest applied state; O(1).
    pub(crate) fn view(&self) -> View {
        self.published.load().view.clone()
    }

    /// Tells `listener` of each entry from now on.
    pub(crate) fn listen(&self, listener: Arc<dyn Listener>) {
        self.listener.store(Arc::new(Some(listener)));
    }

    /// Follows changes of nodes and of the swarm's settings, by revision.
    pub(crate) fn nodes_changed(&self) -> watch::Receiver<u64> {
        self.nodes.subscribe()
    }

    /// Waits until something changed since the last [`Machine::take`].
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// The newest applied state, and what changed since the last call: neither more nor less than that state has. A pass
    /// that saw an end it was not told of would delete the task, and nobody would ever be told of the room.
    pub(crate) fn take(&self) -> (Arc<Published>, Dirty) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        (self.published.load_full(), std::mem::take(&mut *dirty))
    }

    /// Publishes a state with what changed by it. See [`Machine::take`].
    fn publish(&self, published: Arc<Published>, changed: Dirty) {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        dirty.merge(changed);
        self.published.store(published);
    }

    /// Tells everybody what changed.
    fn tell(&self, view: &View, changed: &[ObjectRef]) {
        if changed.is_empty() {
            return;
        }
        if changed.iter().any(|object| matches!(object, ObjectRef::Node(_) | ObjectRef::Cluster)) {
            self.nodes.send_replace(view.revision());
        }
        if let Some(listener) = &**self.listener.load() {
            listener.applied(view, changed);
        }
        self.wake.notify_one();
    }

    /// Marks work to be looked at (again), and wakes the leader.
    pub(crate) fn mark(&self, dirty: Dirty) {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner).merge(dirty);
        self.wake.notify_one();
    }
}

impl StateMachine for Machine {
    fn apply(&self, _index: u64, entry: &[u8]) -> Vec<u8> {
        let (applied, published) = {
            let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            let applied = store.apply(entry);
            (applied, Published::new(&store))
        };
        let view = published.view.clone();
        if let Err(error) = view.check_feature_level() {
            level::halt(error);
        }
        // Also when nothing changed: the revision may have, and a member that restored a snapshot shows it.
        self.publish(published, marked(&applied.changed));
        self.tell(&view, &applied.changed);
        applied.answer
    }

    fn snapshot(&self) -> WriteState {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::new(move |out| store.write(out))
    }

    fn compaction(&self) -> Compaction {
        let view = self.view();
        let Some(spec) = view.cluster().map(|cluster| &cluster.spec) else { return Compaction::default() };
        Compaction {
            every: spec.snapshot_interval(),
            keep: spec.log_entries_kept(),
            old_snapshots: spec.old_snapshots(),
        }
    }

    fn restore(&self, state: &mut (dyn Read + Send)) -> Result<(), String> {
        let restored = read_store(state).map_err(|e| e.to_string())?;
        let published = Published::new(&restored);
        let view = published.view.clone();
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = restored;
        let old = self.view();
        if old.revision() == 0 && self.listener.load().is_none() {
            // At a start: all is news, and nobody asks what in particular.
            self.publish(published, Dirty::everything());
            self.nodes.send_replace(view.revision());
            self.wake.notify_one();
        } else {
            let changed = old.diff(&view);
            self.publish(published, marked(&changed));
            self.tell(&view, &changed);
        }
        Ok(())
    }
}

/// What a pass has to look at after these changed.
fn marked(changed: &[ObjectRef]) -> Dirty {
    let mut dirty = Dirty::default();
    changed.iter().for_each(|object| dirty.mark(*object));
    dirty
}

/// Runs both, each on a thread of its own.
fn side_by_side(one: Job<'_>, other: Job<'_>) {
    std::thread::scope(|scope| {
        scope.spawn(one);
        other();
    });
}

/// Restores a store; a thread beside reads and decodes ahead of what is indexed here.
fn read_store(state: &mut (dyn Read + Send)) -> Result<Store, SnapshotError> {
    let (send, received) = mpsc::sync_channel(BATCHES_AHEAD);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut input = BufReader::with_capacity(READ_BYTES, state);
            loop {
                let records: Vec<_> =
                    std::iter::from_fn(|| Record::read(&mut input).transpose()).take(BATCH).collect();
                let is_end = records.len() < BATCH || records.last().is_some_and(Result::is_err);
                // Nobody listens any more after an error.
                if send.send(records).is_err() || is_end {
                    return;
                }
            }
        });
        let mut restoring = Restoring::default();
        for record in received.into_iter().flatten() {
            restoring.take(record?)?;
        }
        restoring.end(side_by_side)
    })
}

#[cfg(test)]
mod tests {
    use skep_api::{
        Id, NodeId, TaskId,
        object::{Cluster, Node, TaskStatus},
    };
    use skep_store::{Change, Proposal};

    use super::*;

    fn entry(change: Change) -> Vec<u8> {
        Proposal { changes: vec![change], ..Proposal::default() }.encode()
    }

    #[test]
    fn a_restored_state_is_news_of_its_nodes_and_shows_the_same_revision_as_its_source() {
        let (source, restored) = (Machine::new(), Machine::new());
        source.apply(1, &entry(Change::PutCluster(Arc::new(Cluster::default()))));
        source.apply(2, &entry(Change::PutNode(Arc::new(Node { id: NodeId(Id(1)), ..Node::default() }))));
        // It changes nothing, and is counted all the same.
        source.apply(3, &entry(Change::TaskStatus(TaskId(Id(9)), TaskStatus::default())));
        let mut nodes = restored.nodes_changed();
        assert!(!nodes.has_changed().unwrap());
        let mut bytes = Vec::new();
        source.snapshot()(&mut bytes).unwrap();
        restored.restore(&mut &*bytes).unwrap();
        assert!(nodes.has_changed().unwrap());
        assert_eq!(*nodes.borrow_and_update(), restored.view().revision());
        assert_eq!(restored.view().revision(), source.view().revision());
    }

    #[test]
    fn who_never_looks_does_not_gather_what_changed() {
        let machine = Machine::new();
        for id in 0..10 {
            machine.apply(
                id,
                &entry(Change::PutNode(Arc::new(Node { id: NodeId(Id(id.into())), ..Node::default() }))),
            );
        }
        assert_eq!(machine.take().1, Dirty::everything());
        machine.mark(Dirty { nodes: [NodeId(Id(1))].into(), ..Dirty::default() });
        assert_eq!(machine.take().1.nodes.len(), 1);
    }

    /// Looks, as the leader may, while an entry is applied.
    struct Meanwhile(Arc<Machine>, Mutex<Vec<(usize, usize)>>);

    impl Listener for Meanwhile {
        fn applied(&self, _: &View, _: &[ObjectRef]) {
            let (published, dirty) = self.0.take();
            self.1.lock().unwrap().push((published.view.n_nodes(), dirty.nodes.len()));
        }
    }

    #[test]
    fn no_state_is_looked_at_without_what_led_to_it() {
        let machine = Machine::new();
        machine.take();
        let looks = Arc::new(Meanwhile(Arc::clone(&machine), Mutex::default()));
        machine.listen(Arc::clone(&looks) as Arc<dyn Listener>);
        for id in 1..=2 {
            let node = Node { id: NodeId(Id(id.into())), ..Node::default() };
            machine.apply(id, &entry(Change::PutNode(Arc::new(node))));
        }
        assert_eq!(*looks.1.lock().unwrap(), [(1, 1), (2, 1)]);
        assert!(machine.take().1.is_empty());
    }
}
