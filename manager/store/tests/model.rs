//! Random histories against a naive model: the same entries give two replicas the same state, and every
//! index agrees with what can be counted from the objects.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use proptest::prelude::*;
use skep_api::{
    Id, NetworkId, NodeId, RequestId, Secret, ServiceId, TaskId, TaskState, TicketId, Timestamp,
    cidr::Cidr,
    object::{
        Cluster, GenericResource, Network, Node, NodeState, NodeStatus, SeatKey, Service, Subnet, Task,
        TaskExtra, TaskStatus, Ticket,
    },
    spec::{
        EndpointSpec, Global, NetworkAttachment, NetworkSpec, PortConfig, Replicated, ServiceMode,
        ServiceSpec,
    },
};
use skep_store::{Assigned, Change, FEATURE_LEVEL, NodeLoad, Proposal, Store, View, decode_result};

/// One change, by numbers; those that refer to what is not there come as they are.
#[derive(Clone, Debug)]
enum Step {
    Service { id: u8, name: u8, replicas: u8, port: u8, network: u8, is_global: bool },
    Network { id: u8, name: u8, subnet: u8, prefix: u8 },
    DeleteNetwork(u8),
    DeleteService(u8),
    Task { id: u8, service: u8, seat: u8, desired: u8, node: u8, address: u8, beside: u8 },
    Assign { id: u8, node: u8, given: u8 },
    DeleteTask(u8),
    Ticket(u8),
    DeleteTicket(u8),
    Status { id: u8, state: u8, at: u8 },
    Node { id: u8, address: u8 },
    NodeDown(u8),
    DeleteNode(u8),
    Level,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8, 0..3_u8, 0..3_u8, 0..3_u8, 0..5_u8, any::<bool>()).prop_map(
            |(id, name, replicas, port, network, is_global)| Step::Service {
                id,
                name,
                replicas,
                port,
                network,
                is_global
            }
        ),
        (0..4_u8, 0..4_u8, 0..8_u8, 21..25_u8).prop_map(|(id, name, subnet, prefix)| Step::Network {
            id,
            name,
            subnet,
            prefix
        }),
        (0..4_u8).prop_map(Step::DeleteNetwork),
        (0..3_u8).prop_map(Step::DeleteService),
        (0..12_u8, 0..3_u8, 0..6_u8, 0..4_u8, 0..4_u8, 0..6_u8, 0..12_u8).prop_map(
            |(id, service, seat, desired, node, address, beside)| Step::Task {
                id,
                service,
                seat,
                desired,
                node,
                address,
                beside
            }
        ),
        (0..12_u8, 0..4_u8, 0..4_u8).prop_map(|(id, node, given)| Step::Assign { id, node, given }),
        (0..3_u8).prop_map(Step::Ticket),
        (0..3_u8).prop_map(Step::DeleteTicket),
        Just(Step::Level),
        (0..12_u8).prop_map(Step::DeleteTask),
        (0..12_u8, 0..14_u8, 0..5_u8).prop_map(|(id, state, at)| Step::Status { id, state, at }),
        (0..4_u8, 0..6_u8).prop_map(|(id, address)| Step::Node { id, address }),
        (0..4_u8).prop_map(Step::NodeDown),
        (0..4_u8).prop_map(Step::DeleteNode),
    ]
}

/// What goes into one proposal. Those that say of tasks where they run and how they are may be refused half-way.
fn batch() -> impl Strategy<Value = Vec<Step>> {
    let of_tasks = prop_oneof![
        (0..12_u8, 0..4_u8, 0..4_u8).prop_map(|(id, node, given)| Step::Assign { id, node, given }),
        (0..12_u8, 0..14_u8, 0..5_u8).prop_map(|(id, state, at)| Step::Status { id, state, at }),
    ];
    prop_oneof![
        3 => prop::collection::vec(step(), 1..4),
        1 => prop::collection::vec(of_tasks, 1..6),
    ]
}

fn id(n: u8) -> Id {
    Id(u128::from(n) + 1)
}

fn address(n: u8) -> Option<Ipv4Addr> {
    (n > 0).then(|| Ipv4Addr::new(10, 255, 0, n))
}

