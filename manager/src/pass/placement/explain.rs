//! For people: why tasks wait, and where those of a service that is not there yet would go. Decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skep_api::{
    Id, NodeId, ServiceId, TaskId, TaskState, Timestamp,
    id::SeededIds,
    object::{SeatKey, Service, Task},
    spec::{Mode, ServiceSpec},
};
use skep_orchestrator::{Fit, assign_ports};
use skep_scheduler::{Ask, Crowd, Explanation, Filter, Picture, Refused};
use skep_store::{Change, Dirty, Draft, View};

use super::{
    super::{Memo, pass},
    NO_ADDRESS, ask, lacks_address, lacks_ports, picture,
    preempt::{may_go, may_have_room, may_preempt, offer_of},
    promises::{self, Promises, Ranks},
};

/// What is said of a task that fits somewhere: the leader has not come to it.
const NOT_YET: &str = "not placed yet";

/// What is said of a plan for a service that has a task on each node, when there is none for it.
const NO_NODE: &str = "no node takes a task";

/// Tasks of one spec that wait for a node, and why.
#[derive(Clone, PartialEq, Debug)]
pub struct Waiting {
    /// They are alike, but for their seats.
    pub tasks: Vec<Arc<Task>>,
    /// Swarm's words, of all nodes together or of the one that they are for.
    pub err: String,
    /// What each node says; of tasks that wait for something else, nothing.
    pub explanation: Explanation,
    /// What the priority of their service is to them; empty where it has none, or nothing is to be said of it.
    pub note: String,
}

/// Where the tasks of a service would go.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// How many each node would get.
    pub nodes: BTreeMap<NodeId, u64>,
    /// How many would wait.
    pub n_waiting: u64,
    /// Why, or that no node is to have one; empty if none would.
    pub err: String,
    /// How many tasks of which services would be stopped for them, at first.
    pub preempted: BTreeMap<String, u64>,
    /// What each node says to the next one; of tasks that are for one node each, those nodes on which they would wait, or all where no
    /// node is to have one.
    pub explanation: Explanation,
}

/// Why tasks of a service wait: in the words that they say themselves, unless the state has moved on.
pub(crate) fn waiting(view: &View, service: ServiceId, now: Timestamp) -> Vec<Waiting> {
    let mut tasks: Vec<Arc<Task>> = view.unplaced_of_service(service).cloned().collect();
    if tasks.is_empty() {
        return Vec::new();
    }
    let eyes = Eyes::of(view, service, now);
    // Each that waits for a room of its own is told by itself.
    let room = |task: &Task| eyes.awaited.get(&task.id).and_then(|nodes| nodes.first()).copied();
    let key = |task: &Task| (task.spec_version, task.for_node(), room(task));
    tasks.sort_by_key(|task| (key(task), task.seat(), task.id));
    let mut out = Vec::new();
    for tasks in tasks.chunk_by(|a, b| key(a) == key(b)) {
        let ask = ask::ask(view, view.service(service).map(|service| &**service), &tasks[0]);
        let (err, explanation) = eyes.said_of(&ask, &tasks[0]);
        let note = match &ask {
            Ok(ask) if !explanation.nodes.is_empty() && !explanation.fits_somewhere() => {
                // Of several that are alike some may wait for their turn.
                let may = tasks.iter().find(|task| may_have_room(task, now));
                eyes.note(ask, may.unwrap_or(&tasks[0]))
            }
            Ok(_) | Err(_) => String::new(),
        };
        out.push(Waiting { tasks: tasks.to_vec(), err, explanation, note });
    }
    out
}

/// What is said is said from these.
struct Eyes<'a> {
    view: &'a View,
    now: Timestamp,
    /// Without what is kept for others.
    picture: Picture,
    ranks: Ranks,
    awaited: BTreeMap<TaskId, BTreeSet<NodeId>>,
    /// What is promised to tasks of other services whose turn is not after its own.
    others: Promises,
    /// That, and what is promised to its own.
    promises: Promises,
}

