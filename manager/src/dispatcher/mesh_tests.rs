//! Which tasks answer at a published port, while an update changes the ports.

use std::sync::Arc;

use skep_api::{
    Id, ServiceId, Timestamp,
    object::TaskStatus,
    spec::{PortConfig, ServiceSpec},
};
use skep_store::{Change, Draft};

use super::*;

const NODE: NodeId = NodeId(Id(1));

fn port(published_port: u16, target_port: u16) -> PortConfig {
    let publish_mode = "ingress".to_owned();
    PortConfig { published_port, target_port, publish_mode, ..PortConfig::default() }
}

fn service(n: u128, ports: Vec<PortConfig>) -> Service {
    let spec = ServiceSpec { name: format!("s{n}"), ..ServiceSpec::default() };
    Service { id: ServiceId(Id(n)), spec: Arc::new(spec), ports: ports.into(), ..Service::default() }
}

/// Services one and two, each with a task that runs and has these ports; by port, who answers.
fn who_answers(services: [Vec<PortConfig>; 2], tasks: [Vec<PortConfig>; 2]) -> BTreeMap<(u16, u16), Vec<u8>> {
    let mut draft = Draft::new(View::default(), Timestamp(1));
    let mut node = Node { id: NODE, ..Node::default() };
    node.status.state = NodeState::Ready;
    draft.push(Change::PutNode(Arc::new(node))).unwrap();
    for (n, (of_service, of_task)) in (1..).zip(services.into_iter().zip(tasks)) {
        let service = service(n, of_service);
        draft.push(Change::PutService(Arc::new(service.clone()))).unwrap();
        let mut task = Task::new(TaskId(Id(n)), draft.service(service.id).unwrap(), 1);
        task.node_id = Some(NODE);
        task.ports = of_task.into();
        task.ingress_addr = Some(Ipv4Addr::new(10, 255, 0, u8::try_from(n).unwrap()));
        let status = TaskStatus { state: TaskState::Running, ..TaskStatus::default() };
        let id = task.id;
        draft.push(Change::PutTask(Arc::new(task))).unwrap();
        draft.push(Change::TaskStatus(id, status)).unwrap();
    }
    let answer =
        |endpoints: BTreeSet<Ipv4Addr>| endpoints.iter().map(|address| address.octets()[3]).collect();
    Mesh::of(&draft)
        .ports
        .into_iter()
        .map(|((_, published, target), e)| ((published, target), answer(e)))
        .collect()
}

#[test]
fn a_port_that_a_service_gave_up_is_not_answered_by_its_old_tasks() {
    // The first had 8001 and is updated to 8003; the second has 8001 now. Where the target is the same, the old
    // task answers at the new port.
    let services = [vec![port(8003, 80)], vec![port(8001, 80)]];
    let answers = who_answers(services.clone(), [vec![port(8001, 80)], vec![port(8001, 80)]]);
    assert_eq!(answers, BTreeMap::from([((8001, 80), vec![2]), ((8003, 80), vec![1])]));
    let answers = who_answers(services, [vec![port(8001, 90)], vec![port(8001, 80)]]);
    assert_eq!(answers, BTreeMap::from([((8001, 80), vec![2]), ((8003, 80), vec![])]));
}

#[test]
fn a_task_of_an_older_spec_serves_its_own_target() {
    let answers = who_answers([vec![port(8001, 81)], vec![]], [vec![port(8001, 80)], vec![port(8001, 80)]]);
    assert_eq!(answers, BTreeMap::from([((8001, 80), vec![1]), ((8001, 81), vec![])]));
}

/// A mesh of some nodes, addresses and ports, as the numbers say.
fn some_mesh(nodes: &[(u8, u8)], addresses: &[(u8, u8)], ports: &[(u8, Vec<u8>)]) -> Mesh {
    let ip = |last| Ipv4Addr::new(10, 255, 0, last);
    let mut mesh = Mesh::default();
    for (id, place) in nodes {
        let point: Point = (format!("10.0.0.{place}").into(), ip(*id));
        let node = NodeId(Id(u128::from(*id) << 64));
        if id % 2 == 0 {
            mesh.managers.insert(node, point.clone());
        }
        mesh.nodes.insert(node, point);
    }
    for (address, owner) in addresses {
        let node = NodeId(Id(u128::from(*owner) << 64));
        if let Some((place, _)) = mesh.nodes.get(&node) {
            mesh.addresses.insert(ip(100 + address), (node, Arc::clone(place)));
            mesh.owners.insert(node);
        }
    }
    for (published, endpoints) in ports {
        let key = ("tcp".to_owned(), u16::from(*published), 80);
        mesh.ports.insert(key, endpoints.iter().map(|last| ip(100 + last)).collect());
    }
    mesh
}

