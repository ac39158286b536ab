//! A swarm without daemons: passes are applied to a real store, agents advance their tasks as their image
//! says, and time jumps to the next thing that happens.
//!
//! After each pass: proposals are never refused, the invariants hold, a second pass drafts nothing, and a
//! pass over everything decides what the pass over what is dirty decided.

mod agents;
mod check;
mod preempted;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use skep_api::{
    ApiError, Id, NodeId, Secret, ServiceId, TaskId, TaskState, Timestamp,
    id::SeededIds,
    object::{Cluster, Node, NodeState, NodeStatus, SeatKey, Service, Task, UpdateState},
    spec::{Availability, ServiceSpec},
};
use skep_orchestrator::WakeKey;
use skep_store::{Change, Dirty, FEATURE_LEVEL, ObjectRef, Proposal, Store, View, decode_result};

pub(super) use self::agents::image;
use self::{check::explained, preempted::check_preempted};
use crate::{
    control::{
        RegistryAuth,
        services::update::{rolled_back, updated},
    },
    pass::{Memo, Pass, Times, pass},
};

/// How long an agent takes for each step of a task.
const STEP: Duration = Duration::from_millis(10);
/// Time zero of all tests.
pub(super) const EPOCH: i64 = 1_000_000_000_000_000_000;

pub(super) struct Swarm {
    pub(super) store: Store,
    pub(super) now: Timestamp,
    /// How far the leader's clock is behind that.
    pub(super) behind: Duration,
    ids: SeededIds,
    dirty: Dirty,
    wakes: BTreeMap<WakeKey, Timestamp>,
    /// Nodes whose agents do nothing, whatever the store says of them.
    pub(super) frozen: BTreeSet<NodeId>,
    /// How long a task takes to stop.
    pub(super) stop_time: Duration,
    stopping_since: BTreeMap<TaskId, Timestamp>,
    /// The most slots of a service that were at once without a running task.
    pub(super) n_missing_max: usize,
    pub(super) n_passes: usize,
    /// The most that a pass wrote.
    pub(super) n_changes_max: usize,
    /// See [`pass`].
    pub(super) budget: usize,
    /// Nodes that have less than they once had.
    pub(super) shrunk: BTreeSet<NodeId>,
    /// Seats whose agents do not let a task come further than that.
    pub(super) held: BTreeMap<(ServiceId, SeatKey), TaskState>,
    /// By service and update, how many seats wait for their new task to run.
    pub(super) in_flight: BTreeMap<(ServiceId, u64), usize>,
    /// Tasks that found no node in the pass that made them.
    pub(super) waited: BTreeSet<TaskId>,
    /// What a leader keeps from pass to pass.
    memo: Memo,
    /// Every task that there was, as `service.seat#n`: the nth of its seat.
    pub(super) names: BTreeMap<TaskId, String>,
}

pub(super) fn node_id(n: u128) -> NodeId {
    NodeId(Id(n))
}

pub(super) fn service_id(n: u128) -> ServiceId {
    ServiceId(Id(n))
}