impl<'a> Eyes<'a> {
    fn of(view: &'a View, service: ServiceId, now: Timestamp) -> Self {
        let own = view.service(service).map_or(0, |service| service.spec.priority());
        Self::ranked(view, service, own, now)
    }

    /// As a service of this priority sees what there is.
    fn ranked(view: &'a View, service: ServiceId, own: u64, now: Timestamp) -> Self {
        let (mut picture, ranks, awaited) = (picture(view), promises::ranks(view), promises::awaited(view));
        let rank = |id: ServiceId| ranks.get(&id).copied().unwrap_or(0);
        let (mut others, mut promises) = (Promises::default(), Promises::default());
        for (other, nodes) in &awaited {
            let Some(other) = view.task(*other).filter(|other| rank(other.service_id) >= own) else {
                continue;
            };
            let asked = ask::ask(view, view.service(other.service_id).map(|service| &**service), other);
            let (Some(node), Ok(ask)) = (nodes.first(), asked) else { continue };
            let ask = Arc::new(ask);
            promises.add(other, &ask, *node);
            if other.service_id != service {
                picture.hold(&ask, *node);
                others.add(other, &ask, *node);
            }
        }
        Self { view, now, picture, ranks, awaited, others, promises }
    }

    fn said_of(&self, ask: &Result<Ask, String>, task: &Task) -> (String, Explanation) {
        let view = self.view;
        let no_ports = view.service(task.service_id).and_then(|service| lacks_ports(view, service));
        if let Some(err) = no_ports {
            return (err.to_string(), Explanation::default());
        }
        if lacks_address(task) && *task.status.err == *NO_ADDRESS {
            return (NO_ADDRESS.to_owned(), Explanation::default());
        }
        let ask = match ask {
            Ok(ask) => ask,
            Err(err) => return (err.clone(), Explanation::default()),
        };
        let crowd = self.crowd(ask, task);
        let (explanation, err) = match task.for_node() {
            Some(node) => {
                let explanation = self.picture.explain_on(ask, &crowd, node);
                let first = explanation.nodes.first().and_then(|answer| answer.refusals.first());
                let err = first.map_or(Filter::Ready, |(filter, _)| *filter).explain(1);
                (explanation, err)
            }
            None => {
                let explanation = self.picture.explain(ask, &crowd);
                let err = explanation.refused().explain();
                (explanation, err)
            }
        };
        // There may be several rooms that are for it: it says itself which one it waits for.
        let rooms = self.awaited.get(&task.id).into_iter().flatten();
        let said =
            rooms.map(|node| promises::waits_on(view, *node)).find(|words| *task.status.err == **words);
        let err = if explanation.fits_somewhere() { NOT_YET.to_owned() } else { said.unwrap_or(err) };
        (err, explanation)
    }

    fn crowd(&self, ask: &Ask, task: &Task) -> Crowd {
        let crowd = match task.for_node() {
            Some(node) => ask::crowd_of_node(self.view, ask, task, node),
            None => ask::crowd(self.view, ask, task, self.now),
        };
        self.others.joined(task.service_id, ask, crowd)
    }

