//! Where every task of this node is, for those who only look: log streams, resends, counts.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use skep_api::{TaskId, TaskState, wire};
use tokio::sync::watch;

/// The newest status of each task, kept by its runner.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<BTreeMap<TaskId, watch::Receiver<wire::TaskStatus>>>);

impl Board {
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<TaskId, watch::Receiver<wire::TaskStatus>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, task: TaskId, status: watch::Receiver<wire::TaskStatus>) {
        self.tasks().insert(task, status);
    }

    pub(crate) fn remove(&self, task: TaskId) {
        self.tasks().remove(&task);
    }

    pub(crate) fn status(&self, task: TaskId) -> Option<watch::Receiver<wire::TaskStatus>> {
        self.tasks().get(&task).cloned()
    }

    /// Tasks that have not come to their end.
    pub(crate) fn n_live(&self) -> usize {
        let ended = TaskState::Running.number();
        self.tasks().values().filter(|status| status.borrow().state <= ended).count()
    }
}
