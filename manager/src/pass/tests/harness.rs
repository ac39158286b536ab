//! A swarm without daemons: passes are applied to a real store, agents advance their tasks as their image
//! says, and time jumps to the next thing that happens.
//!
//! After each pass: proposals are never refused, the invariants hold, a second pass drafts nothing, and a
//! pass over everything decides what the pass over what is dirty decided.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use skep_api::{
    Id, NodeId, ServiceId, TaskState, Timestamp,
    id::SeededIds,
    object::{Node, NodeState, NodeStatus, Service, Task, TaskStatus, UpdateState},
    spec::{Availability, ServiceSpec},
};
use skep_store::{Change, Dirty, Proposal, Store, View, decode_result};

use crate::pass::pass;

/// How long an agent takes for each step of a task.
const STEP: Duration = Duration::from_millis(10);
/// Time zero of all tests.
const EPOCH: i64 = 1_000_000_000_000_000_000;

pub(super) struct Swarm {
    pub(super) store: Store,
    pub(super) now: Timestamp,
    ids: SeededIds,
    dirty: Dirty,
    wakes: BTreeMap<ServiceId, Timestamp>,
    /// Nodes whose agents do nothing, whatever the store says of them.
    pub(super) frozen: BTreeSet<NodeId>,
    /// How long a task takes to stop.
    pub(super) stop_time: Duration,
    stopping_since: BTreeMap<skep_api::TaskId, Timestamp>,
    /// The most slots of a service that were at once without a running task.
    pub(super) n_missing_max: usize,
    pub(super) n_passes: usize,
}

pub(super) fn node_id(n: u128) -> NodeId {
    NodeId(Id(n))
}

pub(super) fn service_id(n: u128) -> ServiceId {
    ServiceId(Id(n))
}

/// A spec from JSON, as the API would take it.
pub(super) fn spec(json: &str) -> ServiceSpec {
    serde_json::from_str(json).unwrap()
}

/// A spec of a name, an image (see [`Swarm::agents`]) and a number of tasks.
pub(super) fn simple(name: &str, image: &str, replicas: u64) -> ServiceSpec {
    spec(&format!(
        r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"{image}"}}}},
            "Mode":{{"Replicated":{{"Replicas":{replicas}}}}}}}"#
    ))
}

pub(super) fn with(spec: &ServiceSpec, patch: &str) -> ServiceSpec {
    let mut value = serde_json::to_value(spec).unwrap();
    merge(&mut value, serde_json::from_str(patch).unwrap());
    serde_json::from_value(value).unwrap()
}

