//! What apply holds for seats, nodes' resources, words and times: one case a rule.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use skep_api::{
    Id, NodeId, RequestId, ServiceId, TaskId, TaskState, TicketId, Timestamp,
    id::SeededIds,
    object::{
        Cluster, GenericResource, Node, NodeState, NodeStatus, PastSpec, SeatKey, Service, Task, TaskExtra,
        TaskStatus, Ticket,
    },
    spec::{PortConfig, ServiceSpec},
};
use skep_store::{
    Assigned, Change, Draft, FEATURE_LEVEL, Guard, GuardKind, Proposal, ProposalError, RefusalKind, Store,
    View, decode_result,
};

const WEB: ServiceId = ServiceId(Id(1));

fn propose_at(store: &mut Store, now: i64, changes: Vec<Change>) -> Result<u64, ProposalError> {
    let proposal = Proposal { changes, now: Timestamp(now), ..Proposal::default() };
    decode_result(&store.apply(&proposal.encode()).answer)
}

fn propose(store: &mut Store, changes: Vec<Change>) -> Result<u64, ProposalError> {
    propose_at(store, 1, changes)
}

fn refusal(result: Result<u64, ProposalError>) -> RefusalKind {
    match result {
        Err(ProposalError::Refused(refusal)) => refusal.kind,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn spec(name: &str, force: u64) -> Arc<ServiceSpec> {
    let mut spec = ServiceSpec { name: name.into(), ..ServiceSpec::default() };
    spec.task_template.force_update = Some(force);
    Arc::new(spec)
}

fn service() -> Service {
    Service { id: WEB, spec: spec("web", 0), ..Service::default() }
}

fn put_service(service: Service) -> Change {
    Change::PutService(Arc::new(service))
}

fn put_task(task: Task) -> Change {
    Change::PutTask(Arc::new(task))
}

fn level(feature_level: u32) -> Change {
    Change::PutCluster(Arc::new(Cluster { feature_level, ..Cluster::default() }))
}

fn store() -> Store {
    let mut store = Store::default();
    propose(&mut store, vec![level(FEATURE_LEVEL), put_service(service())]).unwrap();
    store
}

fn task(view: &View, id: u128, slot: u64) -> Task {
    Task::new(TaskId(Id(id)), view.service(WEB).unwrap(), slot)
}

fn with(task: Task, extra: TaskExtra) -> Task {
    Task { extra: Some(Box::new(extra)), ..task }
}

fn node(id: u128) -> NodeId {
    NodeId(Id(id))
}

#[test]
fn a_seat_has_one_task_or_two_while_the_newer_takes_over() {
    let mut store = store();
    let view = store.view();
    propose(&mut store, vec![put_task(task(&view, 1, 1))]).unwrap();
    let beside = |id: u128, other: u128| {
        let beside = Some(TaskId(Id(other)));
        put_task(with(task(&view, id, 1), TaskExtra { beside, ..TaskExtra::default() }))
    };
    // Beside another one than that which is there.
    assert_eq!(refusal(propose(&mut store, vec![beside(2, 9)])), RefusalKind::SlotTaken);
    propose(&mut store, vec![beside(2, 1)]).unwrap();
    assert_eq!(refusal(propose(&mut store, vec![beside(3, 2)])), RefusalKind::SlotTaken);
    let gone = Task { desired_state: TaskState::Shutdown, ..task(&view, 1, 1) };
    propose(&mut store, vec![put_task(gone), beside(3, 2)]).unwrap();
    assert_eq!(store.view().tasks_of_seat(WEB, SeatKey::Slot(1)).len(), 3);
}

#[test]
fn a_node_is_a_seat_of_its_own() {
    let mut store = store();
    let view = store.view();
    let on = |id: u128, n: u128| {
        with(task(&view, id, 0), TaskExtra { for_node: Some(node(n)), ..TaskExtra::default() })
    };
    propose(&mut store, vec![put_task(on(1, 1)), put_task(on(2, 2))]).unwrap();
    assert_eq!(refusal(propose(&mut store, vec![put_task(on(3, 1))])), RefusalKind::SlotTaken);
    let found = |store: &Store, seat| {
        store.view().tasks_of_seat(WEB, seat).iter().map(|task| task.id).collect::<Vec<_>>()
    };
    assert_eq!(found(&store, SeatKey::Node(node(2))), [TaskId(Id(2))]);
    assert_eq!(found(&store, SeatKey::Slot(0)), []);
    assert_eq!(store.view().tasks_of_service(WEB).count(), 2);
    assert_eq!(on(1, 1).name(), format!("web.{}.{}", node(1), TaskId(Id(1))));
    // It is no node's task until it was assigned.
    assert_eq!(store.view().tasks_of_node(node(1)).count(), 0);
}

#[test]
fn a_task_keeps_its_seat_its_update_and_whom_it_runs_beside() {
    let mut store = store();
    let extra = TaskExtra { for_node: Some(node(1)), job_iteration: 1, ..TaskExtra::default() };
    let made = Task { update: 3, ..with(task(&store.view(), 1, 0), extra.clone()) };
    propose(&mut store, vec![put_task(made.clone())]).unwrap();
    for other in [
        Task { slot: 1, ..made.clone() },
        Task { update: 4, ..made.clone() },
        Task { extra: None, ..made.clone() },
        with(made.clone(), TaskExtra { for_node: Some(node(2)), ..extra.clone() }),
        with(made.clone(), TaskExtra { beside: Some(TaskId(Id(2))), ..extra.clone() }),
        with(made.clone(), TaskExtra { job_iteration: 2, ..extra.clone() }),
    ] {
        assert_eq!(refusal(propose(&mut store, vec![put_task(other)])), RefusalKind::Stale);
    }
    propose(&mut store, vec![put_task(with(made, TaskExtra { restarts: 2, ..extra }))]).unwrap();
}

#[test]
fn a_task_of_a_job_is_wanted_beyond_running() {
    let mut store = store();
    let made = Task { desired_state: TaskState::Complete, ..task(&store.view(), 1, 1) };
    propose(&mut store, vec![put_task(made.clone())]).unwrap();
    assert_eq!(store.view().unplaced_of_service(WEB).count(), 1);
    let placed = Task { node_id: Some(node(1)), ..made };
    propose(&mut store, vec![put_task(placed)]).unwrap();
    assert_eq!(store.view().node_load(node(1)).n_tasks, 1);
    let done = TaskStatus { state: TaskState::Complete, ..TaskStatus::default() };
    propose(&mut store, vec![Change::TaskStatus(TaskId(Id(1)), done)]).unwrap();
    assert_eq!(store.view().node_load(node(1)).n_tasks, 0);
}

fn gpu(value: &str) -> GenericResource {
    GenericResource::Named { kind: "gpu".into(), value: value.into() }
}

fn assign(id: u128, on: u128, given: Vec<GenericResource>) -> Change {
    let status = TaskStatus {
        state: TaskState::Assigned,
        timestamp: Timestamp(7),
        message: "scheduler assigned task to node".into(),
        ..TaskStatus::default()
    };
    Change::AssignTask(TaskId(Id(id)), Assigned { node: node(on), status, given })
}

#[test]
fn a_task_gets_its_node_once_and_nothing_else_changes() {
    let mut store = store();
    let view = store.view();
    propose(&mut store, vec![put_task(task(&view, 1, 1))]).unwrap();
    let before = Arc::clone(store.view().task(TaskId(Id(1))).unwrap());
    assert_eq!(refusal(propose(&mut store, vec![assign(2, 1, vec![])])), RefusalKind::Missing);
    propose(&mut store, vec![assign(1, 1, vec![])]).unwrap();
    let after = Arc::clone(store.view().task(TaskId(Id(1))).unwrap());
    assert!(after.meta.version > before.meta.version, "decisions guard on it");
    assert_eq!((after.node_id, after.status.state), (Some(node(1)), TaskState::Assigned));
    let expect =
        Task { meta: after.meta, node_id: after.node_id, status: after.status.clone(), ..(*before).clone() };
    assert_eq!(*after, expect);
    assert_eq!(store.view().tasks_of_node(node(1)).count(), 1);
    assert_eq!(store.view().unplaced_tasks().count(), 0);
    assert_eq!(refusal(propose(&mut store, vec![assign(1, 2, vec![])])), RefusalKind::Stale);
}

#[test]
fn a_draft_makes_one_write_of_a_task_that_is_made_and_assigned() {
    let mut store = store();
    let mut draft = Draft::new(store.view(), Timestamp(5));
    let made = task(&draft, 1, 1);
    draft.push(put_task(made)).unwrap();
    draft.push(assign(1, 1, vec![gpu("a")])).unwrap();
    let shown = Arc::clone(draft.task(TaskId(Id(1))).unwrap());
    let first = draft.into_proposals([], &mut SeededIds(1));
    assert!(matches!(first[0].changes.as_slice(), [Change::PutTask(_)]), "{:?}", first[0].changes);
    decode_result(&store.apply(&first[0].encode()).answer).unwrap();
    let stored = Arc::clone(store.view().task(TaskId(Id(1))).unwrap());
    assert_eq!((&stored.status, stored.node_id), (&shown.status, shown.node_id));
    assert_eq!(stored.given(), [gpu("a")]);

    // Of one that is there already, it is what was drafted; and it is guarded.
    let view = store.view();
    propose(&mut store, vec![put_task(task(&view, 2, 2))]).unwrap();
    let mut draft = Draft::new(store.view(), Timestamp(6));
    draft.push(assign(2, 1, vec![])).unwrap();
    let second = draft.into_proposals([], &mut SeededIds(2)).remove(0);
    assert!(matches!(second.changes.as_slice(), [Change::AssignTask(..)]));
    let expect = Guard {
        kind: GuardKind::Task,
        id: Id(2),
        version: store.view().task(TaskId(Id(2))).unwrap().meta.version,
    };
    assert_eq!(second.guards, [expect]);
}

#[test]
fn a_named_resource_has_one_task_on_its_node() {
    let mut store = store();
    let view = store.view();
    for id in 1..=3 {
        propose(&mut store, vec![put_task(task(&view, id, u64::try_from(id).unwrap()))]).unwrap();
    }
    let ssd = |amount| GenericResource::Discrete { kind: "ssd".into(), amount };
    propose(&mut store, vec![assign(1, 1, vec![gpu("a"), ssd(2)])]).unwrap();
    assert_eq!(refusal(propose(&mut store, vec![assign(2, 1, vec![gpu("a")])])), RefusalKind::ResourceTaken);
    propose(&mut store, vec![assign(2, 1, vec![gpu("b"), ssd(3)]), assign(3, 2, vec![gpu("a")])]).unwrap();
    let load = store.view().node_load(node(1)).generic.unwrap();
    assert_eq!((load.named.len(), load.amounts["ssd"]), (2, 5));
    // Once its task has ended it is free.
    let ended = TaskStatus { state: TaskState::Failed, timestamp: Timestamp(9), ..TaskStatus::default() };
    for id in [1, 2] {
        propose(&mut store, vec![Change::TaskStatus(TaskId(Id(id)), ended.clone())]).unwrap();
    }
    assert_eq!(store.view().node_load(node(1)), skep_store::NodeLoad::default());
}

/// A task that the manager stops with words, and its agent's report of that.
fn stopped_with_words(feature_level: u32) -> String {
    let mut store = Store::default();
    propose(&mut store, vec![level(feature_level), put_service(service())]).unwrap();
    let mut made = task(&store.view(), 1, 1);
    made.node_id = Some(node(1));
    propose(&mut store, vec![put_task(made.clone())]).unwrap();
    made.desired_state = TaskState::Shutdown;
    made.status.err = "why".into();
    made.status.timestamp = Timestamp(1);
    propose(&mut store, vec![put_task(made)]).unwrap();
    let report = TaskStatus { state: TaskState::Shutdown, timestamp: Timestamp(2), ..TaskStatus::default() };
    propose(&mut store, vec![Change::TaskStatus(TaskId(Id(1)), report)]).unwrap();
    store.view().task(TaskId(Id(1))).unwrap().status.err.to_string()
}

#[test]
fn why_we_stopped_a_task_stays_when_its_agent_says_that_it_did() {
    assert_eq!(stopped_with_words(2), "why");
    // As managers of an older build have it.
    assert_eq!(stopped_with_words(1), "");
}

#[test]
fn a_node_says_since_when_it_is_what_it_is() {
    let status = |state| NodeStatus { state, ..NodeStatus::default() };
    let down = |store: &Store| store.view().down_nodes().collect::<Vec<_>>();
    let mut store = Store::default();
    propose(&mut store, vec![level(1)]).unwrap();
    propose(&mut store, vec![Change::PutNode(Arc::new(Node { id: node(1), ..Node::default() }))]).unwrap();
    propose_at(&mut store, 5, vec![Change::NodeStatus(node(1), status(NodeState::Down))]).unwrap();
    assert_eq!(down(&store), [(Timestamp::ZERO, node(1))]);
    propose(&mut store, vec![level(2)]).unwrap();
    // Nobody knows since when: since the first word of it.
    propose_at(&mut store, 5, vec![Change::NodeStatus(node(1), status(NodeState::Down))]).unwrap();
    assert_eq!(down(&store), [(Timestamp(5), node(1))]);
    propose_at(&mut store, 6, vec![Change::NodeStatus(node(1), status(NodeState::Ready))]).unwrap();
    assert_eq!(down(&store), []);
    propose_at(&mut store, 7, vec![Change::NodeStatus(node(1), status(NodeState::Down))]).unwrap();
    let words = NodeStatus { message: "again".into(), ..status(NodeState::Down) };
    propose_at(&mut store, 8, vec![Change::NodeStatus(node(1), words.clone())]).unwrap();
    assert_eq!(down(&store), [(Timestamp(7), node(1))]);
    // No news is no change, whatever time it names.
    let stale = Change::NodeStatus(node(1), NodeStatus { since: Timestamp(1), ..words });
    let applied = store.apply(&Proposal { changes: vec![stale], ..Proposal::default() }.encode());
    assert_eq!(applied.changed, []);
    let mut bytes = Vec::new();
    store.write(&mut bytes).unwrap();
    assert_eq!(down(&Store::restore(&mut &*bytes).unwrap()), down(&store));
    propose(&mut store, vec![Change::DeleteNode(node(1))]).unwrap();
    assert_eq!(down(&store), []);
}

#[test]
fn ports_are_found_by_who_asks_and_who_has_them() {
    let mut store = store();
    let port = |mode: &str, published_port| PortConfig {
        published_port,
        publish_mode: mode.into(),
        ..PortConfig::default()
    };
    let asking = |ports: Vec<PortConfig>| {
        let json = serde_json::json!({ "Name": "web", "EndpointSpec": { "Ports": ports } });
        put_service(Service { spec: Arc::new(serde_json::from_value(json).unwrap()), ..service() })
    };
    propose(&mut store, vec![asking(vec![port("ingress", 80), port("host", 81), port("ingress", 0)])])
        .unwrap();
    let asks = |store: &Store, n| store.view().services_asking_for("tcp", n).count();
    assert_eq!([80, 81, 0].map(|n| asks(&store, n)), [1, 1, 0]);
    propose(&mut store, vec![asking(vec![port("ingress", 82)])]).unwrap();
    assert_eq!([80, 81, 82].map(|n| asks(&store, n)), [0, 0, 1]);
    let view = store.view();
    let on = |id: u128, n: u128| Task {
        node_id: Some(node(n)),
        ports: vec![port("host", 81)].into(),
        ..task(&view, id, u64::try_from(id).unwrap())
    };
    propose(&mut store, vec![put_task(on(1, 2)), put_task(on(2, 1))]).unwrap();
    assert!(store.view().nodes_with_host_port("tcp", 81).eq([node(1), node(2)]));
    assert_eq!(store.view().nodes_with_host_port("udp", 81).count(), 0);
    propose(&mut store, vec![Change::DeleteService(WEB)]).unwrap();
    assert_eq!(asks(&store, 82), 0);
}

#[test]
fn what_touches_a_node_is_found() {
    let mut store = store();
    for id in 1..=3 {
        let new = Node { id: node(id), ..Node::default() };
        propose(&mut store, vec![Change::PutNode(Arc::new(new))]).unwrap();
    }
    let old = store.view();
    propose(&mut store, vec![put_task(task(&old, 1, 1))]).unwrap();
    assert!(store.view().nodes_touched_since(&old).is_empty());
    propose(&mut store, vec![assign(1, 2, vec![]), Change::DeleteNode(node(3))]).unwrap();
    assert!(store.view().nodes_touched_since(&old).into_iter().eq([node(2), node(3)]));
}

#[test]
fn a_ticket_is_guarded_and_kept() {
    let mut store = store();
    let ticket = |uses_left| {
        Change::PutTicket(Arc::new(Ticket {
            id: TicketId(Id(1)),
            uses_left: Some(uses_left),
            ..Ticket::default()
        }))
    };
    propose(&mut store, vec![ticket(2)]).unwrap();
    let version = store.view().ticket(TicketId(Id(1))).unwrap().meta.version;
    let mut use_it = |version| {
        let guards = vec![Guard { kind: GuardKind::Ticket, id: Id(1), version }];
        let request = Some(RequestId(Id(u128::from(version) + 9)));
        let proposal = Proposal { guards, request, changes: vec![ticket(1)], ..Proposal::default() };
        decode_result(&store.apply(&proposal.encode()).answer)
    };
    use_it(version).unwrap();
    assert_eq!(refusal(use_it(version + 7)), RefusalKind::Stale);
    let before = store.view();
    propose(&mut store, vec![Change::DeleteTicket(TicketId(Id(1)))]).unwrap();
    assert_eq!(before.diff(&store.view()), [skep_store::ObjectRef::Ticket(TicketId(Id(1)))]);
    assert_eq!(store.view().tickets().count(), 0);
}

#[test]
fn specs_that_a_service_had_are_kept_once() {
    let mut store = store();
    let old = Arc::clone(store.view().service(WEB).unwrap());
    let past = |spec: &Arc<ServiceSpec>| PastSpec { spec: Arc::clone(spec), ..PastSpec::default() };
    let next = Service { spec: spec("web", 1), previous_spec: Some(Arc::clone(&old.spec)), ..service() };
    propose(&mut store, vec![put_service(next.clone())]).unwrap();
    let second = Arc::clone(store.view().service(WEB).unwrap());
    // What was decoded from the log shares what is there.
    assert!(Arc::ptr_eq(second.previous_spec.as_ref().unwrap(), &old.spec));
    let third = Service {
        spec: spec("web", 2),
        previous_spec: Some(Arc::clone(&second.spec)),
        history: vec![past(&old.spec)].into(),
        ..next
    };
    propose(&mut store, vec![put_service(third)]).unwrap();
    let third = Arc::clone(store.view().service(WEB).unwrap());
    assert!(Arc::ptr_eq(&third.history[0].spec, &old.spec));
    propose(&mut store, vec![put_service((*third).clone())]).unwrap();
    assert!(Arc::ptr_eq(&store.view().service(WEB).unwrap().history, &third.history));
}

#[test]
fn names_of_new_services_differ_by_more_than_case() {
    let alike = || Service { id: ServiceId(Id(2)), spec: spec("WEB", 0), ..service() };
    let mut store = Store::default();
    propose(&mut store, vec![level(1), put_service(service()), put_service(alike())]).unwrap();
    // Those that are there stay, and are changed and restored like all.
    propose(&mut store, vec![level(2), put_service(Service { spec: spec("WEB", 1), ..alike() })]).unwrap();
    let mut bytes = Vec::new();
    store.write(&mut bytes).unwrap();
    assert!(Store::restore(&mut &*bytes).unwrap() == store);
    let third = Service { id: ServiceId(Id(3)), spec: spec("Web", 0), ..service() };
    assert_eq!(refusal(propose(&mut store, vec![put_service(third.clone())])), RefusalKind::NameTaken);
    let gone = vec![Change::DeleteService(WEB), Change::DeleteService(ServiceId(Id(2)))];
    propose(&mut store, gone).unwrap();
    propose(&mut store, vec![put_service(third)]).unwrap();
}
