//! The replicated state as the rest of a manager sees it: applies committed entries, publishes each state,
//! and remembers what changed until the leader and the dispatcher have looked.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use skep_raft::StateMachine;
use skep_store::{Dirty, ObjectRef, Store, View};
use tokio::sync::{Notify, watch};

/// Who is told of each applied entry, in order, on raft's thread: must not block.
pub(crate) trait Listener: Send + Sync {
    /// These objects changed; `view` is the state after it.
    fn applied(&self, view: &View, changed: &[ObjectRef]);
}

/// The state machine behind raft.
pub(crate) struct Machine {
    store: Mutex<Store>,
    view: ArcSwap<View>,
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
            view: ArcSwap::default(),
            dirty: Mutex::new(Dirty::everything()),
            wake: Notify::new(),
            nodes: watch::Sender::new(0),
            listener: ArcSwap::from_pointee(None),
        })
    }

    /// The newest applied state; O(1).
    pub(crate) fn view(&self) -> View {
        View::clone(&self.view.load())
    }

    /// Tells `listener` of each entry from now on.
    pub(crate) fn listen(&self, listener: Arc<dyn Listener>) {
        self.listener.store(Arc::new(Some(listener)));
    }

    /// Follows changes of nodes and of the swarm's settings, by revision.
    pub(crate) fn nodes_changed(&self) -> watch::Receiver<u64> {
        self.nodes.subscribe()
    }

    /// Waits until something changed since the last [`Machine::take_dirty`].
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// What changed since the last call.
    pub(crate) fn take_dirty(&self) -> Dirty {
        std::mem::take(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Marks work to be looked at (again), and wakes the leader.
    pub(crate) fn mark(&self, dirty: Dirty) {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner).merge(dirty);
        self.wake.notify_one();
    }
}

impl StateMachine for Machine {
    fn apply(&self, _index: u64, entry: &[u8]) -> Vec<u8> {
        let (applied, view) = {
            let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            let applied = store.apply(entry);
            (applied, store.view())
        };
        if applied.changed.is_empty() {
            return applied.answer;
        }
        self.view.store(Arc::new(view.clone()));
        let mut dirty = Dirty::default();
        for object in &applied.changed {
            dirty.mark(*object);
        }
        if applied.changed.iter().any(|object| matches!(object, ObjectRef::Node(_) | ObjectRef::Cluster)) {
            self.nodes.send_replace(view.revision());
        }
        if let Some(listener) = &**self.listener.load() {
            listener.applied(&view, &applied.changed);
        }
        self.mark(dirty);
        applied.answer
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::new(move || store.snapshot())
    }

    fn restore(&self, bytes: &[u8]) -> Result<(), String> {
        let restored = Store::restore(bytes).map_err(|e| e.to_string())?;
        let view = restored.view();
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = restored;
        let old = self.view.swap(Arc::new(view.clone()));
        // What was there and what is: anything may differ.
        let changed: Vec<ObjectRef> = old.objects().chain(view.objects()).collect();
        if let Some(listener) = &**self.listener.load() {
            listener.applied(&view, &changed);
        }
        self.mark(Dirty::everything());
        Ok(())
    }
}
