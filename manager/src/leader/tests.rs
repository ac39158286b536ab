//! The leader's proposals on their way while users and agents write: a log that applies late, answers that
//! come later still, all in an order that a seed gives.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use skep_api::{
    Id, NodeId, RequestId, ServiceId, TaskId, TaskState, Timestamp,
    id::SeededIds,
    object::{Node, NodeState, Service, Task, TaskStatus},
};
use skep_store::{Assigned, Change, Dirty, Draft, Guard, GuardKind, Proposal, Store, View, decode_result};

use super::ahead::Ahead;
use crate::{
    machine::Published,
    pass::{Memo, pass},
};

const N_SERVICES: u64 = 4;

/// How many tasks a user asks of a service; None: to remove it.
type Asked = (ServiceId, Option<u64>);

struct Line {
    random: u64,
    store: Store,
    /// What is in the log and not applied.
    log: VecDeque<(Proposal, Option<Asked>)>,
    answers: VecDeque<(RequestId, bool)>,
    ahead: Ahead,
    dirty: Dirty,
    memo: Memo,
    /// Small enough that some passes do not come to all services.
    budget: usize,
    ids: SeededIds,
    now: Timestamp,
    /// What users asked for last and were granted.
    wanted: BTreeMap<ServiceId, u64>,
    n_made: u128,
    n_refused: usize,
    n_built_upon: usize,
}

impl Line {
    fn new(seed: u64) -> Self {
        let mut line = Self {
            random: seed,
            store: Store::default(),
            log: VecDeque::new(),
            answers: VecDeque::new(),
            ahead: Ahead::default(),
            dirty: Dirty::everything(),
            memo: Memo::default(),
            budget: 1 + usize::try_from(seed % 7).unwrap(),
            ids: SeededIds(seed),
            now: Timestamp(1_000),
            wanted: BTreeMap::new(),
            n_made: 0,
            n_refused: 0,
            n_built_upon: 0,
        };
        for n in 1..=3 {
            let mut node = Node { id: NodeId(Id(n)), ..Node::default() };
            node.status.state = NodeState::Ready;
            line.log.push_back((of(vec![Change::PutNode(Arc::new(node))]), None));
            line.apply();
        }
        line
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % n
    }

    fn view(&self) -> View {
        self.store.view()
    }

    /// A user creates, scales, changes or removes a service, on the state that is applied.
    fn user(&mut self) {
        let ids: Vec<ServiceId> = self.view().services().map(|service| service.id).collect();
        let which = usize::try_from(self.below(N_SERVICES)).unwrap();
        let id = ids.get(which).copied().unwrap_or_else(|| {
            // Ids are never used again.
            self.n_made += 1;
            ServiceId(Id(self.n_made))
        });
        let (replicas, force) = (self.below(6), self.below(3));
        let old = self.view().service(id).cloned();
        let guard = Guard {
            kind: GuardKind::Service,
            id: id.0,
            version: old.as_ref().map_or(0, |service| service.meta.version),
        };
        let (change, wanted) = if old.is_some() && self.below(5) == 0 {
            (Change::DeleteService(id), None)
        } else {
            let spec = format!(
                r#"{{"Name":"s{id}","TaskTemplate":{{"ContainerSpec":{{"Image":"ok"}},"ForceUpdate":{force}}},
                    "Mode":{{"Replicated":{{"Replicas":{replicas}}}}},
                    "EndpointSpec":{{"Ports":[{{"TargetPort":80}}]}}}}"#
            );
            let mut service = old.map_or_else(|| Service { id, ..Service::default() }, |old| (*old).clone());
            service.previous_spec = Some(service.spec.clone());
            service.spec = Arc::new(serde_json::from_str(&spec).unwrap());
            (Change::PutService(Arc::new(service)), Some(replicas))
        };
        let proposal = Proposal { guards: vec![guard], ..of(vec![change]) };
        self.log.push_back((proposal, Some((id, wanted))));
    }

    /// Each task goes one state on, or stops.
    fn agents(&mut self) {
        let on = |task: &Task| {
            let state = if task.desired_state > TaskState::Running {
                TaskState::Shutdown
            } else {
                TaskState::Running
            };
            TaskStatus { state, timestamp: self.now, ..TaskStatus::default() }
        };
        let view = self.view();
        let due = view.tasks().filter(|task| task.node_id.is_some() && task.is_live());
        let changes: Vec<Change> = due
            .filter(|task| task.status.state < TaskState::Running || task.desired_state > TaskState::Running)
            .map(|task| Change::TaskStatus(task.id, on(task)))
            .collect();
        if !changes.is_empty() {
            self.log.push_back((of(changes), None));
        }
    }

    fn leader(&mut self) {
        let published = Published { view: self.store.view(), requests: self.store.requests() };
        if let Some(view) = self.ahead.view(&published)
            && !self.dirty.is_empty()
        {
            self.n_built_upon += usize::from(!self.ahead.is_empty());
            let dirty = std::mem::take(&mut self.dirty);
            let result = pass(view, &dirty, self.now, &mut self.ids, &mut self.memo, self.budget);
            assert_eq!(result.draft.refusals(), []);
            self.dirty.merge(result.rest);
            self.ahead.take(result.draft, &mut self.ids);
        }
        while let Some(proposal) = self.ahead.send() {
            self.log.push_back((proposal, None));
        }
    }

    /// The next entry of the log; what users were granted stays as they were granted it.
    fn apply(&mut self) {
        let Some((proposal, user)) = self.log.pop_front() else { return };
        let applied = self.store.apply(&proposal.encode());
        let is_applied = decode_result(&applied.answer).is_ok();
        if let Some(request) = proposal.request {
            self.answers.push_back((request, is_applied));
            self.n_refused += usize::from(!is_applied);
        }
        if let Some((id, wanted)) = user.filter(|_| is_applied) {
            match wanted {
                Some(replicas) => self.wanted.insert(id, replicas),
                None => self.wanted.remove(&id),
            };
        }
        applied.changed.into_iter().for_each(|object| self.dirty.mark(object));
        let stored: BTreeMap<ServiceId, u64> =
            self.view().services().map(|service| (service.id, service.spec.replicas())).collect();
        assert_eq!(stored, self.wanted, "the leader wrote over what a user was granted");
    }

    fn answer(&mut self) {
        if let Some((request, is_applied)) = self.answers.pop_front() {
            let view = self.view();
            self.dirty.merge(self.ahead.answered(request, is_applied, &view));
        }
    }

    fn quiet(&mut self) {
        for _ in 0..500 {
            self.now = Timestamp(self.now.0 + 10_000_000_000);
            self.leader();
            self.agents();
            while !self.log.is_empty() {
                self.apply();
            }
            while !self.answers.is_empty() {
                self.answer();
            }
            self.dirty.services.extend(self.view().services().map(|service| service.id));
            let again = pass(
                self.view(),
                &Dirty::everything(),
                self.now,
                &mut self.ids.clone(),
                &mut Memo::default(),
                usize::MAX,
            );
            self.agents();
            let is_quiet = self.log.is_empty() && self.ahead.is_empty();
            if is_quiet && again.draft.changes().is_empty() && again.wakes.is_empty() {
                return;
            }
        }
        panic!("the swarm does not become quiet");
    }
}

