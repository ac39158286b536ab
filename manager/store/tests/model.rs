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
    Id, NetworkId, NodeId, RequestId, ServiceId, TaskId, TaskState, Timestamp,
    cidr::Cidr,
    object::{Network, Node, NodeState, NodeStatus, Service, Subnet, Task, TaskStatus},
    spec::{NetworkAttachment, NetworkSpec, PortConfig, Replicated, ServiceMode, ServiceSpec},
};
use skep_store::{Change, Proposal, Store, View, decode_result};

/// One change, by numbers; those that refer to what is not there come as they are.
#[derive(Clone, Debug)]
enum Step {
    Service { id: u8, name: u8, replicas: u8, port: u8, network: u8 },
    Network { id: u8, name: u8, subnet: u8, prefix: u8 },
    DeleteNetwork(u8),
    DeleteService(u8),
    Task { id: u8, service: u8, slot: u8, desired: u8, node: u8, address: u8 },
    DeleteTask(u8),
    Status { id: u8, state: u8, at: u8 },
    Node { id: u8, address: u8 },
    NodeDown(u8),
    DeleteNode(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8, 0..3_u8, 0..3_u8, 0..3_u8, 0..5_u8).prop_map(|(id, name, replicas, port, network)| {
            Step::Service { id, name, replicas, port, network }
        }),
        (0..4_u8, 0..4_u8, 0..8_u8, 21..25_u8).prop_map(|(id, name, subnet, prefix)| Step::Network {
            id,
            name,
            subnet,
            prefix
        }),
        (0..4_u8).prop_map(Step::DeleteNetwork),
        (0..3_u8).prop_map(Step::DeleteService),
        (0..12_u8, 0..3_u8, 0..4_u8, 0..3_u8, 0..4_u8, 0..6_u8).prop_map(
            |(id, service, slot, desired, node, address)| Step::Task {
                id,
                service,
                slot,
                desired,
                node,
                address
            }
        ),
        (0..12_u8).prop_map(Step::DeleteTask),
        (0..12_u8, 0..14_u8, 0..5_u8).prop_map(|(id, state, at)| Step::Status { id, state, at }),
        (0..4_u8, 0..6_u8).prop_map(|(id, address)| Step::Node { id, address }),
        (0..4_u8).prop_map(Step::NodeDown),
        (0..4_u8).prop_map(Step::DeleteNode),
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
        Step::Service { id: n, name, replicas, port, network } => {
            let replicas = Some(u64::from(*replicas));
            let mode = ServiceMode {
                replicated: Some(Replicated { replicas, ..Replicated::default() }),
                ..ServiceMode::default()
            };
            let target = NetworkId(id(*network)).to_string();
            let networks =
                (*network > 0).then(|| vec![NetworkAttachment { target, ..NetworkAttachment::default() }]);
            let mut spec =
                ServiceSpec { name: format!("s{name}"), mode: Some(mode), ..ServiceSpec::default() };
            spec.task_template.networks = networks;
            let port = PortConfig {
                published_port: u16::from(*port),
                protocol: "tcp".into(),
                publish_mode: "ingress".into(),
                ..PortConfig::default()
            };
            Change::PutService(Arc::new(Service {
                id: ServiceId(id(*n)),
                spec: Arc::new(spec),
                ports: vec![port].into(),
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
        Step::Task { id: n, service, slot, desired, node, address: a } => {
            let desired = [TaskState::Ready, TaskState::Running, TaskState::Shutdown][usize::from(*desired)];
            match view.task(TaskId(id(*n))) {
                // A task keeps its node, once it has one.
                Some(old) => Change::PutTask(Arc::new(Task {
                    desired_state: desired,
                    node_id: old.node_id.or((*node > 0).then(|| NodeId(id(*node)))),
                    ..(**old).clone()
                })),
                None => {
                    let service = view.service(ServiceId(id(*service)))?;
                    Change::PutTask(Arc::new(Task {
                        desired_state: desired,
                        ingress_addr: address(*a),
                        ..Task::new(TaskId(id(*n)), service, u64::from(*slot))
                    }))
                }
            }
        }
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

/// Every index, counted anew.
fn check(view: &View) {
    check_networks(view);
    let mut by_service: BTreeMap<ServiceId, BTreeSet<TaskId>> = BTreeMap::new();
    let mut by_node: BTreeMap<NodeId, BTreeSet<TaskId>> = BTreeMap::new();
    let mut slots = BTreeSet::new();
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
        if task.is_runnable() {
            assert!(slots.insert((task.service_id, task.slot)), "slot {} twice", task.slot);
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
    fn replicas_agree_and_indexes_are_right(batches in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..40)) {
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
            + store.view().services().count() + store.view().networks().count() + store.view().n_tasks());
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
