//! What fuzzing begins with: samples of each format that are whole, or nearly so.

use std::sync::Arc;

use prost::Message as _;
use skep_api::{
    Id, NodeId, RequestId, ServiceId, TaskId, TaskState, Timestamp,
    object::{Cluster, Node, NodeStatus, Service, Task, TaskStatus},
    wire,
};
use skep_link::{Authority, JoinToken, Role, new_csr};
use skep_store::{Change, Follows, Guard, GuardKind, Proposal};

use crate::targets;

const NOW: i64 = 1_780_000_000;

const SERVICE: &str = r#"{"Name":"web","Labels":{"a":"b"},"TaskTemplate":{"ContainerSpec":{"Image":"busybox","Command":["a"],"Args":["b"],"Env":["A=b"],"Mounts":[{"Type":"volume","Source":"v","Target":"/v","VolumeOptions":{"NoCopy":true}},{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":4096}}],"StopGracePeriod":10000000000,"Healthcheck":{"Test":["CMD","x"],"Interval":1000000000,"Retries":3},"Sysctls":{"a":"b"},"CapabilityAdd":["CAP_NET_ADMIN"],"Ulimits":[{"Name":"nofile","Soft":1,"Hard":2}],"DNSConfig":{"Nameservers":["1.1.1.1"]}},"Resources":{"Limits":{"NanoCPUs":100000000,"MemoryBytes":8388608},"Reservations":{"GenericResources":[{"DiscreteResourceSpec":{"Kind":"a","Value":1}}]}},"RestartPolicy":{"Condition":"any","Delay":5000000000,"MaxAttempts":3},"Placement":{"Constraints":["node.role==worker"],"Preferences":[{"Spread":{"SpreadDescriptor":"node.labels.a"}}],"MaxReplicas":2},"Networks":[{"Target":"n","Aliases":["web"]}],"LogDriver":{"Name":"json-file","Options":{"max-size":"1m"}},"ForceUpdate":1},"EndpointSpec":{"Mode":"vip","Ports":[{"Protocol":"tcp","TargetPort":80,"PublishedPort":8080,"PublishMode":"host"}]},"Mode":{"Replicated":{"Replicas":3}},"UpdateConfig":{"Parallelism":1,"Delay":1000000000,"FailureAction":"rollback","Monitor":1,"MaxFailureRatio":0.25,"Order":"start-first"}}"#;
const NODE: &str = r#"{"Name":"n","Role":"manager","Availability":"drain","Labels":{"a":"b"}}"#;
const SWARM: &str = r#"{"Name":"default","Labels":{"a":"b"},"Orchestration":{"TaskHistoryRetentionLimit":5},"Raft":{"SnapshotInterval":10000,"KeepOldSnapshots":1,"LogEntriesForSlowFollowers":500,"ElectionTick":10,"HeartbeatTick":1},"Dispatcher":{"HeartbeatPeriod":5000000000},"CAConfig":{"NodeCertExpiry":7776000000000000,"ExternalCAs":[{"Protocol":"cfssl","URL":"https://a","CACert":"x"}],"ForceRotate":1},"TaskDefaults":{"LogDriver":{"Name":"x"}},"EncryptionConfig":{"AutoLockManagers":true}}"#;
const NETWORK: &str = r#"{"Name":"n","Driver":"overlay","Scope":"swarm","Ingress":true,"Attachable":true,"IPAM":{"Driver":"default","Config":[{"Subnet":"10.1.0.0/16","Gateway":"10.1.0.1","IPRange":"10.1.2.0/24"}]},"Options":{"encrypted":""},"Labels":{"a":"b"}}"#;
const INIT: &str = r#"{"ListenAddr":"0.0.0.0:2377","AdvertiseAddr":"eth0","DataPathPort":4789,"Availability":"active","DefaultAddrPool":["10.0.0.0/8"],"SubnetSize":24,"Spec":{"Name":"default"},"AutoLockManagers":true}"#;

/// Takes a target's name, a seed's, and the seed.
pub(crate) type Write<'a> = dyn FnMut(&str, &str, &[u8]) + 'a;

