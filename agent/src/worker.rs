//! Owns the runners: from the assignment sets it makes, informs and ends them.
//!
//! It never waits for a runner, but at the end: a task that hangs holds up no other.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use skep_api::{Secret, ServiceId, TaskId, TaskState, wire};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    assignment::Assignment,
    board::Board,
    engine::{Container, ContainerState, chain},
    task::runner::{Found, Host, Order, Runner},
};

/// How long the steps under way may take when the daemon stops.
const STOP_MAX: Duration = Duration::from_secs(5);

/// What the worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// A set that is to be taken as it is.
    Assign(wire::AssignmentSet),
    /// End all tasks, then answer.
    Leave(oneshot::Sender<()>),
    /// Leave all tasks as they are, then answer.
    Stop(oneshot::Sender<()>),
}

/// The worker.
#[derive(Debug)]
pub(crate) struct Worker {
    host: Arc<Host>,
    board: Arc<Board>,
    tasks: BTreeMap<TaskId, watch::Sender<Order>>,
    runners: JoinSet<(TaskId, bool)>,
    /// Containers of tasks that nothing was remembered of: until the manager has said what is ours.
    orphans: BTreeMap<TaskId, Found>,
}

impl Worker {
    pub(crate) fn new(host: Arc<Host>, board: Arc<Board>) -> Self {
        Self { host, board, tasks: BTreeMap::new(), runners: JoinSet::new(), orphans: BTreeMap::new() }
    }

    /// Takes up what an earlier daemon left: `remembered` tasks at once, other containers when asked for.
    pub(crate) async fn adopt(
        &mut self,
        remembered: BTreeMap<TaskId, (wire::Assignment, Option<wire::TaskStatus>)>,
        containers: Vec<(TaskId, Container)>,
    ) {
        let attached = self.host.network.attached().await.unwrap_or_else(|e| {
            tracing::error!(err = chain(&e), "the tasks' networks cannot be listed");
            Vec::new()
        });
        let mut found: BTreeMap<TaskId, Found> = BTreeMap::new();
        for (task, container) in containers {
            found.entry(task).or_default().container = Some(container.state);
        }
        for task in attached {
            if let Some(found) = found.get_mut(&task) {
                found.is_attached = true;
            } else if remembered.contains_key(&task) {
                found.insert(task, Found { is_attached: true, ..Found::default() });
            } else if let Err(e) = self.host.network.detach(task).await {
                tracing::warn!(task.id = %task, err = chain(&e), "an unknown task's network cannot be removed");
            }
        }
        let (n_records, n_found) = (remembered.len(), found.len());
        for (task, (assignment, status)) in remembered {
            match Assignment::read(&assignment) {
                Ok(mut assignment) => {
                    let found = Found { status, ..found.remove(&task).unwrap_or_default() };
                    if is_startable(&assignment, &found) {
                        // It may have been replaced meanwhile: only the manager can say that it is wanted.
                        assignment.desired = TaskState::Assigned;
                    }
                    self.begin(assignment, &found, false);
                }
                // Its container waits for the manager's word among the orphans.
                Err(e) => {
                    tracing::error!(task.id = %task, err = chain(&e), "a remembered task is unreadable")
                }
            }
        }
        self.orphans = found;
        if n_records + n_found > 0 {
            let (n_tasks, n_orphans) = (self.tasks.len(), self.orphans.len());
            tracing::info!(n_tasks, n_orphans, "took up the tasks of an earlier daemon");
        }
    }

