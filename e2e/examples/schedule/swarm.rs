//! The swarms that are placed: nodes, services and tasks without a node, as the log would make them.

use std::sync::Arc;

use skep_api::{
    Id, NetworkId, NodeId, ServiceId, TaskId, TaskState, Timestamp,
    object::{Cluster, Network, Node, NodeState, NodeStatus, Plugin, Service, Task},
    spec::ServiceSpec,
};
use skep_store::{Change, FEATURE_LEVEL, Proposal, Store, decode_result};

pub(crate) const NOW: Timestamp = Timestamp(1_790_000_000_000_000_000);
/// Nodes have one of so many zones.
const N_ZONES: u64 = 5;
/// The driver that a third of the nodes has.
const DRIVER: &str = "network";

/// What a row measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) n_nodes: u64,
    pub(crate) n_tasks: u64,
    /// How many a service has: one, or all, or what is between.
    pub(crate) tasks_each: u64,
    pub(crate) ask: Ask,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ask {
    Nothing,
    /// A network whose driver a third of the nodes has.
    Constraint,
    /// Even over the zones.
    Preference,
}

fn id(kind: u64, number: u64) -> Id {
    let mut row = kind << 48 | number;
    Id(u128::from(skep_raft::sim::random(&mut row)) << 64 | u128::from(skep_raft::sim::random(&mut row)))
}

pub(crate) fn node_id(number: u64) -> NodeId {
    NodeId(id(1, number))
}

pub(crate) fn service_id(number: u64) -> ServiceId {
    ServiceId(id(2, number))
}

pub(crate) fn apply(store: &mut Store, changes: Vec<Change>) {
    let entry = Proposal { changes, now: NOW, ..Proposal::default() }.encode();
    decode_result(&store.apply(&entry).answer).expect("nothing stands in its way");
}

fn in_batches(store: &mut Store, n: u64, mut change: impl FnMut(u64) -> Change) {
    for first in (0..n).step_by(200) {
        apply(store, (first..n.min(first + 200)).map(&mut change).collect());
    }
}

fn node(number: u64) -> Change {
    let mut node = Node { id: node_id(number), ..Node::default() };
    node.status = NodeStatus { state: NodeState::Ready, ..NodeStatus::default() };
    node.description.hostname = format!("name{number}");
    let name = if number.is_multiple_of(3) { DRIVER } else { "another" };
    node.description.plugins = vec![Plugin { kind: "Network".into(), name: name.into() }];
    node.spec.labels.insert("zone".into(), format!("z{}", number % N_ZONES));
    Change::PutNode(Arc::new(node))
}

fn spec(name: &str, row: Row, replicas: u64) -> ServiceSpec {
    let network = NetworkId(id(4, 1));
    let more = match row.ask {
        Ask::Nothing => String::new(),
        Ask::Constraint => format!(r#","Networks":[{{"Target":"{network}"}}]"#),
        Ask::Preference => {
            r#","Placement":{"Preferences":[{"Spread":{"SpreadDescriptor":"node.labels.zone"}}]}"#.to_owned()
        }
    };
    let text = format!(
        r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"x"}}{more}}},
            "Mode":{{"Replicated":{{"Replicas":{replicas}}}}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

/// All of a row's objects; its tasks are pending, without a node.
pub(crate) fn store(row: Row) -> Store {
    let mut store = Store::default();
    let cluster = Cluster { feature_level: FEATURE_LEVEL, ..Cluster::default() };
    apply(&mut store, vec![Change::PutCluster(Arc::new(cluster))]);
    let mut network = Network { id: NetworkId(id(4, 1)), ..Network::default() };
    (network.spec.name, network.spec.driver) = ("n".into(), DRIVER.into());
    apply(&mut store, vec![Change::PutNetwork(Arc::new(network))]);
    in_batches(&mut store, row.n_nodes, node);
    in_batches(&mut store, row.n_tasks / row.tasks_each, |number| {
        let spec = Arc::new(spec(&format!("task{number}"), row, row.tasks_each));
        Change::PutService(Arc::new(Service { id: service_id(number), spec, ..Service::default() }))
    });
    let view = store.view();
    in_batches(&mut store, row.n_tasks, |number| {
        let (service, slot) = (number / row.tasks_each, number % row.tasks_each + 1);
        let mut task = Task::new(TaskId(id(3, number)), view.service(service_id(service)).unwrap(), slot);
        task.status.state = TaskState::Pending;
        task.status.timestamp = NOW;
        task.status.message = "pending task scheduling".into();
        Change::PutTask(Arc::new(task))
    });
    store
}