/// Settings as a new swarm has them.
pub(super) fn cluster() -> Cluster {
    Cluster { feature_level: FEATURE_LEVEL, ..Cluster::default() }
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
        Self::at_level(n_nodes, FEATURE_LEVEL)
    }

    /// The same at a feature level.
    pub(super) fn at_level(n_nodes: u128, feature_level: u32) -> Self {
        let mut swarm = Self {
            store: Store::default(),
            now: Timestamp(EPOCH),
            behind: Duration::ZERO,
            ids: SeededIds(7),
            dirty: Dirty::everything(),
            wakes: BTreeMap::new(),
            frozen: BTreeSet::new(),
            stop_time: STEP,
            stopping_since: BTreeMap::new(),
            n_missing_max: 0,
            n_passes: 0,
            n_changes_max: 0,
            budget: usize::MAX,
            shrunk: BTreeSet::new(),
            held: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            waited: BTreeSet::new(),
            memo: Memo::default(),
            names: BTreeMap::new(),
        };
        swarm.apply(vec![Change::PutCluster(Arc::new(Cluster { feature_level, ..cluster() }))]);
        for n in 1..=n_nodes {
            swarm.add_node(n);
        }
        swarm
    }

    fn times(&self) -> Times {
        let behind = i64::try_from(self.behind.as_nanos()).unwrap();
        Times { now: self.now, clock: Timestamp(self.now.0 - behind) }
    }

    /// A pass over what is dirty, or over everything, as a leader without a past makes it.
    fn pass(&self, dirty: &Dirty, ids: &mut SeededIds) -> Pass {
        pass(self.view(), dirty, self.times(), ids, &mut Memo::default(), self.budget)
    }

    /// The same pass with what the passes before it left.
    fn kept_pass(&mut self, dirty: &Dirty) -> Pass {
        let view = self.view();
        pass(view, dirty, self.times(), &mut self.ids.clone(), &mut self.memo, self.budget)
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
            if let ObjectRef::Task(id, ..) = object
                && let Some(task) = self.view().task(id)
            {
                self.name(task);
            }
        }
    }

    fn name(&mut self, task: &Task) {
        if self.names.contains_key(&task.id) {
            return;
        }
        let seat = match task.seat() {
            SeatKey::Slot(slot) => format!("{}.{slot}", task.spec.name),
            SeatKey::Node(node) => format!("{}.n{}", task.spec.name, { node.0.0 }),
        };
        let n =
            self.names.values().filter(|name| name.rsplit_once('#').is_some_and(|(s, _)| s == seat)).count();
        self.names.insert(task.id, format!("{seat}#{}", n + 1));
    }

    /// Another manager leads: it knows what is stored, and nothing else.
    pub(super) fn change_leader(&mut self) {
        self.wakes.clear();
        self.memo = Memo::default();
        self.dirty = Dirty::everything();
    }

    /// What the control API does for `service create`.
    pub(super) fn create(&mut self, n: u128, spec: ServiceSpec) -> ServiceId {
        let runs_now = spec.mode().is_job() && !spec.is_scheduled();
        let last_execution = if runs_now { self.now } else { Timestamp::ZERO };
        let service =
            Service { id: service_id(n), spec: Arc::new(spec), last_execution, ..Service::default() };
        self.apply(vec![Change::PutService(Arc::new(service))]);
        service_id(n)
    }

    /// `service update`.
    pub(super) fn update(&mut self, id: ServiceId, spec: ServiceSpec) {
        let (now, level) = (self.now, self.view().feature_level());
        self.change(id, |old| updated(old, spec, RegistryAuth::OfSpec, level, now));
    }

    /// `service update --with-registry-auth`.
    pub(super) fn log_in(&mut self, id: ServiceId, secret: &str) {
        let (now, level) = (self.now, self.view().feature_level());
        let auth = RegistryAuth::New(Secret::new(secret));
        self.change(id, |old| updated(old, (*old.spec).clone(), auth, level, now));
    }

    /// `service rollback`.
    pub(super) fn rollback(&mut self, id: ServiceId) {
        // The clock of the manager that was asked may be ahead of the leader's.
        let now = self.now.after(Duration::from_secs(3));
        self.change(id, |old| rolled_back(old, FEATURE_LEVEL, now));
    }

    /// What the control API makes of a service.
    pub(super) fn change(
        &mut self,
        id: ServiceId,
        change: impl FnOnce(&Service) -> Result<Service, ApiError>,
    ) {
        let new = change(self.view().service(id).unwrap()).unwrap();
        self.apply(vec![Change::PutService(Arc::new(new))]);
    }

    /// How many tasks of a seat are kept as history.
    pub(super) fn keep_history(&mut self, n: u64) {
        let mut cluster = (**self.view().cluster().unwrap()).clone();
        let text = format!(r#"{{"Orchestration":{{"TaskHistoryRetentionLimit":{n}}}}}"#);
        cluster.spec = serde_json::from_str(&text).unwrap();
        self.apply(vec![Change::PutCluster(Arc::new(cluster))]);
    }

    pub(super) fn edit_node(&mut self, n: u128, edit: impl FnOnce(&mut Node)) {
        let mut node = (**self.view().node(node_id(n)).unwrap()).clone();
        edit(&mut node);
        self.apply(vec![Change::PutNode(Arc::new(node))]);
    }

    pub(super) fn edit_cluster(&mut self, edit: impl FnOnce(&mut Cluster)) {
        let mut cluster = (**self.view().cluster().unwrap()).clone();
        edit(&mut cluster);
        self.apply(vec![Change::PutCluster(Arc::new(cluster))]);
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
            self.take_due();
            if self.dirty.is_empty() {
                break;
            }
            n_rounds += 1;
            assert!(n_rounds < 20, "passes do not come to an end");
            self.step();
        }
        let again = self.pass(&Dirty::everything(), &mut self.ids.clone());
        assert_eq!(again.draft.changes(), [], "a quiet cluster drafts nothing");
    }

    /// One pass over what is dirty.
    pub(super) fn step(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        let all = self.pass(&Dirty::everything(), &mut self.ids.clone());
        let mut ids = self.ids.clone();
        let result = self.pass(&dirty, &mut ids);
        // What is kept from pass to pass decides nothing.
        let kept = self.kept_pass(&dirty);
        assert_eq!(kept.draft.changes(), result.draft.changes(), "as with nothing kept");
        self.ids = ids;
        if self.budget == usize::MAX {
            let (all, dirtied) = (explained(all.draft.changes()), explained(result.draft.changes()));
            assert_eq!(all, dirtied, "dirty: {dirty:?}");
        }
        assert_eq!(result.draft.refusals(), [], "a pass looks before it writes");
        check_preempted(&result.draft);
        result.settle(&mut self.wakes);
        self.dirty.merge(result.rest);
        self.n_passes += 1;
        self.n_changes_max = self.n_changes_max.max(result.draft.changes().len());
        for proposal in result.draft.into_proposals([], &mut self.ids) {
            self.propose(&proposal);
        }
        self.check();
    }

    fn take_due(&mut self) {
        for (key, _) in self.wakes.iter().filter(|(_, at)| **at <= self.now) {
            match key {
                WakeKey::Service(id) => self.dirty.services.insert(*id),
                WakeKey::Node(id) => self.dirty.nodes.insert(*id),
                WakeKey::Tickets => std::mem::replace(&mut self.dirty.tickets, true),
            };
        }
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

    pub(super) fn tasks(&self, id: ServiceId) -> Vec<Arc<Task>> {
        let view = self.view();
        let mut tasks: Vec<Arc<Task>> = view.tasks_of_service(id).cloned().collect();
        tasks.sort_by_key(|task| (task.seat(), task.meta.created_at, task.is_runnable(), task.id));
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
}
