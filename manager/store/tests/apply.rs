//! What apply refuses, remembers and merges: one case a rule.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{net::Ipv4Addr, ops::Range, sync::Arc};

use skep_api::{
    Id, NetworkId, NodeId, RequestId, Secret, ServiceId, TaskId, TaskState, Timestamp,
    id::SeededIds,
    object::{Cluster, Network, Node, Service, Subnet, Task, TaskStatus},
    spec::{NetworkAttachment, NetworkSpec, PortConfig, ServiceSpec},
};
use skep_store::{
    Change, Draft, Guard, GuardKind, Proposal, ProposalError, Record, RefusalKind, Store, View, decode_result,
};

fn service(id: u128, name: &str) -> Service {
    let spec = ServiceSpec { name: name.into(), ..ServiceSpec::default() };
    Service { id: ServiceId(Id(id)), spec: Arc::new(spec), ..Service::default() }
}

fn published(service: Service, port: u16) -> Service {
    let port = PortConfig { published_port: port, target_port: 80, ..PortConfig::default() };
    Service { ports: vec![port].into(), ..service }
}

/// A task of service 1, which must be stored already.
fn task(view: &View, id: u128, slot: u64) -> Task {
    Task::new(TaskId(Id(id)), view.service(ServiceId(Id(1))).unwrap(), slot)
}

fn propose(store: &mut Store, changes: Vec<Change>) -> Result<u64, ProposalError> {
    let proposal = Proposal { changes, now: Timestamp(1), ..Proposal::default() };
    decode_result(&store.apply(&proposal.encode()).answer)
}