/// What a node knows after a change, by the plain meaning of its fields.
fn after(state: &wire::MeshState, change: &wire::MeshChange) -> wire::MeshState {
    assert_eq!(state.revision, change.applies_to);
    let mut peers: BTreeMap<_, _> = state.peers.iter().map(|peer| (peer.node_id.clone(), peer)).collect();
    peers.retain(|id, _| !change.peers_gone.contains(id));
    peers.extend(change.peers.iter().map(|peer| (peer.node_id.clone(), peer)));
    let mut remotes: BTreeMap<_, _> = state.remotes.iter().map(|remote| (remote.addr, remote)).collect();
    remotes.retain(|addr, _| !change.remotes_gone.contains(addr));
    remotes.extend(change.remotes.iter().map(|remote| (remote.addr, remote)));
    let key = |port: &wire::MeshPort| (port.protocol.clone(), port.published, port.target);
    let set = |port: &wire::MeshPort| port.endpoints.iter().copied().collect::<BTreeSet<u32>>();
    let mut ports: BTreeMap<_, _> = state.ports.iter().map(|port| (key(port), set(port))).collect();
    ports.retain(|known, _| change.ports_gone.iter().all(|gone| key(gone) != *known));
    for gone in &change.endpoints_gone {
        ports.get_mut(&key(gone)).unwrap().retain(|endpoint| !gone.endpoints.contains(endpoint));
    }
    for new in &change.ports {
        ports.entry(key(new)).or_default().extend(&new.endpoints);
    }
    let port = |((protocol, published, target), endpoints): (_, BTreeSet<u32>)| wire::MeshPort {
        protocol,
        published,
        target,
        endpoints: endpoints.into_iter().collect(),
    };
    wire::MeshState {
        revision: change.results_in,
        ingress_addr: change.ingress_addr,
        data_path_port: change.data_path_port,
        left_at: change.left_at,
        few_peers: state.few_peers,
        n_nodes: change.n_nodes,
        ingress_prefix: state.ingress_prefix,
        peers: peers.into_values().cloned().collect(),
        remotes: remotes.into_values().cloned().collect(),
        ports: ports.into_iter().map(port).collect(),
    }
}

proptest::proptest! {
    #[test]
    fn a_mesh_and_the_step_to_the_next_make_the_next(
        old in a_mesh(),
        new in a_mesh(),
        node in 1_u8..6,
        knows_all: bool,
    ) {
        let peers = if knows_all { Peers::All } else { Peers::Managers };
        let node = NodeId(Id(u128::from(node) << 64));
        let step = MeshStep::between((7, &old), (9, &new), 8);
        let before = old.for_node(node, peers, 7, 3);
        let told = after(&before, &step.for_node(node, peers, &new));
        let now = new.for_node(node, peers, 9, 8);
        proptest::prop_assert_eq!(&told, &now);
        // Who need not hear of it has all but the numbers already.
        if !step.concerns(node, peers) {
            let (revision, left_at, n_nodes) = (before.revision, before.left_at, before.n_nodes);
            proptest::prop_assert_eq!(before, wire::MeshState { revision, left_at, n_nodes, ..now });
        }
    }
}

fn a_mesh() -> impl proptest::strategy::Strategy<Value = Mesh> {
    use proptest::{collection::vec, prelude::*};
    let ports = vec((1_u8..4, vec(0_u8..8, 0..5)), 0..4);
    (vec((1_u8..6, 1_u8..4), 0..6), vec((0_u8..8, 1_u8..6), 0..8), ports)
        .prop_map(|(nodes, addresses, ports)| some_mesh(&nodes, &addresses, &ports))
}