fn of(changes: Vec<Change>) -> Proposal {
    Proposal { changes, now: Timestamp(1), ..Proposal::default() }
}

#[test]
fn what_is_on_its_way_never_undoes_another_write_and_ends_as_if_it_had_waited() {
    let (mut n_refused, mut n_built_upon) = (0, 0);
    for seed in 0..60 {
        let mut line = Line::new(seed);
        for _ in 0..400 {
            line.now = Timestamp(line.now.0 + 50_000_000);
            match line.below(13) {
                0 | 1 => line.user(),
                2 => line.agents(),
                3..=5 => line.leader(),
                6..=9 => line.apply(),
                _ => line.answer(),
            }
        }
        line.quiet();
        let view = line.view();
        for (id, replicas) in &line.wanted {
            let running = view.tasks_of_service(*id).filter(|task| task.status.state == TaskState::Running);
            let n = u64::try_from(running.count()).unwrap();
            let all: Vec<_> =
                view.tasks_of_service(*id).map(|t| (t.slot, t.desired_state, t.status.state)).collect();
            assert_eq!(n, *replicas, "seed {seed}, service {id}: {all:?}");
        }
        n_refused += line.n_refused;
        n_built_upon += line.n_built_upon;
    }
    assert!(n_refused > 100, "users' writes came between too seldom: {n_refused}");
    assert!(n_built_upon > 100, "too few passes drafted on what was on its way: {n_built_upon}");
}

#[test]
fn what_was_given_away_in_vain_is_looked_at_again() {
    let mut line = Line::new(1);
    let (service, task, node) = (ServiceId(Id(9)), TaskId(Id(5)), NodeId(Id(2)));
    let put = |line: &mut Line, change| {
        decode_result(&line.store.apply(&of(vec![change]).encode()).answer).unwrap();
    };
    let spec = serde_json::from_str(r#"{"Name":"a"}"#).unwrap();
    put(
        &mut line,
        Change::PutService(Arc::new(Service { id: service, spec: Arc::new(spec), ..Service::default() })),
    );
    let waits = Task::new(task, line.view().service(service).unwrap(), 1);
    put(&mut line, Change::PutTask(Arc::new(waits)));
    let mut draft = Draft::new(line.view(), Timestamp(2));
    let assigned = Assigned { node, status: TaskStatus::default(), given: Vec::new() };
    draft.push(Change::AssignTask(task, assigned)).unwrap();
    draft.push(Change::PutTicket(Arc::default())).unwrap();
    line.ahead.take(draft, &mut line.ids);
    let sent: Vec<RequestId> =
        std::iter::from_fn(|| line.ahead.send()).filter_map(|sent| sent.request).collect();
    let mut again = Dirty::default();
    let view = line.view();
    for request in sent {
        again.merge(line.ahead.answered(request, false, &view));
    }
    let expect =
        Dirty { services: [service].into(), freed: [node].into(), tickets: true, ..Dirty::default() };
    assert_eq!(again, expect);
}