#[expect(clippy::too_many_lines, reason = "one arm a kind of step")]
fn change(step: &Step, view: &View) -> Option<Change> {
    Some(match step {
        Step::Service { id: n, name, replicas, port, network, is_global } => {
            let replicas = Some(u64::from(*replicas));
            let replicated = Replicated { replicas, ..Replicated::default() };
            let mode = ServiceMode {
                replicated: (!is_global).then_some(replicated),
                global: is_global.then(Global::default),
                ..ServiceMode::default()
            };
            let target = NetworkId(id(*network)).to_string();
            let networks =
                (*network > 0).then(|| vec![NetworkAttachment { target, ..NetworkAttachment::default() }]);
            let mut spec =
                ServiceSpec { name: format!("s{name}"), mode: Some(mode), ..ServiceSpec::default() };
            let priority = || [("skep.priority".to_owned(), network.to_string())].into();
            spec.labels = (replicas > Some(0)).then(priority);
            spec.task_template.networks = networks;
            let port = PortConfig {
                published_port: u16::from(*port),
                protocol: "tcp".into(),
                publish_mode: "ingress".into(),
                ..PortConfig::default()
            };
            let endpoint = EndpointSpec { ports: Some(vec![port.clone()]), ..EndpointSpec::default() };
            spec.endpoint_spec = Some(Box::new(endpoint));
            Change::PutService(Arc::new(Service {
                id: ServiceId(id(*n)),
                spec: Arc::new(spec),
                ports: vec![port].into(),
                registry_auth: Secret::new(vec![replicas.map_or(0, |n| u8::from(n > 1))]),
                ..Service::default()
            }))
        }
        Step::Network { id: n, name, subnet, prefix } => {
            let subnet = Cidr::new(Ipv4Addr::new(10, 0, *subnet, 0), *prefix);
            let spec = NetworkSpec { name: format!("n{name}"), ..NetworkSpec::default() };
            let subnets = vec![Subnet { subnet, gateway: subnet.base(), ip_range: None }];
            let vni = 4097 + u32::from(*name);
            Change::PutNetwork(Arc::new(Network {
                id: NetworkId(id(*n)),
                spec,
                subnets,
                vni,
                ..Network::default()
            }))
        }
        Step::DeleteNetwork(n) => Change::DeleteNetwork(NetworkId(id(*n))),
        Step::DeleteService(n) => Change::DeleteService(ServiceId(id(*n))),
        Step::Task { id: n, service, seat, desired, node, address: a, beside } => {
            let desired = [TaskState::Ready, TaskState::Running, TaskState::Complete, TaskState::Shutdown]
                [usize::from(*desired)];
            match view.task(TaskId(id(*n))) {
                // A task keeps its node, once it has one.
                Some(old) => {
                    let room_for = beside.checked_sub(7).map(|n| TaskId(id(n)));
                    let old = room_for.map_or_else(|| (**old).clone(), |other| old.with_room_for(other));
                    Change::PutTask(Arc::new(Task {
                        desired_state: desired,
                        node_id: old.node_id.or((*node > 0).then(|| NodeId(id(*node)))),
                        ..old
                    }))
                }
                None => {
                    let service = view.service(ServiceId(id(*service)))?;
                    let for_node = seat.checked_sub(3).map(|node| NodeId(id(node)));
                    let beside = (*beside > 6).then(|| TaskId(id(*beside)));
                    let extra = TaskExtra { for_node, beside, ..TaskExtra::default() };
                    let slot = if *seat < 3 { u64::from(*seat) } else { 0 };
                    Change::PutTask(Arc::new(Task {
                        desired_state: desired,
                        ingress_addr: address(*a),
                        extra: (extra != TaskExtra::default()).then(|| Box::new(extra)),
                        ..Task::new(TaskId(id(*n)), service, slot)
                    }))
                }
            }
        }
        Step::Assign { id: n, node, given } => {
            let named = |n: &u8| GenericResource::Named { kind: "gpu".into(), value: n.to_string() };
            let discrete = GenericResource::Discrete { kind: "ssd".into(), amount: i64::from(*given) };
            let given = if *given == 0 { Vec::new() } else { vec![named(given), discrete] };
            let status = TaskStatus { state: TaskState::Assigned, ..TaskStatus::default() };
            Change::AssignTask(TaskId(id(*n)), Assigned { node: NodeId(id(*node)), status, given })
        }
        Step::Ticket(n) => Change::PutTicket(Arc::new(Ticket {
            id: TicketId(id(*n)),
            uses_left: Some(u32::from(*n)),
            ..Ticket::default()
        })),
        Step::DeleteTicket(n) => Change::DeleteTicket(TicketId(id(*n))),
        Step::Level => Change::PutCluster(Arc::new(Cluster {
            feature_level: FEATURE_LEVEL.min(view.feature_level() + 1),
            ..Cluster::default()
        })),
        Step::DeleteTask(n) => Change::DeleteTask(TaskId(id(*n))),
        Step::Status { id: n, state, at } => {
            let state = TaskState::ALL[usize::from(*state)];
            let status = TaskStatus { state, timestamp: Timestamp(i64::from(*at)), ..TaskStatus::default() };
            Change::TaskStatus(TaskId(id(*n)), status)
        }
        Step::Node { id: n, address: a } => {
            let last = address(*a).map(|a| Ipv4Addr::new(10, 255, 128, a.octets()[3]));
            Change::PutNode(Arc::new(Node { id: NodeId(id(*n)), ingress_addr: last, ..Node::default() }))
        }
        Step::NodeDown(n) => {
            let status = NodeStatus { state: NodeState::Down, ..NodeStatus::default() };
            Change::NodeStatus(NodeId(id(*n)), status)
        }
        Step::DeleteNode(n) => Change::DeleteNode(NodeId(id(*n))),
    })
}

