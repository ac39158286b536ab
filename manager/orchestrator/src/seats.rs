//! The seats of a service: the tasks of each, and what can be said of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use skep_api::{
    NodeId, TaskId, TaskState, Timestamp,
    object::{NodeState, Task, TaskStatus},
};
use skep_store::View;

use crate::update::share_volumes;

/// How long a successor waits for the task before it to stop (`SK:manager/orchestrator/restart/restart.go`).
pub(crate) const STOP_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a failure counts against its node (`SK:manager/scheduler/nodeinfo.go`).
pub const FAILURES_WINDOW: Duration = Duration::from_secs(5 * 60);

/// So many failures of a seat are known for each node. A node goes last from the fifth on, and of such the one with the
/// fewest comes first (`SK:manager/scheduler/scheduler.go`): where all fail, they are tried in turn.
const FAILURES_MAX: usize = 16;

/// What a new task says of itself until it has a node.
pub(crate) const PENDING_MESSAGE: &str = "pending task scheduling";

/// What a task says that had to leave because its node changed (`SK:manager/orchestrator/constraintenforcer`).
pub(crate) const NO_LONGER_MEETS: &str = "assigned node no longer meets constraints";

/// The tasks of one seat, oldest first.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Seat {
    /// Those that the seat is judged by.
    pub(crate) tasks: Vec<Arc<Task>>,
    /// Those to be removed altogether: no history, but they may still run.
    pub(crate) leaving: Vec<Arc<Task>>,
    /// Of a replicated job, those that ended in earlier iterations, oldest first: history, and nothing else.
    pub(crate) past: Vec<Arc<Task>>,
}

impl Seat {
    /// The seat that has these tasks.
    pub(crate) fn of(tasks: &[&Arc<Task>]) -> Self {
        let mut seat = Self::default();
        // Most have one, and a vector would begin with room for four.
        seat.tasks.reserve_exact(tasks.len());
        tasks.iter().for_each(|task| seat.add(task));
        seat.sort();
        seat
    }

    /// Puts those aside that ended before this iteration of their job. Iterations never go back.
    pub(crate) fn begin(&mut self, iteration: u64) {
        let is_past = |task: &mut Arc<Task>| task.job_iteration() != iteration && !task.is_live();
        self.past.extend(self.tasks.extract_if(.., is_past));
        self.past.sort_by_key(|task| (task.meta.created_at, task.id));
    }

    /// The last task of an iteration of a job.
    pub(crate) fn newest_of(&self, iteration: u64) -> Option<&Arc<Task>> {
        let mut newest = self.tasks.iter().rev().chain(self.past.iter().rev());
        newest.find(|task| task.job_iteration() == iteration)
    }

