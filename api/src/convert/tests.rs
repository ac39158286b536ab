//! What is stored comes back whole.

use std::sync::Arc;

use super::*;
use crate::{
    Id, NodeId, Secret, ServiceId, TaskId, TaskState, TicketId,
    object::{
        CaRotation, Cluster, GenericResource, JobRun, Node, NodeDescription, NodeState, NodeStatus, NodeTls,
        PastSpec, Plugin, Revocation, Service, Task, TaskExtra, Ticket, TicketUse, UpdateState, UpdateStatus,
    },
    spec::{Role, ServiceSpec},
};

fn spec(name: &str) -> Arc<ServiceSpec> {
    Arc::new(ServiceSpec { name: name.into(), ..ServiceSpec::default() })
}

fn generic() -> Vec<GenericResource> {
    vec![
        GenericResource::Named { kind: "gpu".into(), value: "a".into() },
        GenericResource::Discrete { kind: "ssd".into(), amount: 3 },
    ]
}

#[test]
fn what_certificates_stand_on_is_stored_whole() {
    let rotation = CaRotation { cert_pem: "c".into(), key_pem: "k".into(), cross_pem: "x".into() };
    let cluster = Cluster {
        ca_cert_pem: "root".into(),
        ca_cross_pem: "cross".into(),
        ca_rotation: Some(rotation),
        ca_forced: 7,
        ..Cluster::default()
    };
    assert!(!format!("{cluster:?} {:?}", cluster.ca_rotation).contains("\"k\""));
    assert_eq!(Cluster::try_from(wire::Cluster::from(&cluster)).unwrap(), cluster);
}

#[test]
fn a_service_is_stored_whole() {
    let update = UpdateStatus {
        state: UpdateState::Paused,
        started_at: Timestamp(1),
        completed_at: Some(Timestamp(2)),
        message: "m".into(),
        slots: 3,
        failed: 2,
        paused_by_user: true,
    };
    let past = PastSpec {
        spec: spec("past"),
        spec_version: 3,
        registry_auth: Secret::new(b"past".to_vec()),
        at: Timestamp(4),
    };
    let run = JobRun { iteration: 1, started: Timestamp(2), ended: Timestamp(3), completed: 4, failed: 5 };
    let service = Service {
        id: ServiceId(Id(1)),
        meta: Meta { version: 9, created_at: Timestamp(1), updated_at: Timestamp(2) },
        spec: spec("now"),
        previous_spec: Some(spec("before")),
        spec_version: 8,
        previous_spec_version: 7,
        ports: vec![PortConfig {
            protocol: "tcp".into(),
            publish_mode: "host".into(),
            ..PortConfig::default()
        }]
        .into(),
        update_status: Some(update),
        registry_auth: Secret::new(b"now".to_vec()),
        previous_registry_auth: Secret::new(b"before".to_vec()),
        updates: 6,
        job_iteration: 2,
        last_execution: Timestamp(5),
        history: vec![past].into(),
        runs: vec![run].into(),
        cron_last: Timestamp(6),
        balance_asked: Timestamp(7),
        auth_version: 8,
    };
    assert_eq!(Service::try_from(wire::Service::from(&service)).unwrap(), service);
    assert!(!format!("{service:?}").contains("past\", at"), "credentials are never printed");
}

#[test]
fn a_task_is_stored_whole_and_most_have_nothing_extra() {
    let service = Service { id: ServiceId(Id(1)), spec: spec("now"), ..Service::default() };
    let plain = Task::new(TaskId(Id(2)), &service, u64::MAX);
    assert_eq!(task_in(wire::Task::from(&plain), spec("now")).unwrap(), plain);
    let extra = TaskExtra {
        for_node: Some(NodeId(Id(3))),
        job_iteration: 4,
        beside: Some(TaskId(Id(5))),
        given: generic(),
        restarts: 6,
        moved_from: Some(NodeId(Id(7))),
        failures: vec![(NodeId(Id(8)), Timestamp(9)), (NodeId(Id(7)), Timestamp(10))],
        room_for: Some(TaskId(Id(11))),
    };
    let task = Task {
        desired_state: TaskState::Complete,
        update: 7,
        not_before: Timestamp(8),
        extra: Some(Box::new(extra)),
        ..plain
    };
    assert_eq!(task_in(wire::Task::from(&task), spec("now")).unwrap(), task);
    // A million of them are kept: what few need is behind a pointer.
    assert!(size_of::<Task>() <= 272, "{} bytes", size_of::<Task>());
}

#[test]
fn a_node_is_stored_whole() {
    let tls = NodeTls { issuer_subject: vec![1], issuer_public_key: vec![2], root_digest: vec![3] };
    let description = NodeDescription {
        hostname: "n1".into(),
        tls: Some(tls),
        generic: generic(),
        plugins: vec![Plugin { kind: "Network".into(), name: "overlay".into() }],
        ..NodeDescription::default()
    };
    let status = NodeStatus {
        state: NodeState::Down,
        message: "m".into(),
        addr: "10.0.0.1".into(),
        restarting_since: Timestamp(1),
        since: Timestamp(2),
    };
    let node = Node { id: NodeId(Id(1)), description: description.clone(), status, ..Node::default() };
    assert_eq!(Node::try_from(wire::Node::from(&node)).unwrap(), node);
    let old = description.clone().at_level(1);
    assert!(old.generic.is_empty() && old.plugins.is_empty() && old.tls.is_some());
    assert_eq!(description.clone().at_level(2), description);
}

#[test]
fn a_ticket_is_stored_whole() {
    let ticket = Ticket {
        id: TicketId(Id(1)),
        digest: vec![1, 2],
        role: Role::Manager,
        expires_at: Timestamp(3),
        uses_left: Some(0),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        revoked: Some(Revocation::NewRoot),
        uses: vec![TicketUse { request: vec![9; 32], node: NodeId(Id(3)), at: Timestamp(4) }],
        ..Ticket::default()
    };
    assert_eq!(Ticket::try_from(wire::Ticket::from(&ticket)).unwrap(), ticket);
    let endless = Ticket { uses_left: None, ..ticket };
    assert_eq!(Ticket::try_from(wire::Ticket::from(&endless)).unwrap(), endless);
}