    /// Why a task has nobody stopped, where it does not.
    fn stops_nobody(&self, task: &Task) -> Option<&'static str> {
        let may = |service: &Arc<Service>| may_preempt(self.view, service);
        if !self.view.service(task.service_id).is_some_and(may) {
            return Some("while its service's update is paused");
        }
        if may_have_room(task, self.now) {
            return None;
        }
        Some(if task.desired_state < TaskState::Running {
            "before its delay is over and what it follows has stopped"
        } else if task.moved_from().is_some() {
            "since it is a move that makes nodes even"
        } else {
            "until 5 minutes after the last failure in its seat"
        })
    }

    /// What a task's priority is to it that fits on no node.
    fn note(&self, ask: &Ask, task: &Task) -> String {
        let Some(priority) = self.ranks.get(&task.service_id).copied() else { return String::new() };
        if let Some(node) = self.awaited.get(&task.id).and_then(|nodes| nodes.first()) {
            let stops = self.view.rooms().filter(|(other, _)| *other == task.id).count();
            let tasks = if stops == 1 { "1 task".to_owned() } else { format!("{stops} tasks") };
            let words = promises::waits_on(self.view, *node);
            return format!("priority {priority}: {words}, {tasks} still to go; nobody else gets their room");
        }
        if let Some(why) = self.stops_nobody(task) {
            return format!("priority {priority}: nobody is stopped for it {why}");
        }
        let crowd = Crowd { port_holders: BTreeSet::new(), ..ask::crowd(self.view, ask, task, self.now) };
        let crowd = self.promises.joined(task.service_id, ask, crowd);
        let offer = |node| offer_of(self.view, &self.ranks, &self.promises, (ask, &crowd), node, priority);
        let best = match task.for_node() {
            Some(node) => offer(node),
            None => self.view.nodes().filter_map(|node| offer(node.id)).min(),
        };
        match best {
            Some(best) if best.victims.is_empty() => {
                format!("priority {priority}: {} next", promises::waits_on(self.view, best.node))
            }
            Some(best) if !may_go(self.view, &best) => {
                format!("priority {priority}: would preempt others once fewer are on their way out")
            }
            Some(best) => {
                let victims = best.victims.iter().filter_map(|id| self.view.task(*id));
                let tasks: Vec<String> = by_service(victims).iter().map(tasks_of).collect();
                let node = promises::name_of(self.view, best.node);
                format!("priority {priority}: would preempt {} on {node}", tasks.join(", "))
            }
            None => {
                format!("priority {priority}: no node would do without all tasks of lower priority either")
            }
        }
    }
}

/// How many tasks of each service there are, by name.
fn by_service<'a>(tasks: impl Iterator<Item = &'a Arc<Task>>) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for task in tasks {
        *found.entry(task.spec.name.clone()).or_default() += 1;
    }
    found
}

fn tasks_of((service, n): (&String, &u64)) -> String {
    let tasks = if *n == 1 { "1 task".to_owned() } else { format!("{n} tasks") };
    format!("{tasks} of service {service}")
}

/// Where the tasks of a new service would go, and whose room they would take.
pub(crate) fn plan(view: &View, spec: &ServiceSpec, now: Timestamp) -> Plan {
    let mut plan = placed(view, spec, now);
    if plan.n_waiting > 0 {
        plan.preempted = preempted(view, spec, now);
    }
    plan
}

/// Whom the first pass would stop that sees the service.
fn preempted(view: &View, spec: &ServiceSpec, now: Timestamp) -> BTreeMap<String, u64> {
    if spec.priority() == 0 {
        return BTreeMap::new();
    }
    let id = ServiceId(Id(u128::MAX));
    let mut draft = Draft::new(view.clone(), now);
    // There may be one of its name.
    let spec = ServiceSpec { name: id.to_string(), ..spec.clone() };
    // A job runs as if its time had come.
    let last_execution = if spec.mode().is_job() { now } else { Timestamp::ZERO };
    let service = Service { id, spec: Arc::new(spec), last_execution, ..Service::default() };
    if draft.push(Change::PutService(Arc::new(service))).is_err() {
        return BTreeMap::new();
    }
    let dirty = Dirty { services: [id].into(), ..Dirty::default() };
    let (mut ids, mut memo) = (SeededIds(1), Memo::default());
    let found = pass((*draft).clone(), &dirty, now, &mut ids, &mut memo, usize::MAX).draft;
    let is_its = |id_of: TaskId| found.task(id_of).is_some_and(|task| task.service_id == id);
    let is_new = |task: &Task| view.task(task.id).is_some_and(|before| before.is_wanted());
    by_service(found.rooms().filter(|(other, task)| is_its(*other) && is_new(task)).map(|(_, task)| task))
}