fn written(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.write(&mut bytes).unwrap();
    bytes
}

/// The indexes of networks, and that no two have a thing in common.
fn check_networks(view: &View) {
    let all: Vec<&Arc<Network>> = view.networks().collect();
    for (at, network) in all.iter().enumerate() {
        assert_eq!(view.network_by_name(&network.spec.name).unwrap().id, network.id);
        assert_eq!(view.vni_owner(network.vni), Some(network.id));
        let own = network.subnets[0].subnet;
        assert_eq!(view.overlapping_subnet(own), Some((own, network.id)));
        for other in &all[at + 1..] {
            assert!(!own.overlaps(other.subnets[0].subnet), "{own} and {}", other.subnets[0].subnet);
            assert_ne!(network.vni, other.vni);
        }
    }
    for n in 0..8 {
        let subnet = Cidr::new(Ipv4Addr::new(10, 0, n, 0), 24);
        let owner = all.iter().find(|network| network.subnets[0].subnet.overlaps(subnet));
        assert_eq!(view.overlapping_subnet(subnet).map(|(_, id)| id), owner.map(|network| network.id));
    }
    for n in 0..6 {
        let network = NetworkId(id(n));
        let found: BTreeSet<ServiceId> =
            view.services_on_network(network).map(|service| service.id).collect();
        let named = view.services().filter(|service| service.spec.network_ids().any(|own| own == network));
        assert_eq!(found, named.map(|service| service.id).collect());
        assert!(
            found.is_empty() || view.network(network).is_some(),
            "a service is on a network that is gone"
        );
    }
}