    /// All of its tasks, but for the past.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.iter().chain(&self.leaving)
    }

    /// Takes a task in, in no order; see [`Seat::sort`].
    pub(crate) fn add(&mut self, task: &Arc<Task>) {
        let list = if task.desired_state >= TaskState::Remove { &mut self.leaving } else { &mut self.tasks };
        list.push(Arc::clone(task));
    }

    /// Puts them in order.
    pub(crate) fn sort(&mut self) {
        // Of two tasks made at the same time the one that may run is the newer.
        self.tasks.sort_by_key(|task| (task.meta.created_at, task.is_runnable(), task.id));
        self.leaving.sort_by_key(|task| task.id);
    }

    /// Takes a task out, if it is here.
    pub(crate) fn take_out(&mut self, id: TaskId) {
        self.tasks.retain(|task| task.id != id);
        self.leaving.retain(|task| task.id != id);
        self.past.retain(|task| task.id != id);
    }

    /// Whether there is nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.leaving.is_empty() && self.past.is_empty()
    }

    /// Whether any task is in it that it is judged by.
    pub(crate) fn is_occupied(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// The task that fills it: of two, while one takes over from the other, the newer.
    pub(crate) fn counted(&self) -> Option<&Arc<Task>> {
        self.pair().map(|(_, new)| new).or_else(|| self.tasks.iter().rev().find(|task| task.is_runnable()))
    }

    /// The tasks that may come to run or run: two while one takes over from the other.
    pub(crate) fn runnable(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.iter().filter(|task| task.is_runnable())
    }

    /// The task that another one takes over from, and that one.
    pub(crate) fn pair(&self) -> Option<(&Arc<Task>, &Arc<Task>)> {
        // An earlier takeover has left its own word in the one that is taken over from now.
        let over = |new: &Arc<Task>| self.runnable().find(|task| Some(task.id) == new.beside());
        let (new, old) = self.runnable().find_map(|task| Some((task, over(task)?)))?;
        Some((old, new))
    }

    /// The task that was made last.
    pub(crate) fn newest(&self) -> Option<&Arc<Task>> {
        self.tasks.last()
    }

    /// The task that filled the seat last: the newest, unless that was given up while the one that it was to take over
    /// from went on, and ended after it.
    pub(crate) fn last(&self) -> Option<&Arc<Task>> {
        let newest = self.newest()?;
        let over = self.tasks.iter().find(|task| Some(task.id) == newest.beside());
        // An end that is still to be dealt with is the later one, whatever its time: reports take theirs.
        let has_outlived = |old: &&Arc<Task>| {
            let is_later = old.is_wanted() || old.status.timestamp >= newest.meta.updated_at;
            !newest.is_wanted() && ended_itself(old) && is_later
        };
        Some(over.filter(has_outlived).unwrap_or(newest))
    }

    /// Where and when tasks of a version failed of late, the oldest first; of a node so many as count.
    pub(crate) fn failures(&self, version: u64, now: Timestamp) -> Vec<(NodeId, Timestamp)> {
        let own = self.tasks.iter().filter(|task| task.spec_version == version);
        let lately = own.flat_map(|task| task.failures()).filter(|(_, at)| now.since(*at) < FAILURES_WINDOW);
        let all: BTreeSet<(Timestamp, NodeId)> = lately.map(|(node, at)| (at, node)).collect();
        let mut n_of: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut kept: Vec<(NodeId, Timestamp)> = Vec::new();
        for (at, node) in all.into_iter().rev() {
            let n = n_of.entry(node).or_default();
            if *n < FAILURES_MAX {
                *n += 1;
                kept.push((node, at));
            }
        }
        kept.reverse();
        kept
    }

    /// When a task of this seat may run: after its delay, and after all others have stopped or had their time, but
    /// for the one that it runs beside. What is only to be removed is waited for by the next run of a job, and for a volume
    /// that is to be one task's alone: else a service that is scaled down and up again runs at once.
    pub(crate) fn start_at(&self, view: &View, task: &Task, created: Timestamp) -> Timestamp {
        let is_other = |other: &&Arc<Task>| other.id != task.id && Some(other.id) != task.beside();
        let holds_up =
            |other: &&Arc<Task>| task.job_iteration() != 0 || share_volumes(&other.spec, &task.spec);
        let leaving = self.leaving.iter().filter(holds_up);
        let mut others = self.tasks.iter().chain(leaving).filter(is_other);
        if others.all(|other| is_stopped(view, other)) {
            task.not_before
        } else {
            task.not_before.max(created.after(STOP_WAIT_MAX))
        }
    }
}

/// Times that are as far ahead are another clock's: that of a manager that leads no more, or that took a report.
const AHEAD_MAX: Duration = Duration::from_secs(1);

/// Whether a stored time tells when something was, by the clock that decides. What another clock put ahead of it is
/// not waited for, or everything would stand still until then.
pub(crate) fn is_told(at: Timestamp, now: Timestamp) -> bool {
    at <= now.after(AHEAD_MAX)
}

/// Whether nothing of the task runs as far as anybody can know: what a lost node does is not waited for.
pub(crate) fn is_stopped(view: &View, task: &Task) -> bool {
    task.status.state.is_terminal() || !is_on_live_node(view, task)
}

/// Whether the task has a node that is there.
fn is_on_live_node(view: &View, task: &Task) -> bool {
    let node = task.node_id.and_then(|id| view.node(id));
    node.is_some_and(|node| node.status.state != NodeState::Down)
}

/// Whether the task came to an end by itself, not because we wanted it.
pub(crate) fn ended_itself(task: &Task) -> bool {
    matches!(task.status.state, TaskState::Complete | TaskState::Failed | TaskState::Rejected)
        && task.status.err.as_str() != NO_LONGER_MEETS
}

/// A status of the manager's own: later than what it replaces, so that it wins the merge.
pub(crate) fn said(
    old: &TaskStatus,
    now: Timestamp,
    state: TaskState,
    message: &str,
    err: &str,
) -> TaskStatus {
    TaskStatus {
        state,
        timestamp: now.max(old.timestamp.after(Duration::from_nanos(1))),
        message: message.into(),
        err: err.into(),
        ..old.clone()
    }
}
