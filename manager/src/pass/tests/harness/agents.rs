//! What the agents of the test swarm do: each task goes on as its image says.

use std::time::Duration;

use skep_api::{
    Secret, TaskState, Timestamp,
    object::{Task, TaskStatus},
};
use skep_store::Change;

use super::{STEP, Swarm};

impl Swarm {
    /// What agents have to say by now. Images: `ok` runs, `exit:<code>:<ms>` ends after that time,
    /// `missing` is on no node, `private` is told to those alone who have credentials.
    pub(super) fn agents(&mut self) -> Vec<Change> {
        let view = self.view();
        let tasks = view.tasks().filter(|task| self.due(task).is_some_and(|at| at <= self.now));
        let reports: Vec<Change> =
            tasks.map(|task| Change::TaskStatus(task.id, self.advanced(task))).collect();
        for task in view.tasks().filter(|task| !task.is_wanted()) {
            self.stopping_since.entry(task.id).or_insert(self.now);
        }
        reports
    }

    pub(super) fn next_reports(&self) -> Vec<Timestamp> {
        self.view().tasks().filter_map(|task| self.due(task)).collect()
    }

    /// When the agent of a task has something to say of it.
    fn due(&self, task: &Task) -> Option<Timestamp> {
        let node = task.node_id?;
        if self.frozen.contains(&node) || !task.is_live() || self.view().node(node).is_none() {
            return None;
        }
        let since = task.status.timestamp;
        if !task.is_wanted() {
            let since = self.stopping_since.get(&task.id).copied().unwrap_or(self.now);
            return Some(since.after(self.stop_time));
        }
        let state = task.status.state;
        if self.held.get(&(task.service_id, task.seat())).is_some_and(|held| state >= *held) {
            return None;
        }
        if state == TaskState::Running {
            exit_of(task).map(|(_, after)| since.after(after))
        } else if state == TaskState::Ready && task.desired_state < TaskState::Running {
            None
        } else {
            Some(since.after(STEP))
        }
    }

    fn may_pull(&self, task: &Task) -> bool {
        match image(task) {
            "missing" => false,
            "private" => {
                let service = self.view().service(task.service_id).cloned();
                service.is_some_and(|service| service.registry_auth != Secret::default())
            }
            _ => true,
        }
    }

    fn advanced(&self, task: &Task) -> TaskStatus {
        let state = |state| TaskStatus { state, timestamp: self.now, ..task.status.clone() };
        if !task.is_wanted() {
            return state(TaskState::Shutdown);
        }
        let (now, is_missing) = (task.status.state, !self.may_pull(task));
        if now == TaskState::Running {
            match exit_of(task) {
                Some((0, _)) => state(TaskState::Complete),
                Some((code, _)) => TaskStatus { exit_code: Some(code), ..state(TaskState::Failed) },
                None => unreachable!("only an image that exits is due"),
            }
        } else if now == TaskState::Assigned && is_missing {
            TaskStatus {
                err: format!("No such image: {}", image(task)).as_str().into(),
                ..state(TaskState::Rejected)
            }
        } else if now == TaskState::Assigned {
            state(TaskState::Preparing)
        } else if now == TaskState::Preparing {
            state(TaskState::Ready)
        } else {
            TaskStatus { running_at: self.now, ..state(TaskState::Running) }
        }
    }
}

pub(in crate::pass::tests) fn image(task: &Task) -> &str {
    task.spec.container().unwrap().image.as_str()
}

fn exit_of(task: &Task) -> Option<(i32, Duration)> {
    let mut parts = image(task).strip_prefix("exit:")?.split(':');
    let code = parts.next()?.parse().unwrap();
    Some((code, Duration::from_millis(parts.next()?.parse().unwrap())))
}