/// Seats, and what is known of services and nodes besides their tasks.
fn check_others(view: &View) {
    let mut seats: BTreeMap<(ServiceId, SeatKey), Vec<&Arc<Task>>> = BTreeMap::new();
    for task in view.tasks() {
        seats.entry((task.service_id, task.seat())).or_default().push(task);
    }
    for ((service, seat), mut tasks) in seats {
        assert_eq!(view.tasks_of_seat(service, seat), tasks);
        tasks.retain(|task| task.is_runnable());
        match tasks.as_slice() {
            [] | [_] => {}
            [one, other] => {
                assert!(one.beside() == Some(other.id) || other.beside() == Some(one.id), "{seat:?} twice");
            }
            more => panic!("{seat:?}: {} tasks", more.len()),
        }
    }
    let globals = view.services().filter(|service| service.spec.mode().is_global());
    assert!(view.global_services().eq(globals));
    let balanced = view.services().filter(|service| service.moves_a_minute() > 0);
    assert!(view.balanced_services().eq(balanced));
    let ranked = view.services().map(|service| (service.spec.priority(), service.id));
    let ranked: BTreeSet<_> = ranked.filter(|(priority, _)| *priority > 0).collect();
    assert!(view.ranked_services().eq(ranked));
    let is_up = |task: &&Arc<Task>| {
        let node = task.node_id.and_then(|id| view.node(id));
        node.is_some_and(|node| node.status.state != NodeState::Down)
    };
    let rooms = view.tasks().filter(|task| task.is_live()).filter(is_up);
    let rooms: BTreeSet<_> = rooms.filter_map(|task| Some((task.room_for()?, task.id))).collect();
    assert_eq!(view.rooms().map(|(other, task)| (other, task.id)).collect::<BTreeSet<_>>(), rooms);
    assert_eq!(view.n_rooms(), rooms.len());
    for port in 0..4 {
        let asks = |service: &&Arc<Service>| {
            port != 0 && service.spec.ports().iter().any(|asked| asked.published_port == port)
        };
        assert!(view.services_asking_for("tcp", port).eq(view.services().filter(asks)));
    }
    let down = view.nodes().filter(|node| node.status.state == NodeState::Down);
    let down: BTreeSet<_> = down.map(|node| (node.status.since, node.id)).collect();
    assert_eq!(view.down_nodes().collect::<BTreeSet<_>>(), down);
    let mut with_unplaced = BTreeSet::new();
    for task in view.unplaced_tasks() {
        with_unplaced.insert(task.service_id);
        assert!(view.unplaced_of_service(task.service_id).any(|other| other.id == task.id));
    }
    assert_eq!(view.services_with_unplaced().collect::<BTreeSet<_>>(), with_unplaced);
    for node in 0..12 {
        check_load(view, NodeId(id(node)));
    }
}

/// What of a node's generic resources is given, and no name twice.
fn check_load(view: &View, node: NodeId) {
    let (mut named, mut amount) = (BTreeSet::new(), 0);
    for resource in view.tasks_of_node(node).filter(|task| task.is_live()).flat_map(|task| task.given()) {
        match resource {
            GenericResource::Named { kind, value } => {
                assert!(named.insert((kind.clone(), value.clone())), "{value} is given twice");
            }
            GenericResource::Discrete { amount: one, .. } => amount += one,
        }
    }
    let NodeLoad { generic, .. } = view.node_load(node);
    let generic = generic.unwrap_or_default();
    assert_eq!((generic.named, generic.amounts.get("ssd").copied().unwrap_or(0)), (named, amount));
}

