//! Several writers that draft from the same view: whatever the order in which their proposals come, nothing is
//! given twice. And replicas: the same entries make the same bytes, also from a snapshot in the middle, and
//! what differs between two views is found.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use proptest::prelude::*;
use skep_api::{
    Id, NetworkId, NodeId, RequestId, ServiceId, TaskId, TaskState, Timestamp,
    cidr::Cidr,
    id::SeededIds,
    object::{Cluster, Network, Node, Service, Subnet, Task, TaskStatus},
    spec::{NetworkSpec, PortConfig, ServiceSpec},
};
use skep_store::{
    ANSWER_BYTES_MAX, Change, Draft, ObjectRef, Proposal, REQUESTS_REMEMBERED, Store, View, decode_result,
};

/// What a writer wants, by few numbers, so that writers want the same.
#[derive(Clone, Debug)]
enum Want {
    Service { name: u8, port: u8 },
    Network { name: u8, subnet: u8, vni: u8 },
    Task { service: u8, slot: u8, address: u8 },
    Place { task: u8, node: u8 },
    End { task: u8 },
    Node { address: u8 },
    Delete { what: u8 },
}

fn want() -> impl Strategy<Value = Want> {
    prop_oneof![
        (0..4_u8, 0..3_u8).prop_map(|(name, port)| Want::Service { name, port }),
        (0..4_u8, 0..4_u8, 0..3_u8).prop_map(|(name, subnet, vni)| Want::Network { name, subnet, vni }),
        (0..4_u8, 0..3_u8, 0..5_u8).prop_map(|(service, slot, address)| Want::Task {
            service,
            slot,
            address
        }),
        (0..16_u8, 0..3_u8).prop_map(|(task, node)| Want::Place { task, node }),
        (0..16_u8).prop_map(|task| Want::End { task }),
        (0..5_u8).prop_map(|address| Want::Node { address }),
        (0..8_u8).prop_map(|what| Want::Delete { what }),
    ]
}

fn port(published: u8, mode: &str) -> PortConfig {
    PortConfig {
        published_port: u16::from(published),
        protocol: "tcp".into(),
        publish_mode: mode.into(),
        ..PortConfig::default()
    }
}

/// One of the tasks that there are.
fn nth(view: &View, n: u8) -> Option<Arc<Task>> {
    let n_tasks = view.n_tasks().max(1);
    view.tasks().nth(usize::from(n) % n_tasks).cloned()
}

/// What comes of it; `fresh` is an id that nobody else has.
fn change(want: &Want, view: &View, fresh: u128) -> Option<Change> {
    let id = Id(fresh);
    Some(match want {
        Want::Service { name, port: n } => Change::PutService(Arc::new(Service {
            id: ServiceId(id),
            spec: Arc::new(ServiceSpec { name: format!("s{name}"), ..ServiceSpec::default() }),
            // One through the mesh, one on the node of each task.
            ports: vec![port(*n, "ingress"), port(n + 80, "host")].into(),
            ..Service::default()
        })),
        Want::Network { name, subnet, vni } => {
            let subnet = Cidr::new(Ipv4Addr::new(10, 0, *subnet, 0), 23);
            Change::PutNetwork(Arc::new(Network {
                id: NetworkId(id),
                spec: NetworkSpec { name: format!("n{name}"), ..NetworkSpec::default() },
                subnets: vec![Subnet { subnet, gateway: subnet.base(), ip_range: None }],
                vni: 4097 + u32::from(*vni),
                ..Network::default()
            }))
        }
        Want::Task { service, slot, address } => {
            let service = view.services().nth(usize::from(*service))?;
            let address = (*address > 0).then(|| Ipv4Addr::new(10, 255, 0, *address));
            let task = Task::new(TaskId(id), service, u64::from(*slot));
            Change::PutTask(Arc::new(Task { ingress_addr: address, ..task }))
        }
        Want::Place { task, node } => {
            let task = nth(view, *task)?;
            let node = task.node_id.unwrap_or(NodeId(Id(u128::from(*node))));
            Change::PutTask(Arc::new(Task { node_id: Some(node), ..(*task).clone() }))
        }
        Want::End { task } => {
            let state = TaskState::Failed;
            let status = TaskStatus { state, timestamp: Timestamp(9), ..TaskStatus::default() };
            Change::TaskStatus(nth(view, *task)?.id, status)
        }
        Want::Node { address } => {
            let address = Ipv4Addr::new(10, 255, 0, address + 1);
            Change::PutNode(Arc::new(Node { id: NodeId(id), ingress_addr: Some(address), ..Node::default() }))
        }
        Want::Delete { what } => match what % 4 {
            0 => Change::DeleteService(view.services().next()?.id),
            1 => Change::DeleteTask(nth(view, *what)?.id),
            2 => Change::DeleteNode(view.nodes().next()?.id),
            _ => Change::DeleteNetwork(view.networks().next()?.id),
        },
    })
}