fn placed(view: &View, spec: &ServiceSpec, now: Timestamp) -> Plan {
    let service = Service { spec: Arc::new(spec.clone()), ..Service::default() };
    let ports = assign_ports(view, service.id, spec, &[]).map_err(|error| error.to_string());
    let ask = match ports.and_then(|ports| ask::of_spec(view, spec, &ports)) {
        Ok(ask) => ask,
        Err(err) => return Plan { n_waiting: n_wanted(view, spec), err, ..Plan::default() },
    };
    // Rooms that tasks wait for whose turn is not after its own are theirs.
    let eyes = Eyes::ranked(view, service.id, spec.priority(), now);
    let crowd = Crowd { port_holders: super::port_holders(view, &ask).collect(), ..Crowd::default() };
    let crowd = eyes.others.joined(service.id, &ask, crowd);
    match spec.mode() {
        Mode::Replicated { .. } | Mode::ReplicatedJob { .. } => plan_anywhere(eyes, spec, &ask, crowd),
        Mode::Global | Mode::GlobalJob => plan_on_each(eyes, spec, &ask, &crowd),
    }
}

fn plan_anywhere(eyes: Eyes<'_>, spec: &ServiceSpec, ask: &Ask, mut crowd: Crowd) -> Plan {
    let Eyes { view, mut picture, .. } = eyes;
    let mut plan = Plan::default();
    let n_tasks = n_wanted(view, spec);
    let placement = picture.place(ask, &crowd, usize::try_from(n_tasks).unwrap_or(usize::MAX));
    for given in &placement.nodes {
        *plan.nodes.entry(given.node).or_default() += 1;
    }
    plan.n_waiting = n_tasks - plan.nodes.values().sum::<u64>();
    plan.err = placement.refused.map(|refused| refused.explain()).unwrap_or_default();
    crowd.tasks.clone_from(&plan.nodes);
    if !ask.host_ports.is_empty() {
        crowd.port_holders.extend(plan.nodes.keys());
    }
    plan.explanation = picture.explain(ask, &crowd);
    plan
}

/// Nodes that the service asks for get a task, and it waits there if it does not fit; others get none.
fn plan_on_each(eyes: Eyes<'_>, spec: &ServiceSpec, ask: &Ask, crowd: &Crowd) -> Plan {
    let Eyes { view, mut picture, .. } = eyes;
    let mut plan = Plan::default();
    let mut refused = Refused::default();
    for node in asked_for(view, spec) {
        match picture.place_on(ask, crowd, node) {
            Ok(_) => {
                plan.nodes.insert(node, 1);
            }
            Err(filter) => *refused.0.entry(filter).or_default() += 1,
        }
    }
    plan.n_waiting = refused.0.values().sum::<usize>().try_into().unwrap_or(u64::MAX);
    plan.err = refused.counts();
    let waits: BTreeSet<NodeId> = asked_for(view, spec).filter(|id| !plan.nodes.contains_key(id)).collect();
    plan.explanation = picture.explain(ask, crowd);
    if plan.nodes.is_empty() && waits.is_empty() {
        NO_NODE.clone_into(&mut plan.err);
        return plan;
    }
    plan.explanation.nodes.retain(|answer| waits.contains(&answer.node));
    plan.explanation.remedies.clear();
    plan
}

fn asked_for(view: &View, spec: &ServiceSpec) -> impl Iterator<Item = NodeId> {
    let fit = Fit::asked(spec);
    view.nodes().map(|node| node.id).filter(move |id| fit.may_fill(view, SeatKey::Node(*id)))
}

/// How many tasks there would be at once.
fn n_wanted(view: &View, spec: &ServiceSpec) -> u64 {
    match spec.mode() {
        Mode::Replicated { replicas } => replicas,
        Mode::ReplicatedJob { concurrent, total } => concurrent.min(total),
        Mode::Global | Mode::GlobalJob => u64::try_from(asked_for(view, spec).count()).unwrap_or(u64::MAX),
    }
}