/// Gives all of them.
pub(crate) fn all(write: &mut Write<'_>) {
    entries(write);
    credentials(write);
    write("state", "one-of-each", &targets::written(&targets::store()));
    for (name, spec) in
        [("service", SERVICE), ("node", NODE), ("swarm", SWARM), ("network", NETWORK), ("init", INIT)]
    {
        write("spec", name, spec.as_bytes());
    }
    let put = wire::Assignment {
        spec: br#"{"ContainerSpec":{"Image":"a"}}"#.to_vec(),
        ..wire::Assignment::default()
    };
    let set = wire::AssignmentSet {
        complete: true,
        results_in: 9,
        put: vec![put],
        ..wire::AssignmentSet::default()
    };
    let message = wire::ManagerMessage { message: Some(wire::manager_message::Message::Assignments(set)) };
    write("stream", "set", &[&[1], &*message.encode_to_vec()].concat());
    let report = wire::StatusReport { task_id: vec![1; 16], status: Some((&TaskStatus::default()).into()) };
    let batch = wire::StatusBatch { sequence: 1, reports: vec![report], clock: 1 };
    let message = wire::AgentMessage { message: Some(wire::agent_message::Message::Statuses(batch)) };
    write("stream", "statuses", &[&[0], &*message.encode_to_vec()].concat());
    for what in 0..16 {
        for target in ["segment", "snapshot", "secret"] {
            write(target, &format!("damage-{what}"), &[what, 0, 18, 128, what, 9, 1, 3]);
        }
        write("keys", &format!("damage-{what}"), &[what, 0, 18, 0, 128]);
        write("backup", &format!("damage-{what}"), &[what & 6, what, 18, 0, 128]);
    }
    write("keys", "text", b"\x02skepkeys");
    write("backup", "text", b"\x01skepback\x01\0\0\0\x02\0\0\0{}");
    write("batches", "records", &[7, 6, 10, 4, 8, 1, 16, 0, 6, 5, 18, 3, 8, 1, 16, 7, 4, 3, 26, 1, 0]);
    write("pieces", "packed", &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x03, 0x19, 0x00, 0x00, 1, 2, 3]);
    write("message", "vote", &[1, 8, 1, 26, 4, 10, 2, 8, 3]);
    write("message", "append", &[1, 8, 1, 18, 14, 10, 2, 8, 3, 18, 0, 34, 6, 8, 1, 16, 1, 26, 0]);
    write("level", "one", b"1");
    write("level", "two", b" 2\n");
}

/// With its length before it.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("it is short");
    [&len.to_le_bytes(), bytes].concat()
}

/// Each after those before it.
fn entries(write: &mut Write<'_>) {
    let store = targets::store();
    let view = store.view();
    let service = view.service(ServiceId(Id(1))).expect("it is there").clone();
    let task = view.task(TaskId(Id(4))).expect("it is there").clone();
    let running = TaskStatus { state: TaskState::Running, timestamp: Timestamp(9), ..TaskStatus::default() };
    let spec = Arc::new(serde_json::from_str(SERVICE).expect("a spec"));
    let node = Node { id: NodeId(Id(9)), raft_id: 1, feature_level: 1, ..Node::default() };
    let changes = [
        ("service", vec![Change::PutService(Arc::new(Service { spec, ..(*service).clone() }))]),
        ("task", vec![Change::PutTask(Arc::new(Task { node_id: Some(NodeId(Id(3))), ..(*task).clone() }))]),
        ("second", vec![Change::PutTask(Arc::new(Task::new(TaskId(Id(5)), &service, 2)))]),
        (
            "status",
            vec![
                Change::TaskStatus(task.id, running),
                Change::NodeStatus(NodeId(Id(3)), NodeStatus::default()),
            ],
        ),
        ("node", vec![Change::PutNode(Arc::new(node))]),
        ("level", vec![Change::PutCluster(Arc::new(Cluster { feature_level: 1, ..Cluster::default() }))]),
        (
            "gone",
            vec![
                Change::DeleteTask(task.id),
                Change::DeleteService(service.id),
                Change::DeleteNode(NodeId(Id(3))),
            ],
        ),
    ];
    let mut all = Vec::new();
    for (n, (name, changes)) in (7..).zip(changes) {
        let proposal = Proposal {
            request: Some(RequestId(Id(n))),
            guards: vec![Guard { kind: GuardKind::Service, id: service.id.0, version: service.meta.version }],
            follows: vec![Follows {
                kind: GuardKind::Task,
                id: task.id.0,
                request: RequestId(Id(6)),
                back: 0,
            }],
            changes,
            now: Timestamp(5),
        };
        write("proposal", &format!("{name}-follows"), &sized(&proposal.encode()));
        let proposal = Proposal { follows: Vec::new(), guards: Vec::new(), ..proposal };
        write("proposal", name, &sized(&proposal.encode()));
        all.extend(sized(&proposal.encode()));
    }
    write("proposal", "all", &all);
}

fn credentials(write: &mut Write<'_>) {
    let authority = Authority::generate(NOW).expect("the system gives randomness");
    let (csr, key) = new_csr().expect("the system gives randomness");
    let cert = authority.sign_node(&csr, "node", Role::Worker, "cluster", NOW).expect("signed");
    let token = JoinToken::new(authority.cert_pem(), &JoinToken::generate_secret());
    write("token", "token", token.to_string().as_bytes());
    write("unlock", "key", b"SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8");
    let root = authority.cert_pem();
    write("csr", "text", csr.as_bytes());
    write("csr", "der", &inside(&csr));
    write("pem", "node", format!("{cert}\0{key}\0{root}").as_bytes());
    write("pem", "root", format!("{root}\0{}", authority.key_pem()).as_bytes());
    let parts = |texts: [&str; 3]| texts.map(|text| sized(&inside(text))).concat();
    write("der", "node", &parts([&cert, &key, root]));
    write("der", "root", &parts([root, authority.key_pem(), root]));
}

/// Of a PEM text.
fn inside(pem: &str) -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(text).expect("base64")
}