fn merge(into: &mut serde_json::Value, patch: serde_json::Value) {
    match (into, patch) {
        (serde_json::Value::Object(into), serde_json::Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

impl Swarm {
    /// A swarm of nodes 1..=n, each with 4 CPUs and 8 GiB.
    pub(super) fn new(n_nodes: u128) -> Self {
        let mut swarm = Self {
            store: Store::default(),
            now: Timestamp(EPOCH),
            ids: SeededIds(7),
            dirty: Dirty::everything(),
            wakes: BTreeMap::new(),
            frozen: BTreeSet::new(),
            stop_time: STEP,
            stopping_since: BTreeMap::new(),
            n_missing_max: 0,
            n_passes: 0,
        };
        for n in 1..=n_nodes {
            swarm.add_node(n);
        }
        swarm
    }

    pub(super) fn add_node(&mut self, n: u128) {
        let mut node = Node { id: node_id(n), ..Node::default() };
        node.description.hostname = format!("n{n}");
        node.description.nano_cpus = 4_000_000_000;
        node.description.memory_bytes = 8 << 30;
        node.status.state = NodeState::Ready;
        self.apply(vec![Change::PutNode(Arc::new(node))]);
    }

    pub(super) fn view(&self) -> View {
        self.store.view()
    }

    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        self.propose(&Proposal { changes, now: self.now, ..Proposal::default() });
    }

    fn propose(&mut self, proposal: &Proposal) {
        let applied = self.store.apply(&proposal.encode());
        decode_result(&applied.answer).expect("nothing else writes between a pass and its proposals");
        for object in applied.changed {
            self.dirty.mark(object);
        }
    }

    /// What the control API does for `service create`.
    pub(super) fn create(&mut self, n: u128, spec: ServiceSpec) -> ServiceId {
        let service = Service { id: service_id(n), spec: Arc::new(spec), ..Service::default() };
        self.apply(vec![Change::PutService(Arc::new(service))]);
        service_id(n)
    }

    /// What the control API does for `service update`.
    pub(super) fn update(&mut self, id: ServiceId, spec: ServiceSpec) {
        let mut service = (**self.view().service(id).unwrap()).clone();
        service.previous_spec = Some(std::mem::replace(&mut service.spec, Arc::new(spec)));
        service.previous_spec_version = service.spec_version;
        service.update_status = None;
        self.apply(vec![Change::PutService(Arc::new(service))]);
    }

    /// What the control API does for `service rollback`.
    pub(super) fn rollback(&mut self, id: ServiceId) {
        let mut service = (**self.view().service(id).unwrap()).clone();
        let previous = service.previous_spec.take().unwrap();
        service.previous_spec = Some(std::mem::replace(&mut service.spec, previous));
        service.update_status = Some(skep_api::object::UpdateStatus {
            state: UpdateState::RollbackStarted,
            // The clock of the manager that was asked may be ahead of the leader's.
            started_at: self.now.after(Duration::from_secs(3)),
            completed_at: None,
            message: "manually requested rollback".into(),
        });
        self.apply(vec![Change::PutService(Arc::new(service))]);
    }

    pub(super) fn edit_node(&mut self, n: u128, edit: impl FnOnce(&mut Node)) {
        let mut node = (**self.view().node(node_id(n)).unwrap()).clone();
        edit(&mut node);
        self.apply(vec![Change::PutNode(Arc::new(node))]);
    }

    pub(super) fn set_availability(&mut self, n: u128, availability: Availability) {
        self.edit_node(n, |node| node.spec.availability = availability);
    }

    /// The manager declares a node down or back; its agent falls silent or answers again.
    pub(super) fn set_state(&mut self, n: u128, state: NodeState) {
        if state == NodeState::Ready {
            self.frozen.remove(&node_id(n));
        } else {
            self.frozen.insert(node_id(n));
        }
        let status = NodeStatus { state, ..NodeStatus::default() };
        self.apply(vec![Change::NodeStatus(node_id(n), status)]);
    }

    /// Passes until nothing is dirty, as the leader's loop does.
    pub(super) fn settle(&mut self) {
        let mut n_rounds = 0;
        loop {
            let due = self.take_due();
            self.dirty.services.extend(due);
            if self.dirty.is_empty() {
                break;
            }
            n_rounds += 1;
            assert!(n_rounds < 20, "passes do not come to an end");
            let dirty = std::mem::take(&mut self.dirty);
            let all = pass(self.view(), &Dirty::everything(), self.now, &mut self.ids.clone());
            let result = pass(self.view(), &dirty, self.now, &mut self.ids);
            assert_eq!(explained(all.draft.changes()), explained(result.draft.changes()), "dirty: {dirty:?}");
            assert_eq!(result.draft.refusals(), [], "a pass looks before it writes");
            self.wakes.extend(result.wakes);
            self.n_passes += 1;
            for proposal in result.draft.into_proposals([], &mut self.ids) {
                self.propose(&proposal);
            }
            self.check();
        }
        let again = pass(self.view(), &Dirty::everything(), self.now, &mut self.ids.clone());
        assert_eq!(again.draft.changes(), [], "a quiet cluster drafts nothing");
    }

    fn take_due(&mut self) -> Vec<ServiceId> {
        let due: Vec<ServiceId> =
            self.wakes.iter().filter(|(_, at)| **at <= self.now).map(|(id, _)| *id).collect();
        for id in &due {
            self.wakes.remove(id);
        }
        due
    }

    /// Lets `span` pass.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now.after(span);
        loop {
            self.settle();
            let reports = self.agents();
            if !reports.is_empty() {
                self.apply(reports);
                continue;
            }
            let next = self.wakes.values().copied().chain(self.next_reports()).min();
            match next {
                Some(at) if at <= end => self.now = at.max(self.now.after(Duration::from_nanos(1))),
                Some(_) | None => break,
            }
        }
        self.now = end;
        self.settle();
    }

    /// What agents have to say by now. Images: `ok` runs, `exit:<code>:<ms>` ends after that time,
    /// `missing` is on no node.
    fn agents(&mut self) -> Vec<Change> {
        let view = self.view();
        let tasks = view.tasks().filter(|task| self.due(task).is_some_and(|at| at <= self.now));
        let reports: Vec<Change> =
            tasks.map(|task| Change::TaskStatus(task.id, self.advanced(task))).collect();
        for task in view.tasks().filter(|task| task.desired_state > TaskState::Running) {
            self.stopping_since.entry(task.id).or_insert(self.now);
        }
        reports
    }

    fn next_reports(&self) -> Vec<Timestamp> {
        self.view().tasks().filter_map(|task| self.due(task)).collect()
    }

    /// When the agent of a task has something to say of it.
    fn due(&self, task: &Task) -> Option<Timestamp> {
        let node = task.node_id?;
        if self.frozen.contains(&node) || !task.is_live() || self.view().node(node).is_none() {
            return None;
        }
        let since = task.status.timestamp;
        if task.desired_state > TaskState::Running {
            let since = self.stopping_since.get(&task.id).copied().unwrap_or(self.now);
            return Some(since.after(self.stop_time));
        }
        let state = task.status.state;
        if state == TaskState::Running {
            exit_of(task).map(|(_, after)| since.after(after))
        } else if state == TaskState::Ready && task.desired_state < TaskState::Running {
            None
        } else {
            Some(since.after(STEP))
        }
    }

    fn advanced(&self, task: &Task) -> TaskStatus {
        let state = |state| TaskStatus { state, timestamp: self.now, ..task.status.clone() };
        if task.desired_state > TaskState::Running {
            return state(TaskState::Shutdown);
        }
        let (now, is_missing) = (task.status.state, image(task) == "missing");
        if now == TaskState::Running {
            match exit_of(task) {
                Some((0, _)) => state(TaskState::Complete),
                Some((code, _)) => TaskStatus { exit_code: Some(code), ..state(TaskState::Failed) },
                None => unreachable!("only an image that exits is due"),
            }
        } else if now == TaskState::Assigned && is_missing {
            TaskStatus { err: "No such image: missing".into(), ..state(TaskState::Rejected) }
        } else if now == TaskState::Assigned {
            state(TaskState::Preparing)
        } else if now == TaskState::Preparing {
            state(TaskState::Ready)
        } else {
            TaskStatus { running_at: self.now, ..state(TaskState::Running) }
        }
    }

    pub(super) fn tasks(&self, id: ServiceId) -> Vec<Arc<Task>> {
        let view = self.view();
        let mut tasks: Vec<Arc<Task>> = view.tasks_of_service(id).cloned().collect();
        tasks.sort_by_key(|task| (task.slot, task.meta.created_at));
        tasks
    }

    pub(super) fn running(&self, id: ServiceId) -> Vec<Arc<Task>> {
        let mut tasks = self.tasks(id);
        tasks.retain(|task| task.is_runnable() && task.status.state == TaskState::Running);
        tasks
    }

    /// Slots with the image that runs in them.
    pub(super) fn images(&self, id: ServiceId) -> Vec<(u64, String)> {
        self.running(id).iter().map(|task| (task.slot, image(task).to_owned())).collect()
    }

    /// How many runnable tasks of a service each node has.
    pub(super) fn spread(&self, id: ServiceId) -> BTreeMap<NodeId, usize> {
        let mut spread = BTreeMap::new();
        for task in self.tasks(id).iter().filter(|task| task.is_runnable()) {
            *spread.entry(task.node_id.unwrap()).or_default() += 1;
        }
        spread
    }

    pub(super) fn update_status(&self, id: ServiceId) -> Option<(UpdateState, String)> {
        let view = self.view();
        view.service(id).unwrap().update_status.as_ref().map(|status| (status.state, status.message.clone()))
    }

    pub(super) fn seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    fn check(&mut self) {
        let view = self.view();
        check_invariants(&view);
        for service in view.services() {
            let n_running = self.running(service.id).len();
            let n_wanted = usize::try_from(service.spec.replicas()).unwrap();
            self.n_missing_max = self.n_missing_max.max(n_wanted.saturating_sub(n_running));
        }
    }
}

/// Design invariants 2 and 4, and that nothing is reserved twice.
pub(super) fn check_invariants(view: &View) {
    let mut slots = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for task in view.tasks() {
        if task.is_runnable() {
            assert!(slots.insert((task.service_id, task.slot)), "two runnable tasks in slot {}", task.slot);
        }
        if let Some(address) = task.ingress_addr.filter(|_| task.is_live()) {
            assert!(addresses.insert(address), "{address} is given twice");
        }
    }
    let mut ports = BTreeSet::new();
    for port in view.services().flat_map(|service| service.ports.iter()).filter(|port| port.is_ingress()) {
        assert!(ports.insert((port.protocol().to_owned(), port.published_port)), "{port:?} is given twice");
    }
    for node in view.nodes() {
        if let Some(address) = node.ingress_addr {
            assert!(addresses.insert(address), "{address} is given twice");
        }
        let reserved = view.tasks_of_node(node.id).filter(|task| task.is_live());
        let (cpus, memory) = reserved
            .map(|task| task.spec.task_template.reservations())
            .fold((0, 0), |(cpus, memory), (c, m)| (cpus + c, memory + m));
        assert!(cpus <= node.description.nano_cpus && memory <= node.description.memory_bytes);
        let load = view.node_load(node.id);
        assert_eq!((load.nano_cpus, load.memory_bytes), (cpus, memory), "the index of loads is right");
    }
}

/// Changes without the words of tasks that wait: a pass over everything may word those anew.
fn explained(changes: &[Change]) -> Vec<Change> {
    let pending = |change: &&Change| {
        let Change::PutTask(task) = change else { return true };
        task.node_id.is_some() || task.status.err.is_empty()
    };
    changes.iter().filter(pending).cloned().collect()
}

fn image(task: &Task) -> &str {
    task.spec.container().unwrap().image.as_str()
}

fn exit_of(task: &Task) -> Option<(i32, Duration)> {
    let mut parts = image(task).strip_prefix("exit:")?.split(':');
    let code = parts.next()?.parse().unwrap();
    Some((code, Duration::from_millis(parts.next()?.parse().unwrap())))
}