/// Every index, counted anew.
fn check(view: &View) {
    check_networks(view);
    check_others(view);
    let mut by_service: BTreeMap<ServiceId, BTreeSet<TaskId>> = BTreeMap::new();
    let mut by_node: BTreeMap<NodeId, BTreeSet<TaskId>> = BTreeMap::new();
    let mut addresses = BTreeSet::new();
    let mut unplaced = BTreeSet::new();
    let mut loads: BTreeMap<NodeId, u64> = BTreeMap::new();
    for task in view.tasks() {
        by_service.entry(task.service_id).or_default().insert(task.id);
        if let Some(node) = task.node_id {
            by_node.entry(node).or_default().insert(task.id);
            *loads.entry(node).or_default() += u64::from(task.is_runnable());
        } else if task.is_runnable() {
            unplaced.insert(task.id);
        }
        if let Some(address) = task.ingress_addr.filter(|_| task.is_live()) {
            assert!(addresses.insert(address), "{address} twice");
        }
    }
    addresses.extend(view.nodes().filter_map(|node| node.ingress_addr));
    for n in 0..12 {
        let service = ServiceId(id(n));
        let found: BTreeSet<TaskId> = view.tasks_of_service(service).map(|task| task.id).collect();
        assert_eq!(found, by_service.remove(&service).unwrap_or_default());
        let node = NodeId(id(n));
        let found: BTreeSet<TaskId> = view.tasks_of_node(node).map(|task| task.id).collect();
        assert_eq!(found, by_node.remove(&node).unwrap_or_default());
        assert_eq!(view.node_load(node).n_tasks, loads.remove(&node).unwrap_or_default());
    }
    assert_eq!(view.unplaced_tasks().map(|task| task.id).collect::<BTreeSet<_>>(), unplaced);
    for last in 0..8 {
        for third in [0, 128] {
            let address = Ipv4Addr::new(10, 255, third, last);
            assert_eq!(view.is_address_taken(address), addresses.contains(&address), "{address}");
        }
    }
    let names: BTreeSet<&str> = view.services().map(|service| service.spec.name.as_str()).collect();
    assert_eq!(names.len(), view.services().count());
    for service in view.services() {
        assert_eq!(view.service_by_name(&service.spec.name).unwrap().id, service.id);
        for port in service.ports.iter().filter(|port| port.published_port != 0) {
            assert_eq!(view.port_owner("tcp", port.published_port), Some(service.id));
        }
    }
    for port in 1..3 {
        if let Some(owner) = view.port_owner("tcp", port) {
            assert!(view.service(owner).unwrap().ports.iter().any(|p| p.published_port == port));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn replicas_agree_and_indexes_are_right(batches in prop::collection::vec(batch(), 1..40)) {
        let (mut leader, mut follower) = (Store::default(), Store::default());
        let mut revision = 0;
        for (n, steps) in batches.iter().enumerate() {
            let view = leader.view();
            let changes: Vec<Change> = steps.iter().filter_map(|step| change(step, &view)).collect();
            let entry = Proposal { changes, now: Timestamp(i64::try_from(n).unwrap()), ..Proposal::default() }.encode();
            let (first, second) = (leader.apply(&entry), follower.apply(&entry));
            prop_assert_eq!(&first, &second);
            if decode_result(&first.answer).is_err() {
                prop_assert_eq!(&leader.view(), &view, "a refused proposal changes nothing");
            }
            prop_assert!(leader.view().revision() >= revision);
            revision = leader.view().revision();
            check(&leader.view());
        }
        prop_assert_eq!(&leader, &follower);
        prop_assert_eq!(format!("{leader:?}"), format!("{follower:?}"));
    }

    #[test]
    fn a_restored_snapshot_is_the_same_store(batches in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..40)) {
        let mut store = Store::default();
        for (n, steps) in (1_u128..).zip(&batches) {
            let view = store.view();
            let changes: Vec<Change> = steps.iter().filter_map(|step| change(step, &view)).collect();
            let request = Some(RequestId(Id(n)));
            let proposal = Proposal { request, changes, now: Timestamp(i64::try_from(n).unwrap()), ..Proposal::default() };
            store.apply(&proposal.encode());
        }
        let bytes = written(&store);
        let mut restored = Store::restore(&mut &*bytes).unwrap();
        prop_assert_eq!(&restored, &store);
        prop_assert_eq!(written(&restored), bytes);
        check(&restored.view());
        prop_assert_eq!(restored.view().objects().count(), store.view().nodes().count()
            + store.view().services().count() + store.view().networks().count() + store.view().n_tasks()
            + store.view().tickets().count() + store.view().cluster().iter().count());
        let entry = Proposal { request: Some(RequestId(Id(1))), ..Proposal::default() }.encode();
        prop_assert_eq!(restored.apply(&entry), store.apply(&entry), "a repeated request has its first answer");
    }

    #[test]
    fn states_never_go_back(steps in prop::collection::vec(step(), 1..80)) {
        let mut store = Store::default();
        for step in steps {
            let before = store.view();
            let Some(change) = change(&step, &before) else { continue };
            let entry = Proposal { changes: vec![change], ..Proposal::default() }.encode();
            store.apply(&entry);
            for task in store.view().tasks() {
                let Some(old) = before.task(task.id) else { continue };
                prop_assert!(task.status.state >= old.status.state);
                prop_assert!(task.desired_state >= old.desired_state);
                prop_assert!(old.node_id.is_none() || task.node_id == old.node_id);
            }
        }
    }
}