fn refusal(result: Result<u64, ProposalError>) -> RefusalKind {
    match result {
        Err(ProposalError::Refused(refusal)) => refusal.kind,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn put_task(task: Task) -> Change {
    Change::PutTask(Arc::new(task))
}

fn put_service(service: Service) -> Change {
    Change::PutService(Arc::new(service))
}

fn with_service() -> Store {
    let mut store = Store::default();
    propose(&mut store, vec![put_service(service(1, "web"))]).unwrap();
    store
}

fn running() -> TaskStatus {
    TaskStatus { state: TaskState::Running, timestamp: Timestamp(5), ..TaskStatus::default() }
}

#[test]
fn each_change_raises_the_revision_and_a_refused_proposal_changes_nothing() {
    let mut store = with_service();
    assert_eq!(store.view().revision(), 1);
    let before = store.view();
    let refused = propose(&mut store, vec![put_service(service(2, "b")), put_service(service(3, "web"))]);
    assert_eq!(refusal(refused), RefusalKind::NameTaken);
    assert_eq!(store.view(), before);
    assert_eq!(propose(&mut store, vec![put_service(service(2, "b")), put_service(service(3, "c"))]), Ok(3));
}

#[test]
fn a_guard_refuses_what_was_made_from_an_older_state() {
    let mut store = with_service();
    let id = ServiceId(Id(1));
    let version = store.view().service(id).unwrap().meta.version;
    let write = |version| Proposal {
        guards: vec![Guard { kind: GuardKind::Service, id: id.0, version }],
        changes: vec![put_service(published(service(1, "web"), 80))],
        ..Proposal::default()
    };
    decode_result(&store.apply(&write(version).encode()).answer).unwrap();
    let again = decode_result(&store.apply(&write(version).encode()).answer);
    assert_eq!(again.as_ref().unwrap_err().to_string(), "update out of sequence");
    assert_eq!(refusal(again), RefusalKind::Stale);
    // Version 0: it must not exist.
    assert_eq!(refusal(decode_result(&store.apply(&write(0).encode()).answer)), RefusalKind::Stale);
}

#[test]
fn names_slots_ports_and_addresses_have_one_owner() {
    let mut store = with_service();
    assert_eq!(refusal(propose(&mut store, vec![put_service(service(2, "web"))])), RefusalKind::NameTaken);
    propose(&mut store, vec![put_service(published(service(1, "web"), 80))]).unwrap();
    let taken = propose(&mut store, vec![put_service(published(service(2, "b"), 80))]).unwrap_err();
    let words =
        format!("port '80' is already in use by service 'web' ({}) as an ingress port", ServiceId(Id(1)));
    assert_eq!(taken.to_string(), words);
    let udp = PortConfig { protocol: "udp".into(), published_port: 80, ..PortConfig::default() };
    propose(&mut store, vec![put_service(Service { ports: vec![udp].into(), ..service(2, "b") })]).unwrap();

    let view = store.view();
    propose(&mut store, vec![put_task(task(&view, 1, 1))]).unwrap();
    assert_eq!(refusal(propose(&mut store, vec![put_task(task(&view, 2, 1))])), RefusalKind::SlotTaken);
    // The old one makes room in the same proposal.
    let old = Task { desired_state: TaskState::Shutdown, ..task(&view, 1, 1) };
    propose(&mut store, vec![put_task(old), put_task(task(&view, 2, 1))]).unwrap();

    let address = Some(Ipv4Addr::new(10, 255, 0, 9));
    let holder = Task { ingress_addr: address, ..task(&view, 3, 2) };
    propose(&mut store, vec![put_task(holder.clone())]).unwrap();
    let second = Task { ingress_addr: address, ..task(&view, 4, 3) };
    assert_eq!(refusal(propose(&mut store, vec![put_task(second.clone())])), RefusalKind::AddressTaken);
    let node = Node { id: NodeId(Id(1)), ingress_addr: address, ..Node::default() };
    assert_eq!(
        refusal(propose(&mut store, vec![Change::PutNode(Arc::new(node))])),
        RefusalKind::AddressTaken
    );
    // It is free again once its task has ended.
    let ended = TaskStatus { state: TaskState::Failed, ..running() };
    propose(&mut store, vec![Change::TaskStatus(holder.id, ended)]).unwrap();
    propose(&mut store, vec![put_task(second)]).unwrap();
}

#[test]
fn a_host_port_has_one_task_on_its_node() {
    let mut store = with_service();
    let view = store.view();
    let port = PortConfig { published_port: 80, publish_mode: "host".into(), ..PortConfig::default() };
    let on = |id: u128, slot: u64, node: u128| Task {
        node_id: Some(NodeId(Id(node))),
        ports: vec![port.clone()].into(),
        ..task(&view, id, slot)
    };
    propose(&mut store, vec![put_task(on(1, 1, 1)), put_task(on(2, 2, 2))]).unwrap();
    assert_eq!(refusal(propose(&mut store, vec![put_task(on(3, 3, 1))])), RefusalKind::PortTaken);
    assert_eq!(store.view().host_port_owner(NodeId(Id(1)), "tcp", 80), Some(TaskId(Id(1))));
}

#[test]
fn a_task_never_moves() {
    let mut store = with_service();
    let on = |view: &View, node: u128| Task { node_id: Some(NodeId(Id(node))), ..task(view, 1, 1) };
    let view = store.view();
    propose(&mut store, vec![put_task(on(&view, 1))]).unwrap();
    assert_eq!(refusal(propose(&mut store, vec![put_task(on(&view, 2))])), RefusalKind::Stale);
    assert_eq!(refusal(propose(&mut store, vec![put_task(task(&view, 1, 1))])), RefusalKind::Stale);
    let elsewhere = Task { slot: 2, ..on(&view, 1) };
    assert_eq!(refusal(propose(&mut store, vec![put_task(elsewhere)])), RefusalKind::Stale);
}

#[test]
fn a_repeated_request_is_answered_as_the_first_time_and_applied_once() {
    let mut store = Store::default();
    let request = |n: u128, name: &str| Proposal {
        request: Some(RequestId(Id(n))),
        changes: vec![put_service(service(n, name))],
        ..Proposal::default()
    };
    let first = store.apply(&request(1, "web").encode());
    assert!(!first.changed.is_empty());
    let again = store.apply(&request(1, "web").encode());
    assert_eq!((again.answer, again.changed.len()), (first.answer, 0));
    assert_eq!(store.view().revision(), 1);
    let refused = store.apply(&request(2, "web").encode());
    assert_eq!(refusal(decode_result(&refused.answer)), RefusalKind::NameTaken);
    // A refusal is remembered too, also when it would be allowed by now.
    propose(&mut store, vec![Change::DeleteService(ServiceId(Id(1)))]).unwrap();
    assert_eq!(store.apply(&request(2, "web").encode()).answer, refused.answer);
}

#[test]
fn statuses_only_advance_and_do_not_raise_the_version() {
    let mut store = with_service();
    let view = store.view();
    let id = TaskId(Id(1));
    propose(&mut store, vec![put_task(task(&view, 1, 1))]).unwrap();
    let version = store.view().task(id).unwrap().meta.version;
    let container = TaskStatus { container_id: "c1".into(), running_at: Timestamp(5), ..running() };
    propose(&mut store, vec![Change::TaskStatus(id, container)]).unwrap();
    let older = TaskStatus { state: TaskState::Starting, timestamp: Timestamp(9), ..TaskStatus::default() };
    propose(&mut store, vec![Change::TaskStatus(id, older)]).unwrap();
    let failed = TaskStatus { state: TaskState::Failed, timestamp: Timestamp(6), ..TaskStatus::default() };
    propose(&mut store, vec![Change::TaskStatus(id, failed)]).unwrap();
    let stored = Arc::clone(store.view().task(id).unwrap());
    assert_eq!(stored.status.state, TaskState::Failed);
    assert_eq!((&stored.status.container_id, stored.status.running_at), (&"c1".into(), Timestamp(5)));
    assert_eq!(stored.meta.version, version);
    // A decision made from an older status does not undo it, nor does it take back what is wanted.
    let stopped = Task { desired_state: TaskState::Shutdown, ..task(&view, 1, 1) };
    propose(&mut store, vec![put_task(stopped)]).unwrap();
    propose(&mut store, vec![put_task(task(&view, 1, 1))]).unwrap();
    let stored = Arc::clone(store.view().task(id).unwrap());
    assert_eq!((stored.status.state, stored.desired_state), (TaskState::Failed, TaskState::Shutdown));
    // What is gone is not reported on.
    propose(&mut store, vec![Change::DeleteTask(id)]).unwrap();
    propose(&mut store, vec![Change::TaskStatus(id, running())]).unwrap();
    assert_eq!(store.view().n_tasks(), 0);
}

#[test]
fn tasks_keep_the_spec_they_were_made_of() {
    let mut store = with_service();
    let view = store.view();
    let old_version = view.service(ServiceId(Id(1))).unwrap().spec_version;
    propose(&mut store, vec![put_task(task(&view, 1, 1))]).unwrap();
    let mut changed = service(1, "web");
    Arc::make_mut(&mut changed.spec).task_template.force_update = Some(1);
    propose(&mut store, vec![put_service(changed)]).unwrap();
    let new_version = store.view().service(ServiceId(Id(1))).unwrap().spec_version;
    assert_ne!(old_version, new_version);
    // Another write of the same spec is no new version.
    let same = (**store.view().service(ServiceId(Id(1))).unwrap()).clone();
    propose(&mut store, vec![put_service(published(same, 80))]).unwrap();
    assert_eq!(store.view().service(ServiceId(Id(1))).unwrap().spec_version, new_version);
    let old = Arc::clone(store.view().task(TaskId(Id(1))).unwrap());
    assert_eq!(old.spec.task_template.force_update, None);
    propose(&mut store, vec![put_task(Task { slot: 2, id: TaskId(Id(2)), ..(*old).clone() })]).unwrap();
    // Once nobody has the version, nothing can be made of it.
    propose(&mut store, vec![Change::DeleteTask(TaskId(Id(1))), Change::DeleteTask(TaskId(Id(2)))]).unwrap();
    let late = Task { slot: 3, id: TaskId(Id(3)), ..(*old).clone() };
    assert_eq!(refusal(propose(&mut store, vec![put_task(late)])), RefusalKind::Missing);
}

#[test]
fn other_credentials_are_another_version_of_the_spec() {
    let versions_with = |store: &mut Store, secret: &str| {
        let old = Arc::clone(store.view().service(ServiceId(Id(1))).unwrap());
        let new = Service { registry_auth: Secret::new(secret), ..(*old).clone() };
        propose(store, vec![put_service(new)]).unwrap();
        let new = Arc::clone(store.view().service(ServiceId(Id(1))).unwrap());
        assert!(Arc::ptr_eq(&old.spec, &new.spec), "it is one and the same spec");
        (new.spec_version, new.auth_version)
    };
    let mut store = with_service();
    assert_eq!(versions_with(&mut store, "a"), (1, 0), "older managers know nothing of it");
    let cluster = Cluster { feature_level: 2, ..Cluster::default() };
    propose(&mut store, vec![Change::PutCluster(Arc::new(cluster))]).unwrap();
    assert_eq!(versions_with(&mut store, "a"), (1, 0));
    assert_eq!(versions_with(&mut store, "b"), (5, 5));
    assert_eq!(versions_with(&mut store, "b"), (5, 5));
    let mut other = (**store.view().service(ServiceId(Id(1))).unwrap()).clone();
    Arc::make_mut(&mut other.spec).task_template.force_update = Some(1);
    propose(&mut store, vec![put_service(other)]).unwrap();
    assert_eq!(versions_with(&mut store, "b"), (7, 5));
}

#[test]
fn what_is_no_proposal_is_refused_in_words() {
    let mut store = Store::default();
    let refused = decode_result(&store.apply(b"\xff\xff").answer);
    assert!(refused.as_ref().unwrap_err().to_string().starts_with("malformed proposal"));
    assert_eq!(refusal(refused), RefusalKind::Format);
    // An empty entry has no format.
    assert_eq!(refusal(decode_result(&store.apply(b"").answer)), RefusalKind::Format);
}

#[test]
fn a_draft_is_cut_by_service_keeps_slots_together_and_guards_what_it_was_made_from() {
    let mut store = with_service();
    let view = store.view();
    let tasks: Vec<Change> = (1..=150).map(|n| put_task(task(&view, u128::from(n), n))).collect();
    propose(&mut store, tasks).unwrap();
    let mut draft = Draft::new(store.view(), Timestamp(2));
    for n in 1..=150_u64 {
        let old = (**draft.task(TaskId(Id(u128::from(n)))).unwrap()).clone();
        draft.push(put_task(Task { desired_state: TaskState::Shutdown, ..old })).unwrap();
        let new = task(&view, u128::from(1000 + n), n);
        draft.push(put_task(new.clone())).unwrap();
        // Written twice: goes out once, as it was last.
        draft.push(put_task(Task { node_id: Some(NodeId(Id(1))), ..new })).unwrap();
    }
    draft.push(put_service(service(2, "b"))).unwrap();
    let proposals = draft.into_proposals([], &mut SeededIds(1));
    assert_eq!(proposals.iter().map(|p| p.changes.len()).collect::<Vec<_>>(), [200, 100, 1]);
    assert!(proposals.iter().all(|p| p.guards.len() == p.changes.len()));
    let mut other = store.clone();
    for proposal in &proposals {
        decode_result(&store.apply(&proposal.encode()).answer).unwrap();
    }
    assert_eq!(store.view().tasks_of_node(NodeId(Id(1))).count(), 150);
    // Somebody wrote one of the tasks in between: only its part is refused.
    let one = (**other.view().task(TaskId(Id(1))).unwrap()).clone();
    propose(&mut other, vec![put_task(Task { not_before: Timestamp(3), ..one })]).unwrap();
    let answers: Vec<bool> =
        proposals.iter().map(|p| decode_result(&other.apply(&p.encode()).answer).is_ok()).collect();
    assert_eq!(answers, [false, true, true]);
}

#[test]
fn what_was_drafted_upon_a_proposal_on_its_way_stands_and_falls_with_it() {
    let mut ids = SeededIds(1);
    let store = with_service();
    let with_port = |port: u16| {
        let old = (**store.view().service(ServiceId(Id(1))).unwrap()).clone();
        put_service(published(old, port))
    };
    let drafted = |base: View, port: u16, before: &[Proposal], ids: &mut SeededIds| {
        let mut draft = Draft::new(base, Timestamp(2));
        draft.push(with_port(port)).unwrap();
        // Others of the same proposal do not hide it.
        draft.push(put_task(task(&draft, u128::from(port), u64::from(port)))).unwrap();
        draft.into_proposals(before, ids).remove(0)
    };
    let first = drafted(store.view(), 1, &[], &mut ids);
    let upon = store.view().with(&first).unwrap();
    let second = drafted(upon.clone(), 2, std::slice::from_ref(&first), &mut ids);
    let third = drafted(upon.with(&second).unwrap(), 3, &[first.clone(), second.clone()], &mut ids);
    let port = |store: &Store| store.view().service(ServiceId(Id(1))).unwrap().ports[0].published_port;
    let users = |store: &mut Store| propose(store, vec![with_port(80)]).unwrap();
    let apply = |store: &mut Store, proposal: &Proposal| {
        decode_result(&store.apply(&proposal.encode()).answer).is_ok()
    };

    let mut whole = store.clone();
    assert_eq!([&first, &second, &third].map(|p| apply(&mut whole, p)), [true; 3]);
    assert_eq!(port(&whole), 3);

    let mut before_all = store.clone();
    users(&mut before_all);
    assert_eq!([&first, &second, &third].map(|p| apply(&mut before_all, p)), [false; 3]);
    assert_eq!(port(&before_all), 80);

    let mut between = store.clone();
    assert!(apply(&mut between, &first));
    users(&mut between);
    assert_eq!([&second, &third].map(|p| apply(&mut between, p)), [false; 2]);
    assert_eq!(port(&between), 80);

    // What never came, or came too long ago to be remembered, is nothing to build on.
    assert!(!apply(&mut store.clone(), &second));
}

#[test]
fn a_network_has_its_name_and_addresses_alone_and_stays_while_it_is_used() {
    let network = |id: u128, name: &str, subnet: &str, vni: u32| {
        let subnet: skep_api::cidr::Cidr = subnet.parse().unwrap();
        let spec = NetworkSpec { name: name.into(), ..NetworkSpec::default() };
        let subnets = vec![Subnet { subnet, gateway: subnet.base(), ip_range: None }];
        let id = NetworkId(Id(id));
        Change::PutNetwork(Arc::new(Network { id, spec, subnets, vni, ..Network::default() }))
    };
    let on = |id: u128| {
        let mut service = service(1, "web");
        let target = NetworkId(Id(id)).to_string();
        let mut spec = ServiceSpec::clone(&service.spec);
        spec.task_template.networks =
            Some(vec![NetworkAttachment { target, ..NetworkAttachment::default() }]);
        service.spec = Arc::new(spec);
        put_service(service)
    };
    let mut store = Store::default();
    propose(&mut store, vec![network(1, "a", "10.0.1.0/24", 4097)]).unwrap();
    for (change, expect) in [
        (network(2, "a", "10.0.2.0/24", 4098), RefusalKind::NameTaken),
        (network(2, "ingress", "10.0.2.0/24", 4098), RefusalKind::NameTaken),
        (network(2, "b", "10.0.0.0/16", 4098), RefusalKind::SubnetTaken),
        (network(2, "b", "10.255.9.0/24", 4098), RefusalKind::SubnetTaken),
        (network(2, "b", "10.0.2.0/24", 4097), RefusalKind::VniTaken),
        (network(2, "b", "10.0.2.0/24", 4096), RefusalKind::VniTaken),
        (on(2), RefusalKind::Missing),
    ] {
        assert_eq!(refusal(propose(&mut store, vec![change])), expect);
    }
    propose(&mut store, vec![on(1)]).unwrap();
    let gone = Change::DeleteNetwork(NetworkId(Id(1)));
    assert_eq!(refusal(propose(&mut store, vec![gone.clone()])), RefusalKind::InUse);
    propose(&mut store, vec![Change::DeleteService(ServiceId(Id(1))), gone]).unwrap();
    assert_eq!(store.view().networks().count(), 0);
    propose(&mut store, vec![network(2, "a", "10.0.0.0/16", 4097)]).unwrap();
}

/// Where each field of a snapshot stands.
fn fields(state: &[u8]) -> Vec<(Record, Range<usize>)> {
    let mut rest = state;
    let mut found = Vec::new();
    loop {
        let from = state.len() - rest.len();
        let Some(record) = Record::read(&mut rest).unwrap() else { return found };
        found.push((record, from..state.len() - rest.len()));
    }
}

#[test]
fn a_snapshot_that_says_anything_twice_or_out_of_order_is_refused() {
    let mut store = with_service();
    let network = Network { id: NetworkId(Id(2)), vni: 4097, ..Network::default() };
    let changes = vec![
        Change::PutCluster(Arc::new(Cluster::default())),
        Change::PutNode(Arc::new(Node { id: NodeId(Id(3)), ..Node::default() })),
        Change::PutNetwork(Arc::new(network)),
        put_task(task(&store.view(), 4, 1)),
    ];
    let spec = ServiceSpec { name: "api".into(), ..ServiceSpec::default() };
    let request = Some(RequestId(Id(9)));
    let proposal = Proposal { request, changes, now: Timestamp(1), ..Proposal::default() };
    decode_result(&store.apply(&proposal.encode()).answer).unwrap();
    // The task keeps the spec that its service had.
    propose(&mut store, vec![put_service(Service { spec: Arc::new(spec), ..service(1, "web") })]).unwrap();

    let mut state = Vec::new();
    store.write(&mut state).unwrap();
    assert!(Store::restore(&mut &*state).unwrap() == store);
    let fields = fields(&state);
    assert_eq!(fields.len(), 9, "one of each: {fields:?}");
    for (record, at) in fields {
        let is_number = matches!(record, Record::Format(_) | Record::Revision(_));
        let twice = [&state[..at.end], &state[at.clone()], &state[at.end..]].concat();
        assert_eq!(Store::restore(&mut &*twice).is_ok(), is_number, "{record:?}");
        let late = [&state[..at.start], &state[at.end..], &state[at]].concat();
        let is_last = matches!(record, Record::Request(_));
        assert_eq!(Store::restore(&mut &*late).is_ok(), is_last, "{record:?}");
    }
}