/// Fails if anything is there twice.
fn no_doubles(view: &View) {
    let mut seen = BTreeSet::new();
    let mut once = |what: String| assert!(seen.insert(what.clone()), "{what} twice");
    for service in view.services() {
        once(format!("service {}", service.spec.name));
        let published = service.ports.iter().filter(|port| port.is_ingress() && port.published_port != 0);
        published.for_each(|port| once(format!("port {}", port.published_port)));
    }
    for network in view.networks() {
        once(format!("network {}", network.spec.name));
        once(format!("vni {}", network.vni));
        // All of them have one length and overlap by halves.
        let third = network.subnets[0].subnet.base().octets()[2];
        once(format!("half {}", third / 2));
    }
    for node in view.nodes() {
        node.ingress_addr.iter().for_each(|address| once(format!("address {address}")));
    }
    for task in view.tasks() {
        if task.is_runnable() {
            once(format!("slot {} of {}", task.slot, task.service_id));
        }
        if task.is_live() {
            task.ingress_addr.iter().for_each(|address| once(format!("address {address}")));
            let held = task.ports.iter().filter(|port| !port.is_ingress());
            if let Some(node) = task.node_id.filter(|_| task.is_runnable()) {
                held.for_each(|port| once(format!("port {} of node {node}", port.published_port)));
            }
        }
    }
}

/// A writer and what it wants.
fn drafts() -> impl Strategy<Value = Vec<(u8, Want)>> {
    prop::collection::vec((0..3_u8, want()), 1..12)
}

/// The proposals of all writers, each drafted from `view` alone, in some order of the writers.
fn propose(view: &View, wants: &[(u8, Want)], fresh: &mut u128) -> Vec<Proposal> {
    let mut proposals = Vec::new();
    for writer in 0..3 {
        let mut draft = Draft::new(view.clone(), Timestamp(1));
        for (_, want) in wants.iter().filter(|(who, _)| *who == writer) {
            *fresh += 1;
            if let Some(change) = change(want, &draft, *fresh) {
                // What its own draft does not allow it leaves.
                draft.push(change).ok();
            }
        }
        *fresh += 1;
        let mut ids = SeededIds(u64::try_from(*fresh).unwrap());
        let drafted = draft.into_proposals([], &mut ids);
        proposals.extend(drafted.into_iter().map(|proposal| (writer, proposal)));
    }
    // They come one by one from each, and not one writer after the other.
    proposals.sort_by_key(|(writer, proposal)| (proposal.changes.len(), *writer));
    proposals.into_iter().map(|(_, proposal)| proposal).collect()
}

fn written(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.write(&mut bytes).unwrap();
    bytes
}

/// The entries of a history: of writers, some of them repeated, some cut, some of garbage.
fn entries(rounds: &[Vec<(u8, Want)>], noise: &[(u8, u8)]) -> Vec<Vec<u8>> {
    let mut store = Store::default();
    let (mut fresh, mut out) = (1_000, Vec::new());
    let mut noise = noise.iter().cycle();
    for wants in rounds {
        for mut proposal in propose(&store.view(), wants, &mut fresh) {
            let (kind, number) = noise.next().copied().unwrap_or_default();
            if kind < 6 {
                proposal.request = Some(RequestId(Id(u128::from(number % 32))));
            }
            let entry = proposal.encode();
            match kind {
                0 => out.push(entry[..usize::from(number) % entry.len()].to_vec()),
                1 => out.push(vec![number; usize::from(number)]),
                2 => out.extend([entry.clone(), entry.clone()]),
                _ => out.push(entry.clone()),
            }
            store.apply(&entry);
        }
    }
    out
}

