//! Statuses on their way to the manager: what queued up while the last batch was in flight goes next.
//!
//! Of one task only the newest waits, so the queue never outgrows the tasks. What was not said to be
//! stored is sent again: after a time, and on the next session. A status is a max-merge at the manager, so
//! sending one twice does no harm.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use skep_api::{TaskId, wire};
use tokio::sync::watch;

/// Reports in one batch: at about 150 B each well below a message's limit.
const BATCH_MAX: usize = 1024;

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<TaskId, wire::TaskStatus>,
    in_flight: BTreeMap<TaskId, wire::TaskStatus>,
    /// Of the batch in flight, or of the last one.
    sequence: u64,
}

/// The queue; runners push, the session takes.
#[derive(Debug)]
pub(crate) struct Reporter {
    queue: Mutex<Queue>,
    /// How many statuses are not known to be stored.
    backlog: watch::Sender<usize>,
}

impl Default for Reporter {
    fn default() -> Self {
        Self { queue: Mutex::default(), backlog: watch::Sender::new(0) }
    }
}

impl Reporter {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self, queue: &Queue) {
        self.backlog.send_replace(queue.waiting.len() + queue.in_flight.len());
    }

    /// Queues a task's newest status.
    pub(crate) fn push(&self, task: TaskId, status: wire::TaskStatus) {
        let mut queue = self.queue();
        queue.waiting.insert(task, status);
        self.told(&queue);
    }

    /// Nobody has the task any more: nobody asks for its status.
    pub(crate) fn forget(&self, task: TaskId) {
        let mut queue = self.queue();
        queue.waiting.remove(&task);
        self.told(&queue);
    }

    /// The next batch, sent at `clock`; `None` while one is in flight or when nothing waits.
    pub(crate) fn take_batch(&self, clock: i64) -> Option<wire::StatusBatch> {
        let mut queue = self.queue();
        if !queue.in_flight.is_empty() || queue.waiting.is_empty() {
            return None;
        }
        queue.sequence += 1;
        let rest = match queue.waiting.keys().nth(BATCH_MAX).copied() {
            Some(first_left) => queue.waiting.split_off(&first_left),
            None => BTreeMap::new(),
        };
        queue.in_flight = std::mem::replace(&mut queue.waiting, rest);
        let reports = queue
            .in_flight
            .iter()
            .map(|(task, status)| wire::StatusReport {
                task_id: task.to_bytes(),
                status: Some(status.clone()),
            })
            .collect();
        Some(wire::StatusBatch { sequence: queue.sequence, reports, clock })
    }

    /// The manager stored a batch.
    pub(crate) fn stored(&self, sequence: u64) {
        let mut queue = self.queue();
        // The answer to a batch that was given up and sent again says nothing of the newer one.
        if sequence == queue.sequence {
            queue.in_flight.clear();
            self.told(&queue);
        }
    }

    /// The batch in flight was lost, or takes too long: it waits again, unless something newer does.
    pub(crate) fn give_up(&self) {
        let mut queue = self.queue();
        for (task, status) in std::mem::take(&mut queue.in_flight) {
            queue.waiting.entry(task).or_insert(status);
        }
        self.told(&queue);
    }

    /// Whether a batch waits for its answer.
    pub(crate) fn is_in_flight(&self) -> bool {
        !self.queue().in_flight.is_empty()
    }

    /// Tells each change of the queue; the value is how many statuses are not known to be stored.
    pub(crate) fn backlog(&self) -> watch::Receiver<usize> {
        self.backlog.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use skep_api::Id;

    use super::*;

    fn status(state: u32) -> wire::TaskStatus {
        wire::TaskStatus { state, ..Default::default() }
    }

    fn states(batch: Option<wire::StatusBatch>) -> Vec<u32> {
        batch.unwrap_or_default().reports.into_iter().map(|r| r.status.unwrap().state).collect()
    }

    #[test]
    fn only_the_newest_goes_and_nothing_is_lost() {
        let reporter = Reporter::default();
        let (a, b) = (TaskId(Id(1)), TaskId(Id(2)));
        reporter.push(a, status(1));
        reporter.push(a, status(2));
        reporter.push(b, status(3));
        assert_eq!(states(reporter.take_batch(0)), [2, 3]);
        reporter.push(a, status(4));
        assert_eq!(reporter.take_batch(0), None, "one at a time");
        reporter.give_up();
        assert_eq!(states(reporter.take_batch(0)), [4, 3], "again, but the newest");
        reporter.stored(1);
        assert!(reporter.is_in_flight(), "that was the batch given up");
        reporter.stored(2);
        assert_eq!(*reporter.backlog().borrow(), 0);
        assert_eq!(reporter.take_batch(0), None);
    }

    #[test]
    fn batches_are_bounded() {
        let reporter = Reporter::default();
        for n in 0..BATCH_MAX as u128 + 5 {
            reporter.push(TaskId(Id(n)), status(1));
        }
        assert_eq!(reporter.take_batch(0).unwrap().reports.len(), BATCH_MAX);
        reporter.stored(1);
        assert_eq!(reporter.take_batch(0).unwrap().reports.len(), 5);
    }
}