    /// Does what it is told until told to stop.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                Some(ended) = self.runners.join_next(), if !self.runners.is_empty() => self.ended(ended),
                command = commands.recv() => match command {
                    Some(Command::Assign(set)) => self.assign(set),
                    Some(Command::Leave(done)) => {
                        self.end_all().await;
                        let _nobody = done.send(());
                        return;
                    }
                    Some(Command::Stop(done)) => {
                        self.let_go().await;
                        let _nobody = done.send(());
                        return;
                    }
                    None => return,
                },
            }
        }
    }

    fn assign(&mut self, set: wire::AssignmentSet) {
        if set.results_in > 0 {
            self.host.records.put_revision(set.results_in);
        }
        let mut kept = Vec::with_capacity(set.put.len());
        for assignment in set.put {
            match Assignment::read(&assignment) {
                Ok(read) => {
                    kept.push(read.task);
                    self.host.records.put_assignment(read.task, Arc::new(assignment));
                    self.put(read, set.complete);
                }
                Err(e) => tracing::error!(err = chain(&e), "an assignment is unreadable: left out"),
            }
        }
        for task in set.remove.iter().filter_map(|id| TaskId::from_bytes(id)) {
            self.remove(task);
        }
        if set.complete {
            kept.sort_unstable();
            let gone = |task: &TaskId| kept.binary_search(task).is_err();
            for task in self.tasks.keys().copied().filter(|task| gone(task)).collect::<Vec<_>>() {
                self.remove(task);
            }
            for (task, found) in mem::take(&mut self.orphans) {
                self.begin(nobodys(task), &found, true);
            }
        }
    }

    fn put(&mut self, assignment: Assignment, is_resync: bool) {
        let task = assignment.task;
        let Some(orders) = self.tasks.get(&task) else {
            let found = self.orphans.remove(&task).unwrap_or_default();
            self.begin(assignment, &found, false);
            return;
        };
        let stored = assignment.state.number();
        // A removal is never taken back: what it removed is gone.
        orders.send_if_modified(|order| {
            let is_news = !order.is_removed && *order.assignment != assignment;
            if is_news {
                order.assignment = Arc::new(assignment);
            }
            is_news
        });
        // The manager may have lost what an earlier one was told.
        if let Some(status) = self.board.status(task).filter(|_| is_resync) {
            let status = status.borrow().clone();
            if status.state > stored {
                self.host.reporter.push(task, status);
            }
        }
    }

    fn remove(&mut self, task: TaskId) {
        if let Some(orders) = self.tasks.get(&task) {
            orders.send_modify(|order| order.is_removed = true);
        } else if let Some(found) = self.orphans.remove(&task) {
            self.begin(nobodys(task), &found, true);
        } else {
            self.host.records.remove(task);
        }
    }

    fn begin(&mut self, assignment: Assignment, found: &Found, is_removed: bool) {
        let task = assignment.task;
        let status = first_status(&assignment, found);
        let (orders, told) = watch::channel(Order { assignment: Arc::new(assignment), is_removed });
        let (status, seen) = watch::channel(status);
        self.board.put(task, seen);
        let runner = Runner::new(Arc::clone(&self.host), told, status, found);
        self.tasks.insert(task, orders);
        self.runners.spawn(async move { (task, Box::pin(runner.run()).await) });
    }

    fn ended(&mut self, ended: Result<(TaskId, bool), tokio::task::JoinError>) {
        match ended {
            Ok((task, is_forgotten)) => {
                if is_forgotten {
                    self.tasks.remove(&task);
                    self.board.remove(task);
                }
            }
            Err(e) if e.is_cancelled() => {}
            Err(e) => tracing::error!(err = chain(&e), "a task's runner failed: this is a bug"),
        }
    }

    /// Ends and removes everything.
    async fn end_all(&mut self) {
        for task in self.tasks.keys().copied().collect::<Vec<_>>() {
            self.remove(task);
        }
        for (task, found) in mem::take(&mut self.orphans) {
            self.begin(nobodys(task), &found, true);
        }
        while let Some(ended) = self.runners.join_next().await {
            self.ended(ended);
        }
    }

    /// Lets the steps under way finish and goes away from the tasks.
    async fn let_go(&mut self) {
        self.tasks.clear();
        let all = async { while self.runners.join_next().await.is_some() {} };
        if timeout(STOP_MAX, all).await.is_err() {
            tracing::warn!(n_tasks = self.runners.len(), "steps of tasks were cut off");
            self.runners.shutdown().await;
        }
    }
}

/// What a task's status is before its runner has done anything.
fn first_status(assignment: &Assignment, found: &Found) -> wire::TaskStatus {
    let stored = wire::TaskStatus { state: assignment.state.number(), ..Default::default() };
    match &found.status {
        Some(status) if status.state >= stored.state => status.clone(),
        Some(status) => wire::TaskStatus { state: stored.state, ..status.clone() },
        None => stored,
    }
}

/// Whether a task could still come to start: nothing of it has run.
fn is_startable(assignment: &Assignment, found: &Found) -> bool {
    let has_run = matches!(found.container, Some(ContainerState::Running { .. } | ContainerState::Exited(_)));
    let is_before = first_status(assignment, found).state < TaskState::Starting.number();
    is_before && !has_run && assignment.desired <= TaskState::Complete
}

/// The order for a container that belongs to no task: end it.
fn nobodys(task: TaskId) -> Assignment {
    Assignment {
        task,
        service: ServiceId::default(),
        service_name: String::new(),
        slot: 0,
        spec: Err("nothing is known of this task".to_owned()),
        desired: TaskState::Remove,
        ports: Vec::new(),
        ingress: None,
        given: Vec::new(),
        drained: true,
        state: TaskState::New,
        registry_auth: Secret::default(),
    }
}
