//! A large swarm as the log would make it: nodes, services of a thousand tasks each, all running.

use std::net::Ipv4Addr;
use std::sync::Arc;

use skep_api::object::{Node, NodeDescription, NodeState, NodeStatus, Service, Task, TaskStatus};
use skep_api::spec::{NodeSpec, PortConfig, Replicated, ServiceMode, ServiceSpec};
use skep_api::{Id, NodeId, ServiceId, TaskId, TaskState, Timestamp};
use skep_store::{Change, Proposal, Store, decode_result};

const TASKS_A_SERVICE: u64 = 1_000;
const NOW: i64 = 1_790_000_000_000_000_000;

/// Random-looking and the same in each run, as ids are.
fn id(kind: u64, number: u64) -> Id {
    let mut row = kind << 48 | number;
    Id(u128::from(skep_raft::sim::random(&mut row)) << 64 | u128::from(skep_raft::sim::random(&mut row)))
}

pub(crate) fn node_id(number: u64) -> NodeId {
    NodeId(id(1, number))
}

pub(crate) fn task_id(number: u64) -> TaskId {
    TaskId(id(3, number))
}

fn apply(store: &mut Store, changes: Vec<Change>) {
    let entry = Proposal { changes, now: Timestamp(NOW), ..Proposal::default() }.encode();
    decode_result(&store.apply(&entry).answer).expect("nothing stands in its way");
}

fn in_batches(n: u64, mut change: impl FnMut(u64) -> Change, mut apply: impl FnMut(Vec<Change>)) {
    for first in (0..n).step_by(200) {
        apply((first..n.min(first + 200)).map(&mut change).collect());
    }
}

fn v4(number: u64) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + u32::try_from(number).unwrap())
}

pub(crate) fn add_nodes(store: &mut Store, n: u64) {
    let node = |number| {
        let mut spec = NodeSpec::default();
        spec.labels.insert("rack".into(), format!("r{}", number % 500));
        let description = NodeDescription {
            hostname: format!("node-{number:06}"),
            os: "linux".into(),
            arch: "x86_64".into(),
            nano_cpus: 16_000_000_000,
            memory_bytes: 64 << 30,
            engine_version: "0.1.0".into(),
            ..NodeDescription::default()
        };
        let status =
            NodeStatus { state: NodeState::Ready, addr: v4(number).to_string(), ..NodeStatus::default() };
        Change::PutNode(Arc::new(Node {
            id: node_id(number),
            spec,
            description,
            status,
            data_path_addr: v4(number).to_string(),
            ingress_addr: Some(Ipv4Addr::from(0x2000_0000 + u32::try_from(number).unwrap())),
            probe_addr: format!("{}:2378", v4(number)),
            ..Node::default()
        }))
    };
    in_batches(n, node, |changes| apply(store, changes));
}

pub(crate) fn add_tasks(store: &mut Store, n: u64, n_nodes: u64) {
    for number in 0..n.div_ceil(TASKS_A_SERVICE) {
        let replicas = Some(TASKS_A_SERVICE);
        let mode = ServiceMode {
            replicated: Some(Replicated { replicas, ..Replicated::default() }),
            ..ServiceMode::default()
        };
        let spec =
            ServiceSpec { name: format!("service-{number}"), mode: Some(mode), ..ServiceSpec::default() };
        let port = PortConfig {
            target_port: 80,
            published_port: u16::try_from(number % 60_000 + 1).unwrap(),
            protocol: "tcp".into(),
            publish_mode: "ingress".into(),
            ..PortConfig::default()
        };
        let service = Service {
            id: ServiceId(id(2, number)),
            spec: Arc::new(spec),
            ports: vec![port].into(),
            ..Service::default()
        };
        apply(store, vec![Change::PutService(Arc::new(service))]);
        let service = Arc::clone(store.view().service(ServiceId(id(2, number))).unwrap());
        let first = number * TASKS_A_SERVICE;
        let task = |slot: u64| {
            let number = first + slot;
            let mut task = Task::new(task_id(number), &service, slot + 1);
            task.node_id = Some(node_id(number % n_nodes));
            task.ingress_addr = Some(v4(number));
            task.status.state = TaskState::Assigned;
            task.status.timestamp = Timestamp(NOW);
            task.status.message = "scheduler assigned task to node".into();
            Change::PutTask(Arc::new(task))
        };
        let here = TASKS_A_SERVICE.min(n - first);
        in_batches(here, task, |changes| apply(store, changes));
        let run = |slot: u64| Change::TaskStatus(task_id(first + slot), running(first + slot, 1));
        in_batches(here, run, |changes| apply(store, changes));
    }
}

fn running(number: u64, at: i64) -> TaskStatus {
    let half = id(4, number).0;
    TaskStatus {
        state: TaskState::Running,
        timestamp: Timestamp(NOW + at),
        message: "started".into(),
        container_id: format!("{half:032x}{half:032x}").into(),
        pid: 4_000,
        running_at: Timestamp(NOW + 1),
        ..TaskStatus::default()
    }
}

/// Reports of `n` tasks over all of the store, as a dispatcher writes them.
pub(crate) fn reports(store: &Store, n: u64, batch: u64) -> Vec<Vec<u8>> {
    let n_tasks = u64::try_from(store.view().n_tasks()).unwrap();
    let mut row = batch;
    // Each round is later than those before: the first has the largest entries.
    let at = (10_000 - i64::try_from(batch).unwrap()) << 24;
    let report = |row: &mut u64| {
        let number = skep_raft::sim::random(row) % n_tasks;
        let at = at + i64::try_from(*row >> 40).unwrap();
        Change::TaskStatus(task_id(number), running(number, at))
    };
    let entry = |_| {
        let changes = (0..batch).map(|_| report(&mut row)).collect();
        Proposal { changes, now: Timestamp(NOW), ..Proposal::default() }.encode()
    };
    (0..n / batch).map(entry).collect()
}
