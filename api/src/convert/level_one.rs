//! Objects as a build of feature level 1 wrote them: this one reads them, and writes the same bytes of what that one
//! could say. While managers of both are there, both must hold the same.

use std::{fmt::Write as _, sync::Arc};

use prost::Message as _;

use super::*;
use crate::{
    Id, NodeId, Secret, ServiceId, TaskId, TaskState,
    object::{
        Node, NodeDescription, NodeState, NodeStatus, NodeTls, Service, Task, UpdateState, UpdateStatus,
    },
    spec::ServiceSpec,
};

/// A task that runs.
const TASK: &str = "0a100000000000000000000000000000000212060803100118021a100000000000000000000000000000000120032a100000\
    00000000000000000000000000043009388004421b08800410051a07737461727465642201652a0263313007380048044a13\
    1203746370185020903f2a07696e6772657373550500ff0a5806";

/// A service whose update was paused.
const SERVICE: &str = "0a100000000000000000000000000000000112060809100118021a207b224e616d65223a22776562222c225461736b54656d\
    706c617465223a7b7d7d222f7b224e616d65223a22776562222c225461736b54656d706c617465223a7b22466f7263655570\
    64617465223a317d7d280830073a131203746370185020903f2a07696e6772657373420f0a06706175736564100118022201\
    6d4a036e6f7752066265666f7265";

/// A manager.
const NODE: &str = "0a100000000000000000000000000000000412060803100118021a357b224c6162656c73223a7b7d2c22526f6c65223a2277\
    6f726b6572222c22417661696c6162696c697479223a22616374697665227d222d0a026e3112056c696e75781a067838365f\
    3634200428053201763a060a016112016242090a01011201021a01032a11080212016d1a0831302e302e302e312001320d31\
    302e302e302e313a323337373a0831302e302e302e31450180ff0a4807520a31302e302e302e313a3958016001";

const META: Meta = Meta { version: 3, created_at: Timestamp(1), updated_at: Timestamp(2) };

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn port() -> PortConfig {
    PortConfig {
        protocol: "tcp".into(),
        target_port: 80,
        published_port: 8080,
        publish_mode: "ingress".into(),
        ..PortConfig::default()
    }
}

fn spec(force_update: Option<u64>) -> Arc<ServiceSpec> {
    let mut spec = ServiceSpec { name: "web".into(), ..ServiceSpec::default() };
    spec.task_template.force_update = force_update;
    Arc::new(spec)
}

#[test]
fn a_task_of_level_one() {
    let service = Service { id: ServiceId(Id(1)), spec: spec(None), spec_version: 9, ..Service::default() };
    let mut task = Task::new(TaskId(Id(2)), &service, 3);
    task.meta = META;
    task.node_id = Some(NodeId(Id(4)));
    task.ports = vec![port()].into();
    task.ingress_addr = Some(Ipv4Addr::new(10, 255, 0, 5));
    task.not_before = Timestamp(6);
    task.status.state = TaskState::Running;
    task.status.timestamp = Timestamp(5);
    task.status.message = "started".into();
    task.status.err = "e".into();
    task.status.container_id = "c1".into();
    task.status.pid = 7;
    task.status.exit_code = Some(0);
    task.status.running_at = Timestamp(4);
    assert_eq!(task_in(wire::Task::decode(&*bytes(TASK)).unwrap(), spec(None)).unwrap(), task);
    assert_eq!(hex(&wire::Task::from(&task).encode_to_vec()), TASK);
}

#[test]
fn a_service_of_level_one() {
    let service = Service {
        id: ServiceId(Id(1)),
        meta: Meta { version: 9, ..META },
        spec: spec(None),
        previous_spec: Some(spec(Some(1))),
        spec_version: 8,
        previous_spec_version: 7,
        ports: vec![port()].into(),
        update_status: Some(UpdateStatus {
            completed_at: Some(Timestamp(2)),
            ..UpdateStatus::new(UpdateState::Paused, Timestamp(1), "m")
        }),
        registry_auth: Secret::new(b"now".to_vec()),
        previous_registry_auth: Secret::new(b"before".to_vec()),
        ..Service::default()
    };
    assert_eq!(Service::try_from(wire::Service::decode(&*bytes(SERVICE)).unwrap()).unwrap(), service);
    assert_eq!(hex(&wire::Service::from(&service).encode_to_vec()), SERVICE);
}

#[test]
fn a_node_of_level_one() {
    let description = NodeDescription {
        hostname: "n1".into(),
        os: "linux".into(),
        arch: "x86_64".into(),
        nano_cpus: 4,
        memory_bytes: 5,
        engine_version: "v".into(),
        engine_labels: [("a".to_owned(), "b".to_owned())].into(),
        tls: Some(NodeTls { issuer_subject: vec![1], issuer_public_key: vec![2], root_digest: vec![3] }),
        ..NodeDescription::default()
    };
    let status = NodeStatus {
        state: NodeState::Ready,
        message: "m".into(),
        addr: "10.0.0.1".into(),
        restarting_since: Timestamp(1),
        ..NodeStatus::default()
    };
    let node = Node {
        id: NodeId(Id(4)),
        meta: META,
        description,
        status,
        advertise_addr: "10.0.0.1:2377".into(),
        data_path_addr: "10.0.0.1".into(),
        ingress_addr: Some(Ipv4Addr::new(10, 255, 128, 1)),
        raft_id: 7,
        probe_addr: "10.0.0.1:9".into(),
        dropped: true,
        feature_level: 1,
        ..Node::default()
    };
    assert_eq!(Node::try_from(wire::Node::decode(&*bytes(NODE)).unwrap()).unwrap(), node);
    assert_eq!(hex(&wire::Node::from(&node).encode_to_vec()), NODE);
}