/// What differs, looked up one by one.
fn naive_diff(old: &View, new: &View) -> BTreeSet<ObjectRef> {
    let mut found = BTreeSet::new();
    for object in old.objects().chain(new.objects()) {
        let differs = match object {
            ObjectRef::Service(id) => old.service(id) != new.service(id),
            ObjectRef::Task(id, ..) => old.task(id) != new.task(id),
            ObjectRef::Node(id) => old.node(id) != new.node(id),
            ObjectRef::Network(id) => old.network(id) != new.network(id),
            ObjectRef::Cluster => old.cluster() != new.cluster(),
            ObjectRef::Ticket(id) => old.ticket(id) != new.ticket(id),
        };
        let object = match object {
            // As it is now, if it is there.
            ObjectRef::Task(id, service, node) => {
                ObjectRef::Task(id, service, new.task(id).map_or(node, |task| task.node_id))
            }
            ObjectRef::Service(_)
            | ObjectRef::Node(_)
            | ObjectRef::Cluster
            | ObjectRef::Network(_)
            | ObjectRef::Ticket(_) => object,
        };
        if differs {
            found.insert(object);
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_is_given_twice(rounds in prop::collection::vec(drafts(), 1..8)) {
        let (mut store, mut fresh) = (Store::default(), 1_000);
        for wants in &rounds {
            for proposal in propose(&store.view(), wants, &mut fresh) {
                let before = store.view();
                if decode_result(&store.apply(&proposal.encode()).answer).is_err() {
                    prop_assert_eq!(&store.view(), &before, "a refused proposal changes nothing");
                }
                no_doubles(&store.view());
            }
        }
    }

    #[test]
    fn replicas_are_the_same_to_the_byte_from_whatever_start(
        rounds in prop::collection::vec(drafts(), 1..8),
        noise in prop::collection::vec((0..12_u8, any::<u8>()), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let entries = entries(&rounds, &noise);
        let (mut one, mut other) = (Store::default(), Store::default());
        let cut = if entries.is_empty() { 0 } else { cut.index(entries.len()) };
        for (n, entry) in entries.iter().enumerate() {
            if n == cut {
                other = Store::restore(&mut &*written(&one)).unwrap();
            }
            prop_assert_eq!(one.apply(entry), other.apply(entry));
        }
        prop_assert_eq!(written(&one), written(&other));
        prop_assert_eq!(one, other);
    }

    #[test]
    fn what_differs_is_found(
        rounds in prop::collection::vec(drafts(), 1..8),
        noise in prop::collection::vec((3..12_u8, any::<u8>()), 1..20),
        at in any::<prop::sample::Index>(),
    ) {
        let entries = entries(&rounds, &noise);
        let mut store = Store::default();
        let mut views = vec![store.view()];
        for entry in &entries {
            store.apply(entry);
            views.push(store.view());
        }
        let cluster = Change::PutCluster(Arc::new(Cluster::default()));
        store.apply(&Proposal { changes: vec![cluster], ..Proposal::default() }.encode());
        let old = &views[at.index(views.len())];
        // Both of one history, which share much, and one that was restored, which shares nothing.
        for new in [store.view(), Store::restore(&mut &*written(&store)).unwrap().view()] {
            let found = old.diff(&new);
            prop_assert_eq!(found.iter().copied().collect::<BTreeSet<_>>().len(), found.len(), "each once");
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), naive_diff(old, &new));
        }
    }
}

#[test]
fn what_is_remembered_of_requests_is_bounded_in_number_and_bytes() {
    let mut store = Store::default();
    let name = "n".repeat(10_000);
    let service = |id: u128| {
        let spec = Arc::new(ServiceSpec { name: name.clone(), ..ServiceSpec::default() });
        Change::PutService(Arc::new(Service { id: ServiceId(Id(id)), spec, ..Service::default() }))
    };
    let propose = |store: &mut Store, request: u128| {
        let request_id = Some(RequestId(Id(request)));
        let entry = Proposal { request: request_id, changes: vec![service(request)], ..Proposal::default() };
        store.apply(&entry.encode())
    };
    propose(&mut store, 1);
    // Each refusal names the service.
    for request in 2..1_000 {
        propose(&mut store, request);
    }
    let bytes = written(&store);
    assert!(bytes.len() < ANSWER_BYTES_MAX + 100_000, "{} bytes", bytes.len());
    let again = propose(&mut store, 999);
    assert!(decode_result(&again.answer).is_err() && written(&store) == bytes, "the newest is remembered");
    for request in 0..REQUESTS_REMEMBERED {
        let request = Some(RequestId(Id(10_000 + u128::try_from(request).unwrap())));
        store.apply(&Proposal { request, ..Proposal::default() }.encode());
    }
    assert!(written(&store).len() < REQUESTS_REMEMBERED * 40, "the long answers are forgotten");
    assert_eq!(Store::restore(&mut &*written(&store)).unwrap(), store);
}
